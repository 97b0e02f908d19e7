//! What can go wrong between here and the Hub.

use std::time::Duration;

use crate::error::{Diagnose, Kind};
use crate::hash::Hash;
use crate::name::escape;
use crate::{fsio, units};

/// A failure of this module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not an `owner/name`.
    #[error("`{text}` is not a repository name")]
    BadRepo {
        /// What was given, escaped.
        text: String,
    },
    /// A revision list, glob or range that cannot be read, or a glob over files.
    #[error("`{pattern}` is not a pattern: {why}")]
    BadPattern {
        /// What was given, escaped.
        pattern: String,
        /// Why not.
        why: String,
    },
    /// The endpoint is not a URL.
    #[error("`{endpoint}` is not the URL of a Hub: {why}")]
    BadEndpoint {
        /// What was given.
        endpoint: String,
        /// Why not.
        why: String,
    },
    /// No such repository, or none that the token may see.
    #[error("repository {repo} not found on {endpoint}")]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The Hub.
        endpoint: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// No such branch, tag or commit.
    #[error("revision `{revision}` not found in {repo}")]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// What was asked for, escaped.
        revision: String,
        /// The nearest names that exist.
        near: Vec<String>,
        /// How many branches and tags there are.
        count: usize,
    },
    /// No such file in the revision.
    #[error("{path} not found in {repo}")]
    FileNotFound {
        /// Repository and revision.
        repo: String,
        /// The file, escaped.
        path: String,
        /// The nearest name that is there, escaped, where the names are known.
        near: Option<String>,
    },
    /// What is to be removed from the cache is in use.
    #[error("{repo} is in use: another process fetches or reads it")]
    InUse {
        /// The repository.
        repo: String,
    },
    /// A removal would take something else than what was shown.
    #[error("the cache is no longer as it was shown")]
    CacheChanged,
    /// A pull into a folder would leave it with files of two revisions.
    #[error("{folder} holds another revision: its {path} is not that of {revision}")]
    OtherRevision {
        /// The folder.
        folder: String,
        /// The first such file.
        path: String,
        /// What was to be pulled.
        revision: String,
    },
    /// A pull into a folder would write over a file that no pull has put there.
    #[error("{path} is there already, and is not the file of that name on the Hub")]
    Occupied {
        /// The file.
        path: String,
    },
    /// No file is left after `--include` and `--exclude`.
    #[error("no file of {repo} matches the given patterns")]
    NothingMatches {
        /// Repository and revision.
        repo: String,
    },
    /// The Hub wants another token, or consent to a licence.
    #[error("the Hub refuses {what}: {message}")]
    Auth {
        /// What was asked for.
        what: String,
        /// The Hub's words, escaped.
        message: String,
    },
    /// The Hub asks to wait longer than we do.
    #[error("the Hub limits the rate of requests and asks to wait {}", wait(*.retry_after))]
    RateLimited {
        /// What it asks for, if it said.
        retry_after: Option<Duration>,
    },
    /// An HTTP status that none of the above explains.
    #[error("HTTP {status} for {what}: {message}")]
    Status {
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// The Hub's words, escaped.
        message: String,
        /// Its `Retry-After`, where it could be read.
        retry_after: Option<Duration>,
    },
    /// No connection.
    #[error("cannot reach {host}: {why}")]
    Connect {
        /// Whom.
        host: String,
        /// The innermost reason.
        why: String,
    },
    /// The transfer broke off.
    #[error("the transfer of {what} broke off: {why}")]
    Cut {
        /// The file.
        what: String,
        /// The innermost reason.
        why: String,
    },
    /// Nothing arrived for too long.
    #[error("no answer for {what} in {}", units::duration(.after.as_secs_f64()))]
    Stalled {
        /// The file or request.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The server ignores byte ranges. Internal: the caller falls back to the whole file.
    #[error("the server ignores byte ranges for {what}")]
    RangeIgnored {
        /// The file.
        what: String,
    },
    /// The answer is not what the protocol says.
    #[error("the answer for {what} makes no sense: {why}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A name in the file list that would leave its folder.
    #[error("the file list of {repo} holds the unsafe name `{path}`")]
    UnsafePath {
        /// The repository.
        repo: String,
        /// The name, escaped.
        path: String,
    },
    /// More or fewer bytes than the file list says.
    #[error("{path}: expected {expected} bytes, got {got}")]
    SizeMismatch {
        /// The file.
        path: String,
        /// By the file list.
        expected: u64,
        /// As received.
        got: u64,
    },
    /// The bytes are not those that the Hub lists.
    #[error("{path}: expected {expected}, got {got}")]
    HashMismatch {
        /// The file.
        path: String,
        /// By the file list.
        expected: Hash,
        /// As received, twice.
        got: Hash,
    },
    /// Tries ran out.
    #[error("gave up on {what} after {attempts} tries without a new byte")]
    GaveUp {
        /// The file or request.
        what: String,
        /// How many.
        attempts: u32,
        /// The last failure.
        #[source]
        source: Box<Error>,
    },
    /// The network is needed but forbidden.
    #[error("{what} is not in the cache, and the network is off")]
    Offline {
        /// What is missing.
        what: String,
        /// The command that would fetch it.
        command: String,
    },
    /// The user stopped it.
    #[error("interrupted: {} are kept and will not be fetched again", units::bytes(*.kept_bytes))]
    Interrupted {
        /// What this run leaves on disk.
        kept_bytes: u64,
    },
    /// The file system.
    #[error(transparent)]
    Io(#[from] fsio::Error),
    /// A thread of ours died.
    #[error("a worker thread ended early: {0}")]
    Worker(String),
}

/// The result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It would fail again.
    Never,
    /// Wait a growing while.
    Backoff,
    /// Wait exactly so long.
    After(Duration),
}

