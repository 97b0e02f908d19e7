//! `select`: choose a step from trials that it runs or reads, say how sure one can be, and write the
//! report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{ValueEnum, ValueHint};
use serde::Serialize;

use super::context::Context;
use super::failure::Failure;
use super::outcome::{self, Outcome};
use super::scoring::{Candidates, EngineArgs, Identified, Model, ScoringArgs, identified};
use super::select_nll::{self, Measured};
use super::select_run::{self, AllocationChoice, Plan};
use super::{select_plan, select_text};
use crate::error::Result;
use crate::harness::jobs::{self, Records, Source};
use crate::report::{self, Provenance};
use crate::select::allocate::Budget;
use crate::select::stop::TieRule;
use crate::select::summary::{Settings, Summary, summarise};
use crate::units::plural;

/// Choose a step: run what is needed, or read finished records
///
/// With checkpoints and --tasks, runs trials until one step is the best with the confidence
/// asked for, until the leader is within the indifference of the best, or until the budget is
/// spent; the same command goes on where it was cut off. With --from, reads job folders that
/// Harbor or `score` wrote, one step a folder, and runs nothing. A trial that failed for reasons
/// outside the model is counted, and never taken for a zero.
///
/// `--metric nll --trajectories PATH` measures how likely each checkpoint finds the replies of
/// given trajectories (teacher forcing: mean -ln p a token of the assistant's alone). That is cheap
/// and a weak sign, so it orders and never decides: with --tasks, steps get their first rollouts
/// in its order, and rollouts choose; without, the order is printed and no step is picked.
#[derive(Debug, clap::Args)]
#[command(group(
    clap::ArgGroup::new("source").required(true).multiple(true)
        .args(["tasks", "from", "trajectories"])
))]
pub struct Args {
    /// Checkpoints to choose from, in the order of training
    #[arg(value_name = "CKPT", conflicts_with = "from")]
    checkpoints: Vec<String>,
    /// Job folders, one a step, or a folder of them; nothing is run
    #[arg(long, value_name = "DIR", num_args = 1.., value_hint = ValueHint::DirPath)]
    #[arg(conflicts_with_all = ["tasks", "trajectories"])]
    from: Vec<PathBuf>,
    /// What a step is judged by, or what orders the queue
    #[arg(long, value_enum, default_value_t = Metric::Tblite)]
    metric: Metric,
    /// For --metric nll: a trajectory (ATIF, or a list of OpenAI messages), a folder of them, or a
    /// job folder, of which solved trials are taken; best written by none of the checkpoints; may
    /// be repeated
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    trajectories: Vec<PathBuf>,
    /// The job folder of the trials that are run
    #[arg(short, long, alias = "out", value_name = "JOBDIR", default_value = "select-jobs")]
    #[arg(value_hint = ValueHint::DirPath)]
    output: PathBuf,
    /// How attempts are spread over steps and tasks
    #[arg(long, value_enum, default_value_t = AllocationChoice::Ttts)]
    allocation: AllocationChoice,
    /// What may be spent: 500 rollouts, 90m or 2h of trials, 5Mtok [default: 5 rollouts a cell]
    #[arg(long, value_name = "AMOUNT", value_parser = select_run::parse_budget)]
    budget: Option<Budget>,
    /// Fresh rollouts of the picked step, which the choice has not seen
    #[arg(long, value_name = "N", default_value_t = 0)]
    confirm: u32,
    /// Write a report: one self-contained .html page, or the chart alone as .svg
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    report: Option<PathBuf>,
    /// How to choose among steps that are close
    #[arg(long, value_enum, default_value_t = Rule::OneSe)]
    rule: Rule,
    /// The step to compare the others with [default: the first]
    #[arg(long, value_name = "STEP")]
    baseline: Option<String>,
    /// Probability at which a step counts as the best
    #[arg(long, value_name = "P", default_value_t = 0.9)]
    confidence: f64,
    /// Difference that does not matter, in points of a hundred
    #[arg(long, value_name = "POINTS", default_value_t = 1.0)]
    indifference: f64,
    /// Seed of the statistics' draws: bootstrap and posterior
    #[arg(long, value_name = "N", default_value_t = 0)]
    bootstrap_seed: u64,
    /// Print what there is and what would be run, and run nothing
    #[arg(short = 'n', long, conflicts_with = "from")]
    dry_run: bool,
    #[command(flatten)]
    scoring: Option<ScoringArgs>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What a step is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metric {
    /// The mean reward over the tasks given, as on TBLite
    Tblite,
    /// The same, in a queue ordered by the likelihood of given trajectories
    Nll,
}

/// The tie rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rule {
    /// The earliest step within one standard error of the best: of their difference, at most that
    /// of the best one's own score
    OneSe,
    /// The step with the highest estimate
    Best,
    /// The step with the highest lower bound
    Lcb,
}

