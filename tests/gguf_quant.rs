//! Quantised GGUF files against what llama.cpp's converter and llama-quantize make of the same
//! checkpoints, and the choices that a user has.
//!
//! `fixtures/gguf/golden_quant.json` holds hashes of the peer's files and the types in them, made
//! by `scripts/check-gguf-peer.sh`; nothing of llama.cpp is needed here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::error::{Error, Kind};
use tmax_ckpt::gguf::{FileType, Gguf, Metadata, Value};
use tmax_ckpt::ops::export_gguf::{Choices, Contents, Head, Mix, Options, PlannedTensor, plan};
use tmax_ckpt::units::hex;

use crate::cli::binary;
use crate::gguf::{copy, edit_tensors, export, fixture, names, options};
use crate::gguf_wide::{imatrix_entries, make, write_imatrix};

/// The kinds of checkpoint, and for which of them there is a vision file and an importance matrix.
const KINDS: &[(&str, &[&str])] = &[
    ("tied", &[""]),
    ("untied", &[""]),
    ("vl", &["", "-mmproj"]),
    ("qwen3", &[""]),
    ("wide-tied", &["", "-imatrix"]),
    ("wide-untied", &["", "-imatrix"]),
    ("wide-heads", &["", "-imatrix"]),
    ("wide-vl", &["", "-imatrix", "-mmproj"]),
    ("wide-qwen3", &["", "-imatrix"]),
    ("deep-vl", &["", "-imatrix"]),
    ("deep-qwen3", &["", "-imatrix"]),
];

/// Puts a checkpoint of a kind and its importance matrix below `dir`.
fn prepare(kind: &str, dir: &Path) -> (PathBuf, PathBuf) {
    let imatrix = dir.join(format!("{kind}.imatrix.gguf"));
    if !kind.contains('-') {
        return (fixture(kind), imatrix);
    }
    write_imatrix(&imatrix, &imatrix_entries(kind));
    (make(kind, dir), imatrix)
}

/// `["a", "a", "b"]` as `a*2 b`.
fn runs(types: &[&str]) -> String {
    let run = |chunk: &[&str]| match chunk.len() {
        1 => chunk[0].to_owned(),
        n => format!("{}*{n}", chunk[0]),
    };
    types.chunk_by(|a, b| a == b).map(run).collect::<Vec<_>>().join(" ")
}

/// The types of a plan's matrices, by kind of tensor, in the order of the blocks.
fn types<'a>(tensors: impl Iterator<Item = &'a PlannedTensor>) -> Json {
    let mut types: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for tensor in tensors {
        let parts = tensor.spec.name.split('.');
        let kept = parts.filter(|p| *p != "blk" && !p.bytes().all(|b| b.is_ascii_digit()));
        let stem = kept.collect::<Vec<_>>().join(".");
        types.entry(stem).or_default().push(tensor.spec.tensor_type.name());
    }
    types.retain(|_, names| names.iter().any(|name| *name != "F32"));
    let runs = types.into_iter().map(|(stem, names)| (stem, json!(runs(&names))));
    Json::Object(runs.collect())
}

/// The hash of the head, and that of all names, types and bytes.
fn digests(path: &Path) -> (String, String) {
    let bytes = std::fs::read(path).expect("reads");
    let gguf = Gguf::parse(&bytes).expect("our reader takes it");
    let mut all = Sha256::new();
    for tensor in &gguf.tensors {
        let (spec, at) = (&tensor.spec, tensor.offset as usize);
        all.update(format!("{} {}\n", spec.name, spec.tensor_type.name()));
        all.update(&bytes[at..at + tensor.len_bytes as usize]);
    }
    let head = &bytes[..gguf.tensors[0].offset as usize];
    (hex(&Sha256::digest(head)), hex(&all.finalize()))
}

