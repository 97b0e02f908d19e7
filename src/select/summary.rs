//! Everything that can be said about a table of records, as one serialisable value.
//!
//! Text, JSON and HTML all render this value, so that they cannot disagree. Scores, errors and
//! probabilities are fractions of one.

use serde::Serialize;

use super::Error;
use super::allocate::argmax;
use super::curse;
use super::estimate::{self, Cell, Difference, Estimate, PassAtK, Z95};
use super::rasch::{Prior, Rasch};
use super::records::{Outcome, Table};
use super::resample::Resamples;
use super::rng::Rng;
use super::scores::Scores;
use super::stop::{Beliefs, Stop, StopRule, TieRule, one_se};

/// What the user decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How ties are broken.
    pub rule: TieRule,
    /// The step that others are compared with; the first one if absent.
    pub baseline: Option<String>,
    /// Probability at which a step counts as the best.
    pub confidence: f64,
    /// Difference that does not matter, as a fraction of one.
    pub indifference: f64,
    /// Seed of all draws.
    pub seed: u64,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Draws from the posterior.
    pub draws: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rule: TieRule::OneSe,
            baseline: None,
            confidence: 0.9,
            indifference: 0.01,
            seed: 0,
            resamples: 4_000,
            draws: 20_000,
        }
    }
}

impl Settings {
    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn check(&self) -> Result<(), Error> {
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            let got = self.confidence.to_string();
            let expected = "between 0 and 1";
            return Err(Error::Setting { setting: "--confidence", expected, got });
        }
        if !(0.0..1.0).contains(&self.indifference) {
            let got = (self.indifference * 100.0).to_string();
            let expected = "between 0 and 100 points";
            return Err(Error::Setting { setting: "--indifference", expected, got });
        }
        Ok(())
    }
}

/// A lower and an upper bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Interval {
    /// 2.5 % bound.
    pub low: f64,
    /// 97.5 % bound.
    pub high: f64,
}

impl Interval {
    fn around(mean: f64, se: f64) -> Self {
        Self { low: mean - Z95 * se, high: mean + Z95 * se }
    }

    fn share(self) -> Self {
        Self { low: self.low.max(0.0), high: self.high.min(1.0) }
    }
}

/// A step against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Versus {
    /// Mean difference over the tasks that both have verdicts on.
    pub mean: f64,
    /// Standard error for new tasks, paired by task.
    pub se_new_tasks: Option<f64>,
    /// Standard error for these tasks.
    pub se_these_tasks: Option<f64>,
    /// Paired bootstrap over tasks.
    pub interval: Option<Interval>,
    /// Two-sided sign-flip test over tasks.
    pub sign_flip_p: f64,
    /// Tasks on which this step is ahead.
    pub wins: usize,
    /// Tasks on which both are equal.
    pub ties: usize,
    /// Tasks on which the baseline is ahead.
    pub losses: usize,
}

/// How a step's attempts ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Endings {
    /// Attempts with a verdict.
    pub graded: usize,
    /// Of these, ended by the agent's time limit.
    pub timeouts: usize,
    /// Of these, ended by the model: format errors, context overflow.
    pub model_failures: usize,
    /// Attempts without a verdict; they are in no mean.
    pub infrastructure_failures: usize,
}

