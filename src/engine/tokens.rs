//! Text to token ids and back, and which ids end an answer.

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Diagnose, Kind};

/// Why a checkpoint's tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// `tokenizer.json` is not there.
    #[error("the checkpoint has no tokenizer.json")]
    Missing,
    /// `tokenizer.json` cannot be read, or fails on a text.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A token is beyond the embedding.
    #[error("token {id} is beyond the vocabulary of {vocab_size}")]
    Vocabulary {
        /// The token.
        id: u64,
        /// Rows of the embedding.
        vocab_size: u64,
    },
}

impl Diagnose for TokensError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing => Kind::NotFound,
            _ => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Missing => "no_tokenizer",
            Self::Tokenizer(_) => "bad_tokenizer",
            Self::Vocabulary { .. } => "token_beyond_vocabulary",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Missing => {
                vec!["copy tokenizer.json of the base model into the checkpoint".into()]
            }
            Self::Tokenizer(_) => vec!["compare tokenizer.json with that of the base model".into()],
            Self::Vocabulary { .. } => {
                vec!["the tokenizer or the ids belong to another model".into()]
            }
        }
    }
}

/// A checkpoint's tokenizer.
pub struct Tokens {
    tokenizer: Tokenizer,
    stop: Vec<u32>,
    vocab_size: u64,
}

/// The files that say how a checkpoint speaks, as far as it has them.
#[derive(Debug, Default)]
pub struct SpeechFiles {
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `generation_config.json`.
    pub generation_config: Option<Vec<u8>>,
    /// `chat_template.jinja`.
    pub chat_template: Option<Vec<u8>>,
}

impl SpeechFiles {
    /// Returns the chat template: the file of its own, else the one in `tokenizer_config.json`.
    #[must_use]
    pub fn template(&self) -> Option<String> {
        if let Some(bytes) = &self.chat_template {
            return Some(String::from_utf8_lossy(bytes).into_owned());
        }
        let config = parse(self.tokenizer_config.as_deref())?;
        match config.get("chat_template")? {
            Value::String(text) => Some(text.clone()),
            // Several named templates; the default one is for conversation.
            Value::Array(list) => list
                .iter()
                .find(|entry| entry["name"] == "default")
                .and_then(|entry| entry["template"].as_str())
                .map(str::to_owned),
            _ => None,
        }
    }
}

fn parse(bytes: Option<&[u8]>) -> Option<Value> {
    serde_json::from_slice(bytes?).ok()
}

impl Tokens {
    /// Reads the tokenizer and the ids that end an answer.
    ///
    /// Those are `eos_token_id` of the generation config and of `config.json` (given as `raw`),
    /// `eos_token` of the tokenizer config, `<|im_end|>` and `<|endoftext|>`.
    ///
    /// # Errors
    /// [`TokensError`]: no tokenizer, or one that cannot be read.
    pub fn new(
        files: &SpeechFiles,
        raw: &serde_json::Map<String, Value>,
        vocab_size: u64,
    ) -> Result<Self, TokensError> {
        let bytes = files.tokenizer.as_deref().ok_or(TokensError::Missing)?;
        let sound = checked(bytes).map_err(TokensError::Tokenizer)?;
        let tokenizer =
            Tokenizer::from_bytes(sound).map_err(|e| TokensError::Tokenizer(e.to_string()))?;
        let mut stop = Vec::new();
        if let Some(config) = parse(files.generation_config.as_deref()) {
            push_ids(config.get("eos_token_id"), &mut stop);
        }
        push_ids(raw.get("eos_token_id"), &mut stop);
        let config = parse(files.tokenizer_config.as_deref()).unwrap_or_default();
        let eos = &config["eos_token"];
        let eos = eos.as_str().or_else(|| eos["content"].as_str());
        let words = eos.into_iter().chain(["<|im_end|>", "<|endoftext|>"]);
        stop.extend(words.filter_map(|word| tokenizer.token_to_id(word)));
        stop.retain(|id| u64::from(*id) < vocab_size);
        stop.sort_unstable();
        stop.dedup();
        Ok(Self { tokenizer, stop, vocab_size })
    }

