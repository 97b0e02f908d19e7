//! The `tokenizer.*` keys: a byte-level BPE tokenizer as llama.cpp wants it.
//!
//! The pre-tokenizer is recognised by the regular expression in tokenizer.json. llama.cpp's
//! converter hashes the ids of a test text instead, and refuses every vocabulary that it has not
//! seen: retrained, pruned and extended ones. What this module cannot express, it refuses.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::ExportError;
use crate::gguf::{Array, Metadata, PRE_TOKENIZERS, Value};
use crate::name::{escape, suggest};

/// Splitting expressions and llama.cpp's names for them.
const SPLITTERS: &[(&str, &str)] = &[
    (
        "qwen35",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// Kinds of special tokens, in llama.cpp's order, and how its keys spell them.
const SPECIAL: &[(&str, &str)] = &[
    ("bos", "bos"),
    ("eos", "eos"),
    ("unk", "unknown"),
    ("sep", "seperator"),
    ("pad", "padding"),
    ("mask", "mask"),
];

/// Token types of the format.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The files that a tokenizer is made of.
#[derive(Debug, Clone, Default)]
pub struct Sources<'a> {
    /// tokenizer.json.
    pub tokenizer: &'a [u8],
    /// tokenizer_config.json.
    pub tokenizer_config: Option<&'a Map<String, Json>>,
    /// config.json.
    pub config: Option<&'a Map<String, Json>>,
    /// chat_template.jinja.
    pub template: Option<&'a str>,
    /// chat_template.json.
    pub template_json: Option<&'a Map<String, Json>>,
    /// additional_chat_templates/*.jinja: names without extension, and texts, sorted.
    pub more_templates: &'a [(String, String)],
    /// Rows of the embedding: ids up to here get a token, if need be a filler.
    pub vocab_size: u64,
    /// The pre-tokenizer's name, if the user gave one.
    pub pre: Option<&'a str>,
}

#[derive(Deserialize)]
struct TokenizerFile {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    vocab: BTreeMap<String, u64>,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
}

/// A merge: `"a b"`, or since transformers 4.45 `["a", "b"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair([String; 2]),
}

impl Merge {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            // A blank inside a part would look like the separator: written as the byte-level
            // alphabet writes it.
            Self::Pair([a, b]) => format!("{} {}", a.replace(' ', "Ġ"), b.replace(' ', "Ġ")),
        }
    }
}

/// Appends the tokenizer's keys.
///
/// # Errors
/// [`ExportError::Tokenizer`], [`ExportError::PreTokenizer`], [`ExportError::PreTokenizerName`]:
/// what llama.cpp could not load, or would load as another tokenizer.
pub fn write(sources: &Sources<'_>, out: &mut Metadata) -> Result<(), ExportError> {
    let file: TokenizerFile = serde_json::from_slice(sources.tokenizer)
        .map_err(|e| refuse(format!("tokenizer.json cannot be read: {e}")))?;
    check_model(&file)?;
    let pre = pre_tokenizer(&file.pre_tokenizer, sources.pre)?;
    let added = all_added(file.added_tokens, sources.tokenizer_config);
    let (tokens, types) = tokens(file.model.vocab, &added, sources.vocab_size)?;
    let merges = file.model.merges.into_iter().map(Merge::into_text).collect();
    out.push("tokenizer.ggml.model", Value::Str("gpt2".into()));
    out.push("tokenizer.ggml.pre", Value::Str(pre));
    out.push("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens)));
    out.push("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    out.push("tokenizer.ggml.merges", Value::Array(Array::Str(merges)));
    special_ids(sources, &added, out)?;
    add_flags(&file.post_processor, sources.tokenizer_config, out)?;
    chat_templates(sources, out);
    Ok(())
}

fn refuse(why: impl Into<String>) -> ExportError {
    ExportError::Tokenizer { why: why.into() }
}

fn check_model(file: &TokenizerFile) -> Result<(), ExportError> {
    if file.model.kind.as_deref().unwrap_or("BPE") != "BPE" {
        let kind = crate::name::escape(file.model.kind.as_deref().unwrap_or_default());
        return Err(refuse(format!("its model is `{kind}`, not BPE")));
    }
    if file.model.merges.is_empty() {
        return Err(refuse("it has no merges, without which llama.cpp does not load it"));
    }
    for kind in kinds(&file.normalizer, "normalizers") {
        if kind != "NFC" {
            return Err(refuse(format!("its normalizer `{kind}` has no counterpart in GGUF")));
        }
    }
    for kind in kinds(&file.post_processor, "processors") {
        if kind != "ByteLevel" {
            return Err(refuse(format!("its post-processor `{kind}` is not written yet")));
        }
    }
    Ok(())
}

/// Returns the steps of a pipeline stage: itself, or the members of a `Sequence`.
fn steps<'a>(stage: &'a Json, members: &str) -> Vec<&'a Json> {
    match stage.get("type").and_then(Json::as_str) {
        None => Vec::new(),
        Some("Sequence") => {
            stage.get(members).and_then(Json::as_array).into_iter().flatten().collect()
        }
        Some(_) => vec![stage],
    }
}

