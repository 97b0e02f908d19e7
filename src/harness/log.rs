//! `job.log` and `trial.log` as Harbor writes them: messages in plain lines, with neither date nor
//! level, added to by a run that goes on.
//!
//! They tell a reader what happened; nothing reads them back. No command, variable or reply of a
//! model goes into them, so that no secret does; of a server's words on a failure the key is taken
//! out where they are read.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::error::Result;
use crate::fsio;

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Opens a log at its end, made if absent.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { file: fsio::open_append(path)?, path: path.to_owned() })
    }

    /// Adds a message, which becomes one line. Threads may write at once.
    pub fn say(&self, message: &str) -> Result<()> {
        let line = crate::name::escape(&message.replace('\n', " ")) + "\n";
        let written = (&self.file).write_all(line.as_bytes());
        Ok(written.map_err(fsio::Error::io("write", &self.path))?)
    }
}

#[cfg(test)]
mod tests {
    use super::Log;

    #[test]
    fn messages_are_single_lines_and_runs_add_to_them() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("job.log");
        Log::open(&path).expect("opens").say("one\ntwo \u{1b}[2J").expect("writes");
        Log::open(&path).expect("opens").say("three").expect("writes");
        let text = crate::fsio::read_capped(&path, 100).expect("reads");
        assert_eq!(String::from_utf8_lossy(&text), "one two \\u{1b}[2J\nthree\n");
    }
}
