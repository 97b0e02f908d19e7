//! What clap says of a wrong command line, taken apart for the JSON error.

use clap::error::ErrorKind;

/// Returns the message on one line, and the lines of help: clap's own, and the usage.
///
/// clap lays its text out as paragraphs: the message, tips, the usage, where to read more.
#[must_use]
pub fn message_and_help(error: &clap::Error) -> (String, Vec<String>) {
    let text = error.render().to_string();
    let lines = || text.lines().map(str::trim_end);
    let mut help: Vec<String> = lines().filter_map(tip).map(str::to_owned).collect();
    let usage = lines().skip_while(|line| !line.starts_with("Usage:"));
    let usage = one_line(usage.take_while(|line| !line.is_empty()));
    if !usage.is_empty() {
        help.push(usage);
    }
    // Instead of an error this kind is the page of help, of which no line says what is wrong.
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return ("a command or an argument is missing".to_owned(), help);
    }
    let message = one_line(lines().take_while(|line| !line.is_empty()));
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    help.extend(lines().filter(|line| line.starts_with("For more information")).map(str::to_owned));
    (message, help)
}

/// Returns what a line of advice says.
fn tip(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("tip: ").or_else(|| line.strip_prefix("help: "))
}

fn one_line<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}
