//! Chat templates: Jinja from the checkpoint, rendered as transformers renders it.
//!
//! transformers uses `trim_blocks`, `lstrip_blocks`, loop controls, a `tojson` that is Python's
//! `json.dumps(…, ensure_ascii=False)`, `raise_exception` and `strftime_now`. A template is
//! foreign code: its steps, its memory and its recursion are limited.

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior, context};
use minijinja_contrib::pycompat;
use serde_json::{Map, Value, json};

use super::chat::Message;
use crate::error::{Diagnose, Kind};

/// Steps of the template engine that one rendering may take; a conversation of 128 messages takes
/// some hundred thousand. It also bounds what a template can allocate.
const FUEL: u64 = 10_000_000;
/// Nesting of blocks, macros and values.
const RECURSION_MAX: usize = 200;
/// Widest `indent` of `tojson`: it is multiplied by depth and items, which fuel does not count.
const INDENT_MAX: usize = 16;
/// Longest text that a method of Python's may return.
const METHOD_BYTES_MAX: usize = 16 << 20;
/// Largest template accepted; real ones have under 20 kB.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;

/// Why a conversation cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The checkpoint has none.
    #[error("the checkpoint has no chat template")]
    Missing,
    /// The template is larger than `TEMPLATE_BYTES_MAX`.
    #[error("the chat template has {0} bytes, at most {TEMPLATE_BYTES_MAX} are accepted")]
    TooLarge(usize),
    /// The template does not parse.
    #[error("the chat template does not parse: {0}")]
    Syntax(String),
    /// The template called `raise_exception`, or failed.
    #[error("the chat template refuses the conversation: {0}")]
    Render(String),
}

impl Diagnose for TemplateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing => Kind::NotFound,
            _ => Kind::BadData,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Missing => "no_chat_template",
            Self::TooLarge(_) | Self::Syntax(_) => "bad_chat_template",
            Self::Render(_) => "chat_template_refused",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Missing => {
                vec!["copy chat_template.jinja of the base model into the checkpoint".into()]
            }
            _ => vec!["compare chat_template.jinja with that of the base model".into()],
        }
    }
}

/// A checkpoint's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

/// What a rendering ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The opening of an assistant's turn, to be continued by the model.
    GenerationPrompt,
    /// The last message.
    Nothing,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template. `now` is what `strftime_now` tells.
    ///
    /// # Errors
    /// [`TemplateError::TooLarge`], [`TemplateError::Syntax`].
    pub fn new(source: &str, now: Zoned) -> Result<Self, TemplateError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLarge(source.len()));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| TemplateError::Syntax(e.to_string()))?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", move |format: String| {
            jiff::fmt::strtime::format(&format, &now).map_err(invalid)
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| TemplateError::Syntax(describe(&e)))?;
        Ok(Self { environment, source: source.to_owned() })
    }

    /// Returns the template's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation that begins as every one of the harness does, to find a template
    /// that refuses, or never ends, before a model is loaded for it.
    ///
    /// # Errors
    /// [`TemplateError::Render`].
    pub fn try_out(&self) -> Result<(), TemplateError> {
        let messages = ["system", "user"].map(|role| json!({"role": role, "content": "Hello."}));
        self.render(&messages, &[], &Map::new(), Ending::GenerationPrompt).map(|_| ())
    }

    /// Renders messages that are JSON already. `extra` variables may override nothing.
    ///
    /// # Errors
    /// [`TemplateError::Render`].
    pub fn render(
        &self,
        messages: &[Value],
        tools: &[Value],
        extra: &Map<String, Value>,
        ending: Ending,
    ) -> Result<String, TemplateError> {
        let fail = |e: minijinja::Error| TemplateError::Render(describe(&e));
        let template = self.environment.get_template(NAME).map_err(fail)?;
        let messages: minijinja::Value = messages.iter().map(to_jinja).collect();
        let tools: Option<minijinja::Value> =
            (!tools.is_empty()).then(|| tools.iter().map(to_jinja).collect());
        let given = context! {
            messages, tools, documents => None::<()>,
            add_generation_prompt => ending == Ending::GenerationPrompt,
        };
        let extra =
            minijinja::Value::from_pairs(extra.iter().map(|(k, v)| (k.clone(), to_jinja(v))));
        template.render(context! { ..given, ..extra }).map_err(fail)
    }
}

/// Returns the message as templates want it: arguments parsed, where they are an object.
#[must_use]
pub fn template_message(message: &Message) -> Value {
    let mut value = message.to_openai();
    parse_arguments(&mut value);
    value
}

