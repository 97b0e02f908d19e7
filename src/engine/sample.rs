//! Drawing a token from logits, the same one for the same seed whatever else runs.
//!
//! Order of cuts as vLLM and transformers have it: temperature, top-k, top-p.

/// A small generator of random numbers: SplitMix64, state advanced by a constant.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts a stream.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns the next number in [0, 1), with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Draws the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_p: f64,
    top_k: usize,
    rng: Rng,
}

impl Sampler {
    /// Prepares a sequence's sampler.
    #[must_use]
    pub fn new(sampling: &super::chat::Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k.map_or(usize::MAX, |k| k as usize).max(1),
            rng: Rng::new(sampling.seed),
        }
    }

    /// Draws one id. Ties and equal masses fall to the lower id.
    ///
    /// One random number a call, so that the stream depends on the position alone.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let random = self.rng.next_f64();
        if self.temperature <= 0.0 {
            return argmax(logits);
        }
        let candidates = self.candidates(logits);
        let total: f64 = candidates.iter().map(|c| c.1).sum();
        let mut left = random * total;
        for (id, mass) in &candidates {
            if left < *mass {
                return *id;
            }
            left -= mass;
        }
        candidates.last().map_or_else(|| argmax(logits), |c| c.0)
    }

    /// The ids that stay and their masses, likeliest first.
    fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let most = f64::from(logits[argmax(logits) as usize]);
        let mass = |logit: f32| ((f64::from(logit) - most) / self.temperature).exp();
        let mut all: Vec<(u32, f64)> =
            logits.iter().enumerate().map(|(id, logit)| (id as u32, mass(*logit))).collect();
        let total: f64 = all.iter().map(|c| c.1).sum();
        // What is this unlikely cannot be in the nucleus and need not be sorted.
        let whole = self.top_p >= 1.0 && self.top_k >= all.len();
        if whole {
            return all;
        }
        let order =
            |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0));
        if self.top_k < all.len() {
            all.select_nth_unstable_by(self.top_k - 1, order);
            all.truncate(self.top_k);
        } else if self.top_p < 1.0 {
            let floor = (1.0 - self.top_p) * total / all.len() as f64;
            all.retain(|c| c.1 >= floor);
        }
        all.sort_unstable_by(order);
        let kept: f64 =
            if self.top_k < logits.len() { all.iter().map(|c| c.1).sum() } else { total };
        let mut sum = 0.0;
        let inside = all.iter().take_while(|c| {
            let before = sum;
            sum += c.1;
            before < self.top_p * kept
        });
        let count = inside.count().max(1);
        all.truncate(count);
        all
    }
}

/// Returns the likeliest id; not-a-number never wins.
#[must_use]
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] || logits[best].is_nan() {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::{Rng, Sampler, argmax};
    use crate::engine::chat::Sampling;

    fn sampler(temperature: f64, top_p: f64, top_k: Option<u32>) -> Sampler {
        Sampler::new(&Sampling { temperature, top_p, top_k, seed: 5, ..Sampling::default() })
    }

    fn ids(mut sampler: Sampler, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        (0..draws).for_each(|_| counts[sampler.draw(logits) as usize] += 1);
        counts
    }

    #[test]
    fn the_generator_gives_the_published_numbers() {
        let mut rng = Rng::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn zero_temperature_takes_the_likeliest() {
        assert_eq!(ids(sampler(0.0, 0.1, None), &[1.0, 3.0, 2.0], 5), [0, 5, 0]);
        assert_eq!(argmax(&[f32::NAN, 1.0, 2.0]), 2);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let counts = ids(sampler(2.0, 1.0, None), &logits, 40_000);
        let masses: Vec<f64> = logits.iter().map(|x| (f64::from(*x) / 2.0).exp()).collect();
        let total: f64 = masses.iter().sum();
        for (count, mass) in counts.iter().zip(masses) {
            let (share, truth) = (*count as f64 / 40_000.0, mass / total);
            assert!((share - truth).abs() < 0.01, "{share} {truth}");
        }
    }

    #[test]
    fn cuts_keep_the_smallest_sufficient_set() {
        // Masses 0.5, 0.25, 0.125, 0.125.
        let logits = [0.25f32, 0.5, 0.125, 0.125].map(f32::ln);
        let kept = |top_p, top_k| {
            let counts = ids(sampler(1.0, top_p, top_k), &logits, 4000);
            counts.iter().map(|c| usize::from(*c > 0)).collect::<Vec<_>>()
        };
        assert_eq!(kept(0.5, None), [0, 1, 0, 0]);
        assert_eq!(kept(0.51, None), [1, 1, 0, 0]);
        assert_eq!(kept(0.76, None), [1, 1, 1, 0]);
        assert_eq!(kept(1.0, Some(2)), [1, 1, 0, 0]);
        assert_eq!(kept(0.6, Some(2)), [0, 1, 0, 0]);
        assert_eq!(kept(0.0, None), [0, 1, 0, 0]);
    }
}
