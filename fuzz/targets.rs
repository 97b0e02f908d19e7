// What is fuzzed: one function a parser of foreign bytes, which must return and never panic.
//
// Shared by the fuzz targets beside this file and by tests/mutate.rs, which runs the same
// functions over seeded mutations on every test run. Beyond not panicking, what a parser accepts
// is held to what its callers rely on.

use std::path::Path;

use tmax_ckpt::arch::ModelConfig;
use tmax_ckpt::cli::resolve::Reference;
use tmax_ckpt::cli::settings::ConfigFile;
use tmax_ckpt::gguf::Gguf;
use tmax_ckpt::hub::{Pattern, RepoKind, RepoRef};
use tmax_ckpt::name::{TensorName, escape, is_safe_relative_path};
use tmax_ckpt::safetensors::{Header, Index};
use tmax_ckpt::units::parse_size;

/// A parser under test.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the names that the files in `fuzz_targets/` have.
pub const TARGETS: &[Target] = &[
    ("safetensors_header", safetensors_header),
    ("safetensors_index", safetensors_index),
    ("model_config", model_config),
    ("settings", settings),
    ("reference", reference),
    ("names", names),
    ("sizes", sizes),
    ("gguf_head", gguf_head),
    ("revision_pattern", revision_pattern),
    ("hub_reference", hub_reference),
];

/// A safetensors file's header: accepted ranges tile the data exactly.
pub fn safetensors_header(bytes: &[u8]) {
    let _ = Header::parse(bytes, bytes.len() as u64);
}

/// `model.safetensors.index.json`.
pub fn safetensors_index(bytes: &[u8]) {
    let _ = Index::parse(bytes);
}

/// `config.json`: what is accepted has a finite list of expected tensors.
pub fn model_config(bytes: &[u8]) {
    let _ = ModelConfig::parse(bytes);
}

/// A configuration file.
pub fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = ConfigFile::parse(Path::new("tmax-ckpt.toml"), &text);
}

/// A CKPT argument: a repository's parts never climb.
pub fn reference(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(Reference::Hub(hub)) = Reference::parse(&text) {
        assert!(is_safe_relative_path(&hub.repo), "{hub:?}");
        assert!(hub.path.is_none_or(|path| is_safe_relative_path(&path)));
    }
}

/// Names: what is accepted needs no escaping.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = TensorName::new(&text) {
        assert_eq!(escape(name.as_str()), name.as_str());
    }
    let _ = is_safe_relative_path(&text);
}

/// Sizes as users type them.
pub fn sizes(bytes: &[u8]) {
    let _ = parse_size(&String::from_utf8_lossy(bytes));
}

/// A GGUF file's metadata and tensor list.
pub fn gguf_head(bytes: &[u8]) {
    let _ = Gguf::parse(bytes);
}

/// Revision expressions: lists, globs, ranges.
pub fn revision_pattern(bytes: &[u8]) {
    let _ = Pattern::parse(&String::from_utf8_lossy(bytes));
}

/// `owner/name@rev` as the Hub's commands read it.
pub fn hub_reference(bytes: &[u8]) {
    let _ = RepoRef::parse(&String::from_utf8_lossy(bytes), RepoKind::Model);
}
