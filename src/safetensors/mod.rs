//! The safetensors format: strict headers, the index of a sharded checkpoint, and a writer whose
//! bytes are reproducible.
//!
//! Nothing here knows a model. Format: the 0.8 `safetensors` crate and its documentation; the
//! reader here refuses more than the crate does (duplicate keys, padding, names).

mod fault;
mod header;
mod index;
mod writer;

pub use fault::{Error, Fault, IndexFault};
pub use header::{HEADER_LEN_MAX, Header, PREFIX_LEN, TensorInfo};
pub use index::{INDEX_FILE, Index, shard_file_name};
pub use writer::{FileLayout, NewTensor, torch_metadata};

/// The name of an unsharded checkpoint's file.
pub const SINGLE_FILE: &str = "model.safetensors";

/// The result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;
