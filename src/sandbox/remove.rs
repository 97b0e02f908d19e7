//! Removing what ran in a sandbox left behind, whatever it made of it.
//!
//! A tree may be deeper than a stack or the table of open files, and closed to its owner. So no
//! folder is entered below the second level: what it holds is moved up first.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::folder;

/// So many names are held in memory.
const NAMES_AT_ONCE: usize = 10_000;
/// How often a folder may turn out not to be empty, because what is being killed still writes.
const TRIES: u32 = 500;
/// Between such tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Removes what stands at `path`, no link followed. That there is nothing is fine.
///
/// # Errors
/// The system refuses, or somebody goes on writing there.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    remove(CWD, path, Duration::MAX)
        .map_err(Error::io(format!("remove the sandbox's files at {}", path.display())))
}

/// As [`remove_tree`], below a folder that is open. Where processes still run, they may add files
/// as fast as they are removed: what is not gone after `patience` is not empty.
pub(super) fn remove(
    at: impl AsFd,
    path: &Path,
    patience: Duration,
) -> std::result::Result<(), Errno> {
    let began = Instant::now();
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
    if unlink(at.as_fd(), &name)? {
        return Ok(());
    }
    let top = folder::open(at.as_fd(), &name, Mode::RWXU)?.fd;
    let (mut moved, mut tries) = (0_u64, 0);
    loop {
        let names = some_names(&top)?;
        let done = if names.is_empty() {
            rustix::fs::unlinkat(at.as_fd(), &name, AtFlags::REMOVEDIR)
        } else {
            names.iter().try_for_each(|name| match began.elapsed() > patience {
                true => Err(Errno::NOTEMPTY),
                false => take_apart(&top, name, &mut moved),
            })
        };
        match done {
            Ok(()) if names.is_empty() => return Ok(()),
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if tries < TRIES && began.elapsed() < patience => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes an entry of `top`, or much of it. The folders in a folder go up to `top` and are met
/// there again.
fn take_apart(top: &OwnedFd, name: &CStr, moved: &mut u64) -> std::result::Result<(), Errno> {
    if unlink(top.as_fd(), name)? {
        return Ok(());
    }
    let folder = folder::open(top, name, Mode::RWXU)?.fd;
    let names = some_names(&folder)?;
    for inner in &names {
        if !unlink(folder.as_fd(), inner)? {
            // Who moves a folder must be allowed to write in it.
            drop(folder::open(&folder, inner, Mode::RWXU)?);
            move_up(&folder, inner, top, moved)?;
        }
    }
    // Else it is met again with the rest of its names.
    if names.len() < NAMES_AT_ONCE {
        rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
    } else {
        Ok(())
    }
}

/// Returns names in a folder, not all if there are very many.
fn some_names(folder: &OwnedFd) -> std::result::Result<Vec<CString>, Errno> {
    folder::names(folder)?.take(NAMES_AT_ONCE).collect()
}

/// Removes an entry that is no folder; says whether it is gone.
fn unlink(at: BorrowedFd<'_>, name: &CStr) -> std::result::Result<bool, Errno> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error),
    }
}

fn move_up(
    folder: &OwnedFd,
    name: &CStr,
    top: &OwnedFd,
    moved: &mut u64,
) -> std::result::Result<(), Errno> {
    loop {
        *moved += 1;
        let free = CString::new(format!("moved-{moved}")).expect("has no zero byte");
        match rustix::fs::renameat(folder, name, top, &free) {
            // The name is taken. An empty folder of this name is replaced, which removes it.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, Mode, OFlags};

    use super::{remove, remove_tree};

    fn close(path: &Path) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).expect("sets");
    }

    #[test]
    fn closed_folders_go_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
        for path in [tree.join("a/b/c"), tree.join("moved-1/b"), kept.join("file")] {
            crate::fsio::write_atomic(&path, b"x").expect("writes");
        }
        symlink(&kept, tree.join("a/link")).expect("links");
        symlink(&kept, tree.join("link")).expect("links");
        for name in ["a/b", "a", "moved-1"] {
            close(&tree.join(name));
        }
        remove_tree(&tree).expect("removes");
        assert!(!tree.exists() && kept.join("file").is_file());
        remove_tree(&tree).expect("is fine");
    }

    /// Deeper than the stack of a thread and than the table of open files.
    #[test]
    fn trees_are_removed_however_deep() {
        // In memory: a disk may take milliseconds for each folder that goes.
        let memory = Path::new("/dev/shm");
        let fast = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::tempdir_in(fast).expect("a temp dir");
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).expect("makes");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::openat(CWD, &tree, flags, Mode::empty()).expect("opens");
        for _ in 0..30_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("makes");
            at = rustix::fs::openat(&at, "d", flags, Mode::empty()).expect("opens");
        }
        remove_tree(&tree).expect("removes");
        assert!(!tree.exists());
    }

    #[test]
    fn who_adds_files_for_ever_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let inner = dir.path().join("tree/inner");
        let stop = std::sync::atomic::AtomicBool::new(false);
        let add = || {
            for at in 0_u64.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let _ = std::fs::create_dir_all(&inner);
                let _ = std::fs::File::create(inner.join(at.to_string()));
            }
        };
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(add);
            let _ = remove(CWD, &dir.path().join("tree"), Duration::from_millis(200));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(began.elapsed() < Duration::from_secs(60));
        remove_tree(&dir.path().join("tree")).expect("removes");
        assert!(!dir.path().join("tree").exists());
    }
}