#[test]
fn every_byte_is_llama_quantizes() {
    let text = std::fs::read_to_string(fixture("golden_quant.json")).expect("golden hashes");
    let golden: BTreeMap<String, Json> = serde_json::from_str(&text).expect("parses");
    let mut compared = 0;
    for (kind, ways) in KINDS {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (source, imatrix) = prepare(kind, dir.path());
        let checkpoint = Checkpoint::open(&source).expect("opens");
        for (way, file_type) in
            ways.iter().flat_map(|way| FileType::all().map(move |file_type| (*way, file_type)))
        {
            let label = format!("{kind}{way}-{}", file_type.word());
            let Some(expected) = golden.get(&label) else { continue };
            let out = dir.path().join("x.gguf");
            let mut options = options(&out, file_type);
            options.imatrix = (way == "-imatrix").then(|| imatrix.clone());
            if way == "-mmproj" {
                options.contents = Contents::Mmproj;
            }
            let plan = plan(&checkpoint, &options).expect("plans");
            assert_eq!(expected["types"], types(plan.tensors()), "{label}");
            if !kind.starts_with("deep") {
                export(&source, &options).expect("exports");
                let (head, data) = digests(&out);
                assert_eq!(expected["data"], json!(data), "{label}");
                if way != "-imatrix" {
                    assert_eq!(expected["head"], json!(head), "keys or tensor table of {label}");
                }
                std::fs::remove_file(&out).expect("removes");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, golden.len());
}

/// The types by kind of tensor that some choices lead to, for `wide-vl`.
fn chosen(file_type: FileType, choices: Choices) -> Result<(Json, Vec<String>), Error> {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (source, _) = prepare("wide-vl", dir.path());
    let checkpoint = Checkpoint::open(&source)?;
    let options = Options { choices, ..options(&dir.path().join("x.gguf"), file_type) };
    let plan = plan(&checkpoint, &options)?;
    Ok((types(plan.tensors()), plan.notes.clone()))
}

fn tensor_types(texts: &[&str]) -> Choices {
    let tensor_types = texts.iter().map(|text| text.parse().expect("parses")).collect();
    Choices { tensor_types, ..Choices::default() }
}

#[test]
fn choices_win_over_the_mixture() {
    let q4 = FileType::Q4_K_M;
    let (types, _) = chosen(q4, Choices::default()).expect("plans");
    assert_eq!(types["output.weight"], json!("Q6_K"));
    assert_eq!(types["ffn_down.weight"], json!("Q4_K*2 Q6_K Q4_K Q6_K"));
    let pure = Choices { mix: Mix::Pure, ..Choices::default() };
    let (types, _) = chosen(q4, pure).expect("plans");
    assert_eq!(types["output.weight"], json!("Q4_K"));
    let left = Choices { head: Head::Left, ..Choices::default() };
    let (types, _) = chosen(q4, left).expect("plans");
    assert_eq!(types["output.weight"], json!("BF16"));
    let named = tensor_types(&[r"blk\.0\.=q8_0", "ffn_=q5_k", "output=f16"]);
    let (types, _) = chosen(q4, named).expect("plans");
    assert_eq!(types["ffn_down.weight"], json!("Q8_0 Q5_K*4"));
    assert_eq!(types["output.weight"], json!("F16"));
    // Floats have no mixture, and choices all the same.
    let (types, _) = chosen(FileType::BF16, tensor_types(&["ffn_up=q8_0"])).expect("plans");
    assert_eq!(types["ffn_up.weight"], json!("Q8_0*5"));
    assert_eq!(types["ffn_gate.weight"], json!("BF16*5"));
}

#[test]
fn rows_that_do_not_fit_are_told() {
    let (types, notes) = chosen(FileType::Q4_K_M, Choices::default()).expect("plans");
    // 6 value heads of 32: 192 columns.
    assert_eq!(types["ssm_out.weight"], json!("Q5_0*3"));
    let told = "3 matrices have rows that are no whole blocks of Q4_K: Q5_0 instead";
    assert!(notes.iter().any(|note| note == told), "{notes:?}");
}

#[test]
fn an_expression_that_matches_nothing_is_an_error() {
    for (text, near) in [
        ("ffn_dwn=q6_k", "did you mean `ffn_down`?"),
        ("self_attn.v_proj=q6_k", "did you mean `attn_v`?"),
        ("attn_norm=q6_k", "--dry-run -v lists"),
        ("zzz=q6_k", "--dry-run -v lists"),
    ] {
        let error = chosen(FileType::Q4_K_M, tensor_types(&["ffn_up=q6_k", text]));
        let error = error.expect_err(text);
        assert_eq!((error.kind(), error.id()), (Kind::Usage, "nothing_matches"), "{text}");
        assert!(error.help().join(" ").contains(near), "{text}: {:?}", error.help());
    }
}

#[test]
fn a_nan_stops_every_quantised_type_before_the_file_has_its_name() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = make("wide-qwen3", dir.path());
    let name = "model.layers.1.mlp.up_proj.weight";
    for (bits, shown) in [([0xc0, 0x7f], "NaN"), ([0x80, 0xff], "-inf")] {
        edit_tensors(&ckpt, |tensors| {
            let (_, shape, data) = tensors.get_mut(name).expect("there");
            let at = (37 * shape[1] + 200) * 2;
            data[at..at + 2].copy_from_slice(&bits);
        });
        let out = tempfile::tempdir().expect("a temp dir");
        for file_type in FileType::all().filter(|t| t.base().block_len() > 1) {
            let mut options = options(&out.path().join("x.gguf"), file_type);
            if file_type == FileType::Q2_K_S {
                options.choices = tensor_types(&[".*=q3_k"]);
            }
            let error = export(&ckpt, &options).expect_err("it cannot be quantised");
            assert_eq!(error.kind(), Kind::BadData);
            let says = format!("tensor `{name}` has {shown} in row 37, which ");
            assert!(error.to_string().starts_with(&says), "{error}");
            assert!(names(out.path()).is_empty());
        }
    }
}

#[test]
fn values_too_large_for_a_scale_are_refused_by_every_quantised_type() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = make("wide-qwen3", dir.path());
    edit_tensors(&ckpt, |tensors| {
        let (_, shape, data) = tensors.get_mut("model.layers.1.mlp.up_proj.weight").expect("there");
        // 2^30: the scale of its block is none that f16 holds, whatever the type.
        let at = (37 * shape[1] + 200) * 2;
        data[at..at + 2].copy_from_slice(&0x4e80_u16.to_le_bytes());
    });
    let out = tempfile::tempdir().expect("a temp dir");
    for file_type in FileType::all().filter(|t| t.base().block_len() > 1) {
        let mut options = options(&out.path().join("x.gguf"), file_type);
        if file_type == FileType::Q2_K_S {
            options.choices = tensor_types(&[".*=q3_k"]);
        }
        let error = export(&ckpt, &options).expect_err("it cannot be quantised");
        assert!(error.to_string().contains("in row 37, which "), "{error}");
        assert!(names(out.path()).is_empty());
    }
}

