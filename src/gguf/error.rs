//! What can be wrong with a GGUF file, read or planned.

use super::NAME_LEN_LIMIT;
use crate::error::{Diagnose, Kind};
use crate::name::escape;

/// Why a GGUF file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] crate::fsio::Error),
    /// The magic bytes are not there.
    #[error("not a GGUF file")]
    NotGguf,
    /// A version that this reader does not know, or a big-endian file.
    #[error("GGUF version {0:#x} is not supported")]
    Version(u32),
    /// The file ends inside something.
    #[error("file ends inside {what} at byte {at}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// The offset.
        at: u64,
    },
    /// A count or length over what the format's own reader accepts, or the file can hold.
    #[error("{what} is {got}, at most {most} is possible")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// The count.
        got: u64,
        /// The cap.
        most: u64,
    },
    /// A string is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
        /// The offset.
        at: u64,
    },
    /// An unknown value type, or an array of arrays.
    #[error("metadata key `{key}` has value type {got}")]
    ValueType {
        /// The key, escaped.
        key: String,
        /// The type's number.
        got: u32,
    },
    /// Two metadata entries have one key.
    #[error("metadata key `{0}` stands twice")]
    DuplicateKey(String),
    /// Two tensors have one name.
    #[error("tensor `{0}` stands twice")]
    DuplicateTensor(String),
    /// A tensor's name is empty, too long or hostile.
    #[error("tensor name `{name}` {why}")]
    TensorName {
        /// The name, escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A tensor's type number is unknown.
    #[error("tensor `{name}` has unknown type {got}")]
    TensorType {
        /// The tensor, escaped.
        name: String,
        /// The type's number.
        got: u32,
    },
    /// A tensor's shape is impossible.
    #[error("tensor `{name}` has shape {shape:?}: {why}")]
    Shape {
        /// The tensor, escaped.
        name: String,
        /// Row-major.
        shape: Vec<u64>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A tensor's data is not where the table order puts it.
    #[error("tensor `{name}` starts at {got}, expected {expected}")]
    Offset {
        /// The tensor, escaped.
        name: String,
        /// Where the table says.
        got: u64,
        /// Where the tensors before it end.
        expected: u64,
    },
    /// The file is shorter than its tensors.
    #[error("file has {got} bytes, its tensors need {needed}")]
    ShortFile {
        /// The length.
        got: u64,
        /// What the table adds up to.
        needed: u64,
    },
    /// `general.alignment` is not a power of two.
    #[error("alignment {0} is not a power of two from 1 to 65536")]
    Alignment(u64),
}

/// Checks a tensor's name, read or to be written.
///
/// # Errors
/// [`GgufError::TensorName`], saying what is wrong with it.
pub(super) fn check_tensor_name(name: &str) -> Result<(), GgufError> {
    let why = match name {
        "" => "is empty",
        long if long.len() >= NAME_LEN_LIMIT => "is longer than 63 bytes",
        hostile if hostile.chars().any(char::is_control) => "has control characters",
        _ => return Ok(()),
    };
    let shown: String = name.chars().take(NAME_LEN_LIMIT).collect();
    Err(GgufError::TensorName { name: escape(&shown), why })
}

impl Diagnose for GgufError {
    fn kind(&self) -> Kind {
        match self {
            Self::File(error) => error.kind(),
            _ => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::File(error) => error.id(),
            _ => "bad_gguf",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::File(error) => error.help(),
            Self::Version(_) => vec!["little-endian versions 2 and 3 are read".into()],
            _ => vec!["the file is damaged or incomplete: export or fetch it again".into()],
        }
    }
}

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{} is not a sound GGUF file", path.display())]
pub struct GgufFileError {
    /// The file.
    pub path: std::path::PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: GgufError,
}

impl Diagnose for GgufFileError {
    fn kind(&self) -> Kind {
        self.fault.kind()
    }

    fn id(&self) -> &'static str {
        self.fault.id()
    }

    fn help(&self) -> Vec<String> {
        self.fault.help()
    }
}
