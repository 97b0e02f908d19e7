//! Reads job folders that Harbor, or `score`, wrote, into a table of records.
//!
//! A job folder holds one folder a trial, each with a `result.json`. It is one step, or one a model
//! if its trials name several models; a folder of job folders is read as one step a job. Only verdicts, endings and counts are taken; a trial without a verdict
//! is an infrastructure failure, never a zero.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Diagnose, Kind, Result};
use crate::fsio;
use crate::name::escape;
use crate::select::records::{Attempt, Outcome, Table};

/// The most that a `result.json` may have; real ones have 4 kB.
const RESULT_BYTES_MAX: u64 = 16 << 20;

/// What can be wrong with job folders.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// There is no trial in the folder.
    #[error("{} holds no finished trial", dir.display())]
    NoTrials {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder cannot be read.
    #[error("cannot read the folder {}", dir.display())]
    Unreadable {
        /// The folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A result is not Harbor's.
    #[error("{} is not a trial result", path.display())]
    NotAResult {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A reward is outside `[0, 1]`.
    #[error("{}: reward {reward} is not in [0, 1]", path.display())]
    Reward {
        /// The file.
        path: PathBuf,
        /// What it says.
        reward: f64,
    },
}

impl Diagnose for JobError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoTrials { .. } | Self::Unreadable { .. } => Kind::NotFound,
            Self::NotAResult { .. } | Self::Reward { .. } => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::NoTrials { .. } => "no_trials",
            Self::Unreadable { .. } => "unreadable_folder",
            Self::NotAResult { .. } => "not_a_trial_result",
            Self::Reward { .. } => "bad_reward",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Self::NoTrials { .. } => {
                "give a job folder, whose folders are trials with a result.json, or a folder of \
                 such job folders"
            }
            Self::Unreadable { .. } => "give the folder that Harbor or `tmax-ckpt score` wrote",
            Self::NotAResult { .. } | Self::Reward { .. } => {
                "remove that trial's folder, or run it again"
            }
        };
        vec![line.to_owned()]
    }
}

/// Where the records of a step came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The step.
    pub step: String,
    /// The job folder.
    pub folder: PathBuf,
    /// The model, as the records name it.
    pub model: Option<String>,
    /// The agent and its version, as the records name them.
    pub agent: Option<String>,
    /// Trials read.
    pub trials: usize,
    /// SHA-256 over the SHA-256 of all results, in the order of the trials' names.
    pub sha256: String,
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Records {
    /// The table.
    pub table: Table,
    /// One entry a step, in the table's order.
    pub sources: Vec<Source>,
    /// Trial folders without a result: still running, or cut off.
    pub unfinished: usize,
    /// Tasks whose digest is not the same in all trials.
    pub changed_tasks: Vec<String>,
}

#[derive(Deserialize)]
struct TrialResult {
    task_name: String,
    task_checksum: Option<String>,
    agent_info: Option<AgentInfo>,
    agent_result: Option<AgentResult>,
    verifier_result: Option<VerifierResult>,
    exception_info: Option<ExceptionInfo>,
    agent_execution: Option<Timing>,
}

#[derive(Deserialize)]
struct AgentInfo {
    name: Option<String>,
    version: Option<String>,
    model_info: Option<ModelInfo>,
}

#[derive(Deserialize)]
struct ModelInfo {
    name: Option<String>,
}

