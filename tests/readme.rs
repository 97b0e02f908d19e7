//! What the documents tell people to type is what the program takes, and what README.md shows is
//! what it prints.

use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use tmax_ckpt::cli::args;

use crate::hub_server::{Content, Server};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Splits a line as a shell does, as far as the documents need it: spaces and single quotes. The
/// line ends where another program begins.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            '|' | '>' | ';' | '#' if !quoted => break,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("never empty").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The command lines of our program in a document's blocks of code, variables before them left out.
fn command_lines(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if inside {
            let line = line.trim().trim_start_matches("$ ");
            let assigned = |word: &&str| word.split_once('=').is_some_and(|(n, _)| is_variable(n));
            let rest: Vec<&str> = line.split(' ').skip_while(assigned).collect();
            if rest.first() == Some(&"tmax-ckpt") {
                found.push(rest.join(" "));
            }
        }
    }
    found
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[test]
fn every_command_line_of_the_documents_parses() {
    for (document, at_least) in [("README.md", 12), ("docs/cli.md", 40)] {
        let text = std::fs::read_to_string(root().join(document)).expect("reads");
        let lines = command_lines(&text);
        assert!(lines.len() >= at_least, "{document}: {lines:#?}");
        // A line of usage, with names for what is to be filled in, is no command line.
        for line in lines.into_iter().filter(|line| !line.contains('<')) {
            let argv = words(&line).into_iter().map(Into::into).collect();
            let argv = args::format_as_subcommand(argv, &args::command());
            if let Err(error) = args::command().try_get_matches_from(argv) {
                assert!(!error.use_stderr(), "{document}: `{line}`\n{error}");
            }
        }
    }
}

/// A command line of README.md and what is printed below it.
struct Sample {
    line: String,
    shown: String,
}

fn samples(text: &str) -> Vec<Sample> {
    let mut found: Vec<Sample> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for line in block.lines() {
            if let Some(line) = line.strip_prefix("$ ") {
                found.push(Sample { line: line.to_owned(), shown: String::new() });
            } else if let Some(sample) = found.last_mut() {
                sample.shown += line.trim_end();
                sample.shown.push('\n');
            }
        }
    }
    found
}

/// Replaces what is another on each machine: commits, dates, the home, and so the widths of columns.
fn masked(text: &str, home: &Path) -> String {
    let text = text.replace(&*home.to_string_lossy(), "~").replace("/home/ada", "~");
    let text = Regex::new(r"\b\d{4}-\d\d-\d\d\b").expect("a pattern").replace_all(&text, "DATE");
    let commit = Regex::new(r"\b[0-9a-f]{8}(…|[0-9a-f]{32}\b|\b)").expect("a pattern");
    let text = commit.replace_all(&text, "COMMIT");
    let lines = Regex::new("  +").expect("a pattern").replace_all(&text, "  ").into_owned();
    lines.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Serves `fixtures/tiny-raw` as `local/tiny`.
pub fn serve_family() -> Server {
    let server = Server::of("local/tiny");
    let family = root().join("fixtures/tiny-raw");
    let mut steps: Vec<PathBuf> = std::fs::read_dir(family)
        .expect("lists")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    steps.sort();
    for step in steps {
        let files = tmax_ckpt::fsio::files_below(&step).expect("lists");
        let content = |name: &String| {
            let bytes = std::fs::read(step.join(name)).expect("reads");
            let lfs = name.ends_with(".safetensors") || name == "tokenizer.json";
            Content { path: name.clone(), bytes, lfs }
        };
        let files: Vec<Content> = files.iter().map(content).collect();
        server.branch(&step.file_name().expect("a name").to_string_lossy(), &files);
    }
    server
}

/// Runs README's samples in their order and compares what is printed; but for `select`, which runs
/// long and has tests of its own.
#[test]
fn the_program_prints_what_the_readme_shows() {
    let server = serve_family();
    let home = tempfile::tempdir().expect("a temp dir");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("reads");
    let samples = samples(&readme);
    assert!(samples.len() >= 12, "README.md has few samples");
    std::os::unix::fs::symlink(root().join("fixtures"), home.path().join("fixtures"))
        .expect("links");
    let path = Path::new(env!("CARGO_BIN_EXE_tmax-ckpt")).parent().expect("a folder");
    for sample in samples.iter().filter(|sample| !sample.line.contains("tmax-ckpt select")) {
        let mut shell = Command::new("/bin/sh");
        // As a terminal shows it.
        shell
            .args(["-c", &format!("exec 2>&1; {}", sample.line)])
            .current_dir(home.path())
            .env_clear();
        shell.env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin", path.display()));
        shell.env("HOME", home.path());
        if !sample.line.contains("config show") {
            shell.env("HF_ENDPOINT", &server.endpoint);
        }
        let output = shell.output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let (shown, printed) = (masked(&sample.shown, home.path()), masked(&text, home.path()));
        let line = &sample.line;
        assert!(shown == printed, "{line}\nREADME.md:\n{shown}\nprinted:\n{printed}");
    }
}

/// The texts of the functions that say what to do about an error.
fn help_functions() -> Vec<(String, String)> {
    let sources = tmax_ckpt::fsio::files_below(&root().join("src")).expect("lists");
    let mut found = Vec::new();
    // A text that goes on in the next line of the source.
    let joint = Regex::new(r"\\\n\s*").expect("a pattern");
    for name in sources.into_iter().filter(|name| name.ends_with(".rs")) {
        let text = std::fs::read_to_string(root().join("src").join(&name)).expect("reads");
        for body in text.split("fn help(&self) -> Vec<String> {").skip(1) {
            let body = body.split("\n    }\n").next().unwrap_or_default();
            let joined = joint.replace_all(body, "");
            found.push((name.clone(), joined.into_owned()));
        }
    }
    found
}

/// Advice to type what the program does not take is worse than none.
#[test]
fn help_lines_name_commands_and_flags_that_exist() {
    fn flags(command: &clap::Command) -> Vec<String> {
        let own = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
        own.chain(command.get_subcommands().flat_map(flags)).collect()
    }
    // Of programs that are named beside them: vLLM, sysctl and llama.cpp have flags as well.
    let foreign = ["language-model-only"];
    let mut program = args::command();
    program.build();
    let all = flags(&program);
    let flag = Regex::new(r"--([a-z][a-z0-9_-]*[a-z0-9])").expect("a pattern");
    let line = Regex::new("`tmax-ckpt ([^`]*)`").expect("a pattern");
    let bodies = help_functions();
    assert!(bodies.len() > 15, "{}", bodies.len());
    for (file, body) in bodies {
        for found in flag.captures_iter(&body) {
            let known = all.iter().any(|name| *name == found[1]) || foreign.contains(&&found[1]);
            assert!(known, "{file}: no command has --{}", &found[1]);
        }
        for found in line.captures_iter(&body) {
            let mut command = &program;
            for word in found[1].split(' ') {
                if let Some(name) = word.strip_prefix("--") {
                    let has = command.get_arguments().any(|arg| arg.get_long() == Some(name));
                    assert!(has, "{file}: `{}`: no --{name}", &found[1]);
                } else if let Some(sub) = command.find_subcommand(word) {
                    command = sub;
                }
            }
            let named = command.get_name() != "tmax-ckpt" || found[1].starts_with("--");
            assert!(named, "{file}: `tmax-ckpt {}` names no command", &found[1]);
        }
    }
}
