//! strip, export safetensors and verify on checkpoints of every layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tmax_ckpt::arch::{Namespace, Part};
use tmax_ckpt::checkpoint::{Checkpoint, TensorSet};
use tmax_ckpt::dtype::Dtype;
use tmax_ckpt::fsio;
use tmax_ckpt::hub::expected_hashes;
use tmax_ckpt::ops::strip::{Layout, Mtp, Options, plan};
use tmax_ckpt::ops::verify::{self, Finding, Severity, Values, Verdict};
use tmax_ckpt::ops::{reshard, strip};
use tmax_ckpt::progress::{Cancel, Silent};
use tmax_ckpt::safetensors::{INDEX_FILE, NewTensor};

use crate::checkpoint::{
    new_tensor, promised, renamed, shared, tiny_config, write_checkpoint, write_shard,
};

const ALL: [Part; 3] = [Part::Text, Part::Vision, Part::Mtp];

fn run_strip(source: &Path, out: &Path, options: &Options) -> strip::Plan {
    let checkpoint = Checkpoint::open(source).expect("opens");
    let plan = plan(&checkpoint, out, options).expect("plans");
    let proofs =
        plan.assembly.run(checkpoint.set(), "strip", &Silent, &never()).expect("writes").proofs;
    let tensors: Vec<_> = plan.assembly.files.iter().flat_map(|file| &file.tensors).collect();
    assert_eq!(proofs.len(), tensors.len());
    for (proof, tensor) in proofs.iter().zip(tensors) {
        assert_eq!(proof.name, tensor.stored.as_str());
        let bytes = checkpoint.set().data(&tensor.source);
        assert_eq!(proof.blake3, blake3::hash(bytes).to_hex().as_str(), "{}", proof.name);
    }
    plan
}

/// Nobody asks these runs to stop.
fn never() -> Cancel {
    Cancel::default()
}

fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fsio::files_below(dir).expect("lists");
    names
        .into_iter()
        .map(|name| (name.clone(), std::fs::read(dir.join(name)).expect("reads")))
        .collect()
}

fn text_findings(dir: &Path) -> Vec<Finding> {
    let report = verify::verify(dir, &verify::Options::default(), &Silent).expect("verifies");
    report.findings.into_iter().filter(|f| f.subject != "tokenizer.json").collect()
}

fn verdicts(dir: &Path) -> Vec<Verdict> {
    let report = verify::verify(dir, &verify::Options::default(), &Silent).expect("verifies");
    report.loaders.into_iter().map(|l| l.verdict).collect()
}

/// Every source layout with a config that is composite or not.
fn sources(dir: &Path, tied: bool) -> Vec<(String, PathBuf)> {
    let mut made = Vec::new();
    for namespace in [Namespace::Composite, Namespace::Inner, Namespace::Text, Namespace::Nested] {
        for composite in [true, false] {
            let config = tiny_config(tied, composite);
            let full = promised(&tiny_config(tied, true), &ALL);
            let stored = renamed(&full, |n| match n.strip_prefix("model.visual.") {
                Some(rest) if namespace == Namespace::Nested => {
                    format!("model.language_model.visual.{rest}")
                }
                _ => namespace.stored(n),
            });
            let label = format!("{namespace:?}-{composite}");
            let source = dir.join(&label);
            write_checkpoint(&source, &config, &stored);
            std::fs::write(source.join("chat_template.jinja"), "{{ messages }}").expect("writes");
            let more = source.join("additional_chat_templates");
            std::fs::create_dir_all(&more).expect("makes");
            std::fs::write(more.join("tools.jinja"), "{{ tools }}").expect("writes");
            std::fs::write(source.join("preprocessor_config.json"), "{}").expect("writes");
            std::fs::write(source.join(".checkpoint_complete"), "").expect("writes");
            made.push((label, source));
        }
    }
    made
}

