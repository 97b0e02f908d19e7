//! Moving the bytes of a [`Plan`]: ranges that stay as they are, all others as slabs of rows,
//! several at a time. What was written is read back and compared.
//!
//! A file is written under a hidden name, where the next run of the same plan finds it and writes
//! only what is not there yet. A file that has its name already is compared, never written.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rayon::prelude::{IntoParallelIterator as _, ParallelIterator as _};

use super::ExportError;
use super::plan::{Plan, PlannedFile, PlannedTensor};
use super::transforms::permute_columns;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::{Dtype, first_overflow, narrow_from_f32, widen_to_f32};
use crate::error::{Kind, Result};
use crate::fsio::{self, ResumableFile, Stretch};
use crate::gguf::TensorType;
use crate::name::escape;
use crate::ops::OpError;
use crate::ops::assemble::Output;
use crate::progress::{Cancel, Progress, Unit};
use crate::quant;

/// Bytes that one step of work writes: small enough for the cache and for smooth progress.
const SLAB_BYTES: u64 = 2 << 20;

/// Bytes that one job copies: what was written is read back while it is in the cache.
const COPY_BYTES: u64 = 1 << 20;

/// Bytes compared at a time.
const COMPARE_BYTES: usize = 1 << 20;

/// A file that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The path.
    pub path: PathBuf,
    /// Its length.
    pub len_bytes: u64,
    /// What was there before: if [`Output::Finished`], it was compared and not written.
    pub found: Output,
}

/// Looks at what has the names of a plan's files, without reading tensors.
///
/// # Errors
/// [`OpError::taken`] for something that cannot be what would be written.
pub fn check_outputs(plan: &Plan<'_>) -> Result<Vec<Output>> {
    let check = |file: &PlannedFile| {
        if file.path.symlink_metadata().is_err() {
            return Ok(Output::Free);
        }
        match fsio::open_regular(&file.path) {
            Ok((found, _)) if holds_head(&found, file) => Ok(Output::Finished),
            _ => Err(OpError::taken(&file.path).into()),
        }
    };
    plan.files.iter().map(check).collect()
}

fn holds_head(file: &File, planned: &PlannedFile) -> bool {
    let mut head = vec![0; planned.head.len()];
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == planned.len_bytes)
        && file.read_exact_at(&mut head, 0).is_ok()
        && head == planned.head
}

/// Writes the files of a plan. None has its name before all are complete.
///
/// # Errors
/// [`ExportError::NotFinite`] for a NaN or infinity in a quantised tensor; a file cannot be
/// written, or does not fit on its file system; [`OpError::OutputExists`]. Nothing is left behind
/// then. [`OpError::Interrupted`] when `cancel` is set: what is written stays for the next run.
pub fn run(plan: &Plan<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<Vec<Written>> {
    let found = check_outputs(plan)?;
    let total = plan.len_bytes();
    if let Some(first) = plan.files.first() {
        let missing = |(file, found): (&PlannedFile, &Output)| match found {
            Output::Free => {
                file.len_bytes.saturating_sub(fsio::allocated(&fsio::part_path(&file.path)))
            }
            Output::Finished => 0,
        };
        let needed = plan.files.iter().zip(&found).map(missing).sum();
        fsio::check_space(fsio::parent(&first.path), needed)?;
    }
    progress.start("export gguf", total, Unit::Bytes);
    let mut staged = Vec::new();
    for (file, found) in plan.files.iter().zip(&found) {
        let item = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        progress.item_start(&item, file.len_bytes);
        let work = Work {
            checkpoint: plan.checkpoint,
            planned: file,
            advance: &|bytes| progress.advance(&item, bytes),
            cancel,
        };
        match found {
            Output::Free => staged.push(work.stage()?),
            Output::Finished => work.compare()?,
        }
        let word = if *found == Output::Free { "written" } else { "already done" };
        progress.item_done(&item, word);
    }
    for file in staged {
        file.commit()?;
    }
    progress.finish();
    let written = |(file, found): (&PlannedFile, Output)| {
        let (path, len_bytes) = (file.path.clone(), file.len_bytes);
        Written { path, len_bytes, found }
    };
    Ok(plan.files.iter().zip(found).map(written).collect())
}

/// One file of a run.
struct Work<'a> {
    checkpoint: &'a Checkpoint,
    planned: &'a PlannedFile,
    advance: &'a (dyn Fn(u64) + Sync),
    cancel: &'a Cancel,
}

