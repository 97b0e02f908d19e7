//! `steps`: the branches of a repository that are training steps.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::failure::Failure;
use super::hub;
use super::outcome::{self, Outcome};
use crate::error::Result;
use crate::hub::{Cached, RepoKind, Step};
use crate::name::escape;
use crate::units;

/// List the step branches of a repository, with date, commit, size, cached or not
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The repository: owner/name
    #[arg(value_name = "REPO")]
    repo: String,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// The repository.
    repo: String,
    /// Its steps in numeric order, and `main` after them.
    steps: Vec<Entry<'a>>,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "steps/1";
}

/// A branch that is a step, or `main`.
#[derive(Serialize, JsonSchema)]
struct Entry<'a> {
    /// The branch.
    name: &'a str,
    /// The number in its name; absent for `main`.
    step: Option<u64>,
    /// The step that `main` equals, if it does.
    same_as: Option<&'a str>,
    /// The commit.
    #[schemars(regex(pattern = r"^[0-9a-f]{40}$"))]
    commit: &'a str,
    /// Its date in RFC 3339, if the Hub tells one.
    #[schemars(extend("format" = "date-time"))]
    date: Option<String>,
    /// The sum of the file sizes.
    size_bytes: u64,
    /// How many files it has.
    files: usize,
    /// How much of it is in the cache: `yes`, `partly` or `no`.
    cached: &'static str,
}

/// Runs the command.
///
/// # Errors
/// Those of the Hub.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let reference = hub::parse(&args.repo, RepoKind::Model)?;
    if reference.revision.is_some() {
        let help = vec![format!("tmax-ckpt steps {}", reference.repo)];
        return Err(Failure::Usage("steps lists all branches: no @REV".into(), help).into());
    }
    let repo = reference.repo;
    let steps = hub::open(ctx)?.steps(&repo, &ctx.progress())?;
    let document = Document { repo: repo.to_string(), steps: steps.iter().map(entry).collect() };
    let names: Vec<String> = steps.iter().map(|s| escape(&s.name)).collect();
    let mut outcome = Outcome::new(&document).human(table(&steps)).quiet(names.join("\n"));
    if steps.iter().all(|step| step.number.is_none()) {
        outcome = outcome.hint(format!("note: no branch of {repo} is named like a step"));
    }
    Ok(outcome)
}

fn entry(step: &Step) -> Entry<'_> {
    Entry {
        name: &step.name,
        step: step.number,
        same_as: step.same_as.as_deref(),
        commit: step.commit.as_str(),
        date: step.date.map(|date| date.to_string()),
        size_bytes: step.size_bytes,
        files: step.files,
        cached: cached(step.cached),
    }
}

fn cached(cached: Cached) -> &'static str {
    match cached {
        Cached::Whole => "yes",
        Cached::Partly => "partly",
        Cached::No => "no",
    }
}

fn table(steps: &[Step]) -> String {
    let width = steps.iter().map(|s| escape(&s.name).chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<width$}  {:<10}  {:<8}  {:>9}  {:<6}\n",
        "step", "date", "commit", "size", "cached"
    );
    for step in steps {
        let date = step.date.map_or("-".to_owned(), |date| date.strftime("%F").to_string());
        let same = step.same_as.as_ref().map(|s| format!("  = {}", escape(s)));
        let line = format!(
            "{:<width$}  {:<10}  {:<8}  {:>9}  {:<6}{}",
            escape(&step.name),
            date,
            hub::short(&step.commit),
            units::bytes(step.size_bytes),
            cached(step.cached),
            same.unwrap_or_default(),
        );
        writeln!(text, "{}", line.trim_end()).expect("strings grow");
    }
    text
}
