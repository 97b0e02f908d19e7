//! What is done to checkpoints: each a plan, which `--dry-run` prints, and a run of that plan.

pub mod assemble;
pub mod diff;
mod error;
pub mod export_gguf;
pub mod inspect;
pub mod pack;
pub mod reshard;
pub mod stats;
pub mod strip;
pub mod verify;

pub use error::OpError;
