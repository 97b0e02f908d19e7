//! Where fetched files go: the shared Hub cache, or a plain folder.
//!
//! The cache has huggingface_hub's layout: `blobs/<hash>`, `snapshots/<commit>/<path>` linking
//! there, `refs/<revision>`, `trees/<commit>.json`, and `.locks/` beside the repositories. A
//! local folder has the files, and what is known of each under `.cache/huggingface/`, as `hf
//! download --local-dir` leaves it.
//!
//! Of our own are `.part` files and, in the cache, `.verified/<hash>`: the size and time of a
//! blob whose bytes this program has hashed; blobs that others fetched are hashed once.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::error::Result;
use super::lock::Waiter;
use super::part::remove_if_there;
use super::repo::{CommitSha, Repo};
use super::tree::{self, TreeFile};
use crate::fsio;
use crate::hash::{ExpectedFile, Hash, Voucher};
use crate::progress::{Cancel, SharedProgress};

/// The cache folders of one repository.
#[derive(Debug, Clone)]
pub struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

/// A folder that the user named.
#[derive(Debug, Clone)]
pub struct LocalDir(PathBuf);

/// The paths that belong to one file while it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// While incomplete.
    pub part: PathBuf,
    /// When complete.
    pub place: PathBuf,
    /// Held while working on it.
    pub lock: PathBuf,
    /// Says that it was verified.
    pub record: PathBuf,
}

/// What is at a slot's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Present {
    /// Nothing, or something of another size.
    No,
    /// The right size, hash not known to be right.
    Unverified,
    /// Hashed since it was last written.
    Verified,
}

impl RepoCache {
    /// Names the folders of a repository in a cache.
    #[must_use]
    pub fn new(cache_dir: &Path, repo: &Repo) -> Self {
        let folder = repo.folder_name();
        Self { root: cache_dir.join(&folder), locks: cache_dir.join(".locks").join(folder) }
    }

    /// Returns the folder of this repository's locks, ours and those of `hf`.
    pub(super) fn locks(&self) -> &Path {
        &self.locks
    }

    /// Returns the repository that a path lies in a snapshot of, if it does.
    #[must_use]
    pub fn of_snapshot(path: &Path) -> Option<Self> {
        // The files of a snapshot are links, its folder is none.
        let dir = if path.is_dir() { path } else { fsio::parent(path) }.canonicalize().ok()?;
        let snapshots = dir.ancestors().find(|at| at.file_name().is_some_and(|n| n == "snapshots"));
        let root = snapshots?.parent()?;
        let repo = Repo::from_folder_name(root.file_name()?.to_str()?)?;
        Some(Self::new(root.parent()?, &repo))
    }

    /// Says to other processes that the repository is in use, until the lock is dropped: nothing
    /// of it is removed meanwhile, and what is just being removed is waited for. `None` where the
    /// cache cannot be written, so nobody removes.
    ///
    /// # Errors
    /// [`super::Error::Interrupted`] when `cancel` was set while it waited.
    pub fn in_use(
        &self,
        progress: &SharedProgress,
        cancel: &Cancel,
    ) -> Result<Option<fsio::Locked>> {
        let other = "removes files of this repository";
        Waiter { other, progress, cancel }.until(|| Ok(self.try_in_use()))
    }

    /// `Some(None)` where nothing can be locked; `None` while a removal has the lock.
    fn try_in_use(&self) -> Option<Option<fsio::Locked>> {
        let path = self.locks.join(USE_LOCK);
        // A removal takes the folder away with the rest: each try makes it anew.
        if fsio::create_dir_all(&self.locks).is_err() {
            return Some(None);
        }
        let lock = match fsio::open_rw(&path) {
            Ok(file) => fsio::Locked::try_shared(file, &path),
            // Taken away since the line above.
            Err(fsio::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return None;
            }
            Err(error) => Err(error),
        };
        match lock {
            Ok(lock) => lock.filter(|lock| lock.is_at(&path)).map(Some),
            Err(_) => Some(None),
        }
    }

