//! The command line: parse, resolve settings, run one command, print its outcome.
//!
//! The only layer that knows clap, the terminal and the environment. A command is one file here
//! with `Args` (its doc comments are the help) and `run(args, &Context) -> Result<Outcome>`, one
//! variant of [`args::Command`], and one line in `dispatch`.

pub mod args;
pub mod bars;
pub mod bench_engine;
pub mod bench_select;
pub mod cache;
pub mod completions;
pub mod config;
pub mod context;
pub mod diff;
pub mod doctor;
mod examples;
pub mod export;
pub mod export_gguf;
pub mod failure;
pub mod hub;
pub mod inspect;
mod inspect_gguf;
mod inspect_remote;
mod inspect_stats;
pub mod logprobs;
pub mod man;
pub mod outcome;
pub mod pull;
pub mod reference;
pub mod render;
pub mod resolve;
pub mod schemas;
pub mod score;
pub mod scoring;
pub mod select;
pub mod select_nll;
pub mod select_plan;
pub mod select_run;
pub mod select_text;
pub mod settings;
pub mod signals;
pub mod steps;
pub mod strip;
pub mod tasks;
pub mod usage;
pub mod verify;
mod written;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::error::Result;
use crate::name::escape;
use args::{Cli, Command};
use context::{Context, Output};
use failure::Failure;
pub use outcome::Outcome;

/// Runs the program with `argv` (the program's name first) and returns its exit code.
#[must_use]
pub fn main(argv: Vec<OsString>) -> ExitCode {
    render::install_panic_hook(&argv);
    let run = || {
        let wanted = Output::from_argv(&argv);
        render::settled(run(argv), wanted)
    };
    let code = std::panic::catch_unwind(run).unwrap_or(render::BUG_EXIT_CODE);
    ExitCode::from(code)
}

fn run(argv: Vec<OsString>) -> u8 {
    let wanted = Output::from_argv(&argv);
    // Paths are part of the JSON documents, which are UTF-8.
    if let Some(arg) = argv.iter().find(|arg| arg.to_str().is_none()) {
        let message = format!("the argument {} is not UTF-8", escape(&arg.to_string_lossy()));
        let help = vec!["rename the file, or name it through a link".to_owned()];
        return render::error(&Failure::Usage(message, help).into(), wanted);
    }
    let argv = args::format_as_subcommand(argv, &args::command());
    let again = argv.clone();
    let parsed = args::command()
        .try_get_matches_from(argv)
        .and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return render::usage(&args::explain(error, again), wanted),
    };
    let output = Output::from_args(&cli.global);
    let ctx = match Context::new(&cli.global, &matches) {
        Ok(ctx) => ctx,
        Err(error) => return render::error(&error, output),
    };
    let result = dispatch(cli.command, &ctx);
    // Nothing, if the command has finished its job.
    ctx.progress().stop();
    match result {
        Ok(outcome) => render::outcome(&outcome, output),
        Err(error) => render::error(&ctx.name_the_signal(error), output),
    }
}

fn dispatch(command: Command, ctx: &Context) -> Result<Outcome> {
    match command {
        Command::Steps(args) => steps::run(args, ctx),
        Command::Pull(args) => pull::run(args, ctx),
        Command::Verify(args) => verify::run(args, ctx),
        Command::Inspect(args) => inspect::run(args, ctx),
        Command::Diff(args) => diff::run(args, ctx),
        Command::Strip(args) => strip::run(args, ctx),
        Command::Score(args) => score::run(*args, ctx),
        Command::Select(args) => select::run(*args, ctx),
        Command::Export(args) => export::run(args, ctx),
        Command::Logprobs(args) => logprobs::run(args, ctx),
        Command::Cache(args) => cache::run(args, ctx),
        Command::Config(args) => config::run(args, ctx),
        Command::Doctor(args) => doctor::run(args, ctx),
        Command::Completions(args) => completions::run(args, ctx),
        Command::BenchEngine(args) => bench_engine::run(args, ctx),
        Command::BenchSelect(args) => bench_select::run(args, ctx),
        Command::Man(args) => man::run(args, ctx),
    }
}
