//! `tmax-ckpt`: from training-step branches to a release.
//!
//! Layers, lower ones first; imports point down only (`tests/tidy.rs` holds that):
//! `error, units, dtype, name, progress, fsio, hash` ← `safetensors, gguf, quant` ←
//! `arch, checkpoint` ← `ops, select, report` ← `hub, engine, sandbox` ← `cli` ← `main`.

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
