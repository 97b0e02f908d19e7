//! Files: capped reads, read-only maps, atomic writes, locks, free space, range copies.
//!
//! The one home of `File::create` and `rename`. Nothing gets its final name before its bytes are
//! on disk: temporary sibling, fsync, rename, fsync of the folder.

mod list;

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub use self::list::{entries, files_below, readable_files_below};
use crate::error::{Diagnose, Kind};

/// A failed file operation: what was tried, on which path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The verb: `open`, `write`, `rename`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A file is larger than what its reader accepts.
    #[error("{} has {len_bytes} bytes, more than the {cap_bytes} accepted", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        len_bytes: u64,
        /// The cap.
        cap_bytes: u64,
    },
    /// A pipe, a device or a socket where a file is wanted.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// What was named.
        path: PathBuf,
    },
    /// The file system lacks room for what is to be written.
    #[error(
        "{} has {} free, {} are needed",
        path.display(),
        crate::units::bytes(*free_bytes),
        crate::units::bytes(*needed_bytes)
    )]
    NoSpace {
        /// The folder to be written to.
        path: PathBuf,
        /// What is free.
        free_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
}

impl Error {
    /// Returns a function that wraps an [`io::Error`] with verb and path.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Says whether an error is about space: a full disk, or a spent quota.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Diagnose for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } if is_full(source) => Kind::Resources,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::PermissionDenied => Kind::Auth,
                _ => Kind::Usage,
            },
            Self::TooLarge { .. } | Self::NotRegular { .. } => Kind::BadData,
            Self::NoSpace { .. } => Kind::Resources,
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Io { source, .. } if is_full(source) => {
                vec!["free some space and run the same command again".into()]
            }
            Self::Io { source, path, .. } => match source.kind() {
                io::ErrorKind::NotFound => vec![format!("check the path {}", path.display())],
                io::ErrorKind::PermissionDenied => {
                    vec![format!("check who owns {}", path.display())]
                }
                _ => vec![format!("check {} and its file system", path.display())],
            },
            Self::TooLarge { .. } => vec!["the file is damaged or not what its name says".into()],
            Self::NotRegular { path } => {
                vec![format!("put the file itself at {}, no pipe or device", path.display())]
            }
            Self::NoSpace { path, .. } => {
                vec![format!("free some space on the file system of {}", path.display())]
            }
        }
    }
}

/// The result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Says whether something is at `path`. What cannot be looked at is not "not there".
///
/// # Errors
/// [`Error::Io`] where permission is denied, or the file system fails.
pub fn exists(path: &Path) -> Result<bool> {
    match path.metadata() {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(Error::io("stat", path)(error)),
    }
}

/// Says whether the last part of `path` is a symbolic link, with a slash after it or without.
#[must_use]
pub fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| parent(path).join(name).is_symlink())
}

/// Opens a file for reading, which must be one: a pipe would wait for somebody to write, and a
/// device has no end.
///
/// # Errors
/// [`Error::NotRegular`], [`Error::Io`], also for a folder.
pub fn open_regular(path: &Path) -> Result<(File, std::fs::Metadata)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Opening a pipe waits, save with this flag, which means nothing to a regular file.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path);
    let file = file.map_err(Error::io("open", path))?;
    let meta = file.metadata().map_err(Error::io("stat", path))?;
    if meta.is_dir() {
        return Err(Error::io("read", path)(io::ErrorKind::IsADirectory.into()));
    }
    if !meta.is_file() {
        return Err(Error::NotRegular { path: path.to_owned() });
    }
    Ok((file, meta))
}

/// Reads a whole file of at most `cap_bytes`.
///
/// # Errors
/// [`Error::TooLarge`] before reading; [`Error::NotRegular`]; [`Error::Io`].
pub fn read_capped(path: &Path, cap_bytes: u64) -> Result<Vec<u8>> {
    let (file, meta) = open_regular(path)?;
    if meta.len() > cap_bytes {
        let len_bytes = meta.len();
        return Err(Error::TooLarge { path: path.to_owned(), len_bytes, cap_bytes });
    }
    // A growing file could pass the check above: the read is capped too.
    read_at_most(file, path, cap_bytes)
}

/// Reads what the user named as input, at most `cap_bytes`: a file, or a pipe such as
/// `/dev/stdin`, which is waited for.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::Io`].
pub fn read_input(path: &Path, cap_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    read_at_most(file, path, cap_bytes)
}

