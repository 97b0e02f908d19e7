//! Means, standard errors and intervals straight from the attempts, without a model.
//!
//! Two questions have two standard errors. "How would these steps do on *these* tasks?" counts
//! only the noise between attempts at one task; it does not depend on the order of the attempts,
//! so no grouping into runs is needed. "How would they do on *new* tasks of the kind?" counts
//! the tasks as drawn at random, and is several times larger. Comparisons of steps are paired by
//! task, which removes most of it.

use serde::Serialize;

use super::records::Table;
use super::rng::Rng;

/// The normal quantile of a two-sided 95 % interval.
pub const Z95: f64 = 1.959_963_984_540_054;

/// The verdicts on one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// Number of verdicts.
    pub attempts: usize,
    /// Mean reward.
    pub mean: f64,
    /// Unbiased variance between attempts; absent below two of them.
    pub variance: Option<f64>,
}

impl Cell {
    /// Summarises the verdicts of a cell; `None` if there are none.
    pub fn of(rewards: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let attempts = rewards.clone().count();
        if attempts == 0 {
            return None;
        }
        let mean = rewards.clone().sum::<f64>() / attempts as f64;
        let variance = (attempts > 1).then(|| {
            let squares: f64 = rewards.map(|r| (r - mean) * (r - mean)).sum();
            squares / (attempts - 1) as f64
        });
        Some(Self { attempts, mean, variance })
    }
}

/// A mean and its two standard errors, all as fractions of one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Mean over tasks of the mean over attempts.
    pub mean: f64,
    /// Number of tasks with at least one verdict.
    pub tasks: usize,
    /// Number of verdicts.
    pub attempts: usize,
    /// Standard error for these tasks: `SE² = Σ_t v_t / k_t / T²`, which for binary rewards is
    /// `Σ_t p_t (1 - p_t) / (k_t - 1) / T²`. A task with one verdict gets the mean variance of
    /// the others; absent if no task has two.
    pub se_these: Option<f64>,
    /// Standard error for new tasks: the spread of the task means over `√T`; absent below two
    /// tasks.
    pub se_new: Option<f64>,
}

/// Returns the cells of a step, one entry a task.
#[must_use]
pub fn cells(table: &Table, step: usize) -> Vec<Option<Cell>> {
    (0..table.tasks().len()).map(|task| Cell::of(table.rewards(step, task))).collect()
}

/// Estimates one step's score; `None` if it has no verdict.
#[must_use]
pub fn estimate(cells: &[Option<Cell>]) -> Option<Estimate> {
    let seen: Vec<Cell> = cells.iter().flatten().copied().collect();
    if seen.is_empty() {
        return None;
    }
    let tasks = seen.len();
    let means: Vec<f64> = seen.iter().map(|cell| cell.mean).collect();
    let (mean, se_new) = mean_and_error(&means);
    let pooled = pooled_variance(&seen);
    let se_these = pooled.map(|pooled| {
        let sum: f64 = seen.iter().map(|c| c.variance.unwrap_or(pooled) / c.attempts as f64).sum();
        sum.sqrt() / tasks as f64
    });
    let attempts = seen.iter().map(|cell| cell.attempts).sum();
    Some(Estimate { mean, tasks, attempts, se_these, se_new })
}

fn pooled_variance(cells: &[Cell]) -> Option<f64> {
    let known: Vec<f64> = cells.iter().filter_map(|cell| cell.variance).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// Returns the mean and its standard error, which needs two values.
fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt()))
}

/// The difference of two steps over the tasks that both have verdicts on.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Mean difference, first minus second.
    pub mean: f64,
    /// Standard error for new tasks, paired by task.
    pub se_new: Option<f64>,
    /// Standard error for these tasks.
    pub se_these: Option<f64>,
    /// Two-sided p-value of the sign-flip test over tasks.
    pub sign_flip_p: f64,
    /// Tasks on which the first is ahead.
    pub wins: usize,
    /// Tasks on which both are equal.
    pub ties: usize,
    /// Tasks on which the second is ahead.
    pub losses: usize,
}

