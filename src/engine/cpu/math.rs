//! Scalar mathematics that compiles to vectors, and the small row operations made of it.

use super::simd::{Kernel, LANES, run};

/// `e^x` within 2 ulp for finite results; below -87 it is 0, above 88 infinity-like large.
///
/// Cephes' reduction and polynomial, without branches, so that loops of it become vectors.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 × 2^23: adding it rounds to a whole number
    let clamped = x.clamp(-87.0, 88.0);
    let n = clamped.mul_add(std::f32::consts::LOG2_E, ROUND) - ROUND;
    // ln 2 in two parts, the first exact in few bits.
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_199_9e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5)
        .mul_add(r * r, r)
        + 1.0;
    let scale = f32::from_bits(((n as i32 + 127) << 23) as u32);
    if x < -87.0 { 0.0 } else { p * scale }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `ln(1 + e^x)`, linear above 20 as torch has it.
#[inline]
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// Adds the lanes pairwise, always in the same order.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Dot product in 16 running sums; rest elements go to the first lanes.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    for (i, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] = x.mul_add(*y, lanes[i]);
    }
    sum_lanes(lanes)
}

/// `h += delta` (if there is a delta), then `out = h · rsqrt(mean h² + eps) · weight`, one row.
pub struct AddRmsNorm<'a> {
    /// The residual row.
    pub hidden: &'a mut [f32],
    /// What is added to it; empty for nothing.
    pub delta: &'a [f32],
    /// Effective weight: `1 + w` where the model has it so.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// The normalised row.
    pub out: &'a mut [f32],
}

impl Kernel for AddRmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (h, d) in self.hidden.iter_mut().zip(self.delta) {
            *h += d;
        }
        rms_norm(self.hidden, self.weight, self.eps, self.out);
    }
}

/// `out = x · rsqrt(mean x² + eps) · weight`.
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * scale * w;
    }
}

/// `out = silu(gate) · up` for one row `[gate | up]`.
pub struct SwiGlu<'a> {
    /// `[2 · intermediate_size]`.
    pub gate_up: &'a [f32],
    /// `[intermediate_size]`.
    pub out: &'a mut [f32],
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (gate, up) = self.gate_up.split_at(self.out.len());
        for ((o, g), u) in self.out.iter_mut().zip(gate).zip(up) {
            *o = silu(*g) * u;
        }
    }
}

/// `ln Σ e^x` of one row, and the largest value subtracted while summing.
pub struct LogSumExp<'a>(pub &'a [f32]);

impl Kernel for LogSumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let most = max(self.0);
        let mut lanes = [0.0f32; LANES];
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += exp(chunk[i] - most);
            }
        }
        for (i, x) in rest.iter().enumerate() {
            lanes[i] += exp(x - most);
        }
        most + sum_lanes(lanes).ln()
    }
}

/// The largest value; minus infinity for none.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let most = rest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    lanes.into_iter().fold(most, f32::max)
}

/// Returns `ln Σ e^x`.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    run(LogSumExp(row))
}

#[cfg(test)]
mod tests {
    use super::{exp, log_sum_exp, softplus};

    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0.0f64;
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let truth = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - truth).abs() / truth);
        }
        assert!(worst < 3e-7, "relative error {worst}");
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn log_sum_exp_survives_large_values() {
        let row: Vec<f32> = (0..37).map(|i| 500.0 + i as f32 / 7.0).collect();
        let truth = row.iter().map(|x| f64::from(x - 500.0).exp()).sum::<f64>().ln() + 500.0;
        assert!((f64::from(log_sum_exp(&row)) - truth).abs() < 1e-4);
        assert_eq!(softplus(30.0), 30.0);
        assert!((softplus(0.0) - std::f32::consts::LN_2).abs() < 1e-6);
    }
}
