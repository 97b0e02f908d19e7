//! `completions`: a completion script for a shell.

use clap_complete::Shell;
use schemars::JsonSchema;
use serde::Serialize;

use super::args;
use super::context::Context;
use super::outcome::{self, Outcome};
use crate::error::Result;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// The shell.
    shell: String,
    /// The script, for the shell to read.
    script: &'a str,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "completions/1";
}

/// Runs the command.
///
/// # Errors
/// None.
pub fn run(args: Args, _: &Context) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "tmax-ckpt", &mut script);
    let script = String::from_utf8(script).expect("completion scripts are text");
    let document = Document { shell: args.shell.to_string(), script: &script };
    Ok(Outcome::new(&document).human(script.clone()).quiet(script))
}