/// What an attempt took, averaged over those that say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Effort {
    /// Tokens that the model wrote.
    pub tokens: Option<f64>,
    /// Turns.
    pub turns: Option<f64>,
    /// Replies without a usable tool call.
    pub format_errors: Option<f64>,
    /// Seconds.
    pub secs: Option<f64>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Step {
    /// Its name.
    pub step: String,
    /// Tasks with a verdict, which its plain mean and intervals are about.
    pub tasks: usize,
    /// Plain mean over tasks of the mean over attempts (pass@1).
    pub mean: f64,
    /// The same mean if attempts without a verdict counted as zero, as in Harbor's own.
    pub mean_missing_as_zero: f64,
    /// Standard error of the plain mean for these tasks.
    pub se_these_tasks: Option<f64>,
    /// Standard error of the plain mean for new tasks.
    pub se_new_tasks: Option<f64>,
    /// 95 % interval for these tasks.
    pub interval_these_tasks: Option<Interval>,
    /// 95 % interval for new tasks (bootstrap over tasks).
    pub interval_new_tasks: Option<Interval>,
    /// Posterior mean, which all decisions use: shrunk, and fair to steps with fewer attempts.
    pub estimate: f64,
    /// Posterior standard deviation.
    pub estimate_sd: f64,
    /// Against the baseline; absent for the baseline itself.
    pub versus_baseline: Option<Versus>,
    /// Probability of being the best on these tasks.
    pub p_best: f64,
    /// Probability of being within the indifference of the best.
    pub p_within: f64,
    /// Share of bootstrap resamples of the tasks in which its mean is the highest.
    pub p_best_new_tasks: f64,
    /// Expected loss against the best.
    pub regret: f64,
    /// How attempts ended.
    pub endings: Endings,
    /// What attempts took.
    pub effort: Effort,
    /// pass@k for the powers of two up to the fewest attempts, if rewards are binary.
    pub pass_at_k: Vec<PassAtK>,
}

/// One task over all steps.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Task {
    /// Its name.
    pub task: String,
    /// Mean over the steps.
    pub mean: f64,
    /// Mean of each step; absent without a verdict.
    pub steps: Vec<Option<f64>>,
    /// Verdicts of each step.
    pub attempts: Vec<usize>,
}

/// The winner's curse on the picked step.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Curse {
    /// Its plain mean.
    pub raw: f64,
    /// By how much the plain mean of a step picked this way is too high on average.
    pub excess: f64,
    /// Plain mean less the excess.
    pub corrected: f64,
    /// Posterior mean.
    pub shrunk: f64,
    /// The mean of fresh rollouts made after the choice.
    pub confirmed: Option<f64>,
    /// Its standard error for these tasks.
    pub confirmed_se: Option<f64>,
    /// Number of fresh rollouts with a verdict.
    pub confirmed_rollouts: usize,
    /// Number of tasks that they were made on.
    pub confirmed_tasks: usize,
}

/// What the records allow to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// One step is the best with the confidence asked for.
    Confident,
    /// The leader is within the indifference of the best with the confidence asked for.
    Indifferent,
    /// Neither.
    Undecided,
}

impl Certainty {
    /// Says whether no more attempts are needed.
    #[must_use]
    pub fn is_enough(self) -> bool {
        self != Self::Undecided
    }
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Summary {
    /// The step to take.
    pub picked: String,
    /// The step with the highest estimate.
    pub best: String,
    /// The tie rule, as the user spells it.
    pub rule: &'static str,
    /// The baseline.
    pub baseline: String,
    /// What the records allow to say.
    pub certainty: Certainty,
    /// Steps that cannot be told from the best one at 95 %, the best one included.
    pub indistinguishable: Vec<String>,
    /// How far behind the best step the picked one may be and still be taken for as good.
    pub one_se: f64,
    /// How many tasks of the kind it would take to tell the two leaders apart by two standard
    /// errors, at this number of attempts a task.
    pub tasks_needed: Option<u64>,
    /// Says whether all cells hold the same number of verdicts.
    pub balanced: bool,
    /// Fewest and most verdicts a cell.
    pub attempts_a_cell: [usize; 2],
    /// Whether the picked step is the last one of several.
    pub still_rising: bool,
    /// The winner's curse.
    pub curse: Curse,
    /// Spread of the task difficulties, in logits.
    pub task_sd: f64,
    /// Confidence asked for.
    pub confidence: f64,
    /// Indifference.
    pub indifference: f64,
    /// Seed of all draws.
    pub seed: u64,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// The steps, in the order of training.
    pub steps: Vec<Step>,
    /// The tasks, easiest first.
    pub tasks: Vec<Task>,
}

/// Seeds of the separate uses of randomness, so that one does not move the others.
const SEED_BOOTSTRAP: u64 = 0x626f_6f74;
const SEED_BELIEFS: u64 = 0x6265_6c69;
const SEED_CURSE: u64 = 0x6375_7273;
const SEED_FLIPS: u64 = 0x666c_6970;

impl TieRule {
    /// Returns the rule as users spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OneSe => "one-se",
            Self::Best => "best",
            Self::Lcb => "lcb",
        }
    }
}

