//! Records: what a trial gave, and Harbor's files about it.
//!
//! The layout is Harbor's (0.24.0): `config.json`, `lock.json`, `result.json` for the job and for
//! each trial, `agent/trajectory.json` in ATIF 1.8. What Harbor has no field for is in the agent's
//! `kwargs`, in `agent_result.metadata` and in `tmax-ckpt.json` beside.

use serde_json::{Map, Value, json};

use super::agent::Run;
use super::task::Task;
use crate::engine::chat::{ChatReply, Message, ToolCall};

/// How a trial ended, as far as its score is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The tests gave a reward.
    Scored,
    /// The agent ran out of time; a reward counts if the tests gave one, else it is zero.
    AgentTimeout,
    /// The tests gave no reward, or what the agent left kept them from running: counted as zero,
    /// as Harbor does.
    NoVerdict,
    /// Something of ours or the machine's failed: no score, to be run again.
    Infrastructure,
}

/// One trial, as statistics need it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, schemars::JsonSchema)]
pub struct TrialRecord {
    /// The step or model.
    pub step: String,
    /// The task's name.
    pub task: String,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// Says whether it confirms a choice that was made before it (`select --confirm`).
    pub confirms: bool,
    /// What the tests gave, from 0 to 1.
    pub reward: Option<f64>,
    /// How it ended.
    pub outcome: Outcome,
    /// The name of the exception, if there was one.
    pub exception: Option<String>,
    /// Replies of the model.
    pub turns: Option<u64>,
    /// Of these, format errors.
    pub format_errors: Option<u64>,
    /// Tokens read, cached ones included.
    pub prompt_tokens: Option<u64>,
    /// Tokens written.
    pub completion_tokens: Option<u64>,
    /// Wall-clock seconds of the agent.
    pub agent_secs: Option<f64>,
    /// The trial's folder.
    pub trial: String,
}

impl TrialRecord {
    /// Returns what counts: the reward, zero for a model's failure, nothing for the machine's.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Infrastructure => None,
            _ => Some(self.reward.unwrap_or(0.0)),
        }
    }
}

/// Tells failures apart by Harbor's exception names.
#[must_use]
pub fn classify(exception: Option<&str>, reward: Option<f64>) -> Outcome {
    match (exception, reward) {
        (Some("AgentTimeoutError"), _) => Outcome::AgentTimeout,
        (_, Some(_)) => Outcome::Scored,
        (None, None) => Outcome::NoVerdict,
        (Some(name), None) => match name {
            "RewardFileNotFoundError"
            | "RewardFileEmptyError"
            | "VerifierOutputParseError"
            | "VerifierTimeoutError" => Outcome::NoVerdict,
            _ => Outcome::Infrastructure,
        },
    }
}

/// What a job's and a trial's Harbor files say about the agent.
#[must_use]
pub fn agent_config(name: &str, candidate: &str, kwargs: &Map<String, Value>) -> Value {
    if name == "oracle" || name == "nop" {
        return json!({"name": name, "kwargs": {}});
    }
    json!({"import_path": "tmax_ckpt:Vanillux", "model_name": candidate, "kwargs": kwargs})
}

/// What a job's and a trial's Harbor files say about the environment.
#[must_use]
pub fn environment_config(sandbox: &str) -> Value {
    match sandbox {
        "podman" => json!({"type": "podman", "kwargs": {}}),
        _ => json!({"import_path": "tmax_ckpt:Bwrap", "kwargs": {}}),
    }
}

/// A trial's `config.json`.
#[must_use]
pub fn trial_config(
    task: &Task,
    dataset: &str,
    trial: &str,
    job_dir: &str,
    job_id: &str,
    agent: &Value,
    sandbox: &str,
) -> Value {
    json!({
        "task": {"path": task.dir, "source": dataset},
        "trial_name": trial,
        "trials_dir": job_dir,
        "agent": agent,
        "environment": environment_config(sandbox),
        "verifier": {},
        "job_id": job_id,
    })
}

