//! The Hub as the settings describe it; used by every command that reads from it.

use super::context::Context;
use crate::error::Result;
use crate::hub::{Hub, HubConfig, Repo, RepoKind, RepoRef, Token};

/// Connections at once, unless `--max-workers` says otherwise: as many as `hf` opens.
pub const CONNECTIONS: usize = 8;

/// What kind of repository is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RepoType {
    /// A model
    Model,
    /// A dataset, such as a set of tasks
    Dataset,
}

impl RepoType {
    /// Returns the library's word for it.
    #[must_use]
    pub fn kind(self) -> RepoKind {
        match self {
            Self::Model => RepoKind::Model,
            Self::Dataset => RepoKind::Dataset,
        }
    }
}

/// Returns what the settings say about the Hub.
#[must_use]
pub fn config(ctx: &Context, connections: usize) -> HubConfig {
    HubConfig {
        endpoint: ctx.endpoint().to_owned(),
        token: ctx.token().and_then(|token| Token::new(token.expose())),
        offline: ctx.offline(),
        jobs: connections,
        ..HubConfig::new(ctx.cache_dir())
    }
}

/// Makes a client from the settings; it opens no connection yet.
///
/// # Errors
/// An endpoint that is no URL.
pub fn open(ctx: &Context) -> Result<Hub> {
    Ok(Hub::new(config(ctx, CONNECTIONS))?)
}

/// Reads `owner/name[@rev]` or the `hf://` form.
///
/// # Errors
/// Text that is neither.
pub fn parse(text: &str, kind: RepoKind) -> Result<RepoRef> {
    Ok(RepoRef::parse(text, kind)?)
}

/// Returns the glob for a path of an `hf://` reference: itself, and all below it.
#[must_use]
pub fn path_glob(path: &str) -> String {
    let escaped: String = path
        .chars()
        .flat_map(|c| {
            let special = matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | ',');
            if special { vec!['[', c, ']'] } else { vec![c] }
        })
        .collect();
    format!("{{{escaped},{escaped}/*}}")
}

/// Returns the short form of a commit that people compare by eye.
#[must_use]
pub fn short(commit: &crate::hub::CommitSha) -> &str {
    &commit.as_str()[..8]
}

/// Returns the `"repo_type"` of JSON documents.
#[must_use]
pub fn type_name(repo: &Repo) -> &'static str {
    match repo.kind() {
        RepoKind::Model => "model",
        RepoKind::Dataset => "dataset",
    }
}

#[cfg(test)]
mod tests {
    use super::path_glob;

    #[test]
    fn the_glob_of_a_path_takes_that_path_alone() {
        for path in ["easy,v2", "a{b,c}d", "x[1]", "what?*"] {
            let glob = globset::GlobBuilder::new(&path_glob(path)).build().expect("a glob");
            let glob = glob.compile_matcher();
            assert!(glob.is_match(path) && glob.is_match(format!("{path}/task.toml")), "{path}");
            for other in ["easy", "v2", "v2/task.toml", "easy/task.toml", "abd", "x1", "what"] {
                assert!(!glob.is_match(other), "{path} takes {other}");
            }
        }
    }
}
