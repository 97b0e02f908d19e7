//! One trial: sandbox, agent, tests, records. The last file written makes it count.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::agent::{Agent, End, Run};
use super::environment::{self, Started};
use super::error::{Error, Result};
use super::job::{Candidate, Job, Who};
use super::log::Log;
use super::record::{self, Outcome, TrialRecord};
use super::task::Task;
use super::verifier::{self, Failure, Rewards};
use super::{digest, verifier::reward_of};
use crate::error::Diagnose as _;
use crate::fsio;
use crate::sandbox::{Report, Sandbox};
use crate::units::plural;

/// What a trial is for. One must never serve as the other: a choice that has seen a confirming
/// trial is no longer confirmed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// To score a candidate, and to choose among several.
    Score,
    /// To score the candidate that was chosen once more, unseen by the choice.
    Confirm,
}

/// One cell of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Trial {
    /// Index of the candidate.
    pub candidate: usize,
    /// Index of the task.
    pub task: usize,
    /// Which attempt of this purpose, from 0.
    pub attempt: u32,
    /// What it is for.
    pub purpose: Purpose,
}

/// What is known when a trial is over, one way or the other.
#[derive(Default)]
struct Account {
    phases: Map<String, Value>,
    run: Option<Run>,
    rewards: Option<Rewards>,
    /// Name and message.
    exception: Option<(String, String)>,
    sandbox: Option<Report>,
    notes: Vec<String>,
    agent_secs: Option<f64>,
}

/// Runs a trial into its folder, which does not count until `result.json` is in it.
///
/// # Errors
/// [`Error::Interrupted`], and errors of the job folder. A failed sandbox or model is a record.
pub(super) fn run(job: &Job, trial: Trial) -> Result<TrialRecord> {
    let candidate = &job.spec.candidates[trial.candidate];
    let task = &job.spec.tasks[trial.task];
    let name = job.trial_name(trial);
    let dir = job.spec.dir.join(&name);
    if dir.exists() {
        // Left by a run that was killed, or an infrastructure failure.
        std::fs::remove_dir_all(&dir).map_err(fsio::Error::io("remove", &dir))?;
    }
    for part in ["agent", "verifier", "artifacts"] {
        fsio::create_dir_all(&dir.join(part))?;
    }
    let agent = job.agent_config(candidate);
    let word = job.spec.host.word();
    let job_dir = job.spec.dir.display().to_string();
    let dataset = job.spec.dataset.name.as_str();
    let config = record::trial_config(task, dataset, &name, &job_dir, &job.id, &agent, word);
    write_json(&dir.join("config.json"), &config)?;
    let lock = record::trial_lock(task, dataset, &agent, word);
    write_json(&dir.join("lock.json"), &lock)?;
    let log = Log::open(&dir.join("trial.log"))?;
    let started_at = (job.spec.clock)();
    let mut account = Account::default();
    if let Err(error) = phases(job, trial, &name, &dir, &log, &mut account) {
        match error {
            Error::Interrupted
            | Error::Sandbox(crate::sandbox::Error::Interrupted)
            | Error::Model(crate::engine::chat::ChatError::Cancelled) => {
                log.say(&format!("Trial {name} cancelled"))?;
                return Err(Error::Interrupted);
            }
            Error::File(_) | Error::Job { .. } => return Err(error),
            error => {
                let known = Some((error.kind(), error.help()));
                *job.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = known;
                let (kind, message) = (exception_type(&error), chain(error));
                log.say(&format!("Trial {name} failed: {kind}: {message}"))?;
                account.exception = Some((kind.into(), message));
            }
        }
    }
    let times = (started_at, (job.spec.clock)());
    write_records(job, trial, &name, &dir, &config, &account, times)
}

/// Runs the phases in Harbor's order, noting when each began and ended.
fn phases(
    job: &Job,
    trial: Trial,
    name: &str,
    dir: &Path,
    log: &Log,
    account: &mut Account,
) -> Result<()> {
    let candidate = &job.spec.candidates[trial.candidate];
    let task = &job.spec.tasks[trial.task];
    let scratch = job.scratch().join(name);
    let clock = job.spec.clock;
    let began = clock();
    let Started { mut sandbox, notes } =
        environment::start(&job.spec.host, task, scratch, &job.spec.limits, &job.spec.cancel)?;
    log_environment(log, sandbox.report(), &notes)?;
    account.sandbox = Some(sandbox.report().clone());
    account.notes = notes;
    note_phase(account, "environment_setup", began, clock());
    log.say(&format!("Running agent {}", candidate.who.word()))?;
    let began = clock();
    let clocked = Instant::now();
    let worked = work(job, candidate, task, trial, sandbox.as_mut(), account);
    account.agent_secs = Some(clocked.elapsed().as_secs_f64());
    note_phase(account, "agent_execution", began, clock());
    log_notes(log, sandbox.report(), account)?;
    if let Some(run) = &account.run {
        write_run(job, candidate, name, dir, run)?;
        let end = json!(run.end);
        let end = end.as_str().unwrap_or_default();
        log.say(&format!("Agent ended after {}: {end}", plural(run.steps.len() as u64, "turn")))?;
    }
    worked?;
    log.say("Running the tests")?;
    sandbox.copy_out("/logs/agent", &dir.join("agent"))?;
    let began = clock();
    let verdict = verifier::verify(sandbox.as_mut(), task, dir);
    note_phase(account, "verifier", began, clock());
    let stopped = sandbox.stop();
    log_notes(log, sandbox.report(), account)?;
    let verdict = verdict?;
    match verdict {
        Ok(rewards) => {
            log.say(&format!("Rewards: {}", json!(rewards)))?;
            account.rewards = Some(rewards);
        }
        Err(failure) => {
            log.say(&format!("No reward: {}: {}", failure.exception_type(), failure.message()))?;
            note_failure(account, &failure);
        }
    }
    Ok(stopped?)
}

