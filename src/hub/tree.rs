//! The file list of a commit, with the hash of each file: from the Hub's tree endpoint, and
//! from and to the `trees/<commit>.json` that huggingface_hub keeps in the shared cache.
//!
//! Parsed here and not by hf-hub, which reads the LFS hash from a key that the Hub does not send.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use crate::fsio;
use crate::hash::Hash;
use crate::name::{escape, is_safe_relative_path};

/// The largest `trees/<commit>.json` read back.
const TREE_JSON_CAP_BYTES: u64 = 64 << 20;
/// More than the Hub stores as one file; sums over [`TREE_FILES_MAX`] of them do not overflow.
const FILE_BYTES_MAX: u64 = 1 << 44;
/// More files than any checkpoint or task set has.
pub(super) const TREE_FILES_MAX: usize = 200_000;
/// More pages than a list of that length has, even of a hundred files each.
pub(super) const TREE_PAGES_MAX: usize = 4_000;

/// One file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// Path inside the repository, checked to stay inside a folder that it is joined to.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// The hash of its content: SHA-256 for LFS, git's for the rest. Also the blob's name.
    pub hash: Hash,
    /// The git object, which for LFS is the pointer file's.
    pub git_oid: String,
    /// The Xet hash, for files stored there.
    pub xet_hash: Option<String>,
}

impl TreeFile {
    /// Reads a list as the tree endpoint gives it in one page: sorted, no path twice.
    ///
    /// # Errors
    /// [`Error::Protocol`], [`Error::UnsafePath`].
    pub fn parse_list(repo: &str, body: &[u8]) -> Result<Vec<Self>> {
        finish(repo, parse_page(repo, body)?)
    }

    /// Reads a `trees/<commit>.json`; `None` when it is not fit to be trusted.
    #[must_use]
    pub fn parse_kept_list(bytes: &[u8]) -> Option<Vec<Self>> {
        parse_kept(bytes)
    }
}

/// Reads one page of the tree endpoint; folders are left out.
pub(super) fn parse_page(repo: &str, body: &[u8]) -> Result<Vec<TreeFile>> {
    let bad = |why: String| Error::Protocol { what: format!("the file list of {repo}"), why };
    let entries: Vec<Value> =
        serde_json::from_slice(body).map_err(|e| bad(format!("not a JSON array: {e}")))?;
    let mut files = Vec::with_capacity(entries.len());
    for entry in &entries {
        match entry["type"].as_str() {
            Some("file") => files.push(parse_entry(repo, entry)?),
            Some("directory") => {}
            _ => return Err(bad("an entry is neither file nor directory".into())),
        }
    }
    Ok(files)
}

fn parse_entry(repo: &str, entry: &Value) -> Result<TreeFile> {
    let path = entry["path"].as_str().unwrap_or_default();
    check_path(repo, path)?;
    let bad = |why: &str| Error::Protocol {
        what: format!("the file list of {repo}"),
        why: format!("{}: {why}", escape(path)),
    };
    let git_oid = entry["oid"].as_str().ok_or_else(|| bad("no oid"))?;
    let (hash, size) = match &entry["lfs"] {
        Value::Null => (Hash::from_hex(git_oid), entry["size"].as_u64()),
        // `oid` on the tree endpoint; servers that copy the info endpoint say `sha256`.
        lfs => {
            let oid = lfs["oid"].as_str().or_else(|| lfs["sha256"].as_str()).unwrap_or_default();
            let oid = oid.strip_prefix("sha256:").unwrap_or(oid);
            (Hash::from_hex(oid), lfs["size"].as_u64().or_else(|| entry["size"].as_u64()))
        }
    };
    let hash = hash.ok_or_else(|| bad("its oid is no hash"))?;
    if matches!(hash, Hash::GitSha1(_)) != entry["lfs"].is_null() {
        return Err(bad("its oid is of the wrong kind"));
    }
    let size = size.ok_or_else(|| bad("no size"))?;
    if size > FILE_BYTES_MAX {
        return Err(bad("a size that no file has"));
    }
    Ok(TreeFile {
        path: path.to_owned(),
        size,
        hash,
        git_oid: git_oid.to_owned(),
        xet_hash: entry["xetHash"].as_str().map(str::to_owned),
    })
}

fn check_path(repo: &str, path: &str) -> Result<()> {
    // `.cache` is where a local folder keeps its own records: a repository may not plant them.
    if is_safe_relative_path(path) && !path.starts_with(".cache/huggingface/") {
        return Ok(());
    }
    Err(Error::UnsafePath { repo: repo.to_owned(), path: escape(path) })
}

