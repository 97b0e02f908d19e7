//! What a pull would do, before it does any of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::GlobMatcher;

use super::client::{Hub, Online, Refs};
use super::error::{Error, Result};
use super::part::resumable_bytes;
use super::pattern::{Pattern, compile, not_found};
use super::repo::{CommitSha, Repo};
use super::store::{LocalDir, Present, RepoCache, Slot};
use super::tree::TreeFile;
use crate::fsio;
use crate::hash::Hash;
use crate::name::escape;
use crate::progress::SharedProgress;

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The repository.
    pub repo: Repo,
    /// A name, list, glob or range; see [`Pattern`].
    pub revision: String,
    /// Globs; none means all files.
    pub include: Vec<String>,
    /// Globs that leave files out again.
    pub exclude: Vec<String>,
    /// Where to.
    pub target: Target,
    /// What to do with files that are there.
    pub existing: Existing,
}

/// Where a pull goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The shared cache.
    Cache,
    /// A folder; several revisions get a folder each inside it.
    Folder(PathBuf),
}

/// What to do with files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Keep those that are right.
    Keep,
    /// Fetch all again.
    Refetch,
}

/// What a pull does with one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is there and was verified.
    Keep,
    /// Hash what is there, and fetch it if the hash is wrong.
    Check,
    /// Fetch it, the given bytes of it being there from an interrupted run.
    Fetch {
        /// Bytes that an interrupted run left.
        resumed_bytes: u64,
    },
    /// Use the same content that another file of the plan brings.
    Share,
}

/// One file of a plan.
#[derive(Debug, Clone)]
pub struct PlannedFile {
    /// What it is.
    pub file: TreeFile,
    /// What is done.
    pub action: Action,
}

/// One revision of a plan.
#[derive(Debug, Clone)]
pub struct PlannedRevision {
    /// The name by which it was asked for.
    pub name: String,
    /// Its commit.
    pub commit: CommitSha,
    /// The folder in which its files will be.
    pub folder: PathBuf,
    /// Its files after `include` and `exclude`, sorted by path.
    pub files: Vec<PlannedFile>,
    /// All its files.
    pub(super) tree: Vec<TreeFile>,
}

/// A whole plan.
#[derive(Debug, Clone)]
pub struct PullPlan {
    /// The repository.
    pub repo: Repo,
    /// The revisions, in the order asked for.
    pub revisions: Vec<PlannedRevision>,
    /// The folder whose file system is written to.
    pub root: PathBuf,
    /// Bytes to be written.
    pub fetch_bytes: u64,
    /// Bytes free there.
    pub free_bytes: u64,
    pub(super) target: Target,
    pub(super) existing: Existing,
}

impl PlannedRevision {
    /// Says whether nothing is to be done.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.files.iter().all(|f| f.action == Action::Keep)
    }
}

/// Where the files of one revision go.
#[derive(Debug, Clone)]
pub(super) enum Store {
    Cache(RepoCache),
    Local(LocalDir),
}

impl Store {
    pub fn slot(&self, file: &TreeFile) -> Slot {
        match self {
            Self::Cache(cache) => cache.slot(&file.hash),
            Self::Local(dir) => dir.slot(file),
        }
    }

    pub fn present(&self, file: &TreeFile) -> Present {
        match self {
            Self::Cache(cache) => cache.present(file),
            Self::Local(dir) => dir.present(file),
        }
    }

    /// Refuses to write a file over one that no pull has put there.
    ///
    /// # Errors
    /// [`Error::Occupied`].
    pub fn check_ours(&self, file: &TreeFile) -> Result<()> {
        match self {
            Self::Local(dir) if dir.is_foreign(file) => {
                let path = escape(&dir.slot(file).place.to_string_lossy());
                Err(Error::Occupied { path })
            }
            _ => Ok(()),
        }
    }

    pub fn mark_verified(&self, commit: &CommitSha, file: &TreeFile) -> Result<()> {
        match self {
            Self::Cache(cache) => cache.mark_verified(&file.hash),
            Self::Local(dir) => dir.mark_verified(commit, file),
        }
    }
}

impl PullPlan {
    pub(super) fn store(&self, cache_dir: &Path, revision: &PlannedRevision) -> Store {
        match &self.target {
            Target::Cache => Store::Cache(RepoCache::new(cache_dir, &self.repo)),
            Target::Folder(_) => Store::Local(LocalDir::new(&revision.folder)),
        }
    }