#[test]
fn every_layout_strips_to_the_same_text_model() {
    let dir = tempfile::tempdir().expect("a temp dir");
    for (label, source) in sources(dir.path(), false) {
        let original = Checkpoint::open(&source).expect("opens");
        for layout in [Layout::Composite, Layout::Text] {
            let out = dir.path().join(format!("{label}-{layout:?}"));
            let plan = run_strip(&source, &out, &Options { layout, ..Options::default() });
            assert!(plan.dropped.iter().all(|(reason, _)| *reason == strip::Reason::Vision));
            let stripped = Checkpoint::open(&out).expect("opens");
            assert!(!stripped.has_vision());
            assert_eq!(stripped.config.text, original.config.text, "{label}");
            assert_eq!(stripped.config.text_only, layout == Layout::Text);
            let wanted =
                if layout == Layout::Text { Namespace::Text } else { Namespace::Composite };
            assert_eq!(stripped.namespace(), Some(wanted), "{label}");
            for tensor in stripped.tensors() {
                let before = original.find(&tensor.name).expect("was there");
                assert_eq!(stripped.data(tensor), original.data(before), "{}", tensor.name);
            }
            assert_eq!(text_findings(&out), [], "{label} {layout:?}");
            let names: Vec<String> = files_of(&out).into_keys().collect();
            assert_eq!(
                names,
                [
                    "additional_chat_templates/tools.jinja",
                    "chat_template.jinja",
                    "config.json",
                    "model.safetensors",
                ]
            );
            let vllm = verdicts(&out)[0];
            let served = if layout == Layout::Text { Verdict::Fails } else { Verdict::LoadsWith };
            assert_eq!(vllm, served, "{label}");
        }
    }
}

#[test]
fn the_crate_reads_what_strip_writes_and_runs_give_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (_, source) = sources(dir.path(), true).swap_remove(0);
    let options = Options { max_shard_bytes: 4000, ..Options::default() };
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    run_strip(&source, &first, &options);
    run_strip(&source, &second, &options);
    let files = files_of(&first);
    assert_eq!(files, files_of(&second));
    assert!(files.contains_key(INDEX_FILE) && files.len() > 5);
    let original = Checkpoint::open(&source).expect("opens");
    let mut seen = 0;
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        let read = safetensors::SafeTensors::deserialize(bytes).expect("the crate reads it");
        for (stored, view) in read.tensors() {
            let canonical = tmax_ckpt::arch::layout::canonical(&stored).0;
            let before = original.find(&canonical).expect("was there");
            assert_eq!(view.data(), original.data(before), "{stored} in {name}");
            seen += 1;
        }
    }
    let dropped = original.tensors().iter().filter(|t| t.part() == Some(Part::Vision)).count();
    assert_eq!(seen, original.tensors().len() - dropped);
}

#[test]
fn orphaned_mtp_goes_and_the_config_follows() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(true, true);
    let (source, out) = (dir.path().join("a"), dir.path().join("b"));
    let mut tensors = promised(&config, &[Part::Text, Part::Mtp]);
    tensors.retain(|t| t.name.as_str() != "mtp.norm.weight");
    write_checkpoint(&source, &config, &tensors);
    let plan = run_strip(&source, &out, &Options::default());
    assert!(plan.dropped.iter().all(|(reason, _)| *reason == strip::Reason::Mtp));
    assert_eq!(Checkpoint::open(&out).expect("opens").config.text.mtp_num_hidden_layers, 0);
    assert_eq!(text_findings(&out), []);

    write_checkpoint(&source, &config, &promised(&config, &[Part::Text, Part::Mtp]));
    let whole = dir.path().join("c");
    run_strip(&source, &whole, &Options::default());
    assert_eq!(Checkpoint::open(&whole).expect("opens").mtp_layers_present(), 1);
    let dropped = dir.path().join("d");
    run_strip(&source, &dropped, &Options { mtp: Mtp::Drop, ..Options::default() });
    assert_eq!(Checkpoint::open(&dropped).expect("opens").mtp_layers_present(), 0);
}

