//! `select CKPT…`: runs the trials that the choice needs, and no more.

use std::path::PathBuf;

use clap::ValueEnum;
use sha2::{Digest as _, Sha256};

use super::context::Context;
use super::scoring::{Candidates, Model, ScoringArgs, with_job_help};
use crate::error::Result;
use crate::harness::job::{Candidate, Job};
use crate::harness::jobs::{Records, Source, attempt};
use crate::harness::record::TrialRecord;
use crate::harness::trial::{Purpose, Trial};
use crate::select::allocate::{Allocation, Allocator, Ask, Budget, Spent};
use crate::select::rasch::Prior;
use crate::select::records::Table;
use crate::select::rng::Rng;
use crate::select::stop::{Beliefs, StopRule};
use crate::select::summary::{Settings, Summary, summarise};
use crate::units::NoAmount;

/// How attempts are spread over steps and tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AllocationChoice {
    /// Top-two Thompson sampling on the tasks that tell the contenders apart
    Ttts,
    /// The same number of attempts for all steps at all tasks
    Uniform,
    /// Uniform among those left; the worse half leaves after each equal part of the budget
    Halving,
}

impl From<AllocationChoice> for Allocation {
    fn from(choice: AllocationChoice) -> Self {
        match choice {
            AllocationChoice::Ttts => Self::Ttts,
            AllocationChoice::Uniform => Self::Uniform,
            AllocationChoice::Halving => Self::Halving,
        }
    }
}

/// Reads a budget: `500` rollouts, `90m` or `2h` of trials, `5Mtok` of tokens written.
///
/// # Errors
/// Names the text that is no budget.
pub fn parse_budget(text: &str) -> Result<Budget, NoAmount> {
    let bad = || NoAmount {
        text: text.to_owned(),
        wanted: "a budget",
        help: "write 500 (rollouts), 90m, 2h, or 5Mtok",
    };
    let number = |digits: &str| digits.parse::<f64>().ok().filter(|n| *n > 0.0 && *n < 1e15);
    if let Some(rest) = text.strip_suffix("tok") {
        let tokens = crate::units::parse_size(rest).map_err(|_| bad())?;
        return Ok(Budget::Tokens(tokens));
    }
    for (suffix, secs) in [("h", 3600.0), ("m", 60.0), ("s", 1.0)] {
        if let Some(digits) = text.strip_suffix(suffix) {
            return Ok(Budget::Secs(number(digits).ok_or_else(bad)? * secs));
        }
    }
    text.parse::<u64>().ok().filter(|n| *n > 0).map(Budget::Rollouts).ok_or_else(bad)
}

/// What the run is to do.
pub struct Plan<'a> {
    /// The checkpoints, or the model of an endpoint.
    pub candidates: &'a Candidates,
    /// How tasks are run.
    pub scoring: &'a ScoringArgs,
    /// The job folder.
    pub dir: PathBuf,
    /// How attempts are spread.
    pub allocation: Allocation,
    /// What may be spent; five attempts a cell if absent.
    pub budget: Option<Budget>,
    /// When to stop, and which step to take.
    pub settings: &'a Settings,
    /// Fresh rollouts of the picked step.
    pub confirm: u32,
    /// The order in which steps are first tried, if something ordered them.
    pub queue: Option<Vec<usize>>,
}

impl Plan<'_> {
    /// Returns what may be spent on `tasks` tasks.
    #[must_use]
    pub fn budget(&self, tasks: usize) -> Budget {
        let cells = (self.candidates.models.len() * tasks) as u64;
        self.budget.unwrap_or(Budget::Rollouts(ATTEMPTS_DEFAULT * cells))
    }
}

/// Trials asked for between two looks at the posterior, at least.
const BATCH_MIN: usize = 8;
const LOOK_DRAWS: usize = 4_000;
const ATTEMPTS_DEFAULT: u64 = 5;

/// The state of a run.
struct Run<'a> {
    job: &'a Job,
    models: &'a [Model],
    allocator: Allocator,
    /// The steps in the order in which a batch takes them.
    queue: Vec<usize>,
    table: Table,
    /// The table's index of each task of the job.
    task_index: Vec<usize>,
    /// The next attempt of each cell of the job, `[step][task]`.
    next: Vec<Vec<u32>>,
    hashes: Vec<Sha256>,
    trials: Vec<usize>,
    spent: Spent,
}