/// A trial's `lock.json`, which is also its entry in the job's.
#[must_use]
pub fn trial_lock(task: &Task, dataset: &str, agent: &Value, sandbox: &str) -> Value {
    json!({
        "schema_version": 2,
        "task": {
            "name": task.name,
            "type": "local",
            "digest": format!("sha256:{}", task.digest),
            "source": dataset,
            "path": task.dir,
        },
        "agent": agent,
        "environment": environment_config(sandbox),
        "verifier": {"environment_mode": "shared"},
    })
}

/// A trajectory in ATIF 1.8.
#[must_use]
pub fn trajectory(run: &Run, session: &str, model: &str, tools: &[Value]) -> Value {
    let mut steps = Vec::new();
    for (message, source) in run.messages.iter().take(2).zip(["system", "user"]) {
        steps.push(
            json!({"step_id": steps.len() + 1, "source": source, "message": message.content}),
        );
    }
    for step in &run.steps {
        let calls: Vec<Value> = step.reply.message.tool_calls.iter().map(call).collect();
        let mut entry = Map::new();
        entry.insert("step_id".into(), (steps.len() + 1).into());
        entry.insert("source".into(), "agent".into());
        entry.insert("message".into(), step.reply.message.content.clone().into());
        if let Some(reasoning) = &step.reply.message.reasoning {
            entry.insert("reasoning_content".into(), reasoning.clone().into());
        }
        if !calls.is_empty() {
            entry.insert("tool_calls".into(), calls.into());
        }
        if let Some(answer) = &step.answer {
            entry.insert("observation".into(), observation(answer, &step.reply));
        }
        entry.insert("metrics".into(), metrics(&step.reply));
        entry.insert("llm_call_count".into(), 1.into());
        let extra = json!({
            "format_error": step.format_error,
            "exit_code": step.exit_code,
            "reply_secs": step.reply_secs,
            "command_secs": step.command_secs,
        });
        entry.insert("extra".into(), extra);
        steps.push(Value::Object(entry));
    }
    json!({
        "schema_version": "ATIF-v1.8",
        "session_id": session,
        "agent": {
            "name": "tmax-ckpt",
            "version": env!("CARGO_PKG_VERSION"),
            "model_name": model,
            "tool_definitions": tools,
        },
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": run.usage.prompt_tokens,
            "total_completion_tokens": run.usage.completion_tokens,
            "total_cached_tokens": run.usage.cached_tokens,
            "total_steps": run.steps.len() + 2,
        },
        "extra": {"end": run.end},
    })
}

fn call(call: &ToolCall) -> Value {
    // ATIF wants an object; what the model wrote instead is kept as text.
    let arguments = match serde_json::from_str(&call.arguments) {
        Ok(Value::Object(map)) => map,
        _ => Map::from_iter([("_text".to_owned(), call.arguments.clone().into())]),
    };
    json!({"tool_call_id": call.id, "function_name": call.name, "arguments": arguments})
}

fn observation(answer: &Message, reply: &ChatReply) -> Value {
    let id = answer.tool_call_id.as_ref();
    let id = id.filter(|id| reply.message.tool_calls.iter().any(|call| call.id == **id));
    json!({"results": [{"source_call_id": id, "content": answer.content}]})
}

fn metrics(reply: &ChatReply) -> Value {
    let mut metrics = json!({
        "prompt_tokens": reply.usage.prompt_tokens,
        "completion_tokens": reply.usage.completion_tokens,
        "cached_tokens": reply.usage.cached_tokens,
    });
    if let Some(trace) = &reply.trace {
        metrics["completion_token_ids"] = trace.completion_ids.clone().into();
        metrics["logprobs"] =
            trace.logprobs.iter().map(|p| f64::from(*p)).collect::<Vec<_>>().into();
    }
    metrics
}
