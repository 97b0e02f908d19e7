//! Reads job folders that Harbor, or `score`, wrote, into a table of records.
//!
//! A job folder holds one folder a trial, each with a `result.json`. It is one step, or one a model
//! if its trials name several models; a folder of job folders is read as one step a job. All steps
//! are called after the same thing: their folders where each holds one model, else their models,
//! and folder and model where models repeat. How a
//! trial ended is what [`crate::harness::import`] says, as for `score import`: tests that gave no
//! verdict count zero, a failure of the machine counts nowhere. Trials that confirm an earlier
//! choice are kept apart from those that a choice may rest on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::import::{self, Found};
use super::record::{self, TrialRecord};
use crate::error::{Diagnose, Kind, Result};
use crate::name::escape;
use crate::select::records::{Attempt, Outcome, Table};

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
}

impl Diagnose for JobError {
    fn kind(&self) -> Kind {
        Kind::NotFound
    }

    fn id(&self) -> &'static str {
        match self {
            Self::NoTrials { .. } => "no_trials",
            Self::Unreadable { .. } => "unreadable_folder",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Self::NoTrials { .. } => {
                "give a job folder, whose folders are trials with a result.json, or a folder of \
                 such job folders"
            }
            Self::Unreadable { .. } => "give the folder that Harbor or `tmax-ckpt score` wrote",
        };
        vec![line.to_owned()]
    }
}

/// Where the records of a step came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Source {
    /// The step.
    pub step: String,
    /// The job folder.
    pub folder: PathBuf,
    /// The model, as the records name it.
    pub model: Option<String>,
    /// The agent and its version, as the records name them.
    pub agent: Option<String>,
    /// Trials that a choice may rest on: all but confirming ones.
    pub trials: usize,
    /// SHA-256 over the hexadecimal SHA-256 of all results, in the order of the trials' names.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Records {
    /// What a choice may rest on.
    pub table: Table,
    /// Confirming rollouts, if there are any: the same steps, and tasks of their own.
    pub fresh: Option<Table>,
    /// One entry a step, in the table's order.
    pub sources: Vec<Source>,
    /// Trial folders without a result: still running, or cut off.
    pub unfinished: usize,
    /// Tasks whose digest is not the same in all trials.
    pub changed_tasks: Vec<String>,
}

/// One job folder's trials.
struct Job {
    folder: PathBuf,
    /// The model, as its trials name it.
    model: String,
    name: String,
    trials: Vec<Found>,
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
    name_steps(&mut jobs);
    let numbers: Option<Vec<u64>> = jobs.iter().map(|job| step_number(&job.name)).collect();
    if numbers.is_some() {
        jobs.sort_by_key(|job| step_number(&job.name));
    }
    records(&jobs)
}

/// Calls all steps after the same thing.
fn name_steps(jobs: &mut [Job]) {
    let folder = |job: &Job| {
        let absolute = job.folder.canonicalize().unwrap_or_else(|_| job.folder.clone());
        escape(&absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy())
    };
    let folders: BTreeSet<&PathBuf> = jobs.iter().map(|job| &job.folder).collect();
    let models: BTreeSet<&String> = jobs.iter().map(|job| &job.model).collect();
    let names: Vec<String> = if folders.len() == jobs.len() {
        jobs.iter().map(folder).collect()
    } else if models.len() == jobs.len() {
        jobs.iter().map(|job| job.model.clone()).collect()
    } else {
        jobs.iter().map(|job| format!("{}/{}", folder(job), job.model)).collect()
    };
    for (job, name) in jobs.iter_mut().zip(names) {
        job.name = name;
    }
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
    if folders.iter().any(|dir| import::is_trial(dir)) {
        return job(folder, &folders);
    }
    let mut jobs = Vec::new();
    for dir in folders {
        let trials = folders_in(&dir)?;
        if trials.iter().any(|trial| import::is_trial(trial)) {
            jobs.extend(job(&dir, &trials)?);
        }
    }
    if jobs.is_empty() {
        return Err(JobError::NoTrials { dir: folder.to_owned() }.into());
    }
    Ok(jobs)
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
    let mut models: BTreeMap<String, Job> = BTreeMap::new();
    let mut unfinished = 0;
    for dir in trials {
        let Some(found) = import::trial(dir)? else {
            unfinished += usize::from(import::is_unfinished(dir));
            continue;
        };
        let model = escape(&found.record.step);
        let job = models.entry(model.clone()).or_insert_with(|| Job {
            folder: folder.to_owned(),
            model,
            name: String::new(),
            trials: Vec::new(),
            hash: Sha256::new(),
            unfinished: 0,
        });
        job.hash.update(&found.sha256);
        job.trials.push(found);
    }
    let mut jobs: Vec<Job> = models.into_values().collect();
    if let Some(first) = jobs.first_mut() {
        first.unfinished = unfinished;
    }
    Ok(jobs)
}

