//! diff and inspect on generated checkpoints.

use tmax_ckpt::arch::{Namespace, Part};
use tmax_ckpt::checkpoint::{Checkpoint, TensorSet};
use tmax_ckpt::dtype::Dtype;
use tmax_ckpt::ops::diff::diff;
use tmax_ckpt::ops::inspect::{FileHead, summarise};
use tmax_ckpt::ops::reshard;
use tmax_ckpt::progress::{Cancel, Silent};

use crate::checkpoint::{
    new_tensor, promised, renamed, tiny_config, write_checkpoint, write_shard,
};

fn write_values(path: &std::path::Path, values: &[f32]) {
    write_shard(path, &[new_tensor("x", Dtype::F32, &[values.len() as u64])]);
    let mut bytes = std::fs::read(path).expect("reads");
    let start = bytes.len() - 4 * values.len();
    for (i, value) in values.iter().enumerate() {
        bytes[start + 4 * i..start + 4 * i + 4].copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(path, bytes).expect("writes");
}

#[test]
fn differences_are_measured_exactly() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let (a, b) = (dir.path().join("a.safetensors"), dir.path().join("b.safetensors"));
    write_values(&a, &[3.0, 4.0, 0.0, -0.0]);
    write_values(&b, &[3.0, 4.5, 0.0, 0.0]);
    let sets = (TensorSet::open(&a).expect("opens"), TensorSet::open(&b).expect("opens"));
    let found = diff(&sets.0, &sets.1, &Silent);
    assert_eq!((found.identical, found.changed.len()), (0, 1));
    let x = &found.changed[0];
    assert_eq!((x.changed, x.max_abs, x.rel_l2), (2, Some(0.5), Some(0.1)));
    let zero = dir.path().join("zero.safetensors");
    write_values(&zero, &[0.0; 4]);
    let zero = TensorSet::open(&zero).expect("opens");
    assert_eq!(diff(&zero, &sets.0, &Silent).changed[0].rel_l2, None);
    assert!(diff(&sets.0, &sets.0, &Silent).is_empty());
}

/// A NaN takes part in no comparison: without a count it would look like no difference.
#[test]
fn nan_is_counted_and_never_passes_for_equal() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let of = |name: &str, values: &[f32]| {
        let path = dir.path().join(name);
        write_values(&path, values);
        TensorSet::open(&path).expect("opens")
    };
    let (sound, nan) = (of("a.safetensors", &[1.0; 4]), of("b.safetensors", &[f32::NAN; 4]));
    let found = diff(&sound, &nan, &Silent);
    let x = &found.changed[0];
    assert_eq!((x.changed, x.nan_a, x.nan_b, x.rel_l2), (4, 0, 4, None));
    // The same bits are no difference, and yet no sound tensor.
    let same = diff(&nan, &nan, &Silent);
    assert_eq!((same.identical, same.is_empty()), (1, true));
    assert_eq!(same.nan, ["x"]);
    for (pair, told) in [
        (["a.safetensors", "b.safetensors"], &["NaN in 1 tensor of either: x", "NaN 0 → 4"][..]),
        (["b.safetensors", "b.safetensors"], &["NaN in 1 tensor of either: x"]),
    ] {
        let output = crate::cli::binary(dir.path()).arg("diff").args(pair).output();
        let text = String::from_utf8_lossy(&output.expect("runs").stdout).into_owned();
        assert!(text.starts_with("1 tensor in both: "), "{text}");
        assert!(told.iter().all(|words| text.contains(words)), "{text}");
    }
}

#[test]
fn layouts_do_not_matter_and_types_are_compared_after_widening() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(false, true);
    let canonical = promised(&config, &[Part::Text, Part::Vision]);
    let (a, b, wide) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("wide"));
    write_checkpoint(&a, &config, &canonical);
    let path = a.join("model.safetensors");
    let options = reshard::Options { dtype: Some(Dtype::F32), ..reshard::Options::default() };
    let checkpoint = Checkpoint::open(&a).expect("opens");
    let plan = reshard::plan(&checkpoint, &wide, &options).expect("plans");
    plan.assembly.run(checkpoint.set(), "export", &Silent, &Cancel::default()).expect("writes");
    let wide = Checkpoint::open(&wide).expect("opens");
    let found = diff(checkpoint.set(), wide.set(), &Silent);
    assert_eq!(found.identical, 0);
    assert!(found.changed.iter().all(|t| t.changed == 0 && t.rel_l2 == Some(0.0)));
    assert!(!found.is_empty(), "another type is a difference");
    assert_eq!(found.layers.len(), 4);

    // The values are made from the stored names, so another layout has other values.
    let text: Vec<_> =
        canonical.iter().filter(|t| !t.name.as_str().contains("visual")).cloned().collect();
    write_checkpoint(&b, &config, &renamed(&text, |n| Namespace::Composite.stored(n)));
    let other = Checkpoint::open(&b).expect("opens");
    let found = diff(checkpoint.set(), other.set(), &Silent);
    assert_eq!(found.removed.len(), canonical.len() - text.len());
    assert_eq!(found.changed.len(), text.len() - 1, "all but lm_head, which keeps its name");
    let relative: Vec<f64> = found.changed.iter().map(|t| t.rel_l2.expect("floats")).collect();
    assert!(relative.is_sorted_by(|p, q| p >= q), "the most changed come first");
    assert!(path.exists());
}

#[test]
fn a_summary_counts_every_tensor_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let config = tiny_config(false, true);
    write_checkpoint(
        dir.path(),
        &config,
        &promised(&config, &[Part::Text, Part::Vision, Part::Mtp]),
    );
    let checkpoint = Checkpoint::open(dir.path()).expect("opens");
    let heads: Vec<FileHead<'_>> = checkpoint
        .files()
        .iter()
        .map(|f| FileHead { name: &f.name, len_bytes: f.len_bytes(), header: &f.header })
        .collect();
    let readme = Some(&b"---\nlicense: apache-2.0\n---\n"[..]);
    let (summary, _) = summarise(&heads, Some(&checkpoint.config), readme).expect("summarises");
    let names: Vec<&str> = summary.parts.iter().map(|p| p.total.name.as_str()).collect();
    assert_eq!(names, ["text", "mtp", "vision"]);
    let parameters: u64 = summary.parts.iter().map(|p| p.total.parameters).sum();
    assert_eq!(parameters, summary.total.parameters);
    let groups: u64 = summary.parts[0].groups.iter().map(|g| g.len_bytes).sum();
    assert_eq!(groups, summary.parts[0].total.len_bytes);
    assert_eq!((summary.linear_layers, summary.full_layers), (3, 1));
    assert_eq!(summary.license.as_deref(), Some("apache-2.0"));
    let (bare, _) = summarise(&heads, None, None).expect("summarises");
    assert_eq!(bare.parts[0].total.tensors, bare.total.tensors);
}