impl From<Rule> for TieRule {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::OneSe => Self::OneSe,
            Rule::Best => Self::Best,
            Rule::Lcb => Self::Lcb,
        }
    }
}

/// The JSON document.
#[derive(Serialize, schemars::JsonSchema)]
pub(super) struct Document<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    /// Where the records of each step came from.
    sources: &'a [Source],
    /// Trials without a result: still running, or cut off.
    unfinished_trials: usize,
    /// Tasks that are not the same in all records, by their digest.
    changed_tasks: &'a [String],
    /// How likely each step finds the given trajectories, which ordered the queue alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    nll: Option<&'a Measured>,
    /// The report, if one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a Path>,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "select/1";
}

/// Runs the command.
///
/// # Errors
/// Records that cannot be read or compared, a setting out of range, a report that cannot be
/// written.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let settings = Settings {
        rule: args.rule.into(),
        baseline: args.baseline.clone(),
        confidence: args.confidence,
        indifference: args.indifference / 100.0,
        seed: args.bootstrap_seed,
        ..Settings::default()
    };
    settings.check()?;
    args.check()?;
    let Some(scoring) = &args.scoring else {
        return if args.from.is_empty() { order(&args, ctx) } else { read(&args, &settings, ctx) };
    };
    let candidates = scoring.candidates(&args.checkpoints, &args.engine, ctx)?;
    if candidates.models.len() < 2 {
        let mut help = candidates.notes;
        help.push("name two or more, or a glob such as 'owner/name@step_*'".into());
        return Err(Failure::Usage("there is nothing to choose".into(), help).into());
    }
    check_baseline(&args, &candidates)?;
    let found = match args.metric {
        Metric::Tblite => Vec::new(),
        Metric::Nll => select_nll::trajectories(&args.trajectories)?,
    };
    let mut plan = plan(&args, scoring, &candidates, &settings);
    if args.dry_run {
        let outcome = select_plan::outcome(&plan, found.len(), ctx)?;
        return Ok(outcome.notes(&candidates.notes));
    }
    let measured = match args.metric {
        Metric::Tblite => None,
        Metric::Nll => {
            let steps: Vec<Identified> =
                candidates.models.iter().filter_map(Model::identified).collect();
            Some(select_nll::measure(&steps, &found, &args.engine, &args.output, ctx)?)
        }
    };
    plan.queue = measured.as_ref().map(|measured| measured.ranking.queue());
    let records = select_run::run(&plan, ctx)?;
    let mut notes = candidates.notes.clone();
    if let Some(measured) = &measured {
        notes.push(select_nll::queue_note(measured));
        notes.extend(measured.notes.clone());
    }
    decide(&records, measured.as_ref(), notes, &settings, &args, ctx)
}

