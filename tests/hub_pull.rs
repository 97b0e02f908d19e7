//! Pulls from a Hub that misbehaves: after each fault the right bytes, or the right failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tmax_ckpt::error::{Diagnose as _, Kind};
use tmax_ckpt::hub::{
    Cached, Error, Existing, Hub, HubConfig, PullReport, PullRequest, Removal, Repo, RepoKind,
    Target, Timeouts, Token, expected_hashes, remove,
};
use tmax_ckpt::progress::{Cancel, Progress, Unit, silent};

use crate::hub_server::{Content, Fault, Server};

/// The size of the large file: sixteen segments.
const LARGE: usize = 1 << 20;

fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A Hub with a repository, a cache, and a client that is quick to try again.
struct World {
    server: Server,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { server: Server::start(), dir: tempfile::tempdir().expect("a temp dir") }
    }

    /// One branch with a large and some small files.
    fn with_step() -> Self {
        let world = Self::new();
        world.server.branch("step_100", &step(1));
        world
    }

    fn config(&self) -> HubConfig {
        HubConfig {
            endpoint: self.server.endpoint.clone(),
            token: Token::new("hf_topsecret"),
            segment_bytes: (LARGE / 16) as u64,
            timeouts: Timeouts {
                connect: Duration::from_secs(3),
                read: Duration::from_millis(700),
                backoff: Duration::from_millis(5),
                retry_after_max: Duration::from_secs(5),
                attempts: 4,
            },
            ..HubConfig::new(self.cache())
        }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn hub(&self) -> Hub {
        Hub::new(self.config()).expect("a hub")
    }

    fn pull(&self, revision: &str) -> Result<PullReport, Error> {
        run(&self.hub(), &request(revision))
    }

    /// Asserts that the snapshot of a branch is there and right.
    fn assert_pulled(&self, commit: &str, files: &[Content]) {
        let snapshot = self.cache().join("models--o--n/snapshots").join(commit);
        for file in files {
            let got = std::fs::read(snapshot.join(&file.path)).expect("reads");
            assert!(got == file.bytes, "{} differs", file.path);
        }
        assert_eq!(self.parts(), Vec::<PathBuf>::new());
    }

    /// Returns the partial files and journals in the cache.
    fn parts(&self) -> Vec<PathBuf> {
        let blobs = std::fs::read_dir(self.cache().join("models--o--n/blobs"));
        let paths = blobs.into_iter().flatten().flatten().map(|e| e.path());
        paths.filter(|p| p.to_string_lossy().contains(".part")).collect()
    }

    /// Returns the names of finished blobs.
    fn blobs(&self) -> Vec<String> {
        let blobs = std::fs::read_dir(self.cache().join("models--o--n/blobs"));
        let names = blobs.into_iter().flatten().flatten().map(|e| e.file_name());
        let names = names.map(|n| n.to_string_lossy().into_owned());
        names.filter(|n| !n.contains(".part")).collect()
    }
}

