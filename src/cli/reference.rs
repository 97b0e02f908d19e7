//! The reference of the command line as Markdown: `just docs` writes it to `docs/cli.md`, and a
//! test fails when that differs.

use std::fmt::Write as _;

use super::args;

/// Returns the help of every command, from clap's own texts.
#[must_use]
pub fn markdown() -> String {
    let mut command = args::command().color(clap::ColorChoice::Never).term_width(100);
    command.build();
    let mut out = String::from(
        "# Reference of the command line\n\n\
         Made from the program's own help by `just docs`.\n",
    );
    section(&command, &mut out);
    out
}

fn section(command: &clap::Command, out: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.clone().render_long_help().to_string();
    // Values of variables never show, and lines that only pad are noise in a diff.
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let text = lines.join("\n");
    write!(out, "\n## `{name}`\n\n```text\n{}\n```\n", text.trim_end()).expect("strings grow");
    for sub in args::documented(command) {
        section(sub, out);
    }
}
