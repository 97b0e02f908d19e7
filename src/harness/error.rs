//! What can go wrong with tasks, prompts and job folders.

use std::path::{Path, PathBuf};

use crate::error::{Diagnose, Kind};
use crate::units::plural;

/// A failure that is neither a model's nor a task's result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A task cannot be used.
    #[error("task {}: {reason}", crate::name::escape(task))]
    Task {
        /// Its folder's name.
        task: String,
        /// What is wrong, with file and key.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// There is no task where tasks were looked for.
    #[error("no task in {}", path.display())]
    NoTasks {
        /// The folder.
        path: PathBuf,
    },
    /// A prompt file cannot be used.
    #[error("harness file {}: {reason}", path.display())]
    Prompts {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A trial's result is not one.
    #[error("{} is not a trial result: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A job folder cannot be used.
    #[error("job folder {}: {reason}", path.display())]
    Job {
        /// The folder or the file in it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// Nothing works: the trials all failed for the machine's reasons.
    #[error(
        "job folder {}: nothing works, {} failed: {why}",
        path.display(),
        plural(*failed as u64, "trial")
    )]
    Hopeless {
        /// The job folder.
        path: PathBuf,
        /// How many.
        failed: usize,
        /// What the last one says.
        why: String,
        /// Its kind.
        kind: Kind,
        /// Its help.
        help: Vec<String>,
    },
    /// A sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::Error),
    /// The model did not answer.
    #[error(transparent)]
    Model(#[from] crate::engine::chat::ChatError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] crate::fsio::Error),
    /// The run was interrupted.
    #[error("interrupted: finished trials are kept")]
    Interrupted,
}

/// The result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(super) fn task(task: &Path, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        let name = task.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::Task { task: name, reason: reason.into(), remedy: remedy.into() }
    }

    pub(super) fn job(
        path: &Path,
        reason: impl std::fmt::Display,
        remedy: impl Into<String>,
    ) -> Self {
        let reason = reason.to_string();
        Self::Job { path: path.to_owned(), reason, remedy: remedy.into() }
    }
}

impl Diagnose for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Task { .. } | Self::Prompts { .. } => Kind::BadData,
            Self::NoTasks { .. } => Kind::NotFound,
            Self::Job { .. } => Kind::Usage,
            Self::Record { .. } => Kind::BadData,
            Self::Hopeless { kind, .. } => *kind,
            Self::Sandbox(inner) => inner.kind(),
            Self::Model(inner) => inner.kind(),
            Self::File(inner) => inner.kind(),
            Self::Interrupted => Kind::Interrupted,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Task { .. } => "bad_task",
            Self::NoTasks { .. } => "no_tasks",
            Self::Prompts { .. } => "bad_harness_file",
            Self::Job { .. } => "bad_job",
            Self::Record { .. } => "not_a_trial_result",
            Self::Sandbox(inner) => inner.id(),
            Self::Model(inner) => inner.id(),
            _ => self.kind().id(),
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Task { remedy, .. } | Self::Job { remedy, .. } => vec![remedy.clone()],
            Self::Record { .. } => vec!["remove that trial's folder, or run it again".into()],
            Self::Hopeless { help, .. } => help.clone(),
            Self::NoTasks { .. } => {
                vec!["a task is a folder with task.toml, instruction.md and tests/test.sh".into()]
            }
            Self::Prompts { .. } => {
                vec!["docs/formats/harness.md names the keys of such a file".into()]
            }
            Self::Sandbox(inner) => inner.help(),
            Self::Model(inner) => inner.help(),
            Self::File(inner) => inner.help(),
            Self::Interrupted => vec!["run the same command to continue".into()],
        }
    }
}