impl Args {
    /// Refuses what clap cannot see.
    fn check(&self) -> Result<()> {
        if self.metric != Metric::Nll && !self.trajectories.is_empty() {
            let help = vec!["add `--metric nll`".to_owned()];
            let message = "`--trajectories` belongs to `--metric nll`";
            return Err(Failure::Usage(message.into(), help).into());
        }
        if self.scoring.is_none() && self.from.is_empty() && self.report.is_some() {
            let help = vec!["add `--tasks DIR`, or leave `--report` out".to_owned()];
            let message = "an order by nll alone has no report";
            return Err(Failure::Usage(message.into(), help).into());
        }
        if let Some(path) = &self.report {
            check_report(path)?;
        }
        Ok(())
    }
}

/// Refuses, before hours of trials, what could not be written after them.
fn check_report(path: &Path) -> Result<()> {
    let folder = crate::fsio::parent(path);
    if path.is_dir() || !folder.is_dir() {
        let help = vec!["name a file in a folder that exists".to_owned()];
        let message = format!("the report {} cannot be written", path.display());
        return Err(Failure::Usage(message, help).into());
    }
    report::check_target(path)
}

/// Refuses a baseline that is none of the steps, before they are run.
fn check_baseline(args: &Args, candidates: &Candidates) -> Result<()> {
    let steps: Vec<String> =
        candidates.models.iter().map(|model| model.candidate.name.clone()).collect();
    match &args.baseline {
        Some(name) if !steps.contains(name) => {
            Err(crate::select::Error::Baseline { name: name.clone(), steps }.into())
        }
        _ => Ok(()),
    }
}

/// Orders checkpoints by nll alone.
fn order(args: &Args, ctx: &Context) -> Result<Outcome> {
    let (steps, notes) = identified(&args.checkpoints, ctx)?;
    if steps.is_empty() {
        let help = vec!["name checkpoints, or a glob such as 'owner/name@step_*'".to_owned()];
        return Err(Failure::Usage("there is nothing to order".into(), help).into());
    }
    let found = select_nll::trajectories(&args.trajectories)?;
    if args.dry_run {
        return Ok(select_nll::dry_run(&steps, &found, &args.engine, &args.output)?.notes(&notes));
    }
    let measured = select_nll::measure(&steps, &found, &args.engine, &args.output, ctx)?;
    Ok(select_nll::outcome(&measured).notes(&notes))
}

fn read(args: &Args, settings: &Settings, ctx: &Context) -> Result<Outcome> {
    if args.metric == Metric::Nll {
        let help = vec!["give checkpoints and --trajectories".to_owned()];
        let message = "`--metric nll` needs the checkpoints, records are not enough";
        return Err(Failure::Usage(message.into(), help).into());
    }
    decide(&jobs::read(&args.from)?, None, Vec::new(), settings, args, ctx)
}

/// Picks from records, and writes the report.
fn decide(
    records: &Records,
    measured: Option<&Measured>,
    notes: Vec<String>,
    settings: &Settings,
    args: &Args,
    ctx: &Context,
) -> Result<Outcome> {
    let summary = summarise(&records.table, records.fresh.as_ref(), settings)?;
    let document = Document {
        summary: &summary,
        sources: &records.sources,
        unfinished_trials: records.unfinished,
        changed_tasks: &records.changed_tasks,
        nll: measured,
        report: args.report.as_deref(),
    };
    let outcome = Outcome::new(&document);
    let notes: Vec<String> = notes.into_iter().chain(record_notes(records, &summary)).collect();
    if let Some(path) = &args.report {
        write_report(path, &summary, &outcome, records, &notes, args, ctx)?;
    }
    let outcome = outcome.human(select_text::text(&summary)).quiet(&summary.picked);
    let mut outcome = outcome.notes(&report::notes(&summary)).notes(&notes);
    if let Some(path) = &args.report {
        outcome = outcome.hint(format!("report: {}", path.display()));
    }
    Ok(outcome)
}

