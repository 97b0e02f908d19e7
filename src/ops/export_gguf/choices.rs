//! What the user wants otherwise than the mixture has it, as `llama-quantize` takes it.

use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use super::ExportError;
use crate::gguf::TensorType;
use crate::name::{self, escape};
use crate::quant;

/// The longest expression, in bytes.
const PATTERN_LEN_MAX: usize = 4096;

/// The types of matrices that are not left to the file type.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// Types of matrices by their names; the first that fits counts.
    pub tensor_types: Vec<TensorTypeChoice>,
    /// The type of the head, and of an embedding that is the head.
    pub output: Option<TensorType>,
    /// The type of the embedding, whether or not it is the head.
    pub token_embedding: Option<TensorType>,
    /// Whether the head is quantised.
    pub head: Head,
    /// Whether there is a mixture.
    pub mix: Mix,
}

/// What becomes of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Head {
    /// It is quantised, with more bits than most.
    #[default]
    Quantized,
    /// It stays in the checkpoint's type.
    Left,
}

/// Whether some matrices get other types than the file type's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mix {
    /// Those that carry more of the model get more bits.
    #[default]
    Mixture,
    /// All get the same.
    Pure,
}

/// `REGEX=TYPE`: matrices in whose GGUF name the expression is found have the type.
#[derive(Debug, Clone)]
pub struct TensorTypeChoice {
    pattern: Regex,
    tensor_type: TensorType,
}

impl Choices {
    /// Says whether nothing is chosen.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.tensor_types.is_empty()
            && self.output.is_none()
            && self.token_embedding.is_none()
            && self.head == Head::Quantized
            && self.mix == Mix::Mixture
    }

    /// Returns the type that the first fitting expression gives.
    #[must_use]
    pub fn of_name(&self, name: &str) -> Option<TensorType> {
        self.tensor_types.iter().find(|choice| choice.fits(name)).map(|choice| choice.tensor_type)
    }
}

impl TensorTypeChoice {
    /// Says whether the expression is found in a name.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        self.pattern.is_match(name)
    }

    /// Returns the expression.
    #[must_use]
    pub fn pattern(&self) -> &str {
        self.pattern.as_str()
    }
}

impl FromStr for TensorTypeChoice {
    type Err = ExportError;

    fn from_str(text: &str) -> Result<Self, ExportError> {
        let wrong = |why: String| ExportError::TensorTypeChoice { text: name::shorten(text), why };
        // The last: an expression may hold the sign, no type does.
        let (pattern, type_name) =
            text.rsplit_once('=').ok_or_else(|| wrong("is not REGEX=TYPE".into()))?;
        if pattern.is_empty() || pattern.len() > PATTERN_LEN_MAX {
            return Err(wrong("has no expression before the `=`, or one that is too long".into()));
        }
        // llama-quantize makes the expression lower-case, as all names are.
        let pattern = RegexBuilder::new(pattern).case_insensitive(true).build();
        let pattern = pattern.map_err(|error| wrong(said(&error)))?;
        Ok(Self { pattern, tensor_type: parse_tensor_type(type_name)? })
    }
}

/// Returns the last line of a message, which says what is wrong; those above it draw where.
fn said(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().next_back().unwrap_or_default();
    format!("is no regular expression: {}", escape(last.trim_start_matches("error: ")))
}

/// Iterates over the types that a tensor can be written in.
pub fn writable() -> impl Iterator<Item = TensorType> {
    let float = [TensorType::F32, TensorType::F16, TensorType::BF16];
    float.into_iter().chain(TensorType::all().filter(|t| quant::codec(*t).is_some()))
}

/// Reads the name of a type, in either case.
///
/// # Errors
/// [`ExportError::TensorTypeName`]: it is the name of none that can be written.
pub fn parse_tensor_type(text: &str) -> Result<TensorType, ExportError> {
    let same = |t: &TensorType| t.name().eq_ignore_ascii_case(text);
    writable().find(same).ok_or_else(|| {
        let lower = text.to_ascii_lowercase();
        // A file type's name for a tensor's, or a slip of the hand.
        let begins = |t: &TensorType| lower.starts_with(&format!("{}_", t.name().to_lowercase()));
        let names: Vec<String> = writable().map(|t| t.name().to_lowercase()).collect();
        let near = name::suggest(&lower, names.iter().map(String::as_str)).map(str::to_owned);
        let near = writable().find(begins).map(|t| t.name().to_lowercase()).or(near);
        ExportError::TensorTypeName { name: name::shorten(text), near }
    })
}

#[cfg(test)]
mod tests {
    use super::{Choices, TensorTypeChoice, parse_tensor_type, writable};
    use crate::error::{Diagnose as _, Kind};
    use crate::gguf::TensorType;

    fn choice(text: &str) -> TensorTypeChoice {
        text.parse().expect("parses")
    }

    #[test]
    fn the_first_that_fits_counts() {
        let choices = Choices {
            tensor_types: vec![
                choice(r"blk\.\d\.FFN_down=q6_k"),
                choice("ffn=Q4_K"),
                choice("a=b=f16"),
            ],
            ..Choices::default()
        };
        assert_eq!(choices.of_name("blk.3.ffn_down.weight"), Some(TensorType::Q6_K));
        assert_eq!(choices.of_name("blk.13.ffn_down.weight"), Some(TensorType::Q4_K));
        assert_eq!(choices.of_name("blk.13.attn_v.weight"), None);
        assert_eq!(choices.of_name("a=b"), Some(TensorType::F16));
    }

    #[test]
    fn what_is_no_choice_says_why() {
        for (text, says, helps) in [
            ("attn_v", "is not REGEX=TYPE", "attn_v=q6_k"),
            ("=q8_0", "no expression", "attn_v=q6_k"),
            ("attn_(v=q8_0", "unclosed group", "attn_v=q6_k"),
            ("attn_v=q4_k_m", "no type `q4_k_m`", "did you mean `q4_k`?"),
            ("attn_v=q6k", "no type `q6k`", "did you mean `q6_k`?"),
            ("attn_v=", "no type ``", "q4_k"),
            ("attn_v=iq2_xxs", "no type `iq2_xxs`", "iq4_xs"),
        ] {
            let error = text.parse::<TensorTypeChoice>().expect_err(text);
            assert_eq!(error.kind(), Kind::Usage, "{text}");
            assert!(error.to_string().contains(says), "{text}: {error}");
            let help = error.help().join(" ");
            assert!(help.contains(helps), "{text}: {help}");
        }
    }

    #[test]
    fn every_writable_type_is_read_by_its_name() {
        for tensor_type in writable() {
            let read = parse_tensor_type(&tensor_type.name().to_lowercase());
            assert_eq!(read.expect("known"), tensor_type);
        }
        assert_eq!(writable().count(), 15);
    }
}
