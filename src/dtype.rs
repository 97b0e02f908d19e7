//! Element types of tensors, and casts between the floating ones.
//!
//! Casts round to nearest even and go through f32, which holds every bf16 and f16 exactly.

use std::fmt;

/// An element type as safetensors names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are the format's own")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
}

/// Every dtype with its safetensors name and its size in bytes.
const TABLE: &[(Dtype, &str, usize)] = &[
    (Dtype::Bool, "BOOL", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::F8E5M2, "F8_E5M2", 1),
    (Dtype::F8E4M3, "F8_E4M3", 1),
    (Dtype::I16, "I16", 2),
    (Dtype::U16, "U16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::Bf16, "BF16", 2),
    (Dtype::I32, "I32", 4),
    (Dtype::U32, "U32", 4),
    (Dtype::F32, "F32", 4),
    (Dtype::I64, "I64", 8),
    (Dtype::U64, "U64", 8),
    (Dtype::F64, "F64", 8),
];

impl Dtype {
    /// Parses the name used in a safetensors header.
    #[must_use]
    pub fn from_safetensors(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Parses the name used in `config.json` (`torch_dtype`, `dtype`).
    #[must_use]
    pub fn from_torch(name: &str) -> Option<Self> {
        match name.strip_prefix("torch.").unwrap_or(name) {
            "bfloat16" => Some(Self::Bf16),
            "float16" => Some(Self::F16),
            "float32" => Some(Self::F32),
            _ => None,
        }
    }

    /// Returns the name used in `config.json`, for the types that it names.
    #[must_use]
    pub fn torch_name(self) -> Option<&'static str> {
        match self {
            Self::Bf16 => Some("bfloat16"),
            Self::F16 => Some("float16"),
            Self::F32 => Some("float32"),
            _ => None,
        }
    }

    /// Returns the name used in a safetensors header.
    #[must_use]
    pub fn safetensors_name(self) -> &'static str {
        self.row().1
    }

    /// Returns the size of one element in bytes.
    #[must_use]
    pub fn size_bytes(self) -> usize {
        self.row().2
    }

    /// Says whether values can be widened to f32 without loss.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32)
    }

    fn row(self) -> &'static (Self, &'static str, usize) {
        TABLE.iter().find(|row| row.0 == self).expect("every dtype has a row")
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.safetensors_name())
    }
}

/// Widens little-endian `F32`, `F16` or `BF16` bytes to f32, exactly.
///
/// # Panics
/// If `dtype` is not [`Dtype::is_float`] or the lengths do not agree: callers hold validated
/// tensors.
pub fn widen_to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.size_bytes(), "length of {dtype} data");
    match dtype {
        Dtype::F32 => {
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*chunk);
            }
        }
        Dtype::Bf16 => {
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*chunk)) << 16);
            }
        }
        Dtype::F16 => {
            for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = half::f16::from_le_bytes(*chunk).to_f32();
            }
        }
        other => panic!("{other} is not a floating type that widens"),
    }
}

/// Returns the first finite value of `wide` that is infinite in `narrow`, which
/// [`narrow_from_f32`] made of it.
#[must_use]
pub fn first_overflow(dtype: Dtype, wide: &[f32], narrow: &[u8]) -> Option<f32> {
    let infinity: u16 = match dtype {
        Dtype::F16 => 0x7c00,
        Dtype::Bf16 => 0x7f80,
        _ => return None,
    };
    let is_infinite = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & 0x7fff == infinity;
    let pairs = narrow.as_chunks::<2>().0.iter().zip(wide);
    pairs.into_iter().find(|(b, v)| is_infinite(b) && v.is_finite()).map(|(_, value)| *value)
}

/// Narrows f32 to `dtype`, little-endian, rounding to nearest even. A NaN stays a quiet NaN.
///
/// # Panics
/// As [`widen_to_f32`].
pub fn narrow_from_f32(dtype: Dtype, values: &[f32], out: &mut [u8]) {
    assert_eq!(out.len(), values.len() * dtype.size_bytes(), "length of {dtype} data");
    match dtype {
        Dtype::F32 => {
            for (chunk, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *chunk = value.to_le_bytes();
            }
        }
        Dtype::Bf16 => {
            for (chunk, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *chunk = bf16_bits(*value).to_le_bytes();
            }
        }
        Dtype::F16 => {
            for (chunk, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *chunk = half::f16::from_f32(*value).to_le_bytes();
            }
        }
        other => panic!("{other} is not a floating type that narrows"),
    }
}

/// Rounds to bf16, nearest even; a NaN keeps its upper bits and becomes quiet.
#[must_use]
pub fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let round = 0x7fff + ((bits >> 16) & 1);
    (bits.wrapping_add(round) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::{Dtype, TABLE, bf16_bits, narrow_from_f32, widen_to_f32};

    #[test]
    fn names_round_trip() {
        for (dtype, name, _) in TABLE {
            assert_eq!(Dtype::from_safetensors(name), Some(*dtype));
            assert_eq!(dtype.safetensors_name(), *name);
        }
        assert_eq!(Dtype::from_torch("torch.bfloat16"), Some(Dtype::Bf16));
    }

    #[test]
    fn bf16_rounds_as_the_half_crate_does() {
        let mut state = 1_u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(state);
            assert_eq!(bf16_bits(value), half::bf16::from_f32(value).to_bits(), "{state:#x}");
        }
    }

    #[test]
    fn every_16_bit_value_survives_widening_and_narrowing() {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut wide = vec![0.0; 65536];
            widen_to_f32(dtype, &bytes, &mut wide);
            let mut back = vec![0; bytes.len()];
            narrow_from_f32(dtype, &wide, &mut back);
            for (i, value) in wide.iter().enumerate() {
                if !value.is_nan() {
                    assert_eq!(bytes[2 * i..2 * i + 2], back[2 * i..2 * i + 2], "{dtype} {i:#x}");
                }
            }
        }
    }
}