fn plan<'a>(
    args: &Args,
    scoring: &'a ScoringArgs,
    candidates: &'a Candidates,
    settings: &'a Settings,
) -> Plan<'a> {
    Plan {
        candidates,
        scoring,
        dir: args.output.clone(),
        allocation: args.allocation.into(),
        budget: args.budget,
        settings,
        confirm: args.confirm,
        queue: None,
    }
}

fn write_report(
    path: &Path,
    summary: &Summary,
    outcome: &Outcome,
    records: &Records,
    notes: &[String],
    args: &Args,
    ctx: &Context,
) -> Result<()> {
    let mut settings = vec![
        ("seed".to_owned(), summary.seed.to_string()),
        ("resamples".to_owned(), summary.resamples.to_string()),
        ("made".to_owned(), ctx.now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
        ("tmax-ckpt".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("command".to_owned(), command_line(args, summary)),
    ];
    for source in &records.sources {
        let model = source.model.as_deref().unwrap_or("model not named");
        let agent = source.agent.as_deref().unwrap_or("agent not named");
        let trials = plural(source.trials as u64, "trial");
        let value = format!("{model} · {agent} · {trials} · sha256 {}", source.sha256);
        settings.push((source.step.clone(), value));
    }
    let document = serde_json::Value::Object(outcome.document().clone());
    let notes = notes.to_vec();
    // Trials take long: somebody may have put a file there meanwhile.
    report::check_target(path)?;
    let page = report::render(path, summary, &Provenance { settings, notes, document })?;
    crate::fsio::write_atomic(path, page.as_bytes())?;
    Ok(())
}

/// Returns the command that makes this report again from the records.
fn command_line(args: &Args, summary: &Summary) -> String {
    let mut line = "tmax-ckpt select".to_owned();
    let words: Vec<String> = match &args.scoring {
        Some(scoring) => std::iter::once(format!("--tasks {}", scoring.tasks))
            .chain(args.checkpoints.iter().cloned())
            .chain(metric_words(args))
            .chain([format!("--output {}", args.output.display())])
            .chain([format!("--seed {}", scoring.seed)])
            .collect(),
        None => std::iter::once("--from".to_owned())
            .chain(args.from.iter().map(|dir| dir.display().to_string()))
            .collect(),
    };
    let _ = write!(line, " {} --rule {}", words.join(" "), summary.rule);
    let _ = write!(line, " --bootstrap-seed {}", summary.seed);
    let _ = write!(line, " --confidence {}", args.confidence);
    let _ = write!(line, " --indifference {}", args.indifference);
    if let Some(baseline) = &args.baseline {
        let _ = write!(line, " --baseline {baseline}");
    }
    line
}

/// Returns the words that say the metric.
fn metric_words(args: &Args) -> Vec<String> {
    match args.metric {
        Metric::Tblite => vec!["--metric tblite".to_owned()],
        Metric::Nll => std::iter::once("--metric nll".to_owned())
            .chain(
                args.trajectories.iter().map(|path| format!("--trajectories {}", path.display())),
            )
            .collect(),
    }
}

fn record_notes(records: &Records, summary: &Summary) -> Vec<String> {
    let mut notes = Vec::new();
    let fresh = records.fresh.iter().flat_map(|fresh| {
        fresh.steps().iter().enumerate().map(|(step, name)| (name, fresh.attempts(step).count()))
    });
    for (step, count) in fresh.filter(|(step, count)| **step != summary.picked && *count > 0) {
        let rollouts = plural(count as u64, "rollout");
        notes.push(format!("{rollouts} that confirmed {step}, which is not picked, left out"));
    }
    if records.unfinished > 0 {
        let trials = plural(records.unfinished as u64, "trial folder");
        notes.push(format!("{trials} without a result.json left out: still running, or cut off"));
    }
    if !records.changed_tasks.is_empty() {
        notes.push(format!(
            "not the same task in all records, by its digest: {}",
            records.changed_tasks.join(", ")
        ));
    }
    notes
}