/// Compares two steps task by task; `None` if no task has verdicts of both.
#[must_use]
pub fn difference(
    first: &[Option<Cell>],
    second: &[Option<Cell>],
    seed: u64,
) -> Option<Difference> {
    let pairs: Vec<(Cell, Cell)> =
        first.iter().zip(second).filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
    if pairs.is_empty() {
        return None;
    }
    let deltas: Vec<f64> = pairs.iter().map(|(a, b)| a.mean - b.mean).collect();
    let (mean, se_new) = mean_and_error(&deltas);
    let these = |pick: fn(&(Cell, Cell)) -> Cell| {
        let side: Vec<Option<Cell>> = pairs.iter().map(|pair| Some(pick(pair))).collect();
        estimate(&side).and_then(|e| e.se_these)
    };
    let se_these = these(|pair| pair.0).zip(these(|pair| pair.1)).map(|(a, b)| a.hypot(b));
    let wins = deltas.iter().filter(|d| **d > 0.0).count();
    let losses = deltas.iter().filter(|d| **d < 0.0).count();
    Some(Difference {
        mean,
        se_new,
        se_these,
        sign_flip_p: sign_flip(&deltas, seed),
        wins,
        ties: deltas.len() - wins - losses,
        losses,
    })
}

/// Up to this many non-zero differences, the sign-flip test goes through all sign patterns.
const SIGN_FLIP_EXACT_MAX: usize = 14;
const SIGN_FLIP_DRAWS: usize = 200_000;

/// Returns the two-sided p-value of "the signs of the differences are fair coins".
///
/// Exact up to 14 non-zero differences; above that from 200,000 seeded draws, the observed
/// pattern counted in.
fn sign_flip(deltas: &[f64], seed: u64) -> f64 {
    let moving: Vec<f64> = deltas.iter().copied().filter(|d| *d != 0.0).collect();
    // Sums of the same terms in another sign pattern may differ by rounding alone.
    let observed = moving.iter().sum::<f64>().abs() - 1e-9;
    let reaches = |bits: u64| {
        let sum: f64 = moving
            .iter()
            .enumerate()
            .map(|(i, d)| if bits >> (i % 64) & 1 == 1 { -d } else { *d })
            .sum();
        sum.abs() >= observed
    };
    if moving.len() <= SIGN_FLIP_EXACT_MAX {
        let patterns = 1u64 << moving.len();
        let hits = (0..patterns).filter(|bits| reaches(*bits)).count();
        return hits as f64 / patterns as f64;
    }
    let mut rng = Rng::new(seed);
    let hits =
        (0..SIGN_FLIP_DRAWS).filter(|_| flipped(&moving, &mut rng).abs() >= observed).count();
    (hits + 1) as f64 / (SIGN_FLIP_DRAWS + 1) as f64
}

fn flipped(deltas: &[f64], rng: &mut Rng) -> f64 {
    let mut sum = 0.0;
    for chunk in deltas.chunks(64) {
        let bits = rng.next_u64();
        for (i, delta) in chunk.iter().enumerate() {
            sum += if bits >> i & 1 == 1 { -delta } else { *delta };
        }
    }
    sum
}

/// Unbiased pass@k.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, schemars::JsonSchema)]
pub struct PassAtK {
    /// Number of tries.
    pub k: usize,
    /// Probability that one of them solves the task.
    pub value: f64,
}

/// Returns [`pass_at_k`] for the powers of two from 2 up to the fewest verdicts of a task, and for
/// that number.
#[must_use]
pub fn pass_at_ks(table: &Table, step: usize) -> Vec<PassAtK> {
    let counts = (0..table.tasks().len()).map(|task| table.rewards(step, task).count());
    let fewest = counts.min().unwrap_or(0);
    let mut ks: Vec<usize> = (1..).map(|i| 1 << i).take_while(|k| *k <= fewest).collect();
    if fewest > 1 && !ks.contains(&fewest) {
        ks.push(fewest);
    }
    let of = |k| pass_at_k(table, step, k).map(|value| PassAtK { k, value });
    ks.into_iter().filter_map(of).collect()
}

/// Returns unbiased pass@k, `1 - C(n - c, k) / C(n, k)` averaged over tasks.
///
/// `None` if a reward is neither 0 nor 1 or a task has fewer than `k` verdicts: the formula
/// counts solved attempts, and fractions are not counts.
#[must_use]
pub fn pass_at_k(table: &Table, step: usize, k: usize) -> Option<f64> {
    let mut sum = 0.0;
    for task in 0..table.tasks().len() {
        let rewards: Vec<f64> = table.rewards(step, task).collect();
        if rewards.len() < k || k == 0 || rewards.iter().any(|r| *r != 0.0 && *r != 1.0) {
            return None;
        }
        let failed = rewards.iter().filter(|r| **r == 0.0).count();
        // C(n - c, k) / C(n, k) as a product; zero as soon as fewer than k failed.
        let none: f64 =
            (0..k).map(|i| failed.saturating_sub(i) as f64 / (rewards.len() - i) as f64).product();
        sum += 1.0 - none;
    }
    Some(sum / table.tasks().len() as f64)
}

