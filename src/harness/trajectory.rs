//! Reads trajectories that others wrote: ATIF, which Harbor and `score` write, and plain lists of
//! OpenAI messages, which the Tmax authors published.
//!
//! A trajectory is foreign: its size, its number of messages and every field that is used are
//! checked. Nothing in it is followed: no path, no address.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{digest, import};
use crate::engine::chat::{Message, Role, ToolCall};
use crate::error::{Diagnose, Kind, Result};
use crate::fsio;
use crate::name::escape;

/// The most bytes of one trajectory; real ones have under 1 MB.
const BYTES_MAX: u64 = 64 << 20;
/// The most messages of one; the protocol makes 130.
const MESSAGES_MAX: usize = 4_096;
/// The most trajectories that are read.
const COUNT_MAX: usize = 10_000;
/// How deep in a folder trials are looked for: a folder of job folders holds them at two.
const DEPTH_MAX: usize = 3;

/// What can be wrong with trajectories.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrajectoryError {
    /// A file is not a trajectory.
    #[error("{} is not a trajectory: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is none where some were looked for.
    #[error("no trajectory in {}", path.display())]
    None {
        /// The folder.
        path: PathBuf,
        /// Trials that have one and were not solved.
        unsolved: usize,
    },
    /// There are more than `COUNT_MAX`.
    #[error("there are more than {COUNT_MAX} trajectories")]
    TooMany,
}

impl Diagnose for TrajectoryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Format { .. } => Kind::BadData,
            Self::None { .. } => Kind::NotFound,
            Self::TooMany => Kind::Usage,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Format { .. } => "bad_trajectory",
            Self::None { .. } => "no_trajectories",
            Self::TooMany => "too_many_trajectories",
        }
    }

    fn help(&self) -> Vec<String> {
        let line = match self {
            Self::Format { .. } => {
                "an ATIF document with steps, or a JSON list of OpenAI messages, is one"
            }
            Self::None { unsolved: 0, .. } => {
                "give trajectory files, a folder of them, or a job folder with solved trials"
            }
            Self::None { .. } => {
                "none of the trials there is solved; to use one all the same, name its file"
            }
            Self::TooMany => "give a folder with fewer; some hundreds say as much",
        };
        vec![line.to_owned()]
    }
}

/// A conversation in which an assistant works on a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// The conversation.
    pub messages: Vec<Message>,
    /// The tools as OpenAI objects; empty if it does not say.
    pub tools: Vec<Value>,
    /// The model that wrote the replies, if it says.
    pub model: Option<String>,
}

/// A trajectory and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// What it holds.
    pub trajectory: Trajectory,
}

/// Reads all trajectories of files and folders, each once, in the order of their paths.
///
/// Of a folder with trials (a job folder, or a folder of such), those of solved trials alone are
/// taken; of any other folder, all `.json` files. A file that is named is always taken.
///
/// # Errors
/// [`TrajectoryError`]; a file that cannot be read.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        for file in files_of(path)? {
            let bytes = fsio::read_capped(&file, BYTES_MAX)?;
            let sha256 = digest::hex(&bytes);
            let bad = |reason| TrajectoryError::Format { path: file.clone(), reason };
            let trajectory = parse(&bytes).map_err(bad)?;
            if seen.insert(sha256.clone()) {
                found.push(Found { path: file, sha256, trajectory });
            }
            if found.len() > COUNT_MAX {
                return Err(TrajectoryError::TooMany.into());
            }
        }
    }
    Ok(found)
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut trials = Trials::default();
    trials.look(path, 0)?;
    if trials.files.is_empty() && trials.unsolved == 0 {
        let is_json = |p: &PathBuf| p.is_file() && p.extension().is_some_and(|e| e == "json");
        trials.files = fsio::entries(path)?.into_iter().filter(is_json).collect();
    }
    if trials.files.is_empty() {
        let unsolved = trials.unsolved;
        return Err(TrajectoryError::None { path: path.to_owned(), unsolved }.into());
    }
    Ok(trials.files)
}

/// The trials of a folder that have a trajectory.
#[derive(Default)]
struct Trials {
    /// Of solved trials; of no trials where there is none.
    files: Vec<PathBuf>,
    unsolved: usize,
}

