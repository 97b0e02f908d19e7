//! Selection from real records: two models on Terminal-Bench 2.0, 89 tasks × 5 attempts each.

use std::path::{Path, PathBuf};
use std::process::Command;

use tmax_ckpt::harness::jobs;
use tmax_ckpt::select::estimate::{cells, difference, estimate, pass_at_k};

/// Returns the folder of real jobs, or says that the test is skipped.
fn harbor() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/harbor");
    if !dir.is_dir() {
        eprintln!("skipped: ../shared/data/harbor is not here");
        return None;
    }
    Some(dir)
}

fn close(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{got} is not {expected} ± {tolerance}");
}

#[test]
fn published_trials_give_the_known_means_and_errors() {
    let Some(dir) = harbor() else { return };
    let records = jobs::read(&[dir]).expect("real jobs are readable");
    assert_eq!(records.table.steps(), ["Qwen3.5-9B", "tmax-9b"]);
    assert_eq!(records.table.tasks().len(), 89);
    assert!(records.changed_tasks.is_empty() && records.unfinished == 0);
    let table = records.table;
    let (base, tuned) = (cells(&table, 0), cells(&table, 1));
    for (cells, mean, these, new) in [(&base, 21.124, 1.21, 3.61), (&tuned, 27.191, 1.03, 4.27)] {
        let e = estimate(cells).expect("there are verdicts");
        close(e.mean * 100.0, mean, 0.0005);
        close(e.se_these.expect("five attempts") * 100.0, these, 0.005);
        close(e.se_new.expect("89 tasks") * 100.0, new, 0.005);
        assert_eq!((e.tasks, e.attempts), (89, 445));
    }
    let d = difference(&tuned, &base, 0).expect("same tasks");
    close(d.mean * 100.0, 6.07, 0.005);
    close(d.se_new.expect("89 tasks") * 100.0, 2.68, 0.005);
    close(d.se_these.expect("five attempts") * 100.0, 1.59, 0.005);
    // Exact by counting all sign patterns: 0.03088; 0.029 was published from few draws.
    close(d.sign_flip_p, 0.030_88, 0.0015);
    assert_eq!((d.wins, d.ties, d.losses), (24, 57, 8));
    close(pass_at_k(&table, 0, 5).expect("binary") * 100.0, 33.71, 0.005);
    close(pass_at_k(&table, 1, 5).expect("binary") * 100.0, 40.45, 0.005);
}

/// Of seven trials of `tmax-9b` without a verdict, five have no exception and two ran out of time;
/// all count zero, and both commands say so.
#[test]
fn both_commands_count_the_same_trials_the_same_way() {
    let Some(dir) = harbor() else { return };
    let text = dir.to_str().expect("the path is text");
    let chosen = select(&["--from", text, "--json"]);
    let chosen: serde_json::Value = serde_json::from_slice(&chosen.stdout).expect("one document");
    let known = [("Qwen3.5-9B", 21.124, 34, 1), ("tmax-9b", 27.191, 33, 5)];
    for (i, (name, mean, timeouts, no_verdict)) in known.into_iter().enumerate() {
        let imported = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"))
            .args(["score", "import", "--no-config", "--progress", "none", "--json"])
            .arg(dir.join(name))
            .output()
            .expect("the program starts");
        let lines = String::from_utf8(imported.stdout).expect("UTF-8");
        let last = lines.lines().last().expect("a summary");
        let imported: serde_json::Value = serde_json::from_str(last).expect("JSON");
        let (ours, theirs) = (&chosen["steps"][i], &imported["steps"][0]);
        close(ours["mean"].as_f64().expect("a mean") * 100.0, mean, 0.0005);
        close(theirs["mean"].as_f64().expect("a mean") * 100.0, mean, 0.0005);
        assert_eq!((&ours["endings"]["graded"], &theirs["scored"]), (&445.into(), &445.into()));
        assert_eq!(ours["endings"]["timeouts"], timeouts);
        assert_eq!(theirs["timeouts"], timeouts);
        assert_eq!(ours["endings"]["model_failures"], no_verdict);
        assert_eq!(theirs["no_verdict"], no_verdict);
        assert_eq!(ours["endings"]["infrastructure_failures"], 0);
        assert_eq!(theirs["infrastructure_failures"], 0);
    }
}

