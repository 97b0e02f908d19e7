//! What can go wrong with a sandbox, and the remedy.

use crate::error::{Diagnose, Kind};
use crate::fsio;

/// A failure of the sandbox itself, never of the command in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program of the host is missing.
    #[error("`{program}` is not installed")]
    Missing {
        /// Its name.
        program: &'static str,
    },
    /// The sandbox could not be started.
    #[error("the {kind} sandbox does not start: {reason}")]
    Start {
        /// `bwrap` or `podman`.
        kind: &'static str,
        /// The last lines that it printed.
        reason: String,
    },
    /// The sandbox died while a command ran in it.
    #[error("the sandbox died: {reason}")]
    Died {
        /// What is known.
        reason: String,
    },
    /// A copy failed for the machine's reasons.
    #[error("cannot copy between this machine and {path} in the sandbox: {reason}")]
    Copy {
        /// The path inside.
        path: String,
        /// What was wrong.
        reason: String,
    },
    /// What ran in the sandbox left something where a file is to go. After the agent's work this
    /// is the agent's doing, and no failure of the machine.
    #[error("what ran in the sandbox is in the way of {path}: {reason}")]
    InTheWay {
        /// The path inside.
        path: String,
        /// What was wrong.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Its answer.
        #[source]
        source: std::io::Error,
    },
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fsio::Error),
    /// The task needs what this sandbox cannot give.
    #[error("{what}")]
    Unsupported {
        /// What it needs.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Interrupted,
}

/// The result of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Returns a function that wraps a system error with what was tried.
    pub fn io<E: Into<std::io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source: source.into() }
    }
}

impl Diagnose for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Interrupted => Kind::Interrupted,
            Self::File(inner) => inner.kind(),
            Self::Io { source, .. } if fsio::is_full(source) => Kind::Resources,
            _ => Kind::Program,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "sandbox_missing",
            Self::Start { .. } => "sandbox_start",
            Self::Died { .. } => "sandbox_died",
            Self::InTheWay { .. } => "sandbox_obstructed",
            Self::Unsupported { .. } => "sandbox_unsupported",
            _ => self.kind().id(),
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Missing { program: "bwrap" } => {
                vec!["apt install bubblewrap, or pass `--sandbox podman`".into()]
            }
            Self::Missing { program } => vec![format!("apt install {program}")],
            Self::Start { kind: "bwrap", reason } => bwrap_help(reason),
            Self::Start { .. } => podman_help(),
            Self::Died { .. } => {
                vec!["run the same command again: the trial was not counted".into()]
            }
            Self::Unsupported { remedy, .. } => vec![remedy.clone()],
            Self::Io { source, .. } if fsio::is_full(source) => {
                vec!["free some space and run the same command again".into()]
            }
            Self::InTheWay { .. } => {
                vec!["look at what the task's Dockerfile puts there".into()]
            }
            Self::Copy { .. } | Self::Io { .. } => {
                vec!["`tmax-ckpt doctor` checks the sandboxes".into()]
            }
            Self::File(inner) => inner.help(),
            Self::Interrupted => vec!["run the same command to continue".into()],
        }
    }
}

fn bwrap_help(reason: &str) -> Vec<String> {
    let mut help = Vec::new();
    if reason.contains("ermitted") || reason.contains("ermission") || reason.contains("namespace") {
        help.push("allow user namespaces: sysctl kernel.unprivileged_userns_clone=1".into());
        help.push("on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0".into());
        help.push("inside a container: run it with --privileged, or score on the host".into());
    }
    help.push("or pass `--sandbox podman`; `tmax-ckpt doctor` checks both".into());
    help
}

fn podman_help() -> Vec<String> {
    vec![
        "try by hand: podman run --rm debian:stable true".into(),
        "or pass `--sandbox bwrap`; `tmax-ckpt doctor` checks both".into(),
    ]
}
