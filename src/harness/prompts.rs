//! Prompt texts and the tool schema: data, ours by default, the Tmax authors' with a file.

use std::path::Path;

use serde_json::{Value, json};

use super::digest;
use super::error::{Error, Result};

/// The default texts, this project's own.
pub const DEFAULT: &str = include_str!("prompts/default.yaml");

const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that a model is told besides the task and its observations.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompts {
    /// The system message.
    pub system: String,
    /// The user message, with `{{task}}` in it.
    pub instance: String,
    /// What a format error is answered with, with `{{error}}` in it.
    pub format_error: String,
    /// What `{{error}}` becomes.
    pub format_error_reason: String,
    /// Longer observations are cut.
    pub max_chars: usize,
    /// What a cut keeps of the beginning.
    pub head_chars: usize,
    /// What a cut keeps of the end.
    pub tail_chars: usize,
    /// What stands before a cut observation.
    pub too_long_hint: String,
    /// The tools, as OpenAI objects.
    pub tools: Vec<Value>,
}

impl Prompts {
    /// Returns the default texts.
    #[must_use]
    pub fn ours() -> Self {
        Self::parse(DEFAULT, None).expect("the default prompts are tested")
    }

    /// Reads a file in the form of docs/formats/harness.md. Without `tool_schemas` in it,
    /// `tool_schemas.json` in the same folder counts, else the default schema.
    ///
    /// # Errors
    /// [`Error::Prompts`], [`Error::File`].
    pub fn load(path: &Path) -> Result<Self> {
        let bad = |reason: String| Error::Prompts { path: path.to_owned(), reason };
        let read = |path: &Path| -> Result<String> {
            let bytes = crate::fsio::read_input(path, FILE_BYTES_MAX)?;
            String::from_utf8(bytes).map_err(|_| bad("not UTF-8".into()))
        };
        let sibling = path.with_file_name("tool_schemas.json");
        let tools = if sibling.is_file() { Some(read(&sibling)?) } else { None };
        Self::parse(&read(path)?, tools.as_deref()).map_err(bad)
    }

    /// Reads the text of such a file, and of the `tool_schemas.json` beside it.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(yaml: &str, sibling_tools: Option<&str>) -> Result<Self, String> {
        parse(yaml, sibling_tools)
    }

    /// Returns the user message of a task.
    #[must_use]
    pub fn user_message(&self, instruction: &str) -> String {
        self.instance.replace("{{task}}", instruction.trim())
    }

    /// Returns the answer to a format error.
    #[must_use]
    pub fn format_error_message(&self) -> String {
        self.format_error.replace("{{error}}", &self.format_error_reason)
    }

    /// Returns the observation of a command.
    #[must_use]
    pub fn observation(&self, stdout: &str, stderr: &str, exit_code: i32) -> String {
        let mut text = stdout.to_owned();
        if !stderr.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text += stderr;
        }
        let text = text.trim_end();
        let text = if text.is_empty() { "(no output)".to_owned() } else { self.truncate(text) };
        format!("{text}\n\n(exit_code={exit_code})")
    }

    /// Cuts the middle out of a text of too many characters (Unicode scalar values).
    fn truncate(&self, text: &str) -> String {
        let count = text.chars().count();
        if count <= self.max_chars {
            return text.to_owned();
        }
        let (head, tail) = (self.head_chars, self.tail_chars);
        let first: String = text.chars().take(head).collect();
        let last: String = text.chars().skip(count - tail.min(count)).collect();
        // A file may ask to keep more than there is: then the pieces overlap and none is elided.
        let elided = count as i64 - head as i64 - tail as i64;
        format!(
            "{}\n\n---- HEAD ({head} chars) ----\n{first}\n---- {elided} chars elided ----\n\
             ---- TAIL ({tail} chars) ----\n{last}",
            self.too_long_hint
        )
    }

    /// Returns the hash of all texts and the tool schema.
    #[must_use]
    pub fn digest(&self) -> String {
        digest::of_json(&json!({
            "system_template": self.system,
            "instance_template": self.instance,
            "format_error_template": self.format_error,
            "format_error_reason": self.format_error_reason,
            "observation": {
                "max_chars": self.max_chars,
                "head_chars": self.head_chars,
                "tail_chars": self.tail_chars,
                "too_long_hint": self.too_long_hint,
            },
            "tool_schemas": self.tools,
        }))
    }
}

