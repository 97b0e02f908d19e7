//! Reads job folders, Harbor's and ours, into records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use super::record::{Outcome, TrialRecord, classify};
use super::{digest, verifier};
use crate::fsio;
use crate::select::estimate::{self, PassAtK};
use crate::select::records::{Attempt, Table};

const RESULT: &str = "result.json";
/// The most that a `result.json` may have; real ones have 4 kB.
const RESULT_BYTES_MAX: u64 = 256 << 20;

/// What a folder holds.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// The trials, by step and task, confirming ones last, and by attempt.
    pub records: Vec<TrialRecord>,
    /// Folders that look like trials but have no result: run, not finished.
    pub unfinished: Vec<PathBuf>,
}

/// One trial's result, with what statistics do not need but a report shows.
#[derive(Debug, Clone)]
pub struct Found {
    /// The record; its attempt is 0 unless the result says more.
    pub record: TrialRecord,
    /// The digest of the task.
    pub task_digest: Option<String>,
    /// The model, as the result names it.
    pub model: Option<String>,
    /// The agent and its version, as the result names them.
    pub agent: Option<String>,
    /// SHA-256 of the result's bytes.
    pub sha256: String,
    attempt: Option<u64>,
    started_at: String,
}

/// Says whether a folder is that of a finished trial; a job folder's own result names no task.
#[must_use]
pub fn is_trial(dir: &Path) -> bool {
    fsio::read_capped(&dir.join(RESULT), RESULT_BYTES_MAX)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .is_some_and(|result| result["task_name"].is_string())
}

/// Says whether a folder is that of a trial which was begun and has no result.
#[must_use]
pub fn is_unfinished(dir: &Path) -> bool {
    dir.join("config.json").is_file() && !dir.join(RESULT).is_file()
}

/// Reads the result in a trial's folder; `None` if there is none, or if it is another job's folder
/// within this one.
///
/// # Errors
/// [`Error::Record`] when it is not a trial's or its reward is not in `[0, 1]`; [`Error::File`].
pub fn trial(dir: &Path) -> Result<Option<Found>> {
    let path = dir.join(RESULT);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fsio::read_capped(&path, RESULT_BYTES_MAX)?;
    let is_job = |result: Value| result["task_name"].is_null() && result["stats"].is_object();
    if serde_json::from_slice(&bytes).is_ok_and(is_job) {
        return Ok(None);
    }
    parse(&bytes, &path).map(Some)
}

/// Reads one trial's `result.json`, which is at `path`.
///
/// # Errors
/// [`Error::Record`] when it is not a trial's or its reward is not in `[0, 1]`.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Found> {
    let bad = |reason: String| Error::Record { path: path.to_owned(), reason };
    let result: Value =
        serde_json::from_slice(bytes).map_err(|e| bad(format!("it is not JSON: {e}")))?;
    if !result["task_name"].is_string() {
        return Err(bad("it names no task".into()));
    }
    check_reward(&result, path)?;
    let name = fsio::parent(path).file_name().unwrap_or_default().to_string_lossy();
    let record = record_of(&result, &name);
    if let Some(reward) = record.reward.filter(|reward| !(0.0..=1.0).contains(reward)) {
        return Err(bad(format!("reward {reward} is not in [0, 1]")));
    }
    let text = |pointer: &str| result.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let version = text("/agent_info/version").unwrap_or_default();
    Ok(Found {
        record,
        task_digest: text("/task_checksum"),
        model: text("/agent_info/model_info/name"),
        agent: text("/agent_info/name").map(|name| format!("{name} {version}").trim_end().into()),
        sha256: digest::hex(bytes),
        attempt: result.pointer("/agent_result/metadata/attempt").and_then(Value::as_u64),
        started_at: text("/started_at").unwrap_or_default(),
    })
}

/// Reads a job folder.
///
/// Attempts are numbered as the records say; where they do not, by the time they started.
///
/// # Errors
/// [`Error::Record`] as [`trial`]; [`Error::File`].
pub fn read(dir: &Path) -> Result<Imported> {
    let mut dirs = fsio::entries(dir)?;
    dirs.retain(|path| path.is_dir());
    let mut imported = Imported::default();
    let mut begun = Vec::new();
    for path in dirs {
        match trial(&path)? {
            Some(found) => begun.push((found.attempt, found.started_at, found.record)),
            None if is_unfinished(&path) => imported.unfinished.push(path),
            None => {}
        }
    }
    imported.records = number_attempts(begun);
    Ok(imported)
}

