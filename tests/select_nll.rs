//! `select --metric nll`: held to transformers, to its masks, and to deciding nothing.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::engine::chat::{Message, Role, ToolCall};
use tmax_ckpt::engine::likelihood::forced;
use tmax_ckpt::engine::local::load_tokens;
use tmax_ckpt::engine::template::ChatTemplate;
use tmax_ckpt::harness::trajectory;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden() -> Value {
    let text = std::fs::read(root().join("fixtures/engine/nll.json")).expect("reads");
    serde_json::from_slice(&text).expect("JSON")
}

/// Calls `select` on steps of the family with the job folder `dir`.
fn select(steps: &[&str], dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"))
        .current_dir(root())
        .arg("select")
        .args(steps.iter().map(|step| format!("fixtures/tiny-raw/{step}")))
        .args(more)
        .args(["--no-config", "--progress", "none", "--output"])
        .arg(dir)
        .output()
        .expect("the program starts")
}

const NLL: [&str; 4] = ["--metric", "nll", "--trajectories", "fixtures/trajectories"];

fn stored(dir: &Path) -> Vec<(std::path::PathBuf, Value)> {
    let entries = std::fs::read_dir(dir.join("nll")).expect("lists");
    let read = |path: std::path::PathBuf| {
        let document = serde_json::from_slice(&std::fs::read(&path).expect("reads"));
        (path, document.expect("JSON"))
    };
    entries.map(|e| read(e.expect("an entry").path())).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_likelihoods_are_those_of_transformers() {
    let golden = golden();
    for (step, wanted) in golden["steps"].as_object().expect("steps") {
        let dir = tempfile::tempdir().expect("a temp dir");
        let output = select(&[step], dir.path(), &NLL);
        assert!(output.status.success(), "{}", stderr(&output));
        let (_, document) = stored(dir.path()).pop().expect("one checkpoint");
        for (file, wanted) in wanted.as_object().expect("trajectories") {
            let sha256 = golden["trajectories"][file].as_str().expect("a hash");
            let got = &document["trajectories"][sha256];
            assert_eq!(got["tokens"], wanted["tokens"], "{step} {file}");
            let nll: f64 = got["nll"].as_str().expect("a number").parse().expect("a number");
            let wanted = wanted["nll"].as_f64().expect("a number");
            // Sums of a hundred f32 values, of which the trained ones are nearly zero.
            assert!((nll - wanted).abs() < 1e-4 + 1e-6 * wanted, "{step} {file}: {nll} {wanted}");
        }
    }
}

#[test]
fn what_is_scored_is_the_replies_to_the_token() {
    let checkpoint = Checkpoint::open(&root().join("fixtures/tiny-raw/step_600")).expect("opens");
    let (tokens, files) = load_tokens(&checkpoint).expect("speaks");
    let now = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
    let template = ChatTemplate::new(&files.template().expect("a template"), now).expect("fits");
    let read = |name: &str| {
        let path = root().join("fixtures/trajectories").join(name);
        trajectory::read_all(&[path]).expect("reads").remove(0).trajectory
    };
    let laid = |name: &str, context| {
        let t = read(name);
        forced(&template, &tokens, &t.messages, &t.tools, context).expect("lays out")
    };
    let replies = |forced: &tmax_ckpt::engine::likelihood::Forced| -> Vec<String> {
        let of = |s: &tmax_ckpt::engine::likelihood::Sequence| {
            let texts = s.replies.iter().map(|r| tokens.decode(&s.ids[r.clone()]));
            texts.map(|text| text.expect("decodes")).collect::<Vec<_>>()
        };
        forced.sequences.iter().flat_map(of).collect()
    };
    let one = laid("label-sum.json", 4096);
    assert_eq!((one.sequences.len(), one.replies(), one.left_out), (1, 3, 0));
    for (text, step) in
        replies(&one).iter().zip(read("label-sum.json").messages.iter().skip(2).step_by(2))
    {
        assert!(text.starts_with(step.content.trim()), "{text}");
        assert!(text.ends_with("</tool_call><|im_end|>"), "{text}");
        assert_eq!(text.matches("<|im_").count(), 1, "{text}");
    }
    // What is not scored is all the rest: put together, the ids are the rendered conversation.
    let whole = tokens.decode(&one.sequences[0].ids).expect("decodes");
    assert_eq!(whole.matches("<|im_start|>assistant").count(), 3);
    assert!(whole.ends_with("<|im_end|>"));

    // A user's answer to a format error makes the template drop earlier thoughts: two sequences.
    // The first reply opens with the prompt's own `<think>`, which is not scored.
    let two = laid("messages.json", 4096);
    assert_eq!((two.sequences.len(), two.replies()), (2, 4));
    let texts = replies(&two);
    assert_eq!(texts[0], "Let me look at the note first.\n</think>\n\nI read the note.<|im_end|>");
    assert!(texts[1].starts_with("The note says where to go on.\n</think>\n\n<tool_call>"));
    assert!(texts[2].contains("éclair ☕") && texts[3] == "done<|im_end|>", "{texts:?}");

    let cut = laid("label-sum.json", one.sequences[0].replies[1].end);
    assert_eq!((cut.replies(), cut.left_out), (2, 1));
    assert_eq!(cut.sequences[0].replies, one.sequences[0].replies[..2]);
    assert_eq!(laid("label-sum.json", 10).left_out, 3);
}

/// The prompt opens a thought, and the reply has none: both go on with `<`, inside a token.
#[test]
fn a_reply_begins_at_a_token() {
    let checkpoint = Checkpoint::open(&root().join("fixtures/tiny-raw/step_600")).expect("opens");
    let (tokens, _) = load_tokens(&checkpoint).expect("speaks");
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}\
                  <tool_call>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}\
                  {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
    let now = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
    let template = ChatTemplate::new(source, now).expect("is a template");
    let call = ToolCall { id: String::new(), name: "bash".into(), arguments: "{}".into() };
    let messages = [
        Message::new(Role::User, "hi"),
        Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "go") },
    ];
    let laid = forced(&template, &tokens, &messages, &[], 100).expect("lays out");
    let sequence = &laid.sequences[0];
    let text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<tool_call>go<|im_end|>";
    assert_eq!(sequence.ids, tokens.encode(text).expect("encodes"));
    let reply = tokens.encode("<tool_call>go<|im_end|>").expect("encodes");
    assert_eq!(sequence.ids[sequence.replies[0].clone()], reply);
    assert_eq!(reply.first(), tokens.encode("<tool_call>").expect("encodes").first());
}

