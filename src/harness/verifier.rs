//! Grading: the task's tests run after the agent, and what they write is read strictly.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::Result;
use super::task::Task;
use crate::sandbox::{Error as SandboxError, ExecRequest, Sandbox};

/// Why there is no reward although the agent has ended. The names are Harbor's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// They could not be put into the sandbox for what the agent left there: with the reason.
    Obstructed(String),
    /// The tests ran out of time.
    Timeout,
    /// They wrote neither reward file.
    NotFound,
    /// They wrote an empty one.
    Empty,
    /// They wrote no finite number from 0 to 1.
    NotANumber,
}

impl Failure {
    /// Returns Harbor's name of the exception.
    #[must_use]
    pub fn exception_type(&self) -> &'static str {
        match self {
            Self::Timeout => "VerifierTimeoutError",
            Self::Obstructed(_) | Self::NotFound => "RewardFileNotFoundError",
            Self::Empty => "RewardFileEmptyError",
            Self::NotANumber => "VerifierOutputParseError",
        }
    }

    /// Returns what a record says of it.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Obstructed(reason) => format!("the tests could not be run: {reason}"),
            _ => "the tests gave no reward".into(),
        }
    }
}

/// What the tests gave: all numbers by name, the one that counts under `reward`.
pub type Rewards = Map<String, Value>;

/// Puts the tests into the sandbox, runs them, and copies logs and artifacts to the trial's folder.
///
/// # Errors
/// When the sandbox fails.
pub fn verify(
    sandbox: &mut dyn Sandbox,
    task: &Task,
    trial_dir: &Path,
) -> Result<Result<Rewards, Failure>> {
    // What stands there now was put there by the agent.
    let cleared = sandbox.empty_dir("/logs/verifier");
    match cleared.and_then(|()| sandbox.copy_in(&task.dir.join("tests"), "/tests")) {
        // Else who fails could see to it that the trial does not count.
        Err(error @ SandboxError::InTheWay { .. }) => {
            return Ok(Err(Failure::Obstructed(error.to_string())));
        }
        other => other?,
    }
    let script = "chmod +x /tests/test.sh && /tests/test.sh > /logs/verifier/test-stdout.txt 2>&1";
    let mut request = ExecRequest::new(script, task.verifier_timeout);
    request.env.clone_from(&task.verifier_env);
    let done = sandbox.exec(&request)?;
    sandbox.copy_out("/logs/verifier", &trial_dir.join("verifier"))?;
    sandbox.copy_out("/logs/artifacts", &trial_dir.join("artifacts"))?;
    if done.timed_out {
        return Ok(Err(Failure::Timeout));
    }
    Ok(read_rewards(&trial_dir.join("verifier")))
}

/// Runs the task's own solution.
///
/// # Errors
/// When the sandbox fails.
pub fn run_oracle(
    sandbox: &mut dyn Sandbox,
    task: &Task,
    timeout: Option<Duration>,
) -> Result<crate::sandbox::ExecOutput> {
    sandbox.copy_in(&task.dir.join("solution"), "/solution")?;
    let script = "chmod +x /solution/solve.sh && /solution/solve.sh > /logs/agent/oracle.txt 2>&1";
    let timeout = timeout.unwrap_or(Duration::from_secs(24 * 3600));
    let mut request = ExecRequest::new(script, timeout);
    request.env.clone_from(&task.solution_env);
    Ok(sandbox.exec(&request)?)
}

/// Reads `reward.json`, else `reward.txt`.
///
/// # Errors
/// [`Failure`].
pub fn read_rewards(dir: &Path) -> Result<Rewards, Failure> {
    if let Some(text) = read(&dir.join("reward.json"))? {
        return rewards_of_json(&text);
    }
    let Some(text) = read(&dir.join("reward.txt"))? else { return Err(Failure::NotFound) };
    rewards_of_text(&text)
}

/// Reads what a `reward.json` says.
///
/// # Errors
/// [`Failure::NotANumber`].
pub fn rewards_of_json(text: &str) -> Result<Rewards, Failure> {
    match serde_json::from_str(text) {
        Ok(Value::Object(rewards)) => check(rewards),
        _ => Err(Failure::NotANumber),
    }
}

/// Reads what a `reward.txt` says.
///
/// # Errors
/// [`Failure::NotANumber`].
pub fn rewards_of_text(text: &str) -> Result<Rewards, Failure> {
    let number: f64 = text.trim().parse().map_err(|_| Failure::NotANumber)?;
    let number = serde_json::Number::from_f64(number).ok_or(Failure::NotANumber)?;
    check(Map::from_iter([("reward".to_owned(), Value::Number(number))]))
}

