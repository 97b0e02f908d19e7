//! `tmax-ckpt`: from training-step branches to a release.
//!
//! Layers, lower ones first; imports point down only (`tests/tidy.rs` holds that):
//! `error, units, dtype, name, progress, fsio, hash` ← `safetensors, gguf, quant` ←
//! `arch, checkpoint` ← `ops, select, report` ← `hub, engine, sandbox` ← `cli` ← `main`.
//!
//! What the commands do can be called without them; nothing below `cli` prints or reads settings:
//!
//! ```
//! use std::path::Path;
//! use tmax_ckpt::checkpoint::Checkpoint;
//! use tmax_ckpt::ops::verify::{Options, Severity, Values, verify};
//! use tmax_ckpt::progress::silent;
//!
//! let dir = Path::new("fixtures/tiny-raw/step_600");
//! let options = Options { values: Values::Scan, ..Options::default() };
//! let report = verify(dir, &options, &*silent())?;
//! assert_eq!(report.count(Severity::Error), 0, "{:?}", report.findings);
//!
//! let checkpoint = Checkpoint::open(dir)?;
//! let norm = checkpoint.find("model.norm.weight").expect("a norm");
//! assert_eq!(checkpoint.data(norm).len() as u64, norm.len_bytes());
//! # Ok::<(), tmax_ckpt::error::Error>(())
//! ```

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests write scratch files and read no settings")
)]

pub mod arch;
pub mod checkpoint;
pub mod cli;
pub mod dtype;
pub mod engine;
pub mod error;
pub mod fsio;
pub mod gguf;
pub mod harness;
pub mod hash;
pub mod hub;
pub mod name;
pub mod ops;
pub mod progress;
pub mod quant;
pub mod report;
pub mod safetensors;
pub mod sandbox;
pub mod select;
pub mod units;