/// Plans `wide-vl` with an importance matrix that `edit` has changed.
fn with_imatrix(
    file_type: FileType,
    edit: impl FnOnce(&mut BTreeMap<String, u64>),
) -> Result<(Vec<String>, Metadata), Error> {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (source, imatrix) = prepare("wide-vl", dir.path());
    let mut entries = imatrix_entries("wide-vl");
    edit(&mut entries);
    write_imatrix(&imatrix, &entries);
    let checkpoint = Checkpoint::open(&source)?;
    let mut options = options(&dir.path().join("x.gguf"), file_type);
    options.imatrix = Some(imatrix);
    let plan = plan(&checkpoint, &options)?;
    Ok((plan.notes.clone(), plan.metadata.clone()))
}

#[test]
fn an_importance_matrix_is_named_in_the_file_and_what_lacks_in_it_is_told_once() {
    let (notes, metadata) = with_imatrix(FileType::Q4_K_M, |_| {}).expect("plans");
    let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
    let expected = [
        "general.quantization_version",
        "general.file_type",
        "quantize.imatrix.file",
        "quantize.imatrix.dataset",
        "quantize.imatrix.entries_count",
        "quantize.imatrix.chunks_count",
    ];
    assert!(keys.ends_with(&expected), "{keys:?}");
    let value = |key: &str| metadata.get(key).expect("there").clone();
    assert_eq!(value("general.file_type"), Value::U32(15));
    assert_eq!(value("quantize.imatrix.dataset"), Value::Str("text.txt".into()));
    let entries = imatrix_entries("wide-vl").len() as u32;
    assert_eq!(value("quantize.imatrix.entries_count"), Value::U32(entries));
    assert_eq!(value("quantize.imatrix.chunks_count"), Value::U32(3));
    let told: Vec<&String> = notes.iter().filter(|n| n.contains("importance matrix")).collect();
    let [told] = told[..] else { panic!("{notes:?}") };
    // Embedding, head, and the MTP block's eight.
    assert!(told.contains("no entry for 10 matrices"), "{told}");
    assert!(told.contains("output.weight") && told.contains("blk.4.nextn.eh_proj.weight"));
}