/// Writes a trial that ended by `exception`, without a verdict.
fn write_failure(dir: &Path, trial: &str, exception: &str) {
    let trial = dir.join(trial);
    std::fs::create_dir_all(&trial).expect("a scratch folder");
    let result = serde_json::json!({
        "task_name": "a", "verifier_result": null,
        "exception_info": {"exception_type": exception},
    });
    std::fs::write(trial.join("result.json"), result.to_string()).expect("written");
}

#[test]
fn a_failure_of_the_machine_is_never_a_zero() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    for step in ["step_1", "step_2"] {
        write_job(&scratch.path().join(step), "a", &[1.0, 1.0]);
    }
    let first = scratch.path().join("step_1");
    write_failure(&first, "t__7", "CancelledError");
    write_failure(&first, "t__8", "RewardFileNotFoundError");
    write_failure(&first, "t__9", "AgentTimeoutError");
    let run = select(&["--from", scratch.path().to_str().expect("text"), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).expect("one document");
    let endings = &json["steps"][0]["endings"];
    assert_eq!(endings["graded"], 4);
    assert_eq!(endings["infrastructure_failures"], 1);
    assert_eq!((&endings["timeouts"], &endings["model_failures"]), (&1.into(), &1.into()));
    assert_eq!(json["steps"][0]["mean"], 0.5);
}

