//! Checkpoints: layouts seen in the wild, real headers, and what must not open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tmax_ckpt::arch::{ModelConfig, Namespace, Part};
use tmax_ckpt::checkpoint::expect::{Problem, compare};
use tmax_ckpt::checkpoint::{Checkpoint, TensorSet};
use tmax_ckpt::dtype::Dtype;
use tmax_ckpt::name::TensorName;
use tmax_ckpt::safetensors::{FileLayout, INDEX_FILE, Index, NewTensor, torch_metadata};

/// Returns a folder of the facts beside the repository, or says that the test is skipped.
#[allow(clippy::disallowed_macros, reason = "a skipped test says so")]
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    eprintln!("SKIPPED: ../shared/{path} is not there");
    None
}

/// A config of three linear layers and a full one, small enough to write out in no time.
pub fn tiny_config(tied: bool, composite: bool) -> String {
    let text = format!(
        r#""vocab_size":96,"hidden_size":32,"intermediate_size":48,"num_hidden_layers":4,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,
        "linear_num_key_heads":2,"linear_num_value_heads":4,"linear_key_head_dim":8,
        "linear_value_head_dim":8,"tie_word_embeddings":{tied},"mtp_num_hidden_layers":1,
        "dtype":"bfloat16","rope_parameters":{{"rope_type":"default","rope_theta":10000000,
        "partial_rotary_factor":0.25,"mrope_section":[1,1,0]}}"#
    );
    if composite {
        format!(
            r#"{{"architectures":["Qwen3_5ForConditionalGeneration"],"model_type":"qwen3_5",
            "tie_word_embeddings":{tied},"text_config":{{"model_type":"qwen3_5_text",{text}}},
            "vision_config":{{"model_type":"qwen3_5","depth":2,"hidden_size":16,"intermediate_size":24,"num_heads":2,
            "out_hidden_size":32,"num_position_embeddings":16,"patch_size":4}}}}"#
        )
    } else {
        format!(r#"{{"architectures":["Qwen3_5ForCausalLM"],"model_type":"qwen3_5_text",{text}}}"#)
    }
}

/// The canonical tensors that a config promises for some parts, as they would be stored.
pub fn promised(config: &str, parts: &[Part]) -> Vec<NewTensor> {
    let config = ModelConfig::parse(config.as_bytes()).expect("a config");
    let expected = config.architecture.expected(&config, parts, 1);
    expected.into_iter().map(|t| new_tensor(&t.name, Dtype::Bf16, &t.shape)).collect()
}

pub fn new_tensor(name: &str, dtype: Dtype, shape: &[u64]) -> NewTensor {
    NewTensor { name: TensorName::new(name).expect("a name"), dtype, shape: shape.to_vec() }
}

/// Writes a shard whose values differ from tensor to tensor and are all finite.
pub fn write_shard(path: &Path, tensors: &[NewTensor]) {
    let layout = FileLayout::new(tensors, &torch_metadata());
    let mut bytes = layout.header;
    for tensor in tensors {
        let seed = tensor
            .name
            .as_str()
            .bytes()
            .fold(7_u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        let mut state = seed;
        let count = tensor.shape.iter().product::<u64>();
        for _ in 0..count {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from((state >> 16) as i16) / 32768.0;
            let wide = value.to_le_bytes();
            bytes.extend_from_slice(if tensor.dtype == Dtype::F32 { &wide } else { &wide[2..] });
        }
    }
    std::fs::write(path, bytes).expect("writes a shard");
}

/// Writes a checkpoint of one file.
pub fn write_checkpoint(dir: &Path, config: &str, tensors: &[NewTensor]) {
    std::fs::create_dir_all(dir).expect("makes the folder");
    std::fs::write(dir.join("config.json"), config).expect("writes the config");
    write_shard(&dir.join("model.safetensors"), tensors);
}

pub fn renamed(tensors: &[NewTensor], rename: impl Fn(&str) -> String) -> Vec<NewTensor> {
    let rename = |t: &NewTensor| new_tensor(&rename(t.name.as_str()), t.dtype, &t.shape);
    tensors.iter().map(rename).collect()
}

#[test]
fn real_headers_hold_what_their_configs_promise() {
    for (path, parts) in [
        ("data/tensor-parallel/2b/src", &[Part::Text][..]),
        ("data/tensor-parallel/9b/src", &[Part::Text]),
        ("oracle/tiny-qwen3_5", &[Part::Text]),
    ] {
        let Some(dir) = shared(path) else { continue };
        let checkpoint = Checkpoint::open(&dir).expect(path);
        let problems = compare(&checkpoint.config, checkpoint.tensors(), parts);
        assert_eq!(problems, [], "{path}");
        assert!(checkpoint.tensors().len() > 50, "{path}");
    }
}

#[test]
fn real_configs_promise_the_published_parameter_counts() {
    for (name, billions) in [("2b", 1.882), ("4b", 4.206), ("9b", 8.954), ("27b", 26.896)] {
        let Some(path) = shared(&format!("data/configs/qwen3_5-{name}.json")) else { continue };
        let bytes = std::fs::read(path).expect("reads");
        let config = ModelConfig::parse(&bytes).expect("parses");
        let expected = config.architecture.expected(&config, &[Part::Text], 0);
        let count: u64 = expected.iter().map(|t| t.shape.iter().product::<u64>()).sum();
        assert_eq!((count as f64 / 1e6).round(), (billions * 1e3_f64).round(), "{name}");
    }
}

#[test]
fn every_namespace_opens_as_the_same_tensors() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(false, true);
    let canonical = promised(&config, &[Part::Text, Part::Vision, Part::Mtp]);
    for (name, visual, namespace) in [
        ("composite", "model.visual.", Namespace::Composite),
        ("inner", "visual.", Namespace::Inner),
        ("text", "model.visual.", Namespace::Text),
        ("nested", "model.language_model.visual.", Namespace::Nested),
    ] {
        let stored = renamed(&canonical, |n| match n.strip_prefix("model.visual.") {
            Some(rest) => format!("{visual}{rest}"),
            None => namespace.stored(n),
        });
        let dir = dir.path().join(name);
        write_checkpoint(&dir, &config, &stored);
        let checkpoint = Checkpoint::open(&dir).expect(name);
        assert_eq!(checkpoint.namespace(), Some(namespace), "{name}");
        let parts = [Part::Text, Part::Vision, Part::Mtp];
        assert_eq!(compare(&checkpoint.config, checkpoint.tensors(), &parts), [], "{name}");
        assert_eq!(checkpoint.mtp_layers_present(), 1);
        assert!(checkpoint.has_vision());
        let tensor = checkpoint.find("model.norm.weight").expect("is there");
        assert_eq!(checkpoint.data(tensor).len(), 64);
    }
}

