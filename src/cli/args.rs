//! The arguments: global flags, the list of commands, the looks of the help.

use std::error::Error as _;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::builder::{FalseyValueParser, OsStringValueParser, StyledStr};
use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};

use super::{
    bench_engine, bench_select, cache, completions, config, diff, doctor, examples, export,
    inspect, logprobs, man, pull, score, select, steps, strip, verify,
};
use crate::units::NoAmount;

/// The heading of the global flags in every help text.
const GLOBAL: &str = "Global options";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default())
    .error(AnsiColor::Red.on_default().bold())
    .valid(AnsiColor::Green.on_default())
    .invalid(AnsiColor::Yellow.on_default());

const EXAMPLES: &str = "\
Examples, in the order of the work:
  tmax-ckpt steps allenai/tmax-9b
  tmax-ckpt pull allenai/tmax-9b --revision 'step_{100..400..100}'
  tmax-ckpt verify allenai/tmax-9b@step_400
  tmax-ckpt strip allenai/tmax-9b@step_400 -o text/
  tmax-ckpt select 'allenai/tmax-9b@step_*' --metric tblite --tasks tasks/
  tmax-ckpt export gguf text/ --outtype q8_0";

const EXIT_CODES: &str = "\
Exit codes: 0 done, or the answer is yes; 1 the answer is no; 2 wrong usage or
configuration; 3 not found; 4 authentication or permission; 5 network or Hub
failure; 6 bad data; 7 no disk, memory or device; 8 a program that was run
failed; 70 a bug; 130 and 143 interrupted, state saved. An unknown code must be
treated as failure.";

/// From training-step branches to a verified, text-only checkpoint of the best step.
///
/// Pulls the step branches of an RL run from the Hugging Face Hub, verifies them, strips what a
/// text model does not need, scores them on tasks, selects a step, and exports it.
#[derive(Debug, Parser)]
#[command(
    name = "tmax-ckpt",
    version,
    styles = STYLES,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The flags that every command takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order of the help.
// A comment here would be the whole page of help, in place of that of the arguments.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each has the doc comment of its arguments")]
pub enum Command {
    #[command(visible_alias = "ls")]
    Steps(steps::Args),
    Pull(pull::Args),
    Verify(verify::Args),
    #[command(visible_alias = "show")]
    Inspect(inspect::Args),
    Diff(diff::Args),
    Strip(strip::Args),
    Score(Box<score::Args>),
    Select(Box<select::Args>),
    Export(export::Args),
    Logprobs(logprobs::Args),
    Cache(cache::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    #[command(hide = true)]
    Man(man::Args),
    #[command(hide = true)]
    BenchEngine(bench_engine::Args),
    #[command(hide = true)]
    BenchSelect(bench_select::Args),
}

/// The flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = GLOBAL)]
pub struct GlobalArgs {
    /// Print one JSON document on stdout, errors as one JSON object on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only the path or id; twice: nothing but the exit code
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
    /// Log more to stderr, up to three times; print what is summed up otherwise
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Never open a socket; say which command would fetch what is missing
    #[arg(
        long,
        global = true,
        env = "HF_HUB_OFFLINE",
        hide_env_values = true,
        value_parser = FalseyValueParser::new()
    )]
    pub offline: bool,
    /// How to show progress on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "HOW",
        env = "TMAX_CKPT_PROGRESS",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub progress: Option<ProgressMode>,
    /// When to colour
    #[arg(long, global = true, value_enum, value_name = "WHEN", hide_short_help = true)]
    pub color: Option<ColorMode>,
    /// The Hub cache, shared with hf, transformers and vLLM
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "HF_HUB_CACHE",
        hide_env_values = true,
        hide_short_help = true,
        value_parser = OsStringValueParser::new(),
        value_hint = ValueHint::DirPath
    )]
    pub cache_dir: Option<OsString>,
    /// The Hub's address
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "HF_ENDPOINT",
        hide_env_values = true,
        hide_short_help = true,
        value_hint = ValueHint::Url
    )]
    pub endpoint: Option<String>,
    /// The Hub token; better in HF_TOKEN or $HF_HOME/token, as other users of this machine can
    /// read command lines
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "HF_TOKEN",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub token: Option<String>,
    /// How many things to do at once; results never depend on it
    #[arg(
        short,
        long,
        global = true,
        value_name = "N",
        env = "TMAX_CKPT_JOBS",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub jobs: Option<NonZeroUsize>,
    /// Read this configuration file instead of ./tmax-ckpt.toml and the user's
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TMAX_CKPT_CONFIG",
        hide_env_values = true,
        hide_short_help = true,
        value_hint = ValueHint::FilePath
    )]
    pub config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, global = true, hide_short_help = true, conflicts_with = "config")]
    pub no_config: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, plain lines elsewhere
    Auto,
    /// One line every ten seconds
    Plain,
    /// JSON lines
    Json,
    /// Nothing
    None,
}

/// When output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorMode {
    /// On terminals that want it, stdout and stderr judged apart
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The three ways of `select`; clap would put them on one line that fits no terminal.
const SELECT_USAGE: &str = "\
tmax-ckpt select [OPTIONS] --tasks <DIR> <CKPT>...
       tmax-ckpt select [OPTIONS] --trajectories <PATH> <CKPT>...
       tmax-ckpt select [OPTIONS] --from <DIR>...";

