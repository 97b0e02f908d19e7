//! Copies between the host and a sandbox's root folder while untrusted processes may run in it.
//!
//! Every step goes through folder descriptors and never follows a symbolic link out of the root
//! (`openat2` with `RESOLVE_IN_ROOT`, then `O_NOFOLLOW`), so that a link planted inside cannot
//! make the host read or write its own files.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::error::Error;
use super::folder;
use super::remove::remove;

/// Folders nested deeper than this are not walked.
const DEPTH_MAX: usize = 128;
/// No file larger than this is copied out.
const FILE_OUT_BYTES_MAX: u64 = 64 << 20;

/// Removing what is in the way, while processes may run, takes no longer.
const REMOVAL_MAX: Duration = Duration::from_secs(60);

const FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Whose fault it is that a copy fails.
#[derive(Debug)]
pub(super) enum Fault {
    /// This machine's: its files, its disk.
    Host(io::Error),
    /// What ran in the sandbox left something that is in the way.
    Inside(io::Error),
}

type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// Returns the sandbox's error about a path inside.
    pub(super) fn into_error(self, path: &str) -> Error {
        match self {
            Self::Host(source) => {
                let action = format!("copy between this machine and {path} in the sandbox");
                Error::Io { action, source }
            }
            Self::Inside(reason) => {
                Error::InTheWay { path: path.to_owned(), reason: reason.to_string() }
            }
        }
    }
}

impl From<io::Error> for Fault {
    /// Of an error about a path inside: what is full or broken is the machine's all the same.
    fn from(error: io::Error) -> Self {
        use rustix::io::Errno;
        match Errno::from_io_error(&error) {
            Some(
                Errno::ACCESS
                | Errno::PERM
                | Errno::NOENT
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::LOOP
                | Errno::EXIST
                | Errno::NOTEMPTY
                | Errno::NAMETOOLONG
                | Errno::XDEV
                | Errno::NXIO,
            ) => Self::Inside(error),
            _ => Self::Host(error),
        }
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// A sandbox's root as the host sees it.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: rustix::fs::open(path, FOLDER, Mode::empty())? })
    }

    /// Replaces `to` by a copy of the host's `from`.
    pub(super) fn copy_in(&self, from: &Path, to: &str) -> Result<()> {
        let (parent, name) = self.parent(to, Missing::Make)?;
        remove(&parent, &name, REMOVAL_MAX)?;
        write_tree(from, parent.as_fd(), &name, 0)
    }

    /// Copies `from` to the host's `to`, as far as what is there can be read, and returns how much
    /// of it cannot.
    pub(super) fn copy_out(&self, from: &str, to: &Path) -> Result<u64> {
        let copied = self
            .parent(from, Missing::Fail)
            .and_then(|(parent, name)| read_tree(parent.as_fd(), &name, to, 0));
        left_out(copied)
    }

    /// Makes `path` an empty folder.
    pub(super) fn empty_dir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path, Missing::Make)?;
        remove(&parent, &name, REMOVAL_MAX)?;
        Ok(rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o777))?)
    }

    /// Makes the folder `path` and its parents where they are missing.
    pub(super) fn make_dirs(&self, path: &str) -> Result<()> {
        if path.split('/').all(|name| name.is_empty() || name == ".") {
            return Ok(());
        }
        let (parent, name) = self.parent(path, Missing::Make)?;
        match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the folder of `path`, a path as seen inside.
    fn parent(&self, path: &str, missing: Missing) -> Result<(OwnedFd, PathBuf)> {
        let mut names: Vec<&str> = path.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
        if names.contains(&"..") {
            return Err(Fault::Host(io::ErrorKind::InvalidInput.into()));
        }
        let last = names.pop().ok_or_else(|| Fault::Host(io::ErrorKind::InvalidInput.into()))?;
        let mut so_far = PathBuf::from(".");
        for name in names {
            so_far.push(name);
            if missing == Missing::Make {
                self.make_dir(&so_far)?;
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok((self.resolve(&so_far, flags)?, last.into()))
    }

    fn make_dir(&self, path: &Path) -> Result<()> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let dir = self.resolve(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC)?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), how)?)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Fail,
}

/// Copies the host's `from` to `name` in `parent`; links are copied as links.
fn write_tree(from: &Path, parent: BorrowedFd<'_>, name: &Path, depth: usize) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if depth > DEPTH_MAX {
        return Err(Fault::Host(too_deep()));
    }
    let meta = from.symlink_metadata().map_err(Fault::Host)?;
    // Group and world may read, as in an image; only the executable bit is the file's own.
    let executable = meta.permissions().mode() & 0o111 != 0;
    if meta.is_dir() {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let dir = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
        for entry in std::fs::read_dir(from).map_err(Fault::Host)? {
            let entry = entry.map_err(Fault::Host)?;
            write_tree(&entry.path(), dir.as_fd(), Path::new(&entry.file_name()), depth + 1)?;
        }
        return Ok(());
    }
    if meta.is_symlink() {
        let target = std::fs::read_link(from).map_err(Fault::Host)?;
        return Ok(rustix::fs::symlinkat(target, parent, name)?);
    }
    if !meta.is_file() {
        return Err(Fault::Host(io::Error::other("neither a file nor a folder")));
    }
    let mode = if executable { 0o755 } else { 0o644 };
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    super::fork::writing(|| {
        let to = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))?;
        let copied = File::open(from).and_then(|mut from| io::copy(&mut from, &mut File::from(to)));
        copied.map(drop).map_err(Fault::Host)
    })
}

