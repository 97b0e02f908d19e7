//! What a chat model is asked and what it answers, whoever runs it.
//!
//! The words are OpenAI's chat completions, because harness, templates and endpoints speak them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::error::{Diagnose, Kind};
use crate::progress::Cancel;

/// Something that answers a conversation.
pub trait ChatModel: Send + Sync {
    /// Answers the conversation. Callers on several threads are answered together where the
    /// implementation can.
    ///
    /// # Errors
    /// [`ChatError`]; [`ChatError::ContextWindow`] ends an agent's run, [`ChatError::Endpoint`]
    /// and [`ChatError::Engine`] are failures of the infrastructure and never a model's fault.
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError>;

    /// Returns the name of the model, for records.
    fn name(&self) -> &str;
}

/// One question.
#[derive(Debug, Clone, Default)]
pub struct ChatRequest {
    /// The conversation so far, oldest first.
    pub messages: Vec<Message>,
    /// OpenAI tool objects (`{"type":"function","function":{…}}`), passed on as they are.
    pub tools: Vec<Value>,
    /// How to draw tokens.
    pub sampling: Sampling,
    /// Extra variables of the chat template, such as `enable_thinking`.
    pub template_args: Map<String, Value>,
    /// Longest time to wait for the answer.
    pub timeout: Option<Duration>,
    /// Set by another thread to give up.
    pub cancel: CancelFlag,
}

/// Asks everything that holds it to stop; once set it stays set.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Cancel);

impl From<Cancel> for CancelFlag {
    fn from(flag: Cancel) -> Self {
        Self(flag)
    }
}

impl CancelFlag {
    /// Asks everything that holds the flag to stop.
    pub fn cancel(&self) {
        self.0.set();
    }

    /// Says whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_set()
    }
}

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Zero means the likeliest token always.
    pub temperature: f64,
    /// Smallest set of tokens with at least this mass; 1 keeps all.
    pub top_p: f64,
    /// The likeliest `k` only.
    pub top_k: Option<u32>,
    /// Most tokens to draw.
    pub max_tokens: u32,
    /// Seed of this answer. The same seed and prompt give the same answer, whatever else runs.
    pub seed: u64,
}

impl Default for Sampling {
    /// The harness protocol's numbers.
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.95, top_k: None, max_tokens: 16_384, seed: 0 }
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// Returns the word of the protocol.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text, thinking included unless a server took it out.
    pub content: String,
    /// Thinking that a server returned apart.
    pub reasoning: Option<String>,
    /// Calls that an assistant makes.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// Makes a message without calls.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        let content = content.into();
        Self { role, content, reasoning: None, tool_calls: Vec::new(), tool_call_id: None }
    }

    /// Makes the answer to a tool call.
    #[must_use]
    pub fn tool(tool_call_id: impl Into<String>, content: impl Into<String>) -> Self {
        Self { tool_call_id: Some(tool_call_id.into()), ..Self::new(Role::Tool, content) }
    }

    /// Returns the message as OpenAI's JSON, arguments as the string that they are.
    #[must_use]
    pub fn to_openai(&self) -> Value {
        let mut map = Map::new();
        map.insert("role".into(), self.role.as_str().into());
        map.insert("content".into(), self.content.clone().into());
        if let Some(reasoning) = &self.reasoning {
            map.insert("reasoning_content".into(), reasoning.clone().into());
        }
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.iter().map(|call| {
                json!({"id": call.id, "type": "function",
                       "function": {"name": call.name, "arguments": call.arguments}})
            });
            map.insert("tool_calls".into(), calls.collect());
        }
        if let Some(id) = &self.tool_call_id {
            map.insert("tool_call_id".into(), id.clone().into());
        }
        Value::Object(map)
    }
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Made by whoever runs the model.
    pub id: String,
    /// The tool.
    pub name: String,
    /// A JSON object as text, as the model wrote it: perhaps not valid.
    pub arguments: String,
}

/// Why the answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// A stop token, and the answer calls tools.
    ToolCalls,
    /// `max_tokens`, or the end of the context.
    Length,
}

