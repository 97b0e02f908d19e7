//! Pages of help on the terminals that people have.

use clap::{ColorChoice, Command};
use tmax_ckpt::cli::args;

/// Columns of a narrow terminal, and those that are used at most.
const WIDTHS: [usize; 2] = [80, 100];

/// The names and pages of all commands, hidden ones left out, at a width.
fn pages(width: usize) -> Vec<(String, String)> {
    fn collect(command: &Command, pages: &mut Vec<(String, String)>) {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        let text = command.clone().render_long_help().to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        pages.push((name, lines.join("\n")));
        for sub in args::documented(command) {
            collect(sub, pages);
        }
    }
    let mut command = args::command().color(ColorChoice::Never).term_width(width);
    command.build();
    let mut found = Vec::new();
    collect(&command, &mut found);
    found
}

#[test]
fn pages_fit_the_terminal_and_are_those_that_were_read() {
    for width in WIDTHS {
        let mut all = String::new();
        for (name, page) in pages(width) {
            for line in page.lines() {
                let columns = line.chars().count();
                assert!(columns <= width, "{name} at {width}: {columns} columns: {line}");
            }
            all += &format!("==== {name}\n{}\n\n", without_global_options(&page));
        }
        insta::assert_snapshot!(format!("help_at_{width}"), all);
    }
}

/// Leaves out what all pages share: the first page has it.
fn without_global_options(page: &str) -> String {
    if page.contains("\nCommands:\n") && page.contains("Examples, in the order") {
        return page.to_owned();
    }
    let (head, rest) = page.split_once("\nGlobal options:\n").expect("every page has them");
    let tail = rest.lines().skip_while(|line| line.is_empty() || line.starts_with(' '));
    format!("{head}\nGlobal options: …\n\n{}", tail.collect::<Vec<_>>().join("\n"))
}