/// Fits the shared-difficulty model to a finished table.
#[must_use]
pub fn fit(table: &Table, prior: Prior) -> Rasch {
    let mut model = Rasch::new(table.steps().len(), table.tasks().len(), prior);
    for step in 0..table.steps().len() {
        for task in 0..table.tasks().len() {
            table.rewards(step, task).for_each(|reward| model.observe(step, task, reward));
        }
    }
    model.fit_spreads();
    model
}

/// Says all that can be said. `fresh` holds confirming rollouts, if any were made; those of the
/// picked step are reported, and none moves a decision.
///
/// # Errors
/// An unknown baseline, a step without a verdict, a setting out of range.
pub fn summarise(
    table: &Table,
    fresh: Option<&Table>,
    settings: &Settings,
) -> Result<Summary, Error> {
    settings.check()?;
    let baseline = baseline(table, settings)?;
    let cells: Vec<Vec<Option<Cell>>> =
        (0..table.steps().len()).map(|step| estimate::cells(table, step)).collect();
    let estimates = estimates(table, &cells)?;
    let model = fit(table, Prior::default());
    let scores = model.scores(&model.curvature());
    let mut rng = Rng::new(settings.seed ^ SEED_BELIEFS);
    let beliefs = Beliefs::of(&scores, settings.indifference, settings.draws, &mut rng);
    let resamples = Resamples::draw(&cells, settings.resamples, settings.seed ^ SEED_BOOTSTRAP);
    let picked = settings.rule.pick(&scores);
    let best = argmax(&scores.mean);
    let facts = Facts { table, cells: &cells, scores: &scores, beliefs: &beliefs };
    let steps = facts.steps(&estimates, &resamples, baseline, settings.seed);
    let rule = StopRule { confidence: settings.confidence, indifference: settings.indifference };
    let name = |step: usize| table.steps()[step].clone();
    let counts = facts.counts();
    Ok(Summary {
        picked: name(picked),
        best: name(best),
        rule: settings.rule.name(),
        baseline: name(baseline),
        certainty: match rule.decide(&scores, &beliefs) {
            Some(Stop::Confident) => Certainty::Confident,
            Some(Stop::Indifferent) => Certainty::Indifferent,
            None => Certainty::Undecided,
        },
        indistinguishable: facts.near(best).into_iter().map(name).collect(),
        one_se: one_se(&scores, best, picked),
        tasks_needed: facts.tasks_needed(best),
        balanced: table.is_balanced(),
        attempts_a_cell: counts,
        still_rising: picked + 1 == table.steps().len() && picked > 1,
        curse: facts.curse(&estimates, picked, fresh, settings),
        task_sd: model.task_sd(),
        confidence: settings.confidence,
        indifference: settings.indifference,
        seed: settings.seed,
        resamples: settings.resamples,
        steps,
        tasks: facts.tasks(),
    })
}

fn baseline(table: &Table, settings: &Settings) -> Result<usize, Error> {
    let Some(name) = &settings.baseline else { return Ok(0) };
    table
        .step_index(name)
        .ok_or_else(|| Error::Baseline { name: name.clone(), steps: table.steps().to_vec() })
}

fn estimates(table: &Table, cells: &[Vec<Option<Cell>>]) -> Result<Vec<Estimate>, Error> {
    cells
        .iter()
        .zip(table.steps())
        .map(|(cells, step)| {
            estimate::estimate(cells).ok_or_else(|| Error::NoVerdict { step: step.clone() })
        })
        .collect()
}

/// What all parts of the summary read.
struct Facts<'a> {
    table: &'a Table,
    cells: &'a [Vec<Option<Cell>>],
    scores: &'a Scores,
    beliefs: &'a Beliefs,
}

