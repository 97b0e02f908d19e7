//! The part of Dockerfiles that a sandbox without images can follow.
//!
//! `FROM` is noted (the host's own programs stand in for the image), `WORKDIR`, `ENV`, `COPY` and
//! `RUN` are done, and words that only describe are skipped. Everything else is refused: a score
//! from half an environment is worse than none.

use std::path::Path;

use super::error::{Error, Result};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Change the folder, making it.
    Workdir(String),
    /// Set a variable for all that follows, commands of the trial included.
    Env(String, String),
    /// Copy these paths of the context to a path inside.
    Copy(Vec<String>, String),
    /// Run a command.
    Run(String),
}

/// What a Dockerfile asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The image it starts from.
    pub from: String,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Reads a Dockerfile's text.
    ///
    /// # Errors
    /// The first line that cannot be followed, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text)
    }
}

/// Reads the Dockerfile in `environment/` of the task at `dir`; none is an empty plan.
///
/// # Errors
/// [`Error::Task`] naming the line that cannot be followed.
pub fn load(dir: &Path) -> Result<Plan> {
    let path = dir.join("environment/Dockerfile");
    if !path.is_file() {
        return Ok(Plan::default());
    }
    let bytes = crate::fsio::read_capped(&path, 1 << 20)?;
    Plan::parse(&String::from_utf8_lossy(&bytes)).map_err(|reason| {
        let remedy = "pass `--sandbox podman`, which builds the image";
        Error::task(dir, format!("environment/Dockerfile: {reason}"), remedy)
    })
}

fn parse(text: &str) -> Result<Plan, String> {
    let mut plan = Plan::default();
    for line in logical_lines(text) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let rest = rest.trim();
        match word.to_ascii_uppercase().as_str() {
            "FROM" if plan.from.is_empty() => rest.clone_into(&mut plan.from),
            "FROM" => return Err("several stages".into()),
            "WORKDIR" => plan.steps.push(Step::Workdir(unquote(rest))),
            "ENV" => env(rest, &mut plan.steps)?,
            "COPY" => plan.steps.push(copy(rest)?),
            "RUN" => plan.steps.push(run(rest)?),
            "CMD" | "LABEL" | "EXPOSE" | "MAINTAINER" | "STOPSIGNAL" => {}
            other => return Err(format!("`{}` cannot be followed", crate::name::escape(other))),
        }
    }
    Ok(plan)
}

/// Joins continued lines and drops comments.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with('#') {
            continue;
        }
        match line.trim_end().strip_suffix('\\') {
            Some(start) => current += start,
            None => {
                current += line;
                lines.push(std::mem::take(&mut current));
            }
        }
    }
    lines.push(current);
    lines.iter().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn env(rest: &str, steps: &mut Vec<Step>) -> Result<(), String> {
    if rest.contains('$') {
        return Err("`ENV` with a variable in it".into());
    }
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = rest.split_once(char::is_whitespace).ok_or("`ENV` without a value")?;
        steps.push(Step::Env(name.to_owned(), unquote(value.trim())));
        return Ok(());
    }
    if rest.contains(['"', '\'']) && rest.matches('=').count() > 1 {
        return Err("`ENV` with several quoted values".into());
    }
    let quoted = rest.contains(['"', '\'']);
    let pairs: Vec<&str> = if quoted { vec![rest] } else { rest.split_whitespace().collect() };
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or("`ENV` without a value")?;
        steps.push(Step::Env(name.to_owned(), unquote(value)));
    }
    Ok(())
}

fn copy(rest: &str) -> Result<Step, String> {
    let mut words: Vec<String> = if rest.starts_with('[') {
        serde_json::from_str(rest).map_err(|_| "`COPY` with a bad list")?
    } else {
        rest.split_whitespace().map(unquote).collect()
    };
    if words.iter().any(|word| word.starts_with("--") || word.contains(['*', '?', '$'])) {
        return Err("`COPY` with options, patterns or variables".into());
    }
    let to = words.pop().ok_or("`COPY` without a destination")?;
    if words.is_empty() || words.iter().any(|word| word.split('/').any(|part| part == "..")) {
        return Err("`COPY` without a source in the context".into());
    }
    Ok(Step::Copy(words, to))
}

fn run(rest: &str) -> Result<Step, String> {
    if rest.starts_with("--") || rest.starts_with("<<") {
        return Err("`RUN` with options or a here-document".into());
    }
    if rest.starts_with('[') {
        let words: Vec<String> = serde_json::from_str(rest).map_err(|_| "`RUN` with a bad list")?;
        let words: Vec<String> = words.iter().map(|w| crate::sandbox::bwrap::quote(w)).collect();
        return Ok(Step::Run(words.join(" ")));
    }
    Ok(Step::Run(rest.to_owned()))
}

fn unquote(text: &str) -> String {
    let inner = |q: char| text.strip_prefix(q).and_then(|t| t.strip_suffix(q));
    inner('"').or_else(|| inner('\'')).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Step, parse};

    #[test]
    fn plain_files_are_followed_and_others_refused() {
        let plan = parse("# a\nFROM debian:12\nWORKDIR /app\nENV A=1 B=2\nENV C hello you\nCOPY a b /x/\nRUN a && \\\n  b\nCMD [\"x\"]\n")
            .expect("is plain");
        assert_eq!(plan.from, "debian:12");
        assert_eq!(plan.steps.len(), 6);
        assert_eq!(plan.steps[3], Step::Env("C".into(), "hello you".into()));
        assert_eq!(plan.steps[4], Step::Copy(vec!["a".into(), "b".into()], "/x/".into()));
        assert_eq!(plan.steps[5], Step::Run("a &&   b".into()));
        for text in [
            "FROM a\nFROM b",
            "FROM a\nADD http://x /y",
            "FROM a\nCOPY --from=b /a /b",
            "FROM a\nCOPY ../x /y",
            "FROM a\nUSER nobody",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