fn step(seed: u32) -> Vec<Content> {
    vec![
        Content::text("config.json", r#"{"model_type":"qwen3_5"}"#),
        Content::text("empty.txt", ""),
        Content::lfs("model-00001-of-00001.safetensors", noise(LARGE, seed)),
        Content::text("model.safetensors.index.json", "{}"),
        Content::text("sub dir/notes #1.txt", "words\n"),
        Content::lfs("tokenizer.json", noise(10_000, 7)),
    ]
}

fn repo() -> Repo {
    Repo::new(RepoKind::Model, "o/n").expect("valid")
}

fn request(revision: &str) -> PullRequest {
    PullRequest {
        repo: repo(),
        revision: revision.into(),
        include: Vec::new(),
        exclude: Vec::new(),
        target: Target::Cache,
        existing: Existing::Keep,
    }
}

fn run(hub: &Hub, request: &PullRequest) -> Result<PullReport, Error> {
    let plan = hub.plan_pull(request, &silent())?;
    hub.run_pull(&plan, &silent(), &Cancel::default())
}

#[test]
fn a_pull_lays_out_the_shared_cache_and_costs_nothing_again() {
    let world = World::new();
    let commit = world.server.branch("step_100", &step(1));
    let report = world.pull("step_100").expect("pulls");
    assert_eq!((report.fetched_files, report.revisions[0].files), (6, 6));
    world.assert_pulled(&commit, &step(1));
    let root = world.cache().join("models--o--n");
    assert_eq!(std::fs::read_to_string(root.join("refs/step_100")).expect("reads"), commit);
    let link = root.join("snapshots").join(&commit).join("sub dir/notes #1.txt");
    let target = std::fs::read_link(link).expect("a link");
    assert_eq!(target.parent(), Some(Path::new("../../../blobs")));
    let expected = expected_hashes(&report.revisions[0].folder).expect("a manifest");
    assert_eq!(expected.len(), 6);

    let before = world.server.byte_requests().len();
    let again = world.pull("step_100").expect("pulls");
    assert_eq!((again.fetched_files, again.kept_files), (0, 6));
    assert_eq!(world.server.byte_requests().len(), before);
}

#[test]
fn what_a_kill_left_after_the_name_was_given_goes() {
    let world = World::with_step();
    world.pull("step_100").expect("pulls");
    let root = world.cache().join("models--o--n");
    let hex = step(1)[2].hash().hex();
    let journal = root.join("blobs").join(format!("{hex}.part.journal"));
    std::fs::write(&journal, "{}").expect("writes");
    std::fs::remove_file(root.join(".verified").join(&hex)).expect("was verified");
    assert_eq!(world.pull("step_100").expect("pulls").fetched_files, 0);
    assert!(!journal.exists());
}

#[test]
fn the_token_stays_with_the_hub() {
    let world = World::with_step();
    world.pull("step_100").expect("pulls");
    let seen = world.server.seen();
    let bearer = Some("Bearer hf_topsecret".to_owned());
    assert!(seen.iter().filter(|s| !s.cdn).all(|s| s.auth == bearer), "{seen:?}");
    assert!(seen.iter().any(|s| s.cdn));
    assert!(seen.iter().filter(|s| s.cdn).all(|s| s.auth.is_none()), "{seen:?}");
    assert!(!format!("{:?}", world.config()).contains("topsecret"));

    let anonymous = World::with_step();
    let hub = Hub::new(HubConfig { token: None, ..anonymous.config() }).expect("a hub");
    run(&hub, &request("step_100")).expect("pulls");
    assert!(anonymous.server.seen().iter().all(|s| s.auth.is_none()));
}

#[test]
fn steps_share_what_is_identical() {
    let world = World::new();
    let commits = [1, 2].map(|i| world.server.branch(&format!("step_{i}00"), &step(i)));
    let report = world.pull("step_*").expect("pulls");
    assert_eq!(report.fetched_files, 7);
    for (commit, i) in commits.iter().zip([1, 2]) {
        world.assert_pulled(commit, &step(i));
    }
    let tokenizer = step(1)[5].hash().hex();
    let requests = world.server.byte_requests();
    assert_eq!(requests.iter().filter(|s| s.path.contains(&tokenizer)).count(), 1);
}

/// Pulls with a fault in the way of the large file and asserts that the bytes are right.
fn survives(fault: Fault, times: usize) -> World {
    let world = World::new();
    let commit = world.server.branch("step_100", &step(1));
    world.server.fault("cdn/blob/", fault, times);
    world.pull("step_100").expect("pulls in spite of it");
    world.assert_pulled(&commit, &step(1));
    world
}

#[test]
fn cut_connections_are_resumed_where_they_broke() {
    let world = survives(Fault::Cut(30_000), 5);
    // No byte twice: the ranges of the large file start where the cuts were.
    // Which segments meet the cuts is chance; a segment may meet two.
    let ranges: Vec<_> = world.server.byte_requests().into_iter().filter_map(|s| s.range).collect();
    let cut = |range: &&String| {
        let start = range.trim_start_matches("bytes=").split('-').next();
        let start: usize = start.expect("a start").parse().expect("a number");
        matches!(start % (LARGE / 16), 30_000 | 60_000)
    };
    assert!(ranges.iter().filter(cut).count() >= 3, "{ranges:?}");
    let mut once = ranges.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), ranges.len(), "{ranges:?}");
}

