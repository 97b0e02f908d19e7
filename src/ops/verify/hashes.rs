//! Files against the hashes that the Hub or a `SHA256SUMS` file vouches for.

use std::io::Read as _;
use std::path::Path;

use rayon::prelude::*;

use super::{Check, Finding, HashedFile, Report};
use crate::error::Result;
use crate::fsio;
use crate::name::{escape, is_safe_relative_path};
use crate::progress::{Progress, Unit};
use crate::units::hex;

const SUMS_FILE: &str = "SHA256SUMS";
const SUMS_LEN_MAX: u64 = 1 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// A hash in lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileHash {
    /// SHA-256 of the content: LFS files, `SHA256SUMS`.
    Sha256(String),
    /// Git's hash of a blob: SHA-1 of a header with the length, and the content.
    GitBlob(String),
}

/// What someone says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedFile {
    /// The file's path in the checkpoint.
    pub name: String,
    /// Its size, if it is known.
    pub len_bytes: Option<u64>,
    /// Its hash.
    pub hash: FileHash,
    /// Who says so, for people.
    pub source: &'static str,
}

/// Reads `SHA256SUMS`, if the folder has one, in the form of coreutils.
pub(super) fn read_sums(dir: &Path, findings: &mut Vec<Finding>) -> Result<Vec<ExpectedFile>> {
    let path = dir.join(SUMS_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fsio::read_capped(&path, SUMS_LEN_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    let (sums, wrong) = parse_sums(&text);
    findings.extend(wrong.iter().map(|line| {
        let message = format!("`{}` is not a line of sha256sum", escape(line));
        Finding::error(Check::Hash, SUMS_FILE, message)
    }));
    Ok(sums)
}

/// Reads the text of a `SHA256SUMS`; returns the files, whose names stay inside their folder, and
/// the lines that name none.
#[must_use]
pub fn parse_sums(text: &str) -> (Vec<ExpectedFile>, Vec<&str>) {
    let mut sums = Vec::new();
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match parse_sum(line) {
            Some(sum) => sums.push(sum),
            None => wrong.push(line),
        }
    }
    (sums, wrong)
}

fn parse_sum(line: &str) -> Option<ExpectedFile> {
    let (digest, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*'])?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    (is_digest && is_safe_relative_path(name)).then(|| ExpectedFile {
        name: name.to_owned(),
        len_bytes: None,
        hash: FileHash::Sha256(digest.to_ascii_lowercase()),
        source: SUMS_FILE,
    })
}

