//! Reads job folders, Harbor's and ours, into records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use super::record::{Outcome, TrialRecord, classify};
use super::verifier;
use crate::fsio;

const RESULT_BYTES_MAX: u64 = 256 << 20;

/// What a folder holds.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// The trials, by step, task and attempt.
    pub records: Vec<TrialRecord>,
    /// Folders that look like trials but have no result: run, not finished.
    pub unfinished: Vec<PathBuf>,
}

/// Reads a job folder.
///
/// Attempts are numbered as the records say; where they do not, by the time they started.
///
/// # Errors
/// [`Error::Record`] when a result is not one; [`Error::File`].
pub fn read(dir: &Path) -> Result<Imported> {
    let entries = std::fs::read_dir(dir).map_err(fsio::Error::io("list", dir))?;
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    dirs.retain(|path| path.is_dir());
    dirs.sort();
    let mut imported = Imported::default();
    let mut begun = Vec::new();
    for path in dirs {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = path.join("result.json");
        if !file.is_file() {
            if name.contains("__") {
                imported.unfinished.push(path);
            }
            continue;
        }
        let result = read_json(&file)?;
        let attempt = result.pointer("/agent_result/metadata/attempt").and_then(Value::as_u64);
        let started = result["started_at"].as_str().unwrap_or_default().to_owned();
        check_reward(&result, &file)?;
        begun.push((attempt, started, record_of(&result, &name)));
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

fn read_json(path: &Path) -> Result<Value> {
    let bytes = fsio::read_capped(path, RESULT_BYTES_MAX)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Record { path: path.to_owned(), reason: error.to_string() })
}

/// Sorts, and gives a number to the attempts that have none.
fn number_attempts(mut begun: Vec<(Option<u64>, String, TrialRecord)>) -> Vec<TrialRecord> {
    begun.sort_by(|a, b| {
        let key = |x: &(Option<u64>, String, TrialRecord)| {
            (x.2.step.clone(), x.2.task.clone(), x.0, x.1.clone(), x.2.trial.clone())
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
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
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
            }
        })
        .collect()
}