#[test]
fn the_order_is_printed_and_no_step_is_picked() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let more = ["--metric", "nll", "--trajectories", "fixtures/trajectories/label-sum.json"];
    let json: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
    let steps = ["step_175", "step_500", "step_600"];
    let first = select(&steps, dir.path(), &json);
    assert!(first.status.success(), "{}", stderr(&first));
    let document: Value = serde_json::from_slice(&first.stdout).expect("one document");
    assert_eq!(document["schema"], "tmax-ckpt.select.nll/1");
    let path = |step: &str| format!("fixtures/tiny-raw/{step}");
    let queue = ["step_600", "step_500", "step_175"].map(path);
    assert_eq!(document["queue"], serde_json::json!(queue));
    assert!(document.get("picked").is_none() && document["decides"] == false);
    let notes = document["nll"]["notes"].to_string();
    assert!(notes.contains("step_600 wrote some of these"), "{notes}");
    // The same again, from what is stored; and as a person sees it.
    assert_eq!(select(&steps, dir.path(), &json).stdout, first.stdout);
    let human = select(&steps, dir.path(), &more);
    assert!(stderr(&human).contains("step_600 wrote some of these"), "{}", stderr(&human));
    let human = String::from_utf8_lossy(&human.stdout);
    assert!(human.contains("nll orders, it does not decide"), "{human}");
    // Only what is missing is computed: a stored value is believed, and its loss is noticed.
    let nll = |document: &Value| -> f64 {
        let values = document["trajectories"].as_object().expect("values").values();
        values
            .map(|v| v["nll"].as_str().and_then(|v| v.parse::<f64>().ok()).expect("a number"))
            .sum()
    };
    let files = stored(dir.path()).into_iter();
    let likeliest = files.min_by(|a, b| nll(&a.1).total_cmp(&nll(&b.1)));
    let (file, mut one) = likeliest.expect("there are some");
    let values = one["trajectories"].as_object_mut().expect("values");
    values.values_mut().for_each(|value| value["nll"] = "100000.5".into());
    std::fs::write(&file, one.to_string()).expect("writes");
    let quiet: Vec<&str> = more.iter().copied().chain(["-q"]).collect();
    let again = String::from_utf8(select(&steps, dir.path(), &quiet).stdout).expect("text");
    assert_eq!(again.lines().collect::<Vec<_>>(), ["step_500", "step_175", "step_600"].map(path));
    std::fs::write(&file, "{").expect("writes");
    let broken = select(&steps, dir.path(), &more);
    assert_eq!(broken.status.code(), Some(2));
    assert!(stderr(&broken).contains("remove it"), "{}", stderr(&broken));
}