/// Writes a tied checkpoint that stores a head all the same.
fn write_duplicate_head(dir: &Path, same: bool) {
    let config = tiny_config(true, false);
    let mut tensors = promised(&config, &[Part::Text]);
    tensors.push(new_tensor("lm_head.weight", Dtype::Bf16, &[96, 32]));
    write_checkpoint(dir, &config, &tensors);
    if same {
        let path = dir.join("model.safetensors");
        let checkpoint = Checkpoint::open(dir).expect("opens");
        let mut bytes = std::fs::read(&path).expect("reads");
        let at = |name: &str| {
            let range = checkpoint.find(name).expect("is there").range.clone();
            range.start as usize..range.end as usize
        };
        let embedding = bytes[at("model.embed_tokens.weight")].to_vec();
        bytes[at("lm_head.weight")].copy_from_slice(&embedding);
        std::fs::write(&path, bytes).expect("writes");
    }
}

#[test]
fn a_duplicate_head_is_dropped_only_if_it_is_one() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (same, other) = (dir.path().join("same"), dir.path().join("other"));
    write_duplicate_head(&same, true);
    write_duplicate_head(&other, false);
    let out = dir.path().join("out");
    let plan = run_strip(&same, &out, &Options { layout: Layout::Text, ..Options::default() });
    assert_eq!(plan.dropped[0].0, strip::Reason::DuplicateHead);
    assert!(Checkpoint::open(&out).expect("opens").find("lm_head.weight").is_none());
    let checkpoint = Checkpoint::open(&other).expect("opens");
    let refused = strip::plan(&checkpoint, &out, &Options::default()).expect_err("must refuse");
    assert_eq!(refused.id(), "head_differs");
    assert!(text_findings(&other).iter().any(|f| f.severity == Severity::Error));
}

#[test]
fn an_incomplete_text_model_is_refused() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(true, true);
    let mut tensors = promised(&config, &[Part::Text]);
    tensors.retain(|t| !t.name.as_str().ends_with("3.self_attn.k_proj.weight"));
    write_checkpoint(dir.path(), &config, &tensors);
    let checkpoint = Checkpoint::open(dir.path()).expect("opens");
    let out = dir.path().join("out");
    let error = strip::plan(&checkpoint, &out, &Options::default()).expect_err("must refuse");
    assert_eq!(error.id(), "incomplete_checkpoint");
    let findings = text_findings(dir.path());
    assert!(findings[0].message.contains("uninitialised"), "{findings:?}");
    let stored = renamed(&tensors, |n| Namespace::Composite.stored(n));
    write_checkpoint(dir.path(), &config, &stored);
    assert_eq!(verdicts(dir.path())[0], Verdict::LoadsWrong);
}

#[test]
fn a_killed_run_leaves_no_final_name_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (_, source) = sources(dir.path(), false).swap_remove(0);
    let clean = dir.path().join("clean");
    run_strip(&source, &clean, &Options::default());
    let wanted = files_of(&clean);

    // What a kill in the middle leaves: a whole header, some of the data, a stranger's file.
    let out = dir.path().join("out");
    let staging = dir.path().join(".out.tmax-ckpt.part");
    std::fs::create_dir(&staging).expect("makes the folder");
    let whole = &wanted["model.safetensors"];
    let mut half = whole.clone();
    let middle = half.len() / 2;
    half[middle..].fill(0);
    std::fs::write(staging.join("model.safetensors"), &half).expect("writes");
    std::fs::write(staging.join("model-00001-of-00002.safetensors"), "x").expect("writes");
    run_strip(&source, &out, &Options::default());
    assert_eq!(files_of(&out), wanted);
    assert!(!staging.exists());

    // Another plan's file of another length is not taken over.
    let again = dir.path().join("again");
    let staging = dir.path().join(".again.tmax-ckpt.part");
    std::fs::create_dir(&staging).expect("makes the folder");
    std::fs::write(staging.join("model.safetensors"), vec![7; whole.len() + 9]).expect("writes");
    run_strip(&source, &again, &Options::default());
    assert_eq!(files_of(&again), wanted);

    let checkpoint = Checkpoint::open(&source).expect("opens");
    let options = Options { max_shard_bytes: 4000, ..Options::default() };
    let plan = plan(&checkpoint, &again, &options).expect("plans");
    let error =
        plan.assembly.run(checkpoint.set(), "strip", &Silent, &never()).expect_err("exists");
    assert_eq!(error.id(), "output_exists");
}

