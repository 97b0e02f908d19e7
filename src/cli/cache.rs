//! `cache`: what the shared cache holds, and taking it out again.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::failure::Failure;
use super::hub::{self, RepoType};
use super::outcome::{Document, Outcome};
use super::render::stderr_text;
use super::settings::Origin;
use super::written::Mode;
use crate::error::Result;
use crate::hub::{
    CacheReport, CachedRepo, CachedRevision, Pattern, Removal, RemovalPlan, Repo, RepoRef, remove,
    scan,
};
use crate::name::{escape, suggest};
use crate::units;

/// Show and clean the cache that is shared with hf, transformers and vLLM
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the cache's folder
    Dir,
    /// List what is in it
    #[command(visible_alias = "ls")]
    List,
    /// Remove a repository, or some of its revisions with the blobs that no other one uses
    Rm(Rm),
    /// Remove revisions without a branch, blobs without a revision, and partial downloads
    Prune(Prune),
}

#[derive(Debug, clap::Args)]
struct Rm {
    /// owner/name, or owner/name@REV for revisions: a name, list, glob, range or commit
    #[arg(value_name = "REPO[@REV]")]
    repo: String,
    /// What kind of repository it is
    #[arg(long, value_enum, default_value = "model", value_name = "TYPE")]
    repo_type: RepoType,
    /// Do not ask first; needed where nobody can answer
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, clap::Args)]
struct Prune {
    #[command(flatten)]
    dry_run: DryRun,
}

/// The flag of all commands that remove.
#[derive(Debug, Clone, Copy, clap::Args)]
struct DryRun {
    /// Print what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl DryRun {
    fn mode(self) -> Mode {
        if self.dry_run { Mode::Show } else { Mode::CarryOut }
    }
}

/// The JSON document of `cache dir`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Folder<'a> {
    /// The cache's folder.
    path: &'a Path,
}

impl Document for Folder<'_> {
    const NAME: &'static str = "cache-dir/1";
}

/// The JSON document of `cache list`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Contents<'a> {
    /// All that the cache takes.
    size_bytes: u64,
    /// The repositories.
    repos: Vec<RepoEntry<'a>>,
}

impl Document for Contents<'_> {
    const NAME: &'static str = "cache-list/1";
}

/// A repository in the cache.
#[derive(Serialize, JsonSchema)]
struct RepoEntry<'a> {
    /// `owner/name`.
    repo: String,
    /// `model` or `dataset`.
    repo_type: &'static str,
    /// Its folder.
    path: &'a Path,
    /// All that it takes.
    size_bytes: u64,
    /// What of it was fetched for files that are not whole yet.
    partial_bytes: u64,
    /// Its revisions.
    revisions: Vec<RevisionEntry<'a>>,
}

/// A revision in the cache.
#[derive(Serialize, JsonSchema)]
struct RevisionEntry<'a> {
    /// The commit.
    #[schemars(regex(pattern = r"^[0-9a-f]{40}$"))]
    commit: &'a str,
    /// The branches and tags that point to it.
    refs: &'a [String],
    /// Its folder.
    path: &'a Path,
    /// How many files it has.
    files: usize,
    /// Their sizes together.
    size_bytes: u64,
}

/// The JSON document of `cache rm` and `cache prune`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Removed<'a> {
    /// Whether nothing was removed.
    dry_run: bool,
    /// What this frees.
    freed_bytes: u64,
    /// Folders removed.
    folders: &'a [PathBuf],
    /// Files removed.
    files: &'a [PathBuf],
    /// Repositories that were left alone because somebody fetches or reads them now.
    in_use: Vec<String>,
}

impl Document for Removed<'_> {
    const NAME: &'static str = "cache-remove/1";
}

/// Runs the command.
///
/// # Errors
/// The file system's; a repository or revision that is not in the cache.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    match args.action {
        Action::Dir => {
            let dir = ctx.cache_dir().display().to_string();
            let document = Folder { path: ctx.cache_dir() };
            Ok(Outcome::new(&document).human(format!("{dir}\n")).quiet(dir))
        }
        Action::List => {
            let outcome = list(&scan(ctx.cache_dir())?);
            let dir = &ctx.settings().cache_dir;
            // Before the first pull there is none, unless somebody has named it.
            Ok(if dir.origin == Origin::Default || dir.value.exists() {
                outcome
            } else {
                let (path, origin) = (dir.value.display(), &dir.origin);
                outcome.hint(format!("note: the folder {path} ({origin}) does not exist"))
            })
        }
        Action::Rm(rm) => {
            let report = scan(ctx.cache_dir())?;
            let reference = hub::parse(&rm.repo, rm.repo_type.kind())?;
            let removal = removal(&report, &reference)?;
            let plan = report.plan_removal(&removal);
            if rm.dry_run.mode() == Mode::Show {
                return Ok(report_removal(&plan, Mode::Show));
            }
            if !rm.yes && !confirmed(&rm.repo, &plan)? {
                let help = "`y` removes it, and `--yes` does so without asking".to_owned();
                return Ok(Outcome::new(&removed(&RemovalPlan::default(), Mode::CarryOut))
                    .problem("nothing was removed", vec![help]));
            }
            // Who was not asked meant what is there now.
            let shown = (!rm.yes).then_some(&plan);
            let plan = remove(ctx.cache_dir(), &removal, shown)?;
            Ok(report_removal(&plan, Mode::CarryOut))
        }
        Action::Prune(prune) => {
            let mode = prune.dry_run.mode();
            let plan = match mode {
                Mode::Show => scan(ctx.cache_dir())?.plan_removal(&Removal::Prune),
                Mode::CarryOut => remove(ctx.cache_dir(), &Removal::Prune, None)?,
            };
            Ok(report_removal(&plan, mode))
        }
    }
}