/// Notes what the sandbox did to what ran, such as killing it for the disk that it took.
fn log_notes(log: &Log, report: &Report, account: &mut Account) -> Result<()> {
    let known = account.sandbox.replace(report.clone()).map_or(0, |earlier| earlier.notes.len());
    report.notes.iter().skip(known).try_for_each(|note| log.say(&format!("Note: {note}")))
}

fn log_environment(log: &Log, report: &Report, notes: &[String]) -> Result<()> {
    let Report { kind, root, network, limits, notes: own } = report;
    log.say(&format!("Environment started: {kind}; {root}; network: {network}"))?;
    for limit in limits {
        log.say(&format!("Limit {} {}: {}", limit.limit, limit.value, limit.by))?;
    }
    notes.iter().chain(own).try_for_each(|note| log.say(&format!("Note: {note}")))
}

/// Lets the agent work.
fn work(
    job: &Job,
    candidate: &Candidate,
    task: &Task,
    trial: Trial,
    sandbox: &mut dyn Sandbox,
    account: &mut Account,
) -> Result<()> {
    let timed_out = match &candidate.who {
        Who::Nop => false,
        Who::Oracle => verifier::run_oracle(sandbox, task, task.agent_timeout)?.timed_out,
        Who::Model(model) => {
            let mut settings = job.spec.settings.clone();
            settings.sampling.seed = digest::number(&sampling_seed(job, trial));
            let mut agent = Agent {
                model: model.as_ref(),
                sandbox,
                prompts: &job.spec.prompts,
                settings: &settings,
                deadline: task.agent_timeout.map(|time| Instant::now() + time),
                cancel: job.spec.cancel.clone(),
            };
            let run = agent.run(&task.instruction)?;
            let timed_out = run.end == End::Timeout;
            account.run = Some(run);
            timed_out
        }
    };
    if timed_out {
        let secs = task.agent_timeout.unwrap_or_default().as_secs_f64();
        let message = format!("the agent did not finish within {secs} s");
        account.exception = Some(("AgentTimeoutError".into(), message));
    }
    Ok(())
}

/// Returns what the trial's randomness hangs on. All candidates get the same; a confirming trial
/// gets none that the choice has seen.
fn sampling_seed(job: &Job, trial: Trial) -> String {
    let digest = &job.spec.tasks[trial.task].digest;
    let seed = format!("{} {digest} {}", job.spec.seed, trial.attempt);
    match trial.purpose {
        Purpose::Score => seed,
        Purpose::Confirm => seed + " confirm",
    }
}

fn note_failure(account: &mut Account, failure: &Failure) {
    // Harbor keeps the first exception, and a time-out of the agent comes before.
    account.exception.get_or_insert_with(|| (failure.exception_type().into(), failure.message()));
}

fn note_phase(account: &mut Account, phase: &str, began: Timestamp, ended: Timestamp) {
    let times = json!({"started_at": began.to_string(), "finished_at": ended.to_string()});
    account.phases.insert(phase.into(), times);
}

/// Names an infrastructure failure as Harbor would, so that its statistics show it apart.
fn exception_type(error: &Error) -> &'static str {
    match error {
        Error::Model(_) => "ModelInfrastructureError",
        Error::Task { .. } => "EnvironmentBuildError",
        _ => "SandboxInfrastructureError",
    }
}

fn chain(error: Error) -> String {
    let error = crate::error::Error::from(error);
    let mut parts = vec![error.to_string()];
    parts.extend(error.causes());
    parts.join(": ")
}

fn write_run(job: &Job, candidate: &Candidate, name: &str, dir: &Path, run: &Run) -> Result<()> {
    let tools = &job.spec.prompts.tools;
    let trajectory = record::trajectory(run, name, &candidate.name, tools);
    write_json(&dir.join("agent/trajectory.json"), &trajectory)?;
    let messages: Vec<Value> = run.messages.iter().map(|m| m.to_openai()).collect();
    write_json(&dir.join("agent/messages.json"), &messages.into())
}

