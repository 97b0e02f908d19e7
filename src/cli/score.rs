//! `score`: run tasks into a job folder, or read one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum, ValueHint};
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;

use super::outcome::{Document, Outcome};
use super::scoring::{Candidates, EngineArgs, Model, ScoringArgs, with_job_help};
use super::select_text::pass_at_k;
use crate::error::Result;
use crate::harness::import::{self, Imported, StepSummary};
use crate::harness::job::{Candidate, Job, Who};
use crate::harness::jobs::JobError;
use crate::harness::record::{self, TrialRecord};
use crate::harness::trial::Trial;
use crate::select::estimate::PassAtK;
use crate::units::plural;

/// Run the tasks into a job folder, resumable; `score import DIR` reads one
///
/// The folder has Harbor's layout. Hashes of the checkpoints are not checked: `verify` does that,
/// once before many trials.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Checkpoints to score
    #[arg(value_name = "CKPT")]
    checkpoints: Vec<String>,
    /// The job folder; the same command again goes on in it
    #[arg(short, long, value_name = "JOBDIR", required = true, value_hint = ValueHint::DirPath)]
    output: Option<PathBuf>,
    /// Who works on the tasks
    #[arg(long, value_enum, default_value = "model")]
    agent: AgentChoice,
    /// Attempts of each task
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    attempts: u32,
    /// Print what would be run, and run nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    scoring: Option<ScoringArgs>,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read a job folder that Harbor or this program wrote
    Import {
        /// The job folder
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// Who works on the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AgentChoice {
    /// The checkpoints
    Model,
    /// The tasks' own solutions: all should get 1
    Oracle,
    /// Nobody: all should get 0
    Nop,
}

/// The JSON line of a trial.
#[derive(Serialize, JsonSchema)]
pub(super) struct TrialLine<'a> {
    #[serde(flatten)]
    record: &'a TrialRecord,
    /// What counts, from 0 to 1; nothing if the machine failed.
    score: Option<f64>,
}

impl Document for TrialLine<'_> {
    const NAME: &'static str = "score.trial/1";
}

/// The JSON document: what the job folder holds.
#[derive(Serialize, JsonSchema)]
pub(super) struct JobDocument<'a> {
    /// The job folder.
    job: &'a Path,
    /// Trials with a result.
    trials: usize,
    /// Trials without one: still running, or cut off.
    unfinished: usize,
    /// The steps, in the order of their names.
    steps: &'a [StepSummary],
}

impl Document for JobDocument<'_> {
    const NAME: &'static str = "score/1";
}

/// The JSON document of a dry run.
#[derive(Serialize, JsonSchema)]
pub(super) struct PlanDocument<'a> {
    /// The job folder.
    job: &'a Path,
    /// Always true: nothing was run.
    dry_run: bool,
    /// How many tasks there are.
    tasks: usize,
    /// Attempts of each.
    attempts: u32,
    /// Who works on them.
    candidates: Vec<&'a str>,
    /// How many trials would be run.
    trials: usize,
    /// Trials of these that the job folder has already.
    finished_trials: usize,
    /// What must be done first, in words.
    first: Option<String>,
}

impl Document for PlanDocument<'_> {
    const NAME: &'static str = "score.plan/1";
}

/// Runs the command.
///
/// # Errors
/// Checkpoints, tasks, sandbox or job folder cannot be used; an interruption.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    if let Some(Action::Import { dir }) = &args.action {
        let imported = import::read(dir)?;
        if imported.records.is_empty() && imported.unfinished.is_empty() {
            return Err(JobError::NoTrials { dir: dir.clone() }.into());
        }
        return Ok(outcome(ctx, dir, &imported, Emit::Trials));
    }
    let (Some(scoring), Some(dir)) = (&args.scoring, &args.output) else {
        unreachable!("clap requires --tasks and --output")
    };
    let Candidates { models, notes } = match args.agent {
        AgentChoice::Model => scoring.candidates(&args.checkpoints, &args.engine, ctx)?,
        AgentChoice::Oracle => stand_in(Who::Oracle),
        AgentChoice::Nop => stand_in(Who::Nop),
    };
    let candidates: Vec<Candidate> = models.iter().map(|m| m.candidate.clone()).collect();
    if args.dry_run {
        return Ok(dry_run(&args, scoring, dir, &candidates, ctx)?.notes(&notes));
    }
    let (job, _watch) = scoring.open_job(dir, candidates, args.attempts, ctx)?;
    let ran = run_all(&job, &models, ctx);
    // What is finished is summed up even if the rest failed or was interrupted.
    job.finish()?;
    ran.map_err(|error| with_job_help(error, dir))?;
    let imported = import::read(&job.spec().dir)?;
    Ok(outcome(ctx, &job.spec().dir, &imported, Emit::SummaryOnly).notes(&notes))
}

fn stand_in(who: Who) -> Candidates {
    let name = who.word();
    let (repository, commit) = (String::new(), String::new());
    let model = Model::of(Candidate { name: name.into(), repository, commit, who });
    Candidates { models: vec![model], notes: Vec::new() }
}

