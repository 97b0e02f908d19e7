//! `strip`: the language model alone, under the names and with the config that loaders want.
//!
//! Weights are never changed: their bytes are copied and compared.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::assemble::Assembly;
use super::error::OpError;
use super::pack::{MAX_SHARD_BYTES, OutputTensor, pack};
use super::verify::require_text;
use crate::arch::{Architecture, Namespace, Part};
use crate::checkpoint::expect::{Problem, compare};
use crate::checkpoint::{AUX_LEN_MAX, CONFIG_FILE, Checkpoint, Tensor};
use crate::error::Result;
use crate::fsio;
use crate::name::{TensorName, escape};
use crate::safetensors::INDEX_FILE;

/// Which names and which config the output has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `model.language_model.*` under a composite config, as vLLM 0.19.1 serves with
    /// `--language-model-only`.
    Composite,
    /// `model.*` under a text config, as transformers and llama.cpp want.
    Text,
}

/// What becomes of a complete MTP head that the config declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtp {
    /// It stays. An orphaned one, incomplete or not declared, is dropped all the same.
    Keep,
    /// It is dropped.
    Drop,
}

/// How to strip.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Names and config of the output.
    pub layout: Layout,
    /// What becomes of the MTP head.
    pub mtp: Mtp,
    /// The size of data above which a new file is begun.
    pub max_shard_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { layout: Layout::Composite, mtp: Mtp::Keep, max_shard_bytes: MAX_SHARD_BYTES }
    }
}

/// Why a tensor is not in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It belongs to the vision tower.
    Vision,
    /// It belongs to an MTP head that is unwanted, incomplete or not declared.
    Mtp,
    /// It repeats the embedding that the head is tied to.
    DuplicateHead,
}

/// What will be written.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The output folder.
    pub assembly: Assembly,
    /// The tensors that are dropped, sorted by canonical name.
    pub dropped: Vec<(Reason, Tensor)>,
    /// The tensors that get another name.
    pub renamed: usize,
    /// What changes in the config, for people.
    pub config_changes: Vec<String>,
    /// Files of the source that are left behind, sorted.
    pub left_out: Vec<String>,
}

/// Files that speak of what strip removes, or that mark another program's progress.
const STALE: &[&str] = &[
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "processor_config.json",
];

/// Files that describe the source's bytes, not the output's.
const NEVER_COPIED: &[&str] =
    &[".checkpoint_complete", "SHA256SUMS", "manifest.json", CONFIG_FILE, INDEX_FILE];

/// Endings of files with weights in any form.
const WEIGHTS: &[&str] =
    &[".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5", ".ckpt"];

/// Where transformers keeps chat templates beside the default one.
const TEMPLATES_DIR: &str = "additional_chat_templates";

/// Plans the stripping of `checkpoint` to the folder `out`.
///
/// # Errors
/// Text tensors are missing, misshapen or unknown; a stored duplicate head differs from the
/// embedding; a file beside the tensors cannot be read.
pub fn plan(checkpoint: &Checkpoint, out: &Path, options: &Options) -> Result<Plan> {
    require_text(checkpoint)?;
    let mtp = fate_of_mtp(checkpoint, options.mtp);
    let namespace = match (checkpoint.config.architecture, options.layout) {
        (Architecture::Qwen3_5, Layout::Composite) => Namespace::Composite,
        (Architecture::Qwen3_5, Layout::Text) | (Architecture::Qwen3, _) => Namespace::Text,
    };
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    for tensor in checkpoint.tensors() {
        match drop_reason(checkpoint, tensor, mtp)? {
            Some(reason) => dropped.push((reason, tensor.clone())),
            None => kept.push(output_tensor(tensor, namespace)),
        }
    }
    let renamed = kept.iter().filter(|t| t.stored != t.source.stored).count();
    let mtp_layers = if mtp == Mtp::Keep { checkpoint.mtp_layers_present() } else { 0 };
    let (config, config_changes) = rewrite_config(checkpoint, namespace, mtp_layers);
    let (mut small, left_out) = small_files(&checkpoint.dir, STALE)?;
    small.push((CONFIG_FILE.into(), config_bytes(&config)));
    let (files, index) = pack(kept, options.max_shard_bytes);
    let assembly = Assembly { out: out.to_owned(), files, index, small };
    Ok(Plan { assembly, dropped, renamed, config_changes, left_out })
}

