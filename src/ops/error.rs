//! Why an operation on a checkpoint was refused or failed.

use std::path::{Path, PathBuf};

use crate::dtype::Dtype;
use crate::error::{Diagnose, Kind};
use crate::fsio::is_link;

/// Why an operation was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// The output is there already and is not what would be written.
    #[error("{} exists and is not what would be written", path.display())]
    OutputExists {
        /// The folder or file.
        path: PathBuf,
    },
    /// The output is a symbolic link, which no finished output can take the place of.
    #[error("{} is a symbolic link", path.display())]
    OutputIsLink {
        /// The link.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Another run writes to the same folder.
    #[error("another run is writing {}", path.display())]
    Busy {
        /// The folder or file.
        path: PathBuf,
    },
    /// What was written is not what was read.
    #[error("the copy of `{tensor}` differs from its source")]
    ProofFailed {
        /// The tensor, escaped.
        tensor: String,
    },
    /// A tied checkpoint holds a head that is not the embedding.
    #[error("`lm_head.weight` differs from the embedding that config.json ties it to")]
    HeadDiffers,
    /// A value does not fit the type asked for.
    #[error("`{tensor}` has values that {dtype} cannot hold")]
    Overflow {
        /// The tensor, escaped.
        tensor: String,
        /// The type.
        dtype: Dtype,
    },
}

impl OpError {
    /// Makes the error of an output whose name is taken by something that is not to be written.
    #[must_use]
    pub fn taken(path: &Path) -> Self {
        let path = path.to_owned();
        if is_link(&path) { Self::OutputIsLink { path } } else { Self::OutputExists { path } }
    }
}

impl Diagnose for OpError {
    fn kind(&self) -> Kind {
        match self {
            Self::OutputExists { .. } | Self::OutputIsLink { .. } | Self::Busy { .. } => {
                Kind::Usage
            }
            Self::Interrupted => Kind::Interrupted,
            Self::ProofFailed { .. } => Kind::Resources,
            Self::HeadDiffers | Self::Overflow { .. } => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::OutputExists { .. } => "output_exists",
            Self::OutputIsLink { .. } => "output_is_link",
            Self::Interrupted => "interrupted",
            Self::Busy { .. } => "output_busy",
            Self::ProofFailed { .. } => "copy_differs",
            Self::HeadDiffers => "head_differs",
            Self::Overflow { .. } => "cast_overflow",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Self::OutputExists { path } => {
                format!("remove {} or name another output with -o", path.display())
            }
            Self::OutputIsLink { .. } => {
                "name with -o what it points to, or a name that is free".into()
            }
            Self::Interrupted => {
                "what is written is kept under a hidden name; run the same command to continue"
                    .into()
            }
            Self::Busy { .. } => "wait for it, or end it; the next run goes on from there".into(),
            Self::ProofFailed { .. } => {
                "the disk or the memory is at fault, or the source changed meanwhile".into()
            }
            Self::HeadDiffers => {
                "if the head was trained, set tie_word_embeddings to false in config.json".into()
            }
            Self::Overflow { .. } => "use --dtype bfloat16, which has the range of float32".into(),
        };
        vec![line]
    }
}