/// Runs the candidates one after another, so that one checkpoint at a time is in memory.
fn run_all(job: &Job, models: &[Model], ctx: &Context) -> Result<()> {
    for (index, model) in models.iter().enumerate() {
        let trials: Vec<Trial> =
            job.planned().into_iter().filter(|trial| trial.candidate == index).collect();
        let mut open = 0;
        for trial in &trials {
            open += usize::from(job.finished(*trial)?.is_none());
        }
        if open > 0 {
            model.load()?;
        }
        job.run_each(&trials, &|record| emit(ctx, record))?;
        model.unload();
    }
    Ok(())
}

fn emit(ctx: &Context, record: &TrialRecord) {
    ctx.emit(&TrialLine { record, score: record.score() });
}

fn dry_run(
    args: &Args,
    scoring: &ScoringArgs,
    dir: &Path,
    candidates: &[Candidate],
    ctx: &Context,
) -> Result<Outcome> {
    let (tasks, first) = scoring.preview(ctx)?;
    scoring.settings()?;
    scoring.prompts()?;
    let finished_trials = finished(dir, &tasks, candidates, args.attempts)?;
    let tasks = tasks.len();
    let trials = tasks * candidates.len() * args.attempts as usize - finished_trials;
    let names: Vec<&str> = candidates.iter().map(|c| c.name.as_str()).collect();
    let head = first.as_deref().map_or(String::new(), |line| format!("{line}\n"));
    let done = match finished_trials {
        0 => String::new(),
        n => format!(" more than the {n} that are finished"),
    };
    let human = format!(
        "{head}would run {}{done} ({} × {} × {}) into {}\n",
        plural(trials as u64, "trial"),
        names.join(", "),
        plural(tasks as u64, "task"),
        plural(u64::from(args.attempts), "attempt"),
        dir.display()
    );
    let (attempts, candidates) = (args.attempts, names);
    let document = PlanDocument {
        job: dir,
        dry_run: true,
        tasks,
        attempts,
        candidates,
        trials,
        finished_trials,
        first,
    };
    Ok(Outcome::new(&document).human(human).quiet(dir.display().to_string()))
}

/// Counts the planned trials that the job folder has already. Names do: a folder in which one
/// stands for something else is refused.
fn finished(
    dir: &Path,
    tasks: &[String],
    candidates: &[Candidate],
    attempts: u32,
) -> Result<usize> {
    if !dir.is_dir() {
        return Ok(0);
    }
    let planned = |record: &&TrialRecord| {
        !record.confirms
            && record.outcome != record::Outcome::Infrastructure
            && record.attempt < attempts
            && tasks.contains(&record.task)
            && candidates.iter().any(|candidate| candidate.name == record.step)
    };
    Ok(import::read(dir)?.records.iter().filter(planned).count())
}

/// Which JSON lines come before the summary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emit {
    Trials,
    SummaryOnly,
}

fn outcome(ctx: &Context, dir: &Path, imported: &Imported, which: Emit) -> Outcome {
    if which == Emit::Trials {
        for record in &imported.records {
            emit(ctx, record);
        }
    }
    let steps = import::summarise(&imported.records);
    let document = JobDocument {
        job: dir,
        trials: imported.records.len(),
        unfinished: imported.unfinished.len(),
        steps: &steps,
    };
    let mut outcome =
        Outcome::new(&document).human(table(&steps)).quiet(dir.display().to_string()).one_line();
    let failures: usize = steps.iter().map(|step| step.infrastructure_failures).sum();
    if failures > 0 {
        outcome = outcome.hint(format!(
            "note: {} failed for reasons of the machine, counted nowhere; the same command tries \
             again",
            plural(failures as u64, "trial")
        ));
    }
    if !imported.unfinished.is_empty() {
        let trials = plural(imported.unfinished.len() as u64, "trial");
        outcome = outcome.hint(format!("note: {trials} begun and not finished"));
    }
    outcome
}

fn table(steps: &[StepSummary]) -> String {
    let width = steps.iter().map(|step| step.step.chars().count()).max().unwrap_or(4).max(4);
    let mut text = String::new();
    writeln!(
        text,
        "{:<width$}     mean  trials  tasks  out of time  no verdict  machine failed",
        "step"
    )
    .expect("strings grow");
    for step in steps {
        let mean = step.mean.map_or("–".into(), |mean| format!("{:.3}%", 100.0 * mean));
        writeln!(
            text,
            "{:<width$}  {mean:>7}  {:>6}  {:>5}  {:>11}  {:>10}  {:>14}",
            step.step,
            step.scored,
            step.tasks,
            step.timeouts,
            step.no_verdict,
            step.infrastructure_failures
        )
        .expect("strings grow");
    }
    let tries: Vec<(&str, &[PassAtK])> =
        steps.iter().map(|step| (step.step.as_str(), &step.pass_at_k[..])).collect();
    text + &pass_at_k(&tries)
}
