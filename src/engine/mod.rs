//! Models that answer: our own engine on this machine, or an OpenAI-compatible endpoint.
//!
//! [`chat::ChatModel`] is what the harness talks to. The engine behind it is written once over
//! [`backend::Backend`]. Nothing here knows about tasks, sandboxes or scores.

pub mod backend;
pub mod chat;
pub mod cpu;
pub mod device;
pub mod endpoint;
pub mod generate;
pub mod likelihood;
pub mod local;
pub mod logprobs;
pub mod model;
pub mod sample;
pub mod template;
pub mod tokens;
pub mod toolcall;
pub mod weights;
