//! One place where instruction sets are chosen.
//!
//! Kernels are plain loops over arrays, written once as a [`Kernel`]. [`run`] compiles them for
//! each instruction set and calls the best that the machine has; results are the same bits
//! everywhere, because only the width differs and never the order of additions of a lane.

use std::sync::OnceLock;

/// Lanes of a tile: one AVX-512 register of f32.
pub const LANES: usize = 16;

/// A computation that is compiled once an instruction set.
///
/// `call` must be `#[inline(always)]`, else it is compiled for the baseline only.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Computes.
    fn call(self) -> Self::Output;
}

/// The instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 with VNNI, as Zen 4 and Ice Lake have.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA, as everything since 2013 has.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler assumes; on aarch64 that has NEON with FMA.
    Baseline,
}

/// Returns the best level of this machine.
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni");
    match (avx512 && avx2, avx2) {
        (true, _) => Level::Avx512,
        (_, true) => Level::Avx2,
        _ => Level::Baseline,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Baseline
}

/// Runs a kernel with the best instructions of this machine.
#[inline]
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        // SAFETY: `detect` returned the level, so the machine has every feature it names.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { run_avx512(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { run_avx2(kernel) },
        Level::Baseline => kernel.call(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.call()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.call()
}
