//! A simulator over known truth, which holds the allocators and the stop rule to account.
//!
//! Five steps, 100 tasks, pass rates around 0.40. Tasks are logistic: difficulties are normal
//! with a spread of 0 (every task the same coin), 2.5 (like a hundred-task proxy benchmark) or 6
//! (like a hard benchmark, where most tasks are always or never solved) logits; every step has
//! its own normal interaction with every task. A step's ability is set so that its mean over
//! these very tasks is the score that the case asks for: the truth is known exactly.

use super::allocate::{Allocation, Allocator, argmax};
use super::rasch::{Prior, logistic};
use super::rng::Rng;
use super::stop::Beliefs;

/// A benchmark's kind, by the spread of its task difficulties in logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regime {
    /// Name in the table.
    pub name: &'static str,
    /// Spread of the difficulties.
    pub task_sd: f64,
}

/// True scores of the steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// Name in the table.
    pub name: &'static str,
    /// True mean of each step; one is the best.
    pub scores: [f64; 5],
}

/// The benchmark kinds of the table.
pub const REGIMES: [Regime; 3] = [
    Regime { name: "binomial", task_sd: 0.0 },
    Regime { name: "TBLite-like", task_sd: 2.5 },
    Regime { name: "TB2-like", task_sd: 6.0 },
];

/// The true scores of the table.
pub const GAPS: [Gap; 3] = [
    Gap { name: "+3", scores: [0.40, 0.40, 0.43, 0.40, 0.40] },
    Gap { name: "ladder 3", scores: [0.34, 0.37, 0.46, 0.43, 0.40] },
    Gap { name: "+5", scores: [0.40, 0.40, 0.45, 0.40, 0.40] },
];

/// The confidences at which the stop rule is judged.
pub const CONFIDENCES: [f64; 2] = [0.8, 0.9];

/// What stays the same in all cells of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Study {
    /// How attempts are spread.
    pub allocation: Allocation,
    /// The prior of the model under test.
    pub prior: Prior,
    /// True spread of the interaction, in logits.
    pub interaction_sd: f64,
    /// Number of tasks.
    pub tasks: usize,
    /// Rollouts over which the share of right choices is followed.
    pub rollouts_max: usize,
    /// Rollouts at which a replicate ends even if the stop rule still waits.
    pub stop_max: usize,
    /// Rollouts between two looks at the posterior.
    pub look_every: usize,
    /// Draws for P(best) at each look.
    pub draws: usize,
}

impl Default for Study {
    fn default() -> Self {
        Self {
            allocation: Allocation::Ttts,
            prior: Prior::default(),
            interaction_sd: 0.3,
            tasks: 100,
            rollouts_max: 5_000,
            stop_max: 12_000,
            look_every: 10,
            draws: 1_000,
        }
    }
}

/// One simulated selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Replicate {
    /// At each look: was the step with the highest estimate the best one?
    pub right: Vec<bool>,
    /// For each of [`CONFIDENCES`]: rollouts at which it was reached (all, if never), and whether
    /// the step taken then was the best one.
    pub stops: [(usize, bool); CONFIDENCES.len()],
}

/// A share or a mean with its standard error over replicates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub se: f64,
}

/// Draws pass rates, row-major `[step, task]`, whose row means are `scores`.
#[must_use]
pub fn draw_truth(
    scores: &[f64],
    tasks: usize,
    task_sd: f64,
    interaction_sd: f64,
    rng: &mut Rng,
) -> Vec<f64> {
    let difficulty: Vec<f64> = (0..tasks).map(|_| task_sd * rng.normal()).collect();
    let mut truth = Vec::with_capacity(scores.len() * tasks);
    for &score in scores {
        let offset: Vec<f64> =
            difficulty.iter().map(|d| interaction_sd * rng.normal() - d).collect();
        let mean =
            |ability: f64| offset.iter().map(|o| logistic(ability + o)).sum::<f64>() / tasks as f64;
        let (mut low, mut high) = (-60.0, 60.0);
        for _ in 0..80 {
            let middle = 0.5 * (low + high);
            if mean(middle) < score { low = middle } else { high = middle }
        }
        truth.extend(offset.iter().map(|o| logistic(low + o)));
    }
    truth
}

