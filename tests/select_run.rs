//! `select` as it runs trials: real checkpoints, the real engine, real sandboxes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Says whether trials can run here; if not, says loudly that the test is skipped.
fn sandbox_works() -> bool {
    let scratch = tempfile::tempdir().expect("a temp dir");
    super::sandbox::host(scratch.path()).is_some()
}

/// A call of `select` on steps of the family, under the conditions of its truth.
fn select(steps: &[u32], tasks: &[&str], dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("select");
    command.args(steps.iter().map(|step| format!("fixtures/tiny-raw/step_{step}")));
    command.args(["--tasks", "fixtures/tasks", "--max-steps", "8", "--max-tokens", "96"]);
    command.args(tasks.iter().flat_map(|task| ["--task", task]));
    command.args(["--no-config", "--progress", "none", "--output"]).arg(dir).args(more);
    command
}

fn document(mut command: Command) -> Value {
    let output = command.arg("--json").output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one document")
}

/// Returns how many trials in the job folder have a result.
fn finished_trials(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.path().is_dir() && e.path().join("result.json").is_file()).count()
}

/// Returns the attempts with a verdict of each step.
fn graded(document: &Value) -> Vec<u64> {
    let steps = document["steps"].as_array().expect("steps");
    steps.iter().map(|step| step["endings"]["graded"].as_u64().expect("a count")).collect()
}

/// The true best of these is `step_600`; its neighbours are 5 points and more behind.
#[test]
fn the_best_step_of_the_family_is_found() {
    if !sandbox_works() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temp dir");
    let more = ["--seed", "7", "--budget", "150"];
    let found = document(select(&[300, 400, 500, 600, 660], &[], dir.path(), &more));
    assert_eq!(found["picked"], "fixtures/tiny-raw/step_600");
    let counts = graded(&found);
    assert_eq!(counts.iter().sum::<u64>(), finished_trials(dir.path()) as u64);
    // What is plainly worse is not tried as often as the leaders.
    assert!(counts[4] < counts[3], "{counts:?}");
}

/// Three steps and three tasks that tell them apart.
const STEPS: [u32; 3] = [300, 500, 600];
const TASKS: [&str; 3] = ["label-sum", "pick-column", "two-notes"];

