//! A checkpoint on disk: config, tensors under their canonical names, and the files beside them.
//!
//! [`TensorSet`] is the tensors alone, whatever the architecture; [`Checkpoint`] adds a config
//! of a supported one. Opening reads headers, never data. Whether the set is complete is asked
//! apart ([`expect::compare`]), because half a checkpoint must still be inspected.

mod error;
pub mod expect;
mod set;

use std::path::{Path, PathBuf};

pub use error::CheckpointError;
pub use set::{ShardFile, Tensor, TensorSet, collect};

use crate::arch::{ModelConfig, Namespace, Part};
use crate::fsio;
use crate::gguf::is_gguf;
use crate::name::is_safe_relative_path;

/// The config's file name.
pub const CONFIG_FILE: &str = "config.json";

/// The largest config read.
pub const CONFIG_LEN_MAX: u64 = 16 << 20;

/// The largest file read beside config and tensors: tokenizers of 250,000 tokens have 20 MB.
pub const AUX_LEN_MAX: u64 = 256 << 20;

/// A folder with a config of a supported architecture and its tensors.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// The config.
    pub config: ModelConfig,
    set: TensorSet,
}

impl Checkpoint {
    /// Opens a folder: config, index or single file, and all headers.
    ///
    /// # Errors
    /// The folder is none, the config is missing or unsupported, a header or the index is
    /// unsound, or two stored names mean one tensor.
    pub fn open(dir: &Path) -> crate::error::Result<Self> {
        let config = read_config(dir)?;
        let mut set = TensorSet::open(dir)?;
        set.apply_rules(config.architecture);
        Ok(Self { dir: dir.to_owned(), config, set })
    }

    /// Returns the tensors alone.
    #[must_use]
    pub fn set(&self) -> &TensorSet {
        &self.set
    }

    /// Returns the tensors, sorted by canonical name.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        self.set.tensors()
    }

    /// Finds a tensor by its canonical name.
    #[must_use]
    pub fn find(&self, canonical: &str) -> Option<&Tensor> {
        self.set.find(canonical)
    }

    /// Returns a tensor's bytes, mapped from its file.
    #[must_use]
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        self.set.data(tensor)
    }

    /// Returns the files that hold the tensors.
    #[must_use]
    pub fn files(&self) -> &[ShardFile] {
        self.set.files()
    }

    /// Reads another file of the checkpoint, `None` if it has none of that name.
    ///
    /// # Errors
    /// The file cannot be read or is over [`AUX_LEN_MAX`].
    pub fn aux(&self, file_name: &str) -> crate::error::Result<Option<Vec<u8>>> {
        read_aux(&self.dir, file_name)
    }

    /// Returns the namespace of the text tensors; `None` if they show none or several.
    #[must_use]
    pub fn namespace(&self) -> Option<Namespace> {
        self.set.namespace()
    }

    /// Returns the number of MTP layers of which tensors are there, whatever the config says.
    #[must_use]
    pub fn mtp_layers_present(&self) -> u64 {
        expect::mtp_layers_present(self.tensors())
    }

    /// Says whether there are vision tensors.
    #[must_use]
    pub fn has_vision(&self) -> bool {
        self.tensors().iter().any(|t| t.part() == Some(Part::Vision))
    }

    /// Says whether a head is stored although the config ties it to the embedding.
    #[must_use]
    pub fn stored_duplicate_head(&self) -> bool {
        self.config.text.tie_word_embeddings && self.find("lm_head.weight").is_some()
    }
}

/// Reads and parses the config of a folder.
///
/// # Errors
/// [`CheckpointError::NoConfig`], a file over [`CONFIG_LEN_MAX`],
/// [`crate::arch::ConfigError`].
pub fn read_config(dir: &Path) -> crate::error::Result<ModelConfig> {
    if is_gguf(dir) {
        return Err(CheckpointError::Gguf { path: dir.to_owned() }.into());
    }
    if !fsio::exists(dir)? || !dir.is_dir() {
        return Err(CheckpointError::NotAFolder { path: dir.to_owned() }.into());
    }
    let path = dir.join(CONFIG_FILE);
    if !fsio::exists(&path)? {
        return Err(CheckpointError::NoConfig { dir: dir.to_owned() }.into());
    }
    let bytes = fsio::read_capped(&path, CONFIG_LEN_MAX)?;
    Ok(ModelConfig::parse(&bytes).map_err(|source| CheckpointError::Config { path, source })?)
}

/// Reads a file beside the tensors of `dir`, `None` if there is none of that name.
///
/// # Errors
/// As [`Checkpoint::aux`].
pub fn read_aux(dir: &Path, file_name: &str) -> crate::error::Result<Option<Vec<u8>>> {
    let path = dir.join(file_name);
    if !is_safe_relative_path(file_name) || !fsio::exists(&path)? {
        return Ok(None);
    }
    Ok(Some(fsio::read_capped(&path, AUX_LEN_MAX)?))
}
