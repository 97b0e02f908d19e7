//! `man`: the manual pages, for packagers.

use std::path::{Path, PathBuf};

use clap::ValueHint;
use schemars::JsonSchema;
use serde::Serialize;

use super::args;
use super::context::Context;
use super::outcome::{self, Outcome};
use super::written::{DryRun, Mode};
use crate::error::Result;
use crate::fsio;

/// Write the manual pages
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder to write to
    #[arg(value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    #[command(flatten)]
    dry_run: DryRun,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// The pages.
    files: &'a [String],
    /// Whether nothing was written.
    dry_run: bool,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "man/1";
}

/// Runs the command.
///
/// # Errors
/// A page cannot be written.
pub fn run(args: Args, _: &Context) -> Result<Outcome> {
    let mut command = args::command();
    command.build();
    let mut pages = Vec::new();
    collect(&command, "tmax-ckpt", &args.dir, &mut pages)?;
    let mode = args.dry_run.mode();
    if mode == Mode::CarryOut {
        for (path, bytes) in &pages {
            fsio::write_atomic(path, bytes)?;
        }
    }
    let paths: Vec<String> = pages.iter().map(|(path, _)| path.display().to_string()).collect();
    let text = paths.join("\n");
    let document = Document { files: &paths, dry_run: mode == Mode::Show };
    Ok(Outcome::new(&document).human(text.clone()).quiet(text))
}

/// Renders the page of `command` and of everything below it.
fn collect(
    command: &clap::Command,
    name: &str,
    dir: &Path,
    pages: &mut Vec<(PathBuf, Vec<u8>)>,
) -> Result<()> {
    let path = dir.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(fsio::Error::io("render", &path))?;
    pages.push((path, page));
    for sub in args::documented(command) {
        collect(sub, &format!("{name}-{}", sub.get_name()), dir, pages)?;
    }
    Ok(())
}
