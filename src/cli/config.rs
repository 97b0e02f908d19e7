//! `config`: every setting and where it came from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::context::{Context, user_file};
use super::outcome::{Document, Outcome};
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

/// The JSON document of `config show`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    /// The settings by name.
    settings: BTreeMap<&'static str, Setting>,
}

impl Document for Shown {
    const NAME: &'static str = "config/1";
}

/// One setting.
#[derive(Serialize, JsonSchema)]
struct Setting {
    /// Its value; of the token only whether it is set.
    value: Value,
    /// Where it came from.
    origin: String,
}

/// The JSON document of `config path`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Files {
    /// The configuration files, the first one winning.
    files: Vec<File>,
}

impl Document for Files {
    const NAME: &'static str = "config-path/1";
}

/// One configuration file.
#[derive(Serialize, JsonSchema)]
struct File {
    /// Where it is looked for.
    path: PathBuf,
    /// Whether it was there and was read.
    read: bool,
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
    let mut document = BTreeMap::new();
    for (key, value, origin) in &rows {
        let shown = text(value);
        writeln!(human, "{key:<10} {shown:<width$}  {origin}").expect("strings grow");
        document.insert(*key, Setting { value: value.clone(), origin: origin.to_string() });
    }
    Outcome::new(&Shown { settings: document }).human(human)
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
        entries.push(File { path: file.clone(), read });
    }
    let first = files.first().map(|file| file.display().to_string()).unwrap_or_default();
    Outcome::new(&Files { files: entries }).human(human).quiet(first)
}
