//! The one place that prints: results on stdout, everything else on stderr.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anstyle::{AnsiColor, Style};
use schemars::JsonSchema;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::args::ColorMode;
use super::bars::LogWriter;
use super::context::Output;
use super::outcome::{Document, Outcome, printed};
use crate::error::{Error, Kind};
use crate::fsio;
use crate::name::escape;

/// The exit code of a bug.
pub const BUG_EXIT_CODE: u8 = Kind::Bug.exit_code();

/// The style of what went wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// The style of what is well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// The style of what deserves a look.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// The style of what names or emphasises.
pub const STRONG: Style = Style::new().bold();
/// The style of what matters less.
pub const DIM: Style = Style::new().dimmed();
const HELP: Style = AnsiColor::Cyan.on_default().bold();

/// Returns `text` in `style`; codes are stripped later where they are not wanted.
#[must_use]
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Decides about colour for both streams.
pub fn set_color(mode: ColorMode) {
    match mode {
        ColorMode::Auto => anstream::ColorChoice::Auto,
        ColorMode::Always => anstream::ColorChoice::Always,
        ColorMode::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Why the first text that stdout did not take was lost.
static LOST: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints text on stdout. A reader that went away is not an error; of another one [`settled`]
/// knows.
pub fn stdout_text(text: &str) {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A closed pipe means that the reader has what it wanted.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
        _ => {}
    }
}

/// Returns the exit code of a command that would end with `code`: another one, and an error, if
/// its result did not get out.
pub fn settled(code: u8, output: Output) -> u8 {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner).take();
    match lost {
        Some(source) if code <= Kind::Negative.exit_code() => {
            error(&fsio::Error::io("write", Path::new("standard output"))(source).into(), output)
        }
        _ => code,
    }
}

/// Prints one line on stdout.
pub fn stdout_line(line: &str) {
    stdout_text(&format!("{line}\n"));
}

/// Prints text on stderr.
pub fn stderr_text(text: &str) {
    let mut err = anstream::stderr().lock();
    // Nobody is left to be told when stderr is closed.
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Prints an outcome and returns the exit code.
pub fn outcome(outcome: &Outcome, output: Output) -> u8 {
    match output {
        Output::Json => stdout_line(&outcome.json()),
        Output::Human => {
            stdout_text(&with_newline(outcome.human_text()));
            for hint in outcome.hints() {
                stderr_text(&with_newline(hint));
            }
        }
        Output::Quiet => stdout_text(&with_newline(outcome.quiet_text())),
        Output::Silent => {}
    }
    let speaks = matches!(output, Output::Human | Output::Quiet);
    if let Some(problem) = outcome.problem_text().filter(|_| speaks) {
        stderr_text(&error_text(&problem.message, &[], &problem.help));
    }
    outcome.exit_code()
}

fn with_newline(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

/// Prints an error, unless nothing but the exit code is wanted, and returns that.
pub fn error(error: &Error, output: Output) -> u8 {
    let kind = error.kind();
    let (message, causes, help) = (error.to_string(), error.causes(), error.help());
    match output {
        Output::Json => stderr_text(&error_json(kind, error.id(), &message, &causes, &help)),
        Output::Human | Output::Quiet => stderr_text(&error_text(&message, &causes, &help)),
        Output::Silent => {}
    }
    kind.exit_code()
}

/// Prints what clap has to say, help and version included, and returns the exit code.
pub fn usage(error: &clap::Error, output: Output) -> u8 {
    if !error.use_stderr() {
        stdout_text(&error.render().ansi().to_string());
        return 0;
    }
    match output {
        Output::Json => {
            let (message, help) = super::usage::message_and_help(error);
            stderr_text(&error_json(Kind::Usage, "usage", &message, &[], &help));
        }
        // One word for advice everywhere.
        Output::Human | Output::Quiet => {
            stderr_text(&error.render().ansi().to_string().replace("tip:", "help:"));
        }
        Output::Silent => {}
    }
    Kind::Usage.exit_code()
}

/// Lays an error out for people.
#[must_use]
pub fn error_text(message: &str, causes: &[String], help: &[String]) -> String {
    let mut text = format!("{BAD}error:{BAD:#} {}\n", escape_lines(message));
    for cause in causes {
        text += &format!("  {WARN}cause:{WARN:#} {}\n", escape_lines(cause));
    }
    for line in help {
        text += &format!("  {HELP}help:{HELP:#} {}\n", escape_lines(line));
    }
    text
}

/// Escapes each line of a message: causes such as TOML errors have several.
fn escape_lines(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(escape).collect();
    lines.join("\n    ")
}

/// An error, one line on stderr.
#[derive(Serialize, JsonSchema)]
pub(super) struct ErrorDocument<'a> {
    /// What went wrong, as a stable word: `revision_not_found`.
    kind: &'a str,
    /// The exit code of the process.
    exit_code: u8,
    /// What went wrong, for people.
    message: &'a str,
    /// Why, outermost first.
    causes: &'a [String],
    /// What a person can do about it.
    help: &'a [String],
}

impl Document for ErrorDocument<'_> {
    const NAME: &'static str = "error/1";
}