    /// Returns the folder of a commit.
    #[must_use]
    pub fn snapshot(&self, commit: &CommitSha) -> PathBuf {
        self.root.join("snapshots").join(commit.as_str())
    }

    /// Returns the folder in which a commit's files are plain files; see [`super::plain`].
    pub(super) fn plain(&self, commit: &CommitSha) -> PathBuf {
        self.root.join(".plain").join(commit.as_str())
    }

    pub(super) fn plain_lock(&self) -> PathBuf {
        self.locks.join("plain.lock")
    }

    /// Returns the commit that a branch or tag had when it was last fetched.
    #[must_use]
    pub fn read_ref(&self, revision: &str) -> Option<CommitSha> {
        if !crate::name::is_safe_relative_path(revision) {
            return None;
        }
        let text = fsio::read_capped(&self.root.join("refs").join(revision), 256).ok()?;
        CommitSha::new(std::str::from_utf8(&text).ok()?.trim())
    }

    /// Returns the branches and tags that were fetched, sorted.
    #[must_use]
    pub fn refs(&self) -> Vec<(String, CommitSha)> {
        let names = fsio::readable_files_below(&self.root.join("refs"));
        names.into_iter().filter_map(|name| Some((name.clone(), self.read_ref(&name)?))).collect()
    }

    pub(super) fn write_ref(&self, revision: &str, commit: &CommitSha) -> Result<()> {
        let path = self.root.join("refs").join(revision);
        if self.read_ref(revision).as_ref() != Some(commit) {
            fsio::write_atomic(&path, commit.as_str().as_bytes())?;
        }
        Ok(())
    }

    /// Returns the paths of a commit's files, fetched or not, if its list was kept.
    #[must_use]
    pub fn listed(&self, commit: &CommitSha) -> Option<Vec<String>> {
        Some(self.read_tree(commit)?.into_iter().map(|file| file.path).collect())
    }

    /// Returns the file list of a commit, if it was kept.
    pub(super) fn read_tree(&self, commit: &CommitSha) -> Option<Vec<TreeFile>> {
        tree::read_json(&self.tree_path(commit))
    }

    pub(super) fn write_tree(&self, commit: &CommitSha, files: &[TreeFile]) -> Result<()> {
        tree::write_json(&self.tree_path(commit), files)
    }

    fn tree_path(&self, commit: &CommitSha) -> PathBuf {
        self.root.join("trees").join(format!("{commit}.json"))
    }

    pub(super) fn slot(&self, hash: &Hash) -> Slot {
        let hex = hash.hex();
        Slot {
            part: self.root.join("blobs").join(format!("{hex}.part")),
            place: self.root.join("blobs").join(&hex),
            lock: self.locks.join(format!("{hex}.lock")),
            record: self.root.join(".verified").join(&hex),
        }
    }

    pub(super) fn present(&self, file: &TreeFile) -> Present {
        let slot = self.slot(&file.hash);
        let Ok(meta) = std::fs::metadata(&slot.place) else { return Present::No };
        if !meta.is_file() || meta.len() != file.size {
            return Present::No;
        }
        match fsio::read_capped(&slot.record, 256) {
            Ok(record) if record == stamp(&meta).as_bytes() => Present::Verified,
            _ => Present::Unverified,
        }
    }

    pub(super) fn mark_verified(&self, hash: &Hash) -> Result<()> {
        let slot = self.slot(hash);
        let meta = std::fs::metadata(&slot.place).map_err(fsio::Error::io("stat", &slot.place))?;
        Ok(fsio::write_atomic(&slot.record, stamp(&meta).as_bytes())?)
    }

    /// Says whether the snapshot of a commit shows this file.
    pub(super) fn is_linked(&self, commit: &CommitSha, file: &TreeFile) -> bool {
        let link = self.snapshot(commit).join(&file.path);
        std::fs::read_link(link).is_ok_and(|target| target == link_target(file))
    }

