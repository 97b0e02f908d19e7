//! Why an export was refused or stopped.

use super::choices;
use crate::error::{Diagnose, Kind};

/// Why no GGUF file was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The tokenizer cannot be expressed, or would be loaded as another one.
    #[error("the tokenizer cannot be exported: {why}")]
    Tokenizer {
        /// What is in the way.
        why: String,
    },
    /// The expression that splits text before BPE is none that llama.cpp implements under a name
    /// known here.
    #[error("the pre-tokenizer is not known: {found}")]
    PreTokenizer {
        /// The expression, escaped.
        found: String,
    },
    /// The name given for the pre-tokenizer is none of llama.cpp's.
    #[error("llama.cpp has no pre-tokenizer called `{name}`")]
    PreTokenizerName {
        /// The name, escaped.
        name: String,
        /// The nearest one that it has.
        near: Option<&'static str>,
    },
    /// A file that the export needs is not in the checkpoint.
    #[error("the checkpoint has no {file}")]
    MissingFile {
        /// Its name.
        file: &'static str,
    },
    /// A JSON file beside the tensors is not what it should be.
    #[error("{file} is not a JSON object")]
    BadFile {
        /// Its name.
        file: String,
        /// What the parser says.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// A text file beside the tensors is not UTF-8.
    #[error("{file} is not UTF-8 text")]
    NotText {
        /// Its name.
        file: String,
    },
    /// A vision file was asked for and there is no vision tower.
    #[error("the checkpoint has no vision tower")]
    NoVision,
    /// The preprocessor's statistics are missing or no numbers.
    #[error("preprocessor_config.json has no `{field}`")]
    ImageStatistics {
        /// The field.
        field: &'static str,
    },
    /// A tensor's elements are of a type that GGUF cannot be made from.
    #[error("tensor `{tensor}` holds {dtype}, expected F32, F16 or BF16")]
    Dtype {
        /// The stored name, escaped.
        tensor: String,
        /// The type.
        dtype: crate::dtype::Dtype,
    },
    /// llama.cpp assumes what the config contradicts.
    #[error("llama.cpp cannot run this model: {why}")]
    Unsupported {
        /// The assumption.
        why: String,
    },
    /// A number does not fit its key's type.
    #[error("{value} does not fit the 32 bits of {key}")]
    KeyRange {
        /// The key.
        key: String,
        /// The number.
        value: u64,
    },
    /// A type for tensors is not written as it should be.
    #[error("`{text}` {why}")]
    TensorTypeChoice {
        /// What was given, escaped and cut.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No tensor can be written in a type of this name.
    #[error("there is no type `{name}` for tensors")]
    TensorTypeName {
        /// The name, escaped and cut.
        name: String,
        /// The nearest one that there is.
        near: Option<String>,
    },
    /// An expression is found in the name of no matrix.
    #[error("no matrix of the file has a name with `{pattern}` in it")]
    NothingMatches {
        /// The expression, escaped and cut.
        pattern: String,
        /// What may have been meant, or what does match it.
        near: Option<String>,
    },
    /// The file given as importance matrix cannot be used.
    #[error("{} is no importance matrix", path.display())]
    Imatrix {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        #[source]
        fault: crate::gguf::ImatrixError,
    },
    /// The importance matrix has no entry for any matrix.
    #[error("{} is of another model: it has no entry for any matrix of this one", path.display())]
    ImatrixForeign {
        /// The file.
        path: std::path::PathBuf,
        /// One of its entries, escaped and cut.
        entry: String,
    },
    /// An entry of the importance matrix is for rows of another length.
    #[error(
        "{} is of another model: its entry for `{tensor}` has {got} columns, expected {expected}",
        path.display()
    )]
    ImatrixSize {
        /// The file.
        path: std::path::PathBuf,
        /// The GGUF name.
        tensor: String,
        /// The columns of the entry.
        got: u64,
        /// The columns of the matrix.
        expected: u64,
    },
    /// The type would be of no use without an importance matrix.
    #[error("`{tensor}` cannot be {tensor_type} in a {file_type} file without importance weights")]
    NeedsImatrix {
        /// The GGUF name.
        tensor: String,
        /// The type.
        tensor_type: &'static str,
        /// The file type that is asked for.
        file_type: &'static str,
        /// Whether an importance matrix was given, and lacks this one.
        given: bool,
    },
    /// A NaN or an infinity in what was to be quantised, or a value too large for the type.
    #[error("tensor `{tensor}` has {value} in row {row}, which {file_type} cannot hold")]
    NotFinite {
        /// The stored name, escaped.
        tensor: String,
        /// The row of the checkpoint's tensor.
        row: u64,
        /// The value.
        value: f32,
        /// The type.
        file_type: &'static str,
    },
}

