//! GGUF export against what llama.cpp's converter makes of the same checkpoints.
//!
//! `fixtures/gguf/golden.json` holds hashes of the converter's files, made by
//! `scripts/check-gguf-peer.sh`; nothing of llama.cpp is needed here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::error::{Kind, Result};
use tmax_ckpt::gguf::{FileType, Gguf, Value};
use tmax_ckpt::ops::assemble::Output;
use tmax_ckpt::ops::export_gguf::{Contents, Mtp, Options, OutType, Written, plan, run};
use tmax_ckpt::progress::{Cancel, Silent};

const OUT_TYPES: &[(&str, FileType)] = &[
    ("f32", FileType::F32),
    ("f16", FileType::F16),
    ("bf16", FileType::BF16),
    ("q8_0", FileType::Q8_0),
];

pub fn fixture(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf").join(kind)
}

/// A copy of a fixture that a test may change. The folder's name, which becomes the model's,
/// stays.
pub fn copy(kind: &str, dir: &tempfile::TempDir) -> PathBuf {
    let to = dir.path().join(kind);
    std::fs::create_dir(&to).expect("creates");
    for entry in std::fs::read_dir(fixture(kind)).expect("lists") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
    }
    to
}

pub fn export(dir: &Path, options: &Options) -> Result<Vec<Written>> {
    let checkpoint = Checkpoint::open(dir)?;
    let plan = plan(&checkpoint, options)?;
    let planned: Vec<u64> = plan.files.iter().map(|f| f.len_bytes).collect();
    let written = run(&plan, &Silent, &Cancel::default())?;
    for (file, len) in written.iter().zip(planned) {
        assert_eq!(std::fs::metadata(&file.path).expect("there").len(), len);
    }
    Ok(written)
}

pub fn options(out: &Path, outtype: impl Into<OutType>) -> Options {
    Options { outtype: outtype.into(), outfile: Some(out.to_owned()), ..Options::default() }
}

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Each tensor's type and hash, and the hash of what stands before the first.
fn hashes(path: &Path) -> (String, BTreeMap<String, (String, String)>) {
    let bytes = std::fs::read(path).expect("reads");
    let gguf = Gguf::parse(&bytes).expect("our reader takes it");
    let start = gguf.tensors.first().expect("tensors").offset as usize;
    let tensor = |t: &tmax_ckpt::gguf::reader::TensorEntry| {
        let at = t.offset as usize;
        let hash = hex(&bytes[at..at + t.len_bytes as usize]);
        (t.spec.name.clone(), (t.spec.tensor_type.name().to_owned(), hash))
    };
    (hex(&bytes[..start]), gguf.tensors.iter().map(tensor).collect())
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Json)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("parses");
    edit(&mut value);
    std::fs::write(path, value.to_string()).expect("writes");
}

type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// Rewrites the single safetensors file of `dir`.
pub fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut Tensors)) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).expect("reads");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("parses");
    let own = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    let mut tensors: Tensors = file.tensors().into_iter().map(own).collect();
    edit(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data);
        (name.as_str(), view.expect("fits"))
    });
    let bytes = safetensors::serialize(views, None).expect("serialises");
    std::fs::write(&path, bytes).expect("writes");
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("lists");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn every_byte_is_the_converters() {
    let text = std::fs::read_to_string(fixture("golden.json")).expect("golden hashes");
    let golden: BTreeMap<String, Json> = serde_json::from_str(&text).expect("parses");
    let dir = tempfile::tempdir().expect("a temp dir");
    let mut compared = 0;
    for (kind, contents) in [
        ("tied", Contents::Text),
        ("untied", Contents::Text),
        ("vl", Contents::Text),
        ("qwen3", Contents::Text),
        ("vl", Contents::Mmproj),
    ] {
        let stem = if contents == Contents::Mmproj { "mmproj" } else { kind };
        for (type_name, outtype) in OUT_TYPES {
            let label = format!("{stem}-{type_name}");
            let out = dir.path().join(format!("{label}.gguf"));
            let options = Options { contents, ..options(&out, *outtype) };
            export(&fixture(kind), &options).expect("exports");
            let (head, tensors) = hashes(&out);
            let expected = &golden[&label];
            for (name, (tensor_type, hash)) in &tensors {
                assert_eq!(expected["tensors"][name], json!([tensor_type, hash]), "{label} {name}");
            }
            assert_eq!(expected["tensors"].as_object().expect("a map").len(), tensors.len());
            assert_eq!(expected["head"], json!(head), "keys or tensor table of {label}");
            compared += 1;
        }
    }
    assert_eq!(compared, golden.len());
}