    /// Shows a blob in the snapshot of a commit.
    pub(super) fn link(&self, commit: &CommitSha, file: &TreeFile) -> Result<()> {
        if self.is_linked(commit, file) {
            return Ok(());
        }
        let link = self.snapshot(commit).join(&file.path);
        fsio::create_dir_all(fsio::parent(&link))?;
        Ok(fsio::symlink_atomic(&link_target(file), &link)?)
    }
}

impl LocalDir {
    /// Names a folder.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Returns the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn records(&self) -> PathBuf {
        self.0.join(".cache").join("huggingface")
    }

    pub(super) fn slot(&self, file: &TreeFile) -> Slot {
        let record =
            |suffix: &str| self.records().join("download").join(format!("{}.{suffix}", file.path));
        Slot {
            part: record("part"),
            place: self.0.join(&file.path),
            lock: record("lock"),
            record: record("metadata"),
        }
    }

    pub(super) fn present(&self, file: &TreeFile) -> Present {
        let slot = self.slot(file);
        let Ok(meta) = std::fs::metadata(&slot.place) else { return Present::No };
        if !meta.is_file() || meta.len() != file.size {
            return Present::No;
        }
        match read_metadata(&slot.record) {
            // huggingface_hub takes any older file for the one that it wrote; a copy that keeps its
            // time, laid over it, would pass. What `hf` wrote is hashed once instead.
            Some((hash, time)) if hash == file.hash && is_stamp(time, &meta) => Present::Verified,
            _ => Present::Unverified,
        }
    }

    /// Returns a file that a pull has put here and that is not in `tree`, if there is one: what is
    /// pulled from `tree` would stand beside a file of another revision.
    pub(super) fn other_revision(&self, tree: &[TreeFile]) -> Option<String> {
        let known: BTreeMap<_, _> = tree.iter().map(|file| (&*file.path, file.hash)).collect();
        let fits = |file: &ExpectedFile| known.get(&*file.path) == Some(&file.hash);
        from_metadata(&self.0).into_iter().find(|file| !fits(file)).map(|file| file.path)
    }

    /// Says whether something stands in the place of a file that no pull has put there.
    pub(super) fn is_foreign(&self, file: &TreeFile) -> bool {
        let slot = self.slot(file);
        slot.place.symlink_metadata().is_ok() && read_metadata(&slot.record).is_none()
    }

    /// Writes huggingface_hub's record: commit, ETag, and the time until which it holds.
    pub(super) fn mark_verified(&self, commit: &CommitSha, file: &TreeFile) -> Result<()> {
        let slot = self.slot(file);
        let meta = std::fs::metadata(&slot.place).map_err(fsio::Error::io("stat", &slot.place))?;
        let text = format!("{commit}\n{}\n{:.6}\n", file.hash.hex(), local_stamp(&meta));
        Ok(fsio::write_atomic(&slot.record, text.as_bytes())?)
    }

    /// Keeps the records out of git and of backups.
    pub(super) fn prepare(&self) -> Result<()> {
        let ignore = self.records().join(".gitignore");
        if !ignore.exists() {
            fsio::write_atomic(&ignore, b"*\n")?;
        }
        Ok(())
    }

    pub(super) fn write_tree(&self, commit: &CommitSha, files: &[TreeFile]) -> Result<()> {
        tree::write_json(&self.records().join("trees").join(format!("{commit}.json")), files)
    }
}

/// Returns what the files of a folder must hash to, by the records that a pull (ours or `hf`'s)
/// left: the list of the commit, the names of linked blobs, or the metadata of a local folder.
/// Sorted by path; `None` when the folder came from no Hub.
#[must_use]
pub fn expected_hashes(dir: &Path) -> Option<Vec<ExpectedFile>> {
    let dir = dir.canonicalize().ok()?;
    let expected = from_tree(&dir).or_else(|| {
        let mut found = from_links(&dir);
        found.extend(from_metadata(&dir));
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Some(found)
    })?;
    (!expected.is_empty()).then_some(expected)
}

