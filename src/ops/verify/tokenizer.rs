//! The tokenizer's ids against the rows of the embedding.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Check, Finding, unreadable};
use crate::arch::ModelConfig;
use crate::checkpoint::read_aux;
use crate::error::Result;
use crate::name::escape;

const FILE: &str = "tokenizer.json";

/// Adds what is wrong with the tokenizer; a missing one is a warning.
///
/// # Errors
/// A file that this process may not read.
pub(super) fn check(dir: &Path, config: &ModelConfig, findings: &mut Vec<Finding>) -> Result<()> {
    match read_aux(dir, FILE) {
        Ok(Some(bytes)) => check_bytes(&bytes, config.text.vocab_size, findings),
        Ok(None) => {
            let message = "is missing: no text can be turned into tokens";
            findings.push(Finding::warning(Check::Tokenizer, FILE, message));
        }
        Err(error) => {
            findings.push(Finding::error(Check::Tokenizer, FILE, unreadable(error)?));
        }
    }
    for field in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        let value = config.raw_text().get(field).or_else(|| config.raw.get(field));
        let ids = match value {
            Some(Value::Array(list)) => list.iter().collect(),
            Some(value) if !value.is_null() => vec![value],
            _ => Vec::new(),
        };
        for id in ids {
            if id.as_u64().is_none_or(|id| id >= config.text.vocab_size) {
                let message = format!(
                    "is {}, outside the vocabulary of {}",
                    escape(&id.to_string()),
                    config.text.vocab_size
                );
                findings.push(Finding::warning(Check::Config, field, message));
            }
        }
    }
    Ok(())
}

fn check_bytes(bytes: &[u8], vocab_size: u64, findings: &mut Vec<Finding>) {
    let mut error = |message: String| {
        findings.push(Finding::error(Check::Tokenizer, FILE, message));
    };
    let parsed: Value = match serde_json::from_slice(bytes) {
        Ok(parsed) => parsed,
        Err(e) => return error(format!("is not JSON: {e}")),
    };
    let Some(vocab) = parsed.pointer("/model/vocab").and_then(Value::as_object) else {
        return error("has no model.vocab of token and id".into());
    };
    let added = parsed.get("added_tokens").and_then(Value::as_array);
    let added = added
        .into_iter()
        .flatten()
        .filter_map(|token| Some((token.get("content")?.as_str()?, token.get("id")?.as_u64())));
    let plain = vocab.iter().map(|(token, id)| (token.as_str(), id.as_u64()));
    let mut names: BTreeMap<u64, &str> = BTreeMap::new();
    for (token, id) in plain.chain(added) {
        let shown = escape(token);
        match id {
            None => return error(format!("token `{shown}` has no whole number as its id")),
            Some(id) if id >= vocab_size => {
                return error(format!(
                    "token `{shown}` has id {id}, the embedding has {vocab_size} rows"
                ));
            }
            Some(id) => {
                if let Some(other) = names.insert(id, token).filter(|other| *other != token) {
                    let other = escape(other);
                    return error(format!("tokens `{other}` and `{shown}` share the id {id}"));
                }
            }
        }
    }
}
