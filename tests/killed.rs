//! Writers that are killed or interrupted half-way, as processes.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tmax_ckpt::arch::Part;
use tmax_ckpt::fsio::part_path;
use tmax_ckpt::safetensors::{FileLayout, torch_metadata};

use crate::checkpoint::promised;
use crate::cli::binary;

/// Bytes between two that are not zero: a hole that was never copied must show.
const MARK_BYTES: u64 = 64 << 10;

/// Tries to catch a writer at work; each is far longer than what it takes to notice it.
const TRIES: usize = 20;

/// Makes a checkpoint of some 100 MB, mostly holes, with a tokenizer, in `home/ckpt`.
fn large_checkpoint(home: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/untied");
    let dir = home.join("ckpt");
    std::fs::create_dir(&dir).expect("makes the folder");
    for entry in std::fs::read_dir(&fixture).expect("lists").flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "safetensors") {
            std::fs::copy(entry.path(), dir.join(entry.file_name())).expect("copies");
        }
    }
    let config = std::fs::read(dir.join("config.json")).expect("reads");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    let text = match config.get_mut("text_config") {
        Some(text) => text,
        None => &mut config,
    };
    text["intermediate_size"] = json!(1 << 16);
    text["mtp_num_hidden_layers"] = json!(0);
    let config = config.to_string();
    std::fs::write(dir.join("config.json"), &config).expect("writes");
    let layout = FileLayout::new(&promised(&config, &[Part::Text]), &torch_metadata());
    assert!(layout.len_bytes > 100_000_000, "{}", layout.len_bytes);
    let file = File::create(dir.join("model.safetensors")).expect("creates");
    file.set_len(layout.len_bytes).expect("grows");
    file.write_all_at(&layout.header, 0).expect("writes");
    let mut at = layout.header.len() as u64;
    while at + 2 <= layout.len_bytes {
        let tiny_bf16 = ((at / MARK_BYTES) as u16 & 0x3fff).to_le_bytes();
        file.write_all_at(&tiny_bf16, at).expect("writes");
        at += MARK_BYTES;
    }
}

/// The commands that write, and what each calls its output.
const WRITERS: [(&[&str], &str); 3] = [
    (&["strip", "./ckpt", "-o"], "stripped"),
    (&["export", "safetensors", "./ckpt", "--dtype", "float16", "-o"], "cast"),
    (&["export", "gguf", "./ckpt", "--outtype", "q8_0", "-o"], "m.gguf"),
];

fn run(home: &Path, args: &[&str], out: &str) -> Output {
    binary(home).args(args).arg(out).output().expect("runs")
}

fn start(home: &Path, args: &[&str], out: &str) -> Child {
    let mut command = binary(home);
    command.args(args).arg(out).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("starts")
}

/// The bytes of a file, or of all files in a folder.
fn bytes_of(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    if path.is_file() {
        return BTreeMap::from([(PathBuf::new(), std::fs::read(path).expect("reads"))]);
    }
    let entries = std::fs::read_dir(path).expect("lists").flatten();
    entries.map(|e| (e.file_name().into(), std::fs::read(e.path()).expect("reads"))).collect()
}

/// Says whether something with data is under the hidden name.
fn at_work(part: &Path) -> bool {
    let file = if part.is_dir() { part.join("model.safetensors") } else { part.to_owned() };
    file.metadata().is_ok_and(|meta| meta.len() > 0)
}

/// Sends `signal` to a writer as soon as it writes; `None` if it was done before.
fn stop(home: &Path, args: &[&str], out: &str, signal: rustix::process::Signal) -> Option<Output> {
    let mut child = start(home, args, out);
    let part = part_path(&home.join(out));
    let started = Instant::now();
    while !at_work(&part) {
        if child.try_wait().expect("asks").is_some() {
            let output = child.wait_with_output().expect("ends");
            assert!(output.status.success(), "{output:?}");
            return None;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{args:?} writes nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("signals");
    let output = child.wait_with_output().expect("ends");
    (!output.status.success()).then_some(output)
}

fn remove(path: &Path) {
    let gone =
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    gone.expect("removes");
}

/// Stops every writer, checks what it left with `check`, and lets the next run finish.
fn stop_and_go_on(signal: rustix::process::Signal, check: impl Fn(&Output)) {
    let dir = tempfile::tempdir().expect("a temp dir");
    let home = dir.path();
    large_checkpoint(home);
    for (args, out) in WRITERS {
        let path = home.join(out);
        let output = run(home, args, out);
        assert!(output.status.success(), "{output:?}");
        let wanted = bytes_of(&path);
        let again = run(home, args, out);
        let words = String::from_utf8_lossy(&again.stdout).into_owned();
        assert!(again.status.success() && words.contains("already done"), "{again:?}");
        remove(&path);

        let stopped = (0..TRIES).find_map(|_| {
            let stopped = stop(home, args, out, signal);
            if stopped.is_none() {
                remove(&path);
            }
            stopped
        });
        let stopped = stopped.expect("a writer is caught at work");
        assert!(!path.exists(), "{args:?} left a final name");
        assert!(part_path(&path).exists(), "{args:?} kept nothing");
        check(&stopped);
        let output = run(home, args, out);
        assert!(output.status.success(), "{output:?}");
        assert!(bytes_of(&path) == wanted, "{args:?}: other bytes after a kill");
        assert!(!part_path(&path).exists());
        remove(&path);
    }
}

#[test]
fn a_killed_writer_leaves_no_final_name_and_the_next_run_finishes() {
    use std::os::unix::process::ExitStatusExt as _;
    stop_and_go_on(rustix::process::Signal::KILL, |output| {
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
    });
}

#[test]
fn an_interrupted_writer_says_how_to_go_on() {
    stop_and_go_on(rustix::process::Signal::INT, |output| {
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains("error: interrupted"), "{words}");
        assert!(words.contains("run the same command to continue"), "{words}");
    });
}

#[test]
fn an_output_that_is_something_else_is_left_alone() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/untied");
    std::os::unix::fs::symlink(source, dir.path().join("ckpt")).expect("links");
    for (args, out) in WRITERS {
        let path = dir.path().join(out);
        let output = run(dir.path(), args, out);
        assert!(output.status.success(), "{output:?}");
        let file = if path.is_dir() { path.join("model.safetensors") } else { path };
        let mut bytes = std::fs::read(&file).expect("reads");
        let end = bytes.len() - 1;
        bytes[end] ^= 1;
        std::fs::write(&file, &bytes).expect("writes");
        let refused = run(dir.path(), args, out);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(words.contains("exists and is not what would be written"), "{words}");
        assert!(words.contains("name another output with -o"), "{words}");
        assert!(std::fs::read(&file).expect("reads") == bytes, "was touched");
    }
}