/// Forgets that a file of a snapshot or local folder was verified: the next pull hashes it, and
/// fetches it if it is damaged. `path` is relative to `dir`.
///
/// What the Hub said of the file is kept, for the next check.
///
/// # Errors
/// The record is there and cannot be changed.
pub fn forget_verified(dir: &Path, path: &str) -> Result<()> {
    if !crate::name::is_safe_relative_path(path) {
        return Ok(());
    }
    let local = dir.join(".cache/huggingface/download").join(format!("{path}.metadata"));
    if let Ok(bytes) = fsio::read_capped(&local, 4096) {
        let text = String::from_utf8_lossy(&bytes);
        let kept: Vec<&str> = text.lines().take(2).collect();
        // No file is as old as the epoch: neither we nor huggingface_hub trust this record.
        fsio::write_atomic(&local, format!("{}\n0.000000\n", kept.join("\n")).as_bytes())?;
    }
    let Ok(blob) = dir.join(path).canonicalize() else { return Ok(()) };
    let blobs = fsio::parent(&blob);
    match blob.file_name() {
        Some(name) if blobs.file_name().is_some_and(|folder| folder == "blobs") => {
            remove_if_there(&fsio::parent(blobs).join(".verified").join(name))
        }
        _ => Ok(()),
    }
}

/// Returns the files of a snapshot's revision that are not in the cache, sorted: a pull with
/// `--include` or `--exclude` leaves them out. Empty where nobody knows the revision's files.
#[must_use]
pub fn files_left_out(dir: &Path) -> Vec<String> {
    let files = dir.canonicalize().ok().and_then(|dir| Some((revision_files(&dir)?, dir)));
    let Some((files, dir)) = files else { return Vec::new() };
    let absent = files.into_iter().filter(|file| dir.join(&file.path).symlink_metadata().is_err());
    let mut names: Vec<String> = absent.map(|file| file.path).collect();
    names.sort_unstable();
    names
}

/// What is known without reading them of the files of a snapshot whose hash we checked once.
#[derive(Debug, Default)]
pub struct Checks(BTreeMap<String, Check>);

/// One file that was checked.
#[derive(Debug)]
struct Check {
    record: PathBuf,
    /// What the record says.
    then: String,
    /// What it would say now.
    now: String,
}

impl Checks {
    /// Looks up the records of a snapshot's files; none where we checked none of them.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let found = || {
            let dir = dir.canonicalize().ok()?;
            let (cache, files) = (RepoCache::of_snapshot(&dir)?, revision_files(&dir)?);
            let check = |file: TreeFile| {
                let record = cache.slot(&file.hash).record;
                let then = String::from_utf8(fsio::read_capped(&record, 256).ok()?).ok()?;
                let now = stamp(&std::fs::metadata(dir.join(&file.path)).ok()?);
                Some((file.path, Check { record, then, now }))
            };
            Some(files.into_iter().filter_map(check).collect())
        };
        Self(found().unwrap_or_default())
    }

    /// Returns how many files are not as they were when their hash was checked, by size and time.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.0.values().filter(|check| check.then != check.now).count()
    }

    /// Notes that a file, as it was when these were looked up, has the right hash.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn renew(&self, path: &str) -> Result<()> {
        match self.0.get(path) {
            Some(check) if check.then != check.now => {
                Ok(fsio::write_atomic(&check.record, check.now.as_bytes())?)
            }
            _ => Ok(()),
        }
    }
}

/// The list of a snapshot's commit.
fn revision_files(dir: &Path) -> Option<Vec<TreeFile>> {
    let commit = dir.file_name()?.to_str()?;
    let root = dir.parent()?.parent()?;
    if dir.parent()?.file_name()? != "snapshots" {
        return None;
    }
    tree::read_json(&root.join("trees").join(format!("{commit}.json")))
}

/// The list of a snapshot's commit, reduced to the files that are there: a pull with `--include`
/// leaves others out on purpose.
fn from_tree(dir: &Path) -> Option<Vec<ExpectedFile>> {
    let there = revision_files(dir)?
        .into_iter()
        .filter(|file| dir.join(&file.path).symlink_metadata().is_ok());
    Some(there.map(|file| vouched(file.path, Some(file.size), file.hash)).collect())
}