#[test]
fn a_killed_run_goes_on_and_counts_no_trial_twice() {
    if !sandbox_works() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temp dir");
    let more = ["--budget", "24", "--confidence", "0.9999", "--confirm", "3"];
    let whole = document(select(&STEPS, &TASKS, &dir.path().join("whole"), &more));
    assert_eq!(graded(&whole).iter().sum::<u64>(), 24);
    assert_eq!(whole["curse"]["confirmed_rollouts"], 3);
    assert_eq!(finished_trials(&dir.path().join("whole")), 27);

    let cut = dir.path().join("cut");
    let mut child = select(&STEPS, &TASKS, &cut, &more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let give_up = Instant::now() + Duration::from_secs(120);
    while finished_trials(&cut) < 6 {
        assert!(Instant::now() < give_up, "no six trials within two minutes");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    let before = finished_trials(&cut);
    assert!(before < 27, "it was over before the kill");
    let resumed = document(select(&STEPS, &TASKS, &cut, &more));
    assert_eq!(finished_trials(&cut), 27);
    for key in ["picked", "best", "curse"] {
        assert_eq!(resumed[key], whole[key], "{key}");
    }
    for (mine, other) in resumed["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(whole["steps"].as_array().into_iter().flatten())
    {
        for key in ["step", "mean", "estimate", "p_best", "endings", "versus_baseline"] {
            assert_eq!(mine[key], other[key], "{key}");
        }
    }
    // A third call runs nothing at all.
    let again = document(select(&STEPS, &TASKS, &cut, &more));
    assert_eq!(finished_trials(&cut), 27);
    assert_eq!(again["steps"], resumed["steps"]);
}

/// Returns what a call prints for people: the answer, and the notes below it.
fn printed(mut command: Command) -> [String; 2] {
    let output = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("is UTF-8");
    assert!(output.status.success(), "{}", text(output.stderr));
    [text(output.stdout), text(output.stderr)]
}

#[test]
fn confirming_trials_are_told_apart_from_those_that_chose() {
    if !sandbox_works() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temp dir");
    let job = dir.path().join("job");
    let sure = ["--confidence", "0.9999", "--budget", "12"];
    let run = |more: &[&str]| select(&[300, 600], &TASKS[..2], &job, &[&sure[..], more].concat());
    let alone = document(run(&[]));
    assert_eq!(finished_trials(&job), 12);
    let confirmed = document(run(&["--confirm", "3"]));
    // The same trials chose, and the fresh ones are no attempts that a choice may see.
    assert_eq!(finished_trials(&job), 15);
    assert_eq!((&confirmed["steps"], &confirmed["picked"]), (&alone["steps"], &alone["picked"]));
    assert_eq!(confirmed["curse"]["confirmed_rollouts"], 3);
    assert_eq!(confirmed["curse"]["confirmed_tasks"], 2);
    let trials = std::fs::read_dir(&job).expect("lists").flatten().map(|e| e.path());
    let fresh: Vec<_> = trials
        .map(|trial| trial.join("result.json"))
        .filter(|result| std::fs::read_to_string(result).is_ok_and(|r| r.contains("\"confirms\"")))
        .collect();
    assert_eq!(fresh.len(), 3);
    fresh.iter().for_each(|file| super::score::assert_valid("trial-result.json", file));
    // Read back from the folder it is the same answer, in the document and in print.
    let from = || {
        let mut from = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"));
        from.args(["select", "--no-config", "--progress", "none"]).args(&sure[..2]);
        from.arg("--from").arg(&job);
        from
    };
    let read = document(from());
    for key in ["picked", "best", "certainty", "tasks", "curse"] {
        assert_eq!(read[key], confirmed[key], "{key}");
    }
    let ours = printed(run(&["--confirm", "3"]));
    assert_eq!(ours, printed(from()));
    assert!(ours.concat().contains("3 fresh rollouts of "), "{ours:?}");
}

#[test]
fn allocations_and_budgets_do_what_they_say() {
    if !sandbox_works() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temp dir");
    let run = |name: &str, more: &[&str]| {
        let steps = [175, 300, 500, 600];
        let sure = ["--confidence", "0.9999999", "--indifference", "0"];
        let more: Vec<&str> = sure.iter().chain(more).copied().collect();
        document(select(&steps, &["set-mode", "label-sum"], &dir.path().join(name), &more))
    };
    let uniform = run("uniform", &["--allocation", "uniform", "--budget", "16"]);
    assert_eq!(graded(&uniform), [4, 4, 4, 4]);
    assert_eq!(uniform["attempts_a_cell"], serde_json::json!([2, 2]));
    // Read back from its folder, it is the same answer.
    let folder = dir.path().join("uniform");
    let mut from = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"));
    from.args(["select", "--no-config", "--confidence", "0.9999999"]);
    from.args(["--indifference", "0", "--from"]).arg(&folder);
    let read = document(from);
    for key in ["picked", "certainty", "tasks", "indistinguishable"] {
        assert_eq!(read[key], uniform[key], "{key}");
    }
    for (mine, other) in ["steps"].iter().flat_map(|key| {
        read[key]
            .as_array()
            .into_iter()
            .flatten()
            .zip(uniform[key].as_array().into_iter().flatten())
    }) {
        for key in ["step", "mean", "estimate", "p_best", "interval_new_tasks", "endings"] {
            assert_eq!(mine[key], other[key], "{key}");
        }
    }
    // Two rounds; steps 175 and 300 solve neither task and go home after the first.
    let halving = run("halving", &["--allocation", "halving", "--budget", "32"]);
    let counts = graded(&halving);
    assert_eq!(counts.iter().sum::<u64>(), 32);
    assert!(counts[0] == counts[1] && counts[2] == counts[3], "{counts:?}");
    assert!(counts[0] < counts[2], "{counts:?}");
    // Time and tokens are looked at between batches of eight.
    for (coin, budget) in [("tokens", "1tok"), ("time", "0.01s")] {
        let one = run(coin, &["--allocation", "uniform", "--budget", budget]);
        assert_eq!(graded(&one).iter().sum::<u64>(), 8, "{coin}");
    }
    let more = run("tokens", &["--allocation", "uniform", "--budget", "2ktok"]);
    let effort = |step: &Value| {
        let tokens = step["effort"]["tokens"].as_f64().expect("tokens");
        tokens * step["endings"]["graded"].as_f64().expect("a count")
    };
    let spent: f64 = more["steps"].as_array().expect("steps").iter().map(effort).sum();
    assert!((2_000.0..4_000.0).contains(&spent), "{spent}");
}

/// Whatever is drawn of a distribution that is none must not count as an answer that failed.
#[test]
fn a_model_that_computes_no_probability_gets_no_zero() {
    if !sandbox_works() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temp dir");
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).expect("makes");
    let sound = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-raw/step_600");
    for entry in std::fs::read_dir(&sound).expect("lists").flatten() {
        std::fs::copy(entry.path(), broken.join(entry.file_name())).expect("copies");
    }
    let path = broken.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("reads");
    let header = usize::from(bytes[0]) + (usize::from(bytes[1]) << 8);
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let norm = &json["model.language_model.norm.weight"];
    assert_eq!(norm["dtype"], "BF16");
    let at = 8 + header + norm["data_offsets"][0].as_u64().expect("an offset") as usize;
    bytes[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    std::fs::write(&path, bytes).expect("writes");

    let mut score = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"));
    score.current_dir(env!("CARGO_MANIFEST_DIR")).arg("score").arg(&broken);
    score.args(["--tasks", "fixtures/tasks", "--task", "write-word", "--no-config", "-o"]);
    let output = score.arg(dir.path().join("job")).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains("is no probability") && said.contains("verify CKPT --finite"), "{said}");
}
