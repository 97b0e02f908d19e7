//! Q8_0: blocks of 32 values, an f16 scale and 32 signed bytes.
//!
//! `d = amax / 127`, `q = round(x / d)` half away from zero, where the division is a
//! multiplication by `1 / d` of the unrounded `d`. Source: ggml `quantize_row_q8_0_ref`.

use half::f16;

use super::NotFinite;

/// Values in a block.
pub const BLOCK_LEN: usize = 32;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 34;

/// Quantises `values` into `out`, with the fastest code that this processor runs.
///
/// # Errors
/// [`NotFinite`] for the first NaN or infinity; `out` is then partly written.
///
/// # Panics
/// If `values` is not whole blocks, or `out` not of their size.
pub fn quantize(values: &[f32], out: &mut [u8]) -> Result<(), NotFinite> {
    assert_eq!(values.len() % BLOCK_LEN, 0, "whole blocks");
    assert_eq!(
        out.len(),
        values.len() / BLOCK_LEN * BLOCK_BYTES,
        "one output block an input block"
    );
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: AVX2 was just detected, and the lengths were asserted above.
        let finite = unsafe { avx2::quantize(values, out) };
        return if finite { Ok(()) } else { Err(NotFinite::first(values)) };
    }
    quantize_scalar(values, out)
}