/// Copies `name` in `parent` to the host's `to`, and returns how many entries could not be read.
/// Links and devices are left out.
fn read_tree(parent: BorrowedFd<'_>, name: &Path, to: &Path, depth: usize) -> Result<u64> {
    use std::io::Read as _;
    if depth > DEPTH_MAX {
        return Err(Fault::Inside(too_deep()));
    }
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            std::fs::create_dir_all(to).map_err(Fault::Host)?;
            let dir = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
            let mut unread = 0;
            for child in children(&dir)? {
                unread += left_out(read_tree(dir.as_fd(), &child, &to.join(&child), depth + 1))?;
            }
            Ok(unread)
        }
        FileType::RegularFile => {
            // Without NONBLOCK, a pipe put in its place meanwhile would hold us up.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
            if !file.metadata()?.is_file() {
                return Ok(0);
            }
            let copy = File::options().write(true).create(true).truncate(true).open(to);
            let copied =
                copy.and_then(|mut to| io::copy(&mut file.take(FILE_OUT_BYTES_MAX), &mut to));
            copied.map(|_| 0).map_err(Fault::Host)
        }
        _ => Ok(0),
    }
}

/// Counts what could not be read because of what ran inside; what is not there is no loss.
fn left_out(copied: Result<u64>) -> Result<u64> {
    match copied {
        Err(Fault::Inside(error)) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(Fault::Inside(_)) => Ok(1),
        other => other,
    }
}

fn children(dir: &OwnedFd) -> Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut names = Vec::new();
    for name in folder::names(dir)? {
        names.push(PathBuf::from(OsString::from_vec(name?.into_bytes())));
    }
    names.sort();
    Ok(names)
}

fn too_deep() -> io::Error {
    io::Error::other(format!("folders nested deeper than {DEPTH_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::{Fault, Root};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn links_planted_inside_never_lead_out() {
        let outside = tempfile::tempdir().expect("a temp dir");
        let inside = tempfile::tempdir().expect("a temp dir");
        let source = tempfile::tempdir().expect("a temp dir");
        std::fs::write(outside.path().join("secret"), "s").expect("writes");
        std::fs::write(source.path().join("test.sh"), "t").expect("writes");
        let root = Root::open(inside.path()).expect("opens");

        symlink(outside.path(), inside.path().join("tests")).expect("links");
        root.copy_in(source.path(), "/tests").expect("copies");
        assert!(!outside.path().join("test.sh").exists());
        assert!(inside.path().join("tests/test.sh").is_file());

        symlink(outside.path(), inside.path().join("logs")).expect("links");
        let to = source.path().join("out");
        root.copy_out("/logs/secret", &to).expect("leaves out what is not there");
        root.copy_out("/logs", &to).expect("leaves the link out");
        assert!(!to.exists());
        let obstructed = root.copy_in(source.path(), "/logs/x");
        assert!(matches!(obstructed, Err(Fault::Inside(_))), "{obstructed:?}");
        assert!(!outside.path().join("x").exists());
        root.empty_dir("/logs").expect("replaces the link");
        assert!(outside.path().join("secret").exists());
    }

    /// Whoever fails at a task could otherwise see to it that the trial does not count.
    #[test]
    fn what_was_left_inside_is_cleared_or_left_out_and_never_the_machines_fault() {
        let (inside, source) = (tempfile::tempdir(), tempfile::tempdir());
        let (inside, source) = (inside.expect("a temp dir"), source.expect("a temp dir"));
        std::fs::write(source.path().join("test.sh"), "t").expect("writes");
        let root = Root::open(inside.path()).expect("opens");
        let deep = inside.path().join("tests").join("d/".repeat(300));
        std::fs::create_dir_all(&deep).expect("makes");
        let closed = inside.path().join("logs/closed");
        std::fs::create_dir_all(closed.join("in")).expect("makes");
        std::fs::write(inside.path().join("logs/reward.txt"), "1").expect("writes");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).expect("sets");

        let to = source.path().join("out");
        // The superuser may read all.
        let unread = u64::from(!rustix::process::geteuid().is_root());
        assert_eq!(root.copy_out("/logs", &to).expect("copies the rest"), unread);
        assert!(to.join("reward.txt").is_file());
        assert_eq!(root.copy_out("/tests", &to.join("deep")).expect("copies the rest"), 1);
        std::fs::remove_dir_all(&to).expect("removes");
        root.copy_in(source.path(), "/tests").expect("replaces");
        assert!(inside.path().join("tests/test.sh").is_file());
        root.empty_dir("/logs").expect("empties");

        std::fs::write(inside.path().join("file"), "").expect("writes");
        let obstructed = root.copy_in(source.path(), "/file/x");
        assert!(matches!(obstructed, Err(Fault::Inside(_))), "{obstructed:?}");
        let missing = root.copy_in(&source.path().join("none"), "/x");
        assert!(matches!(missing, Err(Fault::Host(_))), "{missing:?}");
    }
}
