//! Scoring end to end: tasks, sandbox, agent, records; and reading Harbor's own folders.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tmax_ckpt::engine::chat::{
    CancelFlag, ChatError, ChatModel, ChatReply, ChatRequest, FinishReason, Message, Role,
    ToolCall, Usage,
};
use tmax_ckpt::error::Diagnose as _;
use tmax_ckpt::harness::agent::Settings;
use tmax_ckpt::harness::dataset::Dataset;
use tmax_ckpt::harness::environment::Host;
use tmax_ckpt::harness::job::{Candidate, Job, Spec, Who};
use tmax_ckpt::harness::prompts::Prompts;
use tmax_ckpt::harness::record::{Outcome, TrialRecord};
use tmax_ckpt::harness::{import, task};
use tmax_ckpt::progress::silent;
use tmax_ckpt::sandbox::Limits;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What a scripted model says at one step.
#[derive(Clone)]
enum Say {
    Bash(&'static str),
    Raw(&'static str, &'static str),
    Nothing,
    Overflow,
    Fail,
}

/// A model that says what it was told to.
struct Script(Vec<Say>);

impl ChatModel for Script {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let turn = request.messages.iter().filter(|m| m.role == Role::Assistant).count();
        let mut message = Message::new(Role::Assistant, format!("THOUGHT {turn}"));
        let say = self.0.get(turn).cloned().unwrap_or(Say::Nothing);
        let mut call = |name: &str, arguments: String| {
            let id = format!("call-{turn}");
            message.tool_calls.push(ToolCall { id, name: name.into(), arguments });
        };
        match say {
            Say::Bash(command) => call("bash", json!({"command": command}).to_string()),
            Say::Raw(name, arguments) => call(name, arguments.into()),
            Say::Nothing => {}
            Say::Overflow => return Err(ChatError::ContextWindow { tokens: 9, limit: 8 }),
            Say::Fail => {
                let refused = tmax_ckpt::engine::chat::Auth::NotTheCause;
                let (url, reason) = ("http://x".into(), "gone".into());
                return Err(ChatError::Endpoint { url, reason, auth: refused });
            }
        }
        let usage = Usage { prompt_tokens: 10, cached_tokens: 5, completion_tokens: 2 };
        Ok(ChatReply { message, finish_reason: FinishReason::Stop, usage, trace: None })
    }

    fn name(&self) -> &str {
        "script"
    }
}

fn scripted(name: &str, script: Vec<Say>) -> Candidate {
    Candidate {
        name: format!("o/n@{name}"),
        repository: "o/n".into(),
        commit: name.into(),
        who: Who::Model(Arc::new(Script(script))),
    }
}

fn plain(who: Who) -> Candidate {
    let name = who.word();
    Candidate { name: name.into(), repository: String::new(), commit: String::new(), who }
}

/// A task that wants `/app/answer` to say 42.
fn write_task(dir: &Path, name: &str, agent_secs: f64) {
    let task = dir.join(name);
    for part in ["environment", "tests", "solution"] {
        std::fs::create_dir_all(task.join(part)).expect("makes");
    }
    let toml = format!(
        "schema_version = \"1.4\"\n[agent]\ntimeout_sec = {agent_secs:?}\n[verifier]\n\
         timeout_sec = 20.0\n[environment]\nmemory_mb = 256\n"
    );
    std::fs::write(task.join("task.toml"), toml).expect("writes");
    std::fs::write(task.join("instruction.md"), "\nWrite 42 to /app/answer.\n").expect("writes");
    let dockerfile = "FROM debian:12\nWORKDIR /app\nENV COLOUR=blue\nCOPY seed.txt ./\n\
                      RUN echo built > built.txt\n";
    std::fs::write(task.join("environment/Dockerfile"), dockerfile).expect("writes");
    std::fs::write(task.join("environment/seed.txt"), "seed").expect("writes");
    let test = "#!/bin/bash\necho testing\n[ -e /solution ] && [ \"$(cat /app/answer)\" != 42 ] && exit 1\n\
        [ -n \"$(cat /app/nothing 2>/dev/null)\" ] && exit 0\n\
        [ \"$(cat /app/answer 2>/dev/null)\" = 42 ] && r=1 || r=0\necho $r > /logs/verifier/reward.txt\n";
    std::fs::write(task.join("tests/test.sh"), test).expect("writes");
    std::fs::write(task.join("solution/solve.sh"), "#!/bin/bash\necho 42 > answer\n")
        .expect("writes");
}