fn output_tensor(tensor: &Tensor, namespace: Namespace) -> OutputTensor {
    let stored = TensorName::new(&namespace.stored(&tensor.name))
        .expect("a known name under a known prefix is a good name");
    OutputTensor { stored, dtype: tensor.dtype, source: tensor.clone() }
}

/// An MTP head stays if it is wanted, declared in as many layers as are there, and whole.
fn fate_of_mtp(checkpoint: &Checkpoint, mtp: Mtp) -> Mtp {
    let layers = checkpoint.mtp_layers_present();
    let wanted = mtp == Mtp::Keep && layers > 0;
    let declared = checkpoint.config.text.mtp_num_hidden_layers == layers;
    let whole = || {
        let problems = compare(&checkpoint.config, checkpoint.tensors(), &[Part::Mtp]);
        !problems.iter().any(|p| !matches!(p, Problem::Unexpected { .. }))
    };
    if wanted && declared && whole() { Mtp::Keep } else { Mtp::Drop }
}

fn drop_reason(checkpoint: &Checkpoint, tensor: &Tensor, mtp: Mtp) -> Result<Option<Reason>> {
    match tensor.part() {
        Some(Part::Vision) => Ok(Some(Reason::Vision)),
        Some(Part::Mtp) if mtp == Mtp::Drop => Ok(Some(Reason::Mtp)),
        _ if tensor.name == "lm_head.weight" && checkpoint.config.text.tie_word_embeddings => {
            let embedding = checkpoint.find("model.embed_tokens.weight");
            let same = embedding.is_some_and(|e| {
                e.dtype == tensor.dtype && checkpoint.data(e) == checkpoint.data(tensor)
            });
            if same { Ok(Some(Reason::DuplicateHead)) } else { Err(OpError::HeadDiffers.into()) }
        }
        _ => Ok(None),
    }
}

/// Keys of the root that a hoisted text config takes over if it lacks them.
const INHERITED: &[&str] =
    &["dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"];

fn rewrite_config(
    checkpoint: &Checkpoint,
    namespace: Namespace,
    mtp_layers: u64,
) -> (Map<String, Value>, Vec<String>) {
    let config = &checkpoint.config;
    let mut root = config.raw.clone();
    let mut changes = Vec::new();
    if config.architecture == Architecture::Qwen3_5 {
        match (namespace, config.text_only) {
            (Namespace::Text, false) => {
                root = hoist(&root);
                changes.push("text_config becomes the whole config (Qwen3_5ForCausalLM)".into());
            }
            (Namespace::Composite, true) => {
                root = nest(root);
                changes.push("put into text_config (Qwen3_5ForConditionalGeneration)".into());
            }
            _ => {}
        }
        if root.shift_remove("vision_config").is_some() {
            changes.push("vision_config removed".into());
        }
    }
    let tied = config.text.tie_word_embeddings;
    let orphaned = config.text.mtp_num_hidden_layers != mtp_layers;
    if orphaned {
        changes.push(format!(
            "mtp_num_hidden_layers {} becomes {mtp_layers}",
            config.text.mtp_num_hidden_layers
        ));
    }
    let nested = root.contains_key("text_config");
    if nested || tied {
        root.insert("tie_word_embeddings".into(), tied.into());
    }
    let text = match root.get_mut("text_config") {
        Some(Value::Object(text)) => text,
        _ => &mut root,
    };
    if orphaned {
        text.insert("mtp_num_hidden_layers".into(), mtp_layers.into());
    }
    if text.contains_key("tie_word_embeddings") || tied {
        text.insert("tie_word_embeddings".into(), tied.into());
    }
    (root, changes)
}