impl Trials {
    fn look(&mut self, dir: &Path, depth: usize) -> Result<()> {
        let file = dir.join("agent/trajectory.json");
        if file.is_file() {
            let solved = import::trial(dir)?.is_some_and(|t| t.record.score() == Some(1.0));
            if solved {
                self.files.push(file);
            } else {
                self.unsolved += 1;
            }
            return Ok(());
        }
        if depth < DEPTH_MAX {
            for entry in fsio::entries(dir)?.iter().filter(|entry| entry.is_dir()) {
                self.look(entry, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Reads one trajectory.
///
/// # Errors
/// Returns what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Trajectory, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("it is not JSON: {e}"))?;
    let trajectory = match &value {
        Value::Array(list) => openai(list)?,
        Value::Object(_) => atif(&value)?,
        _ => return Err("it is neither a document nor a list of messages".into()),
    };
    match trajectory.messages.first().map(|message| message.role) {
        Some(Role::System | Role::User) => {}
        _ => return Err("it begins neither with a system nor with a user message".into()),
    }
    if trajectory.messages.iter().all(|message| message.role != Role::Assistant) {
        return Err("no assistant speaks in it".into());
    }
    Ok(trajectory)
}

/// Reads a list of OpenAI messages.
fn openai(list: &[Value]) -> Result<Trajectory, String> {
    check_count(list.len())?;
    let mut messages = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let at = format!("message {}", index + 1);
        let role = match value["role"].as_str() {
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("tool") => Role::Tool,
            Some(other) => return Err(format!("{at}: unknown role `{}`", shown(other))),
            None => return Err(format!("{at} has no role")),
        };
        let mut message = Message::new(role, content(&value["content"], &at)?);
        message.reasoning = value["reasoning_content"].as_str().map(str::to_owned);
        for call in list_of(&value["tool_calls"], &at, "tool_calls")? {
            message.tool_calls.push(openai_call(call, &at)?);
        }
        message.tool_call_id = value["tool_call_id"].as_str().map(str::to_owned);
        messages.push(message);
    }
    Ok(Trajectory { messages, tools: Vec::new(), model: None })
}

fn openai_call(call: &Value, at: &str) -> Result<ToolCall, String> {
    let function = &call["function"];
    let name = function["name"].as_str().ok_or(format!("{at}: a call has no function name"))?;
    let arguments = match &function["arguments"] {
        Value::String(text) => text.clone(),
        object @ Value::Object(_) => object.to_string(),
        _ => return Err(format!("{at}: a call's arguments are neither a text nor an object")),
    };
    let id = call["id"].as_str().unwrap_or_default().to_owned();
    Ok(ToolCall { id, name: name.to_owned(), arguments })
}

/// Reads an ATIF document, of any version 1.
fn atif(value: &Value) -> Result<Trajectory, String> {
    match value["schema_version"].as_str() {
        Some(version) if version.starts_with("ATIF-v1.") => {}
        Some(other) => return Err(format!("schema `{}` is not ATIF-v1", shown(other))),
        None => return Err("it has no schema_version".into()),
    }
    let steps = value["steps"].as_array().ok_or("it has no steps")?;
    check_count(steps.len())?;
    let mut messages = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let at = format!("step {}", index + 1);
        let text = content(&step["message"], &at)?;
        match step["source"].as_str() {
            Some("system") => messages.push(Message::new(Role::System, text)),
            Some("user") => messages.push(Message::new(Role::User, text)),
            Some("agent") => atif_turn(step, text, &at, &mut messages)?,
            Some(other) => return Err(format!("{at}: unknown source `{}`", shown(other))),
            None => return Err(format!("{at} has no source")),
        }
    }
    let agent = &value["agent"];
    let tools = list_of(&agent["tool_definitions"], "agent", "tool_definitions")?;
    if let Some(bad) = tools.iter().position(|tool| !tool.is_object()) {
        return Err(format!("agent: tool definition {} is no object", bad + 1));
    }
    let model = agent["model_name"].as_str().map(str::to_owned);
    Ok(Trajectory { messages, tools: tools.to_vec(), model })
}

/// Reads a reply and what it was answered, as the model saw them.
fn atif_turn(
    step: &Value,
    text: String,
    at: &str,
    messages: &mut Vec<Message>,
) -> Result<(), String> {
    let mut reply = Message::new(Role::Assistant, text);
    reply.reasoning = step["reasoning_content"].as_str().map(str::to_owned);
    for call in list_of(&step["tool_calls"], at, "tool_calls")? {
        let name = call["function_name"].as_str();
        let name = name.ok_or(format!("{at}: a call has no function_name"))?;
        let Value::Object(arguments) = &call["arguments"] else {
            return Err(format!("{at}: a call's arguments are no object"));
        };
        let arguments = match arguments.get("_text").and_then(Value::as_str) {
            Some(raw) if arguments.len() == 1 => raw.to_owned(),
            _ => call["arguments"].to_string(),
        };
        let id = call["tool_call_id"].as_str().unwrap_or_default().to_owned();
        reply.tool_calls.push(ToolCall { id, name: name.to_owned(), arguments });
    }
    // The protocol keeps a format error's text in the conversation, and none of its calls.
    if step["extra"]["format_error"] == true {
        reply.tool_calls.clear();
    }
    messages.push(reply);
    for result in list_of(&step["observation"]["results"], at, "observation")? {
        let text = content(&result["content"], at)?;
        messages.push(match result["source_call_id"].as_str() {
            Some(id) => Message::tool(id, text),
            None => Message::new(Role::User, text),
        });
        check_count(messages.len())?;
    }
    Ok(())
}

fn check_count(count: usize) -> Result<(), String> {
    if count > MESSAGES_MAX {
        return Err(format!("{count} messages, at most {MESSAGES_MAX} are accepted"));
    }
    Ok(())
}

/// Returns a list, empty where there is none.
fn list_of<'v>(value: &'v Value, at: &str, what: &str) -> Result<&'v [Value], String> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(list) => Ok(list),
        _ => Err(format!("{at}: {what} is no list")),
    }
}

