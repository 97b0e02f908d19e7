//! Checkpoints and importance matrices by a formula, those of `scripts/gguf/make_wide.py`: too
//! large to be committed, and the same bytes here and there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};
use tmax_ckpt::arch::{ExpectedTensor, GgufType, ModelConfig, Part};
use tmax_ckpt::gguf::{Array, Metadata, TensorSpec, TensorType, Value, writer};

use crate::gguf::fixture;

/// SplitMix64, its state the FNV-1a hash of `name`.
fn random(name: &str) -> impl Iterator<Item = u64> {
    let fnv = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    (1_u64..).map(move |i| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// The values of a tensor. Every row of 16 or more is one of 16 kinds, some of them hard.
fn weights(name: &str, shape: &[u64]) -> Vec<f32> {
    let count = shape.iter().product::<u64>() as usize;
    if name.ends_with("A_log") {
        return vec![0.0; count];
    }
    let columns = *shape.last().expect("an axis") as usize;
    let hard = shape.len() == 2 && shape[0] >= 16;
    let value = |(at, bits): (usize, u64)| {
        let whole = (0..4).map(|i| (bits >> (16 * i) & 0xffff) as i64).sum::<i64>() - 131_070;
        let plain = whole as f32 * 2.0_f32.powi(-20);
        match (hard, at / columns % 16, at % columns) {
            (true, 0, _) => 0.0,
            (true, 1, 7) => 8.0,
            (true, 2, _) => 0.036_987_305,
            (true, 3, _) => plain * 2.0_f32.powi(-120),
            (true, 4, _) => plain * 4096.0,
            (true, 5, _) => ((whole & 15) - 8) as f32 * 0.0625,
            _ => plain,
        }
    };
    random(name).take(count).enumerate().map(value).collect()
}

/// Rounds to bf16, ties to even, as make_fixtures.py does.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    (((bits + (0x7fff + (bits >> 16 & 1))) >> 16) as u16).to_le_bytes()
}

/// The config of a kind.
pub fn config(kind: &str) -> Json {
    let text = std::fs::read_to_string(fixture("wide.json")).expect("configs");
    let mut configs: BTreeMap<String, Json> = serde_json::from_str(&text).expect("parses");
    configs.remove(kind).expect("a known kind")
}

fn expected(kind: &str) -> Vec<ExpectedTensor> {
    let config = config(kind);
    let mtp = u64::from(config["text_config"]["mtp_num_hidden_layers"] == json!(1));
    let config = ModelConfig::parse(config.to_string().as_bytes()).expect("parses");
    config.architecture.expected(&config, &[Part::Text, Part::Mtp, Part::Vision], mtp)
}

/// Makes the checkpoint of a kind below `dir`. That of a deep kind holds zeros: it is for the
/// choice of types alone.
pub fn make(kind: &str, dir: &Path) -> PathBuf {
    let to = dir.join(kind);
    std::fs::create_dir(&to).expect("creates");
    let base = if kind.ends_with("qwen3") { "qwen3" } else { "tied" };
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(fixture(base).join(file), to.join(file)).expect("copies");
    }
    std::fs::write(to.join("config.json"), config(kind).to_string()).expect("writes");
    let preprocessor = json!({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]});
    if kind == "wide-vl" {
        let path = to.join("preprocessor_config.json");
        std::fs::write(path, preprocessor.to_string()).expect("writes");
    }
    write_tensors(&to.join("model.safetensors"), kind);
    to
}

fn write_tensors(path: &Path, kind: &str) {
    let tensors = expected(kind);
    let (mut header, mut offset) = (Map::new(), 0);
    let is_f32 = |t: &ExpectedTensor| {
        t.name.ends_with("A_log") || t.name.ends_with("linear_attn.norm.weight")
    };
    let mut starts = Vec::new();
    for tensor in &tensors {
        let bytes = tensor.shape.iter().product::<u64>() * if is_f32(tensor) { 4 } else { 2 };
        let dtype = if is_f32(tensor) { "F32" } else { "BF16" };
        let range = [offset, offset + bytes];
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": range});
        header.insert(tensor.name.clone(), entry);
        starts.push(offset);
        offset += bytes;
    }
    let mut head = Json::Object(header).to_string();
    head.push_str(&" ".repeat(head.len().next_multiple_of(8) - head.len()));
    let mut file = File::create(path).expect("creates");
    file.write_all(&(head.len() as u64).to_le_bytes()).expect("writes");
    file.write_all(head.as_bytes()).expect("writes");
    let start = 8 + head.len() as u64;
    file.set_len(start + offset).expect("grows");
    if kind.starts_with("deep") {
        return;
    }
    for (tensor, at) in tensors.iter().zip(starts) {
        let values = weights(&tensor.name, &tensor.shape);
        let data: Vec<u8> = if is_f32(tensor) {
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        } else {
            values.iter().flat_map(|v| bf16(*v)).collect()
        };
        file.write_all_at(&data, start + at).expect("writes");
    }
}

/// Sums of squares by column, some of them zero, and how many were summed.
fn importance(name: &str, columns: u64) -> (Vec<f32>, f32) {
    let sum = |bits: u64| {
        if bits.is_multiple_of(17) { 0.0 } else { (bits >> 48) as f32 * 2.0_f32.powi(-10) }
    };
    let sums = random(name).take(columns as usize).map(sum).collect();
    (sums, if name == "blk.1.ffn_up.weight" { 0.0 } else { 48.0 })
}

/// Writes an importance matrix for matrices of these names and columns.
pub fn write_imatrix(path: &Path, entries: &BTreeMap<String, u64>) {
    let mut metadata = Metadata::new();
    metadata.push("general.type", Value::Str("imatrix".into()));
    metadata.push("imatrix.datasets", Value::Array(Array::Str(vec!["text.txt".into()])));
    metadata.push("imatrix.chunk_count", Value::U32(3));
    metadata.push("imatrix.chunk_size", Value::U32(16));
    let (mut specs, mut values) = (Vec::new(), Vec::new());
    for (name, columns) in entries {
        let (sums, count) = importance(name, *columns);
        for (suffix, data) in [("in_sum2", sums), ("counts", vec![count])] {
            let (name, shape) = (format!("{name}.{suffix}"), vec![1, data.len() as u64]);
            specs.push(TensorSpec { name, shape, tensor_type: TensorType::F32 });
            values.push(data);
        }
    }
    let encoded = writer::encode(&metadata, &specs).expect("encodes");
    let file = File::create(path).expect("creates");
    file.write_all_at(&encoded.head, 0).expect("writes");
    file.set_len(encoded.len_bytes).expect("grows");
    for (offset, data) in encoded.offsets.iter().zip(values) {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.write_all_at(&bytes, *offset).expect("writes");
    }
}

/// The matrices of a kind that llama-imatrix has entries for, and their columns.
pub fn imatrix_entries(kind: &str) -> BTreeMap<String, u64> {
    let in_block = |t: &ExpectedTensor| {
        let is_matrix = matches!(t.rule.gguf_type, GgufType::Out(_));
        t.rule.part == Part::Text && is_matrix && t.rule.gguf.starts_with("blk.")
    };
    let entry = |t: ExpectedTensor| (t.rule.gguf_name(t.index), *t.shape.last().expect("two axes"));
    expected(kind).into_iter().filter(in_block).map(entry).collect()
}
