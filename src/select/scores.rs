//! The joint posterior of the steps' scores: a mixture of Gaussians.
//!
//! One Gaussian says how sure one is if the prior is right; a mixture over priors, weighted by how
//! well each explains the attempts, does not need one of them to be.

use super::linear::{Square, dot};
use super::rng::Rng;

/// One Gaussian of the mixture.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its share; all shares make 1.
    pub weight: f64,
    /// Mean of each step's score.
    pub mean: Vec<f64>,
    /// Their covariance.
    pub covariance: Square,
}

/// The joint posterior of the steps' scores: means over these tasks, as fractions of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Posterior mean of each step.
    pub mean: Vec<f64>,
    /// Posterior covariance, that between the parts included.
    pub covariance: Square,
    parts: Vec<Part>,
}

impl Scores {
    /// Makes it of one Gaussian.
    #[must_use]
    pub fn gaussian(mean: Vec<f64>, covariance: Square) -> Self {
        Self::mixture(vec![Part { weight: 1.0, mean, covariance }])
    }

    /// Makes it of several Gaussians.
    ///
    /// # Panics
    /// Without any.
    #[must_use]
    pub fn mixture(parts: Vec<Part>) -> Self {
        let steps = parts.first().expect("a mixture has a part").mean.len();
        let mean: Vec<f64> =
            (0..steps).map(|s| parts.iter().map(|part| part.weight * part.mean[s]).sum()).collect();
        let mut covariance = Square::zero(steps);
        for part in &parts {
            let off: Vec<f64> = part.mean.iter().zip(&mean).map(|(own, all)| own - all).collect();
            for s in 0..steps {
                for r in 0..steps {
                    covariance.add(
                        s,
                        r,
                        part.weight * (part.covariance.at(s, r) + off[s] * off[r]),
                    );
                }
            }
        }
        Self { mean, covariance, parts }
    }

    /// Returns the posterior standard deviation of the difference of two steps.
    #[must_use]
    pub fn difference_sd(&self, a: usize, b: usize) -> f64 {
        let v = &self.covariance;
        (v.at(a, a) + v.at(b, b) - 2.0 * v.at(a, b)).max(0.0).sqrt()
    }

    /// Prepares draws.
    #[must_use]
    pub fn sampler(&self) -> Sampler<'_> {
        let mut up_to = 0.0;
        let parts = self.parts.iter().map(|Part { weight, mean, covariance }| {
            up_to += weight;
            (up_to, &mean[..], covariance.cholesky())
        });
        Sampler { parts: parts.collect() }
    }
}

/// Draws sets of scores.
pub struct Sampler<'a> {
    /// Of each part: its share and those before it, its mean, its covariance's Cholesky factor.
    parts: Vec<(f64, &'a [f64], Square)>,
}

impl Sampler<'_> {
    /// Draws one set of scores.
    pub fn draw(&self, rng: &mut Rng, into: &mut [f64]) {
        let u = rng.uniform();
        let last = self.parts.len() - 1;
        let part = self.parts.iter().position(|(up_to, ..)| u < *up_to).unwrap_or(last);
        let (_, mean, factor) = &self.parts[part];
        // Row i of the factor needs the first i + 1 normals: filled from the end, `into` can
        // hold both the normals and the result.
        into.iter_mut().for_each(|z| *z = rng.normal());
        for i in (0..into.len()).rev() {
            into[i] = mean[i] + dot(&factor.row(i)[..=i], &into[..=i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Scores};
    use crate::select::linear::Square;
    use crate::select::rng::Rng;

    fn diagonal(variances: [f64; 2]) -> Square {
        let mut square = Square::zero(2);
        (0..2).for_each(|i| square.add(i, i, variances[i]));
        square
    }

    #[test]
    fn moments_of_a_mixture_are_those_of_its_draws() {
        let parts = vec![
            Part { weight: 0.25, mean: vec![0.0, 4.0], covariance: diagonal([1.0, 0.25]) },
            Part { weight: 0.75, mean: vec![2.0, 0.0], covariance: diagonal([0.5, 2.0]) },
        ];
        let scores = Scores::mixture(parts);
        assert_eq!(scores.mean, [1.5, 1.0]);
        // 0.25 · 1 + 0.75 · 0.5 within the parts, 0.25 · 0.75 · 2² between them.
        assert!((scores.covariance.at(0, 0) - 1.375).abs() < 1e-12);
        assert!((scores.covariance.at(0, 1) + 1.5).abs() < 1e-12);
        let (sampler, mut rng) = (scores.sampler(), Rng::new(1));
        let (mut draw, mut sum, mut products) = ([0.0; 2], [0.0; 2], [0.0; 3]);
        let n = 200_000;
        for _ in 0..n {
            sampler.draw(&mut rng, &mut draw);
            let off = [draw[0] - scores.mean[0], draw[1] - scores.mean[1]];
            (0..2).for_each(|i| sum[i] += off[i] / f64::from(n));
            let pairs = [off[0] * off[0], off[1] * off[1], off[0] * off[1]];
            (0..3).for_each(|i| products[i] += pairs[i] / f64::from(n));
        }
        assert!(sum.iter().all(|s| s.abs() < 0.02), "{sum:?}");
        for (got, (i, j)) in products.into_iter().zip([(0, 0), (1, 1), (0, 1)]) {
            assert!((got - scores.covariance.at(i, j)).abs() < 0.03, "{i} {j} {got}");
        }
    }
}
