//! What a folder holds.

use std::io;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Lists what a folder holds, sorted.
///
/// # Errors
/// [`Error::Io`], also when the listing breaks off: what is missing must not look absent.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(dir).map_err(Error::io("list", dir))?;
    let paths: io::Result<Vec<PathBuf>> = list.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(Error::io("list", dir))?;
    paths.sort();
    Ok(paths)
}

/// Lists the files below a folder as sorted relative paths; links are listed, not followed.
///
/// # Errors
/// [`Error::Io`]; a name that is not UTF-8 is [`io::ErrorKind::InvalidFilename`].
pub fn files_below(dir: &Path) -> Result<Vec<String>> {
    let (names, faults) = list_below(dir);
    faults.into_iter().next().map_or(Ok(names), Err)
}

/// Lists what can be listed as [`files_below`] does: for folders that others write to as well,
/// where a missing folder is an empty one and a foreign name is nobody's business.
#[must_use]
pub fn readable_files_below(dir: &Path) -> Vec<String> {
    list_below(dir).0
}

fn list_below(dir: &Path) -> (Vec<String>, Vec<Error>) {
    let (mut names, mut faults) = (Vec::new(), Vec::new());
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let at = dir.join(&folder);
        let entries = match std::fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(error) => {
                faults.push(Error::io("list", &at)(error));
                continue;
            }
        };
        for entry in entries {
            match entry.and_then(|entry| name_and_type(&entry)) {
                Ok((name, kind)) => {
                    let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                    if kind.is_dir() { folders.push(path) } else { names.push(path) }
                }
                Err(error) => faults.push(Error::io("list", &at)(error)),
            }
        }
    }
    names.sort_unstable();
    (names, faults)
}

fn name_and_type(entry: &std::fs::DirEntry) -> io::Result<(String, std::fs::FileType)> {
    let name = entry.file_name().into_string();
    Ok((name.map_err(|_| io::ErrorKind::InvalidFilename)?, entry.file_type()?))
}

#[cfg(test)]
mod tests {
    use super::{entries, files_below, readable_files_below};
    use crate::fsio::write_atomic;

    #[test]
    fn files_are_listed_strictly_or_as_far_as_they_can_be() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().expect("a temp dir");
        for name in ["b", "a/z", "a/y"] {
            write_atomic(&dir.path().join(name), b"").expect("writes");
        }
        std::os::unix::fs::symlink("/", dir.path().join("a/link")).expect("links");
        let want = ["a/link", "a/y", "a/z", "b"];
        assert_eq!(files_below(dir.path()).expect("lists"), want);
        assert_eq!(entries(dir.path()).expect("lists"), ["a", "b"].map(|n| dir.path().join(n)));
        assert_eq!(readable_files_below(dir.path()), want);
        let foreign = std::ffi::OsStr::from_bytes(b"a/\xff");
        std::fs::write(dir.path().join(foreign), "").expect("writes");
        assert!(files_below(dir.path()).is_err());
        assert_eq!(readable_files_below(dir.path()), want);
        let missing = dir.path().join("none");
        assert!(files_below(&missing).is_err() && entries(&missing).is_err());
        assert!(readable_files_below(&missing).is_empty());
    }
}