/// Runs trials until the stop rule or the budget says that it is enough.
///
/// # Errors
/// Checkpoints, tasks, sandbox or job folder cannot be used; an interruption.
pub fn run(plan: &Plan<'_>, ctx: &Context) -> Result<Records> {
    let models = &plan.candidates.models;
    let candidates: Vec<Candidate> = models.iter().map(|m| m.candidate.clone()).collect();
    let attempts = ATTEMPTS_DEFAULT as u32;
    let (job, _watch) = plan.scoring.open_job(&plan.dir, candidates, attempts, ctx)?;
    let mut run = Run::new(&job, models, plan)?;
    let chosen = run.choose(plan).and_then(|picked| run.confirm(picked, plan.confirm));
    // What is finished is summed up even if the rest failed or was interrupted.
    job.finish()?;
    let fresh = chosen.map_err(|error| with_job_help(error, &plan.dir))?;
    run.records(fresh)
}

impl<'a> Run<'a> {
    fn new(job: &'a Job, models: &'a [Model], plan: &Plan<'_>) -> Result<Self> {
        let spec = job.spec();
        let steps: Vec<String> = spec.candidates.iter().map(|c| c.name.clone()).collect();
        let tasks: Vec<String> = spec.tasks.iter().map(|t| t.name.clone()).collect();
        let table = Table::new(steps.clone(), tasks.clone())?;
        let index = |name: &String| table.task_index(name).expect("the table has every task");
        let task_index = tasks.iter().map(index).collect();
        let seed = plan.scoring.seed;
        let (s, t) = (steps.len(), tasks.len());
        let mut allocator = Allocator::new(s, t, plan.allocation, Prior::default(), seed);
        if let Some(queue) = &plan.queue {
            allocator = allocator.queued(queue.clone());
        }
        Ok(Self {
            job,
            models,
            allocator,
            queue: plan.queue.clone().unwrap_or_else(|| (0..s).collect()),
            table,
            task_index,
            next: vec![vec![0; t]; s],
            hashes: vec![Sha256::new(); s],
            trials: vec![0; s],
            spent: Spent::default(),
        })
    }

    /// Spends the budget or stops early, and returns the picked step.
    fn choose(&mut self, plan: &Plan<'_>) -> Result<usize> {
        let budget = plan.budget(self.job.spec().tasks.len());
        // Twice as many as run at a time, so that few wait for the slowest.
        let batch = (2 * self.job.spec().n_concurrent).max(BATCH_MIN);
        let seed = plan.scoring.seed;
        let Settings { confidence, indifference, .. } = *plan.settings;
        let rule = StopRule { confidence, indifference };
        loop {
            let share = budget.share(&self.spent);
            if share >= 1.0 {
                break;
            }
            let left = match budget {
                Budget::Rollouts(most) => (most - self.spent.rollouts) as usize,
                Budget::Secs(_) | Budget::Tokens(_) => batch,
            };
            let asks: Vec<Ask> =
                (0..batch.min(left)).map_while(|_| self.allocator.ask(share)).collect();
            if asks.is_empty() {
                break;
            }
            self.take(&asks)?;
            let all_tried = (0..self.models.len()).all(|s| self.trials[s] > 1);
            if all_tried && self.enough(&rule, seed) && self.summary(plan)?.certainty.is_enough() {
                break;
            }
        }
        // What the answer will say is what decides: the allocator's posterior is only near it.
        let picked = self.summary(plan)?.picked;
        Ok(self.table.step_index(&picked).expect("a step of the table is picked"))
    }

    /// Says whether the allocator's posterior would stop, which is quick to ask.
    fn enough(&mut self, rule: &StopRule, seed: u64) -> bool {
        let scores = self.allocator.scores();
        let beliefs = Beliefs::of(&scores, rule.indifference, LOOK_DRAWS, &mut Rng::new(seed));
        rule.decide(&scores, &beliefs).is_some()
    }

    /// Returns what the records so far say, by the posterior that the answer is made from.
    fn summary(&self, plan: &Plan<'_>) -> Result<Summary> {
        Ok(summarise(&self.table.tried()?, None, plan.settings)?)
    }

