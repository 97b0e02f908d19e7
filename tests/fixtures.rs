//! The tiny family in `fixtures/`: it is what its README says, and its truth belongs to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tmax_ckpt::arch::{Namespace, Part};
use tmax_ckpt::checkpoint::Checkpoint;
use tmax_ckpt::checkpoint::expect::compare;

/// Step, files of weights, namespace, layers of MTP.
const FAMILY: &[(u32, usize, Namespace, u64)] = &[
    (175, 1, Namespace::Composite, 1),
    (300, 1, Namespace::Nested, 0),
    (400, 2, Namespace::Composite, 1),
    (500, 1, Namespace::Composite, 1),
    (600, 1, Namespace::Composite, 1),
    (620, 1, Namespace::Composite, 0),
    (660, 1, Namespace::Composite, 1),
];

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

fn names_in(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(fixtures(folder)).expect(folder);
    entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

fn truth() -> Value {
    let text = std::fs::read_to_string(fixtures("tiny-truth.json")).expect("the truth");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn each_step_of_the_family_holds_what_its_config_promises() {
    let folders: BTreeSet<String> = FAMILY.iter().map(|f| format!("step_{}", f.0)).collect();
    assert_eq!(names_in("tiny-raw"), folders);
    for &(step, files, namespace, mtp_layers) in FAMILY {
        let dir = fixtures(&format!("tiny-raw/step_{step}"));
        let checkpoint = Checkpoint::open(&dir).expect("a checkpoint");
        let parts = [Part::Text, Part::Mtp, Part::Vision];
        assert_eq!(compare(&checkpoint.config, checkpoint.tensors(), &parts), [], "step_{step}");
        assert_eq!(checkpoint.files().len(), files, "step_{step}");
        assert_eq!(checkpoint.namespace(), Some(namespace), "step_{step}");
        assert_eq!(checkpoint.mtp_layers_present(), mtp_layers, "step_{step}");
        assert!(checkpoint.has_vision(), "step_{step}");
    }
}

#[test]
fn weights_differ_from_step_to_step() {
    let name = "model.layers.3.self_attn.q_proj.weight";
    let weights: BTreeSet<Vec<u8>> = FAMILY
        .iter()
        .map(|f| {
            let dir = fixtures(&format!("tiny-raw/step_{}", f.0));
            let checkpoint = Checkpoint::open(&dir).expect("a checkpoint");
            let tensor = checkpoint.find(name).expect("the tensor");
            checkpoint.data(tensor).to_vec()
        })
        .collect();
    assert_eq!(weights.len(), FAMILY.len());
}

#[test]
fn the_truth_names_every_step_and_task_and_its_best_step_lies_inside() {
    let truth = truth();
    let tasks = names_in("tasks");
    let steps = truth["steps"].as_object().expect("steps");
    let mut means = Vec::new();
    for &(step, ..) in FAMILY {
        let rates = steps[&format!("step_{step}")]["tasks"].as_object().expect("tasks");
        assert_eq!(rates.keys().cloned().collect::<BTreeSet<_>>(), tasks, "step_{step}");
        let rates: Vec<f64> = rates.values().map(|r| r.as_f64().expect("a rate")).collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let written = steps[&format!("step_{step}")]["mean"].as_f64().expect("a mean");
        assert!((mean - written).abs() < 1e-3, "step_{step}: {mean} against {written}");
        means.push(mean);
    }
    assert_eq!(steps.len(), FAMILY.len());
    let best = (0..means.len()).max_by(|&a, &b| means[a].total_cmp(&means[b])).expect("steps");
    assert!(0 < best && best + 1 < means.len(), "{means:?}");
    let others = means.iter().enumerate().filter(|&(i, _)| i != best).map(|(_, &m)| m);
    let second = others.fold(0.0, f64::max);
    assert!(means[best] - second > 0.02, "the best must stand out: {means:?}");
}
