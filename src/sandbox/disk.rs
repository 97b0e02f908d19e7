//! How much disk the files of a sandbox take, measured while it runs and between its commands.
//!
//! A plain folder has no quota, and a file system of its own would be memory. So the folder is
//! looked through now and then. What a process keeps open and has unlinked is not seen: a single
//! file is limited by a resource limit instead. What goes or moves while it is looked for counts
//! at the next look; what cannot be measured for another reason is an error, never nothing.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Stat};
use rustix::io::Errno;

use super::folder;

/// Between two looks at a command that runs, at least.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Looking at a command that runs takes at most this part of the time.
const SHARE: u32 = 20;
/// A look that is shorter than this is quick.
const QUICK: Duration = Duration::from_millis(200);
/// So often a look begins anew when what runs closes the folders meanwhile.
const TRIES: usize = 5;
/// No sane tree is deeper; what hides below counts as too much.
const DEPTH_MAX: usize = 256;
/// What an entry counts for at least.
const ENTRY_BYTES_MIN: u64 = 1 << 10;
/// Over the limit, what makes room may write this much: a shell's notes, a test's log.
const ROOM: u64 = 1 << 20;

/// A folder and when it is looked through next.
#[derive(Debug)]
pub(super) struct Watch {
    folder: PathBuf,
    limit_bytes: Option<u64>,
    /// What the files may take: the limit, or where they are beyond it already, little more than
    /// they take.
    allowed: u64,
    next: Instant,
    /// How long the last look took.
    took: Duration,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Bytes(u64),
    TooDeep,
    /// What runs takes the right to look away whenever it is given back.
    Closed,
}

impl Watch {
    pub fn new(folder: &Path, limit_bytes: Option<u64>) -> Self {
        let allowed = limit_bytes.unwrap_or(u64::MAX);
        let (next, took) = (Instant::now() + EVERY, Duration::ZERO);
        Self { folder: folder.to_owned(), limit_bytes, allowed, next, took }
    }

    /// Looks if it is time to; returns as [`Watch::look`].
    pub fn look_if_due(&mut self) -> io::Result<Option<String>> {
        if Instant::now() < self.next { Ok(None) } else { self.look() }
    }

    /// Looks between two commands: always where that is quick, else if it is time to. Looking at
    /// many folders must not use up the time of who works on them.
    pub fn look_between(&mut self) -> io::Result<Option<String>> {
        if self.took < QUICK { self.look() } else { self.look_if_due() }
    }

    /// Returns why what runs must be killed, if it must: the files take more than the limit. What
    /// began beyond the limit may go on as long as they do not grow, so that it can make room.
    pub fn look(&mut self) -> io::Result<Option<String>> {
        let Some(limit) = self.limit_bytes else { return Ok(None) };
        let began = Instant::now();
        let measure = measure_patiently(&self.folder)?;
        self.took = began.elapsed();
        self.next = Instant::now() + EVERY.max(self.took * SHARE);
        let used = match measure {
            Measure::Bytes(used) => used,
            Measure::TooDeep => {
                return Ok(Some(format!("folders here are more than {DEPTH_MAX} levels deep")));
            }
            Measure::Closed => {
                return Ok(Some("folders here are closed as often as they are opened".into()));
            }
        };
        let over = used > self.allowed;
        let most = used.saturating_add(ROOM);
        self.allowed = match used > limit {
            false => limit,
            true if over => most,
            true => self.allowed.min(most),
        };
        let limit = crate::units::bytes(limit);
        Ok(over.then(|| format!("the files here take more than {limit}")))
    }
}

/// A folder below the one that is measured. Held by name, so that a walk has few descriptors
/// open however deep the tree is.
struct Place {
    parent: Option<Rc<Place>>,
    name: CString,
    depth: usize,
}

/// A folder open for reading; it gets its mode back.
struct Folder(folder::Opened);

