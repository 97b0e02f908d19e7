//! What can be wrong with a safetensors file or index.

use std::path::PathBuf;

use super::header::HEADER_LEN_MAX;
use crate::dtype::Dtype;
use crate::error::{Diagnose, Kind};
use crate::name::NameError;

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A safetensors file is damaged or hostile.
    #[error("{} is not a sound safetensors file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: Fault,
    },
    /// An index is damaged, hostile, or does not fit its shards.
    #[error("{} does not describe its shards", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: IndexFault,
    },
}

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Not even the header is whole.
    #[error("the file ends after {len_bytes} bytes, {needed_bytes} are needed for the header")]
    Truncated {
        /// The file's size.
        len_bytes: u64,
        /// Where the header should end.
        needed_bytes: u64,
    },
    /// The length field is over the cap.
    #[error("the header claims {0} bytes, more than the {HEADER_LEN_MAX} that the format allows")]
    HeaderTooLong(u64),
    /// The header does not start with `{` or is padded with something other than spaces.
    #[error("the header must be a JSON object padded with spaces, got byte {byte:#04x} at {at}")]
    Padding {
        /// The byte.
        byte: u8,
        /// Its offset in the file.
        at: u64,
    },
    /// The header is not JSON of the right form.
    #[error("the header is not valid JSON of the expected form")]
    Json(#[source] serde_json::Error),
    /// A name occurs twice.
    #[error("the name `{0}` occurs twice in the header")]
    Duplicate(String),
    /// A name that no tensor may have.
    #[error("a tensor has a forbidden name")]
    Name(#[source] NameError),
    /// A dtype that this program does not know.
    #[error("tensor `{tensor}` has the unknown dtype `{dtype}`")]
    Dtype {
        /// The tensor, escaped.
        tensor: String,
        /// The dtype, escaped.
        dtype: String,
    },
    /// Shape and dtype do not give the length of the byte range.
    #[error("tensor `{tensor}` of {dtype} {shape:?} occupies {got_bytes} bytes, not its own size")]
    Size {
        /// The tensor, escaped.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
        /// The length of its range.
        got_bytes: u64,
    },
    /// The range ends before it begins.
    #[error("tensor `{tensor}` has the byte range {begin}..{end}")]
    Range {
        /// The tensor, escaped.
        tensor: String,
        /// Where it begins.
        begin: u64,
        /// Where it ends.
        end: u64,
    },
    /// Tensors overlap or leave a hole.
    #[error("tensor `{tensor}` begins at byte {begin} of the data, expected {expected}")]
    NotContiguous {
        /// The tensor, escaped.
        tensor: String,
        /// Where it begins.
        begin: u64,
        /// Where the one before it ends.
        expected: u64,
    },
    /// The data is shorter or longer than the header says.
    #[error("the header describes a file of {expected_bytes} bytes, the file has {got_bytes}")]
    Length {
        /// What the header says.
        expected_bytes: u64,
        /// What is there.
        got_bytes: u64,
    },
}

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// Not JSON of the right form.
    #[error("it is not valid JSON of the expected form")]
    Json(#[source] serde_json::Error),
    /// `weight_map` names no tensor.
    #[error("its weight_map is empty")]
    Empty,
    /// A tensor is mapped twice.
    #[error("tensor `{0}` is mapped twice")]
    Duplicate(String),
    /// A name that no tensor may have.
    #[error("a tensor has a forbidden name")]
    Name(#[source] NameError),
    /// A shard's name leaves the folder or is no safetensors file.
    #[error("the shard name `{0}` is not a plain .safetensors file name")]
    ShardName(String),
    /// A shard is not there.
    #[error("shard {0} is missing")]
    MissingShard(String),
    /// A tensor is not in the shard that the index names.
    #[error("tensor `{tensor}` is mapped to {shard}, which does not hold it")]
    NotInShard {
        /// The tensor, escaped.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// A shard holds a tensor that the index does not map to it.
    #[error("tensor `{tensor}` is in {shard}, which the index does not say")]
    NotInIndex {
        /// The tensor, escaped.
        tensor: String,
        /// The shard.
        shard: String,
    },
}

impl Diagnose for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Index { fault: IndexFault::MissingShard(_), .. } => Kind::NotFound,
            _ => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::File { .. } => "bad_safetensors",
            Self::Index { fault: IndexFault::MissingShard(_), .. } => "missing_shard",
            Self::Index { .. } => "bad_index",
        }
    }

    fn help(&self) -> Vec<String> {
        let fetch = "copy it again from where it comes; where that is the Hub, the `tmax-ckpt \
                     pull` that fetched it replaces only what does not match its hash";
        let line = match self {
            Self::File { fault: Fault::Dtype { .. }, .. } => {
                "quantised checkpoints are not supported; use the BF16 one".into()
            }
            Self::File { fault: Fault::Length { .. } | Fault::Truncated { .. }, .. } => {
                format!("the file was cut or appended to; {fetch}")
            }
            Self::Index { fault: IndexFault::MissingShard(shard), .. } => {
                format!("put {shard} beside the index, or {fetch}")
            }
            _ => format!("the file is damaged; {fetch}"),
        };
        vec![line]
    }
}
