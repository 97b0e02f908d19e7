//! The style that a machine can hold: layers, sizes, forbidden calls, machine paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules by layer, lowest first. Imports go to the same layer or down.
const LAYERS: &[&[&str]] = &[
    &["error", "units", "dtype", "name", "progress", "fsio", "hash"],
    &["safetensors", "gguf", "quant"],
    &["arch", "checkpoint"],
    &["ops", "select", "report"],
    &["hub", "engine", "sandbox", "harness"],
    &["cli"],
];

/// What only `cli` may use, and why.
const CLI_ONLY: &[(&str, &str)] = &[
    ("clap::", "arguments belong to cli"),
    ("indicatif::", "drawing belongs to cli"),
    ("anstream::", "printing belongs to cli"),
    ("println!(", "printing belongs to cli"),
    ("eprintln!(", "printing belongs to cli"),
    ("std::env::", "the environment is read in cli"),
    ("SystemTime::now", "the date is passed down from cli"),
    ("Timestamp::now", "the date is passed down from cli"),
    ("Zoned::now", "the date is passed down from cli"),
    ("process::exit", "only cli ends the process"),
];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
const COLUMNS_MAX: usize = 100;

/// One Rust file: its path below the root, its text, and its text without test modules.
struct Source {
    path: String,
    text: String,
    code: Vec<(usize, String)>,
}

impl Source {
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        let name = rest.split('/').next().unwrap_or(rest);
        Some(name.strip_suffix(".rs").unwrap_or(name)).filter(|m| *m != "lib" && *m != "main")
    }

    fn is_test_file(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Lists the files below `dir`, build output and version control left out, in order.
fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).expect("lists").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_symlink() || ["target", ".git", ".venv", "corpus", "artifacts"].contains(&&*name)
        {
            continue;
        }
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    for folder in folders {
        walk(&root().join(folder), &mut files);
    }
    let rust = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| {
        let text = std::fs::read_to_string(&path).expect("reads");
        let path = path.strip_prefix(root()).expect("below the root");
        let code = without_tests(&text);
        Source { path: path.to_string_lossy().into_owned(), text, code }
    })
    .collect()
}

/// Returns the numbered lines outside `#[cfg(test)]` modules, comments left out.
fn without_tests(text: &str) -> Vec<(usize, String)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((i, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let close = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            for (_, inner) in lines.by_ref() {
                if inner == close || (inner.ends_with(';') && !inner.starts_with(' ')) {
                    break;
                }
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push((i + 1, line.to_owned()));
        }
    }
    kept
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Returns the top-level modules that a line names after `crate::`.
fn crate_modules(line: &str) -> Vec<String> {
    let identifier = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        // `$crate::` and `crate::` are ours, `some_crate::` is not.
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(list.split(',').map(identifier)),
            None => found.push(identifier(rest)),
        }
    }
    found.retain(|module| layer(module).is_some());
    found
}

fn assert_none(complaints: Vec<String>, rule: &str) {
    assert!(complaints.is_empty(), "{rule}:\n  {}\n", complaints.join("\n  "));
}

#[test]
fn every_module_has_a_layer() {
    let unknown: BTreeSet<String> = sources(&["src"])
        .iter()
        .filter_map(Source::module)
        .filter(|module| layer(module).is_none())
        .map(str::to_owned)
        .collect();
    assert_none(unknown.into_iter().collect(), "modules that LAYERS does not name");
}

#[test]
fn imports_point_down() {
    let mut complaints = Vec::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources(&["src"]) {
        let Some(from) = source.module().map(str::to_owned) else { continue };
        for (number, line) in &source.code {
            for to in crate_modules(line) {
                if layer(&to) > layer(&from) {
                    complaints.push(format!("{}:{number} uses crate::{to}", source.path));
                }
                if to != from {
                    edges.entry(from.clone()).or_default().insert(to);
                }
            }
        }
    }
    assert_none(complaints, "imports that point up");
    for start in edges.keys() {
        let mut todo: Vec<&String> = edges[start].iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(module) = todo.pop() {
            assert_ne!(module, start, "module {start} reaches itself through its imports");
            if seen.insert(module) {
                todo.extend(edges.get(module).into_iter().flatten());
            }
        }
    }
}

#[test]
fn what_belongs_to_cli_stays_there() {
    let mut complaints = Vec::new();
    for source in sources(&["src"]).iter().filter(|s| s.module().is_some_and(|m| m != "cli")) {
        for (number, line) in source.code.iter().filter(|_| !source.is_test_file()) {
            for (call, why) in CLI_ONLY.iter().filter(|(call, _)| line.contains(call)) {
                complaints.push(format!("{}:{number} has `{call}`: {why}", source.path));
            }
        }
    }
    assert_none(complaints, "calls below cli");
}