    /// Returns the plan with a fetch for each file that was to be kept and has gone since.
    pub(super) fn seen_again(&self, cache_dir: &Path) -> Self {
        let mut plan = self.clone();
        let mut gone = BTreeMap::new();
        for revision in &mut plan.revisions {
            let store = self.store(cache_dir, revision);
            for planned in revision.files.iter_mut().filter(|f| f.action == Action::Keep) {
                let file = &planned.file;
                match store.present(file) {
                    Present::Verified => {}
                    Present::Unverified => planned.action = Action::Check,
                    Present::No => {
                        planned.action = Action::Fetch { resumed_bytes: 0 };
                        gone.insert((store.slot(file).place, file.hash), file.size);
                    }
                }
            }
        }
        plan.fetch_bytes += gone.values().sum::<u64>();
        plan
    }
}

impl Hub {
    /// Looks at the Hub and at what is here, and says what a pull would do.
    ///
    /// # Errors
    /// Those of the network; names that do not exist; [`Error::Offline`] unless all is here;
    /// too little space.
    pub fn plan_pull(&self, request: &PullRequest, progress: &SharedProgress) -> Result<PullPlan> {
        let filter = Filter::new(request)?;
        let pattern = Pattern::parse(&request.revision)?;
        if self.config.offline {
            return self.plan_offline(request, &filter, &pattern);
        }
        let command = || (request.repo.to_string(), pull_command(request));
        let found = self.block_on(command, |online| async move {
            find_revisions(&online, request, &pattern, progress).await
        })?;
        self.finish_plan(request, &filter, found)
    }

    fn finish_plan(
        &self,
        request: &PullRequest,
        filter: &Filter,
        found: Vec<(String, CommitSha, Vec<TreeFile>)>,
    ) -> Result<PullPlan> {
        let root = match &request.target {
            Target::Cache => self.config.cache_dir.clone(),
            Target::Folder(dir) => dir.clone(),
        };
        let mut plan = PullPlan {
            repo: request.repo.clone(),
            revisions: Vec::new(),
            fetch_bytes: 0,
            free_bytes: fsio::free_space(&root)?,
            root,
            target: request.target.clone(),
            existing: request.existing,
        };
        // What was asked for decides, and not how many branches there are today.
        let many = Pattern::parse(&request.revision)?.as_single().is_none();
        let mut seen = BTreeMap::new();
        for (name, commit, tree) in found {
            let folder = match &request.target {
                Target::Cache => {
                    RepoCache::new(&self.config.cache_dir, &request.repo).snapshot(&commit)
                }
                Target::Folder(dir) if many => dir.join(&name),
                Target::Folder(dir) => dir.clone(),
            };
            let mut revision = PlannedRevision { name, commit, folder, files: Vec::new(), tree };
            let store = plan.store(&self.config.cache_dir, &revision);
            check_one_revision(&store, &revision)?;
            let wanted = revision.tree.iter().filter(|file| filter.takes(&file.path));
            revision.files = wanted
                .map(|file| plan_file(&store, request, file, &mut seen, &mut plan.fetch_bytes))
                .collect::<Result<_>>()?;
            if revision.files.is_empty() {
                let repo = format!("{}@{}", request.repo, revision.name);
                return Err(Error::NothingMatches { repo });
            }
            plan.revisions.push(revision);
        }
        if plan.free_bytes < plan.fetch_bytes {
            fsio::check_space(&plan.root, plan.fetch_bytes)?;
        }
        Ok(plan)
    }

    fn plan_offline(
        &self,
        request: &PullRequest,
        filter: &Filter,
        pattern: &Pattern,
    ) -> Result<PullPlan> {
        let cache = RepoCache::new(&self.config.cache_dir, &request.repo);
        let missing = |name: &str| Error::Offline {
            what: format!("{}@{}", request.repo, escape(name)),
            command: pull_command(request),
        };
        let refs = cache.refs();
        let existing = refs.iter().map(|(name, _)| name.as_str());
        let names = pattern
            .expand(&request.repo.address(), existing)
            .map_err(|_| missing(&request.revision))?;
        let mut found = Vec::new();
        for name in names {
            let commit = CommitSha::new(&name)
                .or_else(|| cache.read_ref(&name))
                .ok_or_else(|| missing(&name))?;
            let tree = cache.read_tree(&commit).ok_or_else(|| missing(&name))?;
            found.push((name, commit, tree));
        }
        let plan = self.finish_plan(request, filter, found)?;
        // Checking needs no network, fetching does.
        let fetches = |f: &PlannedFile| matches!(f.action, Action::Fetch { .. });
        match plan.revisions.iter().find(|r| r.files.iter().any(fetches)) {
            Some(revision) => Err(missing(&revision.name)),
            None => Ok(plan),
        }
    }
}

/// A folder with files of two revisions would be a checkpoint that nobody trained.
fn check_one_revision(store: &Store, revision: &PlannedRevision) -> Result<()> {
    let Store::Local(dir) = store else { return Ok(()) };
    match dir.other_revision(&revision.tree) {
        Some(path) => Err(Error::OtherRevision {
            folder: escape(&dir.path().to_string_lossy()),
            path: escape(&path),
            revision: escape(&revision.name),
        }),
        None => Ok(()),
    }
}

