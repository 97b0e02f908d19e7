//! Teacher forcing: how likely a model finds the replies of a conversation that is given.
//!
//! The conversation is laid out as the model would have met it. Every reply stands behind the
//! prompt that the chat template makes of what came before, the opening of the assistant's turn
//! included, and ends with its stop token. Prompts and replies are cut into tokens apart, as they
//! are when a model answers, so what is scored is exactly the replies' tokens. A prompt that goes
//! on from the text before it shares its sequence; where the template rewrites what came before
//! (it may drop old thoughts), a new sequence begins.

use std::ops::Range;

use serde_json::{Map, Value};

use super::backend::Backend;
use super::chat::{CancelFlag, Message, Role};
use super::logprobs::logprobs_where;
use super::model::Model;
use super::template::{ChatTemplate, Ending, TemplateError, template_message};
use super::tokens::{Tokens, TokensError};

/// One run of tokens, and which of them are replies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequence {
    /// The ids.
    pub ids: Vec<u32>,
    /// Where the replies are, stop tokens included: in order and apart.
    pub replies: Vec<Range<usize>>,
}

/// A conversation as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forced {
    /// The runs, each with a reply at least.
    pub sequences: Vec<Sequence>,
    /// Replies that the context does not hold.
    pub left_out: usize,
}

impl Forced {
    /// Returns the number of tokens that are scored.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.sequences.iter().flat_map(|s| &s.replies).map(Range::len).sum()
    }

    /// Returns the number of replies that are scored.
    #[must_use]
    pub fn replies(&self) -> usize {
        self.sequences.iter().map(|s| s.replies.len()).sum()
    }
}

/// Why a conversation cannot be laid out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForcedError {
    /// The template refuses it, or says of a reply something else than of its prompt.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The tokenizer fails.
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

impl ForcedError {
    /// Returns the error as the library's own.
    #[must_use]
    pub fn into_error(self) -> crate::error::Error {
        match self {
            Self::Template(error) => error.into(),
            Self::Tokens(error) => error.into(),
        }
    }
}

/// Text that is a prompt and a reply in turn, the prompt first.
#[derive(Default)]
struct Layout {
    pieces: Vec<String>,
    len: usize,
}

impl Layout {
    fn push(&mut self, piece: &str) {
        self.len += piece.len();
        self.pieces.push(piece.to_owned());
    }

    /// Returns what `text` adds to this layout, `None` if it does not go on from it.
    fn rest<'t>(&self, text: &'t str) -> Option<&'t str> {
        let mut rest = text;
        for piece in &self.pieces {
            rest = rest.strip_prefix(piece.as_str())?;
        }
        Some(rest)
    }
}

/// Lays a conversation out; `context` is the most tokens of one sequence.
///
/// Rendering is quadratic in the number of messages, as it is when a model answers them.
///
/// # Errors
/// The template refuses the conversation or rewrites it when a reply is added; the tokenizer
/// fails, or makes ids beyond the embedding.
pub fn forced(
    template: &ChatTemplate,
    tokens: &Tokens,
    messages: &[Message],
    tools: &[Value],
    context: usize,
) -> Result<Forced, ForcedError> {
    let rendered: Vec<Value> = messages.iter().map(template_message).collect();
    let render =
        |count: usize, ending| template.render(&rendered[..count], tools, &Map::new(), ending);
    let stops = stop_words(tokens)?;
    let mut layouts: Vec<Layout> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.role != Role::Assistant || index == 0 {
            continue;
        }
        let prompt = render(index, Ending::GenerationPrompt)?;
        let told = render(index, Ending::Nothing)?;
        let whole = render(index + 1, Ending::Nothing)?;
        if !whole.starts_with(&told) {
            let why = format!("message {} is told otherwise once it is answered", index);
            return Err(TemplateError::Render(why).into());
        }
        let same = common_prefix(&prompt, &whole);
        let start = if same == prompt.len() || same <= told.len() {
            same.max(told.len())
        } else {
            // The prompt opens the turn otherwise than the reply does, with `<think>` for
            // `<tool_call>` say: the reply begins at a token, not at the first letter that differs.
            told.len() + tokens.border(&whole[told.len()..], same - told.len())?
        };
        let reply = up_to_stop(&whole[start..], &stops);
        let goes_on = layouts.last().and_then(|layout| layout.rest(&whole[..start]));
        match goes_on {
            Some(rest) => {
                let rest = rest.to_owned();
                let layout = layouts.last_mut().expect("one goes on");
                layout.push(&rest);
                layout.push(reply);
            }
            None => {
                let mut layout = Layout::default();
                layout.push(&whole[..start]);
                layout.push(reply);
                layouts.push(layout);
            }
        }
    }
    let mut out = Forced::default();
    for layout in &layouts {
        cut(layout, tokens, context, &mut out)?;
    }
    Ok(out)
}

