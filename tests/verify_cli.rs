//! What `verify` and its neighbours say, as a user reads it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use tmax_ckpt::arch::{Namespace, Part};

use crate::checkpoint::{promised, renamed, tiny_config, write_checkpoint};
use crate::cli::binary;

/// A tokenizer of as many tokens as the tiny config has rows.
const TOKENIZER: &str = r#"{"model":{"vocab":{"a":0,"b":1}},"added_tokens":[]}"#;

fn run(home: &Path, args: &[&str]) -> Output {
    binary(home).args(args).output().expect("runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A sound checkpoint in `home/ckpt`.
fn sound(home: &Path) -> std::path::PathBuf {
    let config = tiny_config(true, true).replace(r#""mtp_num_hidden_layers":1"#, r#""x":1"#);
    let text = renamed(&promised(&config, &[Part::Text]), |n| Namespace::Composite.stored(n));
    let dir = home.join("ckpt");
    write_checkpoint(&dir, &config, &text);
    std::fs::write(dir.join("tokenizer.json"), TOKENIZER).expect("writes");
    dir
}

fn write_sums(dir: &Path, names: &[&str]) {
    use sha2::{Digest as _, Sha256};
    let line = |name: &&str| {
        let digest = Sha256::digest(std::fs::read(dir.join(name)).expect("reads"));
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}  {name}\n")
    };
    std::fs::write(dir.join("SHA256SUMS"), names.iter().map(line).collect::<String>())
        .expect("writes");
}

#[test]
fn what_was_not_checked_is_said() {
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = sound(home.path());
    let text = out(&run(home.path(), &["verify", "./ckpt"]));
    assert!(text.contains("note  hashes none to check against: no SHA256SUMS"), "{text}");
    assert!(text.contains("note  values not read; --finite looks for NaN"), "{text}");
    let document = run(home.path(), &["verify", "./ckpt", "--finite", "--no-hash", "--json"]);
    let document: Value = serde_json::from_slice(&document.stdout).expect("JSON");
    let unchecked = &document["checkpoints"][0]["report"]["unchecked"];
    assert_eq!(unchecked.as_array().expect("a list").len(), 1);
    assert_eq!(unchecked[0]["check"], "hash");
    assert!(unchecked[0]["why"].as_str().expect("text").contains("as asked"));
    write_sums(&dir, &["config.json", "model.safetensors"]);
    let text = out(&run(home.path(), &["verify", "./ckpt", "--finite"]));
    assert!(text.contains("2 files") && !text.contains("note"), "{text}");
    assert!(text.contains("tensors: no NaN, no infinity"), "{text}");
}

#[test]
fn a_damaged_file_is_one_fault_and_no_loader_is_ok_beside_it() {
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = sound(home.path());
    write_sums(&dir, &["model.safetensors"]);
    let whole = std::fs::read(dir.join("model.safetensors")).expect("reads");

    // A cut file has the wrong hash and cannot be opened: one fault.
    std::fs::write(dir.join("model.safetensors"), &whole[..whole.len() - 1]).expect("writes");
    let cut = run(home.path(), &["verify", "./ckpt"]);
    assert_eq!(cut.status.code(), Some(1), "{cut:?}");
    assert_eq!(out(&cut).matches("FAIL").count(), 1, "{}", out(&cut));
    assert!(
        out(&cut).contains("sha256") && out(&cut).contains("; the header describes a file of"),
        "{}",
        out(&cut)
    );
    assert!(err(&cut).contains("error: 1 of 1 file does not match"), "{}", err(&cut));
    assert!(err(&cut).contains("help: copy model.safetensors again"), "{}", err(&cut));
    std::fs::remove_file(dir.join("SHA256SUMS")).expect("removes");
    let cut = run(home.path(), &["verify", "./ckpt"]);
    assert_eq!(out(&cut).matches("FAIL").count(), 1, "{}", out(&cut));
    assert!(err(&cut).contains("error: 1 fault found"), "{}", err(&cut));

    // A flipped bit opens, and no loader is told to be fine with it.
    std::fs::write(dir.join("model.safetensors"), &whole).expect("writes");
    write_sums(&dir, &["model.safetensors", "config.json"]);
    let mut flipped = whole.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    std::fs::write(dir.join("model.safetensors"), flipped).expect("writes");
    let damaged = run(home.path(), &["verify", "./ckpt"]);
    let text = out(&damaged);
    let loader = |name: &str| {
        // The loaders come last; a finding may name one too.
        text.lines().rfind(|l| l.contains(name)).expect("a line of the loader").to_owned()
    };
    for name in ["vLLM 0.19.1", "transformers 5.17", "SGLang", "llama.cpp"] {
        assert!(loader(name).starts_with("  no  "), "{text}");
        assert!(loader(name).contains("is given damaged data: model.safetensors"), "{text}");
    }
    assert!(loader("vLLM").contains("loads with --language-model-only"), "{text}");
    assert!(err(&damaged).contains("1 of 2 files does not match"), "{}", err(&damaged));
}

#[test]
fn help_is_about_the_fault() {
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = sound(home.path());
    let too_many = TOKENIZER.replace("\"b\":1", "\"b\":96");
    std::fs::write(dir.join("tokenizer.json"), too_many).expect("writes");
    let output = run(home.path(), &["verify", "./ckpt"]);
    assert!(err(&output).contains("help: take the tokenizer's files from the base"), "{output:?}");
    assert!(!out(&output).contains("ok    vLLM"), "{}", out(&output));

    std::fs::write(dir.join("tokenizer.json"), TOKENIZER).expect("writes");
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("reads");
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    std::fs::write(&path, bytes).expect("writes");
    let output = run(home.path(), &["verify", "./ckpt", "--finite"]);
    assert!(err(&output).contains("help: take a step before ./ckpt"), "{output:?}");

    let config = tiny_config(true, true);
    let mut tensors = promised(&config, &[Part::Text]);
    tensors.retain(|t| !t.name.as_str().ends_with("3.self_attn.k_proj.weight"));
    write_checkpoint(&dir, &config, &tensors);
    let output = run(home.path(), &["verify", "./ckpt"]);
    assert!(err(&output).contains("help: save ./ckpt again with every tensor"), "{output:?}");
}

#[test]
fn a_config_that_cannot_be_used_is_named_with_its_path() {
    let home = tempfile::tempdir().expect("a temp dir");
    sound(home.path());
    std::fs::create_dir(home.path().join("other")).expect("makes");
    let config = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#;
    std::fs::write(home.path().join("other/config.json"), config).expect("writes");
    let output = run(home.path(), &["verify", "./ckpt", "./other", "--json"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["kind"], "unsupported_architecture");
    assert_eq!(error["message"], "./other/config.json cannot be used");
    assert_eq!(error["causes"][0], "architecture `LlamaForCausalLM` is not supported");
    assert!(error["help"][0].as_str().expect("text").starts_with("supported: "));
}

#[test]
fn a_model_that_computes_no_probability_is_no_answer() {
    let home = tempfile::tempdir().expect("a temp dir");
    std::fs::write(home.path().join("ids"), "1 2 3").expect("writes");
    let broken = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/broken/value-nan");
    let broken = broken.to_str().expect("the path is text");
    let output = run(home.path(), &["logprobs", broken, "--token-ids", "ids", "--json"]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(6), ""), "{output:?}");
    assert!(err(&output).contains("--finite` names the tensors"), "{output:?}");
}

#[test]
fn quiet_prints_names_alone() {
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = sound(home.path());
    let copy = home.path().join("copy");
    std::fs::create_dir(&copy).expect("makes");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(dir.join(name), copy.join(name)).expect("copies");
    }
    let equal = run(home.path(), &["diff", "./ckpt", "./copy", "-q"]);
    assert_eq!((equal.status.code(), out(&equal).as_str()), (Some(0), ""), "{equal:?}");
    let mut bytes = std::fs::read(copy.join("model.safetensors")).expect("reads");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(copy.join("model.safetensors"), bytes).expect("writes");
    let other = run(home.path(), &["diff", "./ckpt", "./copy", "-q"]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert_eq!(out(&other).lines().count(), 1, "{other:?}");
    assert!(out(&other).starts_with("model."), "{other:?}");
    let silent = run(home.path(), &["diff", "./ckpt", "./copy", "-qq"]);
    assert!(silent.stdout.is_empty() && silent.stderr.is_empty(), "{silent:?}");

    std::fs::write(home.path().join("file"), "x").expect("writes");
    let doctor = run(home.path(), &["doctor", "--offline", "-q", "--cache-dir", "file/hub"]);
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    assert!(out(&doctor).lines().any(|line| line == "cache"), "{doctor:?}");
    assert!(out(&doctor).lines().all(|line| !line.contains(' ')), "{doctor:?}");
}

#[test]
fn token_ids_may_come_from_a_pipe() {
    let home = tempfile::tempdir().expect("a temp dir");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-raw/step_600");
    std::fs::write(home.path().join("ids"), "5 6 7").expect("writes");
    let ckpt = fixture.to_str().expect("UTF-8");
    let sum = |ids: &str| {
        let mut command = binary(home.path());
        command.args(["logprobs", ckpt, "-q", "--token-ids", ids]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        child.stdin.take().expect("piped").write_all(b"5 6 7").expect("writes");
        out(&child.wait_with_output().expect("ends"))
    };
    assert_ne!(sum("ids"), "");
    assert_eq!(sum("/dev/stdin"), sum("ids"));
}

#[test]
fn texts_without_tokens_and_types_to_come_get_the_right_help() {
    let home = tempfile::tempdir().expect("a temp dir");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/untied");
    let ckpt = fixture.to_str().expect("UTF-8");
    let output = run(home.path(), &["logprobs", ckpt, "--text", ""]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(err(&output).contains("help: give a --text of two tokens or more"), "{output:?}");
    std::fs::write(home.path().join("ids"), "5").expect("writes");
    let output = run(home.path(), &["logprobs", ckpt, "--token-ids", "ids"]);
    assert!(err(&output).contains("1 token: ") && err(&output).contains("two token ids"));

    for word in ["iq2_xxs", "TQ1_0", "mxfp4_moe"] {
        let output = run(home.path(), &["export", "gguf", ckpt, "--outtype", word]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let says = format!("error: --outtype {word} is not available; available are auto, f32");
        assert!(err(&output).contains(&says), "{output:?}");
        assert!(err(&output).contains("`llama-quantize` makes"), "{output:?}");
    }
    let output = run(home.path(), &["export", "gguf", ckpt, "--outtype", "bf61"]);
    assert!(err(&output).contains("similar value exists: 'bf16'"), "{output:?}");
}

/// What nobody let us read is not "damaged", which would be exit code 1, and not "sound".
#[test]
fn a_file_that_may_not_be_read_is_a_matter_of_permission() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = sound(home.path());
    write_sums(&dir, &["config.json"]);
    let deny = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets a mode");
    };
    for name in ["model.safetensors", "tokenizer.json", "config.json", "SHA256SUMS", "."] {
        let path = dir.join(name);
        let mode = path.metadata().expect("stats").permissions().mode();
        deny(&path, 0);
        let output = unprivileged(&binary(home.path())).args(["verify", "./ckpt"]).output();
        deny(&path, mode);
        let output = output.expect("runs");
        let text = err(&output);
        assert_eq!(output.status.code(), Some(4), "{name}: {text}");
        assert!(text.contains("help: check who owns ./ckpt"), "{name}: {text}");
    }
    assert_eq!(run(home.path(), &["verify", "./ckpt"]).status.code(), Some(0));
}

/// The same program without root's leave to read everything.
fn unprivileged(command: &std::process::Command) -> std::process::Command {
    let mut wrapped = std::process::Command::new("setpriv");
    wrapped.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(command.get_program());
    if !rustix::process::geteuid().is_root() {
        wrapped = std::process::Command::new(command.get_program());
    }
    wrapped.args(command.get_args());
    wrapped.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

/// What `pull --exclude` left out is no fault, and no silence either.
#[test]
fn files_that_were_not_pulled_are_named() {
    let server = crate::readme::serve_family();
    let home = tempfile::tempdir().expect("a temp dir");
    let run = |args: &[&str]| {
        let output = binary(home.path()).env("HF_ENDPOINT", &server.endpoint).args(args).output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{args:?}: {}", err(&output));
        out(&output)
    };
    run(&["pull", "local/tiny@step_300", "--exclude", "tokenizer_config.json"]);
    let note = "note  files of the revision that are not here: 1 file (tokenizer_config.json)";
    let text = run(&["verify", "local/tiny@step_300"]);
    assert!(text.contains(note), "{text}");
    let path = run(&["pull", "local/tiny@step_300", "-q"]);
    let text = run(&["verify", "local/tiny@step_300"]);
    assert!(!text.contains("not here"), "{text}");

    // Who copies what changed since is told, without a byte being read for it.
    let strip = |out: &str| {
        let args = ["strip", "local/tiny@step_300", "-o", out];
        let output = binary(home.path()).args(args).output().expect("runs");
        assert!(output.status.success(), "{}", err(&output));
        err(&output)
    };
    assert!(!strip("before").contains("note:"), "nothing has changed");
    let weights = Path::new(path.trim()).join("model.safetensors");
    let weights = std::fs::OpenOptions::new().append(true).open(weights).expect("opens");
    weights.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("sets the time");
    let text = strip("after");
    let told = "note: 1 file of local/tiny@step_300 changed after the last check of its hashes";
    assert!(text.contains(told), "{text}");
    // A check that finds it right is the last one then.
    run(&["verify", "local/tiny@step_300"]);
    assert!(!strip("checked").contains("note:"), "it is as it was when it was checked");
    // Of what another program fetched no check is known, nor that anything changed since.
    let records = Path::new(path.trim()).parent().and_then(Path::parent).expect("a repository");
    std::fs::remove_dir_all(records.join(".verified")).expect("removes");
    assert!(!strip("foreign").contains("note:"), "nobody says that it changed");
}
