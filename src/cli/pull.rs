//! `pull`: fetch revisions, verified while they are written.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::failure::Failure;
use super::hub::{self, RepoType};
use super::outcome::{self, Outcome};
use crate::error::Result;
use crate::hub::{
    Action, Existing, Hub, PlannedRevision, PullPlan, PullReport, PullRequest, Target,
};
use crate::name::escape;
use crate::units;

/// Fetch revisions into the shared cache; resumes, and verifies while it writes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// owner/name[@REV], datasets/owner/name[@REV], or hf://[datasets/]owner/name[@REV][/PATH]
    #[arg(value_name = "REPO[@REV]")]
    repo: String,
    /// A branch, tag or commit, or several: a list, step_100,step_200; a glob, 'step_*'; a range
    ///
    /// 'step_{100..400}' is every branch from step_100 to step_400 that there is, both ends
    /// included; 'step_{100..400..50}' is 100, 150 and so on to 400, each of which must exist.
    /// main if none is given.
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    /// What kind of repository it is
    #[arg(long, value_enum, default_value = "model", value_name = "TYPE")]
    repo_type: RepoType,
    /// Fetch only files that match this glob; may be given several times
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave out files that match this glob; may be given several times
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Write plain files to this folder instead of the cache; with a list, glob or range, each
    /// revision gets a folder in it. A folder holds one revision. What a pull has written there and
    /// is not as it was is fetched again; what no pull has written is not written over
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    local_dir: Option<PathBuf>,
    /// Fetch files even if they are there, and write over them; a folder of another revision is
    /// refused all the same
    #[arg(long)]
    force_download: bool,
    /// How many connections to open at once
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::new(hub::CONNECTIONS)
        .expect("not zero"))]
    max_workers: NonZeroUsize,
    /// Print what would be fetched, and fetch nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// The JSON document: the plan, and what became of it.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// The repository.
    repo: String,
    /// `model` or `dataset`.
    repo_type: &'static str,
    /// Whether nothing was fetched.
    dry_run: bool,
    /// What was to be fetched when the run began.
    fetch_bytes: u64,
    /// What was free where it goes.
    free_bytes: u64,
    /// What was done; absent after a dry run.
    #[serde(flatten)]
    fetched: Option<Fetched>,
    /// The revisions.
    revisions: Vec<RevisionEntry<'a>>,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "pull/1";
}

/// What a run did.
#[derive(Serialize, JsonSchema)]
struct Fetched {
    /// How many files were fetched.
    fetched_files: usize,
    /// How many bytes came over the network.
    fetched_bytes: u64,
    /// How many files were there.
    kept_files: usize,
}

/// A revision and where it lies.
#[derive(Serialize, JsonSchema)]
struct RevisionEntry<'a> {
    /// Its name, as it was asked for.
    name: &'a str,
    /// Its commit.
    #[schemars(regex(pattern = r"^[0-9a-f]{40}$"))]
    commit: &'a str,
    /// The folder of its files.
    path: &'a Path,
    /// The sizes of its files together.
    size_bytes: u64,
    /// Its files.
    files: Vec<FileEntry<'a>>,
}

/// A file of a revision.
#[derive(Serialize, JsonSchema)]
struct FileEntry<'a> {
    /// Its name in the repository.
    path: &'a str,
    /// Its size.
    size_bytes: u64,
    /// The hash that it must have: SHA-256 (64 digits), or git's SHA-1 (40 digits).
    #[schemars(regex(pattern = r"^([0-9a-f]{40}|[0-9a-f]{64})$"))]
    hash: String,
    /// What was planned: `keep`, `check`, `fetch`, `resume` or `share`.
    action: &'static str,
    /// What of it was there when the run began.
    resumed_bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// Those of the Hub and the file system.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let request = request(&args)?;
    let client = Hub::new(hub::config(ctx, args.max_workers.get()))?;
    let plan = client.plan_pull(&request, &ctx.progress())?;
    if args.dry_run {
        return Ok(planned(&plan));
    }
    let report = client.run_pull(&plan, &ctx.progress(), &ctx.cancel())?;
    Ok(pulled(&plan, &report))
}

