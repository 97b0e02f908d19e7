//! The engine on the CPU.
//!
//! Every output row of every operation is computed by the same additions in the same order,
//! however many rows stand beside it and however many threads run, and fused multiply-add is
//! used on every machine. So a token's numbers do not depend on what it was batched with, a
//! cached step equals the full pass bit by bit, and two machines agree.

mod attention;
mod backend;
mod delta;
mod math;
mod matrix;
mod pages;
mod quantised;
mod simd;

pub use backend::{CpuBackend, CpuCache};
pub use math::log_sum_exp;