/// Returns the number that counts: `reward`, or the only one.
#[must_use]
pub fn reward_of(rewards: &Rewards) -> Option<f64> {
    let only = || rewards.values().next().filter(|_| rewards.len() == 1);
    rewards.get("reward").or_else(only)?.as_f64()
}

fn check(rewards: Rewards) -> Result<Rewards, Failure> {
    let fits = reward_of(&rewards).is_some_and(|reward| (0.0..=1.0).contains(&reward));
    let numbers = rewards.values().all(|value| value.as_f64().is_some_and(f64::is_finite));
    if fits && numbers { Ok(rewards) } else { Err(Failure::NotANumber) }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    // Copied out of the sandbox: never a link, but perhaps anything else.
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return Ok(None);
    }
    let bytes = crate::fsio::read_capped(path, 1 << 20).map_err(|_| Failure::NotANumber)?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::NotANumber)?;
    if text.trim().is_empty() { Err(Failure::Empty) } else { Ok(Some(text)) }
}

#[cfg(test)]
mod tests {
    use super::{Failure, read_rewards, reward_of};

    /// What a task's tests leave there is foreign: size and kind are checked before it is read.
    #[test]
    fn reward_files_of_any_size_and_kind_are_no_danger() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (json, text) = (dir.path().join("reward.json"), dir.path().join("reward.txt"));
        let huge = std::fs::File::create(&text).expect("creates");
        huge.set_len(1 << 40).expect("grows");
        assert_eq!(read_rewards(dir.path()), Err(Failure::NotANumber));
        std::fs::remove_file(&text).expect("removes");
        std::fs::write(&text, "1").expect("writes");
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let long = format!("{{\"reward\": 0.{}}}", "1".repeat(100_000));
        for (content, expected) in [
            (deep.as_str(), Err(Failure::NotANumber)),
            ("{\"reward\": NaN}", Err(Failure::NotANumber)),
            ("{\"reward\": 2}", Err(Failure::NotANumber)),
            ("{\"reward\": true}", Err(Failure::NotANumber)),
            ("{\"reward\": 0, \"reward\": 2}", Err(Failure::NotANumber)),
            ("{\"reward\": 1, \"speed\": 1e999}", Err(Failure::NotANumber)),
            (long.as_str(), Ok(Some(0.111_111_111_111_111_1))),
        ] {
            std::fs::write(&json, content).expect("writes");
            let read = read_rewards(dir.path()).map(|rewards| reward_of(&rewards));
            assert_eq!(read, expected, "{}", &content[..content.len().min(60)]);
        }
        std::fs::remove_file(&json).expect("removes");
        std::fs::write(&text, b"\xff1").expect("writes");
        assert_eq!(read_rewards(dir.path()), Err(Failure::NotANumber));
        std::fs::remove_file(&text).expect("removes");
        // Links and pipes are not read: the one could show a file of this machine, the other
        // would wait for ever.
        std::os::unix::fs::symlink("/proc/self/status", &text).expect("links");
        assert_eq!(read_rewards(dir.path()), Err(Failure::NotFound));
    }

    #[test]
    fn rewards_are_read_strictly() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let read = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("writes");
            let read = read_rewards(dir.path()).map(|rewards| reward_of(&rewards));
            std::fs::remove_file(dir.path().join(name)).expect("removes");
            read
        };
        assert_eq!(read_rewards(dir.path()), Err(Failure::NotFound));
        assert_eq!(read("reward.txt", "1\n"), Ok(Some(1.0)));
        assert_eq!(read("reward.txt", " 0.25 "), Ok(Some(0.25)));
        assert_eq!(read("reward.txt", "\n"), Err(Failure::Empty));
        for text in ["nan", "NaN", "inf", "-inf", "1e999", "2", "-0.1", "1.5", "0x1", "yes", "1 1"]
        {
            assert_eq!(read("reward.txt", text), Err(Failure::NotANumber), "{text}");
        }
        assert_eq!(read("reward.json", "{\"reward\": 0.5, \"speed\": 30}"), Ok(Some(0.5)));
        assert_eq!(read("reward.json", "{\"score\": 1}"), Ok(Some(1.0)));
        for text in
            ["{}", "[1]", "{\"a\": 1, \"b\": 1}", "{\"reward\": \"1\"}", "{\"reward\": 1e999}"]
        {
            assert_eq!(read("reward.json", text), Err(Failure::NotANumber), "{text}");
        }
    }
}