impl Folder {
    /// Opens a folder by its names, one after another.
    fn below(root: &Path, place: Option<&Place>) -> io::Result<Self> {
        let mut names = Vec::new();
        let mut next = place;
        while let Some(place) = next {
            names.push(place.name.as_c_str());
            next = place.parent.as_deref();
        }
        let root = CString::new(root.as_os_str().as_encoded_bytes())?;
        let listed = Mode::RUSR | Mode::XUSR;
        let mut folder = Self(folder::open(CWD, &root, listed)?);
        for name in names.into_iter().rev() {
            folder = Self(folder::open(&folder.0.fd, name, listed)?);
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let Some((before, given)) = self.0.changed else { return };
        // Who changed it meanwhile has the last word; what fails leaves it readable, which is safe.
        if folder::mode_of(&self.0.fd) == Ok(given) {
            let _ = rustix::fs::fchmod(&self.0.fd, before);
        }
    }
}

fn measure_patiently(root: &Path) -> io::Result<Measure> {
    for _ in 0..TRIES {
        match measure(root) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => return other,
        }
    }
    Ok(Measure::Closed)
}

/// Sums up the blocks of a folder and all below it, no link followed; hard links share theirs.
fn measure(root: &Path) -> io::Result<Measure> {
    let mut sum = 0_u64;
    let mut open = vec![None::<Rc<Place>>];
    while let Some(place) = open.pop() {
        let Some(folder) = unless_gone(Folder::below(root, place.as_deref()))? else { continue };
        let depth = 1 + place.as_ref().map_or(0, |place| place.depth);
        // One at a time: there may be more names than there is memory.
        for name in folder::names(&folder.0.fd)? {
            let Some(name) = unless_gone(name.map_err(io::Error::from))? else { break };
            let stat = rustix::fs::statat(&folder.0.fd, &name, AtFlags::SYMLINK_NOFOLLOW);
            let Some(stat) = unless_gone(stat.map_err(io::Error::from))? else { continue };
            sum = sum.saturating_add(taken(&stat));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                if depth > DEPTH_MAX {
                    return Ok(Measure::TooDeep);
                }
                let parent = place.clone();
                open.push(Some(Rc::new(Place { parent, name, depth })));
            }
        }
    }
    Ok(Measure::Bytes(sum))
}

/// Returns what an entry takes on disk. An empty one takes a place in a table that is finite, too.
fn taken(stat: &Stat) -> u64 {
    #[allow(clippy::unnecessary_cast, reason = "the types differ between machines")]
    let (blocks, links) = (stat.st_blocks as u64, stat.st_nlink as u64);
    let bytes = blocks.saturating_mul(512);
    // A folder's links are its subfolders.
    let own = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => bytes,
        _ => bytes / links.max(1),
    };
    own.max(ENTRY_BYTES_MIN)
}

