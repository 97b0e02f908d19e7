//! The error that crosses module borders, and the process exit codes.
//!
//! Every module has its own `thiserror` enum. Such an enum implements [`Diagnose`], which says
//! what kind of failure it is and what a person can do about it; `?` then turns it into
//! [`Error`]. Nothing here prints: `cli` renders.

use std::fmt;

/// What went wrong, in the terms of a script that runs the tool.
///
/// The numbers are documented in the manual: they are only ever added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The answer is "no": differences, a mismatch, a failed check.
    Negative,
    /// Wrong usage or configuration.
    Usage,
    /// A repository, revision, file or tensor does not exist.
    NotFound,
    /// Authentication or permission.
    Auth,
    /// Network or Hub failure, or something needed while offline.
    Network,
    /// Corrupt, malformed or unsupported data.
    BadData,
    /// No disk, no memory, no device.
    Resources,
    /// A program that we ran failed: sandbox, task.
    Program,
    /// Interrupted by SIGINT; state is saved.
    Interrupted,
    /// Interrupted by SIGTERM; state is saved.
    Terminated,
    /// A bug in this program.
    Bug,
}

impl Kind {
    /// Returns the process exit code of this kind.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Negative => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Auth => 4,
            Self::Network => 5,
            Self::BadData => 6,
            Self::Resources => 7,
            Self::Program => 8,
            Self::Bug => 70,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Returns the stable identifier used in JSON errors when a module gives no finer one.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Negative => "negative",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Auth => "auth",
            Self::Network => "network",
            Self::BadData => "bad_data",
            Self::Resources => "resources",
            Self::Program => "program",
            Self::Bug => "bug",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        }
    }
}

/// A module's error that can say its kind and its remedy.
///
/// Messages are lowercase, have no full stop and fit after `error: `. Causes are the chain of
/// [`std::error::Error::source`].
pub trait Diagnose: std::error::Error + Send + Sync + 'static {
    /// Returns the kind, which decides the exit code.
    fn kind(&self) -> Kind;

    /// Returns the stable identifier for JSON (`revision_not_found`).
    fn id(&self) -> &'static str {
        self.kind().id()
    }

    /// Returns the help lines, each one complete, without the `help:` in front.
    fn help(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Any module's error, with help that callers added on the way up.
pub struct Error {
    inner: Box<dyn Diagnose>,
    help: Vec<String>,
}

/// The result of every function above the module level.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Adds a help line that only the caller can know, such as the command to run.
    #[must_use]
    pub fn with_help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.inner.kind()
    }

    /// Returns the stable identifier for JSON.
    #[must_use]
    pub fn id(&self) -> &'static str {
        self.inner.id()
    }

    /// Returns all help lines, the module's own first.
    #[must_use]
    pub fn help(&self) -> Vec<String> {
        let mut lines = self.inner.help();
        lines.extend(self.help.iter().cloned());
        lines
    }

    /// Returns the messages of the chain of causes, outermost first, the error itself left out.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self.inner.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes
    }
}

impl<E: Diagnose> From<E> for Error {
    fn from(inner: E) -> Self {
        Self { inner: Box::new(inner), help: Vec::new() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?})", self.inner, self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::{Diagnose, Error, Kind};

    #[derive(Debug, thiserror::Error)]
    #[error("shard 3 of 7 does not match its hash")]
    struct Outer(#[source] std::io::Error);

    impl Diagnose for Outer {
        fn kind(&self) -> Kind {
            Kind::BadData
        }
        fn help(&self) -> Vec<String> {
            vec!["first".into()]
        }
    }

    #[test]
    fn keeps_kind_causes_and_help_in_order() {
        let error = Error::from(Outer(std::io::Error::other("disk says no"))).with_help("second");
        assert_eq!(error.kind().exit_code(), 6);
        assert_eq!(error.causes(), ["disk says no"]);
        assert_eq!(error.help(), ["first", "second"]);
    }
}