fn read_at_most(file: File, path: &Path, cap_bytes: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(cap_bytes + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    let len_bytes = bytes.len() as u64;
    if len_bytes > cap_bytes {
        return Err(Error::TooLarge { path: path.to_owned(), len_bytes, cap_bytes });
    }
    Ok(bytes)
}

/// A read-only map of a whole file.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    file: File,
    map: Option<memmap2::Mmap>,
}

impl Mapped {
    /// Maps `path`. An empty file maps to an empty slice.
    ///
    /// # Errors
    /// [`Error::NotRegular`], [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let (file, meta) = open_regular(path)?;
        let len = meta.len();
        let map = if len == 0 {
            None
        } else {
            // SAFETY: the map is read-only and private to this process. That nobody truncates
            // the file meanwhile is the contract of checkpoints and cache blobs, which are only
            // ever replaced by rename; a truncation ends the process with SIGBUS, it does not
            // corrupt what is written.
            Some(unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?)
        };
        Ok(Self { path: path.to_owned(), file, map })
    }

    /// Returns the file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Returns the open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the path it was opened with.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the kernel that `range` will be read once, in order.
    pub fn advise_sequential(&self) {
        if let Some(map) = &self.map {
            // Advice only: a kernel that ignores it costs speed, never correctness.
            let _ = map.advise(memmap2::Advice::Sequential);
        }
    }
}

/// A file that gets its name only when it is complete.
///
/// Dropped without [`AtomicFile::commit`] it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    temp: tempfile::NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Opens a temporary sibling of `path`, whose folder is made if need be.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        let dir = parent(path);
        create_dir_all(dir)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temp = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .tempfile_in(dir)
            .map_err(Error::io("create a file in", dir))?;
        Ok(Self { temp, path: path.to_owned() })
    }

    /// Returns the open temporary file.
    #[must_use]
    pub fn file(&self) -> &File {
        self.temp.as_file()
    }

    /// Returns the final path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the bytes durable and gives the file its name, replacing what had it.
    ///
    /// # Errors
    /// [`Error::Io`]; the final name is then untouched.
    pub fn commit(self) -> Result<()> {
        let Self { temp, path } = self;
        set_umask_mode(temp.as_file()).map_err(Error::io("set the mode of", &path))?;
        temp.as_file().sync_all().map_err(Error::io("flush", &path))?;
        temp.persist(&path).map_err(|e| Error::io("rename to", &path)(e.error))?;
        sync_dir(parent(&path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.temp.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.temp.flush()
    }
}

/// Returns the hidden sibling under which `path` is written until it is complete.
#[must_use]
pub fn part_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.tmax-ckpt.part"))
}

/// Returns the bytes that the file system has allocated to `path` already, 0 if it is not there.
#[must_use]
pub fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    path.metadata().map_or(0, |meta| meta.blocks() * 512)
}

/// An open file or folder that this run has locked, alone or with others; freed when dropped.
#[derive(Debug)]
pub struct Locked(File);

impl Locked {
    /// Locks `file`, which errors name `path`; `None` while another run has it.
    ///
    /// # Errors
    /// [`Error::Io`] where the file system has no locks.
    pub fn try_new(file: File, path: &Path) -> Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(Error::io("lock", path)(e)),
        }
    }

    /// Locks `file` together with others that share it; `None` while a run has it alone.
    ///
    /// # Errors
    /// [`Error::Io`] where the file system has no locks.
    pub fn try_shared(file: File, path: &Path) -> Result<Option<Self>> {
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Self(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(e)) => Err(Error::io("lock", path)(e)),
        }
    }

    /// Says whether `path` still names what is locked: another run may have renamed or removed it
    /// between the opening and the lock.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let same =
            |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        self.0.metadata().is_ok_and(|mine| path.metadata().is_ok_and(|there| same(&mine, &there)))
    }

    /// Returns the open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing is not enough: a program that another thread is just starting holds a copy of
        // every open file until it runs. A failure means that the lock is gone already.
        let _ = self.0.unlock();
    }
}

/// How often it is looked at how much there is to send to the disk.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

/// How much of a file is sent at a time: enough for the file system to keep it together.
const SEND_BYTES: u64 = 32 << 20;