    /// Returns the ids of a text in which special tokens are spelled out.
    ///
    /// # Errors
    /// [`TokensError::Tokenizer`], or an id beyond the embedding.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| TokensError::Tokenizer(e.to_string()))?;
        let ids = encoding.get_ids().to_vec();
        check_ids(&ids, self.vocab_size)?;
        Ok(ids)
    }

    /// Returns the end of the last token of `text` that ends at or before `at`, both in bytes.
    ///
    /// # Errors
    /// [`TokensError::Tokenizer`].
    pub fn border(&self, text: &str, at: usize) -> Result<usize, TokensError> {
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|e| TokensError::Tokenizer(e.to_string()))?;
        let ends = encoding.get_offsets().iter().map(|(_, end)| *end);
        Ok(ends.filter(|end| *end <= at && text.is_char_boundary(*end)).max().unwrap_or(0))
    }

    /// Returns the text of ids, special tokens spelled out.
    ///
    /// # Errors
    /// [`TokensError::Tokenizer`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokensError> {
        self.tokenizer.decode(ids, false).map_err(|e| TokensError::Tokenizer(e.to_string()))
    }

    /// Returns the ids that end an answer, in order.
    #[must_use]
    pub fn stop(&self) -> &[u32] {
        &self.stop
    }
}

/// Refuses what the tokenizers crate (0.23) does not survive: it takes for granted that it is given
/// JSON, and that tables of other kinds of models are sound. Returns the file written anew, as the
/// crate would read a key that stands there twice once more.
fn checked(bytes: &[u8]) -> Result<String, String> {
    let file: Value = serde_json::from_slice(bytes).map_err(|e| format!("not JSON: {e}"))?;
    let kind = file.pointer("/model/type").and_then(Value::as_str);
    if kind != Some("BPE") {
        let kind = crate::name::escape(kind.unwrap_or("none"));
        return Err(format!("its model is of type {kind}, only BPE is supported"));
    }
    if file.get("normalizer").is_some_and(has_table) {
        return Err("its normalizer has a precompiled table, which BPE models do not use".into());
    }
    Ok(file.to_string())
}

/// Says whether a normalizer is or contains one of type `Precompiled`, which the crate knows by
/// its type or by its table.
fn has_table(normalizer: &Value) -> bool {
    let nested = normalizer.get("normalizers").and_then(Value::as_array);
    normalizer["type"] == "Precompiled"
        || normalizer.get("precompiled_charsmap").is_some()
        || nested.into_iter().flatten().any(has_table)
}

/// Checks that every id has a row in the embedding.
///
/// # Errors
/// [`TokensError::Vocabulary`] for the first that has none.
pub fn check_ids(ids: &[u32], vocab_size: u64) -> Result<(), TokensError> {
    match ids.iter().find(|id| u64::from(**id) >= vocab_size) {
        None => Ok(()),
        Some(&id) => Err(TokensError::Vocabulary { id: u64::from(id), vocab_size }),
    }
}

fn push_ids(value: Option<&Value>, out: &mut Vec<u32>) {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => out.extend(list.iter().filter_map(id)),
        Some(value) => out.extend(id(value)),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::{SpeechFiles, Tokens, TokensError, check_ids};
    use serde_json::json;

    fn files() -> SpeechFiles {
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 4, "content": "<|im_end|>", "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                "trim_offsets": true, "use_regex": false},
            "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true,
                "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"a": 0, "b": 1, "ab": 2, "Ċ": 3}, "merges": [["a", "b"]]},
        });
        SpeechFiles { tokenizer: Some(tokenizer.to_string().into_bytes()), ..Default::default() }
    }

    #[test]
    fn text_goes_there_and_back_and_stop_tokens_are_found() {
        let mut files = files();
        files.generation_config = Some(br#"{"eos_token_id":[3, 900]}"#.to_vec());
        let tokens = Tokens::new(&files, &serde_json::Map::new(), 5).expect("reads");
        let ids = tokens.encode("aba\n<|im_end|>").expect("encodes");
        assert_eq!(ids, [2, 0, 3, 4]);
        assert_eq!(tokens.decode(&ids).expect("decodes"), "aba\n<|im_end|>");
        assert_eq!(tokens.stop(), [3, 4]);
    }

    #[test]
    fn ids_beyond_the_embedding_are_refused() {
        let tokens = Tokens::new(&files(), &serde_json::Map::new(), 3).expect("reads");
        let error = tokens.encode("\n").expect_err("beyond");
        assert!(matches!(error, TokensError::Vocabulary { id: 3, vocab_size: 3 }));
        assert!(check_ids(&[2, 1], 3).is_ok());
    }

    #[test]
    fn the_template_of_its_own_file_wins() {
        let mut files = files();
        assert_eq!(files.template(), None);
        files.tokenizer_config = Some(br#"{"chat_template":"two"}"#.to_vec());
        assert_eq!(files.template().as_deref(), Some("two"));
        files.chat_template = Some(b"one".to_vec());
        assert_eq!(files.template().as_deref(), Some("one"));
    }
}
