//! The shared cache as a whole: what is in it, and taking things out of it again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::part::remove_if_there;
use super::repo::{CommitSha, Repo};
use super::store::{RepoCache, USE_LOCK};
use crate::fsio;

/// What is in a cache.
#[derive(Debug, Clone, Default)]
pub struct CacheReport {
    /// The repositories, sorted by kind and name.
    pub repos: Vec<CachedRepo>,
    /// The bytes of all blobs and partial files.
    pub size_bytes: u64,
}

/// One repository in the cache.
#[derive(Debug, Clone)]
pub struct CachedRepo {
    /// The repository.
    pub repo: Repo,
    /// Its folder.
    pub folder: PathBuf,
    /// Its revisions, sorted by commit.
    pub revisions: Vec<CachedRevision>,
    /// All blobs with their sizes, whether or not a revision shows them.
    pub blobs: BTreeMap<PathBuf, u64>,
    /// Partial files of interrupted downloads, ours and `hf`'s.
    pub partial: BTreeMap<PathBuf, u64>,
}

/// One snapshot in the cache.
#[derive(Debug, Clone)]
pub struct CachedRevision {
    /// The commit.
    pub commit: CommitSha,
    /// The branches and tags that point here.
    pub refs: Vec<String>,
    /// The folder.
    pub folder: PathBuf,
    /// The blobs that it shows.
    pub blobs: BTreeSet<PathBuf>,
    /// How many files it shows.
    pub files: usize,
    /// The sum of the sizes of its blobs.
    pub size_bytes: u64,
}

/// What to take out of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A whole repository.
    Repo(Repo),
    /// Some commits of a repository, and the blobs that no other commit shows.
    Revisions(Repo, Vec<CommitSha>),
    /// Snapshots that no branch or tag names, blobs that no snapshot shows, partial files.
    Prune,
}

/// What a removal takes away: the same object is shown and executed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovalPlan {
    /// Folders that go as a whole.
    pub folders: Vec<PathBuf>,
    /// Single files.
    pub files: Vec<PathBuf>,
    /// The bytes that this frees.
    pub freed_bytes: u64,
    /// Repositories that are left alone because somebody fetches or reads them now.
    pub in_use: Vec<Repo>,
    /// The repositories that lose something, and the folder of the locks of each.
    touched: Vec<(Repo, PathBuf)>,
}

impl CachedRepo {
    /// Returns the bytes of all blobs and partial files.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.blobs.values().chain(self.partial.values()).sum()
    }
}

/// Looks through a cache. A cache that does not exist is empty.
///
/// # Errors
/// The file system's.
pub fn scan(cache_dir: &Path) -> Result<CacheReport> {
    let mut report = CacheReport::default();
    let entries = match std::fs::read_dir(cache_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(report),
        Err(e) => return Err(fsio::Error::io("list", cache_dir)(e).into()),
    };
    for entry in entries {
        let entry = entry.map_err(fsio::Error::io("list", cache_dir))?;
        let name = entry.file_name();
        if let Some(repo) = name.to_str().and_then(Repo::from_folder_name) {
            report.repos.push(scan_repo(cache_dir, repo, entry.path()));
        }
    }
    report.repos.sort_by(|a, b| a.repo.cmp(&b.repo));
    report.size_bytes = report.repos.iter().map(CachedRepo::size_bytes).sum();
    Ok(report)
}

fn scan_repo(cache_dir: &Path, repo: Repo, folder: PathBuf) -> CachedRepo {
    let (mut blobs, mut partial) = (BTreeMap::new(), BTreeMap::new());
    let blobs_dir = folder.join("blobs");
    for name in fsio::readable_files_below(&blobs_dir) {
        let path = blobs_dir.join(&name);
        let size = std::fs::metadata(&path).map_or(0, |meta| disk_bytes(&meta));
        match name.split_once('.') {
            Some((_, "part" | "part.journal")) => partial.insert(path, size),
            Some((_, rest)) if rest.ends_with("incomplete") => partial.insert(path, size),
            _ => blobs.insert(path, size),
        };
    }
    let cache = RepoCache::new(cache_dir, &repo);
    let refs = cache.refs();
    let mut revisions = Vec::new();
    for entry in std::fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten() {
        if let Some(commit) = entry.file_name().to_str().and_then(CommitSha::new) {
            revisions.push(scan_revision(entry.path(), commit, &refs, &blobs));
        }
    }
    revisions.sort_by(|a, b| a.commit.cmp(&b.commit));
    CachedRepo { repo, folder, revisions, blobs, partial }
}

