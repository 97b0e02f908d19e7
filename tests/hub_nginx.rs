//! Pulls from a real server: nginx over the static tree that `scripts/local-hub.sh` renders.

use std::path::Path;
use std::process::Command;

use tmax_ckpt::hub::{
    Existing, Hub, HubConfig, PullRequest, Repo, RepoKind, Target, expected_hashes,
};
use tmax_ckpt::progress::{Cancel, silent};

use crate::need::{Need, skip};

/// Stops the server when the test ends, however it ends.
struct Local {
    port: String,
    endpoint: String,
}

impl Local {
    /// Serves the folders of `dir` as branches of `repo`, on the `nth` pair of ports.
    fn start(dir: &Path, repo: &str, nth: u32) -> Self {
        // Two ports in a row, from a range that the system does not hand out by itself.
        let port = (20_000 + std::process::id() % 5_000 * 2 % 5_000 + nth * 5_000).to_string();
        let output = script(&["start", &dir.to_string_lossy(), &port, repo]);
        assert!(output.status.success(), "{output:?}");
        let endpoint = String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned();
        Self { port, endpoint }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        script(&["stop", &self.port]);
    }
}

fn script(args: &[&str]) -> std::process::Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/local-hub.sh");
    Command::new(path).args(args).output().expect("the script runs")
}

fn has_nginx() -> bool {
    ["nginx", "/usr/sbin/nginx"].iter().any(|name| Command::new(name).arg("-v").output().is_ok())
}

#[test]
fn steps_from_nginx_are_right_in_several_ranges() {
    if !has_nginx() {
        skip(&Need::Nginx, "apt-get install nginx-light");
        return;
    }
    let dir = tempfile::tempdir().expect("a temp dir");
    let tree = dir.path().join("tree");
    for step in 1..=2_u32 {
        let branch = tree.join(format!("step_{step}00"));
        std::fs::create_dir_all(branch.join("sub dir")).expect("makes");
        let bytes: Vec<u8> =
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(step) >> 3) as u8).collect();
        std::fs::write(branch.join("model.safetensors"), bytes).expect("writes");
        std::fs::write(branch.join("config.json"), "{}").expect("writes");
        std::fs::write(branch.join("sub dir/a #b.txt"), "words").expect("writes");
        std::fs::write(branch.join("empty.txt"), "").expect("writes");
    }
    let local = Local::start(&tree, "o/n", 0);
    let hub = Hub::new(HubConfig {
        endpoint: local.endpoint.clone(),
        segment_bytes: 500_000,
        ..HubConfig::new(dir.path().join("cache"))
    })
    .expect("a hub");
    let repo = Repo::new(RepoKind::Model, "o/n").expect("valid");
    let steps = hub.steps(&repo, &silent()).expect("lists");
    assert_eq!(steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["step_100", "step_200"]);
    let request = PullRequest {
        repo,
        revision: "step_*".into(),
        include: Vec::new(),
        exclude: Vec::new(),
        target: Target::Cache,
        existing: Existing::Keep,
    };
    let plan = hub.plan_pull(&request, &silent()).expect("plans");
    let report = hub.run_pull(&plan, &silent(), &Cancel::default()).expect("pulls");
    // Two models; config, note and empty file are the same in both.
    assert_eq!(report.fetched_files, 5);
    for revision in &report.revisions {
        for file in expected_hashes(&revision.folder).expect("a manifest") {
            let want = std::fs::read(tree.join(&revision.name).join(&file.path)).expect("reads");
            let got = std::fs::read(revision.folder.join(&file.path)).expect("reads");
            assert!(got == want, "{} differs", file.path);
        }
    }
}

#[test]
fn tasks_from_a_dataset_repository_are_solved_by_their_oracles() {
    if !has_nginx() {
        skip(&Need::Nginx, "apt-get install nginx-light");
        return;
    }
    let dir = tempfile::tempdir().expect("a temp dir");
    if super::sandbox::host(dir.path()).is_none() {
        return;
    }
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(&tree).expect("makes");
    let tasks = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tasks");
    std::os::unix::fs::symlink(&tasks, tree.join("main")).expect("links");
    let local = Local::start(&tree, "datasets/o/tasks", 1);
    let mut command = super::cli::binary(dir.path());
    command
        .env("HF_ENDPOINT", &local.endpoint)
        .args(["score", "--agent", "oracle", "--tasks", "hf://datasets/o/tasks@main"])
        .args(["-o", "job", "--json"]);
    let output = command.output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let count = std::fs::read_dir(&tasks).expect("lists").count();
    assert_eq!(
        (last["trials"].as_u64(), last["steps"][0]["mean"].as_f64()),
        (Some(count as u64), Some(1.0))
    );
}
