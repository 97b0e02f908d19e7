//! Scoring: tasks, the agent's loop, trials, job folders in Harbor's layout.
//!
//! [`job::Job::run`] is the way in: it runs trials in parallel, reuses finished ones, and returns
//! [`record::TrialRecord`]s. [`import::read`] returns the same from folders that Harbor wrote.

pub mod agent;
pub mod dataset;
pub mod digest;
pub mod dockerfile;
pub mod environment;
pub mod error;
pub mod import;
pub mod job;
pub mod jobs;
mod log;
pub mod prompts;
pub mod record;
pub mod task;
pub mod trajectory;
pub mod trial;
pub mod verifier;

pub use error::{Error, Result};
