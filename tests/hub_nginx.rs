//! Pulls from a real server: nginx over the static tree that `scripts/local-hub.sh` renders.

use std::path::Path;
use std::process::Command;

use tmax_ckpt::hub::{
    Existing, Hub, HubConfig, PullRequest, Repo, RepoKind, Target, expected_hashes,
};
use tmax_ckpt::progress::{Cancel, silent};

/// Stops the server when the test ends, however it ends.
struct Local {
    port: String,
    endpoint: String,
}

impl Local {
    fn start(dir: &Path) -> Self {
        // Two ports in a row, from a range that the system does not hand out by itself.
        let port = (20_000 + std::process::id() % 10_000 / 2 * 2).to_string();
        let output = script(&["start", &dir.to_string_lossy(), &port, "o/n"]);
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
        eprintln!("SKIPPED: nginx is not installed (apt-get install nginx-light)");
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
    let local = Local::start(&tree);
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