#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let short = with_imatrix(FileType::Q4_K_M, |entries| {
        entries.insert("blk.2.ffn_up.weight".into(), 128);
    });
    let error = short.expect_err("too few columns");
    assert_eq!((error.kind(), error.id()), (Kind::Usage, "foreign_imatrix"));
    let says = "its entry for `blk.2.ffn_up.weight` has 128 columns, expected 256";
    assert!(error.to_string().contains(says), "{error}");
    let other = with_imatrix(FileType::Q4_K_M, |entries| {
        *entries = BTreeMap::from([("blk.0.ffn_down_exps.weight".into(), 256)]);
    });
    let error = other.expect_err("no entry fits");
    assert_eq!((error.kind(), error.id()), (Kind::Usage, "foreign_imatrix"));
    assert!(error.help().join(" ").contains("blk.0.ffn_down_exps.weight"), "{:?}", error.help());
}

#[test]
fn two_bits_need_an_importance_matrix_for_every_matrix() {
    let error = chosen(FileType::Q2_K_S, Choices::default()).expect_err("none is given");
    assert_eq!((error.kind(), error.id()), (Kind::Usage, "needs_imatrix"));
    assert!(error.help().join(" ").contains("--imatrix FILE"), "{:?}", error.help());
    let error = with_imatrix(FileType::Q2_K_S, |_| {}).expect_err("it has none for MTP");
    assert!(error.to_string().contains("`blk.4."), "{error}");
    assert!(error.help().join(" ").contains("--no-mtp"), "{:?}", error.help());
    with_imatrix(FileType::Q2_K, |_| {}).expect("the mixture does without");
}

#[test]
fn what_is_no_importance_matrix_is_refused() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let checkpoint = Checkpoint::open(&fixture("tied")).expect("opens");
    for (bytes, id) in [(&b"PK\x03\x04 a zip archive"[..], "bad_imatrix"), (b"", "bad_imatrix")] {
        let path = dir.path().join("x.dat");
        std::fs::write(&path, bytes).expect("writes");
        let mut options = options(&dir.path().join("x.gguf"), FileType::Q4_0);
        options.imatrix = Some(path);
        let error = plan(&checkpoint, &options).expect_err("refused");
        assert_eq!((error.kind(), error.id()), (Kind::BadData, id), "{error}");
        assert!(error.to_string().contains("x.dat is no importance matrix"), "{error}");
    }
    let mut options = options(&dir.path().join("x.gguf"), FileType::Q4_0);
    options.imatrix = Some(dir.path().join("not-there.gguf"));
    assert_eq!(plan(&checkpoint, &options).expect_err("refused").kind(), Kind::NotFound);
}

