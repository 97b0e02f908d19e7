//! `select --dry-run`: what there is, and what would be run.

use std::fmt::Write as _;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{Document, Outcome};
use super::select_run::Plan;
use crate::error::Result;
use crate::harness::import;
use crate::name::escape;
use crate::select::allocate::{Allocation, Budget};
use crate::units::{amount, duration, plural};

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct PlanDocument<'a> {
    /// Always true: nothing was run.
    dry_run: bool,
    /// The job folder.
    job: &'a Path,
    /// The steps.
    steps: Vec<StepPlan<'a>>,
    /// The tasks' names.
    tasks: &'a [String],
    /// How attempts are spread.
    allocation: &'static str,
    /// What may be spent.
    budget: BudgetPlan,
    /// Fresh rollouts of the picked step.
    confirm: u32,
    /// Trajectories that order the queue first.
    trajectories: usize,
    /// What would be fetched first, in words.
    first: Option<&'a str>,
}

impl Document for PlanDocument<'_> {
    const NAME: &'static str = "select.plan/1";
}

/// What is there of one step.
#[derive(Serialize, JsonSchema)]
struct StepPlan<'a> {
    /// Its name.
    step: &'a str,
    /// The repository, or `local`.
    repository: &'a str,
    /// The commit, or the digest of the files.
    #[schemars(regex(pattern = r"^([0-9a-f]{40}|[0-9a-f]{64})?$"))]
    commit: &'a str,
    /// Trials in the job folder that have a result.
    finished_trials: usize,
}

/// A budget in one of three coins.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum BudgetPlan {
    /// Attempts with a verdict.
    Rollouts(u64),
    /// Seconds of trials.
    Secs(f64),
    /// Tokens written.
    Tokens(u64),
}

/// Says what [`super::select_run::run`] would do; writes nothing. How trials are spread depends on
/// what they give, so only their bounds are known.
///
/// # Errors
/// Tasks, prompts or settings that cannot be used; records that cannot be read.
pub fn outcome(plan: &Plan<'_>, trajectories: usize, ctx: &Context) -> Result<Outcome> {
    let (tasks, first) = plan.scoring.preview(ctx)?;
    plan.scoring.settings()?;
    plan.scoring.prompts()?;
    let records = if plan.dir.is_dir() { import::read(&plan.dir)?.records } else { Vec::new() };
    let budget = plan.budget(tasks.len());
    let mut human = String::new();
    let mut steps = Vec::new();
    for model in &plan.candidates.models {
        let candidate = &model.candidate;
        let done = records.iter().filter(|r| r.step == candidate.name).count();
        let _ = writeln!(human, "{}  {}", escape(&candidate.name), finished(done));
        steps.push(StepPlan {
            step: &candidate.name,
            repository: &candidate.repository,
            commit: &candidate.commit,
            finished_trials: done,
        });
    }
    if let Some(first) = &first {
        let _ = writeln!(human, "{first}");
    }
    let _ = writeln!(
        human,
        "would run {} on {} into {}, {} in all, until one is the best with {:.0}% or within {} \
         of it",
        allocation_words(plan.allocation),
        plural(tasks.len() as u64, "task"),
        plan.dir.display(),
        budget_words(budget),
        plan.settings.confidence * 100.0,
        amount(plan.settings.indifference * 100.0, "point"),
    );
    if plan.confirm > 0 {
        let fresh = plural(u64::from(plan.confirm), "fresh rollout");
        let _ = writeln!(human, "then {fresh} of the picked step");
    }
    if trajectories > 0 {
        let what = plural(trajectories as u64, "trajectory");
        let _ = writeln!(human, "first the likelihood of {what}, for the order");
    }
    let document = PlanDocument {
        dry_run: true,
        job: &plan.dir,
        steps,
        tasks: &tasks,
        allocation: allocation_words(plan.allocation),
        budget: budget_document(budget),
        confirm: plan.confirm,
        trajectories,
        first: first.as_deref(),
    };
    Ok(Outcome::new(&document).human(human).quiet(plan.dir.display().to_string()))
}

fn finished(trials: usize) -> String {
    match trials {
        0 => "no finished trial".to_owned(),
        count => format!("{} finished, used again where asked for", plural(count as u64, "trial")),
    }
}

fn allocation_words(allocation: Allocation) -> &'static str {
    match allocation {
        Allocation::Ttts => "ttts",
        Allocation::Uniform => "uniform",
        Allocation::Halving => "halving",
    }
}

fn budget_words(budget: Budget) -> String {
    match budget {
        Budget::Rollouts(most) => format!("at most {}", plural(most, "rollout")),
        Budget::Secs(most) => format!("about {} of trials", duration(most)),
        Budget::Tokens(most) => format!("about {} written", plural(most, "token")),
    }
}

fn budget_document(budget: Budget) -> BudgetPlan {
    match budget {
        Budget::Rollouts(most) => BudgetPlan::Rollouts(most),
        Budget::Secs(most) => BudgetPlan::Secs(most),
        Budget::Tokens(most) => BudgetPlan::Tokens(most),
    }
}
