//! The winner's curse: the best of several noisy scores is, on average, too high.
//!
//! Three remedies, all printed: the posterior mean, which is shrunk towards the other steps; the
//! raw mean less the excess that choosing among such scores has on average; and fresh rollouts
//! of the picked step, which no choice has touched.

use super::estimate::{Cell, Estimate, estimate};
use super::rng::Rng;
use super::scores::Scores;

const DRAWS: usize = 20_000;

/// What the choice did to the picked step's score, as fractions of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Curse {
    /// The picked step's plain mean.
    pub raw: f64,
    /// Its posterior mean.
    pub shrunk: f64,
    /// By how much the raw mean of a step picked this way is too high on average.
    pub excess: f64,
}

impl Curse {
    /// Returns the raw mean without the average excess.
    #[must_use]
    pub fn corrected(&self) -> f64 {
        (self.raw - self.excess).clamp(0.0, 1.0)
    }
}

/// Returns the average excess of the score of the step that `pick` takes.
///
/// True scores are drawn from the posterior, fresh noise with the standard errors `noise` is
/// added to each, `pick` chooses by the noisy scores, and the noise of its choice is averaged.
pub fn excess(
    scores: &Scores,
    noise: &[f64],
    mut pick: impl FnMut(&[f64]) -> usize,
    rng: &mut Rng,
) -> f64 {
    let sampler = scores.sampler();
    let steps = noise.len();
    let (mut truth, mut seen) = (vec![0.0; steps], vec![0.0; steps]);
    let mut sum = 0.0;
    for _ in 0..DRAWS {
        sampler.draw(rng, &mut truth);
        for step in 0..steps {
            seen[step] = truth[step] + noise[step] * rng.normal();
        }
        let picked = pick(&seen);
        sum += seen[picked] - truth[picked];
    }
    sum / DRAWS as f64
}

/// Estimates the picked step from fresh rollouts alone, which the choice has not seen.
#[must_use]
pub fn confirmed(fresh: &[Option<Cell>]) -> Option<Estimate> {
    estimate(fresh)
}

#[cfg(test)]
mod tests {
    use super::excess;
    use crate::select::allocate::argmax;
    use crate::select::linear::Square;
    use crate::select::rng::Rng;
    use crate::select::scores::Scores;

    #[test]
    fn equal_steps_give_the_expected_maximum_of_the_noise() {
        // All true scores equal: the excess is E[max of 5 normals] = 1.163 standard errors.
        let scores = Scores::gaussian(vec![0.4; 5], Square::zero(5));
        let got = excess(&scores, &[0.02; 5], argmax, &mut Rng::new(4));
        assert!((got - 1.163 * 0.02).abs() < 0.0004, "{got}");
    }

    #[test]
    fn a_clear_winner_has_hardly_any_excess() {
        let scores = Scores::gaussian(vec![0.2, 0.4, 0.2], Square::zero(3));
        let got = excess(&scores, &[0.02; 3], argmax, &mut Rng::new(4));
        assert!(got.abs() < 0.0005, "{got}");
    }
}
