//! How much disk the files of a sandbox take, measured while it runs.
//!
//! A plain folder has no quota, and a file system of its own would be memory. So the folder is
//! looked through now and then. What a process keeps open and has unlinked is not seen: a single
//! file is limited by a resource limit instead.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// Between two looks, at least.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Looking takes at most this part of the time.
const SHARE: u32 = 20;
/// No sane tree is deeper; what hides below counts as too much.
const DEPTH_MAX: usize = 256;

/// A folder and when it is looked through next.
#[derive(Debug)]
pub(super) struct Watch {
    folder: PathBuf,
    limit_bytes: Option<u64>,
    next: Instant,
}

impl Watch {
    pub fn new(folder: &Path, limit_bytes: Option<u64>) -> Self {
        Self { folder: folder.to_owned(), limit_bytes, next: Instant::now() + EVERY }
    }

    /// Returns the limit when it is time to look and the files take more.
    pub fn exceeded(&mut self) -> Option<u64> {
        let limit = self.limit_bytes?;
        let began = Instant::now();
        if began < self.next {
            return None;
        }
        // A folder that goes while it is looked through is the sandbox's own doing.
        let used = open(CWD, &self.folder).and_then(|dir| measure(dir, 0)).unwrap_or(0);
        self.next = Instant::now() + EVERY.max(began.elapsed() * SHARE);
        (used > limit).then_some(limit)
    }
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Sums up the blocks below a folder, no link followed; hard links share theirs.
fn measure(dir: OwnedFd, depth: usize) -> io::Result<u64> {
    if depth > DEPTH_MAX {
        return Ok(u64::MAX);
    }
    let mut sum = 0_u64;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if [b".".as_slice(), b".."].contains(&name.to_bytes()) {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        #[allow(clippy::unnecessary_cast, reason = "the types differ between machines")]
        let bytes = (stat.st_blocks as u64).saturating_mul(512) / (stat.st_nlink as u64).max(1);
        let below = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                open(dir.as_fd(), name).map_or(0, |fd| measure(fd, depth + 1).unwrap_or(0))
            }
            _ => bytes,
        };
        sum = sum.saturating_add(below);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::Watch;

    #[test]
    fn files_are_counted_once_and_links_not_followed() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let outside = tempfile::tempdir().expect("a temp dir");
        let write = |path: std::path::PathBuf, len| {
            crate::fsio::write_atomic(&path, &vec![1; len]).expect("writes")
        };
        write(outside.path().join("big"), 900_000);
        write(dir.path().join("a/b/c"), 100_000);
        std::fs::hard_link(dir.path().join("a/b/c"), dir.path().join("again")).expect("links");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).expect("links");
        let exceeded = |limit| {
            let mut watch = Watch::new(dir.path(), Some(limit));
            assert_eq!(watch.exceeded(), None, "not yet");
            watch.next = Instant::now();
            watch.exceeded()
        };
        assert_eq!(exceeded(300_000), None);
        assert_eq!(exceeded(90_000), Some(90_000));
        assert_eq!(Watch::new(dir.path(), None).exceeded(), None);
    }
}
