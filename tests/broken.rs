//! Every hostile or damaged input of `fixtures/broken/`, through the binary.
//!
//! `scripts/make_broken.py` makes the inputs and `expect.json`: what is run in a copy of the
//! case's folder, which exit code it gives, and a fragment of what it says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::binary;

/// No refusal takes longer: nothing is allocated or read because a header claims it.
const TIME_MAX: Duration = Duration::from_secs(20);

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes a folder");
    for entry in std::fs::read_dir(from).expect("lists") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copies");
        }
    }
}

/// All cases, with the folder of their inputs.
pub fn cases() -> (PathBuf, Vec<Value>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/broken");
    let expect = std::fs::read_to_string(root.join("expect.json")).expect("reads");
    (root, serde_json::from_str(&expect).expect("JSON"))
}

/// Copies a case into `home` and returns the command that is run there.
pub fn command(root: &Path, case: &Value, home: &Path) -> Command {
    let folder = home.join("case");
    copy_folder(&root.join(case["case"].as_str().expect("a name")), &folder);
    for (link, target) in case["links"].as_object().into_iter().flatten() {
        let link = folder.join(link);
        let _ = (std::fs::remove_file(&link), std::fs::remove_dir_all(&link));
        let target = target.as_str().expect("text");
        std::os::unix::fs::symlink(target, &link).expect("links");
    }
    let scratch = home.join("scratch").to_string_lossy().into_owned();
    let words = case["args"].as_array().expect("a list").iter();
    let args = words.map(|word| word.as_str().expect("text").replace("{scratch}", &scratch));
    let mut command = binary(home);
    command.current_dir(&folder).args(args);
    command
}

/// Runs one case and returns what is wrong with the answer.
fn check(root: &Path, case: &Value) -> Vec<String> {
    let name = case["case"].as_str().expect("a name");
    let home = tempfile::tempdir().expect("a temp dir");
    let start = Instant::now();
    let output = command(root, case, home.path()).output().expect("the binary runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut wrong = Vec::new();
    let mut expect = |ok: bool, what: &str| {
        if !ok {
            wrong.push(format!("{name}: {what}\n{out}{err}"));
        }
    };
    let code = case["exit_code"].as_i64();
    expect(output.status.code().map(i64::from) == code, &format!("exit code is not {code:?}"));
    let says = case["says"].as_str().expect("text");
    expect(out.contains(says) || err.contains(says), &format!("does not say `{says}`"));
    expect(!err.contains("this is a bug"), "panics");
    expect(code == Some(0) || err.contains("help: "), "has no help line");
    let unescaped = |c: char| c.is_control() && c != '\n';
    expect(!out.contains(unescaped) && !err.contains(unescaped), "prints control characters");
    expect(start.elapsed() < TIME_MAX, "takes long");
    wrong
}

#[test]
fn every_broken_input_is_answered_as_expected() {
    let (root, cases) = cases();
    let folders = std::fs::read_dir(&root).expect("lists");
    let folders = folders.filter(|entry| entry.as_ref().expect("an entry").path().is_dir());
    assert_eq!(folders.count(), cases.len(), "folders and cases");
    assert!(cases.len() >= 30);
    let wrong: Vec<String> = cases.iter().flat_map(|case| check(&root, case)).collect();
    assert!(wrong.is_empty(), "{} answers are wrong:\n\n{}", wrong.len(), wrong.join("\n"));
}

/// Pipes cannot be in git; each is laid in the place of a file of a sound checkpoint.
#[test]
fn pipes_in_the_place_of_files_are_refused_and_not_waited_for() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-raw/step_600");
    for (name, command) in [
        ("config.json", "inspect"),
        ("config.json", "verify"),
        ("model.safetensors", "inspect"),
        ("model.safetensors", "verify"),
        ("tokenizer.json", "verify"),
        ("SHA256SUMS", "verify"),
        ("m.gguf", "inspect"),
    ] {
        let home = tempfile::tempdir().expect("a temp dir");
        let folder = home.path().join("c");
        copy_folder(&fixture, &folder);
        let pipe = folder.join(name);
        let _ = std::fs::remove_file(&pipe);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("makes a pipe");
        let what = if name == "m.gguf" { "c/m.gguf" } else { "./c" };
        let mut child = binary(home.path())
            .args([command, what])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        let start = Instant::now();
        while child.try_wait().expect("waits").is_none() {
            if start.elapsed() > TIME_MAX {
                child.kill().expect("kills");
                panic!("{command} waits for the pipe {name}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().expect("ends");
        let words = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 6)), "{command} {name}: {words}");
        assert!(words.contains("not a regular file"), "{command} {name}: {words}");
        assert!(words.contains("help: "), "{command} {name}: {words}");
    }
}