/// Sorts a whole list by path and refuses one that names a file twice.
pub(super) fn finish(repo: &str, mut files: Vec<TreeFile>) -> Result<Vec<TreeFile>> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let is_file = |path: &str| files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok();
    let folders = |file: &TreeFile| -> Option<String> {
        let mut ends = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
        ends.find(|folder| is_file(folder)).map(str::to_owned)
    };
    if let Some(both) = files.iter().find_map(folders) {
        return Err(Error::Protocol {
            what: format!("the file list of {repo}"),
            why: format!("{both} is both a file and a folder"),
        });
    }
    match files.array_windows().find(|[a, b]| a.path == b.path) {
        Some([twice, _]) => Err(Error::Protocol {
            what: format!("the file list of {repo}"),
            why: format!("{} is listed twice", twice.path),
        }),
        None => Ok(files),
    }
}

/// Writes the list as huggingface_hub does (format version 1).
pub(super) fn write_json(path: &Path, files: &[TreeFile]) -> Result<()> {
    let mut map = Map::new();
    for file in files {
        let mut entry = json!({"size": file.size, "blob_id": file.git_oid});
        if let Hash::Sha256(_) = file.hash {
            entry["lfs_sha256"] = file.hash.hex().into();
            entry["lfs_size"] = file.size.into();
        }
        if let Some(xet) = &file.xet_hash {
            entry["xet_hash"] = xet.as_str().into();
        }
        map.insert(file.path.clone(), entry);
    }
    let document = json!({"format_version": 1, "files": map});
    Ok(fsio::write_atomic(path, format!("{document:#}").as_bytes())?)
}

/// Reads such a list back; `None` when there is none or it is not fit to be trusted.
pub(super) fn read_json(path: &Path) -> Option<Vec<TreeFile>> {
    parse_kept(&fsio::read_capped(path, TREE_JSON_CAP_BYTES).ok()?)
}

fn parse_kept(bytes: &[u8]) -> Option<Vec<TreeFile>> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    if document["format_version"] != 1 {
        return None;
    }
    let mut files = Vec::new();
    for (path, entry) in document["files"].as_object()? {
        let git_oid = entry["blob_id"].as_str()?;
        check_path("", path).ok()?;
        files.push(TreeFile {
            path: path.clone(),
            size: entry["size"].as_u64()?,
            hash: Hash::from_hex(entry["lfs_sha256"].as_str().unwrap_or(git_oid))?,
            git_oid: git_oid.to_owned(),
            xet_hash: entry["xet_hash"].as_str().map(str::to_owned),
        });
    }
    finish("", files).ok()
}

#[cfg(test)]
mod tests {
    use super::{Error, Hash, finish, parse_page, read_json, write_json};

    fn page(path: &str, extra: &str) -> String {
        let oid = "ab".repeat(20);
        format!(r#"[{{"type":"file","oid":"{oid}","size":9,"path":"{path}"{extra}}}]"#)
    }

    #[test]
    fn lfs_files_go_by_their_sha256_and_others_by_git() {
        let plain = parse_page("o/n", page("a.txt", "").as_bytes()).expect("parses");
        assert!(matches!(plain[0].hash, Hash::GitSha1(_)));
        let lfs = format!(r#","lfs":{{"oid":"{}","size":7,"pointerSize":1}}"#, "cd".repeat(32));
        let lfs = parse_page("o/n", page("m.bin", &lfs).as_bytes()).expect("parses");
        assert_eq!((lfs[0].size, lfs[0].hash.hex()), (7, "cd".repeat(32)));
    }

    #[test]
    fn hostile_lists_are_refused() {
        for path in ["../x", "/etc/passwd", "a\\\\b", "a/../b", "", ".cache/huggingface/x"] {
            let got = parse_page("o/n", page(path, "").as_bytes());
            assert!(matches!(got, Err(Error::UnsafePath { .. })), "{path}: {got:?}");
        }
        for body in ["{}", "[1]", r#"[{"type":"file","path":"a"}]"#, "<html>"] {
            assert!(parse_page("o/n", body.as_bytes()).is_err(), "{body}");
        }
        let short = page("a", r#","lfs":{"oid":"abcd","size":1}"#);
        assert!(parse_page("o/n", short.as_bytes()).is_err());
        let twice = parse_page("o/n", page("a", "").as_bytes()).expect("parses");
        assert!(finish("o/n", [twice.clone(), twice].concat()).is_err());
    }

    #[test]
    fn lists_survive_a_round_trip() {
        let lfs = format!(r#","lfs":{{"oid":"{}","size":7}},"xetHash":"x""#, "cd".repeat(32));
        let mut files = parse_page("o/n", page("m.bin", &lfs).as_bytes()).expect("parses");
        files.extend(parse_page("o/n", page("a/b.txt", "").as_bytes()).expect("parses"));
        let files = finish("o/n", files).expect("no doubles");
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("trees/x.json");
        write_json(&path, &files).expect("writes");
        assert_eq!(read_json(&path), Some(files));
    }
}
