//! Running untrusted commands: one sandbox a trial, in which commands run one after another.
//!
//! Two implementations: [`bwrap`] (namespaces on this machine, no images) and [`podman`] (real
//! images). Both keep background processes alive between commands of one trial and kill all of
//! them with it. The kernel is shared with the host: neither is a virtual machine.

pub mod bwrap;
pub mod check;
mod copy;
mod disk;
pub mod error;
mod folder;
mod fork;
pub mod init;
pub mod limits;
pub mod output;
mod pipes;
pub mod podman;
mod remove;
mod root;
pub mod seccomp;
mod wire;

use std::path::Path;
use std::time::Duration;

pub use crate::engine::chat::CancelFlag;
pub use error::{Error, Result};
pub use limits::{Enforced, Limits};
pub use output::Captured;

/// A command to run in a sandbox.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// The text given to `bash -c`.
    pub script: String,
    /// The folder to run in; the sandbox's working folder if `None`.
    pub cwd: Option<String>,
    /// Variables on top of the sandbox's own.
    pub env: Vec<(String, String)>,
    /// The wall-clock limit; afterwards the command's process group gets SIGTERM, then SIGKILL.
    pub timeout: Duration,
}

impl ExecRequest {
    /// Returns a request without folder and variables of its own.
    #[must_use]
    pub fn new(script: impl Into<String>, timeout: Duration) -> Self {
        Self { script: script.into(), cwd: None, env: Vec::new(), timeout }
    }
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct ExecOutput {
    /// Standard output, its middle left out if longer than the output limit.
    pub stdout: Captured,
    /// Standard error, likewise.
    pub stderr: Captured,
    /// The exit code; 128 + signal when killed; 124 when it ran out of time.
    pub exit_code: i32,
    /// Whether it ran out of time.
    pub timed_out: bool,
}

/// How a sandbox was really set up, for the record.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// `bwrap` or `podman`, with version.
    pub kind: String,
    /// What the root is: overlay, read-only, an image.
    pub root: String,
    /// What can be reached by network.
    pub network: String,
    /// Every limit, and what enforces it.
    pub limits: Vec<Enforced>,
    /// What a reader of scores should know besides.
    pub notes: Vec<String>,
}

/// A running sandbox. Dropping it kills everything in it.
pub trait Sandbox: Send {
    /// Runs a command and waits for it.
    ///
    /// # Errors
    /// Only when the sandbox itself fails: a command's failure is an exit code.
    fn exec(&mut self, request: &ExecRequest) -> Result<ExecOutput>;

    /// Copies a file or folder of the host to `to`, which is replaced.
    ///
    /// # Errors
    /// [`Error::InTheWay`], and what the system says.
    fn copy_in(&mut self, from: &Path, to: &str) -> Result<()>;

    /// Copies the file or folder `from` to `to` on the host. Symbolic links are never followed
    /// out of the sandbox. Does nothing if `from` does not exist; what cannot be read is left out
    /// and noted in the report.
    ///
    /// # Errors
    /// What the system says.
    fn copy_out(&mut self, from: &str, to: &Path) -> Result<()>;

    /// Makes `path` an empty folder, whatever it was.
    ///
    /// # Errors
    /// [`Error::InTheWay`], and what the system says.
    fn empty_dir(&mut self, path: &str) -> Result<()>;

    /// Returns how it was set up.
    fn report(&self) -> &Report;

    /// Kills everything in it and removes its files.
    ///
    /// # Errors
    /// When files remain.
    fn stop(&mut self) -> Result<()>;
}