#[test]
fn stalled_connections_are_left_and_resumed() {
    let started = Instant::now();
    survives(Fault::Stall(20_000), 2);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn server_errors_are_tried_again() {
    survives(Fault::Status(503, ""), 3);
    survives(Fault::Status(500, ""), 3);
}

#[test]
fn retry_after_is_obeyed() {
    let started = Instant::now();
    let world = survives(Fault::Status(429, "Retry-After: 2\r\n"), 1);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    drop(world);
    // On the Hub's own lists too.
    let world = World::with_step();
    world.server.fault("/tree/", Fault::Status(429, "Retry-After: 1\r\n"), 1);
    let started = Instant::now();
    world.pull("step_100").expect("pulls");
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_wait_without_end_is_reported() {
    let world = World::with_step();
    world.server.fault("cdn/blob/", Fault::Status(429, "Retry-After: 3600\r\n"), 1000);
    let error = world.pull("step_100").expect_err("will not wait an hour");
    assert_eq!((error.kind(), error.id()), (Kind::Network, "rate_limited"));
    let world = World::with_step();
    world.server.fault("cdn/blob/", Fault::Status(502, ""), 1000);
    let error = world.pull("step_100").expect_err("gives up");
    assert_eq!(error.kind(), Kind::Network);
}

#[test]
fn error_pages_never_become_shards() {
    let world = World::with_step();
    world.server.fault("cdn/blob/", Fault::Status(403, ""), 1000);
    let error = world.pull("step_100").expect_err("refused");
    assert_eq!(error.kind(), Kind::Auth);
    let lfs: Vec<_> = step(1).iter().filter(|f| f.lfs).map(|f| f.hash().hex()).collect();
    assert!(world.blobs().iter().all(|blob| !lfs.contains(blob)));
    world.server.heal();
    world.pull("step_100").expect("pulls once allowed");
}

#[test]
fn a_server_without_ranges_serves_all_the_same() {
    survives(Fault::IgnoreRange, 1000);
    survives(Fault::IgnoreRangeAndLength, 1000);
}

#[test]
fn damage_on_the_way_is_noticed_and_mended() {
    let world = survives(Fault::Flip(500), 1);
    assert!(world.server.byte_requests().len() > 2);
}

#[test]
fn damage_that_stays_is_reported_and_leaves_nothing() {
    let world = World::with_step();
    world.server.fault("cdn/blob/", Fault::Flip(0), 1000);
    let error = world.pull("step_100").expect_err("cannot be right");
    assert_eq!((error.kind(), error.id()), (Kind::BadData, "hash_mismatch"));
    let lfs: Vec<_> = step(1).iter().filter(|f| f.lfs).map(|f| f.hash().hex()).collect();
    assert!(world.blobs().iter().all(|blob| !lfs.contains(blob)));
}

#[test]
fn files_of_another_size_are_refused() {
    let world = World::with_step();
    world.server.fault("hub/o/n/resolve", Fault::Shorter(3), 1000);
    let error = world.pull("step_100").expect_err("too short");
    assert_eq!((error.kind(), error.id()), (Kind::BadData, "size_mismatch"));
}

#[test]
fn an_interrupted_pull_continues_and_fetches_only_the_rest() {
    let world = World::new();
    let commit = world.server.branch("step_100", &step(1));
    world.server.fault("cdn/blob/", Fault::Slow(Duration::from_millis(100)), 1000);
    let cancel = Cancel::default();
    let hub = world.hub();
    let plan = hub.plan_pull(&request("step_100"), &silent()).expect("plans");
    let count = Arc::new(Count::default());
    let progress: tmax_ckpt::progress::SharedProgress = count.clone();
    let setter = std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            // What arrived counts, not the time: a busy machine needs longer.
            while count.1.load(Ordering::Relaxed) < 300_000 {
                std::thread::sleep(Duration::from_millis(5));
            }
            cancel.set();
        }
    });
    let error = hub.run_pull(&plan, &progress, &cancel).expect_err("is interrupted");
    setter.join().expect("joins");
    let Error::Interrupted { kept_bytes } = error else { panic!("{error}") };
    assert!(kept_bytes > 0);
    assert!(!world.parts().is_empty());
    world.server.heal();
    let plan = hub.plan_pull(&request("step_100"), &silent()).expect("plans");
    assert!(plan.fetch_bytes < LARGE as u64, "{}", plan.fetch_bytes);
    let report = hub.run_pull(&plan, &silent(), &Cancel::default()).expect("pulls");
    assert!(report.fetched_bytes <= plan.fetch_bytes);
    world.assert_pulled(&commit, &step(1));
}