/// Does `work`, which writes to `files`, while another thread sends what is written on its way, so
/// that the flush at the end has little left to do. That flush is still needed.
pub fn flushing<R: Send>(files: &[&File], work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        // Dropped when the work ends, whether by returning or by a panic.
        let (_working, ended) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let mut sent = vec![0; files.len()];
            let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
            while ended.recv_timeout(LOOK_EVERY) == Err(timeout) {
                files.iter().zip(&mut sent).for_each(|(file, sent)| send_on(file, sent));
            }
        });
        work()
    })
}

/// Starts, and does not wait for, the writing of all that `file` holds, if that is much more than
/// the `sent` bytes of the last time.
fn send_on(file: &File, sent: &mut u64) {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    let Ok(meta) = file.metadata() else { return };
    let holds = meta.blocks() * 512;
    if holds >= *sent + SEND_BYTES {
        *sent = holds;
        // Advice only: what fails is told by the flush at the end, and a length of 0 is all.
        // SAFETY: the call touches no memory of this process, and the file is open.
        unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// A file written at positions, over several runs if need be, that gets its name when complete.
///
/// Dropped without [`ResumableFile::commit`] it stays, under a hidden name that the next run
/// finds; no two runs have it at once.
#[derive(Debug)]
pub struct ResumableFile {
    file: Locked,
    part: PathBuf,
    path: PathBuf,
}

impl ResumableFile {
    /// Opens the hidden sibling of `path`, whose folder is made if need be; `None` while another
    /// run has it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Option<Self>> {
        create_dir_all(parent(path))?;
        let part = part_path(path);
        let Some(file) = Locked::try_new(open_rw(&part)?, &part)? else { return Ok(None) };
        Ok(file.is_at(&part).then(|| Self { file, part, path: path.to_owned() }))
    }

    /// Returns the open file.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.file()
    }

    /// Returns the final path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file: nothing in it is of use to the next run.
    pub fn discard(self) {
        // Whoever calls this has an error to report already.
        let _ = std::fs::remove_file(&self.part);
    }

    /// Makes the bytes durable and gives the file its name, replacing what had it.
    ///
    /// # Errors
    /// [`Error::Io`]; the final name is then untouched.
    pub fn commit(self) -> Result<()> {
        self.file().sync_all().map_err(Error::io("flush", &self.part))?;
        rename(&self.part, &self.path)
    }
}

/// Writes a small file atomically.
///
/// # Errors
/// [`Error::Io`].
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.commit()
}

/// Renames `from` to `to` on one file system and makes the rename durable.
///
/// # Errors
/// [`Error::Io`].
#[allow(clippy::disallowed_methods, reason = "the one home of rename")]
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(Error::io("rename to", to))?;
    sync_dir(parent(to))
}

/// Makes the symbolic link `link` to `target`, replacing what had its name.
///
/// Made beside, under a name that no other thread or process can have, and renamed: a reader
/// never finds the name missing, and two writers of one link do not disturb each other.
///
/// # Errors
/// [`Error::Io`]; the final name is then untouched.
pub fn symlink_atomic(target: &Path, link: &Path) -> Result<()> {
    let name = link.file_name().unwrap_or_default().to_string_lossy();
    tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".link")
        .make_in(parent(link), |beside| std::os::unix::fs::symlink(target, beside))
        .map_err(Error::io("link", link))?
        .persist(link)
        .map_err(|e| Error::io("rename to", link)(e.error))?;
    sync_dir(parent(link))
}

/// Makes a folder and its parents.
///
/// # Errors
/// [`Error::Io`].
pub fn create_dir_all(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))
}

/// Opens `path` for reading and writing at positions, made if absent, never truncated.
///
/// # Errors
/// [`Error::Io`].
pub fn open_rw(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::io("open", path))
}

/// Gives `file` a length of `len` with nothing in it: what it held is gone.
///
/// # Errors
/// The system's error.
pub fn start_over(file: &File, len: u64) -> io::Result<()> {
    // Only what holds something is cut: ext4 flushes a file that was once cut to nothing when it
    // is closed, in one go and while everybody waits.
    if file.metadata()?.len() > 0 {
        file.set_len(0)?;
    }
    file.set_len(len)
}

/// Opens `path` for writing at its end, made if absent.
///
/// # Errors
/// [`Error::Io`].
pub fn open_append(path: &Path) -> Result<File> {
    File::options().append(true).create(true).open(path).map_err(Error::io("open", path))
}

