//! Tasks from a dataset repository: pinned, checked, resumable, and plain files in the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tmax_ckpt::hash::Hash;

use crate::hub_server::{Content, Fault, Server};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tasks")
}

fn collect(root: &Path, below: &str, names: &[&str], files: &mut Vec<Content>) {
    for entry in std::fs::read_dir(root.join(below)).expect("lists") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        if below.is_empty() && !names.contains(&name.as_str()) {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.path().is_dir() {
            collect(root, &path, names, files);
        } else {
            let text = std::fs::read_to_string(entry.path()).expect("reads");
            files.push(Content::text(&path, &text));
        }
    }
}

/// Some tasks of the fixtures, one file of them stored as LFS.
fn tasks() -> Vec<Content> {
    let mut files = vec![Content::text("README.md", "---\nlicense: apache-2.0\n---\n")];
    collect(&fixtures(), "", &["count-lines", "set-mode", "write-word"], &mut files);
    let large = files.iter_mut().find(|f| f.path == "count-lines/environment/files/amber.txt");
    large.expect("is there").lfs = true;
    files
}

struct World {
    home: tempfile::TempDir,
    server: Server,
    commit: String,
}

impl World {
    fn new(files: &[Content]) -> Self {
        let server = Server::start();
        let commit = server.branch("main", files);
        Self { home: tempfile::tempdir().expect("a temp dir"), server, commit }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HF_ENDPOINT", &self.server.endpoint)
            .env("HF_TOKEN", "hf_topsecret")
            .current_dir(self.home.path())
            .args(args);
        command.output().expect("runs")
    }

    fn score(&self, tasks: &str, job: &str, more: &[&str]) -> Output {
        let args = ["score", "--agent", "oracle", "--json", "--tasks", tasks, "-o", job];
        self.run(&[args.as_slice(), more].concat())
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join(".cache/huggingface/hub/datasets--o--n")
    }
}

