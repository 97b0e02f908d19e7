//! The bootstrap over tasks, with the same resamples for all steps.
//!
//! It answers for *new* tasks: a resample draws whole tasks, attempts and all, and every step is
//! scored on the same draw, so that differences are paired. Percentile intervals.

use super::estimate::Cell;
use super::rng::Rng;

/// Means of all steps under all resamples.
#[derive(Debug, Clone)]
pub struct Resamples {
    /// `[step][resample]`; `NaN` where a resample holds no task of the step.
    means: Vec<Vec<f64>>,
}

impl Resamples {
    /// Draws `count` resamples of the tasks of `cells[step][task]`.
    #[must_use]
    pub fn draw(cells: &[Vec<Option<Cell>>], count: usize, seed: u64) -> Self {
        let tasks = cells.first().map_or(0, Vec::len);
        let mut rng = Rng::new(seed);
        let mut means = vec![Vec::with_capacity(count); cells.len()];
        let mut picked = vec![0; tasks];
        for _ in 0..count {
            picked.iter_mut().for_each(|task| *task = rng.below(tasks));
            for (step, means) in cells.iter().zip(&mut means) {
                let (sum, n) = picked
                    .iter()
                    .filter_map(|task| step[*task])
                    .fold((0.0, 0u32), |(sum, n), cell| (sum + cell.mean, n + 1));
                means.push(sum / f64::from(n));
            }
        }
        Self { means }
    }

    /// Returns the 95 % interval of a step's mean.
    #[must_use]
    pub fn interval(&self, step: usize) -> Option<(f64, f64)> {
        percentiles(self.means[step].iter().copied())
    }

    /// Returns the 95 % interval of the difference of two steps, first minus second.
    #[must_use]
    pub fn difference(&self, first: usize, second: usize) -> Option<(f64, f64)> {
        percentiles(self.means[first].iter().zip(&self.means[second]).map(|(a, b)| a - b))
    }

    /// Returns for each step the share of resamples in which it has the highest mean, ties shared.
    #[must_use]
    pub fn p_best(&self) -> Vec<f64> {
        let mut wins = vec![0.0; self.means.len()];
        let count = self.means.first().map_or(0, Vec::len);
        for resample in 0..count {
            let most = self.means.iter().map(|m| m[resample]).fold(f64::NEG_INFINITY, f64::max);
            let holds = |m: &Vec<f64>| m[resample] >= most - 1e-12;
            let share = 1.0 / self.means.iter().filter(|m| holds(m)).count().max(1) as f64;
            for (wins, means) in wins.iter_mut().zip(&self.means) {
                if holds(means) {
                    *wins += share;
                }
            }
        }
        wins.iter().map(|w| w / count.max(1) as f64).collect()
    }
}

/// Returns the 2.5 % and 97.5 % percentiles; `None` without values.
fn percentiles(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut sorted: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    if sorted.is_empty() {
        return None;
    }
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    Some((at(0.025), at(0.975)))
}

#[cfg(test)]
mod tests {
    use super::Resamples;
    use crate::select::estimate::Cell;

    fn step(means: &[f64]) -> Vec<Option<Cell>> {
        means.iter().map(|m| Cell::of([*m].into_iter())).collect()
    }

    #[test]
    fn the_same_resamples_serve_all_steps() {
        let easy_gap: Vec<f64> = (0..40).map(|i| f64::from(i) / 50.0).collect();
        let ahead: Vec<f64> = easy_gap.iter().map(|m| m + 0.1).collect();
        let resamples = Resamples::draw(&[step(&ahead), step(&easy_gap)], 500, 3);
        let (low, high) = resamples.difference(0, 1).unwrap();
        assert!((low - 0.1).abs() < 1e-9 && (high - 0.1).abs() < 1e-9, "pairing lost");
        assert_eq!(resamples.p_best(), [1.0, 0.0]);
        let (low, high) = resamples.interval(0).unwrap();
        // The standard error is 0.0369.
        assert!((high - low - 2.0 * 1.96 * 0.0369).abs() < 0.03);
    }

    #[test]
    fn ties_are_shared() {
        let resamples = Resamples::draw(&[step(&[0.5; 4]), step(&[0.5; 4])], 20, 3);
        assert_eq!(resamples.p_best(), [0.5, 0.5]);
    }
}