impl Work<'_> {
    /// Writes the file under its hidden name.
    fn stage(&self) -> Result<ResumableFile> {
        let path = &self.planned.path;
        let staged =
            ResumableFile::open(path)?.ok_or_else(|| OpError::Busy { path: path.clone() })?;
        let resumed = holds_head(staged.file(), self.planned);
        let goal = if resumed { Goal::Resume } else { Goal::Write };
        match self.fill(staged.file(), goal) {
            Ok(()) => Ok(staged),
            Err(error) => {
                if error.kind() != Kind::Interrupted {
                    staged.discard();
                }
                Err(error)
            }
        }
    }

    /// Compares a finished file.
    fn compare(&self) -> Result<()> {
        let path = &self.planned.path;
        let (file, _) = fsio::open_regular(path)?;
        self.fill(&file, Goal::Compare)?;
        let mut end = self.planned.head.len() as u64;
        let ends = self.planned.tensors.iter().map(|t| (t.offset, t.spec.bytes()));
        for (start, len) in ends.chain([(self.planned.len_bytes, Ok(0))]) {
            let padding = vec![0; usize::try_from(start - end).expect("less than the alignment")];
            let target = Target { file: &file, path, goal: Goal::Compare };
            target.holds(end, &padding, &mut [0; 64])?;
            end = start + len.expect("checked when planned");
        }
        Ok(())
    }

    fn fill(&self, file: &File, goal: Goal) -> Result<()> {
        let (planned, path) = (self.planned, &self.planned.path);
        if goal == Goal::Write {
            // Emptied first: what another plan wrote must not be taken for ours.
            fsio::start_over(file, planned.len_bytes).map_err(fsio::Error::io("grow", path))?;
            file.write_all_at(&planned.head, 0).map_err(fsio::Error::io("write", path))?;
        }
        (self.advance)(planned.head.len() as u64);
        let jobs: Vec<Job<'_>> =
            planned.tensors.iter().flat_map(|t| jobs(self.checkpoint, t)).collect();
        let target = Target { file, path, goal };
        let all = || {
            jobs.into_par_iter().try_for_each_init(Scratch::new, |scratch, job| -> Result<()> {
                if self.cancel.is_set() {
                    return Err(OpError::Interrupted.into());
                }
                let bytes = job.run(self.checkpoint, &target, scratch)?;
                (self.advance)(bytes);
                Ok(())
            })
        };
        match goal {
            Goal::Compare => all(),
            Goal::Write | Goal::Resume => fsio::flushing(&[file], all),
        }
    }
}

/// What is to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Nothing of it is there.
    Write,
    /// An earlier run wrote some of it.
    Resume,
    /// It is finished, and only read.
    Compare,
}

/// A file at work.
struct Target<'a> {
    file: &'a File,
    path: &'a Path,
    goal: Goal,
}

impl Target<'_> {
    /// Says whether `want` is there already; `back` is a buffer.
    fn holds(&self, at: u64, want: &[u8], back: &mut [u8]) -> Result<bool> {
        if self.goal == Goal::Write {
            return Ok(false);
        }
        match (self.reads_as(at, want, back)?, self.goal) {
            (false, Goal::Compare) => {
                Err(OpError::OutputExists { path: self.path.to_owned() }.into())
            }
            (holds, _) => Ok(holds),
        }
    }

    /// Reads back what was written of the tensor of this name.
    fn prove(&self, name: &str, at: u64, want: &[u8], back: &mut [u8]) -> Result<()> {
        if self.reads_as(at, want, back)? {
            return Ok(());
        }
        Err(OpError::ProofFailed { tensor: escape(name) }.into())
    }

    fn reads_as(&self, at: u64, want: &[u8], back: &mut [u8]) -> Result<bool> {
        Ok(fsio::holds(self.at(at), want, back).map_err(fsio::Error::io("read", self.path))?)
    }

    fn at(&self, offset: u64) -> Stretch<'_> {
        Stretch { file: self.file, offset }
    }
}

