//! candle as an independent oracle: its Q8_0 blocks, its GGUF reader and its products against ours.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module as _, Tensor};
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::dtype::Dtype;
use tmax_ckpt::engine::backend::{Backend as _, Rows, WeightPrecision};
use tmax_ckpt::engine::cpu::CpuBackend;
use tmax_ckpt::gguf::FileType;
use tmax_ckpt::ops::export_gguf::{Options, plan, run};
use tmax_ckpt::progress::{Cancel, Silent};
use tmax_ckpt::quant::q8_0;

/// Off every tile and vector width; columns in blocks of 32.
const ROWS: usize = 75;
const COLUMNS: usize = 1184;
const COUNT: usize = 7;

/// Values of a bell, with a few far out, from a fixed seed.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|i| (next() + next() + next()) * if i % 97 == 0 { 9.0 } else { 1.0 }).collect()
}

fn tensor(values: &[f32], rows: usize) -> Tensor {
    Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
}

fn ours(weights: &[f32], x: &[f32], precision: WeightPrecision) -> Vec<f32> {
    let backend = CpuBackend::new(precision);
    let bytes: &[u8] = bytemuck::cast_slice(weights);
    let matrix = backend.matrix(&[Rows { dtype: Dtype::F32, bytes, columns: COLUMNS }]);
    let mut out = Vec::new();
    backend.linear(&matrix, &x.to_vec(), &mut out);
    out
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// `|a - b| / |b|`, Euclidean.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)))
        / norm(&mut b.iter().map(|b| f64::from(*b)))
}

#[test]
fn q8_0_blocks_are_candles() {
    let weights = values(ROWS * COLUMNS, 1);
    let theirs = QTensor::quantize(&tensor(&weights, ROWS), GgmlDType::Q8_0).unwrap();
    let mut blocks = vec![0; weights.len() / q8_0::BLOCK_LEN * q8_0::BLOCK_BYTES];
    q8_0::quantize(&weights, &mut blocks).unwrap();
    assert_eq!(blocks, theirs.data().unwrap().as_ref());
    let mut back = vec![0.0; weights.len()];
    q8_0::dequantize(&blocks, &mut back);
    assert_eq!(back, flat(&theirs.dequantize(&Device::Cpu).unwrap()));
}

#[test]
fn products_are_candles() {
    let (weights, x) = (values(ROWS * COLUMNS, 2), values(COUNT * COLUMNS, 3));
    let w = tensor(&weights, ROWS);
    let theirs = tensor(&x, COUNT).matmul(&w.t().unwrap()).unwrap();
    let error = relative(&ours(&weights, &x, WeightPrecision::Exact), &flat(&theirs));
    assert!(error < 1e-6, "f32: relative error {error}");
    // Same blocks; candle rounds the scales of activations to f16, we keep them in f32.
    let quantised = QTensor::quantize(&w, GgmlDType::Q8_0).unwrap();
    let theirs = QMatMul::from_qtensor(quantised).unwrap().forward(&tensor(&x, COUNT)).unwrap();
    let error = relative(&ours(&weights, &x, WeightPrecision::Q8_0), &flat(&theirs));
    assert!(error < 1e-3, "Q8_0: relative error {error}");
}

/// Why the engine has products of its own: a row must not depend on how many stand beside it.
#[test]
fn a_row_alone_has_the_bits_of_a_row_in_a_batch() {
    let (weights, x) = (values(ROWS * COLUMNS, 4), values(COUNT * COLUMNS, 5));
    for precision in [WeightPrecision::Exact, WeightPrecision::Q8_0] {
        let all = ours(&weights, &x, precision);
        for (row, input) in x.chunks(COLUMNS).enumerate() {
            assert_eq!(ours(&weights, input, precision), all[row * ROWS..(row + 1) * ROWS]);
        }
    }
    let w = tensor(&weights, ROWS).t().unwrap();
    let all = flat(&tensor(&x, COUNT).matmul(&w).unwrap());
    let alone = |row: &[f32]| flat(&tensor(row, 1).matmul(&w).unwrap());
    let rows = x.chunks(COLUMNS).zip(all.chunks(ROWS));
    let differ: usize =
        rows.map(|(row, all)| alone(row).iter().zip(all).filter(|(a, b)| a != b).count()).sum();
    eprintln!("candle's f32 product: {differ} of {} elements differ in a batch", COUNT * ROWS);
}

#[test]
fn candle_reads_an_exported_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tied.gguf");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/tied");
    let checkpoint = Checkpoint::open(&fixture).unwrap();
    let options = Options {
        outtype: FileType::Q8_0.into(),
        outfile: Some(file.clone()),
        ..Options::default()
    };
    run(&plan(&checkpoint, &options).unwrap(), &Silent, &Cancel::default()).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let ours = tmax_ckpt::gguf::Gguf::parse(&bytes).unwrap();
    let mut reader = std::io::Cursor::new(&bytes);
    let theirs = Content::read(&mut reader).unwrap();
    assert_eq!(theirs.tensor_infos.len(), ours.tensors.len());
    let mut quantised = 0;
    for entry in &ours.tensors {
        let tensor = theirs.tensor(&mut reader, &entry.spec.name, &Device::Cpu).unwrap();
        let at = entry.offset as usize;
        let data = &bytes[at..at + entry.len_bytes as usize];
        assert_eq!(tensor.data().unwrap().as_ref(), data, "{}", entry.spec.name);
        if tensor.dtype() == GgmlDType::Q8_0 {
            quantised += 1;
            let mut values = vec![0.0; tensor.shape().elem_count()];
            q8_0::dequantize(data, &mut values);
            let theirs = flat(&tensor.dequantize(&Device::Cpu).unwrap());
            assert_eq!(values, theirs, "{}", entry.spec.name);
        }
    }
    assert!(quantised > 10, "{quantised} quantised tensors");
}
