//! `completions`: a completion script for a shell.

use clap_complete::Shell;
use serde_json::json;

use super::args;
use super::context::Context;
use super::outcome::Outcome;
use crate::error::Result;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// None.
pub fn run(args: Args, _: &Context) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "tmax-ckpt", &mut script);
    let script = String::from_utf8(script).expect("completion scripts are text");
    let document = json!({"shell": args.shell.to_string(), "script": script});
    Ok(Outcome::new("completions", &document).human(script.clone()).quiet(script))
}