/// Replaces every call's arguments that are the text of an object by the object.
pub fn parse_arguments(message: &mut Value) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        let parsed = arguments.as_str().and_then(|text| serde_json::from_str(text).ok());
        if let Some(object @ Value::Object(_)) = parsed {
            *arguments = object;
        }
    }
}

/// Calls one of Python's methods. Fuel is charged for their results only when these exist, so what
/// one call may allocate is limited before it.
fn python_method(
    state: &mut State,
    value: &minijinja::Value,
    method: &str,
    args: &[minijinja::Value],
) -> Result<minijinja::Value, minijinja::Error> {
    let len = value.as_str().map_or(0, |text| result_len(text, method, args));
    if len > METHOD_BYTES_MAX {
        return Err(invalid(format!("the result of {method} is longer than {METHOD_BYTES_MAX}")));
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// Returns at least the length of what a method of a text would return, for those that can return
/// far more than they are given.
fn result_len(text: &str, method: &str, args: &[minijinja::Value]) -> usize {
    let arg = |index: usize| args.get(index).and_then(minijinja::Value::as_str).unwrap_or("");
    match method {
        "replace" => {
            let times = text.matches(arg(0)).count();
            text.len().saturating_add(times.saturating_mul(arg(1).len()))
        }
        "join" => {
            let items = args.first().and_then(|list| list.try_iter().ok());
            let mut len = 0_usize;
            for item in items.into_iter().flatten() {
                let own = item.as_str().map_or_else(|| item.to_string().len(), str::len);
                len = len.saturating_add(own).saturating_add(text.len().max(1));
                if len > METHOD_BYTES_MAX {
                    break;
                }
            }
            len
        }
        // Every number in it could be a width.
        "format" => text
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| !digits.is_empty())
            .map(|digits| digits.parse().unwrap_or(usize::MAX))
            .fold(text.len(), usize::saturating_add),
        _ => 0,
    }
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn invalid(error: impl std::fmt::Display) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string())
}

fn describe(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    crate::name::escape(&format!("{detail}{line}"))
}