#[test]
fn a_foreign_reader_agrees_with_ours() {
    let dir = tempfile::tempdir().expect("a temp dir");
    for kind in ["tied", "vl", "qwen3"] {
        let out = dir.path().join(format!("{kind}.gguf"));
        export(&fixture(kind), &options(&out, FileType::Q8_0)).expect("exports");
        let ours = Gguf::open(&out).expect("reads");
        let path = out.to_str().expect("a plain path");
        let mut container = gguf_rs::get_gguf_container_array_size(path, u64::MAX).expect("opens");
        let theirs = container.decode().expect("decodes");
        assert_eq!(theirs.num_kv(), ours.metadata.len() as u64);
        assert_eq!(theirs.data_offset(), ours.tensors[0].offset);
        for (a, b) in ours.tensors.iter().zip(theirs.tensors()) {
            assert_eq!(a.spec.name, b.name);
            assert_eq!(a.spec.tensor_type.id(), b.kind);
            assert_eq!(a.spec.shape.iter().rev().copied().collect::<Vec<_>>(), b.shape);
            assert_eq!((a.offset - ours.tensors[0].offset, a.len_bytes), (b.offset, b.size));
        }
        assert_eq!(ours.tensors.len(), theirs.tensors().len());
        for (key, value) in ours.metadata.iter() {
            let Value::Str(text) = value else { continue };
            assert_eq!(theirs.metadata()[key].as_str(), Some(text.as_str()), "{key}");
        }
    }
}

#[test]
fn default_names_are_llama_cpps_and_go_to_the_folder_given() {
    let dir = tempfile::tempdir().expect("a temp dir");
    export(&fixture("vl"), &options(dir.path(), OutType::Auto)).expect("exports");
    let mmproj = Options { contents: Contents::Mmproj, ..options(dir.path(), FileType::F16) };
    export(&fixture("vl"), &mmproj).expect("exports");
    let template = dir.path().join("m.{ftype}.{FTYPE}.gguf");
    export(&fixture("qwen3"), &options(&template, FileType::Q8_0)).expect("exports");
    assert_eq!(names(dir.path()), ["Vl-234K-BF16.gguf", "m.q8_0.Q8_0.gguf", "mmproj-Vl-F16.gguf"]);
}

#[test]
fn splits_hold_the_same_tensors_and_name_themselves() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (whole, split) = (dir.path().join("whole.gguf"), dir.path().join("split.gguf"));
    export(&fixture("vl"), &options(&whole, FileType::BF16)).expect("exports");
    let with_limit = Options { split_max_bytes: Some(100_000), ..options(&split, FileType::BF16) };
    let written = export(&fixture("vl"), &with_limit).expect("exports");
    let count = written.len();
    assert!(count > 3, "{count}");
    let whole_hashes = hashes(&whole).1;
    let mut joined = BTreeMap::new();
    for (i, file) in written.iter().enumerate() {
        let name = file.path.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(name, format!("split-{:05}-of-{count:05}.gguf", i + 1));
        let gguf = Gguf::open(&file.path).expect("reads");
        assert_eq!(gguf.metadata.get("split.no"), Some(&Value::U16(i as u16)));
        assert_eq!(gguf.metadata.get("split.count"), Some(&Value::U16(count as u16)));
        let total = Value::I32(whole_hashes.len() as i32);
        assert_eq!(gguf.metadata.get("split.tensors.count"), Some(&total));
        assert_eq!(gguf.metadata.len() == 3, i > 0, "all other keys are in the first file");
        let bytes: u64 = gguf.tensors.iter().map(|t| t.len_bytes).sum();
        assert!(bytes <= 100_000, "{bytes}");
        joined.extend(hashes(&file.path).1);
    }
    assert_eq!(joined, whole_hashes);
    let roomy = Options { split_max_bytes: Some(1 << 40), ..options(&split, FileType::BF16) };
    assert_eq!(export(&fixture("vl"), &roomy).expect("exports")[0].path, split);
}

#[test]
fn mtp_is_counted_from_the_tensors() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = copy("untied", &dir);
    edit_json(&ckpt.join("config.json"), |config| config["mtp_num_hidden_layers"] = json!(1));
    let out = dir.path().join("declared.gguf");
    export(&ckpt, &options(&out, FileType::BF16)).expect("exports");
    let declared = Gguf::open(&out).expect("reads");
    assert_eq!(declared.metadata.get("qwen35.block_count"), Some(&Value::U32(4)));
    assert_eq!(declared.metadata.get("qwen35.nextn_predict_layers"), None);

    let without = dir.path().join("without.gguf");
    let drop = Options { mtp: Mtp::Drop, ..options(&without, FileType::BF16) };
    export(&fixture("vl"), &drop).expect("exports");
    let without = Gguf::open(&without).expect("reads");
    assert_eq!(without.metadata.get("qwen35.block_count"), Some(&Value::U32(4)));
    assert!(without.tensors.iter().all(|t| !t.spec.name.starts_with("blk.4.")));
}

