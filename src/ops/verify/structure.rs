//! Tensors against the table and the config, files against the index.

use std::path::Path;

use super::{Check, Finding};
use crate::arch::Part;
use crate::checkpoint::expect::{Problem, compare};
use crate::checkpoint::{Checkpoint, ShardFile};
use crate::error::{Kind, Result};
use crate::name::escape;
use crate::safetensors::{INDEX_FILE, Index};

/// Adds what is wrong with the tensors of a checkpoint that opens.
pub(super) fn check(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    let mut parts = vec![Part::Text];
    if checkpoint.has_vision() {
        parts.push(Part::Vision);
    }
    if checkpoint.mtp_layers_present() > 0 {
        parts.push(Part::Mtp);
    }
    if checkpoint.has_vision() && checkpoint.config.vision.is_none() {
        parts.retain(|part| *part != Part::Vision);
        let message = "vision tensors are there, config.json has no vision_config";
        findings.push(Finding::warning(Check::Config, "vision_config", message));
    }
    for problem in compare(&checkpoint.config, checkpoint.tensors(), &parts) {
        findings.push(Finding::error(Check::Tensors, problem.tensor(), describe(&problem)));
    }
    check_index(checkpoint, findings);
    check_strays(checkpoint, findings);
}

/// The problem without the name in front, which the finding's subject is.
fn describe(problem: &Problem) -> String {
    let text = problem.to_string();
    let name = format!("`{}` ", problem.tensor());
    text.strip_prefix(&name).unwrap_or(&text).to_owned()
}

fn check_index(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    let Some(index) = &checkpoint.set().index else { return };
    let real: u64 = checkpoint.tensors().iter().map(|t| t.len_bytes()).sum();
    if let Some(claimed) = index.total_size_bytes.filter(|claimed| *claimed != real) {
        let message = format!("says total_size {claimed}, the tensors have {real} bytes");
        findings.push(Finding::warning(Check::Files, INDEX_FILE, message));
    }
}

/// Safetensors files that no loader with an index reads, and that others may.
fn check_strays(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    for name in safetensors_in(&checkpoint.dir) {
        if !checkpoint.files().iter().any(|file| file.name == name) {
            let message = "is not part of the checkpoint, and some loaders read it all the same";
            findings.push(Finding::warning(Check::Files, escape(&name), message));
        }
    }
}

/// Adds what else is wrong with files when the checkpoint does not open: opening stops at the
/// first fault.
///
/// # Errors
/// A file that this process may not read.
pub(super) fn remaining_faults(dir: &Path, findings: &mut Vec<Finding>) -> Result<()> {
    let mut headers = Vec::new();
    for name in safetensors_in(dir) {
        match ShardFile::open(&dir.join(&name)) {
            Ok(file) => headers.push((name, file.header)),
            Err(error) if error.kind() == Kind::Auth => return Err(error),
            Err(error) => {
                // A file that cannot be opened has no cause but itself.
                let causes = error.causes();
                let cause = if causes.is_empty() { error.to_string() } else { causes.join(": ") };
                findings.push(Finding::error(Check::Files, escape(&name), cause));
            }
        }
    }
    if let Ok(index) = Index::read(&dir.join(INDEX_FILE)) {
        let present: Vec<_> = headers.iter().map(|(name, h)| (name.as_str(), h)).collect();
        let mut mapped = index.faults(&present);
        mapped.retain(|_| index.shards().iter().all(|s| present.iter().any(|(n, _)| n == s)));
        for fault in mapped.into_iter().skip(1) {
            findings.push(Finding::error(Check::Files, INDEX_FILE, fault.to_string()));
        }
    }
    Ok(())
}

fn safetensors_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    names.sort();
    names
}
