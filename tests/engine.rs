//! The engine against transformers: logits, log-probabilities, greedy tokens, caches, batches.

#![allow(clippy::unwrap_used, clippy::disallowed_macros, reason = "a test; skips are said aloud")]

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use tmax_ckpt::arch::ModelConfig;
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::dtype::Dtype;
use tmax_ckpt::engine::backend::{Backend as _, Batch, Segment, WeightPrecision};
use tmax_ckpt::engine::chat::CancelFlag;
use tmax_ckpt::engine::cpu::{CpuBackend, CpuCache};
use tmax_ckpt::engine::device::DeviceChoice;
use tmax_ckpt::engine::local::load_model;
use tmax_ckpt::engine::logprobs::logprobs;
use tmax_ckpt::engine::model::{Model, Workspace};
use tmax_ckpt::engine::weights::TensorView;

type CpuModel = Model<CpuBackend>;

/// Mean difference that eight bits may make to the answer's log-probabilities (0.0021 measured).
const Q8_0_MEAN: f32 = 0.004;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn load(dir: &Path) -> CpuModel {
    let config = std::fs::read(dir.join("config.json")).unwrap();
    let config = ModelConfig::parse(&config).unwrap();
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let find = |name: &str| {
        let tensor = file.tensor(name).ok()?;
        Some(TensorView {
            dtype: Dtype::from_safetensors(&tensor.dtype().to_string()).unwrap(),
            shape: tensor.shape().iter().map(|&n| n as u64).collect(),
            bytes: tensor.data(),
        })
    };
    Model::load(CpuBackend::new(WeightPrecision::Exact), &config, &find).unwrap()
}

/// The reference that a script made with transformers.
struct Reference {
    bytes: Vec<u8>,
}

impl Reference {
    fn open(dir: &Path) -> Self {
        Self { bytes: std::fs::read(dir.join("reference.safetensors")).unwrap() }
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
        tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// Integers of 4 or 8 bytes, one row each.
    fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        let width = *tensor.shape().last().unwrap();
        let size = tensor.data().len() / tensor.shape().iter().product::<usize>();
        let id = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let all: Vec<u32> = tensor.data().chunks(size).map(id).collect();
        all.chunks(width).map(<[u32]>::to_vec).collect()
    }
}

/// Feeds one sequence in pieces of the given lengths; returns the logits of every token.
fn run_pieces(model: &CpuModel, ids: &[u32], pieces: &[usize]) -> Vec<f32> {
    let (mut cache, mut workspace) = (model.cache(), Workspace::default());
    let (mut position, mut all) = (0, Vec::new());
    for &len in pieces {
        let segments = vec![Segment { offset: 0, len, position }];
        let mut batch = Batch { segments, caches: vec![&mut cache] };
        model.forward(&ids[position..position + len], &mut batch, &mut workspace);
        all.extend(model.logits(&workspace, &(0..len).collect::<Vec<_>>()));
        position += len;
    }
    assert_eq!(position, ids.len());
    all
}

