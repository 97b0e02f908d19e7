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
    cache_dir: PathBuf,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What a removal takes away: what is shown, and what [`remove`] then takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovalPlan {
    /// The revisions that go.
    pub revisions: Vec<CachedRevision>,
    /// Folders that go as a whole.
    pub folders: Vec<PathBuf>,
    /// Single files.
    pub files: Vec<PathBuf>,
    /// The bytes that this frees.
    pub freed_bytes: u64,
    /// Repositories that are left alone because somebody fetches or reads them now.
    pub in_use: Vec<Repo>,
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
    let mut report = CacheReport { cache_dir: cache_dir.to_owned(), ..CacheReport::default() };
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
        // Locks that cannot be tried are an error of the run.
        let free = |repo: &Repo| {
            *removal != Removal::Prune || !matches!(alone(&self.cache_dir, repo), Ok(None))
        };
        self.plan(removal, &free)
    }

    /// Plans a removal of what is `free`.
    fn plan(&self, removal: &Removal, free: &dyn Fn(&Repo) -> bool) -> RemovalPlan {
        let mut plan = RemovalPlan::default();
        for cached in self.repos.iter().filter(|cached| removal.concerns(&cached.repo)) {
            // What a pull has laid down has no name until its end, and looks like rubbish.
            if !free(&cached.repo) {
                plan.in_use.push(cached.repo.clone());
                continue;
            }
            match removal {
                Removal::Repo(_) => plan.whole(cached),
                Removal::Revisions(_, commits) => {
                    let gone: Vec<_> =
                        cached.revisions.iter().filter(|r| commits.contains(&r.commit)).collect();
                    if gone.len() == cached.revisions.len() && !gone.is_empty() {
                        plan.whole(cached);
                    } else {
                        plan.revisions(cached, &gone);
                    }
                }
                Removal::Prune => plan.prune(cached),
            }
        }
        plan
    }
}

/// Takes out of a cache what `removal` means now, under the locks of its repositories, and returns
/// what that was. With `shown`, only that and nothing else: whoever agreed has seen it, and a pull
/// may have come in between.
///
/// # Errors
/// [`Error::InUse`] and [`Error::CacheChanged`], before anything is removed; the file system's.
/// What is gone already is no error.
pub fn remove(
    cache_dir: &Path,
    removal: &Removal,
    shown: Option<&RemovalPlan>,
) -> Result<RemovalPlan> {
    let mut held = BTreeMap::new();
    for cached in scan(cache_dir)?.repos.iter().filter(|cached| removal.concerns(&cached.repo)) {
        // Without its folder there is nothing to lock, and a pull could begin unseen.
        fsio::create_dir_all(RepoCache::new(cache_dir, &cached.repo).locks())?;
        match alone(cache_dir, &cached.repo)? {
            Some(locks) => {
                held.insert(cached.repo.clone(), locks);
            }
            None if *removal == Removal::Prune => {}
            None => return Err(Error::InUse { repo: cached.repo.to_string() }),
        }
    }
    // Nobody changes now what is held; what was looked at before that may be old.
    let plan = scan(cache_dir)?.plan(removal, &|repo| held.contains_key(repo));
    if shown.is_some_and(|shown| *shown != plan) {
        return Err(Error::CacheChanged);
    }
    plan.carry_out(cache_dir)?;
    Ok(plan)
}