/// Runs one selection to the end of its rollouts.
#[must_use]
pub fn replicate(study: &Study, regime: Regime, gap: &Gap, seed: u64) -> Replicate {
    let mut rng = Rng::new(seed);
    let truth =
        draw_truth(&gap.scores, study.tasks, regime.task_sd, study.interaction_sd, &mut rng);
    let best = argmax(&gap.scores);
    let seed = rng.next_u64();
    let steps = gap.scores.len();
    let mut allocator = Allocator::new(steps, study.tasks, study.allocation, study.prior, seed);
    let mut right = Vec::with_capacity(study.rollouts_max / study.look_every);
    let mut stops = [None; CONFIDENCES.len()];
    let mut last = (0, false);
    for done in 1..=study.stop_max.max(study.rollouts_max) {
        if done > study.rollouts_max && stops.iter().all(Option::is_some) {
            break;
        }
        let spent = (done - 1) as f64 / study.rollouts_max as f64;
        let Some(ask) = allocator.ask(spent) else { break };
        let solved = rng.uniform() < truth[ask.step * study.tasks + ask.task];
        allocator.record(ask, if solved { 1.0 } else { 0.0 });
        if done % study.look_every != 0 {
            continue;
        }
        let scores = allocator.scores();
        let leader = argmax(&scores.mean);
        last = (done, leader == best);
        if done <= study.rollouts_max {
            right.push(leader == best);
        }
        if stops.iter().any(Option::is_none) {
            // The same draws at every look: fresh ones would cross the line by luck, once.
            let p = Beliefs::of(&scores, 0.0, study.draws, &mut Rng::new(seed)).p_best[leader];
            for (stop, confidence) in stops.iter_mut().zip(CONFIDENCES) {
                if stop.is_none() && p >= confidence {
                    *stop = Some((done, leader == best));
                }
            }
        }
    }
    Replicate { right, stops: stops.map(|stop| stop.unwrap_or(last)) }
}