#[test]
fn one_folder_of_several_models_is_several_steps() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let job = scratch.path().join("job");
    for (model, reward) in [("o/n@step_20", 1.0), ("o/n@step_100", 0.0), ("o/n@step_3", 0.0)] {
        for attempt in 0..2 {
            let trial = job.join(format!("a__{}{attempt}", model.replace('/', "-")));
            std::fs::create_dir_all(&trial).expect("a scratch folder");
            let result = serde_json::json!({
                "task_name": "a", "verifier_result": {"rewards": {"reward": reward}},
                "exception_info": null,
                "agent_info": {"name": "vanillux", "version": "1", "model_info": {"name": model}},
            });
            std::fs::write(trial.join("result.json"), result.to_string()).expect("written");
        }
    }
    let run = select(&["--from", job.to_str().expect("text"), "--json"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).expect("one document");
    let names: Vec<&str> = json["sources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|source| source["step"].as_str())
        .collect();
    assert_eq!(names, ["o/n@step_3", "o/n@step_20", "o/n@step_100"]);
    assert_eq!(json["best"], "o/n@step_20");
}

fn select(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"))
        .arg("select")
        .args(args)
        .args(["--no-config", "--progress", "none"])
        .output()
        .expect("the program starts")
}

#[test]
fn the_command_picks_and_reports() {
    let Some(dir) = harbor() else { return };
    let out = tempfile::tempdir().expect("a scratch folder");
    let page = out.path().join("select.html");
    let dir = dir.to_str().expect("the path is text");
    let run = select(&["--from", dir, "--report", page.to_str().expect("text"), "--json"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).expect("one document");
    assert_eq!(json["schema"], "tmax-ckpt.select/1");
    assert_eq!(json["picked"], "tmax-9b");
    assert_eq!(json["steps"][1]["endings"]["graded"], 445);
    let html = std::fs::read_to_string(&page).expect("the report is there");
    assert!(html.len() < 300_000, "{} bytes", html.len());
    assert!(html.starts_with("<!doctype html>"), "{}", &html[..80]);
    let start = html.find("id=\"data\">").expect("embedded data") + 10;
    let end = start + html[start..].find("</script>").expect("closed");
    let data: serde_json::Value = serde_json::from_str(&html[start..end]).expect("still JSON");
    assert_eq!(data["picked"], json["picked"]);
    assert_eq!(data["steps"], json["steps"]);
    let quiet = select(&["--from", dir, "-q"]);
    assert_eq!(String::from_utf8_lossy(&quiet.stdout), "tmax-9b\n");
}

/// Writes a job of one trial a task.
pub fn write_job(dir: &Path, task: &str, rewards: &[f64]) {
    for (i, reward) in rewards.iter().enumerate() {
        let trial = dir.join(format!("t__{i}"));
        std::fs::create_dir_all(&trial).expect("a scratch folder");
        let result = serde_json::json!({
            "task_name": task, "verifier_result": {"rewards": {"reward": reward}},
            "exception_info": null,
        });
        std::fs::write(trial.join("result.json"), result.to_string()).expect("written");
    }
}

#[test]
fn a_confirmation_of_another_step_is_left_out_and_said() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    for (step, rewards) in [("step_1", [0.0; 6]), ("step_2", [1.0; 6])] {
        write_job(&scratch.path().join(step), "a", &rewards);
    }
    let path = scratch.path().join("step_1/t__0/result.json");
    let text = std::fs::read_to_string(&path).expect("reads");
    let mut result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    result["agent_result"] = serde_json::json!({"metadata": {"attempt": 0, "confirms": true}});
    std::fs::write(&path, result.to_string()).expect("written");
    let from = scratch.path().to_str().expect("text");
    let run = select(&["--from", from, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).expect("one document");
    assert_eq!(json["picked"], "step_2");
    assert_eq!(json["steps"][0]["endings"]["graded"], 5);
    assert_eq!(json["curse"]["confirmed_rollouts"], 0);
    let run = select(&["--from", from]);
    let notes = String::from_utf8_lossy(&run.stderr).into_owned();
    let said = "1 rollout that confirmed step_1, which is not picked, left out";
    assert!(notes.contains(said), "{notes}");
}

#[test]
fn foreign_names_cannot_write_markup() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let hostile = "</script><img src=x onerror=alert(1)>";
    for (step, rewards) in [("step_1", [0.0, 0.5]), ("step_2", [1.0, 1.0])] {
        write_job(&scratch.path().join("jobs").join(step), hostile, &rewards);
    }
    let page = scratch.path().join("r.html");
    let from = scratch.path().join("jobs");
    let run =
        select(&["--from", from.to_str().expect("text"), "--report", page.to_str().expect("text")]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let html = std::fs::read_to_string(&page).expect("the report is there");
    assert!(!html.contains("<img"), "markup got through");
    assert_eq!(html.matches("</script>").count(), 1);
}

#[test]
fn all_steps_are_called_after_the_same_thing() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let trial = |job: &str, model: &str, n: u32| {
        let dir = scratch.path().join(job).join(format!("a__{}{n}", model.replace('/', "-")));
        std::fs::create_dir_all(&dir).expect("a scratch folder");
        let result = serde_json::json!({
            "task_name": "a", "verifier_result": {"rewards": {"reward": 1.0}},
            "exception_info": null,
            "agent_info": {"name": "v", "version": "1", "model_info": {"name": model}},
        });
        std::fs::write(dir.join("result.json"), result.to_string()).expect("written");
    };
    let names = || {
        let run = select(&["--from", scratch.path().to_str().expect("text"), "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&run.stdout).expect("one document");
        let steps = json["steps"].as_array().expect("steps").clone();
        steps.iter().map(|s| s["step"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    trial("job_1", "o/n@step_1", 0);
    trial("job_2", "o/n@step_2", 0);
    assert_eq!(names(), ["job_1", "job_2"]);
    trial("job_2", "o/n@step_3", 0);
    assert_eq!(names(), ["o/n@step_1", "o/n@step_2", "o/n@step_3"]);
    trial("job_1", "o/n@step_2", 0);
    assert_eq!(names()[0], "job_1/o/n@step_1");
    assert_eq!(names().len(), 4);
}

#[test]
fn a_job_folder_within_another_is_none_of_its_trials() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let outer = scratch.path().join("step_1");
    write_job(&outer, "a", &[1.0, 1.0]);
    write_job(&outer.join("step_2"), "a", &[0.0, 0.0]);
    let own = serde_json::json!({"id": "x", "n_total_trials": 2, "stats": {}});
    std::fs::write(outer.join("step_2/result.json"), own.to_string()).expect("written");
    let read = tmax_ckpt::harness::import::read(&outer).expect("reads");
    assert_eq!(read.records.len(), 2);
    assert!(read.records.iter().all(|record| record.reward == Some(1.0)));
    let jobs = tmax_ckpt::harness::jobs::read(&[outer.clone(), outer.join("step_2")]);
    assert_eq!(jobs.expect("reads").table.steps(), ["step_1", "step_2"]);
}

/// What is wrong with the last step is said before the first: trials take hours.
#[test]
fn what_would_fail_after_the_trials_fails_before_them() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let root = env!("CARGO_MANIFEST_DIR");
    let step = |n: u32| format!("{root}/fixtures/tiny-raw/step_{n}");
    let (one, two, tasks) = (step(600), step(660), format!("{root}/fixtures/tasks"));
    let jobs = scratch.path().join("jobs");
    let folder = scratch.path().join("folder.html");
    std::fs::create_dir(&folder).expect("makes");
    let absent = scratch.path().join("absent/r.html");
    let foreign = ["foreign.html", "foreign.svg"].map(|name| scratch.path().join(name));
    for path in &foreign {
        std::fs::write(path, "<p>select</p>").expect("writes");
    }
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    for (more, code, said) in [
        (["--report", &text(&foreign[0])], 2, "exists and is no report of `select`"),
        (["--report", &text(&foreign[1])], 2, "exists and is no report of `select`"),
        (["--baseline", "step_60O"], 3, "is none of the 2 steps"),
        (["--report", "r.pdf"], 2, "what kind of report"),
        (["--report", &text(&folder)], 2, "cannot be written"),
        (["--report", &text(&absent)], 2, "cannot be written"),
    ] {
        let jobs = text(&jobs);
        let args = [&one, &two, "--tasks", &tasks, "-o", &jobs, more[0], more[1]];
        let run = select(&args);
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(code), "{more:?}: {error}");
        assert!(error.contains(said), "{more:?}: {error}");
    }
    assert!(!jobs.exists(), "something was run");
    let kept = std::fs::read_to_string(&foreign[0]).expect("reads");
    assert_eq!(kept, "<p>select</p>");
}

/// Our own report is replaced, whichever kind it is, and an empty file is nobody's.
#[test]
fn a_report_of_ours_is_written_again() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let from = scratch.path().join("jobs");
    for (step, rewards) in [("step_1", [0.0, 0.0]), ("step_2", [1.0, 1.0])] {
        write_job(&from.join(step), "a", &rewards);
        write_job(&from.join(step), "b", &rewards);
    }
    for name in ["r.html", "r.svg"] {
        let report = scratch.path().join(name);
        std::fs::write(&report, "").expect("writes");
        let [from, report] = [&from, &report].map(|path| path.to_str().expect("text"));
        for _ in 0..2 {
            let run = select(&["--from", from, "--report", report]);
            assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_help() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().to_str().expect("text");
    let empty = select(&["--from", path]);
    assert_eq!(empty.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("help:"));
    let import = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"))
        .args(["score", "import", path, "--no-config"])
        .output()
        .expect("the program starts");
    assert_eq!(import.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&import.stderr).contains("holds no finished trial"));
    write_job(&scratch.path().join("step_1"), "a", &[0.0, 7.0]);
    write_job(&scratch.path().join("step_2"), "a", &[0.0, 1.0]);
    assert_eq!(select(&["--from", path]).status.code(), Some(6));
    write_job(&scratch.path().join("step_1"), "a", &[0.0, 1.0]);
    assert_eq!(select(&["--from", path, "--baseline", "step_9"]).status.code(), Some(3));
    assert_eq!(select(&["--from", path, "--report", "x.pdf"]).status.code(), Some(2));
    assert_eq!(select(&["--from", path, "--confidence", "2"]).status.code(), Some(2));
}
