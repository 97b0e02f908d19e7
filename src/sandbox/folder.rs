//! Folders that untrusted processes made: opened by no link and whatever their modes are.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

/// An open folder.
pub(super) struct Opened {
    pub fd: OwnedFd,
    /// The mode that it had and the one that it was given, if it was changed.
    pub changed: Option<(Mode, Mode)>,
}

/// Opens a folder for reading, no link followed. Its owner can take rights to it away from
/// itself and still fill it: those of `needed` that it lacks are given back first.
pub(super) fn open(at: impl AsFd, name: &CStr, needed: Mode) -> Result<Opened, Errno> {
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(at, name, place, Mode::empty())?;
    let mode = mode_of(&place)?;
    let wanted = mode | needed;
    if mode != wanted {
        // By this way because a name could have become a link meanwhile.
        rustix::fs::chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), wanted)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&place, c".", flags, Mode::empty())?;
    Ok(Opened { fd, changed: (mode != wanted).then_some((mode, wanted)) })
}

/// Returns the mode of an open folder.
pub(super) fn mode_of(folder: &OwnedFd) -> Result<Mode, Errno> {
    Ok(Mode::from_raw_mode(rustix::fs::fstat(folder)?.st_mode))
}

/// Iterates over the names in a folder, in any order.
pub(super) fn names(
    folder: &OwnedFd,
) -> Result<impl Iterator<Item = Result<CString, Errno>>, Errno> {
    let names = Dir::read_from(folder)?.map(|entry| Ok(entry?.file_name().to_owned()));
    let own = |name: &CString| [b".".as_slice(), b".."].contains(&name.to_bytes());
    Ok(names.filter(move |name| !name.as_ref().is_ok_and(own)))
}
