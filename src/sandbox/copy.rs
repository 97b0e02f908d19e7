//! Copies between the host and a sandbox's root folder while untrusted processes may run in it.
//!
//! Every step goes through folder descriptors and never follows a symbolic link out of the root
//! (`openat2` with `RESOLVE_IN_ROOT`, then `O_NOFOLLOW`), so that a link planted inside cannot
//! make the host read or write its own files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

/// Folders nested deeper than this are not walked.
const DEPTH_MAX: usize = 128;
/// No file larger than this is copied out.
const FILE_OUT_BYTES_MAX: u64 = 64 << 20;

const FOLDER: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

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
    pub(super) fn copy_in(&self, from: &Path, to: &str) -> io::Result<()> {
        let (parent, name) = self.parent(to, Missing::Make)?;
        remove(parent.as_fd(), &name, 0)?;
        write_tree(from, parent.as_fd(), &name, 0)
    }

    /// Copies `from` to the host's `to`; returns whether there was anything.
    pub(super) fn copy_out(&self, from: &str, to: &Path) -> io::Result<bool> {
        let (parent, name) = match self.parent(from, Missing::Fail) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(_) => read_tree(parent.as_fd(), &name, to, 0).map(|()| true),
        }
    }

    /// Makes `path` an empty folder.
    pub(super) fn empty_dir(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path, Missing::Make)?;
        remove(parent.as_fd(), &name, 0)?;
        Ok(rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o777))?)
    }

    /// Makes the folder `path` and its parents where they are missing.
    pub(super) fn make_dirs(&self, path: &str) -> io::Result<()> {
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
    fn parent(&self, path: &str, missing: Missing) -> io::Result<(OwnedFd, PathBuf)> {
        let mut names: Vec<&str> = path.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
        if names.contains(&"..") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let last = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
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

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(());
        };
        let dir = self.resolve(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC)?;
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), how)?)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Fail,
}

/// Removes a file, link or tree.
fn remove(parent: BorrowedFd<'_>, name: &Path, depth: usize) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    check_depth(depth)?;
    let dir = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
    for child in children(&dir)? {
        remove(dir.as_fd(), &child, depth + 1)?;
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Copies the host's `from` to `name` in `parent`; links are copied as links.
fn write_tree(from: &Path, parent: BorrowedFd<'_>, name: &Path, depth: usize) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    check_depth(depth)?;
    let meta = from.symlink_metadata()?;
    // Group and world may read, as in an image; only the executable bit is the file's own.
    let executable = meta.permissions().mode() & 0o111 != 0;
    if meta.is_dir() {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let dir = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            write_tree(&entry.path(), dir.as_fd(), Path::new(&entry.file_name()), depth + 1)?;
        }
        return Ok(());
    }
    if meta.is_symlink() {
        return Ok(rustix::fs::symlinkat(std::fs::read_link(from)?, parent, name)?);
    }
    if !meta.is_file() {
        return Err(io::Error::other("neither a file nor a folder"));
    }
    let mode = if executable { 0o755 } else { 0o644 };
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    super::fork::writing(|| {
        let to = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))?;
        io::copy(&mut File::open(from)?, &mut File::from(to)).map(drop)
    })
}

/// Copies `name` in `parent` to the host's `to`. Links and devices are left out.
fn read_tree(parent: BorrowedFd<'_>, name: &Path, to: &Path, depth: usize) -> io::Result<()> {
    use std::io::Read as _;
    check_depth(depth)?;
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            std::fs::create_dir_all(to)?;
            let dir = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
            for child in children(&dir)? {
                read_tree(dir.as_fd(), &child, &to.join(&child), depth + 1)?;
            }
            Ok(())
        }
        FileType::RegularFile => {
            // Without NONBLOCK, a pipe put in its place meanwhile would hold us up.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
            if !file.metadata()?.is_file() {
                return Ok(());
            }
            let mut copy = File::options().write(true).create(true).truncate(true).open(to)?;
            io::copy(&mut file.take(FILE_OUT_BYTES_MAX), &mut copy)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn children(dir: &OwnedFd) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(PathBuf::from(name));
        }
    }
    names.sort();
    Ok(names)
}

fn check_depth(depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other(format!("folders nested deeper than {DEPTH_MAX}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Root;
    use std::os::unix::fs::symlink;

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
        let out = root.copy_out("/logs/secret", &to);
        assert!(matches!(out, Ok(false) | Err(_)));
        root.copy_out("/logs", &to).expect("leaves the link out");
        assert!(!to.exists());
        assert!(root.copy_in(source.path(), "/logs/x").is_err());
        assert!(!outside.path().join("x").exists());
        root.empty_dir("/logs").expect("replaces the link");
        assert!(outside.path().join("secret").exists());
    }
}