fn kinds(stage: &Json, members: &str) -> Vec<String> {
    let kind = |step: &&Json| step.get("type").and_then(Json::as_str).unwrap_or("?").to_owned();
    steps(stage, members).iter().map(|step| crate::name::escape(&kind(step))).collect()
}

fn pre_tokenizer(stage: &Json, wanted: Option<&str>) -> Result<String, ExportError> {
    if let Some(name) = wanted {
        let mut known = PRE_TOKENIZERS.iter().copied();
        return known.find(|known| *known == name).map(str::to_owned).ok_or_else(|| {
            let near = suggest(name, PRE_TOKENIZERS.iter().copied());
            ExportError::PreTokenizerName { name: escape(name), near }
        });
    }
    let steps = steps(stage, "pretokenizers");
    let byte_level =
        steps.iter().any(|s| s.get("type").and_then(Json::as_str) == Some("ByteLevel"));
    let regexes: Vec<&str> =
        steps.iter().filter_map(|s| s.pointer("/pattern/Regex").and_then(Json::as_str)).collect();
    let known = match regexes.as_slice() {
        [regex] if byte_level => SPLITTERS.iter().find(|row| row.1 == *regex),
        _ => None,
    };
    known.map(|row| row.0.to_owned()).ok_or_else(|| ExportError::PreTokenizer {
        found: match regexes.as_slice() {
            [] => "no splitting expression".to_owned(),
            list => escape(&list.join(" , ")),
        },
    })
}

/// Joins the added tokens of tokenizer.json with those that only tokenizer_config.json has.
fn all_added(mut added: Vec<Added>, config: Option<&Map<String, Json>>) -> Vec<Added> {
    let decoder = config.and_then(|c| c.get("added_tokens_decoder")).and_then(Json::as_object);
    for (id, entry) in decoder.into_iter().flatten() {
        let (Ok(id), Some(content)) = (id.parse(), entry.get("content").and_then(Json::as_str))
        else {
            continue;
        };
        if added.iter().all(|token| token.content != content && token.id != id) {
            let special = entry.get("special").and_then(Json::as_bool).unwrap_or(false);
            added.push(Added { id, content: content.to_owned(), special });
        }
    }
    added
}

/// Places every token at its id. Ids without one are fillers, as the embedding has rows for them.
fn tokens(
    vocab: BTreeMap<String, u64>,
    added: &[Added],
    vocab_size: u64,
) -> Result<(Vec<String>, Vec<i32>), ExportError> {
    let len = usize::try_from(vocab_size).expect("the config's dimensions are capped");
    let mut slots: Vec<Option<(String, i32)>> = vec![None; len];
    let place = |id: u64, text: &str| -> Result<usize, ExportError> {
        usize::try_from(id).ok().filter(|at| *at < len).ok_or_else(|| {
            let token = crate::name::escape(text);
            refuse(format!("token `{token}` has id {id}, the embedding has {vocab_size} rows"))
        })
    };
    for (text, id) in vocab {
        let slot = &mut slots[place(id, &text)?];
        if let Some((other, _)) = slot {
            let (a, b) = (crate::name::escape(other), crate::name::escape(&text));
            return Err(refuse(format!("tokens `{a}` and `{b}` share id {id}")));
        }
        *slot = Some((text, NORMAL));
    }
    for token in added {
        let control = token.special || looks_special(&token.content);
        let kind = if control { CONTROL } else { USER_DEFINED };
        slots[place(token.id, &token.content)?] = Some((token.content.clone(), kind));
    }
    let filler = |(i, slot): (usize, Option<_>)| slot.unwrap_or((format!("[PAD{i}]"), UNUSED));
    Ok(slots.into_iter().enumerate().map(filler).unzip())
}

