//! Conversations with a local model, and templates against Python's jinja2.

#![allow(clippy::unwrap_used, clippy::disallowed_macros, reason = "a test; skips are said aloud")]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::engine::backend::WeightPrecision;
use tmax_ckpt::engine::chat::{
    CancelFlag, ChatError, ChatModel as _, ChatReply, ChatRequest, FinishReason, Message, Role,
    Sampling,
};
use tmax_ckpt::engine::device::DeviceChoice;
use tmax_ckpt::engine::generate::Limits;
use tmax_ckpt::engine::local::{LocalModel, LocalOptions, load_model};
use tmax_ckpt::engine::logprobs::logprobs;
use tmax_ckpt::engine::template::{ChatTemplate, Ending, parse_arguments};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The tiny random checkpoint with a tokenizer of 95 characters and a plain template.
fn speaking_checkpoint(dir: &Path) -> Checkpoint {
    let source = root().join("fixtures/engine/qwen3_5");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), dir.join(file)).unwrap();
    }
    let letter = |id: u8| match id {
        0 => "Ġ".to_owned(),
        _ => char::from(32 + id).to_string(),
    };
    let vocab: Map<String, Value> = (0..95).map(|id| (letter(id), id.into())).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": 95, "content": "<|im_end|>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn options() -> LocalOptions {
    LocalOptions {
        device: DeviceChoice::Auto,
        precision: WeightPrecision::Exact,
        limits: Limits { step_tokens: 48, ..Limits::default() },
        now: "2026-02-03T04:05:06[UTC]".parse().unwrap(),
    }
}

fn request(text: &str, seed: u64) -> ChatRequest {
    let sampling = Sampling { temperature: 0.9, max_tokens: 40, seed, ..Sampling::default() };
    ChatRequest { messages: vec![Message::new(Role::User, text)], sampling, ..Default::default() }
}

/// An answer without what depends on what came before it.
fn essence(reply: &ChatReply) -> (String, Vec<u32>, Vec<f32>) {
    let trace = reply.trace.clone().unwrap();
    (reply.message.content.clone(), trace.completion_ids, trace.logprobs)
}

/// Alone or beside seven others, from scratch or from a kept state: the same bits.
#[test]
fn answers_do_not_depend_on_what_else_runs() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = speaking_checkpoint(dir.path());
    let texts: Vec<String> = (0..8).map(|i| "what is this? ".repeat(1 + i % 4)).collect();
    let alone: Vec<_> = (0..8)
        .map(|i| {
            let model = LocalModel::load(&checkpoint, "tiny", &options()).unwrap();
            model.chat(&request(&texts[i], i as u64)).unwrap()
        })
        .collect();
    let model = LocalModel::load(&checkpoint, "tiny", &options()).unwrap();
    let together: Vec<ChatReply> = std::thread::scope(|scope| {
        let start = |i: usize| {
            let (model, text) = (&model, &texts[i]);
            scope.spawn(move || model.chat(&request(text, i as u64)).unwrap())
        };
        let threads: Vec<_> = (0..8).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (a, b) in alone.iter().zip(&together) {
        assert_eq!(essence(a), essence(b));
    }
    let again = model.chat(&request(&texts[3], 3)).unwrap();
    assert_eq!(essence(&again), essence(&alone[3]));
    let usage = again.usage;
    assert_eq!(usage.cached_tokens + 1, usage.prompt_tokens, "the prompt's state was kept");
    assert_ne!(essence(&alone[0]).1, essence(&alone[4]).1, "the seed matters");
}

/// The next turn starts from the state of the last one, and its log-probabilities are the
/// model's own.
#[test]
fn the_next_turn_continues_the_kept_state() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = speaking_checkpoint(dir.path());
    let model = LocalModel::load(&checkpoint, "tiny", &options()).unwrap();
    let mut ask = request("hello", 1);
    let first = model.chat(&ask).unwrap();
    assert!(first.usage.completion_tokens > 3, "{:?}", first.usage);
    ask.messages.push(first.message.clone());
    ask.messages.push(Message::new(Role::User, "go on"));
    let second = model.chat(&ask).unwrap();
    let before = first.usage.prompt_tokens + first.usage.completion_tokens;
    assert!(second.usage.cached_tokens + 1 >= before, "{:?} {before}", second.usage);
    let trace = second.trace.unwrap();
    let ids = [trace.prompt_ids.clone(), trace.completion_ids.clone()].concat();
    let exact = load_model(&checkpoint, DeviceChoice::Cpu, WeightPrecision::Exact).unwrap();
    let truth = logprobs(&exact, &ids, &CancelFlag::default()).expect("nobody cancels");
    for (a, b) in trace.logprobs.iter().zip(&truth[trace.prompt_ids.len() - 1..]) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn limits_end_a_chat() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = speaking_checkpoint(dir.path());
    let mut options = options();
    options.limits.context = 40;
    let model = LocalModel::load(&checkpoint, "tiny", &options).unwrap();
    let error = model.chat(&request(&"x".repeat(60), 0)).unwrap_err();
    assert!(matches!(error, ChatError::ContextWindow { limit: 40, .. }), "{error}");
    let reply = model.chat(&request("x", 0)).unwrap();
    assert_eq!(reply.finish_reason, FinishReason::Length);
    assert_eq!(reply.usage.prompt_tokens + reply.usage.completion_tokens, 40);
    let cancelled = request("x", 0);
    cancelled.cancel.cancel();
    assert!(matches!(model.chat(&cancelled).unwrap_err(), ChatError::Cancelled));
    let mut late = request("x", 0);
    late.timeout = Some(std::time::Duration::ZERO);
    assert!(matches!(model.chat(&late).unwrap_err(), ChatError::Timeout { .. }));
}

/// `scripts/make_template_reference.py` made the hashes with jinja2 3.1.6.
#[test]
fn templates_render_as_python_renders_them() {
    let shared = root().join("../shared/data");
    if !shared.exists() {
        eprintln!("skipped: ../shared/data is not there");
        return;
    }
    let path = shared.join("chat-templates/qwen3_6-trimmed.jinja");
    let source = std::fs::read_to_string(path).unwrap();
    let template = ChatTemplate::new(&source, options().now).unwrap();
    let tools = [json!({"type": "function", "function": {
        "name": "bash", "description": "Run a command <in> a new \"subshell\" — naïve & 'quick'",
        "parameters": {"type": "object", "properties": {
            "command": {"type": "string", "description": "a\nb"},
            "limit": {"type": "number", "default": 1e-05}},
            "required": ["command"]}}})];
    let lines = std::fs::read_to_string(root().join("tests/data/template-hashes.txt")).unwrap();
    let mut checked = 0;
    for line in lines.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [hash, bytes, file, count, keep] = words[..] else { panic!("{line}") };
        let text = std::fs::read_to_string(shared.join("trajectories").join(file)).unwrap();
        let mut messages: Vec<Value> = serde_json::from_str(&text).unwrap();
        messages.truncate(count.parse().unwrap());
        messages.iter_mut().for_each(parse_arguments);
        let keep: Value = serde_json::from_str(keep).unwrap();
        let extra = json!({"preserve_thinking": keep, "force_thinking": keep});
        let extra = extra.as_object().unwrap();
        let text = template.render(&messages, &tools, extra, Ending::GenerationPrompt).unwrap();
        assert_eq!(text.len().to_string(), bytes, "{line}");
        let digest = Sha256::digest(text.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, hash, "{line}");
        checked += 1;
    }
    assert_eq!(checked, 180);
}