/// Returns the seed of replicate `i` of a study with the seed `seed`.
#[must_use]
pub fn replicate_seed(seed: u64, i: u64) -> u64 {
    Rng::new(seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next_u64()
}

/// Looks on either side that are averaged to smooth the curve of correct choices.
const SMOOTH: usize = 5;
/// The share of correct choices that the table asks for.
const CORRECT: f64 = 0.9;
const BOOTSTRAPS: usize = 200;

/// Returns the rollouts at which nine in ten choices are right, with the standard error from
/// resampled replicates; `None` if that is not reached.
#[must_use]
pub fn rollouts_to_correct(study: &Study, replicates: &[Replicate], seed: u64) -> Option<Measured> {
    let all: Vec<usize> = (0..replicates.len()).collect();
    let value = crossing(study, replicates, &all)?;
    let mut rng = Rng::new(seed);
    let resampled: Vec<f64> = (0..BOOTSTRAPS)
        .filter_map(|_| {
            let some: Vec<usize> = all.iter().map(|_| rng.below(all.len())).collect();
            crossing(study, replicates, &some)
        })
        .collect();
    let mean = resampled.iter().sum::<f64>() / resampled.len().max(1) as f64;
    let squares: f64 = resampled.iter().map(|r| (r - mean) * (r - mean)).sum();
    let se = (squares / resampled.len().saturating_sub(1).max(1) as f64).sqrt();
    Some(Measured { value, se })
}

fn crossing(study: &Study, replicates: &[Replicate], which: &[usize]) -> Option<f64> {
    let looks = replicates.first()?.right.len();
    let mut curve = vec![0.0; looks];
    for &i in which {
        for (sum, right) in curve.iter_mut().zip(&replicates[i].right) {
            *sum += f64::from(u8::from(*right));
        }
    }
    (0..looks)
        .find(|look| {
            let window = look.saturating_sub(SMOOTH)..(look + SMOOTH + 1).min(looks);
            let n = (window.len() * which.len()) as f64;
            curve[window].iter().sum::<f64>() / n >= CORRECT
        })
        .map(|look| ((look + 1) * study.look_every) as f64)
}

/// Returns the share of right choices at the stop for one of [`CONFIDENCES`], and the mean
/// number of rollouts spent until then.
#[must_use]
pub fn stop_quality(replicates: &[Replicate], confidence: usize) -> (Measured, Measured) {
    let n = replicates.len() as f64;
    let share = replicates.iter().filter(|r| r.stops[confidence].1).count() as f64 / n;
    let rollouts: Vec<f64> = replicates.iter().map(|r| r.stops[confidence].0 as f64).collect();
    let mean = rollouts.iter().sum::<f64>() / n;
    let squares: f64 = rollouts.iter().map(|r| (r - mean) * (r - mean)).sum();
    (
        Measured { value: share, se: (share * (1.0 - share) / n).sqrt() },
        Measured { value: mean, se: (squares / (n - 1.0).max(1.0) / n).sqrt() },
    )
}

#[cfg(test)]
mod tests {
    use super::{Allocation, stop_quality};
    use super::{GAPS, REGIMES, Replicate, Study, draw_truth, replicate, rollouts_to_correct};
    use crate::select::rng::Rng;

    #[test]
    fn truth_has_the_scores_it_was_asked_for() {
        for regime in REGIMES {
            let p = draw_truth(&GAPS[1].scores, 100, regime.task_sd, 0.3, &mut Rng::new(2));
            for (row, score) in p.chunks(100).zip(GAPS[1].scores) {
                assert!((row.iter().sum::<f64>() / 100.0 - score).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn spreads_give_the_known_variance_between_attempts() {
        for (regime, expected) in REGIMES.iter().zip([0.24, 0.127, 0.062]) {
            let mut sum = 0.0;
            for seed in 0..20 {
                let p = draw_truth(&[0.4], 100, regime.task_sd, 0.3, &mut Rng::new(seed));
                sum += p.iter().map(|p| p * (1.0 - p)).sum::<f64>() / 2_000.0;
            }
            assert!((sum - expected).abs() < 0.008, "{}: {sum}", regime.name);
        }
    }

    #[test]
    fn sampling_the_contenders_beats_uniform_and_stops_are_right() {
        let study = Study {
            rollouts_max: 700,
            stop_max: 0,
            look_every: 50,
            draws: 200,
            ..Study::default()
        };
        let uniform = Study { allocation: Allocation::Uniform, ..study };
        let count = |study: &Study| {
            let right = |seed| replicate(study, REGIMES[2], &GAPS[2], seed).right;
            (0..24).filter(|seed| right(*seed)[7]).count()
        };
        let (ours, theirs) = (count(&study), count(&uniform));
        assert!(ours >= 20 && ours >= theirs, "{ours} against {theirs} of 24");
    }

    #[test]
    fn crossing_and_stop_quality_are_counted_right() {
        let study = Study { look_every: 10, ..Study::default() };
        let made = |from: usize| Replicate {
            right: (0..100).map(|look| look >= from).collect(),
            stops: [(100, true), (200, from < 50)],
        };
        let replicates: Vec<Replicate> =
            (0..10).map(|i| made(if i == 0 { 80 } else { 40 })).collect();
        let r = rollouts_to_correct(&study, &replicates, 1).unwrap();
        assert_eq!(r.value, 460.0);
        let (share, mean) = stop_quality(&replicates, 1);
        assert_eq!((share.value, mean.value), (0.9, 200.0));
    }
}