fn request(args: &Args) -> Result<PullRequest> {
    let reference = hub::parse(&args.repo, args.repo_type.kind())?;
    let revision = match (reference.revision, &args.revision) {
        (Some(_), Some(_)) => {
            let help = vec!["keep one of @REV and --revision".to_owned()];
            return Err(Failure::Usage("two revisions are given".into(), help).into());
        }
        (Some(revision), None) => revision,
        (None, Some(revision)) => revision.clone(),
        (None, None) => "main".to_owned(),
    };
    let mut include = args.include.clone();
    include.extend(reference.path.map(|path| hub::path_glob(&path)));
    Ok(PullRequest {
        repo: reference.repo,
        revision,
        include,
        exclude: args.exclude.clone(),
        target: args.local_dir.clone().map_or(Target::Cache, Target::Folder),
        existing: if args.force_download { Existing::Refetch } else { Existing::Keep },
    })
}

fn planned(plan: &PullPlan) -> Outcome {
    let mut text = String::new();
    for revision in &plan.revisions {
        let commit = hub::short(&revision.commit);
        writeln!(text, "{} ({commit})", escape(&revision.name)).expect("strings grow");
        for planned in &revision.files {
            let (file, action) = (&planned.file, action(planned.action));
            let size = units::bytes(file.size);
            writeln!(text, "  {size:>9}  {:<7}  {}", action.0, escape(&file.path))
                .expect("strings grow");
        }
    }
    writeln!(
        text,
        "would fetch {} into {}; {} free",
        units::bytes(plan.fetch_bytes),
        plan.root.display(),
        units::bytes(plan.free_bytes)
    )
    .expect("strings grow");
    Outcome::new(&document(plan, None)).human(text).quiet(folders(plan))
}

fn document<'a>(plan: &'a PullPlan, report: Option<&PullReport>) -> Document<'a> {
    Document {
        repo: plan.repo.to_string(),
        repo_type: hub::type_name(&plan.repo),
        dry_run: report.is_none(),
        fetch_bytes: plan.fetch_bytes,
        free_bytes: plan.free_bytes,
        fetched: report.map(|report| Fetched {
            fetched_files: report.fetched_files,
            fetched_bytes: report.fetched_bytes,
            kept_files: report.kept_files,
        }),
        revisions: plan.revisions.iter().map(revision_entry).collect(),
    }
}

fn revision_entry(revision: &PlannedRevision) -> RevisionEntry<'_> {
    let files = revision.files.iter().map(|planned| {
        let (action, resumed_bytes) = action(planned.action);
        let file = &planned.file;
        let (path, size_bytes, hash) = (file.path.as_str(), file.size, file.hash.hex());
        FileEntry { path, size_bytes, hash, action, resumed_bytes }
    });
    RevisionEntry {
        name: &revision.name,
        commit: revision.commit.as_str(),
        path: &revision.folder,
        size_bytes: revision.files.iter().map(|planned| planned.file.size).sum(),
        files: files.collect(),
    }
}

fn action(action: Action) -> (&'static str, u64) {
    match action {
        Action::Keep => ("keep", 0),
        Action::Check => ("check", 0),
        Action::Fetch { resumed_bytes: 0 } => ("fetch", 0),
        Action::Fetch { resumed_bytes } => ("resume", resumed_bytes),
        Action::Share => ("share", 0),
    }
}

fn folders(plan: &PullPlan) -> String {
    let folders: Vec<String> =
        plan.revisions.iter().map(|r| r.folder.display().to_string()).collect();
    folders.join("\n")
}

fn pulled(plan: &PullPlan, report: &PullReport) -> Outcome {
    let mut text = String::new();
    for revision in &report.revisions {
        let what = if revision.was_there { "was there" } else { "verified" };
        writeln!(
            text,
            "{}  {}  {}  {what}  {}",
            escape(&revision.name),
            units::plural(revision.files as u64, "file"),
            units::bytes(revision.size_bytes),
            revision.folder.display()
        )
        .expect("strings grow");
    }
    Outcome::new(&document(plan, Some(report))).human(text).quiet(folders(plan))
}