#[test]
fn a_duplicate_of_a_tied_head_is_left_out() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = copy("tied", &dir);
    let plain = dir.path().join("plain.gguf");
    export(&ckpt, &options(&plain, FileType::Q8_0)).expect("exports");
    edit_tensors(&ckpt, |tensors| {
        let embedding = tensors["model.language_model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    let out = dir.path().join("duplicate.gguf");
    export(&ckpt, &options(&out, FileType::Q8_0)).expect("exports");
    assert!(std::fs::read(&plain).expect("reads") == std::fs::read(&out).expect("reads"));
}

#[test]
fn every_layout_of_the_names_gives_the_same_tensors() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = copy("tied", &dir);
    let plain = dir.path().join("plain.gguf");
    export(&ckpt, &options(&plain, FileType::BF16)).expect("exports");
    for prefix in ["model.", "model.language_model.language_model.language_model."] {
        let other = tempfile::tempdir().expect("a temp dir");
        let ckpt = copy("tied", &other);
        edit_tensors(&ckpt, |tensors| {
            let renamed = std::mem::take(tensors)
                .into_iter()
                .map(|(name, data)| (name.replace("model.language_model.", prefix), data));
            *tensors = renamed.collect();
        });
        let out = other.path().join("other.gguf");
        export(&ckpt, &options(&out, FileType::BF16)).expect("exports");
        assert_eq!(hashes(&out), hashes(&plain), "{prefix}");
    }
}

#[test]
fn a_nan_stops_before_the_file_has_its_name() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = copy("untied", &dir);
    edit_tensors(&ckpt, |tensors| {
        let (_, shape, data) = tensors.get_mut("model.layers.1.mlp.up_proj.weight").expect("there");
        let at = (5 * shape[1] + 3) * 2;
        data[at..at + 2].copy_from_slice(&[0xc0, 0x7f]);
    });
    let out = tempfile::tempdir().expect("a temp dir");
    let error = export(&ckpt, &options(&out.path().join("x.gguf"), FileType::Q8_0));
    let error = error.expect_err("a NaN cannot be quantised");
    assert_eq!(error.kind(), Kind::BadData);
    assert_eq!(
        error.to_string(),
        "tensor `model.layers.1.mlp.up_proj.weight` has NaN in row 5, which Q8_0 cannot hold"
    );
    assert!(names(out.path()).is_empty());
    export(&ckpt, &options(&out.path().join("x.gguf"), FileType::BF16)).expect("bf16 holds a NaN");
}

#[test]
fn a_value_too_large_for_the_type_is_refused() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = copy("untied", &dir);
    edit_tensors(&ckpt, |tensors| {
        let (_, shape, data) = tensors.get_mut("model.layers.1.mlp.up_proj.weight").expect("there");
        let at = (5 * shape[1] + 3) * 2;
        data[at..at + 2].copy_from_slice(&0x4b80_u16.to_le_bytes());
    });
    let out = tempfile::tempdir().expect("a temp dir");
    // 2^24 is 256 times what f16 holds, and its block's scale would be twice that.
    for (outtype, name) in [(FileType::F16, "F16"), (FileType::Q8_0, "Q8_0")] {
        let error = export(&ckpt, &options(&out.path().join("x.gguf"), outtype));
        let error = error.expect_err("it would become infinite");
        assert_eq!(
            error.to_string(),
            format!(
                "tensor `model.layers.1.mlp.up_proj.weight` has 16777216 in row 5, which {name} \
                 cannot hold"
            )
        );
        assert!(names(out.path()).is_empty());
    }
    export(&ckpt, &options(&out.path().join("x.gguf"), FileType::BF16)).expect("bf16 holds it");
}

