//! The documents say what the code does.

use std::collections::BTreeSet;
use std::path::Path;

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