impl Facts<'_> {
    fn steps(
        &self,
        estimates: &[Estimate],
        resamples: &Resamples,
        baseline: usize,
        seed: u64,
    ) -> Vec<Step> {
        let p_best_new_tasks = resamples.p_best();
        let zeros = self.table.missing_as_zero();
        (0..estimates.len())
            .map(|s| {
                let e = &estimates[s];
                let zeroed = estimate::estimate(&estimate::cells(&zeros, s));
                Step {
                    step: self.table.steps()[s].clone(),
                    tasks: e.tasks,
                    mean: e.mean,
                    mean_missing_as_zero: zeroed.map_or(0.0, |e| e.mean),
                    se_these_tasks: e.se_these,
                    se_new_tasks: e.se_new,
                    interval_these_tasks: interval_these(e),
                    interval_new_tasks: interval_new(e, resamples.interval(s)),
                    estimate: self.scores.mean[s],
                    estimate_sd: self.scores.covariance.at(s, s).max(0.0).sqrt(),
                    versus_baseline: (s != baseline)
                        .then(|| self.versus(resamples, s, baseline, seed))
                        .flatten(),
                    p_best: self.beliefs.p_best[s],
                    p_within: self.beliefs.p_within[s],
                    p_best_new_tasks: p_best_new_tasks[s],
                    regret: self.beliefs.regret[s],
                    endings: endings(self.table, s),
                    effort: effort(self.table, s),
                    pass_at_k: estimate::pass_at_ks(self.table, s),
                }
            })
            .collect()
    }

    fn versus(
        &self,
        resamples: &Resamples,
        s: usize,
        baseline: usize,
        seed: u64,
    ) -> Option<Versus> {
        let d: Difference =
            estimate::difference(&self.cells[s], &self.cells[baseline], seed ^ SEED_FLIPS)?;
        Some(Versus {
            mean: d.mean,
            se_new_tasks: d.se_new,
            se_these_tasks: d.se_these,
            interval: resamples.difference(s, baseline).map(|(low, high)| Interval { low, high }),
            sign_flip_p: d.sign_flip_p,
            wins: d.wins,
            ties: d.ties,
            losses: d.losses,
        })
    }

    /// Returns the steps whose difference to the best is within 1.96 standard deviations.
    fn near(&self, best: usize) -> Vec<usize> {
        (0..self.scores.mean.len())
            .filter(|step| {
                let behind = self.scores.mean[best] - self.scores.mean[*step];
                behind <= Z95 * self.scores.difference_sd(best, *step)
            })
            .collect()
    }

    fn tasks_needed(&self, best: usize) -> Option<u64> {
        let second = (0..self.scores.mean.len())
            .filter(|step| *step != best)
            .max_by(|a, b| self.scores.mean[*a].total_cmp(&self.scores.mean[*b]))?;
        let d = estimate::difference(&self.cells[best], &self.cells[second], 0)?;
        let ratio = 2.0 * d.se_new? / d.mean.abs();
        let needed = (ratio * ratio * self.table.tasks().len() as f64).ceil();
        (needed.is_finite() && needed > self.table.tasks().len() as f64).then_some(needed as u64)
    }

    fn counts(&self) -> [usize; 2] {
        let counts =
            || self.cells.iter().flatten().map(|cell| cell.map_or(0, |cell| cell.attempts));
        [counts().min().unwrap_or(0), counts().max().unwrap_or(0)]
    }

    fn curse(
        &self,
        estimates: &[Estimate],
        picked: usize,
        fresh: Option<&Table>,
        settings: &Settings,
    ) -> Curse {
        let noise: Vec<f64> = estimates
            .iter()
            .enumerate()
            .map(|(s, e)| e.se_these.unwrap_or(self.scores.covariance.at(s, s).max(0.0).sqrt()))
            .collect();
        let mut seen = self.scores.clone();
        let rule = settings.rule;
        let pick = |means: &[f64]| {
            seen.mean.copy_from_slice(means);
            rule.pick(&seen)
        };
        let mut rng = Rng::new(settings.seed ^ SEED_CURSE);
        let curse = curse::Curse {
            raw: estimates[picked].mean,
            shrunk: self.scores.mean[picked],
            excess: curse::excess(self.scores, &noise, pick, &mut rng),
        };
        let confirmed = fresh.and_then(|fresh| {
            let step = fresh.step_index(&self.table.steps()[picked])?;
            curse::confirmed(&estimate::cells(fresh, step))
        });
        Curse {
            raw: curse.raw,
            excess: curse.excess,
            corrected: curse.corrected(),
            shrunk: curse.shrunk,
            confirmed: confirmed.map(|e| e.mean),
            confirmed_se: confirmed.and_then(|e| e.se_these),
            confirmed_rollouts: confirmed.map_or(0, |e| e.attempts),
            confirmed_tasks: confirmed.map_or(0, |e| e.tasks),
        }
    }

    fn tasks(&self) -> Vec<Task> {
        let mut tasks: Vec<Task> = (0..self.table.tasks().len())
            .map(|t| {
                let column = || self.cells.iter().map(|step| step[t]);
                let steps: Vec<Option<f64>> = column().map(|c| c.map(|c| c.mean)).collect();
                let seen: Vec<f64> = steps.iter().flatten().copied().collect();
                Task {
                    task: self.table.tasks()[t].clone(),
                    mean: seen.iter().sum::<f64>() / seen.len().max(1) as f64,
                    steps,
                    attempts: column().map(|c| c.map_or(0, |c| c.attempts)).collect(),
                }
            })
            .collect();
        tasks.sort_by(|a, b| b.mean.total_cmp(&a.mean).then_with(|| a.task.cmp(&b.task)));
        tasks
    }
}