/// Tokens that an answer cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens whose state was reused.
    pub cached_tokens: u64,
    /// Tokens drawn, the stop token included.
    pub completion_tokens: u64,
}

/// The tokens themselves, known when the engine is ours.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenTrace {
    /// The prompt's ids.
    pub prompt_ids: Vec<u32>,
    /// The ids drawn.
    pub completion_ids: Vec<u32>,
    /// Natural log-probability of each drawn id under the model, before temperature and cuts.
    pub logprobs: Vec<f32>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatReply {
    /// The assistant's message.
    pub message: Message,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What it cost.
    pub usage: Usage,
    /// Its tokens, from an engine of ours.
    pub trace: Option<TokenTrace>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The conversation does not fit.
    #[error(
        "the conversation has {}, the context holds {limit}",
        crate::units::plural(*tokens, "token")
    )]
    ContextWindow {
        /// Tokens of the prompt; 0 if the server did not say.
        tokens: u64,
        /// Most tokens; 0 if the server did not say.
        limit: u64,
    },
    /// The request's time ran out.
    #[error("no answer within {secs} s")]
    Timeout {
        /// The limit.
        secs: u64,
    },
    /// [`CancelFlag`] was set.
    #[error("cancelled")]
    Cancelled,
    /// The endpoint failed, after all retries.
    #[error("{url}: {reason}")]
    Endpoint {
        /// The address, without credentials.
        url: String,
        /// What it said.
        reason: String,
        /// 401 and 403 are about the key.
        auth: Auth,
    },
    /// What the model computes is no probability.
    #[error("the model's weights are damaged: what it computes is no probability")]
    NoProbability,
    /// Our engine failed: template, tokenizer, device.
    #[error("the engine failed: {0}")]
    Engine(Arc<crate::error::Error>),
}

/// Whether a failed endpoint refused our credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// The key was refused, or is missing.
    Refused,
    /// Something else failed.
    NotTheCause,
}

impl Diagnose for ChatError {
    fn kind(&self) -> Kind {
        match self {
            Self::ContextWindow { .. } | Self::NoProbability => Kind::BadData,
            Self::Timeout { .. } => Kind::Network,
            Self::Cancelled => Kind::Interrupted,
            Self::Endpoint { auth: Auth::Refused, .. } => Kind::Auth,
            Self::Endpoint { .. } => Kind::Network,
            Self::Engine(error) => error.kind(),
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::ContextWindow { .. } => "context_window",
            Self::Timeout { .. } => "model_timeout",
            Self::NoProbability => "no_probability",
            Self::Endpoint { auth: Auth::NotTheCause, .. } => "endpoint_failed",
            Self::Engine(error) => error.id(),
            other => other.kind().id(),
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::ContextWindow { .. } => vec!["shorten the prompt, or raise the context".into()],
            Self::Timeout { .. } => vec!["raise the time limit, or look at the server".into()],
            Self::Cancelled => Vec::new(),
            Self::NoProbability => {
                vec!["`tmax-ckpt verify CKPT --finite` names the tensors at fault".into()]
            }
            Self::Endpoint { auth: Auth::Refused, .. } => {
                vec!["give the endpoint's API key".into()]
            }
            Self::Endpoint { .. } => {
                vec!["check that the server runs and serves this model name".into()]
            }
            Self::Engine(error) => error.help(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Message, Role, ToolCall};

    #[test]
    fn messages_are_openai_json() {
        let mut message = Message::new(Role::Assistant, "hm");
        message.tool_calls.push(ToolCall {
            id: "call_0".into(),
            name: "bash".into(),
            arguments: r#"{"command":"ls"}"#.into(),
        });
        assert_eq!(
            message.to_openai().to_string(),
            r#"{"role":"assistant","content":"hm","tool_calls":[{"id":"call_0","type":"function","function":{"name":"bash","arguments":"{\"command\":\"ls\"}"}}]}"#
        );
        assert_eq!(
            Message::tool("call_0", "ok").to_openai().to_string(),
            r#"{"role":"tool","content":"ok","tool_call_id":"call_0"}"#
        );
    }
}
