//! Tool calls out of a model's text, in the two forms that Qwen models write.
//!
//! Qwen3.5 writes XML (`<function=bash>`, `<parameter=command>`), with values on lines of their
//! own; Qwen3 writes JSON between `<tool_call>` tags (Hermes). What does not parse stays text:
//! whether that is an error is the harness's business.

use serde_json::{Map, Value};

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call><function=…><parameter=…>…`.
    Xml,
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`.
    Json,
}

/// A call as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedCall {
    /// The tool's name.
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

impl ToolFormat {
    /// Finds the form that a chat template teaches.
    #[must_use]
    pub fn of_template(template: &str) -> Self {
        if template.contains("<function=") { Self::Xml } else { Self::Json }
    }

    /// Splits an answer into the text before the first call, and the calls.
    ///
    /// Text up to the end of thinking is never searched. Without a complete call the whole answer
    /// is text. `tools` are OpenAI tool objects: their schemas say which XML values are not text.
    #[must_use]
    pub fn parse(self, answer: &str, tools: &[Value]) -> (String, Vec<ParsedCall>) {
        let start = answer.rfind("</think>").map_or(0, |at| at + "</think>".len());
        let (calls, first) = match self {
            Self::Xml => parse_xml(&answer[start..], tools),
            Self::Json => parse_json(&answer[start..]),
        };
        match first {
            Some(first) if !calls.is_empty() => (answer[..start + first].to_owned(), calls),
            _ => (answer.to_owned(), Vec::new()),
        }
    }
}

/// Returns the calls, and where the first tag begins.
fn parse_xml(text: &str, tools: &[Value]) -> (Vec<ParsedCall>, Option<usize>) {
    let first = text.find("<tool_call>").or_else(|| text.find("<function="));
    let mut calls = Vec::new();
    let mut rest = &text[first.unwrap_or(text.len())..];
    while let Some((_, after)) = rest.split_once("<function=") {
        let Some((name, body)) = after.split_once('>') else { break };
        let name = name.trim();
        let Some((arguments, after)) = xml_parameters(body, name, tools) else { break };
        calls.push(ParsedCall {
            name: name.to_owned(),
            arguments: Value::Object(arguments).to_string(),
        });
        rest = after;
    }
    (calls, first)
}

/// Reads parameters up to `</function>`; nothing if the text ends before.
fn xml_parameters<'t>(
    mut body: &'t str,
    function: &str,
    tools: &[Value],
) -> Option<(Map<String, Value>, &'t str)> {
    let mut arguments = Map::new();
    loop {
        let end = body.find("</function>")?;
        match body.find("<parameter=") {
            Some(at) if at < end => {
                let (key, after) = body[at + "<parameter=".len()..].split_once('>')?;
                let (value, after) = xml_value(after)?;
                let key = key.trim();
                arguments.insert(key.to_owned(), typed(value, function, key, tools));
                body = after;
            }
            _ => return Some((arguments, &body[end + "</function>".len()..])),
        }
    }
}

/// Takes a value up to its closing tag, or to the next tag where a model forgot to close.
///
/// A closing tag on a line of its own goes before one inside a line: values may quote the tag.
fn xml_value(text: &str) -> Option<(&str, &str)> {
    let tag = "</parameter>";
    let next_line = ["\n<parameter=", "\n</function>"].iter().filter_map(|end| text.find(end));
    let same_line = ["</parameter><parameter=", "</parameter></function>"]
        .iter()
        .filter_map(|end| text.find(end).map(|at| at + tag.len()));
    let limit = next_line.chain(same_line).min();
    let within = &text[..limit.unwrap_or(text.len())];
    let own_line = within.rfind("\n</parameter>").map(|at| (at, at + 1 + tag.len()));
    let inside = within.find(tag).map(|at| (at, at + tag.len()));
    let unclosed = limit.map(|at| (at, at));
    let (end, next) = own_line.or(inside).or(unclosed)?;
    let value = &text[..end];
    Some((value.strip_prefix('\n').unwrap_or(value), &text[next..]))
}

/// Reads a value as JSON if the tool's schema says that it is not text.
fn typed(text: &str, function: &str, key: &str, tools: &[Value]) -> Value {
    let tool = tools.iter().find(|tool| tool["function"]["name"] == function);
    let kind = tool.map(|tool| &tool["function"]["parameters"]["properties"][key]["type"]);
    match kind.and_then(Value::as_str) {
        Some("integer" | "number" | "boolean" | "object" | "array" | "null") => {
            serde_json::from_str(text.trim()).unwrap_or_else(|_| text.into())
        }
        _ => text.into(),
    }
}