fn last_line(output: &Output) -> Value {
    assert!(output.status.success(), "{}", words(output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // One document, or a line a trial and one for the sum.
    let whole = serde_json::from_str(&text);
    let last = || serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    whole.unwrap_or_else(|_| last())
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn has_sandbox(world: &World) -> bool {
    super::sandbox::host(world.home.path()).is_some()
}

#[test]
fn oracles_solve_the_tasks_of_a_dataset_repository() {
    let world = World::new(&tasks());
    if !has_sandbox(&world) {
        return;
    }
    let reference = format!("datasets/o/n@{}", world.commit);
    let dry = last_line(&world.score("datasets/o/n", "job", &["-n"]));
    assert_eq!((&dry["tasks"], &dry["trials"]), (&3.into(), &3.into()));
    assert!(dry["first"].as_str().is_some_and(|text| text.starts_with("would first fetch ")));
    assert!(!world.cache().exists(), "a dry run fetches nothing");

    let summary = last_line(&world.score("datasets/o/n", "job", &[]));
    assert_eq!(summary["steps"][0]["mean"], 1.0, "{summary}");
    assert_eq!(summary["trials"], 3);
    let job = world.home.path().join("job");
    let read = |path: PathBuf| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("JSON")
    };
    let own = read(job.join("tmax-ckpt.json"));
    assert_eq!(own["dataset"]["repository"], "datasets/o/n");
    assert_eq!(own["dataset"]["commit"], world.commit.as_str());
    for trial in std::fs::read_dir(&job).expect("lists").flatten() {
        if trial.path().join("result.json").is_file() {
            let own = read(trial.path().join("tmax-ckpt.json"));
            assert_eq!(own["dataset"]["commit"], world.commit.as_str());
            assert_eq!(read(trial.path().join("result.json"))["source"], "o/n");
        }
    }
    // Nothing is asked of the network a second time, and the pinned form names the same tasks.
    let before = world.server.seen().len();
    for form in ["datasets/o/n", &reference, "hf://datasets/o/n"] {
        let again = last_line(&world.score(form, "job", &["--offline"]));
        assert_eq!(again["trials"], 3, "{form}");
    }
    let one = format!("hf://{reference}/write-word");
    assert_eq!(last_line(&world.score(&one, "one", &["--offline"]))["trials"], 1);
    assert_eq!(world.server.seen().len(), before);
    let plain = world.cache().join(".plain").join(&world.commit);
    let amber = plain.join("count-lines/environment/files/amber.txt");
    assert!(amber.symlink_metadata().expect("is there").is_file(), "no link");

    // The branch moves: the job keeps to the commit that its records name.
    let mut files = tasks();
    files.push(Content::text("NEWS.md", "more"));
    let moved = world.server.branch("main", &files);
    assert_eq!(world.server.branch("before", &tasks()), world.commit, "the Hub keeps old commits");
    let refused = world.score("datasets/o/n", "job", &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", words(&refused));
    assert!(words(&refused).contains(&format!("--tasks {reference}")), "{}", words(&refused));
    assert_eq!(last_line(&world.score("datasets/o/n", "other", &["-n"]))["tasks"], 3);
    assert_eq!(last_line(&world.score(&reference, "job", &[]))["trials"], 3);
    assert_ne!(moved, world.commit);
}

#[test]
fn a_pull_of_tasks_resumes_and_offline_says_how_to_fetch() {
    let world = World::new(&tasks());
    let offline = world.score("datasets/o/n", "job", &["--offline"]);
    assert_eq!(offline.status.code(), Some(5), "{}", words(&offline));
    let command = "tmax-ckpt pull o/n@main --repo-type dataset";
    assert!(words(&offline).contains(command), "{}", words(&offline));
    assert!(world.server.seen().is_empty(), "offline opens no socket");

    world.server.fault("cdn/blob/", Fault::Status(404, ""), 100);
    let cut = world.score("datasets/o/n", "job", &[]);
    assert!(!cut.status.success());
    assert!(!world.home.path().join("job").exists(), "no job without its tasks");
    world.server.heal();
    let before = world.server.seen().len();
    let pulled = world.run(&["pull", "datasets/o/n", "-q"]);
    assert!(pulled.status.success(), "{}", words(&pulled));
    assert_eq!(words(&pulled), "");
    let resolved = |s: &&crate::hub_server::Seen| s.method == "GET" && s.path.contains("/resolve/");
    let fetched = world.server.seen()[before..].iter().filter(resolved).count();
    assert!(fetched < tasks().len() - 1, "fetched {fetched} again");
    // HEAD and GET alike: a model of the same name is another repository.
    let seen = world.server.seen();
    let mut files = seen.iter().filter(|s| s.path.contains("/resolve/"));
    assert!(files.all(|s| s.path.starts_with("/datasets/o/n/")), "{seen:?}");
    if has_sandbox(&world) {
        let summary = last_line(&world.score("datasets/o/n", "job", &["--offline"]));
        assert_eq!(summary["steps"][0]["mean"], 1.0);
    }
    let listed = world.run(&["cache", "ls"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("o/n"), "{listed:?}");
    let removed = world.run(&["cache", "rm", "o/n", "--repo-type", "dataset", "-y"]);
    assert!(removed.status.success(), "{}", words(&removed));
    assert!(!world.cache().exists());
}

#[test]
fn damaged_and_hostile_task_repositories_are_refused() {
    let world = World::new(&tasks());
    world.server.fault("cdn/blob/", Fault::Flip(0), 100);
    let flipped = world.score("datasets/o/n", "job", &[]);
    assert_eq!(flipped.status.code(), Some(6), "{}", words(&flipped));
    world.server.heal();
    for (path, code) in [("../task.toml", 6), ("a/task.toml\\u001b[2J", 6)] {
        let oid = Hash::GitSha1([1; 20]).hex();
        world
            .server
            .set_tree(&format!(r#"[{{"type":"file","oid":"{oid}","size":3,"path":"{path}"}}]"#));
        let refused = world.score("datasets/o/n", "job", &[]);
        assert_eq!(refused.status.code(), Some(code), "{path}: {}", words(&refused));
        assert!(!words(&refused).contains('\u{1b}'));
    }
    let huge = 1_u64 << 40;
    let oid = Hash::GitSha1([1; 20]).hex();
    world.server.set_tree(&format!(
        r#"[{{"type":"file","oid":"{oid}","size":{huge},"path":"a/environment/x"}}]"#
    ));
    let refused = world.score("datasets/o/n", "job", &["-n"]);
    assert!(matches!(refused.status.code(), Some(2 | 7)), "{}", words(&refused));
    assert!(words(&refused).contains("\"help\":[\""), "{}", words(&refused));
}

#[test]
fn what_is_neither_folder_nor_repository_is_an_error() {
    let world = World::new(&[Content::text("README.md", "no tasks")]);
    for (text, code) in [
        ("o/n", 3),
        ("nowhere", 3),
        ("hf://models/o/n", 3),
        ("datasets/../n", 2),
        ("datasets/o/n@none", 3),
        ("datasets/o/n", 3),
    ] {
        let refused = world.score(text, "job", &["-n"]);
        assert_eq!(refused.status.code(), Some(code), "{text}: {}", words(&refused));
        let error: Value = serde_json::from_str(&words(&refused)).expect("JSON");
        assert_ne!(error["help"], serde_json::json!([]), "{text}: {error}");
    }
}