impl Diagnose for ExportError {
    fn kind(&self) -> Kind {
        match self {
            Self::MissingFile { .. } | Self::NoVision | Self::ImageStatistics { .. } => {
                Kind::NotFound
            }
            Self::PreTokenizer { .. }
            | Self::PreTokenizerName { .. }
            | Self::TensorTypeChoice { .. }
            | Self::TensorTypeName { .. }
            | Self::NothingMatches { .. }
            | Self::NeedsImatrix { .. }
            | Self::ImatrixForeign { .. }
            | Self::ImatrixSize { .. } => Kind::Usage,
            Self::Imatrix { fault, .. } => fault.kind(),
            _ => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Tokenizer { .. } => "unsupported_tokenizer",
            Self::PreTokenizer { .. } | Self::PreTokenizerName { .. } => "unknown_pre_tokenizer",
            Self::MissingFile { .. } => "missing_file",
            Self::BadFile { .. } | Self::NotText { .. } => "bad_file",
            Self::NoVision => "no_vision",
            Self::ImageStatistics { .. } => "no_image_statistics",
            Self::Dtype { .. } => "unsupported_dtype",
            Self::Unsupported { .. } => "unsupported_model",
            Self::KeyRange { .. } => "key_range",
            Self::NotFinite { .. } => "not_finite",
            Self::TensorTypeChoice { .. } | Self::TensorTypeName { .. } => "unknown_tensor_type",
            Self::NothingMatches { .. } => "nothing_matches",
            Self::Imatrix { fault, .. } => fault.id(),
            Self::ImatrixForeign { .. } | Self::ImatrixSize { .. } => "foreign_imatrix",
            Self::NeedsImatrix { .. } => "needs_imatrix",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Tokenizer { .. } => {
                vec!["take tokenizer.json and tokenizer_config.json from the base model".into()]
            }
            Self::PreTokenizer { .. } => vec![
                "`--pre NAME` sets tokenizer.ggml.pre; Qwen3.5 has qwen35, Qwen3 has qwen2".into(),
                "a wrong name yields a model that splits text in another way than it learnt".into(),
            ],
            Self::PreTokenizerName { near, .. } => {
                let near = near.map(|near| format!("did you mean `{near}`?"));
                let names = "src/llama-vocab.cpp of llama.cpp lists the names; Qwen3.5 has qwen35, \
                             Qwen3 has qwen2";
                near.into_iter().chain([names.to_owned()]).collect()
            }
            Self::MissingFile { file } => vec![format!("copy {file} from the base model")],
            Self::NoVision => {
                vec!["RL checkpoints leave the vision tower out; export the base model's".into()]
            }
            Self::ImageStatistics { .. } => {
                vec!["copy preprocessor_config.json from the base model".into()]
            }
            Self::TensorTypeChoice { .. }
            | Self::TensorTypeName { .. }
            | Self::NothingMatches { .. }
            | Self::Imatrix { .. }
            | Self::ImatrixForeign { .. }
            | Self::ImatrixSize { .. }
            | Self::NeedsImatrix { .. } => self.help_on_types(),
            Self::NotFinite { value, .. } if value.is_finite() => {
                vec!["--outtype bf16 has the range of float32; or try an earlier step".into()]
            }
            Self::NotFinite { .. } => vec![
                "`tmax-ckpt verify --finite` lists every such tensor; try an earlier step".into(),
            ],
            Self::Dtype { .. } => vec![
                "llama.cpp has float tensors only; take the checkpoint before it was packed".into(),
            ],
            Self::Unsupported { .. } => {
                vec!["`tmax-ckpt export safetensors` writes it for other engines".into()]
            }
            Self::BadFile { .. } | Self::NotText { .. } | Self::KeyRange { .. } => {
                vec!["compare the file with that of the base model".into()]
            }
        }
    }
}

impl ExportError {
    /// The help for what concerns the types of matrices and the importance matrix.
    fn help_on_types(&self) -> Vec<String> {
        let meant =
            |near: &Option<String>| near.as_ref().map(|near| format!("did you mean {near}?"));
        let (near, line) = match self {
            Self::TensorTypeChoice { .. } => (
                None,
                "such as attn_v=q6_k: a regular expression to be found in GGUF names, and a type",
            ),
            Self::TensorTypeName { near, .. } => {
                let near = near.as_ref().map(|near| format!("`{near}`"));
                let names: Vec<String> =
                    choices::writable().map(|t| t.name().to_lowercase()).collect();
                let names = format!("types are {}", names.join(", "));
                return meant(&near).into_iter().chain([names]).collect();
            }
            Self::NothingMatches { near, .. } => {
                (meant(near), "names are GGUF's: --dry-run -v lists every tensor with its type")
            }
            Self::Imatrix { fault, .. } => return fault.help(),
            Self::ImatrixForeign { entry, .. } => {
                let line = format!("its entries are for tensors such as `{entry}`");
                (Some(line), "compute one with a GGUF file of this very model")
            }
            Self::ImatrixSize { .. } => (None, "compute one with a GGUF file of this very model"),
            Self::NeedsImatrix { given: true, .. } => (
                None,
                "`--tensor-type NAME=q3_k` gives it a type that does without; --no-mtp leaves MTP \
                 layers out, which llama-imatrix does not run",
            ),
            Self::NeedsImatrix { .. } => (
                Some("`--imatrix FILE` takes what llama-imatrix computes".into()),
                "--outtype q2_k does without",
            ),
            _ => return Vec::new(),
        };
        near.into_iter().chain([line.to_owned()]).collect()
    }
}