fn vouched(path: String, len_bytes: Option<u64>, hash: Hash) -> ExpectedFile {
    ExpectedFile { path, len_bytes, hash, voucher: Voucher::Hub }
}

fn from_links(dir: &Path) -> Vec<ExpectedFile> {
    if fsio::parent(dir).file_name().is_none_or(|name| name != "snapshots") {
        return Vec::new();
    }
    let hash_of = |name: &String| {
        let target = std::fs::read_link(dir.join(name)).ok()?;
        let blobs = target.parent()?.file_name()?;
        Hash::from_hex(target.file_name()?.to_str()?).filter(|_| blobs == "blobs")
    };
    let names = fsio::readable_files_below(dir).into_iter();
    names.filter_map(|path| hash_of(&path).map(|hash| vouched(path, None, hash))).collect()
}

fn from_metadata(dir: &Path) -> Vec<ExpectedFile> {
    let records = dir.join(".cache/huggingface/download");
    fsio::readable_files_below(&records)
        .iter()
        .filter_map(|name| {
            let path = name.strip_suffix(".metadata")?.to_owned();
            let (hash, _) = read_metadata(&records.join(name))?;
            dir.join(&path).exists().then(|| vouched(path, None, hash))
        })
        .collect()
}

fn read_metadata(path: &Path) -> Option<(Hash, f64)> {
    let bytes = fsio::read_capped(path, 4096).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let mut lines = text.lines().skip(1);
    Some((Hash::from_hex(lines.next()?)?, lines.next()?.parse().ok()?))
}

fn link_target(file: &TreeFile) -> PathBuf {
    let up = file.path.matches('/').count() + 2;
    PathBuf::from("../".repeat(up)).join("blobs").join(file.hash.hex())
}