/// A reward that is there is a number from 0 to 1: anything else would pass for a score.
fn check_reward(result: &Value, path: &Path) -> Result<()> {
    let rewards = result.pointer("/verifier_result/rewards").and_then(Value::as_object);
    let Some(reward) = rewards.and_then(|rewards| rewards.get("reward")) else { return Ok(()) };
    if reward.is_null() || reward.as_f64().is_some_and(|reward| (0.0..=1.0).contains(&reward)) {
        return Ok(());
    }
    let shown: String = crate::name::escape(&reward.to_string()).chars().take(60).collect();
    let reason = format!("reward {shown} is not in [0, 1]");
    Err(Error::Record { path: path.to_owned(), reason })
}

/// Sorts, and gives a number to the attempts that have none.
fn number_attempts(mut begun: Vec<(Option<u64>, String, TrialRecord)>) -> Vec<TrialRecord> {
    begun.sort_by(|a, b| {
        let key = |x: &(Option<u64>, String, TrialRecord)| {
            let record = &x.2;
            let cell = (record.step.clone(), record.task.clone(), record.confirms);
            (cell, x.0, x.1.clone(), record.trial.clone())
        };
        key(a).cmp(&key(b))
    });
    let mut next: BTreeMap<(String, String), u32> = BTreeMap::new();
    let mut records = Vec::new();
    for (attempt, _, mut record) in begun {
        let counter = next.entry((record.step.clone(), record.task.clone())).or_default();
        record.attempt = attempt.map_or(*counter, |n| u32::try_from(n).unwrap_or(u32::MAX));
        *counter += 1;
        records.push(record);
    }
    records
}

/// Makes a record of one trial's `result.json`; the attempt is 0 unless the result says more.
#[must_use]
pub fn record_of(result: &Value, trial: &str) -> TrialRecord {
    let text = |pointer: &str| result.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let number = |pointer: &str| result.pointer(pointer).and_then(Value::as_u64);
    let agent = text("/agent_info/name").unwrap_or_else(|| "unknown".into());
    let rewards = result.pointer("/verifier_result/rewards").and_then(Value::as_object);
    let reward = rewards.and_then(verifier::reward_of);
    let exception = text("/exception_info/exception_type");
    let attempt = number("/agent_result/metadata/attempt").unwrap_or(0);
    TrialRecord {
        step: text("/agent_info/model_info/name").unwrap_or(agent),
        task: text("/task_name").unwrap_or_else(|| trial.to_owned()),
        attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
        confirms: result.pointer("/agent_result/metadata/confirms") == Some(&Value::Bool(true)),
        reward,
        outcome: classify(exception.as_deref(), reward),
        exception,
        turns: number("/agent_result/metadata/turns"),
        format_errors: number("/agent_result/metadata/format_errors"),
        prompt_tokens: number("/agent_result/n_input_tokens"),
        completion_tokens: number("/agent_result/n_output_tokens"),
        agent_secs: agent_secs(result),
        trial: trial.to_owned(),
    }
}

fn agent_secs(result: &Value) -> Option<f64> {
    let at =
        |end: &str| -> Option<Timestamp> { result["agent_execution"][end].as_str()?.parse().ok() };
    let span = at("finished_at")?.duration_since(at("started_at")?);
    Some(span.as_secs_f64())
}

/// Returns the statistics of Harbor's job `result.json`.
#[must_use]
pub fn job_stats(read: &Imported, total: usize, dataset: &str) -> Value {
    let mut evals: BTreeMap<String, Vec<&TrialRecord>> = BTreeMap::new();
    for record in &read.records {
        let agent = match record.step.as_str() {
            step @ ("oracle" | "nop") => format!("{step}__{dataset}"),
            step => format!("vanillux__{step}__{dataset}"),
        };
        evals.entry(agent).or_default().push(record);
    }
    let sum = |count: fn(&TrialRecord) -> Option<u64>| -> Option<u64> {
        read.records.iter().filter_map(count).reduce(|a, b| a + b)
    };
    let errors = read.records.iter().filter(|record| record.exception.is_some()).count();
    let evals: Map<String, Value> =
        evals.into_iter().map(|(key, records)| (key, eval(&records))).collect();
    json!({
        "n_completed_trials": read.records.len(),
        "n_errored_trials": errors,
        "n_running_trials": 0,
        "n_pending_trials": total.saturating_sub(read.records.len()),
        "n_cancelled_trials": 0,
        "n_retries": 0,
        "evals": evals,
        "n_input_tokens": sum(|record| record.prompt_tokens),
        "n_output_tokens": sum(|record| record.completion_tokens),
    })
}