fn run_reshard(source: &Path, out: &Path, options: &reshard::Options) -> reshard::Plan {
    let checkpoint = Checkpoint::open(source).expect("opens");
    let plan = reshard::plan(&checkpoint, out, options).expect("plans");
    plan.assembly.run(checkpoint.set(), "export", &Silent, &never()).expect("writes");
    plan
}

#[test]
fn resharding_and_casting_up_and_back_keep_every_byte() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (_, source) = sources(dir.path(), false).swap_remove(0);
    let (small, wide, back) =
        (dir.path().join("small"), dir.path().join("wide"), dir.path().join("back"));
    run_reshard(&source, &small, &reshard::Options { max_shard_bytes: 3000, dtype: None });
    let to = |dtype| reshard::Options { dtype: Some(dtype), ..reshard::Options::default() };
    let plan = run_reshard(&small, &wide, &to(Dtype::F32));
    assert!(plan.casts > 50);
    let widened = Checkpoint::open(&wide).expect("opens");
    assert!(widened.tensors().iter().all(|t| t.dtype == Dtype::F32));
    assert_eq!(widened.config.raw_text()["dtype"], "float32");
    run_reshard(&wide, &back, &to(Dtype::Bf16));
    let (before, after) = (TensorSet::open(&source), TensorSet::open(&back));
    let (before, after) = (before.expect("opens"), after.expect("opens"));
    assert_eq!(before.tensors().len(), after.tensors().len());
    for tensor in before.tensors() {
        let other = after.find(&tensor.name).expect("is there");
        assert_eq!(before.data(tensor), after.data(other), "{}", tensor.name);
        assert_eq!(tensor.stored, other.stored);
    }
    assert!(TensorSet::open(&small).expect("opens").files().len() > 3);
}

#[test]
fn a_cast_that_would_make_infinities_is_refused() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(true, false);
    let tensors: Vec<NewTensor> = promised(&config, &[Part::Text]);
    write_checkpoint(dir.path(), &config, &tensors);
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("reads");
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&0x4f80_u16.to_le_bytes()); // 2^32
    std::fs::write(&path, bytes).expect("writes");
    let checkpoint = Checkpoint::open(dir.path()).expect("opens");
    let out = dir.path().join("out");
    let options = reshard::Options { dtype: Some(Dtype::F16), ..reshard::Options::default() };
    let plan = reshard::plan(&checkpoint, &out, &options).expect("plans");
    let error =
        plan.assembly.run(checkpoint.set(), "export", &Silent, &never()).expect_err("must refuse");
    assert_eq!(error.id(), "cast_overflow");
    assert!(!out.exists());
}