fn scan_revision(
    folder: PathBuf,
    commit: CommitSha,
    refs: &[(String, CommitSha)],
    sizes: &BTreeMap<PathBuf, u64>,
) -> CachedRevision {
    let names = fsio::readable_files_below(&folder);
    let mut blobs = BTreeSet::new();
    for name in &names {
        let link = folder.join(name);
        if let Ok(target) = std::fs::read_link(&link)
            && let Some(hex) = target.file_name()
            && let Some(repo_folder) = folder.parent().and_then(Path::parent)
        {
            blobs.insert(repo_folder.join("blobs").join(hex));
        }
    }
    let mine = refs.iter().filter(|(_, c)| *c == commit).map(|(name, _)| name.clone());
    CachedRevision {
        refs: mine.collect(),
        files: names.len(),
        size_bytes: blobs.iter().filter_map(|blob| sizes.get(blob)).sum(),
        commit,
        folder,
        blobs,
    }
}

impl CacheReport {
    /// Says what a removal would take away. Empty when there is nothing to take.
    #[must_use]
    pub fn plan_removal(&self, removal: &Removal) -> RemovalPlan {
        let mut plan = RemovalPlan::default();
        for cached in &self.repos {
            match removal {
                Removal::Repo(repo) if *repo == cached.repo => plan.whole(cached),
                Removal::Revisions(repo, commits) if *repo == cached.repo => {
                    let gone: Vec<_> =
                        cached.revisions.iter().filter(|r| commits.contains(&r.commit)).collect();
                    if gone.len() == cached.revisions.len() && !gone.is_empty() {
                        plan.whole(cached);
                    } else {
                        plan.revisions(cached, &gone);
                    }
                }
                Removal::Prune => plan.prune(cached),
                _ => {}
            }
        }
        plan
    }
}

impl RemovalPlan {
    /// Says whether there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty() && self.files.is_empty()
    }

    /// Takes it all away: names before what they point to, so that an interrupted removal
    /// leaves unnamed bytes rather than names without bytes.
    ///
    /// # Errors
    /// [`Error::InUse`], before anything is removed; the file system's. What is gone already is no
    /// error.
    pub fn run(&self) -> Result<()> {
        let mut held = Vec::new();
        for (repo, locks) in &self.touched {
            let alone = alone(locks)?.ok_or_else(|| Error::InUse { repo: repo.to_string() })?;
            held.extend(alone);
        }
        for folder in &self.folders {
            match std::fs::remove_dir_all(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(fsio::Error::io("remove", folder)(e).into());
                }
                _ => {}
            }
        }
        self.files.iter().try_for_each(|file| remove_if_there(file))
    }

    fn touch(&mut self, cached: &CachedRepo) {
        self.touched.push((cached.repo.clone(), locks_of(cached)));
    }

    fn whole(&mut self, cached: &CachedRepo) {
        self.touch(cached);
        self.folders.push(cached.folder.clone());
        self.folders.push(locks_of(cached));
        self.freed_bytes += cached.size_bytes();
    }

    fn revisions(&mut self, cached: &CachedRepo, gone: &[&CachedRevision]) {
        self.touch(cached);
        let stays = |r: &&CachedRevision| !gone.iter().any(|g| g.commit == r.commit);
        let used: BTreeSet<_> =
            cached.revisions.iter().filter(stays).flat_map(|r| &r.blobs).collect();
        for revision in gone {
            self.folders.push(revision.folder.clone());
            self.folders.push(cached.folder.join(".plain").join(revision.commit.as_str()));
            let refs = revision.refs.iter().map(|name| cached.folder.join("refs").join(name));
            self.files.extend(refs);
            self.files.push(cached.folder.join("trees").join(format!("{}.json", revision.commit)));
        }
        let blobs: BTreeSet<_> = gone.iter().flat_map(|r| &r.blobs).collect();
        for blob in blobs.difference(&used) {
            self.blob(cached, blob);
        }
    }

    fn prune(&mut self, cached: &CachedRepo) {
        // What a pull has laid down has no name until its end, and looks like rubbish. Locks that
        // cannot be tried are an error of the run.
        if matches!(alone(&locks_of(cached)), Ok(None)) {
            self.in_use.push(cached.repo.clone());
            return;
        }
        let gone: Vec<_> = cached.revisions.iter().filter(|r| r.refs.is_empty()).collect();
        self.revisions(cached, &gone);
        let shown: BTreeSet<_> = cached.revisions.iter().flat_map(|r| &r.blobs).collect();
        for blob in cached.blobs.keys().filter(|blob| !shown.contains(blob)) {
            self.blob(cached, blob);
        }
        for (path, size) in &cached.partial {
            self.files.push(path.clone());
            self.freed_bytes += size;
        }
    }

    fn blob(&mut self, cached: &CachedRepo, blob: &Path) {
        self.freed_bytes += cached.blobs.get(blob).copied().unwrap_or(0);
        self.files.push(blob.to_owned());
        if let Some(name) = blob.file_name() {
            self.files.push(cached.folder.join(".verified").join(name));
        }
    }
}