fn parse(yaml: &str, sibling_tools: Option<&str>) -> Result<Prompts, String> {
    let file: serde_yaml_ng::Value = serde_yaml_ng::from_str(yaml).map_err(|e| e.to_string())?;
    let text = |key: &str| file.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let need = |key: &str| text(key).ok_or_else(|| format!("`{key}` is missing or not a text"));
    let observation = file.get("observation");
    let number = |key: &str, default: usize| match observation.and_then(|o| o.get(key)) {
        None => Ok(default),
        Some(value) => match value.as_u64() {
            Some(n @ 1..=10_000_000) => Ok(n as usize),
            _ => Err(format!("`observation.{key}` is not a number from 1 to 10000000")),
        },
    };
    let hint = observation.and_then(|o| o.get("too_long_hint")).and_then(|v| v.as_str());
    let instance = need("instance_template")?;
    if !instance.contains("{{task}}") {
        return Err("`instance_template` lacks {{task}}".into());
    }
    let default_reason = "there was no valid call of the `bash` tool in the last reply.";
    Ok(Prompts {
        system: need("system_template")?,
        instance,
        format_error: need("format_error_template")?,
        format_error_reason: text("format_error_reason").unwrap_or_else(|| default_reason.into()),
        max_chars: number("max_chars", 10_000)?,
        head_chars: number("head_chars", 5_000)?,
        tail_chars: number("tail_chars", 5_000)?,
        too_long_hint: hint.unwrap_or("Output truncated.").to_owned(),
        tools: tools(&file, sibling_tools)?,
    })
}

fn tools(file: &serde_yaml_ng::Value, sibling: Option<&str>) -> Result<Vec<Value>, String> {
    let bad = |reason: &dyn std::fmt::Display| format!("tool_schemas: {reason}");
    let tools: Vec<Value> = match (file.get("tool_schemas"), sibling) {
        (Some(serde_yaml_ng::Value::String(text)), _) => {
            serde_json::from_str(text).map_err(|e| bad(&e))?
        }
        (Some(list), _) => serde_yaml_ng::from_value(list.clone()).map_err(|e| bad(&e))?,
        (None, Some(text)) => serde_json::from_str(text).map_err(|e| bad(&e))?,
        (None, None) => return Ok(Prompts::ours().tools),
    };
    let named =
        |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str) == Some("bash");
    if !tools.iter().any(named) {
        return Err(bad(&"no function is named bash"));
    }
    Ok(tools)
}

#[cfg(test)]
mod tests {
    use super::{Prompts, parse};

    #[test]
    fn the_default_texts_are_short() {
        let prompts = Prompts::ours();
        assert!(prompts.system.len() + prompts.instance.len() < 900);
        assert!(prompts.system.ends_with('\n'));
        let text = prompts.user_message(" \n do {{x}} \n");
        assert!(text.contains("\n\ndo {{x}}\n\n"));
        assert_eq!(prompts.tools[0]["function"]["name"], "bash");
    }

    #[test]
    fn observations_follow_the_protocol() {
        let prompts = Prompts::ours();
        assert_eq!(prompts.observation("", " \n", 0), "(no output)\n\n(exit_code=0)");
        assert_eq!(prompts.observation("a\n", "b\n", 1), "a\n\nb\n\n(exit_code=1)");
        assert_eq!(prompts.observation("", "b", 1), "b\n\n(exit_code=1)");
        let fits = "é".repeat(10_000);
        assert_eq!(prompts.observation(&fits, "", 0), format!("{fits}\n\n(exit_code=0)"));
        let cut =
            prompts.observation(&format!("{}{}", "é".repeat(5_000), "b".repeat(5_001)), "", 0);
        let hint = &prompts.too_long_hint;
        let (head, tail) = ("é".repeat(5_000), "b".repeat(5_000));
        assert_eq!(
            cut,
            format!(
                "{hint}\n\n---- HEAD (5000 chars) ----\n{head}\n---- 1 chars elided ----\n\
                 ---- TAIL (5000 chars) ----\n{tail}\n\n(exit_code=0)"
            )
        );
    }

    #[test]
    fn files_without_optional_keys_fit_and_bad_ones_are_named() {
        let yaml = "system_template: s\ninstance_template: '{{task}}'\nformat_error_template: e\n";
        let prompts = parse(yaml, None).expect("is enough");
        assert_eq!(prompts.tools, Prompts::ours().tools);
        assert_ne!(prompts.digest(), Prompts::ours().digest());
        let other = r#"[{"type":"function","function":{"name":"bash"}}]"#;
        assert_eq!(parse(yaml, Some(other)).expect("fits").tools.len(), 1);
        assert!(parse(yaml, Some("[]")).is_err());
        assert!(
            parse("system_template: s", None).expect_err("lacks").contains("instance_template")
        );
        assert!(parse(&format!("{yaml}observation: {{max_chars: -1}}"), None).is_err());
    }
}