/// Attempts that all end alike have no spread, which does not make their mean certain: then the
/// interval is Wilson's over the attempts.
fn interval_these(e: &Estimate) -> Option<Interval> {
    match e.se_these {
        Some(se) if se > 0.0 => Some(Interval::around(e.mean, se).share()),
        Some(_) => Some(wilson(e.mean, e.attempts)),
        None => None,
    }
}

/// Resamples of tasks that are all solved, or all not, are all alike: then the interval is
/// Wilson's over the tasks.
fn interval_new(e: &Estimate, resampled: Option<(f64, f64)>) -> Option<Interval> {
    let (low, high) = resampled?;
    if low < high {
        return Some(Interval { low, high });
    }
    Some(wilson(e.mean, e.tasks))
}

fn wilson(mean: f64, n: usize) -> Interval {
    let (low, high) = estimate::wilson(mean, n);
    Interval { low, high }
}

fn endings(table: &Table, step: usize) -> Endings {
    let mut endings = Endings::default();
    for attempt in table.attempts(step) {
        match attempt.outcome {
            Outcome::Infrastructure => {
                endings.infrastructure_failures += 1;
                continue;
            }
            Outcome::Timeout => endings.timeouts += 1,
            Outcome::ModelFailure => endings.model_failures += 1,
            Outcome::Finished => {}
        }
        endings.graded += 1;
    }
    endings
}