/// Returns the folder of a repository's locks.
fn locks_of(cached: &CachedRepo) -> PathBuf {
    let cache_dir = fsio::parent(&cached.folder);
    RepoCache::new(cache_dir, &cached.repo).locks().to_owned()
}

/// Takes all locks of a repository; `None` if a pull, ours or `hf`'s, or a reader has one of them.
fn alone(locks: &Path) -> Result<Option<Vec<fsio::Locked>>> {
    let mut held = Vec::new();
    let mut names = fsio::readable_files_below(locks);
    // Who begins now must find the lock.
    if locks.is_dir() && !names.iter().any(|name| name == USE_LOCK) {
        names.push(USE_LOCK.to_owned());
    }
    for name in names.iter().filter(|name| name.ends_with(".lock")) {
        let path = locks.join(name);
        match fsio::Locked::try_new(fsio::open_rw(&path)?, &path)? {
            Some(lock) => held.push(lock),
            None => return Ok(None),
        }
    }
    Ok(Some(held))
}

/// Returns the blocks of a file in bytes, for one that is sparse; else its length.
fn disk_bytes(meta: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    meta.len().min(meta.blocks() * 512).max(if meta.blocks() == 0 { meta.len() } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::{CommitSha, Removal, Repo, scan};
    use crate::fsio::write_atomic;
    use crate::hub::repo::RepoKind;

    /// Two commits that share blob `bb`, one of them without a name, and a partial file.
    fn cache() -> (tempfile::TempDir, Repo) {
        let dir = tempfile::tempdir().expect("a temp dir");
        let repo = Repo::new(RepoKind::Model, "o/n").expect("valid");
        let root = dir.path().join(repo.folder_name());
        for (blob, len) in [("aa", 10), ("bb", 20), ("cc", 30), ("dd", 5)] {
            write_atomic(&root.join("blobs").join(blob), &vec![1; len]).expect("writes");
        }
        write_atomic(&root.join("blobs/ee.part"), b"part").expect("writes");
        write_atomic(&root.join("blobs/ee.part.journal"), b"j").expect("writes");
        for (commit, blobs) in [("1", ["aa", "bb"]), ("2", ["bb", "cc"])] {
            let snapshot = root.join("snapshots").join(commit.repeat(40));
            std::fs::create_dir_all(&snapshot).expect("makes");
            for blob in blobs {
                let link = snapshot.join(format!("file-{blob}"));
                std::os::unix::fs::symlink(format!("../../blobs/{blob}"), link).expect("links");
            }
        }
        write_atomic(&root.join("refs/step_1"), "1".repeat(40).as_bytes()).expect("writes");
        (dir, repo)
    }

    fn names(plan: &super::RemovalPlan) -> Vec<String> {
        let all = plan.folders.iter().chain(&plan.files);
        all.map(|p| p.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_scan_counts_shared_blobs_once() {
        let (dir, repo) = cache();
        let report = scan(dir.path()).expect("scans");
        assert_eq!(report.size_bytes, 10 + 20 + 30 + 5 + 5);
        assert_eq!(report.repos[0].repo, repo);
        let revisions = &report.repos[0].revisions;
        assert_eq!(revisions[0].refs, ["step_1"]);
        assert_eq!((revisions[0].size_bytes, revisions[1].size_bytes), (30, 50));
        assert_eq!(scan(&dir.path().join("none")).expect("scans").repos.len(), 0);
    }

    #[test]
    fn prune_takes_what_no_name_leads_to() {
        let (dir, repo) = cache();
        let plan = scan(dir.path()).expect("scans").plan_removal(&Removal::Prune);
        assert_eq!(plan.freed_bytes, 30 + 5 + 5);
        plan.run().expect("runs");
        let report = scan(dir.path()).expect("scans");
        assert_eq!(report.repos[0].revisions.len(), 1);
        assert_eq!(report.size_bytes, 30);
        assert!(report.plan_removal(&Removal::Prune).is_empty());
        let one = CommitSha::new(&"1".repeat(40)).expect("valid");
        let plan = report.plan_removal(&Removal::Revisions(repo, vec![one]));
        assert_eq!(names(&plan), ["models--o--n", "models--o--n"]);
        plan.run().expect("runs");
        assert_eq!(scan(dir.path()).expect("scans").repos.len(), 0);
    }

    #[test]
    fn removing_one_revision_spares_what_others_show() {
        let (dir, repo) = cache();
        let one = CommitSha::new(&"1".repeat(40)).expect("valid");
        let report = scan(dir.path()).expect("scans");
        let plan = report.plan_removal(&Removal::Revisions(repo, vec![one]));
        assert_eq!(plan.freed_bytes, 10);
        assert!(!names(&plan).contains(&"bb".to_owned()), "{plan:?}");
    }
}