/// Returns clap's description of the whole command line.
#[must_use]
pub fn command() -> clap::Command {
    // `score` always needs tasks; `select` only where it runs something.
    let command = Cli::command().mut_subcommand("select", |select| {
        select.mut_arg("tasks", |tasks| tasks.required(false)).override_usage(SELECT_USAGE)
    });
    examples::add_to(with_negative_numbers(command))
}

/// Returns what clap says of a wrong command line without the environment's part in it: else the
/// usage lists flags of variables that are set, as if they were required.
#[must_use]
pub fn explain(error: clap::Error, argv: Vec<OsString>) -> clap::Error {
    let bare = command().mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    let mut error = match bare.try_get_matches_from(argv) {
        Err(plain) if plain.kind() == error.kind() => plain,
        // A variable is what is wrong.
        _ => error,
    };
    if let Some(amount) = error.source().and_then(|source| source.downcast_ref::<NoAmount>()) {
        let help = vec![StyledStr::from(amount.help)];
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(help));
    }
    if let Some(ContextValue::Strings(names)) = error.get(ContextKind::ValidSubcommand) {
        let shown = names.iter().filter(|name| !is_hidden(name)).cloned().collect();
        error.insert(ContextKind::ValidSubcommand, ContextValue::Strings(shown));
    }
    error
}

/// Returns the commands below `command` that have a page of their own: `help` prints those of
/// others.
pub fn documented(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

/// Says whether `name` is a command that no help lists.
fn is_hidden(name: &str) -> bool {
    Cli::command().find_subcommand(name).is_some_and(clap::Command::is_hide_set)
}

/// Lets every option take `-1`, so that whoever reads it says what is wrong with it; else clap
/// takes it for a flag.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let options = |arg: clap::Arg| {
        let option = !arg.is_positional() && arg.get_action().takes_values();
        if option { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(options).mut_subcommands(with_negative_numbers)
}

/// Rewrites `export --format X …` into `export X …`, so that both spellings are one.
///
/// A format that is no subcommand stays where it is, and clap says what is possible.
#[must_use]
pub fn format_as_subcommand(argv: Vec<OsString>, command: &clap::Command) -> Vec<OsString> {
    let Some(export) = command.find_subcommand("export") else { return argv };
    let Some(at) = position_of_command(&argv, command, "export") else { return argv };
    let mut out = argv;
    for i in at + 1..out.len() {
        let Some(text) = out[i].to_str() else { continue };
        let (format, taken) = match (text, text.strip_prefix("--format=")) {
            ("--", _) => break,
            (_, Some(value)) => (value.to_owned(), 1),
            ("--format", None) => match out.get(i + 1).and_then(|v| v.to_str()) {
                Some(value) => (value.to_owned(), 2),
                None => break,
            },
            _ => continue,
        };
        if export.find_subcommand(&format).is_some() {
            out.drain(i..i + taken);
            out.insert(at + 1, format.into());
        }
        break;
    }
    out
}

/// Finds the first argument that is neither a flag nor a flag's value, if it is `name`.
fn position_of_command(argv: &[OsString], command: &clap::Command, name: &str) -> Option<usize> {
    let takes_value = |text: &str| {
        command.get_arguments().filter(|arg| arg.get_action().takes_values()).any(|arg| {
            let long = arg.get_long().is_some_and(|long| text.strip_prefix("--") == Some(long));
            let short = arg.get_short().is_some_and(|c| text == format!("-{c}"));
            long || short
        })
    };
    let mut i = 1;
    while i < argv.len() {
        let text = argv[i].to_str()?;
        if !text.starts_with('-') {
            return (text == name).then_some(i);
        }
        i += if takes_value(text) { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{command, format_as_subcommand};

    fn rewritten(line: &str) -> String {
        let cmd = clap::Command::new("t")
            .arg(clap::Arg::new("cache_dir").long("cache-dir").action(clap::ArgAction::Set))
            .subcommand(
                clap::Command::new("export")
                    .subcommand(clap::Command::new("gguf"))
                    .subcommand(clap::Command::new("safetensors")),
            );
        let argv = line.split(' ').map(OsString::from).collect();
        let out = format_as_subcommand(argv, &cmd);
        out.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn both_spellings_of_export_are_one() {
        let want = "t export gguf A -o F";
        for line in [
            "t export --format gguf A -o F",
            "t export A --format=gguf -o F",
            "t export A -o F --format gguf",
            want,
        ] {
            let words: std::collections::BTreeSet<String> =
                rewritten(line).split(' ').map(String::from).collect();
            let wanted = want.split(' ').map(String::from).collect();
            assert_eq!(words, wanted, "{line}");
            assert!(rewritten(line).starts_with("t export gguf A"), "{line}");
        }
    }

    #[test]
    fn only_the_export_command_is_rewritten() {
        for line in [
            "t pull --format gguf",
            "t --cache-dir export pull --format gguf",
            "t export --format nonsense A",
            "t export -- --format gguf",
            "t export --format",
        ] {
            assert_eq!(rewritten(line), line);
        }
        assert_eq!(
            rewritten("t --cache-dir x export --format gguf A"),
            "t --cache-dir x export gguf A"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn everything_has_a_help_text() {
        fn check(cmd: &clap::Command) {
            assert!(cmd.get_about().is_some(), "{} has no help", cmd.get_name());
            for arg in cmd.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "{} {} has no help",
                    cmd.get_name(),
                    arg.get_id()
                );
            }
            cmd.get_subcommands().for_each(check);
        }
        let mut cmd = command();
        cmd.build();
        check(&cmd);
    }
}