#[test]
fn a_missing_part_of_a_fused_parameter_is_named() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(true, true);
    for (gone, fused) in [
        ("model.layers.3.self_attn.k_proj.weight", "qkv_proj"),
        ("model.layers.0.mlp.up_proj.weight", "gate_up_proj"),
        ("model.layers.1.linear_attn.in_proj_z.weight", "in_proj_qkvz"),
        ("model.layers.1.linear_attn.in_proj_b.weight", "in_proj_ba"),
    ] {
        let mut tensors = promised(&config, &[Part::Text]);
        tensors.retain(|t| t.name.as_str() != gone);
        write_checkpoint(dir.path(), &config, &tensors);
        let checkpoint = Checkpoint::open(dir.path()).expect("opens");
        let problems = compare(&checkpoint.config, checkpoint.tensors(), &[Part::Text]);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].tensor(), gone);
        let text = problems[0].to_string();
        assert!(text.contains(&format!("vLLM would leave its part of {fused}")), "{text}");
    }
}

#[test]
fn wrong_shapes_and_strangers_are_problems() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(true, false);
    let mut tensors = promised(&config, &[Part::Text]);
    tensors[0].shape[1] += 1;
    tensors.push(new_tensor("model.layers.4.mlp.up_proj.weight", Dtype::Bf16, &[48, 32]));
    tensors.push(new_tensor("foo.weight", Dtype::Bf16, &[1]));
    tensors.push(new_tensor("lm_head.weight", Dtype::Bf16, &[96, 32]));
    write_checkpoint(dir.path(), &config, &tensors);
    let checkpoint = Checkpoint::open(dir.path()).expect("opens");
    assert!(checkpoint.stored_duplicate_head());
    let problems = compare(&checkpoint.config, checkpoint.tensors(), &[Part::Text]);
    let names: Vec<&str> = problems.iter().map(Problem::tensor).collect();
    assert_eq!(
        names,
        ["model.embed_tokens.weight", "foo.weight", "model.layers.4.mlp.up_proj.weight"]
    );
}

fn error_of(dir: &Path) -> (String, &'static str, Vec<String>) {
    let error = TensorSet::open(dir).expect_err("must not open");
    let text = format!("{error}: {}", error.causes().join(": "));
    (text, error.id(), error.help())
}

#[test]
fn index_and_shards_must_agree() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = |name: &str| dir.path().join(name);
    let one = [new_tensor("model.a", Dtype::Bf16, &[2])];
    let two = [new_tensor("model.b", Dtype::Bf16, &[2])];
    write_shard(&path("model-00001-of-00002.safetensors"), &one);
    let map = |pairs: &[(&str, &str)]| {
        let name = |n: &str| TensorName::new(n).expect("a name");
        let weight_map: BTreeMap<_, _> =
            pairs.iter().map(|(t, s)| (name(t), (*s).to_owned())).collect();
        let index = Index { total_size_bytes: Some(8), weight_map };
        std::fs::write(path(INDEX_FILE), index.to_bytes()).expect("writes");
    };
    let good = [
        ("model.a", "model-00001-of-00002.safetensors"),
        ("model.b", "model-00002-of-00002.safetensors"),
    ];
    map(&good);
    let (text, id, help) = error_of(dir.path());
    assert_eq!(id, "missing_shard", "{text}");
    assert!(help[0].contains("model-00002-of-00002.safetensors"));
    write_shard(&path("model-00002-of-00002.safetensors"), &two);
    let set = TensorSet::open(dir.path()).expect("opens");
    assert_eq!(set.tensors().len(), 2);
    map(&good[..1]);
    assert!(TensorSet::open(dir.path()).is_ok(), "a shard outside the index is not read");
    map(&[good[0], ("model.c", good[1].1)]);
    assert!(error_of(dir.path()).0.contains("`model.c` is mapped"));
    map(&good);
    write_shard(&path("model.safetensors"), &one);
    assert_eq!(error_of(dir.path()).1, "ambiguous_weights");
}

#[test]
fn two_names_for_one_tensor_do_not_open() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("model.safetensors");
    let names = ["model.norm.weight", "model.language_model.norm.weight"];
    write_shard(&path, &names.map(|n| new_tensor(n, Dtype::Bf16, &[2])));
    assert_eq!(error_of(dir.path()).1, "same_tensor_twice");
    assert_eq!(error_of(&path).1, "same_tensor_twice");
}