fn plan_file(
    store: &Store,
    request: &PullRequest,
    file: &TreeFile,
    seen: &mut BTreeMap<Hash, ()>,
    fetch_bytes: &mut u64,
) -> Result<PlannedFile> {
    let planned = |action| Ok(PlannedFile { file: file.clone(), action });
    let first = seen.insert(file.hash, ()).is_none();
    let present = match request.existing {
        Existing::Keep => store.present(file),
        Existing::Refetch => Present::No,
    };
    // What has the right size is hashed before that is said.
    if request.existing == Existing::Keep && present == Present::No {
        store.check_ours(file)?;
    }
    match (present, store) {
        (Present::Verified, _) => planned(Action::Keep),
        _ if !first => {
            if matches!(store, Store::Local(_)) {
                *fetch_bytes = fetch_bytes.saturating_add(file.size);
            }
            planned(Action::Share)
        }
        (Present::Unverified, _) => planned(Action::Check),
        (Present::No, _) => {
            let slot = store.slot(file);
            let resumed_bytes = match request.existing {
                Existing::Keep => resumable_bytes(&slot.part, file.hash, file.size),
                Existing::Refetch => 0,
            };
            *fetch_bytes = fetch_bytes.saturating_add(file.size - resumed_bytes);
            planned(Action::Fetch { resumed_bytes })
        }
    }
}

async fn find_revisions(
    online: &Online,
    request: &PullRequest,
    pattern: &Pattern,
    progress: &SharedProgress,
) -> Result<Vec<(String, CommitSha, Vec<TreeFile>)>> {
    let repo = &request.repo;
    // A full commit id needs no list of branches.
    let by_id = pattern.as_single().and_then(CommitSha::new);
    let refs = match by_id {
        Some(_) => Refs { branches: Vec::new(), tags: Vec::new() },
        None => online.refs(repo, progress).await?,
    };
    let mut found = Vec::new();
    for name in pattern.expand(&repo.address(), refs.names())? {
        let commit = commit_of(online, repo, &refs, &name, progress).await?;
        let tree = online.tree(repo, &commit, progress).await.map_err(|e| match e {
            Error::RepoNotFound { .. } if by_id.is_some() => {
                not_found(&repo.address(), &name, refs.names())
            }
            other => other,
        })?;
        found.push((name, commit, tree));
    }
    Ok(found)
}

pub(super) async fn commit_of(
    online: &Online,
    repo: &Repo,
    refs: &Refs,
    name: &str,
    progress: &SharedProgress,
) -> Result<CommitSha> {
    if let Some(commit) = refs.find(name).cloned().or_else(|| CommitSha::new(name)) {
        return Ok(commit);
    }
    let missing = || not_found(&repo.address(), name, refs.names());
    // Anything else that the Hub resolves: pull requests (refs/pr/1), short commit ids.
    match online.resolve(repo, name, progress).await {
        Ok(commit) => commit.ok_or_else(missing),
        Err(Error::Status { status: 400..500, .. } | Error::Auth { .. }) => Err(missing()),
        Err(error) => Err(error),
    }
}

/// Returns the command line that asks for this.
pub(super) fn pull_command(request: &PullRequest) -> String {
    let quoted = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "@/._-,=:".contains(c);
        if text.chars().all(plain) {
            escape(text)
        } else {
            format!("'{}'", escape(text).replace('\'', "'\\''"))
        }
    };
    let mut words = vec![
        "tmax-ckpt pull".to_owned(),
        quoted(&format!("{}@{}", request.repo, request.revision)),
    ];
    if request.repo.kind() == super::repo::RepoKind::Dataset {
        words.push("--repo-type dataset".into());
    }
    words.extend(request.include.iter().map(|g| format!("--include {}", quoted(g))));
    words.extend(request.exclude.iter().map(|g| format!("--exclude {}", quoted(g))));
    if let Target::Folder(dir) = &request.target {
        words.push(format!("--local-dir {}", quoted(&dir.to_string_lossy())));
    }
    words.join(" ")
}

/// The globs of a request.
struct Filter {
    include: Vec<GlobMatcher>,
    exclude: Vec<GlobMatcher>,
}

impl Filter {
    fn new(request: &PullRequest) -> Result<Self> {
        let all = |globs: &[String]| -> Result<Vec<_>> {
            globs.iter().map(|g| compile(&folder_glob(g))).collect()
        };
        Ok(Self { include: all(&request.include)?, exclude: all(&request.exclude)? })
    }

    fn takes(&self, path: &str) -> bool {
        let any = |globs: &[GlobMatcher]| globs.iter().any(|g| g.is_match(path));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// `dir/` means all below it, as for `hf`.
fn folder_glob(glob: &str) -> String {
    if glob.ends_with('/') { format!("{glob}*") } else { glob.to_owned() }
}
