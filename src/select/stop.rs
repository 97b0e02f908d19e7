//! When to stop, and which step to take.

use super::allocate::argmax;
use super::rng::Rng;
use super::scores::Scores;

/// What the posterior says about each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Beliefs {
    /// Probability of being the best.
    pub p_best: Vec<f64>,
    /// Probability of being at most the indifference below the best.
    pub p_within: Vec<f64>,
    /// Expected loss against the best, as a fraction of one.
    pub regret: Vec<f64>,
}

impl Beliefs {
    /// Estimates them from `draws` draws.
    #[must_use]
    pub fn of(scores: &Scores, indifference: f64, draws: usize, rng: &mut Rng) -> Self {
        let steps = scores.mean.len();
        let sampler = scores.sampler();
        let mut beliefs =
            Self { p_best: vec![0.0; steps], p_within: vec![0.0; steps], regret: vec![0.0; steps] };
        let mut draw = vec![0.0; steps];
        let each = 1.0 / draws as f64;
        for _ in 0..draws {
            sampler.draw(rng, &mut draw);
            let best = argmax(&draw);
            beliefs.p_best[best] += each;
            for step in 0..steps {
                let behind = draw[best] - draw[step];
                beliefs.regret[step] += each * behind;
                if behind <= indifference {
                    beliefs.p_within[step] += each;
                }
            }
        }
        beliefs
    }
}

/// Why no further attempts are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// One step is the best with the probability asked for.
    Confident,
    /// The leading step is within the indifference of the best with that probability.
    Indifferent,
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopRule {
    /// Probability asked for.
    pub confidence: f64,
    /// Difference that does not matter, as a fraction of one.
    pub indifference: f64,
}

impl StopRule {
    /// Says whether to stop. `beliefs` must have been made with the same indifference.
    #[must_use]
    pub fn decide(&self, scores: &Scores, beliefs: &Beliefs) -> Option<Stop> {
        let leader = argmax(&scores.mean);
        if beliefs.p_best[leader] >= self.confidence {
            Some(Stop::Confident)
        } else if beliefs.p_within[leader] >= self.confidence {
            Some(Stop::Indifferent)
        } else {
            None
        }
    }
}

/// Which step to take when several could be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TieRule {
    /// The earliest step within one standard error of the best; see [`one_se`].
    OneSe,
    /// The step with the highest estimate.
    Best,
    /// The step with the highest lower bound, one standard deviation below the estimate.
    Lcb,
}

impl TieRule {
    /// Returns the step that the rule takes.
    #[must_use]
    pub fn pick(self, scores: &Scores) -> usize {
        let best = argmax(&scores.mean);
        match self {
            Self::Best => best,
            Self::Lcb => {
                let lower: Vec<f64> = scores
                    .mean
                    .iter()
                    .enumerate()
                    .map(|(step, mean)| mean - scores.covariance.at(step, step).max(0.0).sqrt())
                    .collect();
                argmax(&lower)
            }
            Self::OneSe => (0..scores.mean.len())
                .find(|step| scores.mean[best] - scores.mean[*step] <= one_se(scores, best, *step))
                .unwrap_or(best),
        }
    }
}

/// Returns how far a step may be behind the best one to be taken for as good: the standard
/// deviation of the difference of the two, and not more than that of the best one's own score, so
/// that a step is not as good as the best because it was hardly tried.
#[must_use]
pub fn one_se(scores: &Scores, best: usize, step: usize) -> f64 {
    let own = scores.covariance.at(best, best).max(0.0).sqrt();
    scores.difference_sd(best, step).min(own)
}

#[cfg(test)]
mod tests {
    use super::{Beliefs, Stop, StopRule, TieRule, one_se};
    use crate::select::linear::Square;
    use crate::select::rng::Rng;
    use crate::select::scores::Scores;

    fn scores(mean: &[f64], sd: &[f64]) -> Scores {
        let mut covariance = Square::zero(mean.len());
        for (i, sd) in sd.iter().enumerate() {
            covariance.add(i, i, sd * sd);
        }
        Scores::gaussian(mean.to_vec(), covariance)
    }

    #[test]
    fn two_steps_follow_the_normal_distribution() {
        let s = scores(&[0.40, 0.43], &[0.02, 0.02]);
        let b = Beliefs::of(&s, 0.01, 40_000, &mut Rng::new(1));
        // Difference 0.03 ± 0.0283: Φ(1.06) = 0.8556; within one point: Φ(0.04/0.0283) = 0.9214.
        assert!((b.p_best[1] - 0.8556).abs() < 0.01);
        assert!((b.p_within[1] - 0.9214).abs() < 0.01);
        // E[max(0, -d)] = σ φ(1.06) - 0.03 (1 - Φ(1.06)) = 0.00211.
        assert!((b.regret[1] - 0.00211).abs() < 0.0003);
        assert!((b.p_best.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn stops_for_the_reason_that_holds() {
        let decide = |s: &Scores, indifference| {
            let beliefs = Beliefs::of(s, indifference, 4_000, &mut Rng::new(1));
            StopRule { confidence: 0.9, indifference }.decide(s, &beliefs)
        };
        assert_eq!(decide(&scores(&[0.4, 0.5], &[0.02, 0.02]), 0.01), Some(Stop::Confident));
        assert_eq!(decide(&scores(&[0.5, 0.5], &[0.004, 0.004]), 0.01), Some(Stop::Indifferent));
        assert_eq!(decide(&scores(&[0.5, 0.5], &[0.004, 0.004]), 0.0), None);
        assert_eq!(decide(&scores(&[0.5, 0.5], &[0.04, 0.04]), 0.01), None);
    }

    #[test]
    fn tie_rules_differ_where_they_should() {
        let s = scores(&[0.30, 0.41, 0.42, 0.425], &[0.01, 0.01, 0.01, 0.05]);
        assert_eq!(TieRule::Best.pick(&s), 3);
        assert_eq!(TieRule::OneSe.pick(&s), 1);
        assert_eq!(TieRule::Lcb.pick(&s), 2);
    }

    #[test]
    fn a_step_that_was_hardly_tried_is_no_tie() {
        let s = scores(&[0.30, 0.63, 0.65], &[0.4, 0.03, 0.03]);
        assert_eq!(TieRule::OneSe.pick(&s), 1);
        assert!((one_se(&s, 2, 0) - 0.03).abs() < 1e-9);
    }
}