impl Removal {
    fn concerns(&self, other: &Repo) -> bool {
        match self {
            Self::Repo(repo) | Self::Revisions(repo, _) => repo == other,
            Self::Prune => true,
        }
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
    fn carry_out(&self, cache_dir: &Path) -> Result<()> {
        for folder in &self.folders {
            if folder.starts_with(cache_dir.join(".locks")) {
                remove_locks(folder)?;
            } else {
                remove_folder(folder)?;
            }
        }
        self.files.iter().try_for_each(|file| remove_if_there(file))
    }

    fn whole(&mut self, cached: &CachedRepo) {
        self.revisions.extend(cached.revisions.iter().cloned());
        self.folders.push(cached.folder.clone());
        self.folders.push(locks_of(cached));
        self.freed_bytes += cached.size_bytes();
    }

    fn revisions(&mut self, cached: &CachedRepo, gone: &[&CachedRevision]) {
        let stays = |r: &&CachedRevision| !gone.iter().any(|g| g.commit == r.commit);
        let used: BTreeSet<_> =
            cached.revisions.iter().filter(stays).flat_map(|r| &r.blobs).collect();
        for revision in gone {
            self.revisions.push((*revision).clone());
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

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(fsio::Error::io("remove", folder)(e).into())
        }
        _ => Ok(()),
    }
}

/// Removes a folder of locks that is held: at one stroke, so that no pull that begins meanwhile
/// loses a lock which it made there.
fn remove_locks(folder: &Path) -> Result<()> {
    let aside = fsio::part_path(folder);
    remove_folder(&aside)?;
    fsio::rename(folder, &aside)?;
    remove_folder(&aside)
}

/// Takes all locks of a repository; `None` if a pull, ours or `hf`'s, or a reader has one of them.
fn alone(cache_dir: &Path, repo: &Repo) -> Result<Option<Vec<fsio::Locked>>> {
    let cache = RepoCache::new(cache_dir, repo);
    let locks = cache.locks();
    let mut held = Vec::new();
    let mut names = fsio::readable_files_below(locks);
    // Who begins now must find the lock.
    if locks.is_dir() && !names.iter().any(|name| name == USE_LOCK) {
        names.push(USE_LOCK.to_owned());
    }
    for name in names.iter().filter(|name| name.ends_with(".lock")) {
        let path = locks.join(name);
        match fsio::Locked::try_new(fsio::open_rw(&path)?, &path)? {
            // Another removal takes locks away with the rest.
            Some(lock) if lock.is_at(&path) => held.push(lock),
            _ => return Ok(None),
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
    use super::{CommitSha, Error, Removal, Repo, RepoCache, fsio, remove, scan};
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
        remove(dir.path(), &Removal::Prune, Some(&plan)).expect("removes");
        let report = scan(dir.path()).expect("scans");
        assert_eq!(report.repos[0].revisions.len(), 1);
        assert_eq!(report.size_bytes, 30);
        assert!(report.plan_removal(&Removal::Prune).is_empty());
        let one = CommitSha::new(&"1".repeat(40)).expect("valid");
        let removal = Removal::Revisions(repo, vec![one]);
        let plan = report.plan_removal(&removal);
        assert_eq!(names(&plan), ["models--o--n", "models--o--n"]);
        remove(dir.path(), &removal, Some(&plan)).expect("removes");
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

    /// Adds what a pull of another step leaves: a revision that shows `blobs`.
    fn pulled(dir: &std::path::Path, repo: &Repo, blobs: &[&str]) -> std::path::PathBuf {
        let root = dir.join(repo.folder_name());
        let snapshot = root.join("snapshots").join("3".repeat(40));
        std::fs::create_dir_all(&snapshot).expect("makes");
        for blob in blobs {
            let link = snapshot.join(format!("file-{blob}"));
            std::os::unix::fs::symlink(format!("../../blobs/{blob}"), link).expect("links");
        }
        write_atomic(&root.join("refs/step_3"), "3".repeat(40).as_bytes()).expect("writes");
        snapshot
    }

    #[test]
    fn what_came_after_the_plan_was_shown_is_not_removed() {
        let commit = |digit: &str| CommitSha::new(&digit.repeat(40)).expect("valid");
        for commits in [vec![commit("1"), commit("2")], vec![commit("1")]] {
            let (dir, repo) = cache();
            let removal = Removal::Revisions(repo.clone(), commits);
            let shown = scan(dir.path()).expect("scans").plan_removal(&removal);
            // No new byte: the new step shows blobs that were there.
            let snapshot = pulled(dir.path(), &repo, &["aa", "bb"]);
            let refused = remove(dir.path(), &removal, Some(&shown)).expect_err("has changed");
            assert!(matches!(refused, Error::CacheChanged), "{refused}");
            let plan = remove(dir.path(), &removal, None).expect("removes what is meant now");
            assert!(plan.revisions.iter().all(|r| r.commit != commit("3")), "{plan:?}");
            for blob in ["file-aa", "file-bb"] {
                std::fs::read(snapshot.join(blob)).expect("is there");
            }
        }
        let (dir, repo) = cache();
        let removal = Removal::Repo(repo.clone());
        let shown = scan(dir.path()).expect("scans").plan_removal(&removal);
        pulled(dir.path(), &repo, &["aa"]);
        let refused = remove(dir.path(), &removal, Some(&shown)).expect_err("has changed");
        assert!(matches!(refused, Error::CacheChanged), "{refused}");
        assert_eq!(scan(dir.path()).expect("scans").repos[0].revisions.len(), 3);
    }

    #[test]
    fn a_removal_waits_for_nobody_and_makes_its_locks() {
        let (dir, repo) = cache();
        let cache = RepoCache::new(dir.path(), &repo);
        assert!(!cache.locks().exists());
        let silent = crate::progress::silent();
        let cancel = crate::progress::Cancel::default();
        let used = cache.in_use(&silent, &cancel).expect("locks").expect("can be locked");
        let refused = remove(dir.path(), &Removal::Repo(repo.clone()), None).expect_err("in use");
        assert!(matches!(refused, Error::InUse { .. }), "{refused}");
        let plan = remove(dir.path(), &Removal::Prune, None).expect("prunes nothing");
        assert_eq!((plan.in_use.as_slice(), plan.is_empty()), ([repo.clone()].as_slice(), true));
        drop(used);
        remove(dir.path(), &Removal::Repo(repo), None).expect("removes");
        assert_eq!(std::fs::read_dir(dir.path().join(".locks")).expect("lists").count(), 0);
        assert!(fsio::readable_files_below(dir.path()).is_empty());
    }
}
