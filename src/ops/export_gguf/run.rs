//! Moving the bytes of a [`Plan`]: ranges that stay as they are in the kernel, all others as
//! slabs of rows, several at a time.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use super::ExportError;
use super::plan::{Plan, PlannedFile, PlannedTensor};
use super::transforms::permute_columns;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::{Dtype, narrow_from_f32, widen_to_f32};
use crate::error::Result;
use crate::fsio::{self, AtomicFile};
use crate::gguf::TensorType;
use crate::name::escape;
use crate::progress::{Cancel, Progress, Unit};
use crate::quant::q8_0;

/// Bytes that one step of work writes: small enough for the cache and for smooth progress.
const SLAB_BYTES: u64 = 2 << 20;

/// Bytes that one kernel copy moves.
const COPY_BYTES: u64 = 64 << 20;

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The path.
    pub path: PathBuf,
    /// Its length.
    pub len_bytes: u64,
}

/// Writes the files of a plan. None has its name before all are complete.
///
/// # Errors
/// [`ExportError::NotFinite`] for a NaN or infinity in a quantised tensor;
/// [`ExportError::Interrupted`] when `cancel` is set; a file cannot be written, or does not fit
/// on its file system. Nothing is left behind then.
pub fn run(plan: &Plan<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<Vec<Written>> {
    let total = plan.len_bytes();
    if let Some(first) = plan.files.first() {
        fsio::check_space(fsio::parent(&first.path), total)?;
    }
    progress.start("export gguf", total, Unit::Bytes);
    let mut staged = Vec::new();
    for file in &plan.files {
        let item = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        progress.item_start(&item, file.len_bytes);
        let advance = |bytes| progress.advance(&item, bytes);
        staged.push(stage(plan.checkpoint, file, &advance, cancel)?);
        progress.item_done(&item, "written");
    }
    for file in staged {
        file.commit()?;
    }
    progress.finish();
    let written =
        |file: &PlannedFile| Written { path: file.path.clone(), len_bytes: file.len_bytes };
    Ok(plan.files.iter().map(written).collect())
}

/// Writes a file under a temporary name.
fn stage(
    checkpoint: &Checkpoint,
    planned: &PlannedFile,
    advance: &(dyn Fn(u64) + Sync),
    cancel: &Cancel,
) -> Result<AtomicFile> {
    let path = &planned.path;
    let staged = AtomicFile::create(path)?;
    let file = staged.file();
    file.set_len(planned.len_bytes).map_err(fsio::Error::io("grow", path))?;
    file.write_all_at(&planned.head, 0).map_err(fsio::Error::io("write", path))?;
    advance(planned.head.len() as u64);
    let jobs: Vec<Job<'_>> = planned.tensors.iter().flat_map(|t| jobs(checkpoint, t)).collect();
    jobs.into_par_iter().try_for_each_init(Scratch::default, |scratch, job| -> Result<()> {
        if cancel.is_set() {
            return Err(ExportError::Interrupted.into());
        }
        let bytes = job.run(checkpoint, file, path, scratch)?;
        advance(bytes);
        Ok(())
    })?;
    Ok(staged)
}

/// A piece of work, independent of all others.
enum Job<'a> {
    /// Bytes that do not change, whole rows of a tensor.
    Copy { file: usize, from: u64, to: u64, len: u64 },
    /// Rows that are computed.
    Rows { planned: &'a PlannedTensor, first: u64, count: u64 },
}

/// Cuts the work on one tensor into pieces.
fn jobs<'a>(checkpoint: &Checkpoint, planned: &'a PlannedTensor) -> Vec<Job<'a>> {
    let tensor = &checkpoint.tensors()[planned.source];
    let rows = planned.spec.elements().unwrap_or(0) / planned.row_len;
    let recipe = &planned.recipe;
    let same = stored_type(tensor.dtype) == Some(planned.spec.tensor_type);
    if same && recipe.columns.is_none() && recipe.elementwise.is_none() {
        return copies(tensor, planned, rows);
    }
    let row_bytes = planned.row_len * 4;
    let slab = (SLAB_BYTES / row_bytes).max(1);
    let starts = (0..rows).step_by(usize::try_from(slab).expect("a slab is small"));
    starts.map(|first| Job::Rows { planned, first, count: slab.min(rows - first) }).collect()
}

