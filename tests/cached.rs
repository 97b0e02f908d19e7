//! Commands on checkpoints of the shared cache: what they read stays, and what it is called.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use tmax_ckpt::fsio::{self, Locked};

use crate::cli::binary;
use crate::hub_server::{Content, Server};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A home whose cache has the steps of `o/tmax`, each a commit of its own, and nothing else.
struct Home(tempfile::TempDir);

impl Home {
    fn new(refs: &[(&str, &str)]) -> Self {
        let home = Self(tempfile::tempdir().expect("a temp dir"));
        for (name, digit) in refs {
            let snapshot = home.snapshot(digit);
            fsio::create_dir_all(&snapshot).expect("makes");
            for entry in std::fs::read_dir(fixture("gguf/untied")).expect("lists").flatten() {
                std::fs::copy(entry.path(), snapshot.join(entry.file_name())).expect("copies");
            }
            if !name.is_empty() {
                let path = home.repository().join("refs").join(name);
                fsio::write_atomic(&path, digit.repeat(40).as_bytes()).expect("writes");
            }
        }
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn cache(&self) -> PathBuf {
        self.path().join(".cache/huggingface/hub")
    }

    fn repository(&self) -> PathBuf {
        self.cache().join("models--o--tmax")
    }

    fn snapshot(&self, digit: &str) -> PathBuf {
        self.repository().join("snapshots").join(digit.repeat(40))
    }

    fn run(&self, args: &[&str]) -> Output {
        binary(self.path()).args(args).output().expect("runs")
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = binary(self.path());
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("starts")
    }

    /// Takes the lock that a removal takes; `None` while somebody reads.
    fn lock(&self) -> Option<Locked> {
        let path = self.cache().join(".locks/models--o--tmax/in-use.lock");
        fsio::create_dir_all(fsio::parent(&path)).expect("makes");
        Locked::try_new(fsio::open_rw(&path).expect("opens"), &path).expect("locks")
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_reader_of_a_snapshot_waits_for_a_removal_to_end() {
    let home = Home::new(&[("step_1", "1"), ("step_2", "2")]);
    let tasks = fixture("tasks");
    let tasks = tasks.to_str().expect("UTF-8");
    let snapshot = home.snapshot("1");
    let snapshot = snapshot.to_str().expect("UTF-8");
    let model = &format!("{snapshot}/model.safetensors");
    let one = "o/tmax@step_1";
    let readers: &[&[&str]] = &[
        &["verify", one],
        &["verify", snapshot],
        &["inspect", one],
        &["inspect", model],
        &["diff", one, snapshot],
        &["strip", one, "-o", "stripped"],
        &["export", "safetensors", one, "-o", "again"],
        &["export", "gguf", one, "-o", "m.gguf"],
        &["logprobs", one, "--text", "to be or not"],
        &["score", one, "--tasks", tasks, "-o", "job", "-n"],
        &["select", one, "o/tmax@step_2", "--tasks", tasks, "-n"],
    ];
    let removal = home.lock().expect("nobody reads");
    let mut waiting: Vec<Child> = readers.iter().map(|args| home.start(args)).collect();
    std::thread::sleep(Duration::from_secs(1));
    for (child, args) in waiting.iter_mut().zip(readers) {
        let ended = child.try_wait().expect("asks");
        assert!(ended.is_none(), "{args:?} read while a removal was at work: {ended:?}");
    }
    drop(removal);
    for (child, args) in waiting.into_iter().zip(readers) {
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

#[test]
fn what_is_being_read_is_not_removed() {
    let home = Home::new(&[("step_1", "1"), ("", "2")]);
    let mut reader = home.start(&["logprobs", "o/tmax@step_1", "--token-ids", "/dev/stdin"]);
    let started = Instant::now();
    while home.lock().is_some() {
        assert!(started.elapsed() < Duration::from_secs(20), "the reader takes no lock");
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = home.run(&["cache", "rm", "o/tmax", "--yes"]);
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    let said = words(&refused);
    assert!(said.contains("o/tmax is in use: another process fetches or reads it"), "{said}");
    let pruned = home.run(&["cache", "prune"]);
    assert!(pruned.status.success(), "{pruned:?}");
    assert!(words(&pruned).contains("o/tmax is left alone"), "{pruned:?}");
    assert!(home.snapshot("1").exists() && home.snapshot("2").exists());

    reader.stdin.take().expect("piped").write_all(b"1 2 3").expect("writes");
    let output = reader.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
    assert!(home.run(&["cache", "prune"]).status.success());
    assert!(home.snapshot("1").exists() && !home.snapshot("2").exists());
    assert!(home.run(&["cache", "rm", "o/tmax", "--yes"]).status.success());
    assert!(!home.repository().exists());
}

#[test]
fn a_name_that_is_not_cached_leaves_nothing_behind() {
    let home = Home::new(&[]);
    let output = home.run(&["verify", "o/tmax@step_1"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!home.cache().exists());
}

#[test]
fn steps_are_exported_under_names_of_their_own() {
    let refs = [("step_1", "1"), ("step_2", "2"), ("main", "3"), ("", "4"), ("step_5", "5")];
    let home = Home::new(&refs);
    let by_path = home.snapshot("5");
    let commit = "2".repeat(40);
    let (named, unnamed) = (format!("o/tmax@{commit}"), format!("o/tmax@{}", "4".repeat(40)));
    std::os::unix::fs::symlink(home.snapshot("4"), home.path().join("link")).expect("links");
    let folder = home.path().join("runs/step_7");
    fsio::create_dir_all(fsio::parent(&folder)).expect("makes");
    std::fs::rename(home.snapshot("3"), &folder).expect("moves");
    std::fs::create_dir(home.snapshot("3")).expect("makes");
    for entry in std::fs::read_dir(&folder).expect("lists").flatten() {
        std::fs::copy(entry.path(), home.snapshot("3").join(entry.file_name())).expect("copies");
    }
    for (checkpoint, wanted) in [
        ("o/tmax@step_1", "Tmax-164K-step_1-BF16.gguf"),
        (named.as_str(), "Tmax-164K-step_2-BF16.gguf"),
        ("o/tmax", "Tmax-164K-BF16.gguf"),
        (unnamed.as_str(), "Tmax-164K-44444444-BF16.gguf"),
        ("./link", "Tmax-164K-44444444-BF16.gguf"),
        (by_path.to_str().expect("UTF-8"), "Tmax-164K-step_5-BF16.gguf"),
        ("runs/step_7", "Step_7-164K-BF16.gguf"),
    ] {
        let output = home.run(&["export", "gguf", checkpoint, "-n", "-q"]);
        assert!(output.status.success(), "{checkpoint}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), wanted, "{checkpoint}");
    }
    let named = ["export", "gguf", "runs/step_7", "--model-name", "tmax", "-n", "-q"];
    let output = home.run(&named);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "tmax-164K-step_7-BF16.gguf");
}

#[test]
fn what_cannot_be_removed_is_looked_for_in_the_cache() {
    let home = Home::new(&[("step_1", "1")]);
    for (what, help) in [
        ("o/other", "help: `tmax-ckpt cache ls` lists what is there"),
        ("o/tmaxx", "help: did you mean `o/tmax`? `tmax-ckpt cache ls` lists what is there"),
        ("o/tmax@step_9", "`tmax-ckpt cache ls` lists what is there"),
    ] {
        let output = home.run(&["cache", "rm", what, "--yes"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let said = words(&output);
        assert!(said.contains(help) && !said.contains("pull"), "{said}");
    }
}

#[test]
fn help_about_a_dataset_names_the_dataset() {
    let server = Server::start();
    server.branch("main", &[Content::text("README.md", "tasks")]);
    let home = tempfile::tempdir().expect("a temp dir");
    let run = |args: &[&str]| {
        let mut command = binary(home.path());
        command.env("HF_ENDPOINT", &server.endpoint).args(args).output().expect("runs")
    };
    for args in [
        &["pull", "datasets/o/n@v9"][..],
        &["pull", "o/n@v9", "--repo-type", "dataset"],
        &["score", "--agent", "oracle", "--tasks", "datasets/o/n@v9", "-o", "job"],
    ] {
        let said = words(&run(args));
        assert!(said.contains("revision `v9` not found in datasets/o/n"), "{said}");
        assert!(said.contains("`tmax-ckpt steps datasets/o/n` lists"), "{said}");
    }
    let steps = run(&["steps", "datasets/o/n"]);
    assert!(steps.status.success(), "the advice works: {steps:?}");
}