impl Error {
    /// Says whether trying again makes sense.
    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::RateLimited { retry_after: Some(wait) }
            | Self::Status { status: 500.., retry_after: Some(wait), .. } => Retry::After(*wait),
            Self::RateLimited { retry_after: None }
            | Self::Status { status: 408 | 425 | 500.., .. }
            | Self::Connect { .. }
            | Self::Cut { .. }
            | Self::Stalled { .. }
            | Self::SizeMismatch { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    /// Turns an error of hf-hub into ours, without the URLs it carries: those of a CDN are
    /// signed, which makes them secrets.
    pub(super) fn from_hf(error: hf_hub::HFError, what: &str) -> Self {
        use hf_hub::HFError as H;
        let what = what.to_owned();
        match error {
            H::RateLimited { retry_after, .. } => Self::RateLimited { retry_after },
            H::AuthRequired { context } | H::Forbidden { context } => {
                Self::Auth { what, message: said(context.server_message, context.status.as_u16()) }
            }
            H::RepoNotFound { repo_id, .. } => {
                Self::FileNotFound { repo: repo_id, path: what, near: None }
            }
            H::RevisionNotFound { repo_id, revision, .. } => Self::RevisionNotFound {
                repo: repo_id,
                revision: escape(&revision),
                near: Vec::new(),
                count: 0,
            },
            H::EntryNotFound { path, repo_id, .. } => {
                Self::FileNotFound { repo: repo_id, path, near: None }
            }
            H::Http { context } | H::Conflict { context } => Self::Status {
                what,
                status: context.status.as_u16(),
                message: said(context.server_message, context.status.as_u16()),
                retry_after: None,
            },
            H::Request { source, .. } => Self::from_reqwest(source, what),
            H::Xet { source, .. } => Self::Cut { what, why: innermost(source.as_ref()) },
            other => Self::Protocol { what, why: escape(&other.to_string()) },
        }
    }

    /// Turns a transport error into ours.
    pub(super) fn from_reqwest(error: reqwest::Error, what: String) -> Self {
        let host = error.url().and_then(|u| u.host_str()).unwrap_or("the Hub").to_owned();
        let why = innermost(&error);
        if error.is_connect() {
            return Self::Connect { host, why };
        }
        if error.is_redirect() || error.is_builder() {
            return Self::Protocol { what, why };
        }
        Self::Cut { what, why }
    }
}

/// Returns the Hub's own words, made safe for a terminal and short.
pub(super) fn said(message: Option<String>, status: u16) -> String {
    match message {
        Some(text) if !text.is_empty() => escape(&text).chars().take(300).collect(),
        _ => format!("HTTP {status}"),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    escape(&last.to_string())
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or("for some time".into(), |d| units::duration(d.as_secs_f64()))
}

impl Diagnose for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::BadRepo { .. }
            | Self::BadPattern { .. }
            | Self::BadEndpoint { .. }
            | Self::OtherRevision { .. }
            | Self::Occupied { .. } => Kind::Usage,
            Self::RepoNotFound { .. }
            | Self::RevisionNotFound { .. }
            | Self::FileNotFound { .. }
            | Self::NothingMatches { .. } => Kind::NotFound,
            Self::Auth { .. } => Kind::Auth,
            Self::RateLimited { .. }
            | Self::Status { .. }
            | Self::Connect { .. }
            | Self::Cut { .. }
            | Self::Stalled { .. }
            | Self::RangeIgnored { .. }
            | Self::Protocol { .. }
            | Self::Offline { .. } => Kind::Network,
            Self::UnsafePath { .. } | Self::SizeMismatch { .. } | Self::HashMismatch { .. } => {
                Kind::BadData
            }
            Self::GaveUp { source, .. } => source.kind(),
            Self::Interrupted { .. } => Kind::Interrupted,
            Self::InUse { .. } | Self::CacheChanged => Kind::Resources,
            Self::Io(inner) => inner.kind(),
            Self::Worker(_) => Kind::Bug,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::RepoNotFound { .. } => "repo_not_found",
            Self::RevisionNotFound { .. } => "revision_not_found",
            Self::FileNotFound { .. } => "file_not_found",
            Self::RateLimited { .. } => "rate_limited",
            Self::Connect { .. } => "connect",
            Self::Stalled { .. } => "stalled",
            Self::UnsafePath { .. } => "unsafe_path",
            Self::SizeMismatch { .. } => "size_mismatch",
            Self::HashMismatch { .. } => "hash_mismatch",
            Self::Offline { .. } => "offline",
            Self::InUse { .. } => "cache_in_use",
            Self::CacheChanged => "cache_changed",
            Self::OtherRevision { .. } => "other_revision",
            Self::Occupied { .. } => "output_exists",
            Self::GaveUp { source, .. } => source.id(),
            Self::Io(inner) => inner.id(),
            _ => self.kind().id(),
        }
    }

    fn help(&self) -> Vec<String> {
        let lines: &[&str] = match self {
            Self::BadRepo { .. } => &["write owner/name, as in the address of its page"],
            Self::BadPattern { .. } => &["write a name, step_100,step_200, 'step_*' or \
                 'step_{100..400..50}'"],
            Self::BadEndpoint { .. } => &["pass --endpoint https://huggingface.co"],
            Self::RepoNotFound { with_token: true, .. } => {
                &["check the spelling, and that the token may read it if it is private"]
            }
            Self::RepoNotFound { .. } => {
                &["check the spelling; a private repository needs --token or HF_TOKEN"]
            }
            Self::RevisionNotFound { repo, near, count, .. } => {
                return near_help(repo, near, *count);
            }
            Self::FileNotFound { near: Some(near), .. } => {
                return vec![format!("did you mean `{near}`?")];
            }
            Self::FileNotFound { .. } => &["check the name, and that the revision has it"],
            Self::NothingMatches { .. } => &["check --include and --exclude"],
            Self::InUse { .. } => &["nothing was removed; wait until it is done, or end it"],
            Self::CacheChanged => {
                &["nothing was removed; run the same command again to see what would go now"]
            }
            Self::OtherRevision { .. } => {
                &["a folder holds one revision, with --force-download too: name another one, or \
                 remove this one first"]
            }
            Self::Occupied { .. } => {
                &["name another folder; --force-download writes over what is there"]
            }
            Self::Auth { .. } => {
                &["pass a token with --token or HF_TOKEN; gated models also want their licence \
                 accepted on their page"]
            }
            Self::RateLimited { .. } => {
                &["wait and run the same command again; a token raises the limit"]
            }
            Self::Connect { .. } => &["check the network, the proxy and --endpoint"],
            Self::UnsafePath { .. } => &["nothing was written; tell the repository's owner"],
            Self::SizeMismatch { .. } | Self::HashMismatch { .. } => {
                &["the server or a cache on the way damages the file; nothing wrong was kept"]
            }
            Self::Offline { command, .. } => {
                return vec![format!(
                    "`{command}` would fetch it, without --offline, HF_HUB_OFFLINE and the setting \
                     `offline`"
                )];
            }
            Self::GaveUp { source, .. } => return again(source.help()),
            Self::Status { .. } | Self::Cut { .. } | Self::Stalled { .. } => {
                &["run the same command again to continue"]
            }
            Self::Interrupted { .. } => &["run the same command to continue"],
            Self::Protocol { .. } | Self::RangeIgnored { .. } => {
                &["check --endpoint, and whether a proxy rewrites answers"]
            }
            Self::Io(inner) => return inner.help(),
            Self::Worker(_) => &[],
        };
        lines.iter().map(|line| (*line).to_owned()).collect()
    }
}

fn again(mut help: Vec<String>) -> Vec<String> {
    let line = "run the same command again to continue";
    if !help.iter().any(|l| l == line) {
        help.push(line.into());
    }
    help
}

fn near_help(repo: &str, near: &[String], count: usize) -> Vec<String> {
    let names: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    let mean = match names.as_slice() {
        [] => String::new(),
        names => format!("did you mean {}? ", names.join(" or ")),
    };
    // For a commit nobody has asked what else there is.
    let all = if count == 0 { "those".to_owned() } else { format!("the {count}") };
    vec![format!("{mean}`tmax-ckpt steps {repo}` lists {all} that exist")]
}
