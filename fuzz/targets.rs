// What is fuzzed: one function a parser of foreign bytes, which must return and never panic.
//
// Shared by the fuzz targets beside this file and by tests/mutate.rs, which runs the same
// functions over seeded mutations on every test run. Beyond not panicking, what a parser accepts
// is held to what its callers rely on.

use std::cell::OnceCell;
use std::path::Path;

use serde_json::{Map, Value, json};
use tmax_ckpt::arch::ModelConfig;
use tmax_ckpt::cli::resolve::Reference;
use tmax_ckpt::cli::settings::ConfigFile;
use tmax_ckpt::engine::chat::Role;
use tmax_ckpt::engine::endpoint::{Endpoint, EndpointOptions};
use tmax_ckpt::engine::template::{ChatTemplate, Ending};
use tmax_ckpt::engine::tokens::{SpeechFiles, Tokens};
use tmax_ckpt::engine::toolcall::ToolFormat;
use tmax_ckpt::gguf::{Gguf, Imatrix};
use tmax_ckpt::harness::dockerfile::{Plan, Step};
use tmax_ckpt::harness::import;
use tmax_ckpt::harness::prompts::Prompts;
use tmax_ckpt::harness::task::Task;
use tmax_ckpt::harness::trajectory as trajectories;
use tmax_ckpt::harness::verifier::{reward_of, rewards_of_json, rewards_of_text};
use tmax_ckpt::hub::{Pattern, RepoKind, RepoRef, TreeFile};
use tmax_ckpt::name::{TensorName, escape, is_safe_relative_path};
use tmax_ckpt::ops::verify::parse_sums;
use tmax_ckpt::safetensors::{Header, Index};
use tmax_ckpt::units::parse_size;

/// A parser under test.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the names that the files in `fuzz_targets/` have.
pub const TARGETS: &[Target] = &[
    ("safetensors_header", safetensors_header),
    ("safetensors_index", safetensors_index),
    ("model_config", model_config),
    ("settings", settings),
    ("reference", reference),
    ("names", names),
    ("sizes", sizes),
    ("gguf_head", gguf_head),
    ("imatrix", imatrix),
    ("revision_pattern", revision_pattern),
    ("hub_reference", hub_reference),
    ("hub_tree", hub_tree),
    ("sums", sums),
    ("task", task),
    ("dockerfile", dockerfile),
    ("harness_file", harness_file),
    ("chat_template", chat_template),
    ("tokenizer", tokenizer),
    ("tool_calls", tool_calls),
    ("endpoint_answer", endpoint_answer),
    ("rewards", rewards),
    ("trial_result", trial_result),
    ("trajectory", trajectory),
];

/// A safetensors file's header: accepted ranges tile the data exactly.
pub fn safetensors_header(bytes: &[u8]) {
    let _ = Header::parse(bytes, bytes.len() as u64);
}

/// `model.safetensors.index.json`.
pub fn safetensors_index(bytes: &[u8]) {
    let _ = Index::parse(bytes);
}

/// `config.json`: what is accepted has a finite list of expected tensors.
pub fn model_config(bytes: &[u8]) {
    let _ = ModelConfig::parse(bytes);
}

/// A configuration file.
pub fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = ConfigFile::parse(Path::new("tmax-ckpt.toml"), &text);
}

/// A CKPT argument: a repository's parts never climb.
pub fn reference(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(Reference::Hub(hub)) = Reference::parse(&text) {
        assert!(is_safe_relative_path(&hub.repo.to_string()), "{hub:?}");
        assert!(hub.path.is_none_or(|path| is_safe_relative_path(&path)));
    }
}

/// Names: what is accepted needs no escaping.
pub fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = TensorName::new(&text) {
        assert_eq!(escape(name.as_str()), name.as_str());
    }
    let _ = is_safe_relative_path(&text);
}

/// Sizes as users type them.
pub fn sizes(bytes: &[u8]) {
    let _ = parse_size(&String::from_utf8_lossy(bytes));
}

/// A GGUF file's metadata and tensor list.
pub fn gguf_head(bytes: &[u8]) {
    let _ = Gguf::parse(bytes);
}

/// An importance matrix of either format: every weight is one.
pub fn imatrix(bytes: &[u8]) {
    let Ok(imatrix) = Imatrix::parse(bytes) else { return };
    let mut weights = imatrix.entries.values().flatten();
    assert!(weights.all(|weight| weight.is_finite() && *weight >= 0.0));
    assert!(imatrix.entries.values().all(|entry| !entry.is_empty()));
}

/// Revision expressions: lists, globs, ranges.
pub fn revision_pattern(bytes: &[u8]) {
    let _ = Pattern::parse(&String::from_utf8_lossy(bytes));
}

/// `owner/name@rev` as the Hub's commands read it.
pub fn hub_reference(bytes: &[u8]) {
    let _ = RepoRef::parse(&String::from_utf8_lossy(bytes), RepoKind::Model);
}

/// A commit's file list, from the Hub or from the cache: no path leaves its folder, none is there
/// twice.
pub fn hub_tree(bytes: &[u8]) {
    let lists = [TreeFile::parse_list("owner/name", bytes).ok(), TreeFile::parse_kept_list(bytes)];
    for files in lists.into_iter().flatten() {
        assert!(files.iter().all(|file| is_safe_relative_path(&file.path)));
        assert!(files.array_windows().all(|[a, b]| a.path < b.path));
    }
}

/// `SHA256SUMS`.
pub fn sums(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for file in parse_sums(&text).0 {
        assert!(is_safe_relative_path(&file.path));
    }
}