/// Quantises one value after the other: the oracle of [`quantize`].
///
/// # Errors
/// As [`quantize`].
///
/// # Panics
/// As [`quantize`].
pub fn quantize_scalar(values: &[f32], out: &mut [u8]) -> Result<(), NotFinite> {
    let blocks = values.as_chunks::<BLOCK_LEN>().0;
    for (x, y) in blocks.iter().zip(out.as_chunks_mut::<BLOCK_BYTES>().0) {
        let mut amax = 0.0_f32;
        for value in x {
            if !value.is_finite() {
                return Err(NotFinite::first(values));
            }
            amax = amax.max(value.abs());
        }
        let d = amax / 127.0;
        let id = inverse(d);
        y[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        for (q, value) in y[2..].iter_mut().zip(x) {
            *q = (value * id).round() as i8 as u8;
        }
    }
    Ok(())
}

/// Restores values: the inverse, up to the rounding of [`quantize`].
///
/// # Panics
/// If the lengths do not agree.
pub fn dequantize(blocks: &[u8], out: &mut [f32]) {
    assert_eq!(blocks.len() / BLOCK_BYTES * BLOCK_LEN, out.len(), "one block, 32 values");
    let (outs, blocks) = (out.as_chunks_mut::<BLOCK_LEN>().0, blocks.as_chunks::<BLOCK_BYTES>().0);
    for (y, block) in outs.iter_mut().zip(blocks) {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (value, q) in y.iter_mut().zip(&block[2..]) {
            *value = d * f32::from(*q as i8);
        }
    }
}

/// Returns `1 / d`, or 0 where that is infinite: the codes of such a block are 0 in ggml too,
/// whose conversion of an infinity to a byte yields 0 on x86.
fn inverse(d: f32) -> f32 {
    let id = 1.0 / d;
    if id.is_finite() { id } else { 0.0 }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, __m256i, _CMP_GE_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_ZERO, _mm256_add_ps,
        _mm256_and_ps, _mm256_and_si256, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps,
        _mm256_cvtps_epi32, _mm256_loadu_ps, _mm256_max_epu32, _mm256_mul_ps, _mm256_or_ps,
        _mm256_packs_epi16, _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_round_ps,
        _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_storeu_si256, _mm256_sub_ps,
    };

    use half::f16;

    use super::{BLOCK_BYTES, BLOCK_LEN};

    /// Quantises whole blocks; false if any value is NaN or infinite.
    ///
    /// # Safety
    /// The processor must have AVX2, and `out` a block for each of `values`.
    #[target_feature(enable = "avx2")]
    pub unsafe fn quantize(values: &[f32], out: &mut [u8]) -> bool {
        let mut finite = true;
        let blocks = values.as_chunks::<BLOCK_LEN>().0;
        for (x, y) in blocks.iter().zip(out.as_chunks_mut::<BLOCK_BYTES>().0) {
            let mut lanes = [_mm256_set1_ps(0.0); 4];
            for (lane, eight) in lanes.iter_mut().zip(x.as_chunks::<8>().0) {
                // SAFETY: `eight` is eight floats; the load needs no alignment.
                *lane = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
            }
            let amax = max_magnitude(&lanes);
            finite &= amax.is_finite();
            let d = amax / 127.0;
            let id = super::inverse(d);
            y[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            let q = codes(&lanes, _mm256_set1_ps(id));
            let tail: &mut [u8; BLOCK_LEN] = (&mut y[2..]).try_into().expect("34 - 2 = 32");
            // SAFETY: `tail` is 32 bytes; the store needs no alignment.
            unsafe { _mm256_storeu_si256(tail.as_mut_ptr().cast::<__m256i>(), q) };
        }
        finite
    }

    /// Returns the largest magnitude. Magnitudes order as their bits do, and NaN and infinity
    /// above all finite ones, so an integer maximum finds those too.
    #[target_feature(enable = "avx2")]
    fn max_magnitude(lanes: &[__m256; 4]) -> f32 {
        let mask = _mm256_set1_epi32(0x7fff_ffff);
        let bits = lanes.map(|lane| _mm256_and_si256(_mm256_castps_si256(lane), mask));
        let max = _mm256_max_epu32(
            _mm256_max_epu32(bits[0], bits[1]),
            _mm256_max_epu32(bits[2], bits[3]),
        );
        let mut eight = [0_u32; 8];
        // SAFETY: `eight` is 32 bytes; the store needs no alignment.
        unsafe { _mm256_storeu_si256(eight.as_mut_ptr().cast::<__m256i>(), max) };
        f32::from_bits(eight.into_iter().fold(0, u32::max))
    }

    /// Multiplies, rounds half away from zero, and packs to bytes in order.
    #[target_feature(enable = "avx2")]
    fn codes(lanes: &[__m256; 4], id: __m256) -> __m256i {
        let [a, b, c, d] = lanes.map(|lane| {
            let y = _mm256_mul_ps(lane, id);
            let whole = _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(y);
            // Exact: |y| is at most 127 and a bit.
            let rest = _mm256_sub_ps(y, whole);
            let sign = _mm256_and_ps(y, _mm256_set1_ps(-0.0));
            let magnitude =
                _mm256_and_ps(rest, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff)));
            let up = _mm256_cmp_ps::<_CMP_GE_OQ>(magnitude, _mm256_set1_ps(0.5));
            let one = _mm256_or_ps(_mm256_and_ps(up, _mm256_set1_ps(1.0)), sign);
            _mm256_cvtps_epi32(_mm256_add_ps(whole, one))
        });
        // Both packs work within 128-bit halves: put the words back in order.
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

#[cfg(test)]
mod tests {
    use super::super::NotFinite;
    use super::{BLOCK_BYTES, BLOCK_LEN, dequantize, quantize, quantize_scalar};

    /// A fixed sequence, each value in `-1..1`.
    fn noise(len: usize, mut state: u32) -> Vec<f32> {
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 8_388_608.0 - 1.0
            })
            .collect()
    }

    fn both(values: &[f32]) -> Vec<u8> {
        let mut fast = vec![0; values.len() / BLOCK_LEN * BLOCK_BYTES];
        let mut slow = fast.clone();
        quantize(values, &mut fast).expect("finite");
        quantize_scalar(values, &mut slow).expect("finite");
        assert!(fast == slow, "vector and scalar differ");
        fast
    }

    #[test]
    fn known_block() {
        // 127 / 127 = 1: codes are the values, halves away from zero.
        let mut x = [0.0_f32; 32];
        x[..7].copy_from_slice(&[127.0, -127.0, 0.5, -0.5, 1.49, 2.5, -2.5]);
        let block = both(&x);
        assert_eq!(block[..2], [0x00, 0x3c]);
        assert_eq!(
            block[2..9].iter().map(|b| *b as i8).collect::<Vec<_>>(),
            [127, -127, 1, -1, 1, 3, -3]
        );
        assert!(block[9..].iter().all(|b| *b == 0));
    }

    #[test]
    fn vector_and_scalar_agree_on_every_kind_of_value() {
        let base = noise(1 << 16, 7);
        let bf16 = |v: f32| f32::from_bits(v.to_bits() & 0xffff_0000);
        let kinds: [fn(f32) -> f32; 7] = [
            |v| v,
            |v| v * 1e-30,
            |v| v * 1e-40,
            |v| v * 3e38,
            |v| v * v * v * 40.0,
            |v| if v > 0.0 { 0.0 } else { -0.0 },
            |v| (v * 254.0).round() / 2.0,
        ];
        for kind in kinds {
            both(&base.iter().map(|v| kind(*v)).collect::<Vec<_>>());
            both(&base.iter().map(|v| bf16(kind(*v))).collect::<Vec<_>>());
        }
    }

    #[test]
    fn restored_values_are_within_half_a_step() {
        let x = noise(4096, 3);
        let mut back = vec![0.0; x.len()];
        dequantize(&both(&x), &mut back);
        for (a, b) in x.iter().zip(&back) {
            // Half a step, and the rounding of the scale to f16.
            assert!((a - b).abs() <= 1.0 / 254.0 + 1.0 / 2048.0, "{a} {b}");
        }
    }

    #[test]
    fn nan_and_infinity_are_found() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(128, 1);
            x[70] = bad;
            let mut out = vec![0; 4 * BLOCK_BYTES];
            for result in [quantize(&x, &mut out), quantize_scalar(&x, &mut out)] {
                let NotFinite { index, value } = result.expect_err("not finite");
                assert_eq!((index, value.to_bits()), (70, bad.to_bits()));
            }
        }
    }
}
