//! How likely steps find given trajectories: an order for the queue, and never a decision.
//!
//! The mean over the replies' tokens of all trajectories together. A lower value has been a noisy
//! and not even monotonic sign of a higher pass rate, so nothing here names a winner.

use super::Error;

/// What one step makes of one trajectory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forced {
    /// Sum of `-ln p` over the replies' tokens.
    pub nll: f64,
    /// Number of these tokens.
    pub tokens: u64,
}

/// One step.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct StepNll {
    /// Its name.
    pub step: String,
    /// Mean `-ln p` of a token.
    pub nll: f64,
    /// By how much that is more than the lowest of all steps.
    pub behind: f64,
    /// Standard error of that difference for new trajectories, paired by trajectory; absent for
    /// the lowest itself and below two trajectories.
    pub behind_se: Option<f64>,
    /// Place in the queue, from 1.
    pub place: usize,
}

/// All steps.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct Ranking {
    /// The steps, in the order of training.
    pub steps: Vec<StepNll>,
    /// Trajectories.
    pub trajectories: usize,
    /// Tokens that were scored, of each step.
    pub tokens: u64,
}

impl Ranking {
    /// Ranks steps by `forced[step][trajectory]`; equal ones keep the order of training.
    ///
    /// # Errors
    /// No step or no token; steps that do not cut the trajectories into the same number of
    /// tokens, whose means cannot be compared; a likelihood that is no number.
    pub fn of(names: &[String], forced: &[Vec<Forced>]) -> Result<Self, Error> {
        let tokens = |step: &[Forced]| step.iter().map(|f| f.tokens).sum::<u64>();
        let first = forced.first().ok_or(Error::Empty { what: "step" })?;
        if tokens(first) == 0 {
            return Err(Error::Empty { what: "reply" });
        }
        for (step, name) in forced.iter().zip(names) {
            if step.iter().map(|f| f.tokens).ne(first.iter().map(|f| f.tokens)) {
                let steps = [names[0].clone(), name.clone()];
                return Err(Error::Tokens { steps, tokens: [tokens(first), tokens(step)] });
            }
            if step.iter().any(|f| !f.nll.is_finite()) {
                return Err(Error::NotANumber { step: name.clone() });
            }
        }
        let total = tokens(first) as f64;
        let means: Vec<f64> =
            forced.iter().map(|step| step.iter().map(|f| f.nll).sum::<f64>() / total).collect();
        let mut queue: Vec<usize> = (0..means.len()).collect();
        queue.sort_by(|a, b| means[*a].total_cmp(&means[*b]));
        let lowest = queue[0];
        let steps = (0..means.len())
            .map(|s| StepNll {
                step: names[s].clone(),
                nll: means[s],
                behind: means[s] - means[lowest],
                behind_se: (s != lowest)
                    .then(|| difference_se(&forced[s], &forced[lowest]))
                    .flatten(),
                place: 1 + queue.iter().position(|q| *q == s).expect("every step is queued"),
            })
            .collect();
        Ok(Self { steps, trajectories: first.len(), tokens: tokens(first) })
    }

    /// Returns the indices of the steps, the lowest first.
    #[must_use]
    pub fn queue(&self) -> Vec<usize> {
        let mut queue: Vec<usize> = (0..self.steps.len()).collect();
        queue.sort_by_key(|step| self.steps[*step].place);
        queue
    }
}

/// Standard error of the difference of two ratios with the same denominators, by trajectory:
/// `SE² = n / (n - 1) · Σ_j (d_j - D · t_j)² / T²`, with `d_j` the difference of the sums, `t_j`
/// the tokens and `D = Σ d_j / T`.
fn difference_se(a: &[Forced], b: &[Forced]) -> Option<f64> {
    let n = a.len() as f64;
    if a.len() < 2 {
        return None;
    }
    let total: f64 = a.iter().map(|f| f.tokens as f64).sum();
    let pairs = || a.iter().zip(b).map(|(a, b)| (a.nll - b.nll, a.tokens as f64));
    let mean = pairs().map(|(d, _)| d).sum::<f64>() / total;
    let squares: f64 = pairs().map(|(d, t)| (d - mean * t) * (d - mean * t)).sum();
    Some((n / (n - 1.0) * squares).sqrt() / total)
}

#[cfg(test)]
mod tests {
    use super::{Forced, Ranking};

    fn steps(nll: &[[f64; 2]]) -> Vec<Vec<Forced>> {
        let of =
            |n: &[f64; 2]| vec![Forced { nll: n[0], tokens: 10 }, Forced { nll: n[1], tokens: 30 }];
        nll.iter().map(of).collect()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("step_{i}")).collect()
    }

    #[test]
    fn tokens_weigh_the_mean_and_equal_steps_keep_their_order() {
        let forced = steps(&[[20.0, 60.0], [10.0, 30.0], [10.0, 30.0], [10.0, 40.0]]);
        let ranking = Ranking::of(&names(4), &forced).unwrap();
        assert_eq!(ranking.queue(), [1, 2, 3, 0]);
        assert_eq!((ranking.tokens, ranking.trajectories), (40, 2));
        assert_eq!(ranking.steps[0].nll, 2.0);
        assert_eq!(ranking.steps[0].behind_se, Some(0.0), "both trajectories say the same");
        assert_eq!(ranking.steps[1].behind_se, None);
        // d = (0, 10), t = (10, 30), D = 0.25: √(2 · (2.5² + 2.5²)) / 40.
        assert!((ranking.steps[3].behind_se.unwrap() - 5.0 / 40.0).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let mut other = steps(&[[1.0, 1.0], [1.0, 1.0]]);
        other[1][0].tokens = 9;
        assert!(Ranking::of(&names(2), &other).unwrap_err().to_string().contains("39"));
        assert!(Ranking::of(&names(2), &steps(&[[1.0, 1.0], [f64::NAN, 1.0]])).is_err());
        assert!(Ranking::of(&names(1), &[vec![]]).is_err());
    }
}
