//! Models that answer: our own engine on this machine, or an OpenAI-compatible endpoint.
//!
//! [`chat::ChatModel`] is what the harness talks to. The engine behind it is written once over
//! [`backend::Backend`]. Nothing here knows about tasks, sandboxes or scores.

pub mod backend;
pub mod chat;
pub mod cpu;
pub mod device;
pub mod model;
pub mod weights;
