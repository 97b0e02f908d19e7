//! The agent's loop: the Vanillux protocol, as docs/formats/harness.md describes it.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::digest;
use super::error::{Error, Result};
use super::prompts::Prompts;
use crate::engine::chat::{
    CancelFlag, ChatError, ChatModel, ChatReply, ChatRequest, Message, Role, Sampling, ToolCall,
    Usage,
};
use crate::sandbox::{ExecRequest, Sandbox};

/// Printed or contained in a command, it ends the agent's run.
pub const SUBMIT_MARKER: &str = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT";

/// Limits and sampling of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Replies at most.
    pub max_steps: u32,
    /// Time of one command.
    pub command_timeout: Duration,
    /// Format errors in a row that end the run.
    pub max_format_errors: u32,
    /// Time of one reply.
    pub reply_timeout: Duration,
    /// How tokens are drawn; each reply's seed is made from this one.
    pub sampling: Sampling,
    /// Extra variables of the chat template.
    pub template_args: Map<String, Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_steps: 64,
            command_timeout: Duration::from_secs(120),
            max_format_errors: 64,
            reply_timeout: Duration::from_secs(5 * 3600),
            sampling: Sampling::default(),
            template_args: Map::new(),
        }
    }
}

impl Settings {
    /// Returns everything that a score depends on besides texts and seed, for records.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "max_steps": self.max_steps,
            "command_timeout_secs": self.command_timeout.as_secs_f64(),
            "max_format_errors": self.max_format_errors,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k,
            "max_tokens": self.sampling.max_tokens,
            "template_args": self.template_args,
        })
    }
}

/// Why an agent stopped, its work being graded in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The submit marker.
    Submitted,
    /// As many replies as are allowed.
    StepLimit,
    /// As many format errors in a row as are allowed.
    FormatErrors,
    /// The conversation no longer fits.
    ContextWindow,
    /// The task's time for the agent is over.
    Timeout,
}

/// One reply and what came of it.
#[derive(Debug, Clone)]
pub struct Step {
    /// The reply.
    pub reply: ChatReply,
    /// What the model was told: an observation or a format error.
    pub answer: Option<Message>,
    /// Whether it was a format error.
    pub format_error: bool,
    /// The command's exit code.
    pub exit_code: Option<i32>,
    /// Seconds until the reply.
    pub reply_secs: f64,
    /// Seconds of the command.
    pub command_secs: f64,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Run {
    /// The conversation as the model saw it.
    pub messages: Vec<Message>,
    /// The replies.
    pub steps: Vec<Step>,
    /// Tokens over all replies.
    pub usage: Usage,
    /// Why it ended.
    pub end: End,
}

impl Run {
    /// Returns the number of format errors.
    #[must_use]
    pub fn format_errors(&self) -> usize {
        self.steps.iter().filter(|step| step.format_error).count()
    }
}

/// What an agent needs to run once.
pub struct Agent<'a> {
    /// The model.
    pub model: &'a dyn ChatModel,
    /// Where commands run.
    pub sandbox: &'a mut dyn Sandbox,
    /// The texts.
    pub prompts: &'a Prompts,
    /// Limits and sampling.
    pub settings: &'a Settings,
    /// When the task's time is over.
    pub deadline: Option<Instant>,
    /// Set by another thread to give up.
    pub cancel: CancelFlag,
}

