//! GGUF, llama.cpp's file format: metadata values, a writer, a strict reader, file names.
//!
//! Knows nothing of models: which keys and tensors a model has is `ops::export_gguf`'s business.
//! Source: ggml's `docs/gguf.md` and llama.cpp at 0c1e57098, versions 2 and 3 of the format.

mod error;
pub mod file_type;
pub mod imatrix;
pub mod metadata;
pub mod naming;
pub mod pre_tokenizer;
pub mod reader;
pub mod tensor_type;
pub mod writer;

pub use error::{GgufError, GgufFileError};
pub use file_type::FileType;
pub use imatrix::{Imatrix, ImatrixError};
pub use metadata::{Array, Metadata, Value};
pub use pre_tokenizer::PRE_TOKENIZERS;
pub use reader::Gguf;
pub use tensor_type::TensorType;
pub use writer::{Encoded, TensorSpec};

/// The four bytes that every file starts with.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// The alignment of tensor data when the file names none.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The most axes a tensor may have.
pub const DIMS_MAX: usize = 4;

/// Tensor names must be shorter than this, in bytes.
pub const NAME_LEN_LIMIT: usize = 64;

/// Says whether `path` is a file that starts as GGUF files do.
#[must_use]
pub fn is_gguf(path: &std::path::Path) -> bool {
    use std::io::Read as _;
    let mut start = [0; MAGIC.len()];
    let Ok((mut file, _)) = crate::fsio::open_regular(path) else { return false };
    file.read_exact(&mut start).is_ok() && start == *MAGIC
}