#[test]
fn with_tasks_rollouts_decide_and_begin_in_that_order() {
    let dir = tempfile::tempdir().expect("a temp dir");
    if super::sandbox::host(dir.path()).is_none() {
        return;
    }
    let more: Vec<&str> = NLL
        .into_iter()
        .chain(["--tasks", "fixtures/tasks", "--max-steps", "8", "--max-tokens", "96"])
        .chain(["--task", "label-sum", "--task", "pick-column", "--json"])
        .chain(["--budget", "6", "--n-concurrent", "1", "--confidence", "0.99999"])
        .collect();
    let steps = ["step_300", "step_500", "step_600"];
    let output = select(&steps, dir.path(), &more);
    assert!(output.status.success(), "{}", stderr(&output));
    let document: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(document["schema"], "tmax-ckpt.select/1");
    let of = |key: &str| document["nll"][key].as_array().expect("a list").clone();
    assert_eq!(of("steps").len(), 3);
    assert!(document["picked"].is_string());
    // Six rollouts are the opening: every step at both tasks, whatever nll thinks of it.
    for step in document["steps"].as_array().expect("steps") {
        assert_eq!(step["endings"]["graded"], 2, "{step}");
    }
}

#[test]
fn what_is_no_trajectory_is_an_error_with_help() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let code = |trajectories: &str| {
        let more = ["--metric", "nll", "--trajectories", trajectories];
        let output = select(&["step_600"], dir.path(), &more);
        assert!(stderr(&output).contains("help:"), "{}", stderr(&output));
        output.status.code()
    };
    std::fs::create_dir_all(at("empty")).expect("makes a folder");
    assert_eq!(code(&at("empty")), Some(3));
    assert_eq!(code(&at("nowhere")), Some(3));
    std::fs::write(at("bad.json"), "[{\"role\":\"\u{1b}]0;x\"}]").expect("writes");
    assert_eq!(code(&at("bad.json")), Some(6));
    // A trial that was not solved is left out, and says so.
    std::fs::create_dir_all(at("job/t__1/agent")).expect("makes a folder");
    let copy = root().join("fixtures/trajectories/label-sum.json");
    std::fs::copy(copy, at("job/t__1/agent/trajectory.json")).expect("copies");
    let result = r#"{"task_name":"t","verifier_result":{"rewards":{"reward":0}}}"#;
    std::fs::write(at("job/t__1/result.json"), result).expect("writes");
    assert_eq!(code(&at("job")), Some(3));
    let solved = result.replace(":0}", ":1}");
    std::fs::write(at("job/t__1/result.json"), solved).expect("writes");
    let more = ["--metric", "nll", "--trajectories", &at("job"), "-n"];
    let plan = select(&["step_600"], dir.path(), &more);
    assert!(plan.status.success(), "{}", stderr(&plan));
    assert!(String::from_utf8_lossy(&plan.stdout).contains("on 1 trajectory"), "{plan:?}");
    for wrong in [
        &["--trajectories", "fixtures/trajectories"][..],
        &["--metric", "nll", "--tasks", "fixtures/tasks"],
        &["--metric", "nll", "--trajectories", "x", "--report", "r.html"],
    ] {
        let output = select(&["step_500", "step_600"], dir.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?} {}", stderr(&output));
    }
}

/// Each `--trajectories` takes one value: what follows is a checkpoint.
#[test]
fn checkpoints_may_follow_the_trajectories() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = "fixtures/trajectories/label-sum.json";
    let more = ["--metric", "nll", "-n", "--trajectories", path, "--trajectories", path];
    let steps = ["fixtures/tiny-raw/step_500", "fixtures/tiny-raw/step_600"];
    let more: Vec<&str> = more.iter().copied().chain(steps).collect();
    let plan = select(&[], dir.path(), &more);
    assert!(plan.status.success(), "{}", stderr(&plan));
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert_eq!(text.matches("would measure").count(), 2, "{text}");
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let job = dir.path().join("job");
    let more = ["--tasks", "fixtures/tasks", "--task", "set-mode", "-n", "--budget", "40"];
    let output = select(&["step_500", "step_600"], &job, &more);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("1 task ") && text.contains("at most 40 rollouts"), "{text}");
    assert!(!job.exists());
    // The same checkpoint twice is one, and a mistyped task has a suggestion.
    let twins = select(&["step_500", "step_500", "step_600"], &job, &more);
    assert!(stderr(&twins).contains("left out: it is the same checkpoint"), "{}", stderr(&twins));
    let alone = select(&["step_500", "step_500"], &job, &more);
    assert_eq!(alone.status.code(), Some(2));
    let typo = select(
        &["step_500", "step_600"],
        &job,
        &["--tasks", "fixtures/tasks", "--task", "set-mod"],
    );
    assert_eq!(typo.status.code(), Some(2));
    assert!(stderr(&typo).contains("did you mean `set-mode`"), "{}", stderr(&typo));
}