/// What goes while it is looked for is the sandbox's own doing.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};

    use super::{DEPTH_MAX, ROOM, Watch};

    fn write(path: PathBuf, len: usize) {
        crate::fsio::write_atomic(&path, &vec![1; len]).expect("writes");
    }

    fn over(dir: &Path, limit: u64) -> bool {
        Watch::new(dir, Some(limit)).look().expect("looks").is_some()
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets");
    }

    #[test]
    fn files_are_counted_once_and_links_not_followed() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let outside = tempfile::tempdir().expect("a temp dir");
        write(outside.path().join("big"), 900_000);
        write(dir.path().join("a/b/c"), 100_000);
        std::fs::hard_link(dir.path().join("a/b/c"), dir.path().join("again")).expect("links");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).expect("links");
        assert!(!over(dir.path(), 300_000) && over(dir.path(), 90_000));
        let mut watch = Watch::new(dir.path(), Some(90_000));
        assert_eq!(watch.look_if_due().expect("looks"), None, "not yet");
        assert_eq!(Watch::new(dir.path(), None).look().expect("looks"), None);
    }

    #[test]
    fn empty_files_are_not_free() {
        let dir = tempfile::tempdir().expect("a temp dir");
        for at in 0..1000 {
            std::fs::File::create(dir.path().join(at.to_string())).expect("creates");
        }
        assert!(over(dir.path(), 1_000_000) && !over(dir.path(), 1_200_000));
    }

    /// The owner of a folder can write into it by name and forbid everybody to list it.
    #[test]
    fn what_may_not_be_read_is_counted_and_keeps_its_mode() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (a, b) = (dir.path().join("a"), dir.path().join("a/b"));
        write(b.join("c"), 500_000);
        for modes in [(0o300, 0o755), (0o755, 0o300), (0o400, 0o400), (0, 0o1000)] {
            set_mode(&b, modes.1);
            set_mode(&a, modes.0);
            assert!(over(dir.path(), 400_000), "{modes:?}");
            let mode = |path: &Path| path.metadata().expect("is there").permissions().mode();
            assert_eq!(mode(&a) & 0o7777, modes.0);
            set_mode(&a, 0o755);
            assert_eq!(mode(&b) & 0o7777, modes.1);
        }
        set_mode(&b, 0o755);
    }

    #[test]
    fn who_closes_folders_all_the_time_is_told_so_or_measured() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let folders: Vec<PathBuf> = (0..50).map(|at| dir.path().join(at.to_string())).collect();
        folders.iter().for_each(|folder| write(folder.join("file"), 10_000));
        let stop = std::sync::atomic::AtomicBool::new(false);
        let flicker = || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for mode in [0o000, 0o700] {
                    folders.iter().for_each(|folder| set_mode(folder, mode));
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(flicker);
            for _ in 0..50 {
                assert!(over(dir.path(), 400_000));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        folders.iter().for_each(|folder| set_mode(folder, 0o700));
    }

    #[test]
    fn what_cannot_be_measured_is_no_zero() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let named = dir.path().join("x".repeat(300));
        assert!(Watch::new(&named, Some(1)).look().is_err());
        // That the folder is gone altogether is no failure: so is what was in it.
        assert!(!over(&dir.path().join("gone"), 1));
    }

    #[test]
    fn deep_trees_take_few_descriptors_and_deeper_ones_are_too_much() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let deep = |levels: usize| dir.path().join("d/".repeat(levels));
        write(deep(DEPTH_MAX).join("file"), 500_000);
        let before = std::fs::read_dir("/proc/self/fd").expect("lists").count();
        assert!(over(dir.path(), 400_000) && !over(dir.path(), 500_000_000));
        let place = (0..DEPTH_MAX).fold(None, |parent, depth| {
            Some(std::rc::Rc::new(super::Place { parent, name: c"d".into(), depth }))
        });
        let folder = super::Folder::below(dir.path(), place.as_deref()).expect("opens");
        let open = std::fs::read_dir("/proc/self/fd").expect("lists").count();
        assert!(open < before + DEPTH_MAX / 2, "{open}, {before} before");
        drop(folder);
        std::fs::create_dir(deep(DEPTH_MAX + 1)).expect("makes");
        let why = Watch::new(dir.path(), Some(500_000_000)).look().expect("looks");
        assert!(why.is_some_and(|why| why.contains("256 levels")));
    }

    #[test]
    fn beyond_the_limit_there_is_leave_to_make_room_and_none_to_grow() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let file = |name: &str| dir.path().join(name);
        let mut watch = Watch::new(dir.path(), Some(1_000_000));
        let mut is_over = || watch.look().expect("looks").is_some();
        write(file("one"), 3_000_000);
        assert!(is_over() && !is_over(), "what makes room now is let live");
        for name in ["two", "three", "four"] {
            // Little by little is growth as well.
            write(file(name), ROOM as usize * 2 / 3);
            assert_eq!(is_over(), name == "three", "{name}");
        }
        std::fs::remove_file(file("one")).expect("removes");
        assert!(!is_over(), "less than before");
        for name in ["two", "three", "four"] {
            std::fs::remove_file(file(name)).expect("removes");
        }
        assert!(!is_over());
        write(file("one"), 1_100_000);
        assert!(is_over(), "the limit holds again");
    }
}
