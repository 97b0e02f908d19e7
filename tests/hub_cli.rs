//! The Hub's commands as a user runs them: exit codes, stdout, signals.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::hub_server::{Content, Fault, Server};

/// A program call with a home of its own and nothing else from the environment.
fn program(home: &Path, server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"));
    command
        .env_clear()
        .env("HOME", home)
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_TOKEN", "hf_topsecret")
        .current_dir(home)
        .args(args);
    command
}

fn run(home: &Path, server: &Server, args: &[&str]) -> Output {
    program(home, server, args).output().expect("runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn files() -> Vec<Content> {
    let large = (0..2_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    vec![Content::text("config.json", "{}"), Content::lfs("model.safetensors", large)]
}

fn world() -> (tempfile::TempDir, Server) {
    let server = Server::start();
    server.branch("step_100", &files());
    server.branch("main", &files());
    (tempfile::tempdir().expect("a temp dir"), server)
}

#[test]
fn steps_and_pull_print_what_scripts_need() {
    let (home, server) = world();
    let steps: Value =
        serde_json::from_str(&stdout(&run(home.path(), &server, &["steps", "o/n", "--json"])))
            .expect("JSON");
    assert_eq!(steps["schema"], "tmax-ckpt.steps/1");
    assert_eq!(steps["steps"][0]["name"], "step_100");
    assert_eq!(steps["steps"][1]["same_as"], "step_100");

    let dry = stdout(&run(home.path(), &server, &["pull", "o/n@step_100", "-n"]));
    assert!(dry.contains("would fetch 2.0 MB"), "{dry}");
    assert!(!home.path().join(".cache/huggingface/hub").exists());

    let path = stdout(&run(home.path(), &server, &["pull", "o/n@step_100", "-q"]));
    assert_eq!(
        std::fs::read_to_string(format!("{}/config.json", path.trim())).expect("reads"),
        "{}"
    );
    let table = stdout(&run(home.path(), &server, &["steps", "o/n"]));
    let line = table.lines().find(|l| l.starts_with("step_100")).expect("a row");
    assert!(line.ends_with("yes"), "{table}");

    let list = stdout(&run(home.path(), &server, &["cache", "ls", "--json"]));
    let list: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["repos"][0]["revisions"][0]["refs"], serde_json::json!(["step_100"]));
    let asked = run(home.path(), &server, &["cache", "rm", "o/n"]);
    assert_eq!(asked.status.code(), Some(2), "nobody can answer: {asked:?}");
    let words = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(words.contains("help: `--yes` removes it"), "{words}");
    assert!(Path::new(path.trim()).exists(), "removed without a yes");
    stdout(&run(home.path(), &server, &["cache", "rm", "o/n", "--yes"]));
    let offline = run(home.path(), &server, &["pull", "o/n@step_100", "--offline"]);
    assert_eq!(offline.status.code(), Some(5));
    let words = String::from_utf8_lossy(&offline.stderr).into_owned();
    assert!(words.contains("`tmax-ckpt pull o/n@step_100` would fetch it"), "{words}");
}

#[test]
fn nothing_of_a_running_pull_is_removed() {
    let (home, server) = world();
    // Wholly fetched, and without a name until the pull of it ends.
    stdout(&run(home.path(), &server, &["pull", "o/n@main", "--include", "*.json"]));
    server.fault("cdn/blob/", Fault::Held(100_000), 1000);
    let mut pull = program(home.path(), &server, &["pull", "o/n@step_100", "-q"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let blobs = home.path().join(".cache/huggingface/hub/models--o--n/blobs");
    let started = || {
        let entries = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        entries.filter(|e| e.file_name().to_string_lossy().ends_with(".part")).count() > 0
    };
    let begin = Instant::now();
    while !started() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the pull does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pruned = run(home.path(), &server, &["cache", "prune", "--json"]);
    let document: Value = serde_json::from_str(&stdout(&pruned)).expect("JSON");
    let removed = run(home.path(), &server, &["cache", "rm", "o/n", "-y"]);
    assert!(pull.try_wait().expect("waits").is_none(), "the pull ended too early");
    server.heal();
    assert_eq!(document["in_use"], serde_json::json!(["o/n"]));
    assert_eq!(document["freed_bytes"], 0);
    assert_eq!(removed.status.code(), Some(7), "{removed:?}");
    let pulled = pull.wait_with_output().expect("ends");
    let path = stdout(&pulled);
    let bytes = std::fs::read(Path::new(path.trim()).join("model.safetensors")).expect("reads");
    assert_eq!(bytes.len(), 2_000_000);
    let removed = run(home.path(), &server, &["cache", "rm", "o/n", "-y"]);
    assert!(removed.status.success() && !blobs.exists(), "{removed:?}");
}

/// Serves a fixture checkpoint as a step.
fn checkpoint_world() -> (tempfile::TempDir, Server) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-raw/step_600");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("lists") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).expect("reads");
        files.push(match String::from_utf8(bytes) {
            Ok(text) => Content::text(&name, &text),
            Err(error) => Content::lfs(&name, error.into_bytes()),
        });
    }
    let server = Server::start();
    server.branch("step_600", &files);
    (tempfile::tempdir().expect("a temp dir"), server)
}

/// Changes one byte, and sets the time of the file back to what it was.
fn rot(path: &Path) {
    let time = path.metadata().expect("stats").modified().expect("a time");
    let mut bytes = std::fs::read(path).expect("reads");
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("writes");
    let file = std::fs::File::options().write(true).open(path).expect("opens");
    file.set_modified(time).expect("sets the time");
}

#[test]
fn what_verify_finds_damaged_the_next_pull_mends() {
    let (home, server) = checkpoint_world();
    let weights = home.path().join("mine/model.safetensors");
    for target in [vec![], vec!["--local-dir", "mine"]] {
        let pull: Vec<&str> =
            [["pull", "o/n@step_600", "-q"].as_slice(), target.as_slice()].concat();
        let folder = stdout(&run(home.path(), &server, &pull)).trim().to_owned();
        let path =
            home.path().join(&folder).join("model.safetensors").canonicalize().expect("there");
        let right = std::fs::read(&path).expect("reads");
        let check = || run(home.path(), &server, &["verify", &folder, "--json"]);
        let report: Value = serde_json::from_str(&stdout(&check())).expect("JSON");
        let hashed = report["checkpoints"][0]["report"]["hashed"].as_array().expect("a list");
        assert!(hashed.iter().any(|file| file["name"] == "model.safetensors"), "{report}");

        rot(&path);
        assert_eq!(check().status.code(), Some(1));
        assert_eq!(check().status.code(), Some(1), "asked again, the answer is the same");
        stdout(&run(home.path(), &server, &pull));
        assert!(std::fs::read(&path).expect("reads") == right, "{target:?}");
        stdout(&check());
    }
    // An older file of the same size, laid over a pulled one, is not taken for it.
    let right = std::fs::read(&weights).expect("reads");
    std::fs::write(&weights, vec![0; right.len()]).expect("writes");
    let file = std::fs::File::options().write(true).open(&weights).expect("opens");
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_hours(24)).expect("sets the time");
    stdout(&run(home.path(), &server, &["pull", "o/n@step_600", "--local-dir", "mine"]));
    assert!(std::fs::read(&weights).expect("reads") == right);
}