/// Runs sequences packed in one batch; returns each one's logits.
fn run_packed(model: &CpuModel, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut caches: Vec<CpuCache> = sequences.iter().map(|_| model.cache()).collect();
    let mut segments = Vec::new();
    let mut offset = 0;
    for ids in sequences {
        segments.push(Segment { offset, len: ids.len(), position: 0 });
        offset += ids.len();
    }
    let mut workspace = Workspace::default();
    let mut batch = Batch { segments, caches: caches.iter_mut().collect() };
    model.forward(&sequences.concat(), &mut batch, &mut workspace);
    let mut start = 0;
    sequences
        .iter()
        .map(|ids| {
            let rows: Vec<usize> = (start..start + ids.len()).collect();
            start += ids.len();
            model.logits(&workspace, &rows)
        })
        .collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn greedy(model: &CpuModel, prompt: &[u32], count: usize) -> Vec<u32> {
    let (mut cache, mut workspace) = (model.cache(), Workspace::default());
    let (mut position, mut next, mut out) = (0, prompt.to_vec(), Vec::new());
    for _ in 0..count {
        let segments = vec![Segment { offset: 0, len: next.len(), position }];
        let mut batch = Batch { segments, caches: vec![&mut cache] };
        model.forward(&next, &mut batch, &mut workspace);
        position += next.len();
        let logits = model.logits(&workspace, &[next.len() - 1]);
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        out.push(best as u32);
        next = vec![best as u32];
    }
    out
}

fn all_logprobs(model: &CpuModel, ids: &[u32]) -> Vec<f32> {
    logprobs(model, ids, &CancelFlag::default()).expect("nobody cancels")
}

fn check_logits_and_logprobs(model: &CpuModel, ids: &[Vec<u32>], logits: &[f32], logprobs: &[f32]) {
    let mut ours = Vec::new();
    for row in ids {
        ours.extend(run_pieces(model, row, &[row.len()]));
    }
    let worst = largest_difference(&ours, logits);
    assert!(worst < 1e-3, "logits differ by {worst}");
    for (row, truth) in ids.iter().zip(logprobs.chunks(ids[0].len() - 1)) {
        let (mut cache, mut workspace) = (model.cache(), Workspace::default());
        let segments = vec![Segment { offset: 0, len: row.len(), position: 0 }];
        let mut batch = Batch { segments, caches: vec![&mut cache] };
        model.forward(row, &mut batch, &mut workspace);
        let targets: Vec<(usize, u32)> = row[1..].iter().copied().enumerate().collect();
        let worst = largest_difference(&model.logprobs(&workspace, &targets), truth);
        assert!(worst < 1e-3, "log-probabilities differ by {worst}");
    }
}

/// Pieces of any size give the bits of the whole; neighbours in a batch change nothing.
fn check_caches_and_batches(model: &CpuModel, ids: &[Vec<u32>]) {
    let whole: Vec<Vec<f32>> = ids.iter().map(|row| run_pieces(model, row, &[row.len()])).collect();
    let (row, len) = (&ids[0], ids[0].len());
    let single = [vec![len - 9], vec![1; 9]].concat();
    assert_eq!(run_pieces(model, row, &single), whole[0], "prefill and single steps");
    assert_eq!(run_pieces(model, row, &[3, 61, 2, len - 66]), whole[0], "uneven pieces");
    let short = &ids[1][..37];
    let packed = run_packed(model, &[short, row, &ids[1]]);
    assert_eq!(packed[0], run_pieces(model, short, &[37]), "short sequence in a batch");
    assert_eq!(packed[1], whole[0], "middle sequence of a batch");
    assert_eq!(packed[2], whole[1], "last sequence of a batch");
}

fn check_fixture(name: &str) {
    let dir = root().join("fixtures/engine").join(name);
    let (model, reference) = (load(&dir), Reference::open(&dir));
    let ids = reference.ids("input_ids");
    let (logits, logprobs) = (reference.f32("logits"), reference.f32("logprobs"));
    check_logits_and_logprobs(&model, &ids, &logits, &logprobs);
    check_caches_and_batches(&model, &ids);
    assert_eq!(greedy(&model, &ids[0][..20], 24), reference.ids("greedy")[0]);
}

#[test]
fn qwen3_5_agrees_with_transformers() {
    check_fixture("qwen3_5");
}

#[test]
fn qwen3_agrees_with_transformers() {
    check_fixture("qwen3");
}

#[test]
fn the_shared_oracle_agrees() {
    let dir = root().join("../shared/oracle/tiny-qwen3_5");
    if !dir.exists() {
        eprintln!("skipped: ../shared/oracle/tiny-qwen3_5 is not there");
        return;
    }
    let (model, reference) = (load(&dir), Reference::open(&dir));
    let ids = reference.ids("input_ids");
    let (logits, logprobs) = (reference.f32("logits_f32"), reference.f32("logprobs_f32"));
    check_logits_and_logprobs(&model, &ids, &logits, &logprobs);
    check_caches_and_batches(&model, &ids);
    // Sixteen ids of the first sequence, then 24 that transformers chose.
    let told = &reference.ids("greedy_f32")[0];
    assert_eq!(told[..16], ids[0][..16]);
    assert_eq!(greedy(&model, &told[..16], 24), told[16..]);
}

/// What transformers computes on the trained fixture; `scripts/make_fixture_logprobs.py` made it.
struct Trained {
    ids: Vec<u32>,
    prompt_tokens: usize,
    logprobs: Vec<f32>,
}

impl Trained {
    fn open() -> Self {
        let text = std::fs::read(root().join("fixtures/engine/step_600.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let numbers = |key: &str| golden[key].as_array().unwrap().iter();
        Self {
            ids: numbers("ids").map(|id| id.as_u64().unwrap() as u32).collect(),
            prompt_tokens: golden["prompt_tokens"].as_u64().unwrap() as usize,
            logprobs: numbers("logprobs").map(|p| p.as_f64().unwrap() as f32).collect(),
        }
    }

    fn model(precision: WeightPrecision) -> CpuModel {
        let checkpoint = Checkpoint::open(&root().join("fixtures/tiny-raw/step_600")).unwrap();
        load_model(&checkpoint, DeviceChoice::Cpu, precision).unwrap()
    }
}

#[test]
fn the_trained_fixture_agrees_with_transformers() {
    let (golden, model) = (Trained::open(), Trained::model(WeightPrecision::Exact));
    let worst = largest_difference(&all_logprobs(&model, &golden.ids), &golden.logprobs);
    // 1.2e-5 measured, on a token of probability e^-20.
    assert!(worst < 5e-5, "log-probabilities differ by {worst}");
    let (prompt, answer) = golden.ids.split_at(golden.prompt_tokens);
    assert_eq!(greedy(&model, prompt, answer.len()), answer);
    check_caches_and_batches(&model, &[golden.ids.clone(), golden.ids[7..].to_vec()]);
}

/// A trained net is not chaotic: eight-bit weights and activations move it little.
#[test]
fn q8_0_stays_close_on_the_trained_fixture() {
    let (golden, model) = (Trained::open(), Trained::model(WeightPrecision::Q8_0));
    let ours = all_logprobs(&model, &golden.ids);
    let answer = golden.prompt_tokens - 1;
    let errors = ours.iter().zip(&golden.logprobs).skip(answer).map(|(a, b)| (a - b).abs());
    let mean = errors.sum::<f32>() / (ours.len() - answer) as f32;
    assert!(mean < Q8_0_MEAN, "mean difference {mean}");
    assert!(mean > 0.0, "nothing was quantised");
    let (prompt, told) = golden.ids.split_at(golden.prompt_tokens);
    assert_eq!(greedy(&model, prompt, 24), told[..24]);
    check_caches_and_batches(&model, &[golden.ids.clone(), golden.ids[7..].to_vec()]);
}

/// Longer than one piece of the scorer: its border changes no bit, and sums are those of the
/// logits.
#[test]
fn logprobs_cross_the_border_of_a_piece() {
    let (golden, model) = (Trained::open(), Trained::model(WeightPrecision::Exact));
    let ids: Vec<u32> = golden.ids.iter().cycle().take(1100).copied().collect();
    let ours = all_logprobs(&model, &ids);
    assert_eq!(all_logprobs(&model, &ids[..700]), ours[..699]);
    let cancelled = CancelFlag::default();
    cancelled.cancel();
    assert_eq!(logprobs(&model, &ids, &cancelled), None);
    let vocab = model.config().vocab_size as usize;
    let logits = run_pieces(&model, &ids, &[ids.len()]);
    for (row, (value, next)) in logits.chunks(vocab).zip(ours.iter().zip(&ids[1..])) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
        let truth = f64::from(row[*next as usize] - most) - sum.ln();
        assert!((f64::from(*value) - truth).abs() < 2e-5, "{value} {truth}");
    }
}

/// A clone shares pages with its origin; writing to one must not show in the other.
#[test]
fn clones_of_a_sequence_go_their_own_ways() {
    let dir = root().join("fixtures/engine/qwen3_5");
    let (model, reference) = (load(&dir), Reference::open(&dir));
    let ids = &reference.ids("input_ids")[0];
    let mut workspace = Workspace::default();
    let mut step = |cache: &mut CpuCache, ids: &[u32], position: usize| {
        let segments = vec![Segment { offset: 0, len: ids.len(), position }];
        let mut batch = Batch { segments, caches: vec![cache] };
        model.forward(ids, &mut batch, &mut workspace);
        model.logits(&workspace, &[ids.len() - 1])
    };
    let mut trunk = model.cache();
    step(&mut trunk, &ids[..70], 0);
    let mut branch = trunk.clone();
    assert!(model.backend().cache_bytes(&branch) > 0);
    step(&mut branch, &[1, 2, 3], 70);
    let (a, b) = (step(&mut trunk, &ids[70..], 70), run_pieces(&model, ids, &[ids.len()]));
    assert_eq!(a, b[b.len() - a.len()..]);
}