/// Returns a record as statistics take it.
#[must_use]
pub fn attempt(record: &TrialRecord) -> Attempt {
    let outcome = match (record.outcome, &record.exception) {
        (record::Outcome::Infrastructure, _) => Outcome::Infrastructure,
        (record::Outcome::AgentTimeout, _) => Outcome::Timeout,
        (record::Outcome::Scored, None) => Outcome::Finished,
        (record::Outcome::NoVerdict, _) | (record::Outcome::Scored, Some(_)) => {
            Outcome::ModelFailure
        }
    };
    Attempt {
        outcome,
        reward: record.score(),
        tokens: record.completion_tokens,
        turns: record.turns,
        format_errors: record.format_errors,
        secs: record.agent_secs,
    }
}

fn records(jobs: &[Job]) -> Result<Records> {
    let mut digests: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for found in jobs.iter().flat_map(|job| &job.trials) {
        if let Some(digest) = &found.task_digest {
            digests.entry(&found.record.task).or_default().insert(digest);
        }
    }
    let changed = digests.iter().filter(|(_, digests)| digests.len() > 1);
    let confirming = jobs.iter().flat_map(|job| &job.trials).any(|found| found.record.confirms);
    Ok(Records {
        table: table(jobs, |record| !record.confirms)?,
        fresh: confirming.then(|| table(jobs, |record| record.confirms)).transpose()?,
        changed_tasks: changed.map(|(task, _)| escape(task)).collect(),
        sources: jobs.iter().map(source).collect(),
        unfinished: jobs.iter().map(|job| job.unfinished).sum(),
    })
}

/// Makes a table of all steps from the records that are `wanted`.
fn table(jobs: &[Job], wanted: fn(&TrialRecord) -> bool) -> Result<Table> {
    let all = jobs.iter().enumerate();
    let all = all.flat_map(|(step, job)| job.trials.iter().map(move |found| (step, &found.record)));
    let found: Vec<(usize, &TrialRecord)> = all.filter(|(_, record)| wanted(record)).collect();
    let names: BTreeSet<String> = found.iter().map(|(_, record)| escape(&record.task)).collect();
    let steps = jobs.iter().map(|job| job.name.clone()).collect();
    let mut table = Table::new(steps, names.into_iter().collect())?;
    for (step, record) in found {
        let task = table.task_index(&escape(&record.task));
        let task = task.expect("every task of these records is in the table");
        table.push(step, task, attempt(record))?;
    }
    Ok(table)
}

fn source(job: &Job) -> Source {
    let first = job.trials.first();
    Source {
        step: job.name.clone(),
        folder: job.folder.clone(),
        model: first.and_then(|found| found.model.as_deref().map(escape)),
        agent: first.and_then(|found| found.agent.as_deref().map(escape)),
        trials: job.trials.iter().filter(|found| !found.record.confirms).count(),
        sha256: crate::units::hex(&job.hash.clone().finalize()),
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