/// Reads what the Hub said from the cache's own layout: the files of a snapshot are links to
/// blobs, which are named by their hash.
pub(super) fn cached_hashes(dir: &Path) -> Vec<ExpectedFile> {
    let mut files: Vec<ExpectedFile> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            let in_blobs = target.parent()?.file_name()? == "blobs";
            let digest = target.file_name()?.to_str().filter(|_| in_blobs)?.to_owned();
            let hash = match (digest.len(), digest.bytes().all(|b| b.is_ascii_hexdigit())) {
                (64, true) => FileHash::Sha256(digest),
                (40, true) => FileHash::GitBlob(digest),
                _ => return None,
            };
            let name = path.file_name()?.to_str()?.to_owned();
            Some(ExpectedFile { name, len_bytes: None, hash, source: "Hub" })
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// Hashes every file that `expected` names, several at once.
pub(super) fn check(
    dir: &Path,
    expected: &[ExpectedFile],
    report: &mut Report,
    progress: &dyn Progress,
) {
    let size = |file: &ExpectedFile| dir.join(&file.name).metadata().map_or(0, |m| m.len());
    progress.start("hash", expected.iter().map(size).sum(), Unit::Bytes);
    let results: Vec<(HashedFile, Option<Finding>)> =
        expected.par_iter().map(|file| check_file(dir, file, size(file), progress)).collect();
    progress.finish();
    for (hashed, finding) in results {
        report.hashed.push(hashed);
        report.findings.extend(finding);
    }
    report.hashed.sort_by(|a, b| (&a.name, &a.source).cmp(&(&b.name, &b.source)));
}

fn check_file(
    dir: &Path,
    file: &ExpectedFile,
    len_bytes: u64,
    progress: &dyn Progress,
) -> (HashedFile, Option<Finding>) {
    let name = escape(&file.name);
    let fault = fault_of(dir, file, len_bytes, progress);
    let matches = fault.is_none();
    let finding = fault.map(|message| Finding::error(Check::Hash, name.clone(), message));
    (HashedFile { name, len_bytes, source: file.source.to_owned(), matches }, finding)
}

fn fault_of(
    dir: &Path,
    file: &ExpectedFile,
    len_bytes: u64,
    progress: &dyn Progress,
) -> Option<String> {
    let path = dir.join(&file.name);
    if !is_safe_relative_path(&file.name) || !path.is_file() {
        return Some(format!("is missing ({})", file.source));
    }
    if let Some(wanted) = file.len_bytes.filter(|wanted| *wanted != len_bytes) {
        return Some(format!("has {len_bytes} bytes, expected {wanted} ({})", file.source));
    }
    progress.item_start(&file.name, len_bytes);
    let (kind, wanted, got) = match &file.hash {
        FileHash::Sha256(wanted) => {
            ("sha256", wanted, hash_file::<sha2::Sha256>(&path, &[], file, progress))
        }
        FileHash::GitBlob(wanted) => {
            let head = format!("blob {len_bytes}\0");
            ("git hash", wanted, hash_file::<sha1::Sha1>(&path, head.as_bytes(), file, progress))
        }
    };
    match got {
        Ok(got) if got == *wanted => {
            progress.item_done(&file.name, "verified");
            None
        }
        Ok(got) => {
            progress.item_done(&file.name, "FAILED");
            let short = |text: &str| text.chars().take(12).collect::<String>();
            Some(format!("{kind} {}… ≠ {}… ({})", short(&got), short(wanted), file.source))
        }
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

fn hash_file<D: sha2::Digest>(
    path: &Path,
    head: &[u8],
    file: &ExpectedFile,
    progress: &dyn Progress,
) -> std::io::Result<String> {
    let (mut input, _) = fsio::open_regular(path).map_err(std::io::Error::other)?;
    let mut hasher = D::new();
    hasher.update(head);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let got = input.read(&mut buffer)?;
        if got == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..got]);
        progress.advance(&file.name, got as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::{ExpectedFile, FileHash, check, parse_sum, read_sums};
    use crate::ops::verify::Report;
    use crate::progress::Silent;

    #[test]
    fn sums_are_read_as_sha256sum_writes_them() {
        let digest = "a".repeat(64);
        for line in [format!("{digest}  x.json"), format!("{digest} *./x.json")] {
            assert_eq!(parse_sum(&line).expect("a line").name, "x.json");
        }
        for bad in [format!("{digest}  ../x"), format!("{digest}  /x"), "abc  x".into()] {
            assert!(parse_sum(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn hashes_of_both_kinds_are_compared() {
        let dir = tempfile::tempdir().expect("a temp dir");
        std::fs::write(dir.path().join("x"), "hello\n").expect("writes");
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let file =
            |hash, len_bytes| ExpectedFile { name: "x".into(), len_bytes, hash, source: "Hub" };
        let good = [
            file(FileHash::Sha256(sha256.into()), Some(6)),
            file(FileHash::GitBlob(git.into()), None),
        ];
        let mut report = Report::default();
        check(dir.path(), &good, &mut report, &Silent);
        assert_eq!((report.findings.len(), report.hashed.len()), (0, 2));
        let bad = [
            file(FileHash::Sha256(git.into()), None),
            file(FileHash::GitBlob(sha256.into()), None),
            file(FileHash::Sha256(sha256.into()), Some(7)),
            ExpectedFile { name: "y".into(), ..good[0].clone() },
        ];
        check(dir.path(), &bad, &mut report, &Silent);
        let messages: Vec<&str> = report.findings.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "sha256 5891b5b522d5… ≠ ce013625030b… (Hub)",
                "git hash ce013625030b… ≠ 5891b5b522d5… (Hub)",
                "has 6 bytes, expected 7 (Hub)",
                "is missing (Hub)",
            ]
        );
    }

    #[test]
    fn a_bad_line_is_a_finding() {
        let dir = tempfile::tempdir().expect("a temp dir");
        std::fs::write(dir.path().join("SHA256SUMS"), "nonsense\n").expect("writes");
        let mut findings = Vec::new();
        assert!(read_sums(dir.path(), &mut findings).expect("reads").is_empty());
        assert_eq!(findings.len(), 1);
    }
}