/// Makes a text config of a composite one.
fn hoist(root: &Map<String, Value>) -> Map<String, Value> {
    let mut flat = Map::new();
    flat.insert("architectures".into(), json!(["Qwen3_5ForCausalLM"]));
    flat.insert("model_type".into(), "qwen3_5_text".into());
    let text = root.get("text_config").and_then(Value::as_object);
    for (key, value) in text.into_iter().flatten() {
        if !matches!(key.as_str(), "architectures" | "model_type") {
            flat.insert(key.clone(), value.clone());
        }
    }
    for key in INHERITED.iter().chain(&["transformers_version"]) {
        if let Some(value) = root.get(*key)
            && !flat.contains_key(*key)
        {
            flat.insert((*key).into(), value.clone());
        }
    }
    flat
}

/// Makes a composite config of a text one, without a vision config: vLLM takes its defaults.
fn nest(mut text: Map<String, Value>) -> Map<String, Value> {
    text.shift_remove("architectures");
    text.insert("model_type".into(), "qwen3_5_text".into());
    let version = text.shift_remove("transformers_version");
    let mut root = Map::new();
    root.insert("architectures".into(), json!(["Qwen3_5ForConditionalGeneration"]));
    root.insert("model_type".into(), "qwen3_5".into());
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = text.get(key) {
            root.insert(key.into(), value.clone());
        }
    }
    root.insert("text_config".into(), Value::Object(text));
    if let Some(version) = version {
        root.insert("transformers_version".into(), version);
    }
    root
}

/// Serialises a config as transformers does: indented by two.
#[must_use]
pub fn config_bytes(config: &Map<String, Value>) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(config).expect("JSON serialises");
    bytes.push(b'\n');
    bytes
}

/// Small files with their bytes, and the names of those left behind, both sorted.
pub type SmallFiles = (Vec<(String, Vec<u8>)>, Vec<String>);

/// Reads the files beside the tensors that an output takes over: tokenizer, template, licence.
///
/// Left behind are weights, files that describe the source's bytes, those in `stale`, folders but
/// for the one with further chat templates, and files too large to be any of these.
///
/// # Errors
/// A file cannot be read.
pub fn small_files(dir: &Path, stale: &[&str]) -> Result<SmallFiles> {
    let (mut taken, mut left_out) = (Vec::new(), Vec::new());
    for path in fsio::entries(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == CONFIG_FILE || name == INDEX_FILE || name.ends_with(".safetensors") {
            continue;
        }
        let unwanted = NEVER_COPIED.contains(&name.as_str())
            || stale.contains(&name.as_str())
            || WEIGHTS.iter().any(|end| name.ends_with(end));
        if name == TEMPLATES_DIR && path.is_dir() {
            taken.extend(templates(&path)?);
            continue;
        }
        let fits = path.metadata().is_ok_and(|m| m.is_file() && m.len() <= AUX_LEN_MAX);
        if unwanted || !fits {
            left_out.push(escape(&name));
        } else {
            taken.push((name, fsio::read_capped(&path, AUX_LEN_MAX)?));
        }
    }
    taken.sort();
    left_out.sort();
    Ok((taken, left_out))
}

/// Reads the further chat templates, named by their path in the checkpoint.
fn templates(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let names = fsio::files_below(dir)?;
    let is_template = |name: &&String| name.ends_with(".jinja") && !name.contains('/');
    let read = |name: &String| {
        let bytes = fsio::read_capped(&dir.join(name), AUX_LEN_MAX)?;
        Ok((format!("{TEMPLATES_DIR}/{name}"), bytes))
    };
    names.iter().filter(is_template).map(read).collect()
}