fn spec(dir: &Path, host: Host, tasks: &Path, candidates: Vec<Candidate>) -> Spec {
    Spec {
        dir: dir.join("job"),
        dataset: Dataset::local(tasks.to_owned()),
        tasks: task::load_all(tasks).expect("the tasks load"),
        candidates,
        attempts: 1,
        prompts: Prompts::ours(),
        settings: Settings::default(),
        seed: 1,
        host,
        limits: Limits::default(),
        n_concurrent: 2,
        cancel: CancelFlag::default(),
        clock: jiff::Timestamp::now,
        progress: silent(),
    }
}

fn host(dir: &Path) -> Option<Host> {
    super::sandbox::host(dir).map(Host::Bwrap)
}

fn run(job: &Job) -> Vec<TrialRecord> {
    job.run(&job.planned()).expect("runs")
}

/// Checks `file` of a job folder against one of Harbor's schemas.
pub fn assert_valid(schema: &str, file: &Path) {
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("is JSON")
    };
    let schema = read(&root().join("fixtures/harbor-schemas").join(schema));
    let validator = jsonschema::validator_for(&schema).expect("is a schema");
    let value = read(file);
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}: {errors:#?}", file.display());
}

#[test]
fn oracles_solve_all_fixture_tasks_and_nobody_solves_none() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let candidates = vec![plain(Who::Oracle), plain(Who::Nop)];
    let job = Job::open(spec(dir.path(), host, &root().join("fixtures/tasks"), candidates))
        .expect("opens");
    for record in run(&job) {
        let wanted = if record.step == "oracle" { 1.0 } else { 0.0 };
        assert_eq!(record.score(), Some(wanted), "{} by {}", record.task, record.step);
    }
    job.finish().expect("writes");
    let summary = import::summarise(&import::read(&job.spec().dir).expect("reads").records);
    assert_eq!(summary.len(), 2);
    assert!(summary.iter().all(|step| step.scored >= 12 && step.infrastructure_failures == 0));
}

#[test]
fn a_model_works_by_the_protocol_and_records_are_harbors() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let tasks = dir.path().join("tasks");
    write_task(&tasks, "answer", 60.0);
    let script = vec![
        Say::Bash("cat seed.txt built.txt; mkdir sub && cd sub && export A=7 && f() { :; }"),
        Say::Raw("sh", "{}"),
        Say::Nothing,
        Say::Raw("bash", "{\"command\""),
        Say::Bash(
            "pwd; echo $A$COLOUR; type f >/dev/null 2>&1 || echo forgotten; echo err >&2; exit 3",
        ),
        Say::Bash("yes | head -c 20000"),
        Say::Bash("echo 42 > /app/answer; echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
        Say::Bash("never"),
    ];
    let job =
        Job::open(spec(dir.path(), host, &tasks, vec![scripted("s", script)])).expect("opens");
    let record = run(&job).remove(0);
    assert_eq!((record.reward, record.outcome), (Some(1.0), Outcome::Scored));
    assert_eq!((record.turns, record.format_errors), (Some(7), Some(3)));
    assert_eq!((record.prompt_tokens, record.completion_tokens), (Some(70), Some(14)));
    job.finish().expect("writes");

    let trial = job.spec().dir.join(&record.trial);
    let text = std::fs::read_to_string(trial.join("agent/messages.json")).expect("reads");
    let messages: Vec<Value> = serde_json::from_str(&text).expect("is JSON");
    let content = |i: usize| messages[i]["content"].as_str().expect("a text").to_owned();
    assert!(content(1).contains("\n\nWrite 42 to /app/answer.\n\n"));
    assert_eq!(content(3), "seedbuilt\n\n(exit_code=0)");
    // Another tool's name: answered as a tool. No call, or bad JSON: as the user.
    assert_eq!((messages[5]["role"].as_str(), messages[4].get("tool_calls")), (Some("tool"), None));
    assert_eq!(messages[7]["role"], "user");
    assert_eq!(messages[9]["role"], "user");
    assert!(content(9).starts_with("Format error: "));
    assert_eq!(content(11), "/app/sub\n7blue\nforgotten\n\nerr\n\n(exit_code=3)");
    assert!(content(13).contains("---- 9999 chars elided ----"), "{}", content(13));
    assert_eq!(messages.len(), 16);

    for (schema, file) in [("job.json", "config.json"), ("job-lock.json", "lock.json")] {
        assert_valid(schema, &job.spec().dir.join(file));
    }
    assert_valid("job-result.json", &job.spec().dir.join("result.json"));
    assert_valid("trial.json", &trial.join("config.json"));
    assert_valid("trial-lock.json", &trial.join("lock.json"));
    assert_valid("trial-result.json", &trial.join("result.json"));
    assert_valid("trajectory.json", &trial.join("agent/trajectory.json"));
    assert!(trial.join("verifier/test-stdout.txt").is_file());
    let log = std::fs::read_to_string(trial.join("trial.log")).expect("reads");
    let (first, last) = (log.lines().next(), log.lines().last());
    assert!(first.is_some_and(|line| line.starts_with("Environment started: bubblewrap")), "{log}");
    assert_eq!(last, Some("Rewards: {\"reward\":1.0}"));
    assert!(log.contains("\nAgent ended after 7 turns: submitted\n"), "{log}");
    assert!(!log.contains("COMPLETE_TASK"), "no command is logged");
    let log = std::fs::read_to_string(job.spec().dir.join("job.log")).expect("reads");
    let name = &record.trial;
    let wanted = format!(
        "Trials wanted: 1, finished before: 0\nTrial {name} started\nTrial {name} finished: reward 1\n"
    );
    assert_eq!(log, wanted);
    let own = std::fs::read_to_string(trial.join("tmax-ckpt.json")).expect("reads");
    assert!(own.contains("the host's programs stand in for the image debian:12"), "{own}");
    assert!(!job.spec().dir.join(".scratch").join(&record.trial).exists());
}

