//! Statistics of the values of a tensor: range, moments, zeros, what is not finite.
//!
//! Values are widened to f32, which is exact, and summed in f64. Each chunk's moments are taken
//! about its own mean and merged in the order of the chunks (Chan, Golub, LeVeque 1983), so that
//! nothing cancels and the result does not depend on the number of threads.

use rayon::prelude::*;
use serde::Serialize;

use crate::checkpoint::{Tensor, TensorSet};
use crate::dtype::{Dtype, widen_to_f32};
use crate::progress::{Progress, Unit};

/// Elements looked at together.
const CHUNK: usize = 1 << 18;

/// What the values of one tensor are like. Numbers of an empty set are absent.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Stats {
    /// The smallest finite value.
    pub min: Option<f64>,
    /// The largest finite value.
    pub max: Option<f64>,
    /// The mean of the finite values.
    pub mean: Option<f64>,
    /// Their standard deviation, of the whole population.
    pub std: Option<f64>,
    /// The square root of their mean square.
    pub rms: Option<f64>,
    /// How many values are zero, of either sign.
    pub zeros: u64,
    /// How many are NaN.
    pub nan: u64,
    /// How many are infinite.
    pub infinite: u64,
}

/// Reads the values of `tensors`; `None` for those that are not of a floating type.
///
/// Memory is a chunk a thread.
#[must_use]
pub fn stats(set: &TensorSet, tensors: &[&Tensor], progress: &dyn Progress) -> Vec<Option<Stats>> {
    let total = tensors.iter().map(|t| t.len_bytes()).sum();
    progress.start("stats", total, Unit::Bytes);
    progress.item_start("values", total);
    let all = tensors
        .par_iter()
        .map(|tensor| {
            let one = tensor.dtype.is_float().then(|| of_bytes(tensor.dtype, set.data(tensor)));
            progress.advance("values", tensor.len_bytes());
            one
        })
        .collect();
    progress.finish();
    all
}

/// Returns the statistics of `bytes`, little-endian values of a floating type.
#[must_use]
pub fn of_bytes(dtype: Dtype, bytes: &[u8]) -> Stats {
    let chunks = bytes.par_chunks(CHUNK * dtype.size_bytes());
    let moments: Vec<Moments> = chunks.map(|chunk| Moments::of(dtype, chunk)).collect();
    moments.into_iter().fold(Moments::default(), Moments::merge).stats()
}

/// Counts, range, mean and sum of squares about the mean of the finite values seen.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    finite: u64,
    zeros: u64,
    nan: u64,
    infinite: u64,
    min: f64,
    max: f64,
    mean: f64,
    square: f64,
}

impl Moments {
    fn of(dtype: Dtype, bytes: &[u8]) -> Self {
        let mut values = vec![0.0; bytes.len() / dtype.size_bytes()];
        widen_to_f32(dtype, bytes, &mut values);
        let mut found = Self { min: f64::INFINITY, max: f64::NEG_INFINITY, ..Self::default() };
        let mut sum = 0.0;
        for value in &values {
            if value.is_nan() {
                found.nan += 1;
            } else if value.is_infinite() {
                found.infinite += 1;
            } else {
                let wide = f64::from(*value);
                found.finite += 1;
                found.zeros += u64::from(wide == 0.0);
                found.min = found.min.min(wide);
                found.max = found.max.max(wide);
                sum += wide;
            }
        }
        if found.finite > 0 {
            found.mean = sum / found.finite as f64;
            let finite = values.iter().filter(|value| value.is_finite());
            found.square = finite.map(|value| (f64::from(*value) - found.mean).powi(2)).sum();
        }
        found
    }

    fn merge(self, other: Self) -> Self {
        let (nan, infinite) = (self.nan + other.nan, self.infinite + other.infinite);
        if self.finite == 0 || other.finite == 0 {
            let one = if self.finite == 0 { other } else { self };
            return Self { nan, infinite, ..one };
        }
        let finite = self.finite + other.finite;
        let share = other.finite as f64 / finite as f64;
        let apart = other.mean - self.mean;
        Self {
            finite,
            zeros: self.zeros + other.zeros,
            nan,
            infinite,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            mean: self.mean + apart * share,
            square: self.square + other.square + apart * apart * self.finite as f64 * share,
        }
    }

    fn stats(self) -> Stats {
        let some = |value: f64| (self.finite > 0).then_some(value);
        let variance = self.square / self.finite as f64;
        Stats {
            min: some(self.min),
            max: some(self.max),
            mean: some(self.mean),
            std: some(variance.sqrt()),
            rms: some((variance + self.mean * self.mean).sqrt()),
            zeros: self.zeros,
            nan: self.nan,
            infinite: self.infinite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, of_bytes};
    use crate::dtype::{Dtype, narrow_from_f32};

    fn encoded(dtype: Dtype, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * dtype.size_bytes()];
        narrow_from_f32(dtype, values, &mut bytes);
        bytes
    }

    #[test]
    fn small_sets_give_the_numbers_of_a_calculator() {
        let values = [1.0, -2.0, 0.0, -0.0, 3.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let got = of_bytes(dtype, &encoded(dtype, &values));
            assert_eq!((got.min, got.max, got.mean), (Some(-2.0), Some(3.0), Some(0.4)));
            assert_eq!((got.zeros, got.nan, got.infinite), (2, 1, 2));
            assert!((got.rms.expect("is there") - 2.8_f64.sqrt()).abs() < 1e-12);
            assert!((got.std.expect("is there") - 2.64_f64.sqrt()).abs() < 1e-12);
        }
    }

    #[test]
    fn nothing_and_nothing_finite_have_no_range() {
        let nothing = of_bytes(Dtype::F32, &[]);
        assert_eq!((nothing.min, nothing.mean, nothing.std), (None, None, None));
        let nan = of_bytes(Dtype::F32, &encoded(Dtype::F32, &[f32::NAN]));
        assert_eq!((nan.max, nan.rms, nan.nan), (None, None, 1));
    }

    #[test]
    fn chunks_merge_without_cancellation() {
        // A spread of 1/1024 about 1000: the naive E[x²] - E[x]² in f32 would lose it all.
        let values: Vec<f32> =
            (0..3 * CHUNK + 7).map(|i| 1000.0 + (i % 2) as f32 / 512.0).collect();
        let got = of_bytes(Dtype::F32, &encoded(Dtype::F32, &values));
        let ones = values.iter().filter(|v| **v > 1000.0).count() as f64;
        let share = ones / values.len() as f64;
        let std = (share * (1.0 - share)).sqrt() / 512.0;
        assert!((got.std.expect("is there") - std).abs() < 1e-12, "{got:?}");
        assert!((got.mean.expect("is there") - (1000.0 + share / 512.0)).abs() < 1e-9);
    }
}