fn write_records(
    job: &Job,
    trial: Trial,
    name: &str,
    dir: &Path,
    config: &Value,
    account: &Account,
    (started_at, finished_at): (Timestamp, Timestamp),
) -> Result<TrialRecord> {
    let task = &job.spec.tasks[trial.task];
    let candidate = &job.spec.candidates[trial.candidate];
    let exception = account.exception.as_ref().map(|(kind, message)| {
        json!({
            "exception_type": kind,
            "exception_message": message,
            "exception_traceback": "",
            "occurred_at": finished_at.to_string(),
        })
    });
    if let Some((kind, message)) = &account.exception {
        let text = format!("{kind}: {message}\n");
        fsio::write_atomic(&dir.join("exception.txt"), text.as_bytes())?;
    }
    write_json(&dir.join("tmax-ckpt.json"), &provenance(job, trial, account))?;
    let phase = |name: &str| account.phases.get(name).cloned().unwrap_or(Value::Null);
    let model = matches!(candidate.who, Who::Model(_));
    let result = json!({
        "id": digest::uuid(&format!("{} {}", job.id, job.key(trial))),
        "task_name": task.name,
        "trial_name": name,
        "trial_uri": format!("file://{}", dir.display()),
        "task_id": {"path": task.dir},
        "source": job.spec.dataset.name,
        "task_checksum": task.digest,
        "config": config,
        "agent_info": {
            "name": candidate.who.word(),
            "version": env!("CARGO_PKG_VERSION"),
            "model_info": model.then(|| json!({"name": candidate.name})),
        },
        "agent_result": agent_result(trial, account),
        "verifier_result": account.rewards.as_ref().map(|rewards| json!({"rewards": rewards})),
        "verifier_environment_mode": "shared",
        "exception_info": exception,
        "started_at": started_at.to_string(),
        "finished_at": finished_at.to_string(),
        "environment_setup": phase("environment_setup"),
        "agent_setup": null,
        "agent_execution": phase("agent_execution"),
        "verifier": phase("verifier"),
        "step_results": null,
    });
    write_json(&dir.join("result.json"), &result)?;
    let record = super::import::record_of(&result, name);
    debug_assert_eq!(record.reward, account.rewards.as_ref().and_then(reward_of));
    Ok(record)
}

fn agent_result(trial: Trial, account: &Account) -> Value {
    let usage = account.run.as_ref().map(|run| run.usage);
    let mut metadata = json!({"attempt": trial.attempt, "agent_secs": account.agent_secs});
    if trial.purpose == Purpose::Confirm {
        metadata["confirms"] = true.into();
    }
    if let Some(run) = &account.run {
        metadata["turns"] = run.steps.len().into();
        metadata["format_errors"] = run.format_errors().into();
        metadata["end"] = json!(run.end);
    }
    json!({
        "n_input_tokens": usage.map(|usage| usage.prompt_tokens),
        "n_cache_tokens": usage.map(|usage| usage.cached_tokens),
        "n_output_tokens": usage.map(|usage| usage.completion_tokens),
        "cost_usd": null,
        "rollout_details": null,
        "metadata": metadata,
    })
}

/// What a score depends on and Harbor has no field for.
fn provenance(job: &Job, trial: Trial, account: &Account) -> Value {
    let candidate = &job.spec.candidates[trial.candidate];
    json!({
        "schema": "tmax-ckpt.trial/1",
        "key": job.key(trial),
        "repository": candidate.repository,
        "commit": candidate.commit,
        "dataset": job.spec.dataset.to_json(),
        "task_digest": job.spec.tasks[trial.task].digest,
        "harness_digest": job.harness_digest,
        "attempt": trial.attempt,
        "confirms": trial.purpose == Purpose::Confirm,
        "seed": job.spec.seed,
        "sandbox": account.sandbox,
        "notes": account.notes,
    })
}

/// Reads the record of a finished trial; `None` if it has to be run (again).
///
/// # Errors
/// [`Error::Job`] when the folder holds another trial's record under this name.
pub(super) fn finished(job: &Job, trial: Trial) -> Result<Option<TrialRecord>> {
    let name = job.trial_name(trial);
    let dir: PathBuf = job.spec.dir.join(&name);
    let path = dir.join("result.json");
    if !path.is_file() {
        return Ok(None);
    }
    let parse = |path: &Path| -> Result<Value> {
        let bytes = fsio::read_capped(path, 64 << 20)?;
        let remedy = format!("remove {} and run again", dir.display());
        serde_json::from_slice(&bytes).map_err(|error| Error::job(path, error, remedy))
    };
    let result = parse(&path)?;
    if parse(&dir.join("tmax-ckpt.json"))?["key"] != job.key(trial).as_str() {
        let remedy = format!("remove {} and run again", dir.display());
        return Err(Error::job(&dir, "it holds another trial under this name", remedy));
    }
    let record = super::import::record_of(&result, &name);
    Ok((record.outcome != Outcome::Infrastructure).then_some(record))
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("a value serialises");
    text.push('\n');
    Ok(fsio::write_atomic(path, text.as_bytes())?)
}