/// Cuts a layout into tokens, piece by piece, as far as the context goes.
fn cut(
    layout: &Layout,
    tokens: &Tokens,
    context: usize,
    out: &mut Forced,
) -> Result<(), ForcedError> {
    let mut sequence = Sequence::default();
    for (done, pair) in layout.pieces.chunks_exact(2).enumerate() {
        let mut ids = tokens.encode(&pair[0])?;
        let reply = tokens.encode(&pair[1])?;
        let start = sequence.ids.len() + ids.len();
        ids.extend(&reply);
        if sequence.ids.len() + ids.len() > context {
            out.left_out += layout.pieces.len() / 2 - done;
            break;
        }
        sequence.ids.extend(ids);
        // The very first token of all has nothing before it that could predict it.
        sequence.replies.push(start.max(1)..sequence.ids.len().max(1));
    }
    if !sequence.replies.is_empty() {
        out.sequences.push(sequence);
    }
    Ok(())
}

/// Returns the texts of the tokens that end a reply.
fn stop_words(tokens: &Tokens) -> Result<Vec<String>, TokensError> {
    tokens.stop().iter().map(|id| tokens.decode(&[*id])).collect()
}

/// Returns the reply with its last stop word, without what the template writes behind it.
fn up_to_stop<'t>(reply: &'t str, stops: &[String]) -> &'t str {
    let ends = stops.iter().filter(|word| !word.is_empty());
    let end = ends.filter_map(|word| reply.rfind(word.as_str()).map(|at| at + word.len())).max();
    &reply[..end.unwrap_or(reply.len())]
}

/// Returns how many bytes two texts begin with in common, whole characters alone.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    (0..=same).rev().find(|at| b.is_char_boundary(*at)).unwrap_or(0)
}

/// Returns the sum of `-ln p` over the replies' tokens, `None` if cancelled. Sums in f64.
pub fn negative_log_likelihood<B: Backend>(
    model: &Model<B>,
    sequence: &Sequence,
    cancel: &CancelFlag,
) -> Option<f64> {
    let scored = |at: usize| sequence.replies.iter().any(|reply| reply.contains(&at));
    let values = logprobs_where(model, &sequence.ids, scored, cancel)?;
    Some(-values.into_iter().map(f64::from).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::{common_prefix, up_to_stop};

    #[test]
    fn a_reply_ends_with_its_stop_word() {
        let stops = ["<|im_end|>".to_owned(), "<|endoftext|>".to_owned()];
        assert_eq!(up_to_stop("hm<|im_end|>\n", &stops), "hm<|im_end|>");
        assert_eq!(up_to_stop("hm", &stops), "hm");
        // A reply that quotes the word goes on to the real one.
        assert_eq!(up_to_stop("a<|im_end|>b<|im_end|>\n", &stops), "a<|im_end|>b<|im_end|>");
    }

    #[test]
    fn characters_are_not_cut() {
        assert_eq!(common_prefix("aé", "aè"), 1);
        assert_eq!(common_prefix("abc", "abd"), 2);
        assert_eq!(common_prefix("", "a"), 0);
    }
}