#[test]
fn a_branch_that_moved_meanwhile_is_fetched_as_it_is_now() {
    let world = World::with_step();
    world.server.fault("cdn/blob/", Fault::Cut(30_000), 3);
    world.server.fault("cdn/blob/", Fault::Status(403, ""), 1000);
    world.pull("step_100").expect_err("stops early");
    assert!(!world.parts().is_empty());
    world.server.heal();
    let commit = world.server.branch("step_100", &step(9));
    world.pull("step_100").expect("pulls");
    let snapshot = world.cache().join("models--o--n/snapshots").join(&commit);
    for file in step(9) {
        assert!(std::fs::read(snapshot.join(&file.path)).expect("reads") == file.bytes);
    }
}

#[test]
fn a_damaged_blob_is_fetched_again_alone() {
    let world = World::new();
    let commit = world.server.branch("step_100", &step(1));
    world.pull("step_100").expect("pulls");
    let large = &step(1)[2];
    let blob = world.cache().join("models--o--n/blobs").join(large.hash().hex());
    let mut bytes = large.bytes.clone();
    bytes[77] ^= 1;
    std::fs::write(&blob, bytes).expect("writes");
    let report = world.pull("step_100").expect("pulls");
    assert_eq!(report.fetched_files, 1);
    world.assert_pulled(&commit, &step(1));
    std::fs::write(&blob, b"cut").expect("writes");
    assert_eq!(world.pull("step_100").expect("pulls").fetched_files, 1);
    world.assert_pulled(&commit, &step(1));
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let world = World::new();
    let commit = world.server.branch("step_100", &step(1));
    world.server.fault("cdn/blob/", Fault::Slow(Duration::from_millis(2)), 1000);
    let reports = std::thread::scope(|scope| {
        let pulls = [(); 3].map(|()| scope.spawn(|| world.pull("step_100").expect("pulls")));
        pulls.map(|pull| pull.join().expect("joins"))
    });
    assert_eq!(reports.iter().map(|r| r.fetched_files).sum::<usize>(), 6);
    world.assert_pulled(&commit, &step(1));
}

#[test]
fn offline_opens_no_socket_and_names_the_command() {
    let world = World::with_step();
    let offline = || Hub::new(HubConfig { offline: true, ..world.config() }).expect("a hub");
    let error = run(&offline(), &request("step_{100..300..100}")).expect_err("nothing is here");
    assert_eq!((error.kind(), error.id()), (Kind::Network, "offline"));
    let help = "`tmax-ckpt pull 'o/n@step_{100..300..100}'` would fetch it, without --offline, \
        HF_HUB_OFFLINE and the setting `offline`";
    assert_eq!(error.help(), [help]);
    assert!(offline().steps(&repo(), &silent()).is_err());
    assert!(offline().remote_headers(&repo(), "step_100", &silent()).is_err());
    assert_eq!(world.server.seen().len(), 0);
    world.pull("step_100").expect("pulls");
    let before = world.server.seen().len();
    let report = run(&offline(), &request("step_100")).expect("all is here");
    assert_eq!(report.kept_files, 6);
    assert_eq!(world.server.seen().len(), before);
}