/// Says whether a token that is not marked special is meant as one: `<|fim_prefix|>`.
fn looks_special(token: &str) -> bool {
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&token)
        || (token.starts_with("<|") && token.ends_with("|>"))
        || (token.starts_with("<｜") && token.ends_with("｜>"))
        || (token.starts_with("<unused") && token.ends_with('>'))
}

/// Appends ids of special tokens: those that tokenizer_config.json names, then those that
/// config.json numbers.
fn special_ids(
    sources: &Sources<'_>,
    added: &[Added],
    out: &mut Metadata,
) -> Result<(), ExportError> {
    let mut ids: Vec<(&str, u64)> = Vec::new();
    for (kind, spelt) in SPECIAL {
        let entry = sources.tokenizer_config.and_then(|c| c.get(&format!("{kind}_token")));
        let content =
            entry.and_then(|e| e.as_str().or_else(|| e.get("content").and_then(Json::as_str)));
        let token = content.and_then(|text| added.iter().find(|token| token.content == text));
        ids.extend(token.map(|token| (*spelt, token.id)));
    }
    for (kind, spelt) in SPECIAL {
        let key = format!("{kind}_token_id");
        let given = |map: &Map<String, Json>| map.get(&key).filter(|v| !v.is_null()).cloned();
        let nested = || {
            let text = sources.config?.get("text_config")?.as_object()?;
            given(text)
        };
        let id = sources.config.and_then(given).or_else(nested).and_then(|v| v.as_u64());
        if let Some(id) = id.filter(|_| ids.iter().all(|(k, _)| k != spelt)) {
            ids.push((spelt, id));
        }
    }
    for (spelt, id) in ids {
        if id >= sources.vocab_size {
            let rows = sources.vocab_size;
            return Err(refuse(format!(
                "the {spelt} token is {id}, the embedding has {rows} rows"
            )));
        }
        let id = u32::try_from(id).expect("below the vocabulary's size, which is capped");
        out.push(format!("tokenizer.ggml.{spelt}_token_id"), Value::U32(id));
    }
    Ok(())
}

/// Appends whether tokens are added around a text. The byte-level post-processor adds none.
fn add_flags(
    post_processor: &Json,
    config: Option<&Map<String, Json>>,
    out: &mut Metadata,
) -> Result<(), ExportError> {
    let byte_level = !steps(post_processor, "processors").is_empty();
    for kind in ["bos", "eos", "sep"] {
        let declared =
            config.and_then(|c| c.get(&format!("add_{kind}_token"))).and_then(Json::as_bool);
        let flag = if byte_level && kind != "sep" { Some(false) } else { declared };
        if let Some(flag) = flag {
            out.push(format!("tokenizer.ggml.add_{kind}_token"), Value::Bool(flag));
        }
    }
    Ok(())
}

