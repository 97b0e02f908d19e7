//! Runs a plan: several files at once, each content once, nothing named before it is checked.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;

use super::client::{Hub, Online, cancelled};
use super::error::{Error, Result};
use super::fetch::{Fetch, complete};
use super::lock::{Waiter, lock};
use super::part::{PartFile, journal_path, remove_if_there};
use super::plan::{Action, Existing, PlannedRevision, PullPlan, Store, Target};
use super::repo::CommitSha;
use super::store::{Present, RepoCache};
use super::tree::TreeFile;
use crate::fsio;
use crate::hash::{Hash, hash_file};
use crate::progress::{Cancel, SharedProgress, Unit};

/// What a pull did with one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledRevision {
    /// The name by which it was asked for.
    pub name: String,
    /// Its commit.
    pub commit: CommitSha,
    /// The folder with its files.
    pub folder: PathBuf,
    /// How many files were asked for.
    pub files: usize,
    /// The sum of their sizes.
    pub size_bytes: u64,
    /// Whether all of it was there.
    pub was_there: bool,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullReport {
    /// The revisions, in the order asked for.
    pub revisions: Vec<PulledRevision>,
    /// Contents that came over the network.
    pub fetched_files: usize,
    /// Their bytes, without those that an interrupted run had left.
    pub fetched_bytes: u64,
    /// Contents that were here, hashed now or before.
    pub kept_files: usize,
}

/// One content to get, and all the places that want it.
struct Job<'a> {
    wants: Vec<Want<'a>>,
    action: Action,
}

#[derive(Clone, Copy)]
struct Want<'a> {
    revision: &'a PlannedRevision,
    file: &'a TreeFile,
}

/// How a job ended.
enum Outcome {
    Kept,
    Fetched(u64),
}

/// What the jobs of a run share.
struct Run<'a> {
    plan: &'a PullPlan,
    hub: &'a Hub,
    online: Option<Arc<Online>>,
    connections: Arc<Semaphore>,
    progress: &'a SharedProgress,
    cancel: &'a Cancel,
    open: Mutex<Vec<Arc<PartFile>>>,
}

impl Hub {
    /// Runs a plan. What an interruption or failure leaves is continued by the next run.
    ///
    /// # Errors
    /// Those of the network and the file system; [`Error::HashMismatch`]; [`Error::Interrupted`]
    /// when `cancel` was set.
    pub fn run_pull(
        &self,
        plan: &PullPlan,
        progress: &SharedProgress,
        cancel: &Cancel,
    ) -> Result<PullReport> {
        let cache = RepoCache::new(&self.config.cache_dir, &plan.repo);
        let _in_use = match plan.target {
            Target::Cache => cache.in_use(progress, cancel)?,
            Target::Folder(_) => None,
        };
        // Between planning and the lock, a removal may have taken what was to be kept.
        let plan = &plan.seen_again(&self.config.cache_dir);
        fsio::check_space(&plan.root, plan.fetch_bytes)?;
        let total: u64 =
            jobs(plan).iter().filter(|j| j.action != Action::Keep).map(Job::size).sum();
        progress.start("pull", total, Unit::Bytes);
        let report = if self.config.offline {
            // Only checks are left to do: a runtime without a client serves for them.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Error::Worker(e.to_string()))?;
            runtime.block_on(self.run(plan, None, progress, cancel))
        } else {
            let never = || (plan.repo.to_string(), "tmax-ckpt pull".to_owned());
            self.block_on(never, |online| self.run(plan, Some(online), progress, cancel))
        };
        if report.is_ok() {
            progress.finish();
        }
        report
    }

    async fn run(
        &self,
        plan: &PullPlan,
        online: Option<Arc<Online>>,
        progress: &SharedProgress,
        cancel: &Cancel,
    ) -> Result<PullReport> {
        let run = Run {
            plan,
            hub: self,
            online,
            connections: Arc::new(Semaphore::new(self.config.jobs.max(1))),
            progress,
            cancel,
            open: Mutex::new(Vec::new()),
        };
        let done = tokio::select! {
            done = run.all() => done,
            () = cancelled(cancel) => Err(Error::Interrupted { kept_bytes: 0 }),
        };
        match done {
            Err(Error::Interrupted { .. }) => {
                let kept_bytes = run.keep()?;
                Err(Error::Interrupted { kept_bytes })
            }
            Err(error) => {
                // Whatever keeps the rest from being kept must not hide why the pull failed.
                if let Err(second) = run.keep() {
                    tracing::debug!(%second, "what had arrived is not all kept");
                }
                Err(error)
            }
            Ok(report) => Ok(report),
        }
    }
}

impl Job<'_> {
    fn size(&self) -> u64 {
        self.wants[0].file.size
    }
}

