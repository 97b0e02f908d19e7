//! One place where the instruction set of quantisation is chosen.

use super::kind::{Kind, Plain};

/// The instruction sets that the searches are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// One value after the other, whatever the compiler assumes.
    Scalar,
    /// Eight sub-blocks side by side.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Sixteen.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: &'static [Self] = &[
        Self::Scalar,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
    ];

    /// Says whether this processor has it.
    pub fn is_here(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    /// Returns the fastest that this processor has.
    pub fn best() -> Self {
        Self::ALL.iter().rev().copied().find(|isa| isa.is_here()).unwrap_or(Self::Scalar)
    }
}

/// Quantises a row of finite values.
///
/// # Panics
/// If the processor does not have the instruction set.
pub fn quantize<K: Kind>(isa: Isa, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    assert!(isa.is_here(), "{isa:?} is not here");
    match isa {
        Isa::Scalar => K::quantize::<Plain>(row, importance, out),
        // SAFETY: the instruction set was just found to be here.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { with_avx2::<K>(row, importance, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { with_avx512::<K>(row, importance, out) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<K: Kind>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    K::quantize::<x86::Avx2>(row, importance, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<K: Kind>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    K::quantize::<x86::Avx512>(row, importance, out);
}

/// The searches, compiled once an instruction set for all types. Without FMA: fusing would change
/// the rounding.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::kind::{Level, SubBlocks};
    use super::super::lanes::{Eight, Sixteen};
    use super::super::scalar::Found;
    use super::super::{reduce, search};

    /// Used by [`super::with_avx2`] alone.
    pub struct Avx2;

    impl Level for Avx2 {
        #[inline(always)]
        fn scales(how: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]) {
            // SAFETY: only code that was called because AVX2 is here gets here.
            unsafe { avx2(how, x, given, found) }
        }

        #[inline(always)]
        fn largest(x: &[f32; 32]) -> f32 {
            reduce::largest(x)
        }

        #[inline(always)]
        fn range(x: &[f32; 32]) -> (f32, f32) {
            reduce::range(x)
        }
    }

    #[target_feature(enable = "avx2")]
    fn avx2(how: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]) {
        search::scales::<Eight>(how, x, given, found);
    }

    /// Used by [`super::with_avx512`] alone.
    pub struct Avx512;

    impl Level for Avx512 {
        #[inline(always)]
        fn scales(how: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]) {
            // SAFETY: only code that was called because AVX-512 is here gets here.
            unsafe { avx512(how, x, given, found) }
        }

        #[inline(always)]
        fn largest(x: &[f32; 32]) -> f32 {
            reduce::largest(x)
        }

        #[inline(always)]
        fn range(x: &[f32; 32]) -> (f32, f32) {
            reduce::range(x)
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn avx512(how: &SubBlocks, x: &[f32], given: Option<&[f32]>, found: &mut [Found]) {
        search::scales::<Sixteen>(how, x, given, found);
    }
}