/// A piece of work, independent of all others.
enum Job<'a> {
    /// Bytes that do not change, whole rows of a tensor.
    Copy { name: &'a str, file: usize, from: u64, to: u64, len: u64 },
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

/// Returns the ranges of rows that stay together, as copies.
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
            name: &planned.spec.name,
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
    /// Does the work and returns the bytes that are there now.
    fn run(&self, checkpoint: &Checkpoint, out: &Target<'_>, scratch: &mut Scratch) -> Result<u64> {
        let write = |source| fsio::Error::io("write", out.path)(source);
        match *self {
            Self::Copy { name, file, from, to, len } => {
                let source = &checkpoint.files()[file].mapped;
                let at = |offset| usize::try_from(offset).expect("a map fits the address space");
                let want = &source.bytes()[at(from)..at(from + len)];
                if !out.holds(to, want, &mut scratch.back)? {
                    let from = Stretch { file: source.file(), offset: from };
                    fsio::copy_mapped(from, out.at(to), want).map_err(write)?;
                    out.prove(name, to, want, &mut scratch.back)?;
                }
                Ok(len)
            }
            Self::Rows { planned, first, count } => {
                let tensor = &checkpoint.tensors()[planned.source];
                let data = checkpoint.data(tensor);
                let at = compute(tensor, data, planned, first..first + count, scratch)?;
                if !out.holds(at, &scratch.out, &mut scratch.back)? {
                    out.file.write_all_at(&scratch.out, at).map_err(write)?;
                    out.prove(&planned.spec.name, at, &scratch.out, &mut scratch.back)?;
                }
                Ok(scratch.out.len() as u64)
            }
        }
    }
}

/// Buffers that one thread uses for job after job.
struct Scratch {
    values: Vec<f32>,
    moved: Vec<f32>,
    out: Vec<u8>,
    /// What was written, read back; never empty.
    back: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        let (values, moved, out) = (Vec::new(), Vec::new(), Vec::new());
        Self { values, moved, out, back: vec![0; COMPARE_BYTES] }
    }
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
    let weights = planned.importance.as_deref();
    let Scratch { values, moved, out, .. } = scratch;
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
        encode(out_type, values, weights, target).map_err(|value| ExportError::NotFinite {
            tensor: escape(tensor.stored.as_str()),
            row: source,
            value,
            file_type: out_type.name(),
        })?;
    }
    Ok(at)
}

/// Encodes one row, whose columns the importance matrix may weigh.
///
/// # Errors
/// The first value that the type cannot hold.
fn encode(
    out_type: TensorType,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), f32> {
    match out_type {
        TensorType::F32 => narrow_from_f32(Dtype::F32, values, out),
        TensorType::F16 => narrow_checked(Dtype::F16, values, out)?,
        TensorType::BF16 => narrow_checked(Dtype::Bf16, values, out)?,
        other => {
            let codec = quant::codec(other).expect("only types that can be written are planned");
            codec.quantize(values, importance, out).map_err(|bad| bad.value)?;
        }
    }
    Ok(())
}

/// Narrows a row. A NaN or infinity of the source stays one, as in the peer's converter; a value
/// that only becomes infinite is refused.
fn narrow_checked(dtype: Dtype, values: &[f32], out: &mut [u8]) -> Result<(), f32> {
    narrow_from_f32(dtype, values, out);
    first_overflow(dtype, values, out).map_or(Ok(()), Err)
}
