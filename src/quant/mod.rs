//! Block quantisation, bit for bit as ggml's x86 builds do it.
//!
//! One file a family says how its blocks are searched and packed. The searches stand twice: in
//! `scalar`, in the order of ggml's reference code, which is the oracle, and in `search`, a
//! sub-block a lane. f32 throughout, never a fused multiply-add: fusing changes the rounding of
//! some blocks.

mod codec;
mod iq4;
mod isa;
mod k_affine;
mod k_symmetric;
mod kind;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod legacy;
pub mod q8_0;
#[cfg(target_arch = "x86_64")]
mod reduce;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod search;

pub use codec::{Codec, NotFinite, codec};

#[cfg(test)]
mod tests;
