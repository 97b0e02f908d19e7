//! The `--tasks` argument: a folder of this machine, or a dataset repository of the Hub.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::context::Context;
use super::failure::Failure;
use super::{hub, resolve};
use crate::error::Result;
use crate::harness::dataset::{Dataset, Origin};
use crate::harness::task;
use crate::hub::{
    Action, Existing, Hub, PlannedRevision, PullPlan, PullRequest, RepoCache, RepoKind, RepoRef,
    Target,
};
use crate::name::escape;
use crate::units;

/// More than a set of tasks has; who has a larger one pulls it with open eyes.
const SET_BYTES_MAX: u64 = 32 << 30;

/// What `--tasks` names.
pub enum Tasks {
    /// A folder.
    Local(PathBuf),
    /// A repository, and what would be pulled of it.
    Hub(Box<Pull>),
}

/// A pull of tasks, planned.
pub struct Pull {
    client: Hub,
    reference: RepoRef,
    plan: PullPlan,
}

/// Finds the tasks, and asks the Hub about those that are there; fetches none.
///
/// # Errors
/// Neither folder nor repository; those of the Hub; too many bytes.
pub fn find(text: &str, ctx: &Context) -> Result<Tasks> {
    let marked = ["hf://", "datasets/"].iter().any(|start| text.starts_with(start));
    if !marked || (!text.starts_with("hf://") && resolve::is_path(text)) {
        let path = std::path::absolute(text)
            .map_err(crate::fsio::Error::io("resolve", std::path::Path::new(text)))?;
        return if path.exists() { Ok(Tasks::Local(path)) } else { Err(no_tasks(text).into()) };
    }
    let reference = RepoRef::parse(text, RepoKind::Dataset)?;
    if reference.repo.kind() != RepoKind::Dataset {
        return Err(no_tasks(text).into());
    }
    let client = hub::open(ctx)?;
    let plan = client.plan_pull(&request(&reference), &ctx.progress())?;
    check_plan(&reference, &plan)?;
    Ok(Tasks::Hub(Box::new(Pull { client, reference, plan })))
}

fn no_tasks(text: &str) -> Failure {
    let message = format!("`{}` is neither a folder nor a dataset repository", escape(text));
    let help = "a folder must exist; a repository is `datasets/owner/name[@revision]`";
    Failure::NoTasks { message, help: help.into() }
}

fn request(reference: &RepoRef) -> PullRequest {
    PullRequest {
        repo: reference.repo.clone(),
        revision: reference.revision_or_main().to_owned(),
        include: reference.path.iter().map(|path| hub::path_glob(path)).collect(),
        exclude: Vec::new(),
        target: Target::Cache,
        existing: Existing::Keep,
    }
}

fn check_plan(reference: &RepoRef, plan: &PullPlan) -> Result<()> {
    let [revision] = plan.revisions.as_slice() else {
        let message = format!("`{reference}` names several revisions, one is needed");
        return Err(Failure::Usage(message, vec!["name one revision".into()]).into());
    };
    let bytes = revision.files.iter().fold(0_u64, |sum, f| sum.saturating_add(f.file.size));
    if bytes > SET_BYTES_MAX {
        let message = format!("{reference} has {}, too much for tasks", units::bytes(bytes));
        let help = format!(
            "`hf://datasets/{}@{}/FOLDER` takes a folder of it; or pull it with `--repo-type \
             dataset --local-dir DIR`, and pass that folder",
            reference.repo, revision.commit
        );
        return Err(Failure::Usage(message, vec![help]).into());
    }
    Ok(())
}

impl Tasks {
    /// Returns the set of tasks on this machine, fetched if need be.
    ///
    /// # Errors
    /// Those of the Hub and the file system; an interruption.
    pub fn fetch(self, ctx: &Context) -> Result<Dataset> {
        match self {
            Self::Local(dir) => Ok(Dataset::local(dir)),
            Self::Hub(pull) => pull.run(ctx),
        }
    }

    /// Returns the tasks' names and what would be fetched first, fetching nothing. Tasks of this
    /// machine are read, so that a bad one is found.
    ///
    /// # Errors
    /// No or bad tasks.
    pub fn preview(&self) -> Result<(Vec<String>, Option<String>)> {
        match self {
            Self::Local(dir) => {
                let tasks = task::load_all(dir)?;
                Ok((tasks.into_iter().map(|task| task.name).collect(), None))
            }
            Self::Hub(pull) => pull.preview(),
        }
    }
}

impl Pull {
    fn revision(&self) -> &PlannedRevision {
        &self.plan.revisions[0]
    }

    fn folder(&self) -> &str {
        self.reference.path.as_deref().unwrap_or_default()
    }

    fn run(&self, ctx: &Context) -> Result<Dataset> {
        ctx.hold(&RepoCache::new(ctx.cache_dir(), &self.plan.repo))?;
        let report = self.client.run_pull(&self.plan, &ctx.progress(), &ctx.cancel())?;
        tracing::debug!(fetched_bytes = report.fetched_bytes, "tasks are in the cache");
        let all = self.client.lay_out(
            &self.plan.repo,
            self.revision(),
            &ctx.progress(),
            &ctx.cancel(),
        )?;
        let origin = Origin {
            repository: format!("{}/{}", self.plan.repo.kind().plural(), self.plan.repo),
            commit: self.revision().commit.to_string(),
            folder: self.folder().to_owned(),
        };
        let name = self.plan.repo.to_string();
        Ok(Dataset { dir: all.join(self.folder()), name, origin: Some(origin) })
    }

    fn preview(&self) -> Result<(Vec<String>, Option<String>)> {
        let inside = |path: &'_ str| match self.folder() {
            "" => Some(path.to_owned()),
            folder => Some(path.strip_prefix(folder)?.strip_prefix('/')?.to_owned()),
        };
        let paths = self.revision().files.iter().filter_map(|f| inside(&f.file.path));
        // A folder that is one task has its own name.
        let whole = self.folder().rsplit('/').next().filter(|name| !name.is_empty());
        let whole = whole.unwrap_or(self.revision().commit.as_str());
        let name = |path: String| Some(task_of(&path)?.unwrap_or(whole).to_owned());
        let names: BTreeSet<String> = paths.filter_map(name).collect();
        if names.is_empty() {
            let path = PathBuf::from(format!("datasets/{}", self.reference)).join(self.folder());
            return Err(crate::harness::Error::NoTasks { path }.into());
        }
        let fetches = |action: &Action| matches!(action, Action::Fetch { .. });
        let open = self.revision().files.iter().filter(|f| fetches(&f.action)).count();
        let note = (open > 0).then(|| {
            format!(
                "would first fetch {} ({}) of datasets/{}@{}",
                units::plural(open as u64, "file"),
                units::bytes(self.plan.fetch_bytes),
                self.plan.repo,
                hub::short(&self.revision().commit)
            )
        });
        Ok((names.into_iter().collect(), note))
    }
}

/// Returns the folder of the task that a path is the `task.toml` of: `None` in `Some` is the
/// whole set.
fn task_of(path: &str) -> Option<Option<&str>> {
    let folder = path.strip_suffix("task.toml")?;
    match folder.strip_suffix('/') {
        None if folder.is_empty() => Some(None),
        Some(name) if !name.contains('/') => Some(Some(name)),
        _ => None,
    }
}
