//! `inspect` as a user runs it: remote revisions, GGUF files, values.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tmax_ckpt::arch::Part;
use tmax_ckpt::dtype::Dtype;

use crate::checkpoint::{new_tensor, promised, tiny_config, write_checkpoint};
use crate::cli::binary;
use crate::hub_server::{Content, Server};

fn run(home: &Path, args: &[&str]) -> Output {
    binary(home).args(args).output().expect("runs")
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A checkpoint of 8 MB in `home/ckpt`.
fn checkpoint(home: &Path) -> PathBuf {
    let config = tiny_config(true, false);
    let mut tensors = promised(&config, &[Part::Text]);
    tensors.push(new_tensor("model.zz_extra.weight", Dtype::F32, &[1024, 2048]));
    let dir = home.join("ckpt");
    write_checkpoint(&dir, &config, &tensors);
    dir
}

fn content(dir: &Path, name: &str) -> Content {
    Content::lfs(name, std::fs::read(dir.join(name)).expect("reads"))
}

/// How many bytes of files the Hub was asked for.
fn asked(server: &Server) -> u64 {
    let of = |range: &str| {
        let (start, end) = range.trim_start_matches("bytes=").split_once('-').expect("a range");
        end.parse::<u64>().expect("an end") + 1 - start.parse::<u64>().expect("a start")
    };
    server.byte_requests().iter().map(|s| of(s.range.as_deref().expect("by ranges"))).sum()
}

#[test]
fn a_revision_on_the_hub_is_shown_without_its_data() {
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = checkpoint(home.path());
    let server = Server::start();
    let files = [content(&dir, "config.json"), content(&dir, "model.safetensors")];
    let commit = server.branch("step_100", &files);
    let hub = |args: &[&str]| {
        let mut command = binary(home.path());
        command.env("HF_ENDPOINT", &server.endpoint).args(args).output().expect("runs")
    };
    let local = json(&run(home.path(), &["inspect", "./ckpt", "--json", "--tensor", "*"]));
    let remote = json(&hub(&["inspect", "o/n@step_100", "--json", "--tensor", "*"]));
    assert_eq!(remote["summary"], local["summary"]);
    assert_eq!(remote["tensors"], local["tensors"]);
    assert!(remote["tensors"].as_array().expect("a list").len() > 50);
    assert_eq!(remote["commit"], commit);
    let asked = asked(&server);
    assert!(asked < 300_000, "asked for {asked} of 8 MB");
    assert!(!home.path().join(".cache").exists(), "something was kept");

    let human = hub(&["inspect", "hf://o/n@step_100"]);
    assert!(words(&human).contains("`tmax-ckpt pull o/n@step_100` fetches 8."), "{human:?}");
    let offline = hub(&["inspect", "o/n@step_100", "--offline"]);
    assert_eq!(offline.status.code(), Some(5), "{offline:?}");
    assert!(words(&offline).contains("`tmax-ckpt pull o/n@step_100`"), "{offline:?}");
    let unknown = hub(&["inspect", "o/n@step_10O"]);
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    let stats = hub(&["inspect", "o/n@step_100", "--stats"]);
    assert_eq!(stats.status.code(), Some(2), "{stats:?}");
    assert!(words(&stats).contains("`tmax-ckpt pull o/n@step_100` fetches it"), "{stats:?}");

    json(&hub(&["pull", "o/n@step_100", "--include", "*.json", "--json"]));
    let weights = hub(&["verify", "hf://o/n@step_100/model.safetensors"]);
    assert_eq!(weights.status.code(), Some(3), "{weights:?}");
    let said = "model.safetensors of o/n@step_100 is not in the cache";
    assert!(words(&weights).contains(said), "{weights:?}");
    assert!(!words(&weights).contains("did you mean"), "{weights:?}");

    json(&hub(&["pull", "o/n@step_100", "--json"]));
    let mistyped = hub(&["verify", "hf://o/n@step_100/model.safetensrs"]);
    assert_eq!(mistyped.status.code(), Some(3), "{mistyped:?}");
    let said = "model.safetensrs not found in o/n@step_100";
    assert!(words(&mistyped).contains(said), "{mistyped:?}");
    assert!(words(&mistyped).contains("did you mean `model.safetensors`?"), "{mistyped:?}");
    let before = server.seen().len();
    assert_eq!(json(&hub(&["inspect", "o/n@step_100", "--json"]))["commit"], Value::Null);
    assert_eq!(server.seen().len(), before, "what is cached needs no Hub");
}

#[test]
fn a_damaged_revision_on_the_hub_is_refused_as_a_folder_is() {
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = checkpoint(home.path());
    let server = Server::start();
    let shard = content(&dir, "model.safetensors");
    let index = r#"{"weight_map":{"a":"model.safetensors","b":"absent.safetensors"}}"#;
    let mut cut = shard.clone();
    cut.bytes.truncate(4_000_000);
    let as_shard = Content { path: "a.safetensors".into(), ..shard.clone() };
    for (branch, files, says) in [
        ("cut", vec![cut], "not a sound safetensors file"),
        ("none", vec![as_shard], "neither model.safetensors nor"),
        ("both", vec![shard, Content::text("model.safetensors.index.json", index)], "has both"),
        ("absent", vec![Content::text("model.safetensors.index.json", index)], "shards"),
    ] {
        server.branch(branch, &files);
        let output = binary(home.path())
            .env("HF_ENDPOINT", &server.endpoint)
            .args(["inspect", &format!("o/n@{branch}")])
            .output()
            .expect("runs");
        assert!(matches!(output.status.code(), Some(3 | 6)), "{output:?}");
        let words = words(&output);
        assert!(words.contains(says) && words.contains(&format!("o/n@{branch}")), "{words}");
    }
}

#[test]
fn values_are_summarised_for_each_tensor() {
    let home = tempfile::tempdir().expect("a temp dir");
    let dir = checkpoint(home.path());
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("reads");
    let listed = json(&run(
        home.path(),
        &["inspect", "./ckpt", "--json", "--tensor", "model.zz_extra.weight"],
    ));
    let at = listed["tensors"][0]["offset_bytes"].as_u64().expect("a number") as usize;
    let values = [0.0, -3.0, 5.0, f32::NAN, f32::INFINITY];
    bytes[at..at + (4 * 1024 * 2048)].fill(0);
    for (i, value) in values.iter().enumerate() {
        bytes[at + 4 * i..at + 4 * i + 4].copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(&path, bytes).expect("writes");
    let all = json(&run(home.path(), &["inspect", "./ckpt", "--stats", "--json"]));
    let rows = all["tensors"].as_array().expect("a list");
    assert_eq!(rows.len() as u64, all["summary"]["tensors"].as_u64().expect("a number"));
    assert!(rows.iter().all(|row| row["stats"]["min"].is_number()), "{rows:?}");
    let row = rows.iter().find(|row| row["name"] == "model.zz_extra.weight").expect("is there");
    let stats = &row["stats"];
    assert_eq!((&stats["min"], &stats["max"]), (&Value::from(-3.0), &Value::from(5.0)));
    assert_eq!((stats["nan"].as_u64(), stats["infinite"].as_u64()), (Some(1), Some(1)));
    assert_eq!(stats["zeros"], 1024 * 2048 - 4);
    let mean = 2.0 / f64::from(1024 * 2048 - 2);
    assert!((stats["mean"].as_f64().expect("a number") - mean).abs() < 1e-15);
    let table = run(home.path(), &["inspect", "./ckpt", "--stats", "--tensor", "*zz_extra*"]);
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("1 NaN, 1 infinite") && table.contains("100.0%"), "{table}");
}

/// Exports a fixture to `home/m.gguf`.
fn gguf(home: &Path) -> PathBuf {
    let source = fixture("gguf/untied");
    let source = source.to_str().expect("UTF-8");
    let output = run(home, &["export", "gguf", source, "-o", "m.gguf", "--outtype", "q8_0"]);
    assert!(output.status.success(), "{output:?}");
    home.join("m.gguf")
}

#[test]
fn a_gguf_file_shows_its_keys_and_tensors() {
    let home = tempfile::tempdir().expect("a temp dir");
    let path = gguf(home.path());
    let read = tmax_ckpt::gguf::Gguf::open(&path).expect("reads");
    let document = json(&run(home.path(), &["inspect", "m.gguf", "--json"]));
    assert_eq!(document["format"], "gguf");
    let keys = document["gguf"]["metadata"].as_object().expect("an object");
    assert_eq!(keys.len(), read.metadata.len());
    assert_eq!(keys["general.architecture"], "qwen35");
    assert_eq!(keys["tokenizer.ggml.tokens"]["array_of"], "str");
    assert_eq!(document["gguf"]["total"]["tensors"], read.tensors.len());
    let bytes: u64 = read.tensors.iter().map(|t| t.len_bytes).sum();
    assert_eq!(document["gguf"]["total"]["len_bytes"], bytes);

    let human = run(home.path(), &["inspect", "m.gguf"]);
    let human = String::from_utf8(human.stdout).expect("UTF-8");
    assert!(human.starts_with("GGUF v3 · qwen35 · "), "{human}");
    assert!(human.contains("\nQ8_0 ") && human.contains("\ngeneral.architecture "), "{human}");
    let listed = json(&run(home.path(), &["inspect", "m.gguf", "--json", "--tensor", "blk.0.*"]));
    let rows = listed["tensors"].as_array().expect("a list");
    let of_block = read.tensors.iter().filter(|t| t.spec.name.starts_with("blk.0.")).count();
    assert!(of_block > 0 && rows.len() == of_block, "{rows:?}");
    let nearly = run(home.path(), &["inspect", "m.gguf", "--tensor", "blk.0.attn_nrm.weight"]);
    assert_eq!(nearly.status.code(), Some(3), "{nearly:?}");
    assert!(words(&nearly).contains("did you mean `blk.0.attn_norm.weight`?"), "{nearly:?}");

    let whole = std::fs::read(&path).expect("reads");
    std::fs::write(&path, &whole[..whole.len() - 40]).expect("writes");
    let cut = run(home.path(), &["inspect", "m.gguf"]);
    assert_eq!(cut.status.code(), Some(6), "{cut:?}");
    assert!(words(&cut).contains("m.gguf is not a sound GGUF file"), "{cut:?}");
}

#[test]
fn other_commands_say_that_it_is_a_gguf_and_what_can_be_done() {
    let home = tempfile::tempdir().expect("a temp dir");
    gguf(home.path());
    let fixture = fixture("gguf/untied");
    let other = fixture.to_str().expect("UTF-8");
    std::fs::create_dir(home.path().join("folder")).expect("makes");
    std::fs::copy(home.path().join("m.gguf"), home.path().join("folder/m.gguf")).expect("copies");
    for args in [
        &["verify", "m.gguf"][..],
        &["diff", "m.gguf", other],
        &["diff", other, "m.gguf"],
        &["logprobs", "m.gguf", "--text", "words and more"],
        &["strip", "m.gguf", "-o", "out"],
        &["export", "safetensors", "m.gguf", "-o", "out"],
        &["export", "gguf", "m.gguf", "-o", "out.gguf"],
        &["inspect", "m.gguf", "--stats"],
    ] {
        let output = run(home.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        let words = words(&output);
        assert!(words.contains("GGUF"), "{args:?}: {words}");
        let names_a_way = words.contains("`tmax-ckpt inspect m.gguf` shows its keys and tensors")
            || words.contains("without --stats");
        assert!(names_a_way, "{args:?}: {words}");
    }
    let folder = run(home.path(), &["diff", "folder", other]);
    assert_eq!(folder.status.code(), Some(3), "{folder:?}");
    assert!(words(&folder).contains("`tmax-ckpt inspect folder/m.gguf`"), "{folder:?}");
    assert!(!home.path().join("out").exists() && !home.path().join("out.gguf").exists());
}
