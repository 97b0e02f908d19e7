//! `export safetensors`: the same tensors in files of another size or type.

use std::path::Path;

use serde_json::Value;

use super::assemble::Assembly;
use super::pack::{MAX_SHARD_BYTES, OutputTensor, pack};
use super::strip::{config_bytes, small_files};
use super::verify::require_text;
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::Result;

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The size of data above which a new file is begun.
    pub max_shard_bytes: u64,
    /// The type to cast floating tensors to, rounding to nearest even; `None` keeps each.
    pub dtype: Option<Dtype>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_shard_bytes: MAX_SHARD_BYTES, dtype: None }
    }
}

/// What will be written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The output folder.
    pub assembly: Assembly,
    /// The tensors whose type changes.
    pub casts: usize,
    /// Files of the source that are left behind, sorted.
    pub left_out: Vec<String>,
}

/// Plans the export of `checkpoint` to the folder `out`. Names stay as they are stored.
///
/// # Errors
/// Text tensors are missing, misshapen or unknown; a file beside the tensors cannot be read.
pub fn plan(checkpoint: &Checkpoint, out: &Path, options: &Options) -> Result<Plan> {
    require_text(checkpoint)?;
    let tensors: Vec<OutputTensor> = checkpoint
        .tensors()
        .iter()
        .map(|source| OutputTensor {
            stored: source.stored.clone(),
            dtype: options.dtype.filter(|_| source.dtype.is_float()).unwrap_or(source.dtype),
            source: source.clone(),
        })
        .collect();
    let casts = tensors.iter().filter(|t| t.dtype != t.source.dtype).count();
    let (mut small, left_out) = small_files(&checkpoint.dir, &[])?;
    small.push(("config.json".into(), config(checkpoint, options.dtype)));
    let (files, index) = pack(tensors, options.max_shard_bytes);
    let assembly = Assembly { out: out.to_owned(), files, index, small };
    Ok(Plan { assembly, casts, left_out })
}

/// The config, with the new type wherever it names one.
fn config(checkpoint: &Checkpoint, dtype: Option<Dtype>) -> Vec<u8> {
    let mut root = checkpoint.config.raw.clone();
    let Some(name) = dtype.and_then(Dtype::torch_name) else { return config_bytes(&root) };
    let rename = |map: &mut serde_json::Map<String, Value>| {
        for key in ["dtype", "torch_dtype"] {
            if let Some(value) = map.get_mut(key) {
                *value = name.into();
            }
        }
    };
    rename(&mut root);
    for key in ["text_config", "vision_config"] {
        if let Some(Value::Object(nested)) = root.get_mut(key) {
            rename(nested);
        }
    }
    config_bytes(&root)
}