    /// Runs a batch, one checkpoint after another, and records it in the order of the asks.
    fn take(&mut self, asks: &[Ask]) -> Result<()> {
        let trials: Vec<Trial> = asks.iter().map(|ask| self.trial(*ask)).collect();
        let records = self.run_by_model(&trials)?;
        for (ask, record) in asks.iter().zip(&records) {
            let attempt = attempt(record);
            self.spent.secs += attempt.secs.unwrap_or(0.0);
            self.spent.tokens += attempt.tokens.unwrap_or(0);
            let line = serde_json::to_vec(record).expect("records serialise");
            self.hashes[ask.step].update(Sha256::digest(line));
            self.trials[ask.step] += 1;
            match attempt.reward {
                Some(reward) => {
                    self.spent.rollouts += 1;
                    self.allocator.record(*ask, reward);
                }
                None => self.allocator.fail(*ask),
            }
            self.table.push(ask.step, self.task_index[ask.task], attempt)?;
        }
        Ok(())
    }

    fn trial(&mut self, ask: Ask) -> Trial {
        let next = &mut self.next[ask.step][ask.task];
        *next += 1;
        let attempt = *next - 1;
        Trial { candidate: ask.step, task: ask.task, attempt, purpose: Purpose::Score }
    }

    /// Runs trials grouped by checkpoint, so that one at a time is in memory.
    fn run_by_model(&self, trials: &[Trial]) -> Result<Vec<TrialRecord>> {
        let mut done: Vec<Option<TrialRecord>> = vec![None; trials.len()];
        for &index in &self.queue {
            let model = &self.models[index];
            let places: Vec<usize> =
                (0..trials.len()).filter(|i| trials[*i].candidate == index).collect();
            let wanted: Vec<Trial> = places.iter().map(|i| trials[*i]).collect();
            let mut open = false;
            for trial in &wanted {
                open |= self.job.finished(*trial)?.is_none();
            }
            if open {
                model.load()?;
            }
            for (place, record) in places.into_iter().zip(self.job.run(&wanted)?) {
                done[place] = Some(record);
            }
            model.unload();
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Runs `count` fresh rollouts of the picked step, task after task.
    fn confirm(&self, picked: usize, count: u32) -> Result<Option<Table>> {
        if count == 0 {
            return Ok(None);
        }
        let order = self.allocator.task_order().to_vec();
        let trials: Vec<Trial> = (0..count)
            .map(|i| Trial {
                candidate: picked,
                task: order[i as usize % order.len()],
                attempt: i / order.len() as u32,
                purpose: Purpose::Confirm,
            })
            .collect();
        let records = self.run_by_model(&trials)?;
        let mut fresh = Table::new(self.table.steps().to_vec(), self.table.tasks().to_vec())?;
        for (trial, record) in trials.iter().zip(&records) {
            fresh.push(picked, self.task_index[trial.task], attempt(record))?;
        }
        Ok(Some(fresh))
    }

    fn records(self, fresh: Option<Table>) -> Result<Records> {
        let spec = self.job.spec();
        let sources = self
            .hashes
            .into_iter()
            .zip(&spec.candidates)
            .zip(&self.trials)
            .map(|((hash, candidate), trials)| Source {
                step: candidate.name.clone(),
                folder: spec.dir.clone(),
                model: Some(format!("{}@{}", candidate.repository, candidate.commit)),
                agent: Some(candidate.who.word().to_owned()),
                trials: *trials,
                sha256: crate::units::hex(&hash.finalize()),
            })
            .collect();
        let table = self.table.tried()?;
        Ok(Records { table, fresh, sources, unfinished: 0, changed_tasks: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::parse_budget;
    use crate::select::allocate::Budget;

    #[test]
    fn budgets_come_in_three_coins() {
        assert_eq!(parse_budget("500"), Ok(Budget::Rollouts(500)));
        assert_eq!(parse_budget("90m"), Ok(Budget::Secs(5400.0)));
        assert_eq!(parse_budget("2h"), Ok(Budget::Secs(7200.0)));
        assert_eq!(parse_budget("5Mtok"), Ok(Budget::Tokens(5_000_000)));
        for bad in ["", "0", "-3", "h", "5 apples", "tok", "1e3"] {
            assert!(parse_budget(bad).is_err(), "{bad}");
        }
    }
}