fn parse_json(text: &str) -> (Vec<ParsedCall>, Option<usize>) {
    let first = text.find("<tool_call>");
    let mut calls = Vec::new();
    let mut rest = &text[first.unwrap_or(text.len())..];
    while let Some((_, after)) = rest.split_once("<tool_call>") {
        let (body, next) = after.split_once("</tool_call>").unwrap_or((after, ""));
        let Ok(Value::Object(call)) = serde_json::from_str(body.trim()) else {
            return (Vec::new(), first);
        };
        let Some(name) = call.get("name").and_then(Value::as_str) else {
            return (Vec::new(), first);
        };
        let arguments = match call.get("arguments") {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "{}".to_owned(),
        };
        calls.push(ParsedCall { name: name.to_owned(), arguments });
        rest = next;
    }
    (calls, first)
}

#[cfg(test)]
mod tests {
    use super::{ParsedCall, ToolFormat};
    use serde_json::json;

    fn call(name: &str, arguments: &serde_json::Value) -> ParsedCall {
        ParsedCall { name: name.into(), arguments: arguments.to_string() }
    }

    #[test]
    fn xml_values_keep_their_lines() {
        let answer = "hm <tool_call> no\n</think>\n\nTHOUGHT: go\n\n<tool_call>\n<function=bash>\n\
                      <parameter=command>\ncat <<'E'\na\n\n  b </parameter> c\nE\n</parameter>\n\
                      <parameter=n>\n3\n</parameter>\n</function>\n</tool_call>";
        let tools = [json!({"type": "function", "function": {"name": "bash", "parameters":
            {"properties": {"command": {"type": "string"}, "n": {"type": "integer"}}}}})];
        let (text, calls) = ToolFormat::Xml.parse(answer, &tools);
        assert_eq!(text, "hm <tool_call> no\n</think>\n\nTHOUGHT: go\n\n");
        let command = "cat <<'E'\na\n\n  b </parameter> c\nE";
        assert_eq!(calls, [call("bash", &json!({"command": command, "n": 3}))]);
    }

    #[test]
    fn several_calls_and_small_slips_are_read() {
        let answer = "<tool_call>\n<function=bash>\n<parameter=command>ls</parameter>\n</function>\n\
                      </tool_call>\n<tool_call>\n<function=bash>\n<parameter=command>\npwd\n\
                      </function>\n<function=done>\n</function>\n<function=bash><parameter=command>\
                      id</parameter></function><function=done>\n<parameter=a>\nb\n</parameter>\n\
                      </function>";
        let (text, calls) = ToolFormat::Xml.parse(answer, &[]);
        assert_eq!(text, "");
        let expected = [
            call("bash", &json!({"command": "ls"})),
            call("bash", &json!({"command": "pwd"})),
            call("done", &json!({})),
            call("bash", &json!({"command": "id"})),
            call("done", &json!({"a": "b"})),
        ];
        assert_eq!(calls, expected);
    }

    /// A cut answer must not run half a command.
    #[test]
    fn unfinished_calls_stay_text() {
        for answer in [
            "x<tool_call>\n<function=bash>\n<parameter=command>\nrm -rf /tmp",
            "x<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n",
            "x<tool_call>\n<function=ba",
            "plain",
        ] {
            assert_eq!(ToolFormat::Xml.parse(answer, &[]), (answer.to_owned(), vec![]));
        }
    }

    #[test]
    fn json_calls_are_read() {
        let answer = "go\n<tool_call>\n{\"name\": \"bash\", \"arguments\": {\"command\": \"a\\nb\"}}\n\
                      </tool_call>\n<tool_call>{\"name\":\"x\"}";
        let (text, calls) = ToolFormat::Json.parse(answer, &[]);
        assert_eq!(text, "go\n");
        assert_eq!(calls, [call("bash", &json!({"command": "a\nb"})), call("x", &json!({}))]);
        for bad in ["<tool_call>{\"name\":", "<tool_call>[]</tool_call>", "none"] {
            assert_eq!(ToolFormat::Json.parse(bad, &[]), (bad.to_owned(), vec![]));
        }
    }

    #[test]
    fn the_template_says_which_form() {
        assert_eq!(ToolFormat::of_template("…<function=' + name"), ToolFormat::Xml);
        assert_eq!(ToolFormat::of_template("{\"name\": "), ToolFormat::Json);
    }
}
