//! `inspect`: what a checkpoint holds, from config and headers alone.
//!
//! Takes headers rather than a folder, so that a remote checkpoint can be shown without its data.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::arch::{Architecture, LayerKind, ModelConfig, Part, Repeat};
use crate::checkpoint::{Tensor, collect};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::name::escape;
use crate::safetensors::Header;

/// One file's head.
#[derive(Debug, Clone, Copy)]
pub struct FileHead<'a> {
    /// The file's name.
    pub name: &'a str,
    /// The size of the whole file.
    pub len_bytes: u64,
    /// The header.
    pub header: &'a Header,
}

/// Tensors counted together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Group {
    /// What they have in common.
    pub name: String,
    /// Their number.
    pub tensors: u64,
    /// Their elements.
    pub parameters: u64,
    /// Their bytes.
    pub len_bytes: u64,
}

/// A part of the model and what it is made of.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct PartSummary {
    /// `text`, `mtp`, `vision` or `unknown`.
    #[serde(flatten)]
    pub total: Group,
    /// Its groups: embedding, head, layers.
    pub groups: Vec<Group>,
}

/// A file of the checkpoint.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct FileSummary {
    /// Its name.
    pub name: String,
    /// Its size.
    pub len_bytes: u64,
    /// The number of its tensors.
    pub tensors: usize,
    /// The free strings of its header.
    pub metadata: BTreeMap<String, String>,
}

/// All that is shown.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct Summary {
    /// `model_type` of the config.
    pub model_type: Option<String>,
    /// `architectures[0]` of the config.
    pub architecture: Option<String>,
    /// The licence that the README declares.
    pub license: Option<String>,
    /// How many layers of linear attention there are.
    pub linear_layers: usize,
    /// How many layers of full attention there are.
    pub full_layers: usize,
    /// Whether the head is tied to the embedding.
    pub tied: Option<bool>,
    /// The number of tensors, their elements and bytes.
    #[serde(flatten)]
    pub total: Group,
    /// By element type, the most bytes first.
    pub dtypes: Vec<Group>,
    /// By part: text, MTP, vision, unknown.
    pub parts: Vec<PartSummary>,
    /// The files.
    pub files: Vec<FileSummary>,
}

impl Group {
    fn add(&mut self, tensor: &Tensor) {
        self.tensors += 1;
        self.parameters += tensor.elements();
        self.len_bytes += tensor.len_bytes();
    }
}

/// Summarises a checkpoint of one or more files; without a config every part is unknown.
///
/// # Errors
/// Two stored names mean one tensor.
pub fn summarise(
    files: &[FileHead<'_>],
    config: Option<&ModelConfig>,
    readme: Option<&[u8]>,
) -> Result<(Summary, Vec<Tensor>)> {
    let headers: Vec<(&str, &Header)> = files.iter().map(|f| (f.name, f.header)).collect();
    let mut tensors = collect(&headers)?;
    if let Some(config) = config {
        for tensor in &mut tensors {
            tensor.rule = config.architecture.find(&tensor.name);
        }
    }
    let mut total = Group { name: "total".into(), ..Group::default() };
    tensors.iter().for_each(|t| total.add(t));
    let kinds = config.map(|c| c.text.layer_kinds.as_slice()).unwrap_or_default();
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    let raw = |key: &str| config.and_then(|c| c.raw.get(key));
    let summary = Summary {
        model_type: raw("model_type").and_then(|v| v.as_str()).map(escape),
        architecture: raw("architectures").and_then(|v| v.get(0)?.as_str()).map(escape),
        license: readme.and_then(license),
        linear_layers: count(LayerKind::LinearAttention),
        full_layers: count(LayerKind::FullAttention),
        tied: config.map(|c| c.text.tie_word_embeddings),
        total,
        dtypes: by_dtype(&tensors),
        parts: by_part(&tensors, config.map(|c| c.architecture)),
        files: files.iter().map(file_summary).collect(),
    };
    Ok((summary, tensors))
}

fn file_summary(file: &FileHead<'_>) -> FileSummary {
    let metadata = file.header.metadata.iter().map(|(k, v)| (escape(k), escape(v))).collect();
    FileSummary {
        name: escape(file.name),
        len_bytes: file.len_bytes,
        tensors: file.header.tensors.len(),
        metadata,
    }
}

fn by_dtype(tensors: &[Tensor]) -> Vec<Group> {
    let mut groups: BTreeMap<Dtype, Group> = BTreeMap::new();
    for tensor in tensors {
        groups.entry(tensor.dtype).or_default().add(tensor);
    }
    let named = groups.into_iter().map(|(dtype, g)| Group { name: dtype.to_string(), ..g });
    let mut list: Vec<Group> = named.collect();
    list.sort_by_key(|file| std::cmp::Reverse(file.len_bytes));
    list
}

fn by_part(tensors: &[Tensor], architecture: Option<Architecture>) -> Vec<PartSummary> {
    let parts =
        [(Some(Part::Text), "text"), (Some(Part::Mtp), "mtp"), (Some(Part::Vision), "vision")];
    let unknown = if architecture.is_some() { "unknown" } else { "tensors" };
    let mut summaries = Vec::new();
    for (part, name) in parts.into_iter().chain([(None, unknown)]) {
        let mut total = Group { name: name.into(), ..Group::default() };
        let mut groups: BTreeMap<(u8, String), Group> = BTreeMap::new();
        for tensor in tensors.iter().filter(|t| t.part() == part) {
            total.add(tensor);
            if let Some(key) = group_of(tensor) {
                groups.entry(key).or_default().add(tensor);
            }
        }
        if total.tensors > 0 {
            let groups = groups.into_iter().map(|((_, name), g)| Group { name, ..g }).collect();
            summaries.push(PartSummary { total, groups });
        }
    }
    summaries
}

/// The group of a text tensor, with its place in the list; other parts are not split.
fn group_of(tensor: &Tensor) -> Option<(u8, String)> {
    let (rule, _) = tensor.rule.filter(|(rule, _)| rule.part == Part::Text)?;
    let group = match (rule.repeat, rule.hf) {
        (_, "model.embed_tokens.weight") => (0, "embed_tokens"),
        (_, "lm_head.weight") => (1, "lm_head"),
        (Repeat::EveryLayer | Repeat::LayersOf(_), _) => (2, "layers"),
        _ => (3, "norm"),
    };
    Some((group.0, group.1.into()))
}

/// Reads `license:` from the front matter of a README.
fn license(readme: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(readme).ok()?;
    let mut lines = text.lines();
    if lines.next()?.trim() != "---" {
        return None;
    }
    let value = lines
        .take_while(|line| line.trim() != "---")
        .find_map(|line| line.strip_prefix("license:"))?
        .trim()
        .trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| escape(&value.chars().take(60).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::license;

    #[test]
    fn the_licence_comes_from_the_front_matter_alone() {
        let of = |text: &str| license(text.as_bytes());
        assert_eq!(of("---\ntags: []\nlicense: apache-2.0\n---\n").as_deref(), Some("apache-2.0"));
        assert_eq!(of("---\ntags: []\n---\nlicense: mit\n"), None);
        assert_eq!(of("license: mit\n"), None);
    }
}