/// Returns the bytes that an ordinary user may still write on the file system of `path`, which
/// need not exist yet.
///
/// # Errors
/// [`Error::Io`] when no ancestor can be asked.
pub fn free_space(path: &Path) -> Result<u64> {
    let mut dir = path;
    while !dir.exists() {
        dir = parent(dir);
    }
    let stat =
        rustix::fs::statvfs(dir).map_err(|e| Error::io("ask the space of", dir)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Fails when `needed_bytes` do not fit on the file system of `path`.
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Io`].
pub fn check_space(path: &Path, needed_bytes: u64) -> Result<()> {
    let free_bytes = free_space(path)?;
    if free_bytes < needed_bytes {
        return Err(Error::NoSpace { path: path.to_owned(), free_bytes, needed_bytes });
    }
    Ok(())
}

/// What a page of the system's file cache is aligned to.
const PAGE_BYTES: u64 = 4096;

/// A stretch of a file.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// The file.
    pub file: &'a File,
    /// Its first byte.
    pub offset: u64,
}

/// Copies `len` bytes of `src` to `dst`, in the kernel where the file systems can, else through
/// `buffer`, which must not be empty: 1 MiB is a good size.
///
/// # Errors
/// The system's error; a source that ends early is [`io::ErrorKind::UnexpectedEof`].
pub fn copy_range(
    src: Stretch<'_>,
    dst: Stretch<'_>,
    len: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut at = copy_in_kernel(src, dst, len)?;
    while at < len {
        let part = buffer.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
        src.file.read_exact_at(&mut buffer[..part], src.offset + at)?;
        dst.file.write_all_at(&buffer[..part], dst.offset + at)?;
        at += part as u64;
    }
    Ok(())
}

/// Copies `bytes`, which `src` maps, to `dst`: in the kernel where the file systems can, else
/// from memory.
///
/// # Errors
/// The system's error; a source that ends early is [`io::ErrorKind::UnexpectedEof`].
pub fn copy_mapped(src: Stretch<'_>, dst: Stretch<'_>, bytes: &[u8]) -> io::Result<()> {
    let done = copy_in_kernel(src, dst, bytes.len() as u64)?;
    let rest = &bytes[usize::try_from(done).expect("no more than there is in memory")..];
    // A write faults the pages of its source in one by one, a read many at a time.
    std::hint::black_box(rest.iter().step_by(PAGE_BYTES as usize).fold(0, |all, byte| all ^ byte));
    dst.file.write_all_at(rest, dst.offset + done)
}

/// Lets the kernel copy, and returns how many bytes it did: all, or those before it said that it
/// cannot.
///
/// It is not asked where pages straddle those of the target: no file system can share such
/// blocks, and the kernel would write each of them as two halves.
fn copy_in_kernel(src: Stretch<'_>, dst: Stretch<'_>, len: u64) -> io::Result<u64> {
    if src.offset % PAGE_BYTES != dst.offset % PAGE_BYTES {
        return Ok(0);
    }
    let (mut from, mut to) = (src.offset, dst.offset);
    let end = from + len;
    while from < end {
        let chunk = usize::try_from((end - from).min(1 << 30)).expect("at most 1 GiB");
        match rustix::fs::copy_file_range(src.file, Some(&mut from), dst.file, Some(&mut to), chunk)
        {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Across file systems, or one without the call.
            Err(
                rustix::io::Errno::XDEV
                | rustix::io::Errno::INVAL
                | rustix::io::Errno::NOSYS
                | rustix::io::Errno::OPNOTSUPP,
            ) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(from - src.offset)
}

/// Copies a whole file to another name, which it gets when it is durable.
///
/// # Errors
/// [`Error::Io`]; the name is then untouched.
pub fn copy_file(source: &Path, target: &Path) -> Result<()> {
    let from = File::open(source).map_err(Error::io("open", source))?;
    let len = from.metadata().map_err(Error::io("stat", source))?.len();
    let to = AtomicFile::create(target)?;
    let (read, written) =
        (Stretch { file: &from, offset: 0 }, Stretch { file: to.file(), offset: 0 });
    copy_range(read, written, len, &mut vec![0; 1 << 20]).map_err(Error::io("copy to", target))?;
    to.commit()
}

/// Says whether the file holds these bytes from `offset` on; read through `buffer`, which must
/// not be empty.
///
/// # Errors
/// The system's error; a file that ends early is [`io::ErrorKind::UnexpectedEof`].
pub fn holds(found: Stretch<'_>, want: &[u8], buffer: &mut [u8]) -> io::Result<bool> {
    let mut at = found.offset;
    for chunk in want.chunks(buffer.len()) {
        let back = &mut buffer[..chunk.len()];
        found.file.read_exact_at(back, at)?;
        if back != chunk {
            return Ok(false);
        }
        at += chunk.len() as u64;
    }
    Ok(true)
}

/// Makes the entries of a folder durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("flush the folder", dir))
}

/// Returns the folder of `path`, `.` for a bare name.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// Temporary files are made 0600; final ones get what `open` would have given them.
fn set_umask_mode(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o666 & !umask()))
}

/// Returns the process's umask, read once: reading it means setting it.
fn umask() -> u32 {
    static UMASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *UMASK.get_or_init(|| {
        let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::process::umask(old);
        old.as_raw_mode()
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{
        AtomicFile, Error, Mapped, ResumableFile, Stretch, copy_range, holds, read_capped,
        start_over, write_atomic,
    };

    #[test]
    fn pipes_and_devices_are_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let pipe = dir.path().join("config.json");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("makes a pipe");
        for path in [pipe.as_path(), std::path::Path::new("/dev/zero")] {
            assert!(matches!(read_capped(path, 100), Err(Error::NotRegular { .. })), "{path:?}");
            assert!(matches!(Mapped::open(path), Err(Error::NotRegular { .. })), "{path:?}");
        }
    }

    #[test]
    fn a_file_that_is_started_over_holds_nothing_of_what_it_held() {
        for before in ["", "much longer than what comes", "abc"] {
            let dir = tempfile::tempdir().expect("a temp dir");
            let path = dir.path().join("x.bin");
            std::fs::write(&path, before).expect("writes");
            let file = super::open_rw(&path).expect("opens");
            start_over(&file, 5).expect("starts over");
            assert_eq!(std::fs::read(&path).expect("reads"), [0; 5], "{before:?}");
        }
    }

    #[test]
    fn nothing_has_its_name_before_commit() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("x.bin");
        let mut file = AtomicFile::create(&path).expect("creates");
        file.write_all(b"half").expect("writes");
        assert!(!path.exists());
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 0);
        write_atomic(&path, b"whole").expect("writes");
        assert_eq!(read_capped(&path, 5).expect("reads"), b"whole");
        assert!(matches!(read_capped(&path, 4), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_resumable_file_stays_and_belongs_to_one_run() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("x.bin");
        let first = ResumableFile::open(&path).expect("opens").expect("is free");
        std::os::unix::fs::FileExt::write_all_at(first.file(), b"half", 0).expect("writes");
        assert!(ResumableFile::open(&path).expect("opens").is_none());
        drop(first);
        assert!(!path.exists());
        let second = ResumableFile::open(&path).expect("opens").expect("is free again");
        assert_eq!(second.file().metadata().expect("stats").len(), 4);
        second.commit().expect("commits");
        assert_eq!(read_capped(&path, 9).expect("reads"), b"half");
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1);
    }

    #[test]
    fn ranges_copy_to_positions_and_notice_a_short_source() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let src = dir.path().join("src");
        write_atomic(&src, b"0123456789").expect("writes");
        let src = std::fs::File::open(&src).expect("opens");
        let dst = super::open_rw(&dir.path().join("dst")).expect("opens");
        let (from, to) =
            (|at| Stretch { file: &src, offset: at }, |at| Stretch { file: &dst, offset: at });
        // Through the buffer, smaller than the range, then in the kernel.
        copy_range(from(2), to(4), 3, &mut [0; 2]).expect("copies");
        copy_range(from(1), to(1), 2, &mut [0; 2]).expect("copies");
        let got = read_capped(&dir.path().join("dst"), 100).expect("reads");
        assert_eq!(got, b"\x0012\x00234");
        assert!(copy_range(from(8), to(0), 5, &mut [0; 9]).is_err());
        assert!(copy_range(from(8), to(8), 5, &mut [0; 9]).is_err());
        assert!(holds(to(4), b"234", &mut [0; 2]).expect("reads"));
        assert!(!holds(to(4), b"235", &mut [0; 2]).expect("reads"));
        assert!(holds(to(4), b"2345678", &mut [0; 9]).is_err());
    }
}