#[test]
fn the_token_is_in_no_log() {
    let (home, server) = world();
    let mut command = program(home.path(), &server, &["pull", "o/n@step_100", "-vvv"]);
    let output = command.env("RUST_LOG", "trace").output().expect("runs");
    assert!(output.status.success(), "{output:?}");
    let logs = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&logs).contains("topsecret"));
    assert!(server.seen().iter().any(|s| s.auth.is_some()), "the token was used");
    assert!(server.seen().iter().filter(|s| s.cdn).all(|s| s.auth.is_none()));
}

/// Starts a pull that does not end, and waits until part of it is on disk.
fn held_pull(home: &Path, server: &Server) -> Child {
    server.fault("cdn/blob/", Fault::Held(100_000), 1000);
    let child = program(home, server, &["pull", "o/n@step_100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let blobs = home.join(".cache/huggingface/hub/models--o--n/blobs");
    let journal = || {
        let entries = std::fs::read_dir(&blobs).into_iter().flatten().flatten();
        let journals = entries.filter(|e| e.path().extension().is_some_and(|x| x == "journal"));
        journals.filter_map(|e| std::fs::read_to_string(e.path()).ok()).collect::<String>()
    };
    let started = Instant::now();
    while !journal().contains("\"written\":[[0,") {
        assert!(started.elapsed() < Duration::from_secs(20), "no checkpoint was written");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn assert_resumes(home: &Path, server: &Server) {
    server.heal();
    let before = server.byte_requests().len();
    let report = stdout(&run(home, server, &["pull", "o/n@step_100", "--json"]));
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let fetched = report["fetched_bytes"].as_u64().expect("a number");
    assert!(fetched < 2_000_000, "fetched {fetched} again");
    let folder = Path::new(report["revisions"][0]["path"].as_str().expect("a path"));
    let got = std::fs::read(folder.join("model.safetensors")).expect("reads");
    assert!(got == files()[1].bytes);
    let ranges: Vec<_> = server.byte_requests()[before..].iter().map(|s| s.range.clone()).collect();
    assert!(ranges.iter().all(Option::is_some), "{ranges:?}");
}

#[test]
fn a_killed_pull_is_resumed() {
    let (home, server) = world();
    let mut child = held_pull(home.path(), &server);
    child.kill().expect("kills");
    child.wait().expect("ends");
    assert_resumes(home.path(), &server);
}

#[test]
fn an_interrupt_keeps_what_is_done() {
    let (home, server) = world();
    let child = held_pull(home.path(), &server);
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("are kept and will not be fetched again"), "{words}");
    assert!(words.contains("run the same command to continue"), "{words}");
    assert_resumes(home.path(), &server);
}