fn run(home: &Path, args: &[&str]) -> (bool, String, String) {
    let output = binary(home).args(args).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_dry_run_says_every_type_and_the_size_to_the_byte() {
    let home = tempfile::tempdir().expect("a temp dir");
    make("wide-vl", home.path());
    for out_type in ["q4_k_m", "Q3_K_L", "iq4_nl", "q8_0", "bf16"] {
        let file = format!("{out_type}.gguf");
        let args = ["export", "gguf", "wide-vl", "--outtype", out_type, "-o", &file];
        let args = [&args[..], &["--tensor-type", "attn_v=q6_k"]].concat();
        let with = |more: &[&str]| {
            let (success, stdout, stderr) = run(home.path(), &[&args, more].concat());
            assert!(success, "{stderr}");
            stdout
        };
        let (human, listed) = (with(&["-n"]), with(&["-n", "-v"]));
        let planned: Json = serde_json::from_str(&with(&["-n", "--json"])).expect("JSON");
        assert!(!home.path().join(&file).exists());
        let written: Json = serde_json::from_str(&with(&["--json"])).expect("JSON");
        let len = std::fs::metadata(home.path().join(&file)).expect("there").len();
        assert_eq!(planned["total_bytes"], json!(len));
        assert_eq!(planned["tensor_types"], written["tensor_types"]);
        let gguf = Gguf::open(&home.path().join(&file)).expect("reads");
        let told = planned["tensor_types"].as_array().expect("a list");
        assert_eq!(told.len(), gguf.tensors.len());
        for (told, tensor) in told.iter().zip(&gguf.tensors) {
            let tensor_type = tensor.spec.tensor_type.name().to_lowercase();
            assert_eq!(told["name"], json!(tensor.spec.name));
            assert_eq!(told["type"], json!(tensor_type));
            assert_eq!(told["len_bytes"], json!(tensor.len_bytes));
            let line = listed.lines().find(|l| l.contains(&format!(" {} ", tensor.spec.name)));
            assert!(line.expect("listed").contains(&tensor_type), "{line:?}");
        }
        assert!(human.starts_with(&format!("would write {file}  ")), "{human}");
        assert!(human.contains(" bits a weight); ") && human.contains("vision "), "{human}");
        assert!(human.contains("q6_k ") && !human.contains("blk."), "{human}");
    }
}

#[test]
fn a_mistyped_type_gets_a_suggestion() {
    let home = tempfile::tempdir().expect("a temp dir");
    let ckpt = fixture("tied");
    let ckpt = ckpt.to_str().expect("a plain path");
    for (args, says) in [
        (["--outtype", "q4_k_n"], "q4_k_m"),
        (["--outtype", "iq2_xxs"], "available are auto, f32"),
        (["--tensor-type", "attn_v=q4_k_m"], "did you mean `q4_k`?"),
        (["--tensor-type", "attn_v"], "REGEX=TYPE"),
        (["--output-tensor-type", "q6k"], "did you mean `q6_k`?"),
        (["--token-embedding-type", "q9"], "types are f32, f16"),
    ] {
        let all = [&["export", "gguf", ckpt][..], &args].concat();
        let (success, _, stderr) = run(home.path(), &all);
        assert!(!success && stderr.contains(says), "{args:?}: {stderr}");
    }
    assert!(names(home.path()).iter().all(|name| !name.ends_with(".gguf")));
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let ckpt = copy("vl", &dir);
    let whole = dir.path().join("whole.gguf");
    export(&ckpt, &options(&whole, FileType::Q5_1)).expect("exports");
    let threads = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let one = dir.path().join("one.gguf");
    threads.install(|| export(&ckpt, &options(&one, FileType::Q5_1))).expect("exports");
    assert!(std::fs::read(&whole).expect("reads") == std::fs::read(&one).expect("reads"));
}
