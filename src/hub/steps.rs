//! Branches that are training steps.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::client::{Hub, Online};
use super::error::Result;
use super::repo::{CommitSha, Repo};
use super::store::{Present, RepoCache};
use super::tree::TreeFile;
use crate::hash::Hash;
use crate::progress::SharedProgress;

/// How much of a step is in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// Every file.
    Whole,
    /// Some files.
    Partly,
    /// Nothing.
    No,
}

/// A branch that is a step, or `main`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The branch.
    pub name: String,
    /// The number in its name; `None` for `main`.
    pub number: Option<u64>,
    /// The step that has the same commit or the same files; only looked for on `main`.
    pub same_as: Option<String>,
    /// The commit.
    pub commit: CommitSha,
    /// Its date, if the Hub tells one.
    pub date: Option<jiff::Timestamp>,
    /// The sum of the file sizes.
    pub size_bytes: u64,
    /// How many files it has.
    pub files: usize,
    /// Whether it is in the cache.
    pub cached: Cached,
}

/// Returns the number of a branch that is a step: `step_100`, `step100`, `step-100`,
/// `run_step_100`; not `step_`, `stepper`, `global_step100`, which is DeepSpeed's own state.
#[must_use]
pub fn step_number(branch: &str) -> Option<u64> {
    let digits = branch.len() - branch.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (head, number) = branch.split_at(digits);
    let head = head.strip_suffix(['_', '-']).unwrap_or(head);
    let before = head.strip_suffix("step")?;
    if before.ends_with("global_") || before.ends_with("global-") {
        return None;
    }
    let alone = before.is_empty() || before.ends_with(['_', '-', '/', '.']);
    number.parse().ok().filter(|_| alone)
}

/// Returns a key that sorts names with the numbers in them taken as numbers.
pub(super) fn natural_key(name: &str) -> (String, u64, String) {
    let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (head, number) = name.split_at(digits);
    (head.to_owned(), number.parse().unwrap_or(0), name.to_owned())
}

impl Hub {
    /// Returns the steps of a repository in numeric order, and `main` after them.
    ///
    /// # Errors
    /// Those of the network; [`super::Error::Offline`].
    pub fn steps(&self, repo: &Repo, progress: &SharedProgress) -> Result<Vec<Step>> {
        let missing = || (format!("the list of {repo}'s steps"), format!("tmax-ckpt steps {repo}"));
        self.block_on(missing, |online| async move {
            let refs = online.refs(repo, progress).await?;
            let mut branches: Vec<_> = refs
                .branches
                .into_iter()
                .map(|(name, commit)| (step_number(&name), name, commit))
                .filter(|(number, name, _)| number.is_some() || name == "main")
                .collect();
            branches.sort_by(|a, b| (a.0.is_none(), a.0, &a.1).cmp(&(b.0.is_none(), b.0, &b.1)));
            let cache = RepoCache::new(&self.config.cache_dir, repo);
            let looked: Vec<(Step, Vec<TreeFile>)> = futures::stream::iter(branches)
                .map(|branch| look(&online, repo, &cache, branch, progress))
                .buffered(self.config.jobs.max(1))
                .try_collect()
                .await?;
            Ok(name_main(looked))
        })
    }
}

async fn look(
    online: &Arc<Online>,
    repo: &Repo,
    cache: &RepoCache,
    (number, name, commit): (Option<u64>, String, CommitSha),
    progress: &SharedProgress,
) -> Result<(Step, Vec<TreeFile>)> {
    let files = match cache.read_tree(&commit) {
        Some(files) => files,
        None => online.tree(repo, &commit, progress).await?,
    };
    let date = online.commit_date(repo, &commit, progress).await?;
    let here = |f: &&TreeFile| cache.present(f) != Present::No && cache.is_linked(&commit, f);
    let cached = match files.iter().filter(here).count() {
        0 => Cached::No,
        n if n == files.len() => Cached::Whole,
        _ => Cached::Partly,
    };
    let step = Step {
        name,
        number,
        same_as: None,
        commit,
        date,
        size_bytes: files.iter().map(|f| f.size).sum(),
        files: files.len(),
        cached,
    };
    Ok((step, files))
}

/// Names the step that `main` equals: by commit, else by its weights. A model card or another
/// text may well differ, the weights may not.
fn name_main(looked: Vec<(Step, Vec<TreeFile>)>) -> Vec<Step> {
    let weights = |files: &[TreeFile]| -> Vec<(String, Hash)> {
        let heavy = |f: &&TreeFile| f.path.ends_with(".safetensors") || f.path.ends_with(".bin");
        files.iter().filter(heavy).map(|f| (f.path.clone(), f.hash)).collect()
    };
    let main = looked.iter().find(|(step, _)| step.number.is_none());
    let same_as = main.and_then(|(main, files)| {
        let mine = weights(files);
        let steps = || looked.iter().filter(|(step, _)| step.number.is_some());
        let by_commit = steps().find(|(step, _)| step.commit == main.commit);
        let by_weights = || steps().find(|(_, files)| !mine.is_empty() && weights(files) == mine);
        by_commit.or_else(by_weights).map(|(step, _)| step.name.clone())
    });
    looked
        .into_iter()
        .map(|(step, _)| match step.number {
            None => Step { same_as: same_as.clone(), ..step },
            Some(_) => step,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{natural_key, step_number};

    #[test]
    fn step_branches_are_told_from_others() {
        let yes = [
            ("step_100", 100),
            ("step100", 100),
            ("step-20", 20),
            ("run1_step_0100", 100),
            ("swerl-step200", 200),
            ("grpo/step_7", 7),
        ];
        for (name, number) in yes {
            assert_eq!(step_number(name), Some(number), "{name}");
        }
        for name in ["main", "step_", "stepper100", "misstep_3", "global_step40", "v100", "step_1a"]
        {
            assert_eq!(step_number(name), None, "{name}");
        }
    }

    #[test]
    fn names_sort_by_number() {
        let mut names = ["step_1000", "main", "step_20", "step_100"];
        names.sort_by_key(|n| natural_key(n));
        assert_eq!(names, ["main", "step_20", "step_100", "step_1000"]);
    }
}
