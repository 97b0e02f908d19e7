//! All integration tests in one binary: linking is the slow part of a test build.

#![allow(clippy::disallowed_methods, reason = "tests write scratch files")]
#![allow(clippy::disallowed_macros, reason = "a skipped test says so")]

mod broken;
mod cached;
mod candle;
mod checkpoint;
mod cli;
mod diff;
mod docs;
mod engine;
mod engine_chat;
mod fixtures;
mod gguf;
mod gguf_hostile;
mod gguf_quant;
mod gguf_wide;
mod help;
mod hub_cli;
mod hub_lies;
mod hub_nginx;
mod hub_pull;
mod hub_server;
mod hub_tasks;
mod inspect;
mod killed;
mod mutate;
mod need;
mod readme;
mod sandbox;
mod schemas;
mod score;
mod select;
mod select_nll;
mod select_run;
mod strip;
mod tidy;
mod verify_cli;
