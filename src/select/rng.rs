//! A small seeded generator (xoshiro256++ seeded by SplitMix64), so that every number a report
//! prints can be had again from its seed on any machine and with any version of any crate.
//!
//! Not for secrets. Source: Blackman and Vigna, "Scrambled linear pseudorandom number
//! generators" (the algorithm is in the public domain).

/// The state of one stream.
#[derive(Debug, Clone)]
pub struct Rng {
    state: [u64; 4],
    spare: Option<f64>,
}

impl Rng {
    /// Starts the stream that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut x = seed;
        let mut state = [0; 4];
        for word in &mut state {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = z ^ (z >> 31);
        }
        Self { state, spare: None }
    }

    /// Returns the next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let result = s0.wrapping_add(s3).rotate_left(23).wrapping_add(s0);
        let s2 = s2 ^ s0;
        let s3 = s3 ^ s1;
        self.state = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 17), s3.rotate_left(45)];
        result
    }

    /// Draws from `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Draws an index below `n`; `n` must not be zero. The bias of the multiplication is below
    /// `n / 2^64`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Draws from the standard normal distribution (Marsaglia's polar method).
    pub fn normal(&mut self) -> f64 {
        if let Some(z) = self.spare.take() {
            return z;
        }
        loop {
            let u = 2.0 * self.uniform() - 1.0;
            let v = 2.0 * self.uniform() - 1.0;
            let r = u * u + v * v;
            if r > 0.0 && r < 1.0 {
                let scale = (-2.0 * r.ln() / r).sqrt();
                self.spare = Some(v * scale);
                return u * scale;
            }
        }
    }

    /// Permutes `items` uniformly (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_stream_is_the_published_algorithm() {
        // First outputs of xoshiro256++ from the state 1, 2, 3, 4, as its authors' C code gives.
        let mut rng = Rng { state: [1, 2, 3, 4], spare: None };
        let first: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn moments_and_ranges_are_right() {
        let mut rng = Rng::new(7);
        let (mut sum, mut square) = (0.0, 0.0);
        let mut seen = [0u32; 5];
        let n = 40_000;
        for _ in 0..n {
            let z = rng.normal();
            sum += z;
            square += z * z;
            seen[rng.below(5)] += 1;
            assert!((0.0..1.0).contains(&rng.uniform()));
        }
        assert!((sum / f64::from(n)).abs() < 0.02);
        assert!((square / f64::from(n) - 1.0).abs() < 0.03);
        assert!(seen.iter().all(|&k| (7_600..8_400).contains(&k)), "{seen:?}");
    }
}