fn stored_type(dtype: Dtype) -> Option<TensorType> {
    match dtype {
        Dtype::F32 => Some(TensorType::F32),
        Dtype::F16 => Some(TensorType::F16),
        Dtype::Bf16 => Some(TensorType::BF16),
        _ => None,
    }
}

/// Returns the ranges of rows that stay together, as kernel copies.
fn copies<'a>(tensor: &Tensor, planned: &'a PlannedTensor, rows: u64) -> Vec<Job<'a>> {
    let row_bytes = planned.row_len * tensor.dtype.size_bytes() as u64;
    let mut jobs = Vec::new();
    let mut start = 0;
    while start < rows {
        let source = planned.recipe.source_row(start);
        let limit = (COPY_BYTES / row_bytes).max(1).min(rows - start);
        let together = |i: &u64| planned.recipe.source_row(start + i) == source + i;
        let count = if planned.recipe.is_plain() {
            limit
        } else {
            (1..limit).take_while(together).count() as u64 + 1
        };
        jobs.push(Job::Copy {
            file: tensor.file,
            from: tensor.range.start + source * row_bytes,
            to: planned.offset + start * row_bytes,
            len: count * row_bytes,
        });
        start += count;
    }
    jobs
}

impl Job<'_> {
    /// Does the work and returns the bytes written.
    fn run(
        &self,
        checkpoint: &Checkpoint,
        out: &File,
        path: &Path,
        scratch: &mut Scratch,
    ) -> Result<u64> {
        match *self {
            Self::Copy { file, from, to, len } => {
                let source = checkpoint.files()[file].mapped.file();
                fsio::copy_range(source, from, out, to, len)
                    .map_err(fsio::Error::io("write", path))?;
                Ok(len)
            }
            Self::Rows { planned, first, count } => {
                let tensor = &checkpoint.tensors()[planned.source];
                let data = checkpoint.data(tensor);
                let at = compute(tensor, data, planned, first..first + count, scratch)?;
                out.write_all_at(&scratch.out, at).map_err(fsio::Error::io("write", path))?;
                Ok(scratch.out.len() as u64)
            }
        }
    }
}

/// Buffers that one thread uses for job after job.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    moved: Vec<f32>,
    out: Vec<u8>,
}

/// Computes `rows` into the scratch's `out`; returns their offset in the file.
fn compute(
    tensor: &Tensor,
    data: &[u8],
    planned: &PlannedTensor,
    rows: Range<u64>,
    scratch: &mut Scratch,
) -> Result<u64> {
    let small = |n: u64| usize::try_from(n).expect("a row fits in memory");
    let row_len = small(planned.row_len);
    let in_bytes = row_len * tensor.dtype.size_bytes();
    let out_type = planned.spec.tensor_type;
    let out_bytes = small(out_type.bytes(planned.row_len).expect("checked when planned"));
    let Scratch { values, moved, out } = scratch;
    values.resize(row_len, 0.0);
    moved.resize(row_len, 0.0);
    out.resize(out_bytes * small(rows.end - rows.start), 0);
    let at = planned.offset + rows.start * out_bytes as u64;
    for (row, target) in rows.zip(out.chunks_exact_mut(out_bytes)) {
        let source = planned.recipe.source_row(row);
        let from = small(source) * in_bytes;
        widen_to_f32(tensor.dtype, &data[from..from + in_bytes], values);
        if let Some(order) = planned.recipe.columns {
            permute_columns(order, values, moved);
            std::mem::swap(values, moved);
        }
        if let Some(function) = planned.recipe.elementwise {
            values.iter_mut().for_each(|value| *value = function.apply(*value));
        }
        encode(out_type, values, target).map_err(|value| ExportError::NotFinite {
            tensor: escape(tensor.stored.as_str()),
            row: source,
            value,
            file_type: out_type.name(),
        })?;
    }
    Ok(at)
}

/// Encodes one row.
///
/// # Errors
/// The first value that the type cannot hold.
fn encode(out_type: TensorType, values: &[f32], out: &mut [u8]) -> Result<(), f32> {
    match out_type {
        TensorType::Q8_0 => q8_0::quantize(values, out).map_err(|bad| bad.value)?,
        TensorType::F32 => narrow_from_f32(Dtype::F32, values, out),
        TensorType::F16 => narrow_from_f32(Dtype::F16, values, out),
        TensorType::BF16 => narrow_from_f32(Dtype::Bf16, values, out),
        other => unreachable!("{} is never planned", other.name()),
    }
    Ok(())
}