fn stamp(meta: &Metadata) -> String {
    format!("{} {}.{:09}\n", meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// The time until which huggingface_hub takes a file for the one that the record speaks of.
fn local_stamp(meta: &Metadata) -> f64 {
    mtime_secs(meta) + 1e-6
}

fn is_stamp(time: f64, meta: &Metadata) -> bool {
    // Six digits after the point are written.
    (time - local_stamp(meta)).abs() < 1.5e-6
}

fn mtime_secs(meta: &Metadata) -> f64 {
    meta.mtime() as f64 + meta.mtime_nsec() as f64 / 1e9
}

/// The name of the lock that pulls and readers share and a removal has alone.
pub(super) const USE_LOCK: &str = "in-use.lock";

#[cfg(test)]
mod tests {
    use super::{CommitSha, Hash, LocalDir, Present, RepoCache, TreeFile};
    use super::{expected_hashes, vouched};
    use crate::hash::hash_file;
    use crate::hub::repo::{Repo, RepoKind};
    use crate::progress::Cancel;

    fn file(path: &str, content: &[u8]) -> TreeFile {
        let mut hasher = Hash::GitSha1([0; 20]).hasher(content.len() as u64);
        hasher.update(content);
        let hash = hasher.finish();
        let size = content.len() as u64;
        TreeFile { path: path.into(), size, hash, git_oid: hash.hex(), xet_hash: None }
    }

    fn commit() -> CommitSha {
        CommitSha::new(&"ab".repeat(20)).expect("valid")
    }

    #[test]
    fn a_blob_is_hashed_once_and_again_when_it_changed() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let repo = Repo::new(RepoKind::Model, "o/n").expect("valid");
        let cache = RepoCache::new(dir.path(), &repo);
        let file = file("sub/a.txt", b"hello");
        assert_eq!(cache.present(&file), Present::No);
        let blob = cache.slot(&file.hash).place;
        crate::fsio::write_atomic(&blob, b"hello").expect("writes");
        assert_eq!(cache.present(&file), Present::Unverified);
        cache.mark_verified(&file.hash).expect("marks");
        assert_eq!(cache.present(&file), Present::Verified);
        crate::fsio::write_atomic(&blob, b"jello").expect("writes");
        assert_eq!(cache.present(&file), Present::Unverified);
        assert_ne!(hash_file(&blob, &file.hash, &|_| {}).expect("hashes"), file.hash);
    }

    #[test]
    fn links_lead_to_the_blob_and_tell_its_hash() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let repo = Repo::new(RepoKind::Model, "o/n").expect("valid");
        let cache = RepoCache::new(dir.path(), &repo);
        let file = file("sub/a.txt", b"hello");
        crate::fsio::write_atomic(&cache.slot(&file.hash).place, b"hello").expect("writes");
        cache.link(&commit(), &file).expect("links");
        cache.link(&commit(), &file).expect("links again");
        let snapshot = cache.snapshot(&commit());
        assert_eq!(std::fs::read(snapshot.join("sub/a.txt")).expect("reads"), b"hello");
        let want = |len_bytes| vec![vouched("sub/a.txt".into(), len_bytes, file.hash)];
        assert_eq!(expected_hashes(&snapshot), Some(want(None)));
        cache.write_tree(&commit(), std::slice::from_ref(&file)).expect("writes");
        assert_eq!(expected_hashes(&snapshot), Some(want(Some(5))));
        assert_eq!(expected_hashes(dir.path()), None);
    }

    #[test]
    fn a_local_folder_remembers_until_a_file_changes() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let local = LocalDir::new(dir.path());
        let file = file("sub/a.txt", b"hello");
        let place = local.slot(&file).place;
        crate::fsio::write_atomic(&place, b"hello").expect("writes");
        assert_eq!(local.present(&file), Present::Unverified);
        local.mark_verified(&commit(), &file).expect("marks");
        assert_eq!(local.present(&file), Present::Verified);
        assert_eq!(expected_hashes(dir.path()).expect("known")[0].hash, file.hash);
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        let open = std::fs::File::options().append(true).open(&place).expect("opens");
        open.set_modified(later).expect("sets the time");
        assert_eq!(local.present(&file), Present::Unverified);
    }

    #[test]
    fn refs_do_not_leave_their_folder() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let repo = Repo::new(RepoKind::Model, "o/n").expect("valid");
        let cache = RepoCache::new(dir.path(), &repo);
        cache.write_ref("feature/x", &commit()).expect("writes");
        assert_eq!(cache.read_ref("feature/x"), Some(commit()));
        assert_eq!(cache.refs(), [("feature/x".to_owned(), commit())]);
        assert_eq!(cache.read_ref("../../x"), None);
    }

    /// A removal of everything takes the lock's folder away while a pull waits for the lock.
    #[test]
    fn who_waits_for_a_removal_ends_with_a_lock_that_others_find() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let repo = Repo::new(RepoKind::Model, "o/n").expect("valid");
        let cache = RepoCache::new(dir.path(), &repo);
        let path = cache.locks().join(super::USE_LOCK);
        let alone = || {
            crate::fsio::create_dir_all(cache.locks()).expect("makes");
            let file = crate::fsio::open_rw(&path).expect("opens");
            crate::fsio::Locked::try_new(file, &path).expect("locks")
        };
        let removal = alone().expect("free");
        let (silent, cancel) = (crate::progress::silent(), Cancel::default());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| cache.in_use(&silent, &cancel));
            std::thread::sleep(std::time::Duration::from_millis(120));
            assert!(!waits.is_finished());
            std::fs::remove_dir_all(cache.locks()).expect("removes");
            drop(removal);
            let used = waits.join().expect("joins").expect("waits").expect("is locked");
            assert!(alone().is_none(), "the lock is not where others look");
            drop(used);
        });
        let _removal = alone().expect("free");
        cancel.set();
        let ended = cache.in_use(&silent, &cancel).expect_err("was cancelled");
        assert!(matches!(ended, crate::hub::Error::Interrupted { .. }), "{ended}");
    }
}