/// Appends the chat templates: of tokenizer_config.json, else of their own files.
fn chat_templates(sources: &Sources<'_>, out: &mut Metadata) {
    let mut named: Vec<(String, String)> = Vec::new();
    let declared = sources.tokenizer_config.and_then(|c| c.get("chat_template"));
    match declared.filter(|v| !v.is_null()) {
        Some(Json::String(text)) => named.push(("default".into(), text.clone())),
        Some(Json::Array(list)) => {
            for entry in list {
                let field = |key| entry.get(key).and_then(Json::as_str).map(str::to_owned);
                named.extend(field("name").zip(field("template")));
            }
        }
        _ => {
            let json = sources.template_json.and_then(|map| map.get("chat_template"));
            let text = sources.template.or_else(|| json.and_then(Json::as_str));
            named.extend(text.map(|text| ("default".to_owned(), text.to_owned())));
            if sources.template.is_some() {
                named.extend(sources.more_templates.iter().cloned());
            }
        }
    }
    let mut names = Vec::new();
    for (name, text) in named.iter().filter(|(name, _)| name != "default") {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        if !name.is_empty() && !names.contains(&name) {
            out.push(format!("tokenizer.chat_template.{name}"), Value::Str(text.clone()));
            names.push(name);
        }
    }
    names.sort_unstable();
    out.push("tokenizer.chat_templates", Value::Array(Array::Str(names)));
    if let Some((_, text)) = named.iter().rev().find(|(name, _)| name == "default") {
        out.push("tokenizer.chat_template", Value::Str(text.clone()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::ExportError;
    use super::{SPLITTERS, Sources, write};
    use crate::gguf::{Array, Metadata, Value};

    fn tokenizer() -> Json {
        json!({
            "added_tokens": [
                {"id": 3, "content": "<|end|>", "special": true},
                {"id": 4, "content": "<|fim_pad|>", "special": false},
                {"id": 5, "content": "<think>", "special": false},
            ],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLITTERS[0].1}},
                {"type": "ByteLevel"},
            ]},
            "post_processor": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {"b": 1, "a": 0, "ab": 2},
                "merges": [["a", "b"], ["a b", "c"]]},
        })
    }

    fn keys(tokenizer: &Json, pre: Option<&str>) -> Result<Metadata, ExportError> {
        let config = json!({"eos_token_id": 0, "bos_token_id": null,
            "text_config": {"bos_token_id": 1, "pad_token_id": 9}});
        let tokenizer_config = json!({"eos_token": {"content": "<|end|>"}, "pad_token": "<think>",
            "chat_template": [{"name": "default", "template": "D"},
                {"name": "tool use", "template": "T"}]});
        let bytes = tokenizer.to_string();
        let sources = Sources {
            tokenizer: bytes.as_bytes(),
            tokenizer_config: tokenizer_config.as_object(),
            config: config.as_object(),
            vocab_size: 8,
            pre,
            ..Sources::default()
        };
        let mut out = Metadata::new();
        write(&sources, &mut out).map(|()| out)
    }

    #[test]
    fn all_keys_in_order() {
        let strings = |list: &[&str]| {
            Value::Array(Array::Str(list.iter().map(|s| (*s).to_owned()).collect()))
        };
        let got = keys(&tokenizer(), None).expect("writes");
        let expected = [
            ("tokenizer.ggml.model", Value::Str("gpt2".into())),
            ("tokenizer.ggml.pre", Value::Str("qwen35".into())),
            (
                "tokenizer.ggml.tokens",
                strings(&["a", "b", "ab", "<|end|>", "<|fim_pad|>", "<think>", "[PAD6]", "[PAD7]"]),
            ),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1, 1, 1, 3, 3, 4, 5, 5]))),
            ("tokenizer.ggml.merges", strings(&["a b", "aĠb c"])),
            ("tokenizer.ggml.eos_token_id", Value::U32(3)),
            ("tokenizer.ggml.padding_token_id", Value::U32(5)),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
            ("tokenizer.ggml.add_eos_token", Value::Bool(false)),
            ("tokenizer.chat_template.tool_use", Value::Str("T".into())),
            ("tokenizer.chat_templates", strings(&["tool_use"])),
            ("tokenizer.chat_template", Value::Str("D".into())),
        ];
        let got: Vec<_> = got.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        assert_eq!(got, expected.map(|(k, v)| (k.to_owned(), v)));
    }

    #[test]
    fn an_unknown_splitting_expression_needs_the_flag() {
        let mut other = tokenizer();
        other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\w+|\s+");
        let error = keys(&other, None).expect_err("unknown");
        assert!(matches!(&error, ExportError::PreTokenizer { found } if found == r"\w+|\s+"));
        let got = keys(&other, Some("qwen2")).expect("the user knows");
        assert_eq!(got.get("tokenizer.ggml.pre"), Some(&Value::Str("qwen2".into())));
        other["pre_tokenizer"] = json!(null);
        assert!(matches!(keys(&other, None), Err(ExportError::PreTokenizer { .. })));
    }

    #[test]
    fn a_name_that_llama_cpp_does_not_know_is_refused() {
        use crate::error::{Diagnose as _, Kind};
        for (name, near) in [("qwen53", Some("qwen35")), ("", None), ("zzz", None)] {
            let error = keys(&tokenizer(), Some(name)).expect_err("llama.cpp would not load it");
            let ExportError::PreTokenizerName { near: found, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((error.kind(), *found), (Kind::Usage, near), "{name}");
        }
        for (name, _) in SPLITTERS {
            assert!(crate::gguf::PRE_TOKENIZERS.contains(name), "{name}");
        }
    }

    #[test]
    fn what_llama_cpp_would_not_load_is_refused() {
        let cases: [(&str, Json, &str); 6] = [
            ("/model/type", json!("Unigram"), "Unigram"),
            ("/model/merges", json!([]), "no merges"),
            ("/model/vocab/a", json!(8), "has id 8"),
            ("/model/vocab/a", json!(1), "share id 1"),
            ("/normalizer/type", json!("Lowercase"), "Lowercase"),
            ("/post_processor/type", json!("TemplateProcessing"), "TemplateProcessing"),
        ];
        for (pointer, value, expected) in cases {
            let mut broken = tokenizer();
            *broken.pointer_mut(pointer).expect("there") = value;
            let error = keys(&broken, None).expect_err(pointer);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