impl Agent<'_> {
    /// Works on `instruction` until an end of the protocol.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::Sandbox`] when the infrastructure fails,
    /// [`Error::Interrupted`].
    pub fn run(&mut self, instruction: &str) -> Result<Run> {
        let mut run = Run {
            messages: vec![
                Message::new(Role::System, self.prompts.system.clone()),
                Message::new(Role::User, self.prompts.user_message(instruction)),
            ],
            steps: Vec::new(),
            usage: Usage::default(),
            end: End::StepLimit,
        };
        self.exec(&save_state("pwd"))?;
        let mut errors_in_a_row = 0;
        for index in 0..self.settings.max_steps {
            let Some(end) = self.step(&mut run, index)? else {
                errors_in_a_row = if last_failed(&run) { errors_in_a_row + 1 } else { 0 };
                if errors_in_a_row >= self.settings.max_format_errors {
                    run.end = End::FormatErrors;
                    break;
                }
                continue;
            };
            run.end = end;
            break;
        }
        Ok(run)
    }

    /// Does one reply and what follows from it; returns the end if it is one.
    fn step(&mut self, run: &mut Run, index: u32) -> Result<Option<End>> {
        if self.out_of_time() {
            return Ok(Some(End::Timeout));
        }
        let began = Instant::now();
        let reply = match self.ask(&run.messages, index) {
            Ok(reply) => reply,
            Err(ChatError::ContextWindow { .. }) => return Ok(Some(End::ContextWindow)),
            Err(ChatError::Timeout { .. }) if self.out_of_time() => return Ok(Some(End::Timeout)),
            Err(ChatError::Cancelled) => return Err(Error::Interrupted),
            Err(other) => return Err(other.into()),
        };
        let reply_secs = began.elapsed().as_secs_f64();
        add(&mut run.usage, reply.usage);
        let mut step = Step {
            reply,
            answer: None,
            format_error: false,
            exit_code: None,
            reply_secs,
            command_secs: 0.0,
        };
        let end = match action(&step.reply.message.tool_calls) {
            Action::FormatError { answers } => {
                self.refuse(run, &mut step, answers);
                None
            }
            Action::Command { id, command } => self.obey(run, &mut step, id, &command)?,
        };
        run.steps.push(step);
        Ok(end)
    }

    fn ask(&self, messages: &[Message], index: u32) -> Result<ChatReply, ChatError> {
        let mut sampling = self.settings.sampling;
        sampling.seed = digest::number(&format!("{} {index}", sampling.seed));
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.unwrap_or(Duration::MAX).min(self.settings.reply_timeout);
        self.model.chat(&ChatRequest {
            messages: messages.to_vec(),
            tools: self.prompts.tools.clone(),
            sampling,
            template_args: self.settings.template_args.clone(),
            timeout: Some(timeout),
            cancel: self.cancel.clone(),
        })
    }

    fn refuse(&self, run: &mut Run, step: &mut Step, answers: Option<String>) {
        let mut message = step.reply.message.clone();
        message.tool_calls.clear();
        run.messages.push(message);
        let text = self.prompts.format_error_message();
        let answer = match answers {
            Some(id) => Message::tool(id, text),
            None => Message::new(Role::User, text),
        };
        run.messages.push(answer.clone());
        step.format_error = true;
        step.answer = Some(answer);
    }

    fn obey(
        &mut self,
        run: &mut Run,
        step: &mut Step,
        id: String,
        command: &str,
    ) -> Result<Option<End>> {
        run.messages.push(step.reply.message.clone());
        let began = Instant::now();
        let done = self.exec(&wrap(command))?;
        step.command_secs = began.elapsed().as_secs_f64();
        step.exit_code = Some(done.exit_code);
        let (stdout, stderr) = (done.stdout.text(), done.stderr.text());
        let text = self.prompts.observation(&stdout, &stderr, done.exit_code);
        let submitted = command.contains(SUBMIT_MARKER) || text.contains(SUBMIT_MARKER);
        let answer = Message::tool(id, text);
        run.messages.push(answer.clone());
        step.answer = Some(answer);
        Ok(submitted.then_some(End::Submitted))
    }

    fn exec(&mut self, script: &str) -> Result<crate::sandbox::ExecOutput> {
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.unwrap_or(Duration::MAX).min(self.settings.command_timeout);
        Ok(self.sandbox.exec(&ExecRequest::new(script, timeout))?)
    }

    fn out_of_time(&self) -> bool {
        self.deadline.is_some_and(|at| Instant::now() >= at)
    }
}

fn last_failed(run: &Run) -> bool {
    run.steps.last().is_some_and(|step| step.format_error)
}

fn add(total: &mut Usage, one: Usage) {
    total.prompt_tokens += one.prompt_tokens;
    total.cached_tokens += one.cached_tokens;
    total.completion_tokens += one.completion_tokens;
}

enum Action {
    Command { id: String, command: String },
    FormatError { answers: Option<String> },
}

/// Reads what a reply asks for: its first call, and no other.
fn action(calls: &[ToolCall]) -> Action {
    let Some(call) = calls.first() else { return Action::FormatError { answers: None } };
    if call.name != "bash" {
        let answers = (!call.id.is_empty()).then(|| call.id.clone());
        return Action::FormatError { answers };
    }
    let Ok(Value::Object(arguments)) = serde_json::from_str::<Value>(&call.arguments) else {
        return Action::FormatError { answers: None };
    };
    let command = match arguments.get("command") {
        None => "",
        Some(Value::String(command)) => command.trim(),
        Some(_) => return Action::FormatError { answers: None },
    };
    Action::Command { id: call.id.clone(), command: command.to_owned() }
}

const STATE: &str = "/tmp/.vanillux2";

fn save_state(pwd: &str) -> String {
    format!("mkdir -p {STATE} && {pwd} > {STATE}/cwd && export -p > {STATE}/env")
}

/// Restores folder and exported variables before a command and saves them after it.
fn wrap(command: &str) -> String {
    format!(
        "cd \"$(cat {STATE}/cwd)\" 2>/dev/null || true\n\
         . {STATE}/env 2>/dev/null || true\n\
         {command}\n\
         _exit_code=$?\n\
         pwd > {STATE}/cwd\n\
         export -p > {STATE}/env\n\
         exit $_exit_code"
    )
}

#[cfg(test)]
mod tests {
    use super::{Action, action};
    use crate::engine::chat::ToolCall;

    fn call(name: &str, arguments: &str) -> Vec<ToolCall> {
        vec![ToolCall { id: "c1".into(), name: name.into(), arguments: arguments.into() }]
    }

    #[test]
    fn only_a_first_call_of_bash_with_an_object_counts() {
        let is = |calls: &[ToolCall]| match action(calls) {
            Action::Command { command, .. } => format!("run {command}"),
            Action::FormatError { answers } => format!("error {answers:?}"),
        };
        assert_eq!(is(&[]), "error None");
        assert_eq!(is(&call("sh", "{}")), "error Some(\"c1\")");
        assert_eq!(is(&call("bash", "{")), "error None");
        assert_eq!(is(&call("bash", "[1]")), "error None");
        assert_eq!(is(&call("bash", r#"{"command": 3}"#)), "error None");
        assert_eq!(is(&call("bash", "{}")), "run ");
        let two = [call("bash", r#"{"command":" ls\n"}"#), call("sh", "{}")].concat();
        assert_eq!(is(&two), "run ls");
    }
}
