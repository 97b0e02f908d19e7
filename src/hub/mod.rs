//! The Hugging Face Hub: steps, verified and resumable pulls, the shared cache.
//!
//! Stands on the `hf-hub` crate for refs, commits, authentication, byte streams and Xet, and
//! trusts none of its downloads: they store error pages as shards and check no hash. Bytes come
//! from its range stream alone and are counted and hashed here. Async lives here and nowhere
//! else; the public interface blocks. Nothing here reads the environment.
//!
//! The token goes to the endpoint's own host: redirects to another host or port lose it, and a
//! next page of a list that lies elsewhere is refused.

mod cache;
mod client;
mod config;
mod error;
mod fetch;
mod lock;
mod part;
mod pattern;
mod plain;
mod plan;
mod pull;
mod ranges;
mod remote;
mod repo;
mod steps;
mod store;
mod tree;

pub use cache::{CacheReport, CachedRepo, CachedRevision, Removal, RemovalPlan, remove, scan};
pub use client::Hub;
pub use config::{DEFAULT_ENDPOINT, HubConfig, Timeouts, Token};
pub use error::{Error, Result};
pub use pattern::Pattern;
pub use plan::{Action, Existing, PlannedFile, PlannedRevision, PullPlan, PullRequest, Target};
pub use pull::{PullReport, PulledRevision};
pub use remote::{RemoteFile, RemoteHeader, RemoteHeaders, RemoteRevision};
pub use repo::{CommitSha, DEFAULT_REVISION, Repo, RepoKind, RepoRef};
pub use steps::{Cached, Step, step_number};
pub use store::{Checks, LocalDir, RepoCache, expected_hashes, files_left_out, forget_verified};
pub use tree::TreeFile;
