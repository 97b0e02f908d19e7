//! Where the tasks of a job come from.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::error::{Error, Result};

/// A set of tasks: a folder, and the commit of the repository that it was pulled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The folder of the tasks, or of one task.
    pub dir: PathBuf,
    /// What records call it.
    pub name: String,
    /// The repository, for tasks of the Hub.
    pub origin: Option<Origin>,
}

/// The one commit that tasks were pulled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `datasets/owner/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// The folder inside the repository; empty for all of it.
    pub folder: String,
}

impl Dataset {
    /// Names a folder of this machine.
    #[must_use]
    pub fn local(dir: PathBuf) -> Self {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { dir, name, origin: None }
    }

    /// Returns what records say of the origin; nothing for a folder of this machine.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.origin.as_ref().map_or(Value::Null, |origin| {
            json!({
                "repository": origin.repository,
                "commit": origin.commit,
                "folder": origin.folder,
            })
        })
    }

    /// Checks that a job whose records say `earlier` may go on with these tasks.
    ///
    /// # Errors
    /// [`Error::Job`] when the repository is the same and its commit is another: the job's records
    /// are to speak of one set of tasks.
    pub(super) fn check_same(&self, earlier: &Value, job: &std::path::Path) -> Result<()> {
        let Some(origin) = &self.origin else { return Ok(()) };
        let known = |key: &str, here: &str| earlier[key].as_str().is_none_or(|text| text == here);
        if !known("repository", &origin.repository) || known("commit", &origin.commit) {
            return Ok(());
        }
        let commit = earlier["commit"].as_str().unwrap_or_default();
        let (here, there) = (short(&origin.commit), crate::name::escape(commit));
        let reason = format!("its tasks are of commit {}, and now it is {here}", short(&there));
        let remedy = format!(
            "`--tasks {}@{there}` goes on with its tasks; or choose another folder with -o",
            origin.repository
        );
        Err(Error::job(job, reason, remedy))
    }
}

fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}