/// Returns a text, which may come in parts; only text can be forced on a text model.
fn content(value: &Value, at: &str) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| part["text"].as_str().ok_or(format!("{at}: a part holds no text")))
            .collect(),
        _ => Err(format!("{at}: its content is no text")),
    }
}

fn shown(text: &str) -> String {
    escape(&text.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{MESSAGES_MAX, parse};
    use crate::engine::chat::Role;

    fn read(value: &serde_json::Value) -> Result<super::Trajectory, String> {
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn both_forms_give_the_same_conversation() {
        let call = json!({"command": "ls", "n": 2});
        let atif = json!({
            "schema_version": "ATIF-v1.8",
            "agent": {"model_name": "m", "tool_definitions": [{"type": "function"}]},
            "steps": [
                {"source": "system", "message": "s"},
                {"source": "user", "message": [{"type": "text", "text": "u"}]},
                {"source": "agent", "message": "a", "reasoning_content": "r",
                 "tool_calls": [{"tool_call_id": "c", "function_name": "bash", "arguments": call}],
                 "observation": {"results": [{"source_call_id": "c", "content": "out"}]}},
                {"source": "agent", "message": "oh", "extra": {"format_error": true},
                 "tool_calls": [{"tool_call_id": "d", "function_name": "sh", "arguments": {}}],
                 "observation": {"results": [{"source_call_id": null, "content": "no call"}]}},
            ],
        });
        let list = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a", "reasoning_content": "r", "tool_calls": [
                {"id": "c", "function": {"name": "bash", "arguments": call.to_string()}}]},
            {"role": "tool", "tool_call_id": "c", "content": "out"},
            {"role": "assistant", "content": "oh", "tool_calls": null},
            {"role": "user", "content": "no call"},
        ]);
        let (atif, list) = (read(&atif).expect("reads"), read(&list).expect("reads"));
        assert_eq!(atif.messages, list.messages);
        assert_eq!(atif.messages[3].role, Role::Tool);
        assert_eq!((atif.model.as_deref(), atif.tools.len()), (Some("m"), 1));
    }

    #[test]
    fn what_is_no_trajectory_is_refused_with_the_reason() {
        let user = json!({"role": "user", "content": "u"});
        for (bad, why) in [
            (json!(3), "neither a document"),
            (json!({}), "no schema_version"),
            (json!({"schema_version": "ATIF-v2.0"}), "is not ATIF-v1"),
            (json!({"schema_version": "ATIF-v1.8"}), "no steps"),
            (json!([]), "begins neither"),
            (json!([{"role": "assistant", "content": "a"}]), "begins neither"),
            (json!([user]), "no assistant speaks"),
            (json!([{"role": "\u{1b}[31m", "content": ""}]), "unknown role `\\u{1b}"),
            (json!([user, {"role": "assistant", "content": 3}]), "message 2: its content"),
            (json!([user, {"role": "assistant", "tool_calls": 3}]), "tool_calls is no list"),
            (json!([user, {"role": "assistant", "tool_calls": [{}]}]), "no function name"),
            (json!(vec![&user; MESSAGES_MAX + 1]), "at most"),
        ] {
            let got = read(&bad).expect_err("is refused");
            assert!(got.contains(why), "{got}");
        }
        assert!(parse(b"{").expect_err("is refused").contains("not JSON"));
    }
}