#[test]
fn failures_of_model_time_tests_and_machine_are_told_apart() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let tasks = dir.path().join("tasks");
    write_task(&tasks, "answer", 3.0);
    let submit = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT";
    let candidates = vec![
        scripted("wrong", vec![Say::Bash(submit)]),
        scripted("slow", vec![Say::Bash("echo 42 > answer; sleep 60")]),
        scripted("mute", vec![]),
        scripted("long", vec![Say::Bash("echo 42 > answer"), Say::Overflow]),
        scripted("untested", vec![Say::Bash("echo x > nothing"), Say::Bash(submit)]),
        scripted(
            "forger",
            vec![
                Say::Bash("echo 1 > /logs/verifier/reward.txt; echo x > nothing"),
                Say::Bash(submit),
            ],
        ),
        scripted("broken", vec![Say::Fail]),
        scripted(
            "messy",
            vec![
                Say::Bash("mkdir -p /tests/$(printf 'd/%.0s' {1..300}) /logs/agent/closed/in"),
                Say::Bash("cp -r /tests /logs/verifier; chmod -R 000 /tests /logs/agent/closed"),
                Say::Bash("echo 42 > answer; echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
            ],
        ),
        scripted(
            "barrier",
            vec![Say::Bash("echo 42 > answer; rm -r /logs; touch /logs"), Say::Bash(submit)],
        ),
    ];
    let job = Job::open(spec(dir.path(), host, &tasks, candidates)).expect("opens");
    let records = run(&job);
    let found: Vec<_> = records
        .iter()
        .map(|r| (r.step.trim_start_matches("o/n@"), r.score(), r.outcome, r.exception.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("wrong", Some(0.0), Outcome::Scored, None),
            ("slow", Some(1.0), Outcome::AgentTimeout, Some("AgentTimeoutError")),
            ("mute", Some(0.0), Outcome::Scored, None),
            ("long", Some(1.0), Outcome::Scored, None),
            ("untested", Some(0.0), Outcome::NoVerdict, Some("RewardFileNotFoundError")),
            ("forger", Some(0.0), Outcome::NoVerdict, Some("RewardFileNotFoundError")),
            ("broken", None, Outcome::Infrastructure, Some("ModelInfrastructureError")),
            ("messy", Some(1.0), Outcome::Scored, None),
            ("barrier", Some(0.0), Outcome::NoVerdict, Some("RewardFileNotFoundError")),
        ]
    );
    let log = job.spec().dir.join(&records[8].trial).join("trial.log");
    let log = std::fs::read_to_string(log).expect("reads");
    let words = "No reward: RewardFileNotFoundError: the tests could not be run: what ran in the \
                 sandbox is in the way of /logs/verifier: Not a directory";
    assert!(log.contains(words), "{log}");
    assert_eq!(records[2].format_errors, Some(64));
    let summary = import::summarise(&records);
    let broken = summary.iter().find(|s| s.step == "o/n@broken").expect("is there");
    assert_eq!((broken.mean, broken.infrastructure_failures), (None, 1));
}

