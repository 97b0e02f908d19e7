//! All integration tests in one binary: linking is the slow part of a test build.

#![allow(clippy::disallowed_methods, reason = "tests write scratch files")]

mod checkpoint;
mod cli;
mod engine;
mod tidy;