#[test]
fn hostile_names_write_nothing() {
    let world = World::with_step();
    for path in ["../../evil", "/tmp/evil", "a/../../evil", "a\\\\..\\\\evil", "a\\u0000b"] {
        let oid = "0".repeat(40);
        let list = format!(r#"[{{"type":"file","oid":"{oid}","size":1,"path":"{path}"}}]"#);
        world.server.set_tree(&list);
        let error = world.pull("step_100").expect_err("refused");
        assert_eq!((error.kind(), error.id()), (Kind::BadData, "unsafe_path"), "{path}");
    }
    assert!(!world.cache().exists());
}

#[test]
fn too_large_for_the_disk_is_said_before_the_first_byte() {
    let world = World::with_step();
    let oid = "0".repeat(40);
    let list = format!(r#"[{{"type":"file","oid":"{oid}","size":{},"path":"a"}}]"#, 1_u64 << 44);
    world.server.set_tree(&list);
    let error = world.pull("step_100").expect_err("no room");
    assert_eq!(error.kind(), Kind::Resources);
    assert!(world.server.seen().iter().all(|s| !s.path.contains("/resolve/")));
}

#[test]
fn a_next_page_elsewhere_is_refused() {
    let world = World::with_step();
    world.server.set_next_page(&format!("{}/api/models/o/n/tree/x", world.server.cdn));
    let error = world.pull("step_100").expect_err("refused");
    assert_eq!(error.kind(), Kind::Network);
    assert!(world.server.seen().iter().all(|s| !s.cdn));
}

#[test]
fn no_connection_fails_in_seconds() {
    let world = World::new();
    for endpoint in ["http://127.0.0.1:1", "http://no-such-host.invalid"] {
        let started = Instant::now();
        let config = HubConfig { endpoint: endpoint.into(), ..world.config() };
        let error = run(&Hub::new(config).expect("a hub"), &request("main")).expect_err("nobody");
        assert_eq!((error.kind(), error.id()), (Kind::Network, "connect"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    let config = HubConfig { endpoint: "huggingface".into(), ..world.config() };
    assert_eq!(Hub::new(config).expect_err("no URL").kind(), Kind::Usage);
}

#[test]
fn unknown_names_are_said_with_near_ones() {
    let world = World::with_step();
    world.server.branch("step_350", &step(2));
    let error = world.pull("step_35O").expect_err("no such branch");
    assert_eq!((error.kind(), error.id()), (Kind::NotFound, "revision_not_found"));
    assert_eq!(
        error.help(),
        ["did you mean `step_350`? `tmax-ckpt steps o/n` lists the 2 that exist"]
    );
    assert_eq!(world.pull("stap_*").expect_err("no match").kind(), Kind::NotFound);
    let other = Repo::new(RepoKind::Model, "o/other").expect("valid");
    let error = run(&world.hub(), &PullRequest { repo: other, ..request("main") });
    assert_eq!(error.expect_err("no such repository").id(), "repo_not_found");
}

#[test]
fn folders_get_plain_files_and_keep_what_is_right() {
    let world = World::with_step();
    world.server.branch("step_200", &step(2));
    let dir = world.dir.path().join("out");
    let request = |revision: &str| PullRequest {
        target: Target::Folder(dir.clone()),
        exclude: vec!["sub dir/".into()],
        ..request(revision)
    };
    let report = run(&world.hub(), &request("step_100,step_200")).expect("pulls");
    assert_eq!(report.revisions.len(), 2);
    for (i, revision) in report.revisions.iter().enumerate() {
        assert_eq!(revision.folder, dir.join(&revision.name));
        for file in step(i as u32 + 1).iter().filter(|f| !f.path.starts_with("sub")) {
            let path = revision.folder.join(&file.path);
            assert!(path.symlink_metadata().expect("is there").is_file());
            assert!(std::fs::read(&path).expect("reads") == file.bytes);
        }
        assert!(!revision.folder.join("sub dir").exists());
        assert_eq!(expected_hashes(&revision.folder).expect("known").len(), 5);
    }
    let again = run(&world.hub(), &request("step_100,step_200")).expect("pulls");
    assert_eq!(again.fetched_files, 0);
    let config = dir.join("step_100/config.json");
    std::fs::write(&config, r#"{"model_type":"other!!"}"#).expect("writes");
    let mended = run(&world.hub(), &request("step_100,step_200")).expect("pulls");
    assert_eq!(mended.fetched_files, 1);
    assert_eq!(std::fs::read(&config).expect("reads"), step(1)[0].bytes);
}

#[test]
fn a_folder_holds_one_revision() {
    let world = World::with_step();
    world.server.branch("step_200", &step(2));
    world.server.branch("main", &step(1));
    let dir = world.dir.path().join("out");
    let into =
        |revision: &str| PullRequest { target: Target::Folder(dir.clone()), ..request(revision) };
    run(&world.hub(), &into("step_100")).expect("pulls");
    // Neither a file of another revision beside its own, nor one written over.
    let alone = PullRequest { include: vec!["*.safetensors".into()], ..into("step_200") };
    for request in [into("step_200"), alone] {
        let refused = run(&world.hub(), &request).expect_err("would mix");
        assert_eq!((refused.kind(), refused.id()), (Kind::Usage, "other_revision"));
        for file in step(1) {
            assert!(std::fs::read(dir.join(&file.path)).expect("reads") == file.bytes);
        }
    }
    // The same files by another name are the same revision.
    assert_eq!(run(&world.hub(), &into("main")).expect("pulls").fetched_files, 0);
}

#[test]
fn what_no_pull_has_put_into_a_folder_is_not_written_over() {
    let world = World::with_step();
    let files = step(1);
    let (first, rest) = files.split_first().expect("has files");
    // Of another size it is seen when planning, of the same size when it is hashed.
    for own in [b"mine".to_vec(), vec![b'x'; first.bytes.len()]] {
        let dir = tempfile::tempdir().expect("a temp dir");
        let place = dir.path().join(&first.path);
        std::fs::write(&place, &own).expect("writes");
        let into =
            PullRequest { target: Target::Folder(dir.path().to_owned()), ..request("step_100") };
        let refused = run(&world.hub(), &into).expect_err("would be lost");
        assert_eq!((refused.kind(), refused.id()), (Kind::Usage, "output_exists"));
        assert_eq!(std::fs::read(&place).expect("is there"), own);
        let force = PullRequest { existing: Existing::Refetch, ..into.clone() };
        run(&world.hub(), &force).expect("was told to");
        assert_eq!(std::fs::read(&place).expect("is there"), first.bytes);

        // The right bytes are taken for what they are, whoever put them there.
        std::fs::remove_dir_all(dir.path().join(".cache")).expect("removes");
        std::fs::remove_file(dir.path().join(&rest[0].path)).expect("removes");
        assert_eq!(run(&world.hub(), &into).expect("pulls").fetched_files, 1);
    }
}

#[test]
fn globs_choose_files_and_a_refetch_fetches_all() {
    let world = World::with_step();
    let some = PullRequest {
        include: vec!["*.json".into()],
        exclude: vec!["*.index.json".into()],
        ..request("step_100")
    };
    assert_eq!(run(&world.hub(), &some).expect("pulls").fetched_files, 2);
    let refetch = PullRequest { existing: Existing::Refetch, ..some.clone() };
    assert_eq!(run(&world.hub(), &refetch).expect("pulls").fetched_files, 2);
    let none = PullRequest { include: vec!["*.gguf".into()], ..some };
    assert_eq!(run(&world.hub(), &none).expect_err("no file").kind(), Kind::NotFound);
}

#[test]
fn steps_are_listed_in_order_with_what_main_is() {
    let world = World::new();
    for i in [1000, 20, 100] {
        world.server.branch(&format!("step_{i}"), &step(i));
    }
    let mut main = step(20);
    main.push(Content::text("README.md", "a card"));
    world.server.branch("main", &main);
    world.server.branch("global_step20", &step(5));
    world.pull("step_100").expect("pulls");
    let steps = world.hub().steps(&repo(), &silent()).expect("lists");
    let shown: Vec<_> =
        steps.iter().map(|s| (s.name.as_str(), s.same_as.as_deref(), s.cached)).collect();
    assert_eq!(
        shown,
        [
            ("step_20", None, Cached::No),
            ("step_100", None, Cached::Whole),
            ("step_1000", None, Cached::No),
            ("main", Some("step_20"), Cached::No),
        ]
    );
    assert_eq!(steps[0].date, Some("2026-06-01T12:00:00Z".parse().expect("a date")));
    assert!(steps[0].size_bytes > LARGE as u64);
}

#[test]
fn remote_headers_read_nothing_of_the_tensors() {
    let world = World::new();
    let header = format!("{{\"__metadata__\":{{\"x\":\"{}\"}}}}", "y".repeat(300_000));
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend(header.as_bytes());
    shard.extend(noise(LARGE, 3));
    let mut files = step(1);
    files[2] = Content::lfs("model.safetensors", shard.clone());
    world.server.branch("step_100", &files);
    let headers = world.hub().remote_headers(&repo(), "step_100", &silent()).expect("reads");
    assert_eq!(headers.config.as_deref(), Some(files[0].bytes.as_slice()));
    assert_eq!(headers.index.expect("an index").0, "model.safetensors.index.json");
    assert_eq!(headers.shards.len(), 1);
    assert!(headers.shards[0].bytes == shard[..header.len() + 8]);
    assert!(!world.cache().exists());
}

/// A pull has planned to keep everything when a removal takes it away.
#[test]
fn what_goes_between_plan_and_run_is_fetched() {
    let world = World::new();
    let commit = world.server.branch("step_100", &step(1));
    world.pull("step_100").expect("pulls");
    let hub = world.hub();
    let removal = Removal::Repo(repo());
    let plan = hub.plan_pull(&request("step_100"), &silent()).expect("plans");
    assert_eq!(plan.fetch_bytes, 0);
    remove(&world.cache(), &removal, None).expect("removes");
    let count = Arc::new(Count::default());
    let progress: tmax_ckpt::progress::SharedProgress = count.clone();
    let report = hub.run_pull(&plan, &progress, &Cancel::default()).expect("pulls");
    assert_eq!((report.fetched_files, report.kept_files), (6, 0));
    assert!(!report.revisions[0].was_there);
    world.assert_pulled(&commit, &step(1));
    assert_eq!(count.0.load(Ordering::Relaxed), count.1.load(Ordering::Relaxed));

    // Without a network, what has gone is an error and not a link to nothing.
    remove(&world.cache(), &removal, None).expect("removes");
    let offline = Hub::new(HubConfig { offline: true, ..world.config() }).expect("a hub");
    let error = offline.run_pull(&plan, &silent(), &Cancel::default()).expect_err("is gone");
    assert!(matches!(error, Error::Offline { .. }), "{error}");
    assert!(!world.cache().join("models--o--n/snapshots").join(&commit).exists());
    let report = world.pull("step_100").expect("pulls");
    let again = world.pull("step_100").expect("pulls");
    assert!(!report.revisions[0].was_there && again.revisions[0].was_there);
}

/// Counts what progress is told.
#[derive(Default)]
struct Count(std::sync::atomic::AtomicU64, std::sync::atomic::AtomicU64);

impl Progress for Count {
    fn stop(&self) {}
    fn start(&self, _: &str, total: u64, _: Unit) {
        self.0.store(total, Ordering::Relaxed);
    }
    fn item_start(&self, _: &str, _: u64) {}
    fn advance(&self, _: &str, amount: u64) {
        self.1.fetch_add(amount, Ordering::Relaxed);
    }
    fn item_done(&self, _: &str, _: &str) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}

#[test]
fn progress_ends_at_its_total() {
    let world = World::with_step();
    world.server.fault("cdn/blob/", Fault::Cut(50_000), 3);
    let count = Arc::new(Count::default());
    let progress: tmax_ckpt::progress::SharedProgress = count.clone();
    let hub = world.hub();
    let plan = hub.plan_pull(&request("step_100"), &progress).expect("plans");
    hub.run_pull(&plan, &progress, &Cancel::default()).expect("pulls");
    assert_eq!(count.0.load(Ordering::Relaxed), count.1.load(Ordering::Relaxed));
}

#[test]
fn ranges_of_remote_files_go_on_after_a_stall_and_end_when_nothing_comes() {
    let world = World::with_step();
    let hub = world.hub();
    let remote = hub.open_remote(&repo(), "step_100", &silent()).expect("opens");
    let name = "model-00001-of-00001.safetensors";
    let file = remote.find(name).expect("is listed");
    let right = noise(LARGE, 1);
    world.server.fault("cdn/blob/", Fault::Stall(1000), 2);
    let got = file.read_range(10..5010).expect("reads");
    assert!(got == right[10..5010]);
    let asked: Vec<_> = world.server.byte_requests().iter().map(|s| s.range.clone()).collect();
    let wanted = ["bytes=10-5009", "bytes=1010-5009", "bytes=2010-5009"];
    assert_eq!(asked, wanted.map(|range| Some(range.to_owned())));

    // Slow is no stall, however long it takes in sum.
    world.server.fault("cdn/blob/", Fault::Slow(Duration::from_millis(70)), 1);
    let started = Instant::now();
    assert!(file.read_range(0..LARGE as u64).expect("reads") == right);
    let patience = world.config().timeouts.connect + world.config().timeouts.read;
    assert!(started.elapsed() > patience, "the test asks too little");

    world.server.fault("cdn/blob/", Fault::Stall(0), usize::MAX);
    let started = Instant::now();
    let error = file.read_range(0..10).expect_err("nothing comes");
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Network);
    assert!(started.elapsed() < Duration::from_secs(20));
}