/// Who reads the record must see what the machine did to the agent.
#[test]
fn a_kill_for_the_disk_that_was_taken_is_in_the_record() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let tasks = dir.path().join("tasks");
    write_task(&tasks, "answer", 60.0);
    let toml = tasks.join("answer/task.toml");
    let text = std::fs::read_to_string(&toml).expect("reads");
    std::fs::write(&toml, text + "storage_mb = 20\n").expect("writes");
    let script = vec![
        Say::Bash("head -c 40m /dev/zero > big"),
        Say::Bash("rm big; echo 42 > answer; echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
    ];
    let job =
        Job::open(spec(dir.path(), host, &tasks, vec![scripted("s", script)])).expect("opens");
    let record = run(&job).remove(0);
    assert_eq!((record.reward, record.outcome), (Some(1.0), Outcome::Scored));
    let trial = job.spec().dir.join(&record.trial);
    let read = |name: &str| std::fs::read_to_string(trial.join(name)).expect("reads");
    let words = "killed: the files here take more than 21.0 MB";
    assert!(read("agent/messages.json").contains(words), "the model is told");
    let log = read("trial.log");
    assert_eq!(log.matches(&format!("Note: what ran was {words}\n")).count(), 1, "{log}");
    let own: Value = serde_json::from_str(&read("tmax-ckpt.json")).expect("is JSON");
    let notes = own["sandbox"]["notes"].to_string();
    assert!(notes.contains(words), "{notes}");
}

/// A model that fails once by the machine's fault, then answers.
struct Flaky(AtomicUsize);

impl ChatModel for Flaky {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let say = match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Say::Fail,
            _ => Say::Bash("echo 42 > answer; echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
        };
        Script(vec![say]).chat(request)
    }
    fn name(&self) -> &str {
        "flaky"
    }
}

#[test]
fn a_job_goes_on_where_it_stopped_and_counts_nothing_twice() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let tasks = dir.path().join("tasks");
    write_task(&tasks, "answer", 60.0);
    write_task(&tasks, "more", 60.0);
    let model = Arc::new(Flaky(AtomicUsize::new(0)));
    let make = || {
        let who = Who::Model(model.clone());
        let name = "o/n@flaky".to_owned();
        let flaky = Candidate { name, repository: "o/n".into(), commit: "c".into(), who };
        let mut spec = spec(dir.path(), host.clone(), &tasks, vec![flaky]);
        spec.n_concurrent = 1;
        spec
    };
    let job = Job::open(make()).expect("opens");
    assert!(Job::open(make()).is_err(), "two runs at once in one folder");
    let first = run(&job);
    assert_eq!(first.iter().filter(|r| r.score().is_none()).count(), 1);
    drop(job);

    // A trial that was killed half way, and the scratch of its sandbox.
    let killed = dir.path().join("job").join(&first[1].trial);
    std::fs::remove_file(killed.join("result.json")).expect("removes");
    std::fs::create_dir_all(dir.path().join("job/.scratch/x/root")).expect("makes");
    let calls = model.0.load(Ordering::SeqCst);
    let job = Job::open(make()).expect("opens again");
    let second = run(&job);
    assert!(second.iter().all(|r| r.score() == Some(1.0)), "{second:?}");
    assert_eq!(model.0.load(Ordering::SeqCst), calls + 2, "both were run again");
    assert_eq!(run(&job), second, "and now neither");
    assert_eq!(model.0.load(Ordering::SeqCst), calls + 2);
    assert_eq!(import::read(&dir.path().join("job")).expect("reads").records.len(), 2);
    let log = std::fs::read_to_string(dir.path().join("job/job.log")).expect("reads");
    assert_eq!(log.matches("Trials wanted: 2,").count(), 3, "each run adds to it: {log}");
    drop(job);

    let mut other = make();
    other.settings.sampling.temperature = 1.0;
    let Err(error) = Job::open(other) else { panic!("other sampling went into the same folder") };
    assert!(error.to_string().contains("other prompts, sampling"), "{error}");
}

/// A mean is over the trials of one name: a name may not come to stand for something else.
#[test]
fn a_name_stands_for_the_same_weights_and_tests_in_all_of_a_job() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let tasks = dir.path().join("tasks");
    write_task(&tasks, "answer", 3.0);
    let open = |commit: &str| {
        let mut step = scripted("step_1", Vec::new());
        step.commit = commit.into();
        Job::open(spec(dir.path(), host.clone(), &tasks, vec![step])).map(|_| ())
    };
    open("a").expect("opens");
    open("a").expect("opens again");
    let error = open("b").expect_err("other weights under the same name");
    assert!(error.to_string().contains("its trials of `o/n@step_1` are of"), "{error}");
    assert!(error.help().join("").contains("another folder with -o"), "{:?}", error.help());
    std::fs::write(tasks.join("answer/tests/test.sh"), "exit 0").expect("writes");
    let error = open("a").expect_err("other tests under the same name");
    assert!(error.to_string().contains("its trials of `answer` are of"), "{error}");
}