/// Returns first line, name and length of each function, relying on rustfmt's indentation.
fn functions(code: &[(usize, String)]) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    for (i, (number, line)) in code.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(at) = trimmed.find("fn ") else { continue };
        let words =
            ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
        if !trimmed[..at].split_whitespace().all(|word| words.contains(&word)) {
            continue;
        }
        let indent = &line[..line.len() - trimmed.len()];
        let (close, declared) = (format!("{indent}}}"), format!("{indent})"));
        let ends = |l: &str| l == close || (l.starts_with(&declared) && l.ends_with(';'));
        let end = code[i..].iter().find(|(_, l)| ends(l));
        let one_line = line.ends_with('}') || line.ends_with(';');
        if let (Some((last, _)), false) = (end, one_line) {
            let name = trimmed[at + 3..].split(['(', '<']).next().unwrap_or_default();
            found.push((*number, name.to_owned(), last - number + 1));
        }
    }
    found
}

#[test]
fn functions_and_files_are_short() {
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests"]) {
        let lines = source.text.lines().count();
        let is_table = source.text.contains("rustfmt::skip");
        if lines > FILE_LINES_MAX && !is_table {
            complaints.push(format!("{} has {lines} lines", source.path));
        }
        for (number, name, length) in functions(&source.code) {
            if length > FUNCTION_LINES_MAX && !source.is_test_file() {
                complaints.push(format!("{}:{number} fn {name}: {length} lines", source.path));
            }
        }
        // Regular expressions and test data are long literals, which rustfmt leaves alone.
        let skip = is_table || source.is_test_file();
        let literal = |line: &str| line.contains("r\"") || line.contains("r#\"");
        for (number, line) in source.code.iter().filter(|(_, l)| !skip && !literal(l)) {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX {
                complaints.push(format!("{}:{number} has {columns} columns", source.path));
            }
        }
    }
    assert_none(complaints, "too long");
}

/// Returns the parameters of type `bool` of a function whose first line is `code[i]`.
fn flags(code: &[(usize, String)], i: usize) -> usize {
    let mut count = 0;
    for (_, line) in &code[i..] {
        let (line, ends) = match line.split_once(") ->") {
            Some((parameters, _)) => (format!("{parameters})"), true),
            None => (line.clone(), line.ends_with('{') || line.ends_with(';')),
        };
        count += line.matches(": bool,").count() + line.matches(": bool)").count();
        if ends || line.trim() == "}" {
            break;
        }
    }
    count
}

#[test]
fn no_function_takes_a_flag() {
    let mut complaints = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test_file()) {
        let starts = functions(&source.code);
        for (i, (number, _)) in source.code.iter().enumerate() {
            let name = starts.iter().find(|(start, ..)| start == number).map(|(_, name, _)| name);
            if let Some(name) = name.filter(|name| *name != "from" && flags(&source.code, i) > 0) {
                complaints.push(format!("{}:{number} fn {name}", source.path));
            }
        }
    }
    assert_none(complaints, "boolean parameters: an enum says what is meant");
    let code = |text: &str| text.lines().map(|l| (0, l.to_owned())).collect::<Vec<_>>();
    assert_eq!(flags(&code("fn a(\n    b: bool,\n    c: u8,\n) -> bool {\n"), 0), 1);
    assert_eq!(flags(&code("fn a(b: u8) -> bool {\n    c(|d: bool| d)\n}\n"), 0), 0);
}

#[test]
fn every_allow_says_why() {
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests"]) {
        let marks = ["#[all", "#![all", "#[exp", "#![exp"].map(|start| {
            let end = if start.ends_with("all") { "ow(" } else { "ect(" };
            format!("{start}{end}")
        });
        for mark in &marks {
            for (at, _) in source.text.match_indices(mark.as_str()) {
                let attribute = source.text[at..].split(")]").next().unwrap_or_default();
                if !attribute.contains("reason") {
                    complaints.push(format!("{}: {attribute}", source.path));
                }
            }
        }
    }
    assert_none(complaints, "lints silenced without a reason");
}

#[test]
fn every_module_opens_with_its_purpose() {
    let missing = sources(&["src", "tests"])
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert_none(missing, "files without a //! opening");
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let mut files = Vec::new();
    walk(root(), &mut files);
    // Spelt in two halves, so that this file passes its own test.
    let marks = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat()];
    let mut complaints = Vec::new();
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (i, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                complaints.push(format!("{}:{}", path.display(), i + 1));
            }
        }
    }
    assert_none(complaints, "absolute paths of a machine");
}

#[test]
fn the_checker_itself_sees_what_it_should() {
    assert_eq!(crate_modules("use crate::{arch, hub::Repo};"), ["arch", "hub"]);
    assert_eq!(crate_modules("    crate::cli::x(); other_crate::hub::y()"), ["cli"]);
    let text = "fn a() {\n    b();\n}\n#[cfg(test)]\nmod tests {\n    clap::x();\n}\nfn c() {\n}\n";
    let code = without_tests(text);
    assert!(code.iter().all(|(_, line)| !line.contains("clap::")));
    let lengths: Vec<_> = functions(&code).into_iter().map(|(_, n, l)| (n, l)).collect();
    assert_eq!(lengths, [("a".to_owned(), 3), ("c".to_owned(), 2)]);
}