fn list(report: &CacheReport) -> Outcome {
    let mut text = String::new();
    let mut quiet = Vec::new();
    for cached in &report.repos {
        let partial = match cached.partial.values().sum::<u64>() {
            0 => String::new(),
            n => format!(", {} partial", units::bytes(n)),
        };
        let size = units::bytes(cached.size_bytes());
        writeln!(text, "{}  {size}{partial}", cached.repo).expect("strings grow");
        text.extend(cached.revisions.iter().map(revision_line));
        quiet.push(cached.repo.to_string());
    }
    writeln!(text, "total  {}", units::bytes(report.size_bytes)).expect("strings grow");
    let repos = report.repos.iter().map(repo_entry).collect();
    let document = Contents { size_bytes: report.size_bytes, repos };
    Outcome::new(&document).human(text).quiet(quiet.join("\n"))
}

fn revision_line(revision: &CachedRevision) -> String {
    let refs: Vec<String> = revision.refs.iter().map(|r| escape(r)).collect();
    let refs = if refs.is_empty() { "(no branch)".into() } else { refs.join(", ") };
    let files = units::plural(revision.files as u64, "file");
    let size = units::bytes(revision.size_bytes);
    let commit = hub::short(&revision.commit);
    format!("  {commit}  {size:>9}  {files:>9}  {refs}\n")
}

fn repo_entry(cached: &CachedRepo) -> RepoEntry<'_> {
    RepoEntry {
        repo: cached.repo.to_string(),
        repo_type: hub::type_name(&cached.repo),
        path: &cached.folder,
        size_bytes: cached.size_bytes(),
        partial_bytes: cached.partial.values().sum(),
        revisions: cached.revisions.iter().map(revision_entry).collect(),
    }
}

fn revision_entry(revision: &CachedRevision) -> RevisionEntry<'_> {
    RevisionEntry {
        commit: revision.commit.as_str(),
        refs: &revision.refs,
        path: &revision.folder,
        files: revision.files,
        size_bytes: revision.size_bytes,
    }
}

/// Finds what is to go, by name in the cache alone.
fn removal(report: &CacheReport, reference: &RepoRef) -> Result<Removal> {
    let repo = &reference.repo;
    let Some(cached) = report.repos.iter().find(|c| c.repo == *repo) else {
        let names: Vec<String> = report.repos.iter().map(|c| c.repo.to_string()).collect();
        let near = suggest(&repo.to_string(), names.iter().map(String::as_str)).map(str::to_owned);
        return Err(Failure::NothingCached { reference: repo.to_string(), near }.into());
    };
    let Some(revision) = &reference.revision else { return Ok(Removal::Repo(repo.clone())) };
    let name_of = |r: &CachedRevision| {
        let mut names = r.refs.clone();
        names.push(r.commit.to_string());
        names
    };
    let known: Vec<String> = cached.revisions.iter().flat_map(name_of).collect();
    let wanted = Pattern::parse(revision)?
        .expand(&repo.to_string(), known.iter().map(String::as_str))
        .map_err(|_| not_cached(reference, revision, &known))?;
    let mut commits = Vec::new();
    for name in wanted {
        let fits = |r: &&CachedRevision| r.refs.contains(&name) || r.commit.as_str() == name;
        let found = cached.revisions.iter().find(fits);
        commits.push(found.ok_or_else(|| not_cached(reference, &name, &known))?.commit.clone());
    }
    Ok(Removal::Revisions(repo.clone(), commits))
}

fn not_cached(reference: &RepoRef, revision: &str, known: &[String]) -> Failure {
    let near = suggest(revision, known.iter().map(String::as_str)).map(escape);
    Failure::NothingCached { reference: format!("{}@{}", reference.repo, escape(revision)), near }
}

/// Asks whether `plan` is to be carried out.
fn confirmed(what: &str, plan: &RemovalPlan) -> Result<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let message = format!("removing {} needs a yes", escape(what));
        let help = "`--yes` removes it without asking, `--dry-run` shows what would go";
        return Err(Failure::Usage(message, vec![help.into()]).into());
    }
    stderr_text(&question(what, plan));
    let mut answer = String::new();
    // Who cannot be heard has not agreed.
    let read = io::stdin().read_line(&mut answer).unwrap_or(0);
    Ok(read > 0 && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Names each revision that would go: a glob does not.
fn question(what: &str, plan: &RemovalPlan) -> String {
    let lines: String = plan.revisions.iter().map(revision_line).collect();
    let freed = units::bytes(plan.freed_bytes);
    format!("{lines}remove {} from the cache ({freed})? [y/N] ", escape(what))
}

fn removed(plan: &RemovalPlan, mode: Mode) -> Removed<'_> {
    Removed {
        dry_run: mode == Mode::Show,
        freed_bytes: plan.freed_bytes,
        folders: &plan.folders,
        files: &plan.files,
        in_use: plan.in_use.iter().map(ToString::to_string).collect(),
    }
}

fn report_removal(plan: &RemovalPlan, mode: Mode) -> Outcome {
    let verb = if mode == Mode::Show { "would free" } else { "freed" };
    let mut text = String::new();
    for path in plan.folders.iter().chain(&plan.files).filter(|p| mode == Mode::Show && p.exists())
    {
        writeln!(text, "  {}", path.display()).expect("strings grow");
    }
    writeln!(text, "{verb} {}", units::bytes(plan.freed_bytes)).expect("strings grow");
    let outcome = Outcome::new(&removed(plan, mode));
    let note =
        |repo: &Repo| format!("note: {repo} is left alone: somebody fetches or reads it now");
    let outcome = plan.in_use.iter().map(note).fold(outcome, Outcome::hint);
    outcome.human(text).quiet(plan.freed_bytes.to_string())
}
