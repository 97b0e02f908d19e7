//! `config`: every setting and where it came from.

use std::fmt::Write as _;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::context::{Context, user_file};
use super::outcome::Outcome;
use super::settings::{Origin, PROJECT_FILE, Settings};
use crate::error::Result;

/// Show every setting and where it came from
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print each setting with its value and origin
    Show,
    /// Print the configuration files, the first one winning
    Path,
}

/// Runs the command.
///
/// # Errors
/// None; the settings were resolved before.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    Ok(match args.action {
        Action::Show => show(ctx.settings()),
        Action::Path => path(ctx.settings()),
    })
}

fn show(settings: &Settings) -> Outcome {
    let rows = rows(settings);
    let width = rows.iter().map(|(_, value, _)| text(value).chars().count()).max().unwrap_or(0);
    let mut human = String::new();
    let mut document = serde_json::Map::new();
    for (key, value, origin) in &rows {
        let shown = text(value);
        writeln!(human, "{key:<10} {shown:<width$}  {origin}").expect("strings grow");
        let entry = json!({"value": value, "origin": origin.to_string()});
        document.insert((*key).to_owned(), entry);
    }
    Outcome::new("config", &json!({"settings": document})).human(human)
}

fn rows(settings: &Settings) -> Vec<(&'static str, Value, &Origin)> {
    // Whether there is a token may be shown; the token may not.
    let token = settings.token.value.as_ref().map(|_| "(set)");
    let progress = settings.progress.value.to_possible_value();
    let color = settings.color.value.to_possible_value();
    let cache_dir = settings.cache_dir.value.display().to_string();
    vec![
        ("cache-dir", cache_dir.into(), &settings.cache_dir.origin),
        ("color", color.map(|v| v.get_name().to_owned()).into(), &settings.color.origin),
        ("endpoint", settings.endpoint.value.as_str().into(), &settings.endpoint.origin),
        ("jobs", settings.jobs.value.into(), &settings.jobs.origin),
        ("offline", settings.offline.value.into(), &settings.offline.origin),
        ("progress", progress.map(|v| v.get_name().to_owned()).into(), &settings.progress.origin),
        ("token", token.into(), &settings.token.origin),
    ]
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "(none)".into(),
        other => other.to_string(),
    }
}

fn path(settings: &Settings) -> Outcome {
    let mut files = settings.files.clone();
    for candidate in [PROJECT_FILE.into(), user_file()] {
        if !files.contains(&candidate) {
            files.push(candidate);
        }
    }
    let mut human = String::new();
    let mut entries = Vec::new();
    for file in &files {
        let read = settings.files.contains(file);
        let state = if read { "read" } else { "not read" };
        writeln!(human, "{}  {state}", file.display()).expect("strings grow");
        entries.push(json!({"path": file, "read": read}));
    }
    let first = files.first().map(|file| file.display().to_string()).unwrap_or_default();
    Outcome::new("config-path", &json!({"files": entries})).human(human).quiet(first)
}
