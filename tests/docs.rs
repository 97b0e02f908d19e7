//! The documents say what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use tmax_ckpt::arch::{Architecture, Repeat};
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::cli::schemas;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_map_names_every_module_and_no_other() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<String> = std::fs::read_dir(src)
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    let map = read("ARCHITECTURE.md");
    let named: BTreeSet<String> = map
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(named, modules, "the table of modules in ARCHITECTURE.md");
}

#[test]
fn the_readme_names_every_command_and_no_other() {
    let readme = read("README.md");
    let command = tmax_ckpt::cli::args::command();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let heading = format!("### `{}", sub.get_name());
        assert!(readme.contains(&heading), "README.md has no `{heading}`");
    }
    for heading in readme.lines().filter_map(|line| line.strip_prefix("### `")) {
        let name = heading.split(['`', ' ']).next().unwrap_or_default();
        assert!(command.find_subcommand(name).is_some(), "README.md describes `{name}`");
    }
}

/// Fails when a generated page is not the one in the repository; the right ones are then under
/// `target/docs`, where `just docs` takes them from.
fn assert_generated(pages: &[(String, String)]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, wanted) in pages {
        let fresh = root.join("target/docs").join(name);
        std::fs::create_dir_all(fresh.parent().expect("a folder")).expect("makes the folder");
        std::fs::write(&fresh, wanted).expect("writes");
    }
    for (name, wanted) in pages {
        let found = std::fs::read_to_string(root.join("docs").join(name)).unwrap_or_default();
        let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
        assert!(found == *wanted, "docs/{name} is stale, `just docs` writes it: {differs:?}");
    }
}

#[test]
fn the_reference_of_commands_is_the_programs_own_help() {
    let reference = tmax_ckpt::cli::reference::markdown();
    assert!(reference.matches("\n## `tmax-ckpt").count() > 15, "{reference}");
    assert_generated(&[("cli.md".to_owned(), reference)]);
}

#[test]
fn every_document_has_its_schema_and_no_other_has() {
    let pages: Vec<(String, String)> = schemas::all()
        .into_iter()
        .map(|(name, schema)| {
            let text = serde_json::to_string_pretty(&schema).expect("a JSON value serialises");
            (format!("schemas/{}", schemas::file_name(&name)), text + "\n")
        })
        .collect();
    assert_generated(&pages);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    for entry in std::fs::read_dir(folder).expect("lists") {
        let name = format!("schemas/{}", entry.expect("an entry").file_name().to_string_lossy());
        assert!(pages.iter().any(|(page, _)| *page == name), "docs/{name} is of no document");
    }
}

#[test]
fn the_page_of_each_architecture_is_its_table() {
    let pages = Architecture::ALL.map(|architecture| {
        let page = architecture.page();
        let lines = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(lines, architecture.tensors().len());
        (format!("formats/{}", architecture.page_name()), page)
    });
    assert_generated(&pages);
}

#[test]
fn the_tables_hold_every_name_and_shape_of_the_fixtures() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut seen = BTreeSet::new();
    for folder in ["tiny-raw", "gguf", "engine"] {
        for entry in std::fs::read_dir(fixtures.join(folder)).expect("lists").flatten() {
            if !entry.path().join("config.json").exists() {
                continue;
            }
            let checkpoint = Checkpoint::open(&entry.path()).expect("opens");
            let (config, shown) = (&checkpoint.config, entry.path().display().to_string());
            let page = config.architecture.page();
            for tensor in checkpoint.tensors() {
                let (rule, _) = tensor.rule.unwrap_or_else(|| panic!("{shown}: {}", tensor.name));
                let shape = rule.shape(&config.text, config.vision.as_ref());
                assert_eq!(shape.as_ref(), Some(&tensor.shape), "{shown}: {}", tensor.name);
                assert!(page.contains(&format!("\n| `{}` |", rule.hf)), "{}", rule.hf);
                seen.insert((config.architecture.gguf_name(), rule.hf));
            }
        }
    }
    // Nothing of a table that no real header has, but for what no model at hand has.
    let seen = &seen;
    let unseen = |architecture: Architecture| {
        let rules = architecture.tensors().iter();
        let unseen = rules.filter(move |rule| !seen.contains(&(architecture.gguf_name(), rule.hf)));
        unseen.filter(|rule| rule.repeat != Repeat::Deepstack).map(|rule| rule.hf)
    };
    let unseen: Vec<&str> = Architecture::ALL.into_iter().flat_map(unseen).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