fn effort(table: &Table, step: usize) -> Effort {
    let mean = |values: Vec<f64>| {
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let counts = |get: fn(&super::records::Attempt) -> Option<u64>| {
        mean(table.attempts(step).filter_map(get).map(|n| n as f64).collect())
    };
    Effort {
        tokens: counts(|a| a.tokens),
        turns: counts(|a| a.turns),
        format_errors: counts(|a| a.format_errors),
        secs: mean(table.attempts(step).filter_map(|a| a.secs).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Certainty, Settings, summarise};
    use crate::select::records::{Attempt, Table};
    use crate::select::stop::TieRule;

    /// Tasks × attempts filled so that step `s` solves a share of `shares[s]` of each task.
    fn table(shares: &[f64], tasks: usize, attempts: usize) -> Table {
        let steps = (0..shares.len()).map(|s| format!("step_{}", s * 100)).collect();
        let names = (0..tasks).map(|t| format!("task-{t:02}")).collect();
        let mut table = Table::new(steps, names).unwrap();
        for (s, share) in shares.iter().enumerate() {
            for t in 0..tasks {
                for k in 0..attempts {
                    let hash = (t * 7919 + k * 104_729 + s * 31) as f64 * 0.618_033_988;
                    let reward = if hash.fract() < *share { 1.0 } else { 0.0 };
                    table.push(s, t, Attempt::graded(reward)).unwrap();
                }
            }
        }
        table
    }

    #[test]
    fn a_clear_winner_is_picked_with_confidence() {
        let s = summarise(&table(&[0.2, 0.7, 0.3], 40, 5), None, &Settings::default()).unwrap();
        assert_eq!((s.picked.as_str(), s.best.as_str()), ("step_100", "step_100"));
        assert_eq!(s.certainty, Certainty::Confident);
        assert_eq!(s.indistinguishable, ["step_100"]);
        assert!(s.steps[1].p_best > 0.99 && s.steps[1].regret < 1e-3);
        assert!(s.steps[1].versus_baseline.as_ref().unwrap().sign_flip_p < 0.01);
        assert!(s.steps[0].versus_baseline.is_none());
        assert!(!s.still_rising && s.balanced);
    }

    #[test]
    fn equal_steps_are_not_told_apart_and_the_earliest_is_taken() {
        let mut even = table(&[0.5, 0.5, 0.5], 10, 2);
        for step in 0..3 {
            even.push(step, 0, Attempt::failed()).unwrap();
        }
        let s = summarise(&even, None, &Settings::default()).unwrap();
        assert_eq!(s.picked, "step_0");
        assert_eq!(s.certainty, Certainty::Undecided);
        assert_eq!(s.indistinguishable.len(), 3);
        assert!(s.curse.excess > 0.0 || s.rule == "one-se");
        assert_eq!(s.steps[0].endings.infrastructure_failures, 1);
        assert!(s.steps[0].mean_missing_as_zero < s.steps[0].mean);
    }

    #[test]
    fn the_rule_best_pays_for_its_choice() {
        let settings = Settings { rule: TieRule::Best, ..Settings::default() };
        let s = summarise(&table(&[0.5, 0.5, 0.5, 0.5], 10, 3), None, &settings).unwrap();
        assert!(s.curse.excess > 0.01, "{:?}", s.curse);
        assert!(s.curse.corrected < s.curse.raw);
    }

    #[test]
    fn fresh_rollouts_are_reported_apart() {
        let fresh = table(&[0.0, 0.4], 40, 2);
        let t = table(&[0.2, 0.7], 40, 3);
        let with = summarise(&t, Some(&fresh), &Settings::default()).unwrap();
        let without = summarise(&t, None, &Settings::default()).unwrap();
        assert_eq!(with.curse.confirmed_rollouts, 80);
        assert!((with.curse.confirmed.unwrap() - 0.4).abs() < 0.1);
        assert_eq!(with.steps, without.steps, "fresh rollouts must not move the choice");
    }

    #[test]
    fn bad_settings_and_empty_steps_are_refused() {
        let t = table(&[0.2, 0.7], 4, 1);
        let refused = |settings: Settings| summarise(&t, None, &settings).is_err();
        assert!(refused(Settings { confidence: 1.0, ..Settings::default() }));
        assert!(refused(Settings { indifference: -0.1, ..Settings::default() }));
        assert!(refused(Settings { baseline: Some("step_1".into()), ..Settings::default() }));
        let mut empty = Table::new(vec!["a".into(), "b".into()], vec!["x".into()]).unwrap();
        empty.push(0, 0, Attempt::graded(1.0)).unwrap();
        assert!(summarise(&empty, None, &Settings::default()).is_err());
    }

    #[test]
    fn all_of_few_is_not_certainty() {
        let mut t = table(&[1.0, 0.0], 4, 3);
        let s = summarise(&t, None, &Settings::default()).unwrap();
        for step in &s.steps {
            let (these, new) =
                (step.interval_these_tasks.unwrap(), step.interval_new_tasks.unwrap());
            // Wilson: 4 of 4 tasks leave 49 points open, 12 of 12 attempts 24.
            assert!((new.high - new.low - 0.490).abs() < 0.001, "{new:?}");
            assert!((these.high - these.low - 0.242).abs() < 0.001, "{these:?}");
            assert_eq!(step.tasks, 4);
        }
        t.push(0, 0, Attempt::graded(0.0)).unwrap();
        let s = summarise(&t, None, &Settings::default()).unwrap();
        assert!(s.steps[0].interval_these_tasks.unwrap().high <= 1.0);
    }

    #[test]
    fn the_same_seed_says_the_same() {
        let t = table(&[0.2, 0.7, 0.6], 12, 2);
        let one = summarise(&t, None, &Settings::default()).unwrap();
        assert_eq!(one, summarise(&t, None, &Settings::default()).unwrap());
    }
}