thread_local! {
    /// A sound task folder but for its `task.toml`.
    static TASK_DIR: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

fn task_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temp dir");
    std::fs::create_dir(dir.path().join("tests")).expect("makes a folder");
    std::fs::write(dir.path().join("tests/test.sh"), "true").expect("writes");
    std::fs::write(dir.path().join("instruction.md"), "Do it.").expect("writes");
    dir
}

/// `task.toml`: every limit of a task that loads is one that can be enforced.
pub fn task(bytes: &[u8]) {
    TASK_DIR.with(|cell| {
        let dir = cell.get_or_init(task_dir).path();
        std::fs::write(dir.join("task.toml"), bytes).expect("writes");
        let Ok(task) = Task::load(dir) else { return };
        assert!(task.verifier_timeout.as_secs_f64() > 0.0);
        assert!(task.verifier_timeout.as_secs() <= 7 * 86_400);
        assert!(task.memory_bytes.is_none_or(|bytes| bytes > 0));
        assert!(task.workdir.is_none_or(|path| path.starts_with('/') && !path.contains("..")));
    });
}

/// A task's Dockerfile: no source of a `COPY` leaves the build context.
pub fn dockerfile(bytes: &[u8]) {
    let Ok(plan) = Plan::parse(&String::from_utf8_lossy(bytes)) else { return };
    for step in plan.steps {
        if let Step::Copy(sources, _) = step {
            let climbs = |path: &String| path.split('/').any(|part| part == "..");
            assert!(!sources.iter().any(climbs), "{sources:?}");
        }
    }
}

/// A file of prompts and the tool schema.
pub fn harness_file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(prompts) = Prompts::parse(&text, None) {
        let _ = (prompts.digest(), prompts.user_message("do {{task}}"));
        let _ = prompts.observation(&"é".repeat(100), "b", 1);
    }
}

/// A chat template, compiled and rendered: whatever it does, it ends.
pub fn chat_template(bytes: &[u8]) {
    let time = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
    let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(bytes), time) else { return };
    let arguments = json!({"command": "ls -l", "n": 1.5});
    let calls = json!([{"id": "1", "function": {"name": "bash", "arguments": arguments}}]);
    let messages = [
        json!({"role": "system", "content": "s"}),
        json!({"role": "user", "content": "é<'>"}),
        json!({"role": "assistant", "content": "a</think>b", "tool_calls": calls}),
        json!({"role": "tool", "content": "", "tool_call_id": "1"}),
    ];
    let tools = [json!({"type": "function", "function": {"name": "bash"}})];
    let _ = template.render(&messages, &tools, &Map::new(), Ending::GenerationPrompt);
}

/// `tokenizer.json`: what loads encodes and decodes.
pub fn tokenizer(bytes: &[u8]) {
    let files = SpeechFiles { tokenizer: Some(bytes.to_vec()), ..SpeechFiles::default() };
    let Ok(tokens) = Tokens::new(&files, &Map::new(), 1 << 20) else { return };
    if let Ok(ids) = tokens.encode("ab c\n<|im_end|>é") {
        let _ = tokens.decode(&ids);
    }
}

/// A model's answer: the text before the calls is the answer's own beginning.
pub fn tool_calls(bytes: &[u8]) {
    let answer = String::from_utf8_lossy(bytes);
    let tools = [json!({"function": {"name": "bash", "parameters": {"properties": {
        "command": {"type": "string"}, "n": {"type": "integer"}, "o": {"type": "object"}}}}})];
    for format in [ToolFormat::Xml, ToolFormat::Json] {
        let (text, calls) = format.parse(&answer, &tools);
        assert!(answer.starts_with(&text));
        assert!(!calls.is_empty() || text == answer);
    }
}

/// What an OpenAI-compatible endpoint answers.
pub fn endpoint_answer(bytes: &[u8]) {
    let options = EndpointOptions {
        url: "http://user:pass@host/v1".into(),
        model: "m".into(),
        api_key: None,
        retries: 0,
        pause: std::time::Duration::ZERO,
    };
    if let Err(error) = Endpoint::new(options).read_reply(&String::from_utf8_lossy(bytes)) {
        let text = error.to_string();
        assert_eq!(escape(&text), text);
    }
}

/// `reward.json` and `reward.txt`: nothing but a number from 0 to 1 counts.
pub fn rewards(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for rewards in [rewards_of_json(&text), rewards_of_text(&text)].into_iter().flatten() {
        let reward = reward_of(&rewards).expect("what is accepted has a reward");
        assert!((0.0..=1.0).contains(&reward), "{reward}");
    }
}

/// A trial's `result.json`, as `score import` and `select --from` read it.
pub fn trial_result(bytes: &[u8]) {
    if let Ok(found) = import::parse(bytes, Path::new("result.json")) {
        let attempt = found.record;
        assert!(attempt.reward.is_none_or(|reward| (0.0..=1.0).contains(&reward)));
    }
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    let record = import::record_of(&value, "t__1");
    let read = import::Imported { records: vec![record.clone(), record], unfinished: Vec::new() };
    let _ = (import::summarise(&read.records), import::job_stats(&read, 2, "d"));
}

/// An agent's trajectory: what is accepted begins with a question, has a reply, and is bounded.
pub fn trajectory(bytes: &[u8]) {
    let Ok(read) = trajectories::parse(bytes) else { return };
    let roles: Vec<Role> = read.messages.iter().map(|message| message.role).collect();
    assert!(matches!(roles[0], Role::System | Role::User));
    assert!(roles.contains(&Role::Assistant) && roles.len() <= 4_096);
    assert!(read.tools.iter().all(Value::is_object));
}
