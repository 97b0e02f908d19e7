//! `select`: choose a step from trials that it runs or reads, say how sure one can be, and write the report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{ValueEnum, ValueHint};
use serde::Serialize;

use super::context::Context;
use super::jobs::{self, Records, Source};
use super::outcome::{self, Outcome};
use super::render::{DIM, GOOD, STRONG, paint};
use super::scoring::ScoringArgs;
use super::select_run::{self, AllocationChoice, Plan, Ran};
use crate::error::Result;
use crate::report::{self, Provenance};
use crate::select::allocate::Budget;
use crate::select::stop::{StopRule, TieRule};
use crate::select::summary::{Settings, Step, Summary, summarise};
use crate::units::plural;

/// Choose a step: run what is needed, or read finished records
///
/// With checkpoints and --tasks, runs trials until one step is the best with the confidence
/// asked for, until the leader is within the indifference of the best, or until the budget is
/// spent; the same command goes on where it was cut off. With --from, reads job folders that
/// Harbor or `score` wrote, one step a folder, and runs nothing. A trial that failed for reasons
/// outside the model is counted, and never taken for a zero.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["tasks", "from"])))]
pub struct Args {
    /// Checkpoints to choose from, in the order of training
    #[arg(value_name = "CKPT", conflicts_with = "from")]
    checkpoints: Vec<String>,
    /// Job folders, one a step, or a folder of them; nothing is run
    #[arg(long, value_name = "DIR", num_args = 1.., value_hint = ValueHint::DirPath)]
    from: Vec<PathBuf>,
    /// What a step is judged by
    #[arg(long, value_enum, default_value_t = Metric::Tblite)]
    metric: Metric,
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
    #[command(flatten)]
    scoring: Option<ScoringArgs>,
}

/// What a step is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metric {
    /// The mean reward over the tasks given, as on TBLite
    Tblite,
}

/// The tie rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rule {
    /// The earliest step within one standard error of the best
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
    let ran = match &args.scoring {
        Some(scoring) => select_run::run(&plan(&args, scoring, &settings), ctx)?,
        None => Ran { records: jobs::read(&args.from)?, fresh: None },
    };
    let Ran { records, fresh } = ran;
    let summary = summarise(&records.table, fresh.as_ref(), &settings)?;
    let document = Document {
        summary: &summary,
        sources: &records.sources,
        unfinished_trials: records.unfinished,
        changed_tasks: &records.changed_tasks,
        report: args.report.as_deref(),
    };
    let outcome = Outcome::new(&document);
    if let Some(path) = &args.report {
        write_report(path, &summary, &outcome, &records, &args, ctx)?;
    }
    let mut outcome = outcome.human(text(&summary)).quiet(&summary.picked);
    for note in report::notes(&summary).into_iter().chain(record_notes(&records)) {
        outcome = outcome.hint(format!("note: {note}"));
    }
    if let Some(path) = &args.report {
        outcome = outcome.hint(format!("report: {}", path.display()));
    }
    Ok(outcome)
}

fn plan<'a>(args: &'a Args, scoring: &'a ScoringArgs, settings: &Settings) -> Plan<'a> {
    // The one metric that there is needs no more than the tasks.
    let Metric::Tblite = args.metric;
    Plan {
        checkpoints: &args.checkpoints,
        scoring,
        dir: args.output.clone(),
        allocation: args.allocation.into(),
        budget: args.budget,
        rule: StopRule { confidence: settings.confidence, indifference: settings.indifference },
        tie_rule: settings.rule,
        confirm: args.confirm,
    }
}

fn write_report(
    path: &Path,
    summary: &Summary,
    outcome: &Outcome,
    records: &Records,
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
    let notes = record_notes(records);
    let page = report::render(path, summary, &Provenance { settings, notes, document })?;
    crate::fsio::write_atomic(path, page.as_bytes())?;
    Ok(())
}

/// Returns the command that makes this report again from the records.
fn command_line(args: &Args, summary: &Summary) -> String {
    let mut line = "tmax-ckpt select".to_owned();
    let words: Vec<String> = match &args.scoring {
        Some(scoring) => std::iter::once(format!("--metric tblite --tasks {}", scoring.tasks))
            .chain(args.checkpoints.iter().cloned())
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

fn record_notes(records: &Records) -> Vec<String> {
    let mut notes = Vec::new();
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

/// Returns the table for people.
fn text(summary: &Summary) -> String {
    let width = summary.steps.iter().map(|s| s.step.chars().count()).max().unwrap_or(0).max(8);
    let versus = format!("vs {}", summary.baseline);
    let mut text = format!(
        "{:width$}  {:>8}  {:>6}  {:>13}  {:>24}  {:>7}  {:>6}\n",
        "step", "estimate", "pass@1", "95% interval", versus, "P(best)", "regret"
    );
    for step in &summary.steps {
        text.push_str(&row(summary, step, width));
    }
    let [fewest, most] = summary.attempts_a_cell;
    let attempts = if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
    let tasks = plural(summary.tasks.len() as u64, "task");
    let _ = writeln!(text, "{tasks} × {attempts} attempts. {}", report::rule_sentence(summary));
    let _ = writeln!(text, "{}", paint(STRONG, report::verdict(summary)));
    text
}

fn row(summary: &Summary, step: &Step, width: usize) -> String {
    let interval = step
        .interval_new_tasks
        .map_or_else(String::new, |i| format!("{:.1} … {:.1}", i.low * 100.0, i.high * 100.0));
    let versus = step.versus_baseline.as_ref().map_or_else(String::new, |v| {
        let interval = v.interval.map_or_else(String::new, |i| {
            format!(" ({:+.1} … {:+.1})", i.low * 100.0, i.high * 100.0)
        });
        format!("{:+.1}{interval}", v.mean * 100.0)
    });
    let mark = if step.step == summary.picked {
        paint(GOOD, "← picked")
    } else if step.step == summary.best {
        paint(DIM, "best estimate")
    } else {
        String::new()
    };
    let line = format!(
        "{:width$}  {:>8.1}  {:>6.1}  {interval:>13}  {versus:>24}  {:>7}  {:>6.1}  {mark}",
        step.step,
        step.estimate * 100.0,
        step.mean * 100.0,
        report::probability(step.p_best),
        step.regret * 100.0,
    );
    format!("{}\n", line.trim_end())
}