#[test]
fn a_cancelled_export_has_no_name_and_the_next_one_goes_on() {
    let out = tempfile::tempdir().expect("a temp dir");
    let checkpoint = Checkpoint::open(&fixture("vl")).expect("opens");
    let clean = out.path().join("clean.gguf");
    export(&fixture("vl"), &options(&clean, FileType::Q8_0)).expect("exports");
    let wanted = std::fs::read(&clean).expect("reads");
    let path = out.path().join("x.gguf");
    let plan = plan(&checkpoint, &options(&path, FileType::Q8_0)).expect("plans");
    let cancel = Cancel::default();
    cancel.set();
    let error = run(&plan, &Silent, &cancel).expect_err("cancelled");
    assert_eq!((error.kind(), error.id()), (Kind::Interrupted, "interrupted"));
    let part = out.path().join(".x.gguf.tmax-ckpt.part");
    assert!(!path.exists() && part.exists());

    // What a kill leaves: some right bytes, some that never arrived.
    let mut half = wanted.clone();
    let (middle, three_quarters) = (half.len() / 2, half.len() * 3 / 4);
    half[middle..three_quarters].fill(0);
    std::fs::write(&part, &half).expect("writes");
    run(&plan, &Silent, &Cancel::default()).expect("goes on");
    assert!(std::fs::read(&path).expect("reads") == wanted && !part.exists());

    // What another plan left is not taken over.
    std::fs::remove_file(&path).expect("removes");
    std::fs::write(&part, vec![7; wanted.len() + 5]).expect("writes");
    run(&plan, &Silent, &Cancel::default()).expect("writes anew");
    assert!(std::fs::read(&path).expect("reads") == wanted);
}

#[test]
fn a_finished_export_is_compared_and_anything_else_is_not_overwritten() {
    let out = tempfile::tempdir().expect("a temp dir");
    let path = out.path().join("x.gguf");
    let export = |outtype| export(&fixture("tied"), &options(&path, outtype));
    assert_eq!(export(FileType::Q8_0).expect("writes")[0].found, Output::Free);
    let before = std::fs::metadata(&path).expect("stats").modified().expect("a time");
    let wanted = std::fs::read(&path).expect("reads");
    assert_eq!(export(FileType::Q8_0).expect("compares")[0].found, Output::Finished);
    assert_eq!(std::fs::metadata(&path).expect("stats").modified().expect("a time"), before);

    let refused = |outtype| {
        let error = export(outtype).expect_err("must refuse");
        assert_eq!((error.kind(), error.id()), (Kind::Usage, "output_exists"), "{error}");
    };
    refused(FileType::BF16);
    for at in [wanted.len() - 64, 100] {
        let mut other = wanted.clone();
        other[at] ^= 1;
        std::fs::write(&path, &other).expect("writes");
        refused(FileType::Q8_0);
        assert!(std::fs::read(&path).expect("reads") == other, "was touched");
    }
    std::fs::write(&path, "a letter").expect("writes");
    refused(FileType::Q8_0);
    assert_eq!(names(out.path()), ["x.gguf"]);
}

#[test]
fn what_would_not_load_is_refused_before_writing() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage, Contents, &str); 6] = [
        (
            "untied",
            |d| edit_tensors(d, |t| drop(t.remove("model.norm.weight"))),
            Contents::Text,
            "`model.norm.weight` is missing",
        ),
        (
            "untied",
            |d| {
                edit_tensors(d, |t| {
                    let norm = t["model.norm.weight"].clone();
                    t.insert("model.layers.0.router.weight".into(), norm);
                })
            },
            Contents::Text,
            "model.layers.0.router.weight",
        ),
        (
            "untied",
            |d| std::fs::remove_file(d.join("tokenizer.json")).expect("removes"),
            Contents::Text,
            "tokenizer.json",
        ),
        (
            "untied",
            |d| {
                edit_json(&d.join("tokenizer.json"), |t| {
                    t["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("\\s+");
                })
            },
            Contents::Text,
            "pre-tokenizer is not known",
        ),
        ("untied", |_| {}, Contents::Mmproj, "no vision tower"),
        (
            "vl",
            |d| std::fs::remove_file(d.join("preprocessor_config.json")).expect("removes"),
            Contents::Mmproj,
            "image_mean",
        ),
    ];
    for (kind, damage, contents, expected) in cases {
        let (dir, out) = (tempfile::tempdir().expect("a dir"), tempfile::tempdir().expect("a dir"));
        let ckpt = copy(kind, &dir);
        damage(&ckpt);
        let options = Options { contents, ..options(out.path(), FileType::BF16) };
        let error = export(&ckpt, &options).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.help().is_empty(), "{error} has no help");
        assert!(names(out.path()).is_empty());
    }
}

#[test]
fn a_retrained_tokenizer_is_known_by_its_expression() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = copy("qwen3", &dir);
    edit_json(&ckpt.join("tokenizer.json"), |tokenizer| {
        let model = &mut tokenizer["model"];
        model["merges"].as_array_mut().expect("merges").push(json!(["a", "b"]));
        model["vocab"]["ab"] = json!(300);
    });
    let out = dir.path().join("x.gguf");
    export(&ckpt, &options(&out, FileType::F16)).expect("exports");
    let gguf = Gguf::open(&out).expect("reads");
    assert_eq!(gguf.metadata.get("tokenizer.ggml.pre"), Some(&Value::Str("qwen2".into())));
}
