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
    /// [`Error::Job`] when the repository is the same, and its commit or folder is another: the
    /// job's records are to speak of one set of tasks.
    pub(super) fn check_same(&self, earlier: &Value, job: &std::path::Path) -> Result<()> {
        let Some(origin) = &self.origin else { return Ok(()) };
        let known = |key: &str, here: &str| earlier[key].as_str().is_none_or(|text| text == here);
        let same = known("commit", &origin.commit) && known("folder", &origin.folder);
        if !known("repository", &origin.repository) || same {
            return Ok(());
        }
        let text = |key: &str| crate::name::escape(earlier[key].as_str().unwrap_or_default());
        let (commit, folder) = (text("commit"), text("folder"));
        let named = |folder: &str| match folder {
            "" => "the whole repository".to_owned(),
            folder => format!("its folder {folder}"),
        };
        let reason = if known("commit", &origin.commit) {
            let (there, here) = (named(&folder), named(&crate::name::escape(&origin.folder)));
            format!("its tasks are of {there}, and now it is {here}")
        } else {
            let (there, here) = (short(&commit), short(&origin.commit));
            format!("its tasks are of commit {there}, and now it is {here}")
        };
        let tasks = match folder.as_str() {
            "" => format!("{}@{commit}", origin.repository),
            folder => format!("hf://{}@{commit}/{folder}", origin.repository),
        };
        let remedy =
            format!("`--tasks {tasks}` goes on with its tasks; or choose another folder with -o");
        Err(Error::job(job, reason, remedy))
    }
}

fn short(commit: &str) -> &str {
    commit.get(..8).unwrap_or(commit)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{Dataset, Origin};
    use crate::error::Diagnose as _;

    #[test]
    fn a_job_goes_on_with_its_commit_and_folder_alone() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let dataset = |commit: &str, folder: &str| {
            let origin = Origin {
                repository: "datasets/o/n".into(),
                commit: commit.into(),
                folder: folder.into(),
            };
            Dataset { origin: Some(origin), ..Dataset::local("tasks".into()) }
        };
        let earlier = dataset(&one, "easy").to_json();
        let job = Path::new("job");
        dataset(&one, "easy").check_same(&earlier, job).expect("is the same");
        let told = format!("`--tasks hf://datasets/o/n@{one}/easy`");
        for (commit, folder) in [(&two, "easy"), (&one, "hard"), (&one, "")] {
            let refused = dataset(commit, folder).check_same(&earlier, job).expect_err("differs");
            assert!(refused.help().concat().contains(&told), "{:?}", refused.help());
        }
        // Records of earlier versions do not name the folder.
        let earlier = json!({"repository": "datasets/o/n", "commit": one});
        dataset(&one, "hard").check_same(&earlier, job).expect("nothing speaks against it");
        let whole = dataset(&one, "").to_json();
        let refused = dataset(&two, "").check_same(&whole, job).expect_err("differs");
        let told = format!("`--tasks datasets/o/n@{one}`");
        assert!(refused.help().concat().contains(&told), "{:?}", refused.help());
    }
}
