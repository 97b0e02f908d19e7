//! Why a folder is no checkpoint.

use std::path::PathBuf;

use crate::arch::ConfigError;
use crate::error::{Diagnose, Kind};
use crate::safetensors::{INDEX_FILE, SINGLE_FILE};

/// Why a checkpoint was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The path is no folder.
    #[error("{} is not a checkpoint folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The path is a GGUF file, whose weights this version does not read.
    #[error("{} is a GGUF file, and tensors are read from safetensors alone", path.display())]
    Gguf {
        /// The path.
        path: PathBuf,
    },
    /// The folder has no config.
    #[error("{} has no config.json", dir.display())]
    NoConfig {
        /// The folder.
        dir: PathBuf,
    },
    /// The config is unsound, or of an unsupported architecture.
    #[error("{} cannot be used", path.display())]
    Config {
        /// The config.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// The folder has no safetensors files under the known names.
    #[error("{} has neither {SINGLE_FILE} nor {INDEX_FILE}", dir.display())]
    NoTensors {
        /// The folder.
        dir: PathBuf,
        /// Files that look like weights in another form, sorted.
        other: Vec<String>,
    },
    /// Transformers would read the single file, vLLM the shards.
    #[error("{} has both {SINGLE_FILE} and {INDEX_FILE}, and loaders disagree", dir.display())]
    Ambiguous {
        /// The folder.
        dir: PathBuf,
    },
    /// Two stored names mean the same tensor.
    #[error("`{first}` and `{second}` are the same tensor `{canonical}`")]
    SameTensor {
        /// What both mean.
        canonical: String,
        /// One stored name, with its file.
        first: String,
        /// The other one.
        second: String,
    },
    /// Tensors that the config promises are missing, misshapen or not known.
    #[error(
        "config.json and {} do not fit, the first: {}",
        crate::units::plural(problems.len() as u64, "tensor"),
        problems[0]
    )]
    Incomplete {
        /// What is wrong with each; never empty.
        problems: Vec<super::expect::Problem>,
    },
}

impl Diagnose for CheckpointError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotAFolder { path } if !path.exists() => Kind::NotFound,
            Self::NotAFolder { .. } | Self::Gguf { .. } => Kind::Usage,
            Self::NoConfig { .. } | Self::NoTensors { .. } => Kind::NotFound,
            Self::Config { source, .. } => source.kind(),
            Self::Ambiguous { .. } | Self::SameTensor { .. } | Self::Incomplete { .. } => {
                Kind::BadData
            }
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::NotAFolder { .. } => "not_a_folder",
            Self::Gguf { .. } => "gguf_not_readable",
            Self::NoConfig { .. } => "no_config",
            Self::Config { source, .. } => source.id(),
            Self::NoTensors { .. } => "no_tensors",
            Self::Ambiguous { .. } => "ambiguous_weights",
            Self::SameTensor { .. } => "same_tensor_twice",
            Self::Incomplete { .. } => "incomplete_checkpoint",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Self::NotAFolder { .. } | Self::NoConfig { .. } => {
                "name the folder that holds config.json and the safetensors files".into()
            }
            Self::Config { source, .. } => return source.help(),
            Self::Gguf { path } => return gguf_help(&path.display().to_string()),
            Self::NoTensors { dir, other } if other.iter().any(|name| name.ends_with(".gguf")) => {
                let name = other.iter().find(|name| name.ends_with(".gguf"));
                let path = dir.join(name.map_or("", String::as_str));
                return gguf_help(&path.display().to_string());
            }
            Self::NoTensors { other, .. } if other.is_empty() => {
                "`tmax-ckpt pull REPO@REV` fetches the weights too".into()
            }
            Self::NoTensors { other, .. } => {
                format!("found {}: convert them to safetensors first", other.join(", "))
            }
            Self::Ambiguous { .. } => {
                format!("remove {SINGLE_FILE} or {INDEX_FILE}, whichever is stale")
            }
            Self::SameTensor { .. } => "the checkpoint mixes two layouts; save it again".into(),
            Self::Incomplete { .. } => "`tmax-ckpt verify` lists all of them".into(),
        };
        vec![line]
    }
}

/// What can be done with a GGUF file.
fn gguf_help(path: &str) -> Vec<String> {
    vec![
        format!("`tmax-ckpt inspect {path}` shows its keys and tensors"),
        "for all else, name the checkpoint that it was made from".into(),
    ]
}