/// Groups a plan by content.
fn jobs(plan: &PullPlan) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = Vec::new();
    let mut by_hash: BTreeMap<Hash, usize> = BTreeMap::new();
    for revision in &plan.revisions {
        for planned in &revision.files {
            let want = Want { revision, file: &planned.file };
            // In folders, content that is there is no source for other places: it may be the
            // user's own file, changed at any time.
            let kept = planned.action == Action::Keep && plan.target != Target::Cache;
            match by_hash.get(&planned.file.hash) {
                Some(&index) if !kept => {
                    jobs[index].wants.push(want);
                    if jobs[index].action == Action::Keep {
                        jobs[index].action = planned.action;
                    }
                }
                _ => {
                    if !kept {
                        by_hash.insert(planned.file.hash, jobs.len());
                    }
                    jobs.push(Job { wants: vec![want], action: planned.action });
                }
            }
        }
    }
    jobs
}

impl Run<'_> {
    async fn all(&self) -> Result<PullReport> {
        let outcomes: Vec<Outcome> = futures::stream::iter(jobs(self.plan))
            .map(|job| async move { self.job(&job).await })
            .buffer_unordered(self.hub.config.jobs.max(1))
            .try_collect()
            .await?;
        for revision in &self.plan.revisions {
            self.finish_revision(revision)?;
        }
        let fetched = |o: &Outcome| match o {
            Outcome::Fetched(bytes) => Some(*bytes),
            Outcome::Kept => None,
        };
        Ok(PullReport {
            revisions: self.plan.revisions.iter().map(pulled).collect(),
            fetched_files: outcomes.iter().filter_map(fetched).count(),
            fetched_bytes: outcomes.iter().filter_map(fetched).sum(),
            kept_files: outcomes.iter().filter(|o| matches!(o, Outcome::Kept)).count(),
        })
    }

    /// Gets one content and puts it wherever it is wanted.
    async fn job(&self, job: &Job<'_>) -> Result<Outcome> {
        let want = job.wants[0];
        let store = self.store(want);
        let outcome = match job.action {
            Action::Keep => Outcome::Kept,
            _ => {
                let item = self.item(want);
                self.progress.item_start(&item, want.file.size);
                let slot = store.slot(want.file);
                let other = format!("fetches {item}");
                let (progress, cancel) = (self.progress, self.cancel);
                let _lock = lock(&slot.lock, Waiter { other: &other, progress, cancel }).await?;
                let (outcome, text) = self.get(job, &store, &item).await?;
                self.progress.item_done(&item, &text);
                outcome
            }
        };
        for other in &job.wants {
            self.place(want, *other).await?;
        }
        Ok(outcome)
    }

    /// Makes the content right at the first place that wants it, under its lock.
    async fn get(&self, job: &Job<'_>, store: &Store, item: &str) -> Result<(Outcome, String)> {
        let want = job.wants[0];
        let file = want.file;
        if self.plan.existing == Existing::Refetch {
            return self.fetch(want, store, item).await;
        }
        match store.present(file) {
            // While we waited for the lock, another process did the work.
            Present::Verified => {
                self.progress.advance(item, file.size);
                return Ok((Outcome::Kept, "fetched by another process".into()));
            }
            Present::Unverified => {
                if self.check(want, store).await? {
                    self.progress.advance(item, file.size);
                    return Ok((Outcome::Kept, "verified".into()));
                }
                store.check_ours(file)?;
                self.progress.note(&format!("{item} is damaged: fetching it again"));
            }
            Present::No => {}
        }
        self.fetch(want, store, item).await
    }

    /// Hashes what is there, and says whether it is right.
    async fn check(&self, want: Want<'_>, store: &Store) -> Result<bool> {
        let (slot, hash) = (store.slot(want.file), want.file.hash);
        let place = slot.place;
        let got = blocking(move || Ok(hash_file(&place, &hash, &|_| {})?)).await?;
        if got == want.file.hash {
            // What a pull leaves that was killed just after it gave the file its name.
            remove_if_there(&journal_path(&slot.part))?;
            store.mark_verified(&want.revision.commit, want.file)?;
        }
        Ok(got == want.file.hash)
    }

    async fn fetch(&self, want: Want<'_>, store: &Store, item: &str) -> Result<(Outcome, String)> {
        let (file, slot) = (want.file, store.slot(want.file));
        let online = self.online.clone().ok_or_else(|| Error::Offline {
            what: item.to_owned(),
            command: format!("tmax-ckpt pull {}@{}", self.plan.repo, want.revision.name),
        })?;
        let part = Arc::new(PartFile::open(&slot.part, file.hash, file.size)?);
        if self.plan.existing == Existing::Refetch {
            part.clear()?;
        }
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&part));
        let resumed = part.written_bytes();
        self.progress.advance(item, resumed);
        let fetch = Fetch {
            online,
            repo: self.plan.repo.clone(),
            commit: want.revision.commit.clone(),
            file: file.clone(),
            item: item.to_owned(),
            connections: Arc::clone(&self.connections),
            progress: Arc::clone(self.progress),
        };
        complete(&fetch, &part).await?;
        let place = slot.place.clone();
        let committed = Arc::clone(&part);
        blocking(move || committed.commit(&place)).await?;
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !Arc::ptr_eq(other, &part));
        store.mark_verified(&want.revision.commit, file)?;
        let text = match resumed {
            0 => "verified".to_owned(),
            n => format!("resumed at {}, verified", crate::units::bytes(n)),
        };
        Ok((Outcome::Fetched(file.size - resumed), text))
    }

    /// Shows the content at another place: by a link in the cache, by a copy in folders. Index
    /// files wait for the end of their revision.
    async fn place(&self, from: Want<'_>, to: Want<'_>) -> Result<()> {
        let store = self.store(to);
        match &store {
            Store::Cache(_) if is_index(to.file) => Ok(()),
            Store::Cache(cache) => cache.link(&to.revision.commit, to.file),
            Store::Local(dir) => {
                if self.plan.existing == Existing::Keep && dir.is_foreign(to.file) {
                    if self.check(to, &store).await? {
                        return Ok(());
                    }
                    // Unless it went while it was looked at.
                    store.check_ours(to.file)?;
                }
                let source = self.store(from).slot(from.file).place;
                let target = dir.slot(to.file).place;
                if source != target {
                    blocking(move || copy(&source, &target)).await?;
                    dir.mark_verified(&to.revision.commit, to.file)?;
                }
                Ok(())
            }
        }
    }

    /// The index last, then the list of the commit, then the name.
    fn finish_revision(&self, revision: &PlannedRevision) -> Result<()> {
        match self.plan.store(&self.hub.config.cache_dir, revision) {
            Store::Cache(cache) => {
                for planned in revision.files.iter().filter(|f| is_index(&f.file)) {
                    cache.link(&revision.commit, &planned.file)?;
                }
                if cache.read_tree(&revision.commit).is_none() {
                    cache.write_tree(&revision.commit, &revision.tree)?;
                }
                if revision.name == revision.commit.as_str() {
                    return Ok(());
                }
                self.write_ref(&cache, revision)
            }
            Store::Local(dir) => {
                dir.prepare()?;
                dir.write_tree(&revision.commit, &revision.tree)
            }
        }
    }

    fn write_ref(&self, cache: &RepoCache, revision: &PlannedRevision) -> Result<()> {
        if crate::name::is_safe_relative_path(&revision.name) {
            return cache.write_ref(&revision.name, &revision.commit);
        }
        Ok(())
    }

    /// Makes the journals of unfinished files durable; returns the bytes that this saves.
    fn keep(&self) -> Result<u64> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for part in open.iter() {
            part.stop();
            // A part that failed its hash is gone, and that is no new failure.
            if part.written_bytes() > 0 {
                part.checkpoint()?;
            }
        }
        let unfinished: u64 = open.iter().map(|part| part.written_bytes()).sum();
        let jobs = jobs(self.plan);
        let whole = jobs.iter().filter(|job| {
            job.action != Action::Keep
                && self.store(job.wants[0]).present(job.wants[0].file) == Present::Verified
        });
        Ok(unfinished + whole.map(Job::size).sum::<u64>())
    }

    fn store(&self, want: Want<'_>) -> Store {
        self.plan.store(&self.hub.config.cache_dir, want.revision)
    }

    fn item(&self, want: Want<'_>) -> String {
        match self.plan.revisions.len() {
            1 => want.file.path.clone(),
            _ => format!("{}/{}", want.revision.name, want.file.path),
        }
    }
}

fn pulled(revision: &PlannedRevision) -> PulledRevision {
    PulledRevision {
        name: revision.name.clone(),
        commit: revision.commit.clone(),
        folder: revision.folder.clone(),
        files: revision.files.len(),
        size_bytes: revision.files.iter().map(|f| f.file.size).sum(),
        was_there: revision.is_complete(),
    }
}

fn is_index(file: &TreeFile) -> bool {
    file.path.ends_with(".index.json")
}

fn copy(source: &std::path::Path, target: &std::path::Path) -> Result<()> {
    let from = source.metadata().map_err(fsio::Error::io("stat", source))?;
    match std::fs::symlink_metadata(target) {
        Ok(there) if (there.dev(), there.ino()) == (from.dev(), from.ino()) => Ok(()),
        _ => Ok(fsio::copy_file(source, target)?),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Worker(e.to_string()))?
}
