//! What a command returns: one value, three renderings, and the exit kind.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::Kind;

/// A JSON document that the program prints. Its schema is a file of `docs/schemas/`.
///
/// Fields are only added within a version.
pub trait Document: Serialize + JsonSchema {
    /// Name and version: `verify/1`.
    const NAME: &'static str;
}

/// Returns the value of the field `schema` of a document.
#[must_use]
pub fn schema_name<D: Document>() -> String {
    format!("tmax-ckpt.{}", D::NAME)
}

/// Returns a document as it is printed, its `schema` first.
///
/// # Panics
/// When `document` is not a struct or map with string keys: a bug.
#[must_use]
pub fn printed<D: Document>(document: &D) -> Map<String, Value> {
    let fields = serde_json::to_value(document).expect("documents are plain structs and maps");
    let Value::Object(fields) = fields else {
        unreachable!("the document {} is a struct or a map", D::NAME)
    };
    let mut printed = Map::new();
    printed.insert("schema".into(), schema_name::<D>().into());
    printed.extend(fields);
    printed
}

/// The result of a command that ran to its end.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    document: Map<String, Value>,
    human: String,
    quiet: String,
    hints: Vec<String>,
    problem: Option<Problem>,
    one_line: bool,
}

/// Why the answer is "no", in the words of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Fits after `error: `.
    pub message: String,
    /// The help lines.
    pub help: Vec<String>,
}

impl Outcome {
    /// Makes the outcome of a command from its JSON document.
    #[must_use]
    pub fn new(document: &impl Document) -> Self {
        Self { document: printed(document), ..Self::default() }
    }

    /// Sets the text for people. ANSI styles are stripped where they are not wanted.
    #[must_use]
    pub fn human(mut self, text: impl Into<String>) -> Self {
        self.human = text.into();
        self
    }

    /// Puts the JSON document on one line, for commands that print JSON lines before it.
    #[must_use]
    pub fn one_line(mut self) -> Self {
        self.one_line = true;
        self
    }

    /// Returns the JSON document as text.
    #[must_use]
    pub fn json(&self) -> String {
        let write =
            if self.one_line { serde_json::to_string } else { serde_json::to_string_pretty };
        write(&self.document).expect("a JSON value serialises")
    }

    /// Sets what `-q` prints: the path or the id, one a line.
    #[must_use]
    pub fn quiet(mut self, text: impl Into<String>) -> Self {
        self.quiet = text.into();
        self
    }

    /// Adds a line that goes to stderr after the result, such as `hint: …` or `note: …`.
    #[must_use]
    pub fn hint(mut self, line: impl Into<String>) -> Self {
        self.hints.push(line.into());
        self
    }

    /// Adds what a reader should know, each with a line of its own: [`Outcome::hint`].
    #[must_use]
    pub fn notes<'n>(self, notes: impl IntoIterator<Item = &'n String>) -> Self {
        notes.into_iter().fold(self, |outcome, note| outcome.hint(format!("note: {note}")))
    }

    /// Makes the answer "no" without further words: exit code 1.
    #[must_use]
    pub fn negative(self) -> Self {
        self.problem(String::new(), Vec::new())
    }

    /// Makes the answer "no": exit code 1, with `error: message` and help lines on stderr.
    #[must_use]
    pub fn problem(mut self, message: impl Into<String>, help: Vec<String>) -> Self {
        self.problem = Some(Problem { message: message.into(), help });
        self
    }

    /// Returns the JSON document.
    #[must_use]
    pub fn document(&self) -> &Map<String, Value> {
        &self.document
    }

    /// Returns the text for people.
    #[must_use]
    pub fn human_text(&self) -> &str {
        &self.human
    }

    /// Returns what `-q` prints.
    #[must_use]
    pub fn quiet_text(&self) -> &str {
        &self.quiet
    }

    /// Returns the lines for stderr.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// Returns why the answer is "no", if it is and if there are words for it.
    #[must_use]
    pub fn problem_text(&self) -> Option<&Problem> {
        self.problem.as_ref().filter(|problem| !problem.message.is_empty())
    }

    /// Returns the exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.problem.is_some() { Kind::Negative.exit_code() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::{Document, Outcome};

    #[derive(serde::Serialize, schemars::JsonSchema)]
    struct Answer {
        ok: bool,
    }

    impl Document for Answer {
        const NAME: &'static str = "verify/1";
    }

    #[test]
    fn the_schema_comes_first_and_no_is_one() {
        let outcome = Outcome::new(&Answer { ok: false }).human("bad\n");
        let text = serde_json::to_string(outcome.document()).expect("serialises");
        assert_eq!(text, r#"{"schema":"tmax-ckpt.verify/1","ok":false}"#);
        assert_eq!(outcome.exit_code(), 0);
        assert_eq!(outcome.clone().negative().exit_code(), 1);
        assert!(outcome.clone().negative().problem_text().is_none());
        assert!(outcome.problem("1 of 11 files does not match", vec![]).problem_text().is_some());
    }
}
