//! Which tensor goes into which file of an output folder, and in what order.

use std::collections::BTreeMap;

use crate::checkpoint::Tensor;
use crate::dtype::Dtype;
use crate::name::TensorName;
use crate::safetensors::{FileLayout, Index, NewTensor, shard_file_name, torch_metadata};

/// The size above which transformers starts a new file.
pub const MAX_SHARD_BYTES: u64 = 50_000_000_000;

/// A tensor on its way to an output file.
#[derive(Debug, Clone)]
pub struct OutputTensor {
    /// Where it comes from.
    pub source: Tensor,
    /// The name it is stored under.
    pub stored: TensorName,
    /// The type it is stored in.
    pub dtype: Dtype,
}

/// A file to be written.
#[derive(Debug, Clone)]
pub struct OutputFile {
    /// Its name in the output folder.
    pub name: String,
    /// Its tensors in the order of their bytes.
    pub tensors: Vec<OutputTensor>,
    /// Where each of them stands.
    pub layout: FileLayout,
}

/// Packs tensors into files of at most `max_shard_bytes` of data, one tensor at least in each.
///
/// Files are filled in the order of the canonical names; inside a file wider types come first,
/// which keeps every tensor aligned, then names. The index is there for more than one file.
#[must_use]
pub fn pack(
    mut tensors: Vec<OutputTensor>,
    max_shard_bytes: u64,
) -> (Vec<OutputFile>, Option<Index>) {
    tensors.sort_by(|a, b| a.source.name.cmp(&b.source.name));
    let mut shards: Vec<Vec<OutputTensor>> = Vec::new();
    let mut filled = u64::MAX;
    for tensor in tensors {
        let len = new_tensor(&tensor).len_bytes();
        match shards.last_mut() {
            Some(shard) if filled.saturating_add(len) <= max_shard_bytes => {
                shard.push(tensor);
                filled += len;
            }
            _ => {
                shards.push(vec![tensor]);
                filled = len;
            }
        }
    }
    let count = shards.len();
    let files: Vec<OutputFile> = shards
        .into_iter()
        .enumerate()
        .map(|(at, tensors)| lay_out(shard_file_name(at + 1, count), tensors))
        .collect();
    let index = (count > 1).then(|| index_of(&files));
    (files, index)
}

fn lay_out(name: String, mut tensors: Vec<OutputTensor>) -> OutputFile {
    tensors.sort_by(|a, b| {
        b.dtype.size_bytes().cmp(&a.dtype.size_bytes()).then_with(|| a.stored.cmp(&b.stored))
    });
    let new: Vec<NewTensor> = tensors.iter().map(new_tensor).collect();
    let layout = FileLayout::new(&new, &torch_metadata());
    OutputFile { name, tensors, layout }
}

fn new_tensor(tensor: &OutputTensor) -> NewTensor {
    NewTensor {
        name: tensor.stored.clone(),
        dtype: tensor.dtype,
        shape: tensor.source.shape.clone(),
    }
}

fn index_of(files: &[OutputFile]) -> Index {
    let mut weight_map = BTreeMap::new();
    let mut total = 0;
    for file in files {
        total += file.tensors.iter().map(|t| new_tensor(t).len_bytes()).sum::<u64>();
        weight_map.extend(file.tensors.iter().map(|t| (t.stored.clone(), file.name.clone())));
    }
    Index { total_size_bytes: Some(total), weight_map }
}