fn error_json(kind: Kind, id: &str, message: &str, causes: &[String], help: &[String]) -> String {
    let document = ErrorDocument { kind: id, exit_code: kind.exit_code(), message, causes, help };
    let text = serde_json::to_string(&printed(&document)).expect("a JSON value serialises");
    format!("{text}\n")
}

/// Sends logs to stderr, past the bars.
pub fn install_logging(verbose: u8, rust_log: Option<OsString>, writer: LogWriter) {
    let filter = match (verbose, rust_log.as_ref().and_then(|text| text.to_str())) {
        (0, None) => return,
        (0, Some(text)) => EnvFilter::new(text),
        (1, _) => EnvFilter::new("tmax_ckpt=info"),
        (2, _) => EnvFilter::new("tmax_ckpt=debug"),
        _ => EnvFilter::new("tmax_ckpt=trace,hf_hub=debug"),
    };
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer);
    // A second run in one process (tests) keeps the first subscriber.
    let _ = subscriber.try_init();
}

/// Makes a panic print what a bug report needs, once, without the token.
pub fn install_panic_hook(argv: &[OsString]) {
    static ARGV: OnceLock<String> = OnceLock::new();
    static SEEN: AtomicBool = AtomicBool::new(false);
    let _ = ARGV.set(without_token(argv));
    std::panic::set_hook(Box::new(|info| {
        if SEEN.swap(true, Ordering::SeqCst) {
            return;
        }
        let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
        let reason = info.payload_as_str().unwrap_or("no message");
        let causes = [
            format!("{reason}{place}"),
            format!("version {}", env!("CARGO_PKG_VERSION")),
            format!("arguments {}", ARGV.get().map_or("", String::as_str)),
        ];
        let help = ["report these lines with what the command was to do".to_owned()];
        stderr_text(&error_text("this is a bug in tmax-ckpt", &causes, &help));
    }));
}

/// Joins the arguments, the value of `--token` left out.
fn without_token(argv: &[OsString]) -> String {
    let mut words = Vec::new();
    let mut hide = false;
    for arg in argv {
        let text = arg.to_string_lossy();
        let word = if hide {
            "…".to_owned()
        } else if text.starts_with("--token=") {
            "--token=…".to_owned()
        } else {
            escape(&text)
        };
        hide = text == "--token";
        words.push(word);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{error_text, without_token};

    #[test]
    fn tokens_stay_out_of_bug_reports() {
        let argv: Vec<OsString> =
            ["t", "--token", "hf_a", "pull", "--token=hf_b", "x"].map(OsString::from).into();
        assert_eq!(without_token(&argv), "t --token … pull --token=… x");
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        let text = error_text("bad\u{1b}[2J", &["a\nb\u{7}".into()], &["do".into()]);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "error: bad\\u{1b}[2J\n  cause: a\n    b\\u{7}\n  help: do\n");
    }
}