#[derive(Deserialize)]
struct AgentResult {
    n_output_tokens: Option<u64>,
    metadata: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct VerifierResult {
    rewards: Option<BTreeMap<String, f64>>,
}

#[derive(Deserialize)]
struct ExceptionInfo {
    exception_type: String,
}

#[derive(Deserialize)]
struct Timing {
    started_at: Option<String>,
    finished_at: Option<String>,
}

/// Reads one trial's `result.json`, which is at `path`.
///
/// # Errors
/// It is not Harbor's, or its reward is not in `[0, 1]`.
pub fn read_result(bytes: &[u8], path: &Path) -> Result<Attempt, JobError> {
    let bad = |source| JobError::NotAResult { path: path.to_owned(), source };
    attempt(&serde_json::from_slice(bytes).map_err(bad)?, path)
}

/// One job folder's trials.
struct Job {
    folder: PathBuf,
    name: String,
    trials: Vec<(TrialResult, Attempt)>,
    hash: Sha256,
    unfinished: usize,
}

/// Reads all folders. Steps are put in numeric order where every name ends in a number, else they
/// keep the order given.
///
/// # Errors
/// A folder without trials, a result that is not Harbor's, two folders of one name.
pub fn read(folders: &[PathBuf]) -> Result<Records> {
    let mut jobs = Vec::new();
    for folder in folders {
        jobs.extend(jobs_in(folder)?);
    }
    let numbers: Option<Vec<u64>> = jobs.iter().map(|job| step_number(&job.name)).collect();
    if numbers.is_some() {
        jobs.sort_by_key(|job| step_number(&job.name));
    }
    table(&jobs)
}

/// Returns the last number in a name such as `tmax-9b_step_400`.
fn step_number(name: &str) -> Option<u64> {
    let digits = name.trim_end_matches(|c: char| !c.is_ascii_digit());
    let start = digits.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    let word = name.to_ascii_lowercase();
    word.contains("step").then(|| digits[start..].parse().ok()).flatten()
}

fn jobs_in(folder: &Path) -> Result<Vec<Job>> {
    let folders = folders_in(folder)?;
    if folders.iter().any(|dir| dir.join("result.json").is_file() && is_trial(dir)) {
        return job(folder, &folders);
    }
    let mut jobs = Vec::new();
    for dir in folders {
        let trials = folders_in(&dir)?;
        if trials.iter().any(|trial| is_trial(trial)) {
            jobs.extend(job(&dir, &trials)?);
        }
    }
    if jobs.is_empty() {
        return Err(JobError::NoTrials { dir: folder.to_owned() }.into());
    }
    Ok(jobs)
}

/// A job folder has a `result.json` too; that of a trial names its task.
fn is_trial(dir: &Path) -> bool {
    fsio::read_capped(&dir.join("result.json"), RESULT_BYTES_MAX)
        .is_ok_and(|bytes| serde_json::from_slice::<TrialResult>(&bytes).is_ok())
}

/// Returns the folders in a folder, sorted by name.
fn folders_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |source| JobError::Unreadable { dir: dir.to_owned(), source };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// Reads a job folder: one step, or one a model if its trials name several.
fn job(folder: &Path, trials: &[PathBuf]) -> Result<Vec<Job>> {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = absolute.file_name().unwrap_or(absolute.as_os_str());
    let mut models: BTreeMap<String, Job> = BTreeMap::new();
    let mut unfinished = 0;
    for dir in trials {
        let path = dir.join("result.json");
        if !path.is_file() {
            // Folders that hold no trial's files at all are not trials cut off.
            unfinished += usize::from(dir.join("config.json").is_file());
            continue;
        }
        let bytes = fsio::read_capped(&path, RESULT_BYTES_MAX)?;
        let result: TrialResult = serde_json::from_slice(&bytes)
            .map_err(|source| JobError::NotAResult { path: path.clone(), source })?;
        let attempt = attempt(&result, &path)?;
        let model = escape(model_of(&result).unwrap_or_default());
        let job = models.entry(model.clone()).or_insert_with(|| Job {
            folder: folder.to_owned(),
            name: model,
            trials: Vec::new(),
            hash: Sha256::new(),
            unfinished: 0,
        });
        job.hash.update(Sha256::digest(&bytes));
        job.trials.push((result, attempt));
    }
    let mut jobs: Vec<Job> = models.into_values().collect();
    if let [only] = jobs.as_mut_slice() {
        only.name = escape(&name.to_string_lossy());
    }
    if let Some(first) = jobs.first_mut() {
        first.unfinished = unfinished;
    }
    Ok(jobs)
}

fn model_of(result: &TrialResult) -> Option<&str> {
    result.agent_info.as_ref()?.model_info.as_ref()?.name.as_deref()
}

fn attempt(result: &TrialResult, path: &Path) -> Result<Attempt, JobError> {
    let rewards = result.verifier_result.as_ref().and_then(|v| v.rewards.as_ref());
    let reward = rewards.and_then(|rewards| match rewards.get("reward") {
        Some(reward) => Some(*reward),
        None if rewards.len() == 1 => rewards.values().next().copied(),
        None => None,
    });
    if let Some(reward) = reward.filter(|reward| !(0.0..=1.0).contains(reward)) {
        return Err(JobError::Reward { path: path.to_owned(), reward });
    }
    let exception = result.exception_info.as_ref().map(|e| e.exception_type.as_str());
    let outcome = match (reward, exception) {
        (None, _) => Outcome::Infrastructure,
        (Some(_), None) => Outcome::Finished,
        (Some(_), Some(name)) if name.contains("Timeout") => Outcome::Timeout,
        (Some(_), Some(_)) => Outcome::ModelFailure,
    };
    let agent = result.agent_result.as_ref();
    let counted = |key: &str| agent?.metadata.as_ref()?.get(key)?.as_u64();
    let timing = result.agent_execution.as_ref();
    let time = |text: &Option<String>| text.as_ref()?.parse::<Timestamp>().ok();
    let secs = timing.and_then(|t| {
        let took = time(&t.finished_at)?.duration_since(time(&t.started_at)?);
        Some(took.as_secs_f64().max(0.0))
    });
    Ok(Attempt {
        outcome,
        reward,
        tokens: agent.and_then(|a| a.n_output_tokens),
        turns: counted("turns"),
        format_errors: counted("format_errors"),
        secs,
    })
}

fn table(jobs: &[Job]) -> Result<Records> {
    let names: BTreeSet<String> = jobs
        .iter()
        .flat_map(|job| &job.trials)
        .map(|(result, _)| escape(&result.task_name))
        .collect();
    let steps = jobs.iter().map(|job| job.name.clone()).collect();
    let mut table = Table::new(steps, names.into_iter().collect())?;
    let mut digests: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (step, job) in jobs.iter().enumerate() {
        for (result, attempt) in &job.trials {
            let task = table.task_index(&escape(&result.task_name));
            table.push(step, task.expect("every task of the jobs is in the table"), *attempt)?;
            if let Some(digest) = &result.task_checksum {
                digests.entry(&result.task_name).or_default().insert(digest);
            }
        }
    }
    let changed = digests.iter().filter(|(_, digests)| digests.len() > 1);
    Ok(Records {
        changed_tasks: changed.map(|(task, _)| escape(task)).collect(),
        sources: jobs.iter().map(source).collect(),
        unfinished: jobs.iter().map(|job| job.unfinished).sum(),
        table,
    })
}

fn source(job: &Job) -> Source {
    let info = job.trials.iter().find_map(|(result, _)| result.agent_info.as_ref());
    let agent = info.and_then(|info| {
        let name = info.name.as_deref()?;
        Some(escape(format!("{name} {}", info.version.as_deref().unwrap_or("")).trim_end()))
    });
    Source {
        step: job.name.clone(),
        folder: job.folder.clone(),
        model: info.and_then(|i| i.model_info.as_ref()?.name.as_deref().map(escape)),
        agent,
        trials: job.trials.len(),
        sha256: job.hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::step_number;

    #[test]
    fn steps_are_numbered_by_the_last_number() {
        assert_eq!(step_number("tmax-9b_step_400"), Some(400));
        assert_eq!(step_number("step100"), Some(100));
        assert_eq!(step_number("tmax-9b"), None);
    }
}