#[test]
fn verify_finds_what_opening_alone_would_not() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(true, true);
    let tensors = renamed(&promised(&config, &[Part::Text]), |n| Namespace::Composite.stored(n));
    write_checkpoint(dir.path(), &config, &tensors);
    let subjects = |findings: &[Finding]| -> Vec<String> {
        findings.iter().map(|f| f.subject.clone()).collect()
    };
    let findings = text_findings(dir.path());
    assert_eq!(subjects(&findings), ["mtp_num_hidden_layers", "vision_config"]);
    assert!(findings.iter().all(|f| f.severity == Severity::Warning));
    assert_eq!(verdicts(dir.path())[0], Verdict::LoadsWith);

    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("reads");
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(&0x7fc0_u16.to_le_bytes());
    std::fs::write(&path, &bytes).expect("writes");
    let tokenizer =
        r#"{"model":{"vocab":{"a":0,"b":1}},"added_tokens":[{"id":96,"content":"<x>"}]}"#;
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer).expect("writes");
    let wrong = format!("{}  model.safetensors\n", "0".repeat(64));
    std::fs::write(dir.path().join("SHA256SUMS"), wrong).expect("writes");
    let options = verify::Options { values: Values::Scan, ..verify::Options::default() };
    let report = verify::verify(dir.path(), &options, &Silent).expect("verifies");
    let errors: Vec<String> = report
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .map(|f| f.message.clone())
        .collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].contains("≠ 000000000000…"), "{errors:?}");
    assert!(errors[1].contains("id 96, the embedding has 96 rows"), "{errors:?}");
    assert!(errors[2].contains("1 value that"), "{errors:?}");

    bytes.truncate(end - 1);
    std::fs::write(&path, &bytes).expect("writes");
    std::fs::remove_file(dir.path().join("SHA256SUMS")).expect("removes");
    let report = verify::verify(dir.path(), &options, &Silent).expect("verifies");
    assert!(report.findings[0].message.contains("the file has"), "{:?}", report.findings[0]);
    assert!(report.loaders.is_empty());
}

/// A rename puts a folder in no link's place: said before anything is written.
#[test]
fn an_output_that_is_a_link_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(true, false);
    let source = dir.path().join("source");
    write_checkpoint(&source, &config, &promised(&config, &[Part::Text]));
    let checkpoint = Checkpoint::open(&source).expect("opens");
    std::fs::create_dir(dir.path().join("empty")).expect("makes a folder");
    for (target, link) in [("empty", "link"), ("empty", "link/"), ("nowhere", "dangling")] {
        let out = dir.path().join(link);
        let _ = std::os::unix::fs::symlink(target, dir.path().join(link.trim_end_matches('/')));
        let plan = plan(&checkpoint, &out, &Options::default()).expect("plans");
        let run = plan.assembly.run(checkpoint.set(), "strip", &Silent, &never());
        let error = run.expect_err("a link");
        assert_eq!((error.id(), error.kind().exit_code()), ("output_is_link", 2), "{link}");
        let dry = plan.assembly.check_output().expect_err("a link");
        assert_eq!(dry.id(), "output_is_link", "{link}");
    }
    let mut left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["dangling", "empty", "link", "source"]);
}

#[test]
fn hashes_of_a_cache_snapshot_are_its_link_names() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshots/abc"));
    std::fs::create_dir_all(&blobs).expect("makes");
    let config = tiny_config(true, false);
    write_checkpoint(&snapshot, &config, &[]);
    write_shard(&snapshot.join("model.safetensors"), &promised(&config, &[Part::Text]));
    let link = |name: &str, digest: String| {
        let path = snapshot.join(name);
        std::fs::rename(&path, blobs.join(&digest)).expect("moves");
        let target = Path::new("../../blobs").join(digest);
        std::os::unix::fs::symlink(target, &path).expect("links");
    };
    link("model.safetensors", "0".repeat(64));
    let expected = expected_hashes(&snapshot).expect("known");
    let options = verify::Options { expected: &expected, ..Default::default() };
    let report = verify::verify(&snapshot, &options, &Silent).expect("reads");
    assert_eq!(report.hashed.len(), 1);
    assert_eq!((report.hashed[0].source.as_str(), report.hashed[0].matches), ("Hub", false));
}

#[test]
fn real_checkpoints_strip_and_verify() {
    for path in ["data/tensor-parallel/2b/src", "data/tensor-parallel/9b/src"] {
        let Some(source) = shared(path) else { continue };
        let dir = tempfile::tempdir().expect("a temp dir");
        let out = dir.path().join("out");
        run_strip(&source, &out, &Options { layout: Layout::Text, ..Options::default() });
        assert_eq!(text_findings(&out), [], "{path}");
    }
}