fn eval(records: &[&TrialRecord]) -> Value {
    let mut rewards: Map<String, Value> = Map::new();
    let mut exceptions: Map<String, Value> = Map::new();
    let push = |map: &mut Map<String, Value>, key: String, trial: &str| {
        let list = map.entry(key).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(trial.into());
        }
    };
    for record in records {
        if let Some(reward) = record.reward {
            push(&mut rewards, format!("{reward:?}"), &record.trial);
        }
        if let Some(exception) = &record.exception {
            push(&mut exceptions, exception.clone(), &record.trial);
        }
    }
    let scores: Vec<f64> = records.iter().filter_map(|record| record.score()).collect();
    let mean = scores.iter().sum::<f64>() / (scores.len().max(1) as f64);
    json!({
        "n_trials": records.iter().filter(|record| record.reward.is_some()).count(),
        "n_errors": records.iter().filter(|record| record.exception.is_some()).count(),
        "metrics": [{"mean": mean}],
        "reward_stats": {"reward": rewards},
        "exception_stats": exceptions,
    })
}

/// What one step did, for a person: nothing about uncertainty, which `select` knows.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct StepSummary {
    /// The step.
    pub step: String,
    /// The mean of the scores, from 0 to 1; none if nothing was scored.
    pub mean: Option<f64>,
    /// Trials that count.
    pub scored: usize,
    /// Tasks with a trial that counts.
    pub tasks: usize,
    /// Of these trials, those in which the agent ran out of time.
    pub timeouts: usize,
    /// Of these trials, those without a verdict.
    pub no_verdict: usize,
    /// Trials that do not count: the machine failed.
    pub infrastructure_failures: usize,
    /// pass@k for the powers of two up to the fewest trials of a task that count, if there are
    /// several of each and all rewards are 0 or 1.
    pub pass_at_k: Vec<PassAtK>,
}

/// Returns pass@k over `tasks`, which are sorted and hold every task that has a score.
fn pass_at_k(step: &str, tasks: &[&str], records: &[&TrialRecord]) -> Vec<PassAtK> {
    let names = tasks.iter().map(|task| (*task).to_owned()).collect();
    let Ok(mut table) = Table::new(vec![step.to_owned()], names) else { return Vec::new() };
    for record in records {
        let (Some(score), Some(task)) = (record.score(), table.task_index(&record.task)) else {
            continue;
        };
        if table.push(0, task, Attempt::graded(score)).is_err() {
            return Vec::new();
        }
    }
    estimate::pass_at_ks(&table, 0)
}

/// Sums records up by step, in the order of names.
#[must_use]
pub fn summarise(records: &[TrialRecord]) -> Vec<StepSummary> {
    let mut steps: BTreeMap<&str, Vec<&TrialRecord>> = BTreeMap::new();
    for record in records {
        steps.entry(&record.step).or_default().push(record);
    }
    let count = |records: &[&TrialRecord], outcome: Outcome| {
        records.iter().filter(|record| record.outcome == outcome).count()
    };
    steps
        .into_iter()
        .map(|(step, records)| {
            let scores: Vec<f64> = records.iter().filter_map(|record| record.score()).collect();
            let mut tasks: Vec<&str> = records
                .iter()
                .filter(|record| record.score().is_some())
                .map(|record| record.task.as_str())
                .collect();
            tasks.sort_unstable();
            tasks.dedup();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            StepSummary {
                step: step.to_owned(),
                mean: (!scores.is_empty()).then_some(mean),
                scored: scores.len(),
                tasks: tasks.len(),
                timeouts: count(&records, Outcome::AgentTimeout),
                no_verdict: count(&records, Outcome::NoVerdict),
                infrastructure_failures: count(&records, Outcome::Infrastructure),
                pass_at_k: pass_at_k(step, &tasks, &records),
            }
        })
        .collect()
}