/// Returns the Wilson 95 % interval of a share `mean` out of `attempts`.
#[must_use]
pub fn wilson(mean: f64, attempts: usize) -> (f64, f64) {
    let n = attempts as f64;
    let z2 = Z95 * Z95;
    let centre = (mean + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z95 / (1.0 + z2 / n) * (mean * (1.0 - mean) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::{Cell, difference, estimate, pass_at_k, pass_at_ks, sign_flip, wilson};
    use crate::select::records::{Attempt, Table};

    fn cell(rewards: &[f64]) -> Option<Cell> {
        Cell::of(rewards.iter().copied())
    }

    #[test]
    fn standard_errors_follow_the_formulas() {
        let cells = [cell(&[1.0, 0.0, 1.0, 1.0, 0.0]), cell(&[0.0; 5]), cell(&[1.0; 5])];
        let e = estimate(&cells).unwrap();
        let (p, t) = (0.6_f64, 3.0_f64);
        assert!((e.mean - 1.6 / 3.0).abs() < 1e-12);
        assert!((e.se_these.unwrap() - (p * (1.0 - p) / 4.0).sqrt() / t).abs() < 1e-12);
        let m = 1.6 / 3.0;
        let spread = ((0.6_f64 - m).powi(2) + m.powi(2) + (1.0 - m).powi(2)) / 2.0;
        assert!((e.se_new.unwrap() - (spread / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!((e.tasks, e.attempts), (3, 15));
    }

    #[test]
    fn single_attempts_borrow_the_variance_of_the_others_or_have_none() {
        let lone = estimate(&[cell(&[1.0]), cell(&[0.0])]).unwrap();
        assert_eq!(lone.se_these, None);
        let mixed = estimate(&[cell(&[1.0]), cell(&[0.0, 1.0]), None]).unwrap();
        assert!((mixed.se_these.unwrap() - (0.5_f64 + 0.25).sqrt() / 2.0).abs() < 1e-12);
        assert_eq!(mixed.tasks, 2);
    }

    #[test]
    fn differences_pair_by_task() {
        let a = [cell(&[1.0, 1.0]), cell(&[1.0, 0.0]), None];
        let b = [cell(&[0.0, 1.0]), cell(&[1.0, 0.0]), cell(&[1.0])];
        let d = difference(&a, &b, 1).unwrap();
        assert!((d.mean - 0.25).abs() < 1e-12);
        assert_eq!((d.wins, d.ties, d.losses), (1, 1, 0));
        assert_eq!(d.sign_flip_p, 1.0);
        assert!(difference(&a, &[None, None, None], 1).is_none());
    }

    #[test]
    fn sign_flip_is_exact_for_few_and_close_for_many() {
        // All of n equal signs: two of 2^n patterns are as extreme.
        assert_eq!(sign_flip(&[0.2; 8], 0), 2.0 / 256.0);
        assert_eq!(sign_flip(&[0.0; 8], 0), 1.0);
        // 15 heads of 20: 2 P(X ≥ 15) = 0.0414.
        let deltas: Vec<f64> = (0..20).map(|i| if i < 15 { 1.0 } else { -1.0 }).collect();
        assert!((sign_flip(&deltas, 3) - 0.0414).abs() < 0.005);
    }

    #[test]
    fn pass_at_k_is_unbiased_and_refuses_fractions() {
        let mut table = Table::new(vec!["a".into()], vec!["x".into()]).unwrap();
        for reward in [1.0, 0.0, 0.0, 1.0, 0.0] {
            table.push(0, 0, Attempt::graded(reward)).unwrap();
        }
        assert!((pass_at_k(&table, 0, 1).unwrap() - 0.4).abs() < 1e-12);
        assert!((pass_at_k(&table, 0, 2).unwrap() - 0.7).abs() < 1e-12);
        assert_eq!(pass_at_k(&table, 0, 5), Some(1.0));
        assert_eq!(pass_at_k(&table, 0, 6), None);
        let ks: Vec<usize> = pass_at_ks(&table, 0).iter().map(|p| p.k).collect();
        assert_eq!(ks, [2, 4, 5]);
        table.push(0, 0, Attempt::graded(0.5)).unwrap();
        assert_eq!(pass_at_k(&table, 0, 1), None);
    }

    #[test]
    fn wilson_stays_inside_and_is_never_empty() {
        let (low, high) = wilson(0.0, 5);
        assert_eq!(low, 0.0);
        assert!((high - 0.4345).abs() < 1e-3);
    }
}