fn to_jinja(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(flag) => minijinja::Value::from(*flag),
        Value::String(text) => minijinja::Value::from(text.as_str()),
        Value::Array(list) => list.iter().map(to_jinja).collect(),
        Value::Object(map) => {
            minijinja::Value::from_pairs(map.iter().map(|(k, v)| (k.clone(), to_jinja(v))))
        }
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => minijinja::Value::from(whole),
            (_, Some(whole)) => minijinja::Value::from(whole),
            _ => minijinja::Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=…, sort_keys=…)`.
fn tojson(
    value: minijinja::Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<minijinja::Value, minijinja::Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let sort: Option<bool> = options.get("sort_keys")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > INDENT_MAX) {
        return Err(invalid(format!("tojson indents by {INDENT_MAX} at most")));
    }
    let style = Style { indent, sort: sort == Some(true) };
    let mut out = String::new();
    style.dump(&value, 0, &mut out)?;
    if ascii == Some(true) {
        out = escape_non_ascii(&out);
    }
    Ok(minijinja::Value::from_safe_string(out))
}

#[derive(Clone, Copy)]
struct Style {
    indent: Option<usize>,
    sort: bool,
}

impl Style {
    fn dump(
        self,
        value: &minijinja::Value,
        depth: usize,
        out: &mut String,
    ) -> Result<(), minijinja::Error> {
        if depth > RECURSION_MAX {
            return Err(invalid("a value is nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&python_float(f64::try_from(value.clone())?)),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<_> = value.try_iter()?.collect();
                self.items(['[', ']'], &items, depth, out, |item, out| {
                    self.dump(item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<_> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.items(['{', '}'], &keys, depth, out, |key, out| {
                    out.push_str(&Value::from(key.to_string()).to_string());
                    out.push_str(": ");
                    self.dump(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            _ => out.push_str(&Value::from(value.to_string()).to_string()),
        }
        Ok(())
    }

    fn items(
        self,
        [open, close]: [char; 2],
        items: &[minijinja::Value],
        depth: usize,
        out: &mut String,
        mut each: impl FnMut(&minijinja::Value, &mut String) -> Result<(), minijinja::Error>,
    ) -> Result<(), minijinja::Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(if self.indent.is_some() { "," } else { ", " });
            }
            line(depth + 1, out);
            each(item, out)?;
        }
        if !items.is_empty() {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }
}

/// `repr` of a float as Python has it: `1e+16`, `1e-05`, `0.0001`, `2.0`.
fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

fn escape_non_ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use jiff::Zoned;
    use serde_json::{Map, Value, json};

    use super::{ChatTemplate, Ending, TemplateError, template_message};
    use crate::engine::chat::{Message, Role, ToolCall};

    fn render(source: &str, messages: &[Value]) -> Result<String, TemplateError> {
        let now = "2026-02-03T04:05:06[UTC]".parse::<Zoned>().expect("a time");
        let template = ChatTemplate::new(source, now)?;
        template.render(messages, &[], &Map::new(), Ending::GenerationPrompt)
    }

    /// Expected texts are Python's: `json.dumps(x, ensure_ascii=False)`.
    #[test]
    fn tojson_is_pythons() {
        let message = json!({"b": [1, 2.0, 1e16, 1e-5, 0.0001, 1.5e300, true, null], "a": "é<'>\u{1}\"",
                             "e": {}, "f": []});
        assert_eq!(
            render("{{ messages[0] | tojson }}", &[message]).expect("renders"),
            "{\"b\": [1, 2.0, 1e+16, 1e-05, 0.0001, 1.5e+300, true, null], \
             \"a\": \"é<'>\\u0001\\\"\", \"e\": {}, \"f\": []}"
        );
        let message = json!({"b": [1], "a": "é"});
        assert_eq!(
            render(
                "{{ messages[0]|tojson(indent=2, sort_keys=true, ensure_ascii=true) }}",
                &[message]
            )
            .expect("renders"),
            "{\n  \"a\": \"\\u00e9\",\n  \"b\": [\n    1\n  ]\n}"
        );
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() {
        let source = "{% if true %}\n  {%- for m in messages[::-1] %}\n    {{ m.x.split('/')[-1].rstrip('\\n') }}{% if loop.index0 == 0 %}{% continue %}{% endif %}|\n  {% endfor %}\n{% endif %}\n{{ strftime_now('%d %b %Y') }}{{ add_generation_prompt }}";
        let text = render(source, &[json!({"x": "a/b\n"}), json!({"x": "c"})]).expect("renders");
        assert_eq!(text, "cb|\n03 Feb 2026True".replace("cb", "    c    b"));
    }

    #[test]
    fn refusals_carry_the_templates_words() {
        let error = render("{{ raise_exception('No user query') }}", &[]).expect_err("refuses");
        assert!(error.to_string().contains("No user query"), "{error}");
        assert!(matches!(render("{% if %}", &[]), Err(TemplateError::Syntax(_))));
    }

    #[test]
    fn hostile_templates_end() {
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% set ns = namespace(x='lol') %}{% for a in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        ] {
            let error = render(source, &[]).expect_err(source);
            assert!(matches!(error, TemplateError::Render(_)), "{source}: {error}");
        }
    }

    /// What one step of the engine could allocate at once is limited too.
    #[test]
    fn templates_cannot_ask_for_all_memory() {
        for source in [
            "{{ [1] | tojson(indent=1000000000000) }}",
            "{{ 'x' * 100000000000 }}",
            "{{ ('x' * 100000000000) | length }}",
            "{{ ([0] * 100000000000) | tojson }}",
            "{{ 'a\nb' | indent(100000000000) }}",
            "{{ 'x' | center(100000000000) }}",
            "{{ '%100000000000d' | format(1) }}",
            "{{ range(100000000000) | tojson }}",
            "{{ '{:>100000000000}'.format('x') }}",
            "{{ '{0:>100000000000}'.format('x') }}",
            "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
            "{{ ('x' * 1000000).replace('', 'y' * 1000000) }}",
            "{{ ('x' * 1000000).join('y' * 1000000) }}",
            "{{ ''.join(['x' * 1000000] * 1000000) }}",
        ] {
            let error = render(source, &[]).expect_err(source);
            assert!(matches!(error, TemplateError::Render(_)), "{source}: {error}");
        }
    }

    #[test]
    fn arguments_are_parsed_if_they_are_an_object() {
        let mut message = Message::new(Role::Assistant, "");
        for arguments in [r#"{"command":"ls"}"#, "not json", "[1]"] {
            let (id, name) = (String::new(), "bash".into());
            message.tool_calls.push(ToolCall { id, name, arguments: arguments.into() });
        }
        let value = template_message(&message);
        assert_eq!(value["tool_calls"][0]["function"]["arguments"]["command"], "ls");
        assert_eq!(value["tool_calls"][1]["function"]["arguments"], "not json");
        assert_eq!(value["tool_calls"][2]["function"]["arguments"], "[1]");
    }
}