#[test]
fn a_job_in_which_nothing_works_is_an_error() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let tasks = dir.path().join("tasks");
    write_task(&tasks, "answer", 3.0);
    let broken = vec![scripted("broken", vec![Say::Fail])];
    let job = Job::open(spec(dir.path(), host, &tasks, broken)).expect("opens");
    let error = job.run(&job.planned()).expect_err("its only trial failed");
    assert!(error.to_string().contains("nothing works, 1 trial failed"), "{error}");
}

#[test]
fn published_harbor_jobs_give_the_published_means() {
    let data = root().join("../shared/data/harbor");
    if !data.is_dir() {
        eprintln!("SKIPPED: the published trials are not here ({})", data.display());
        return;
    }
    let published = [("Qwen3.5-9B", 21.124, 1.21, 33.71), ("tmax-9b", 27.191, 1.03, 40.45)];
    for (name, percent, error, pass_at_5) in published {
        let records = import::read(&data.join(name)).expect("reads").records;
        assert_eq!(records.len(), 445, "{name}");
        let summary = import::summarise(&records);
        assert_eq!((summary.len(), summary[0].tasks, summary[0].scored), (1, 89, 445), "{name}");
        let mean = 100.0 * summary[0].mean.expect("is scored");
        assert!((mean - percent).abs() < 5e-4, "{name}: {mean}");
        let mut tasks = std::collections::BTreeMap::<&str, Vec<f64>>::new();
        for record in &records {
            tasks.entry(&record.task).or_default().push(record.score().expect("counts"));
        }
        assert!(records.iter().all(|r| r.attempt < 5));
        let ks: Vec<usize> = summary[0].pass_at_k.iter().map(|p| p.k).collect();
        assert_eq!(ks, [2, 4, 5], "{name}");
        assert!((100.0 * summary[0].pass_at_k[2].value - pass_at_5).abs() < 0.005, "{name}");
        let variance: f64 = tasks
            .values()
            .map(|scores| {
                let p = scores.iter().sum::<f64>() / scores.len() as f64;
                p * (1.0 - p) / (scores.len() as f64 - 1.0)
            })
            .sum();
        let found = 100.0 * variance.sqrt() / tasks.len() as f64;
        assert!((found - error).abs() < 0.005, "{name}: {found}");
    }
}

#[test]
fn the_command_prints_json_lines_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a temp dir");
    if host(dir.path()).is_none() {
        return;
    }
    let tasks = dir.path().join("tasks");
    write_task(&tasks, "answer", 60.0);
    let score = |args: &[&str]| {
        let mut command = super::cli::binary(dir.path());
        command.args(["score", "--tasks", "tasks", "-o", "job"]).args(args);
        command.output().expect("runs")
    };
    let dry = score(&["--agent", "oracle", "-n", "--json"]);
    let document: Value = serde_json::from_slice(&dry.stdout).expect("is JSON");
    assert_eq!(
        (&document["trials"], &document["schema"]),
        (&json!(1), &json!("tmax-ckpt.score.plan/1"))
    );
    assert!(!dir.path().join("job").exists());
    std::fs::write(dir.path().join("bad.yaml"), "system: [").expect("writes");
    let refused = score(&["--agent", "oracle", "-n", "--harness", "bad.yaml"]);
    assert_eq!(refused.status.code(), Some(6), "a dry run reads the harness file too");
    for _ in 0..2 {
        let done = score(&["--agent", "oracle", "--attempts", "2", "--json"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).expect("is UTF-8");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["task"], &lines[0]["score"]), (&json!("answer"), &json!(1.0)));
        assert_eq!(lines[2]["steps"][0]["mean"], 1.0);
        assert_eq!(lines[2]["steps"][0]["pass_at_k"], json!([{"k": 2, "value": 1.0}]));
    }
    let dry = score(&["--agent", "oracle", "--attempts", "3", "-n", "--json"]);
    let document: Value = serde_json::from_slice(&dry.stdout).expect("is JSON");
    assert_eq!((&document["trials"], &document["finished_trials"]), (&json!(1), &json!(2)));
    let mut import = super::cli::binary(dir.path());
    let imported = import.args(["score", "import", "job"]).output().expect("runs");
    let text = String::from_utf8_lossy(&imported.stdout).into_owned();
    assert!(text.contains("100.000%"), "{text}");
    assert!(text.contains("pass@2 oracle 100.0\n"), "{text}");
    let refused = score(&["--agent", "oracle", "--attempts", "2", "--seed", "5"]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(score(&[]).status.code(), Some(2));
}
