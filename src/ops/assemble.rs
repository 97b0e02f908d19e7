//! Writes a checkpoint folder out of tensors of another one.
//!
//! Everything is written into a hidden folder beside the output, which gets the output's name
//! by one rename at the end: a killed run leaves no final name. The next run of the same plan
//! finds that folder, keeps every tensor that is already right byte for byte, and goes on.
//! Each tensor is read back after it was written and compared with its source. An output that is
//! already there is compared likewise and left alone: right, or refused.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::error::OpError;
use super::pack::{OutputFile, OutputTensor};
use crate::checkpoint::TensorSet;
use crate::dtype::{first_overflow, narrow_from_f32, widen_to_f32};
use crate::error::Result;
use crate::fsio::{self, Error as FsError, Locked, Stretch};
use crate::progress::{Cancel, Progress, Unit};
use crate::safetensors::{INDEX_FILE, Index};

/// Bytes copied, hashed and compared at a time: what fits the caches.
const CHUNK_BYTES: usize = 1 << 20;

/// A folder to be written.
#[derive(Debug, Clone)]
pub struct Assembly {
    /// The folder.
    pub out: PathBuf,
    /// The files with tensors.
    pub files: Vec<OutputFile>,
    /// The index, if there are several files.
    pub index: Option<Index>,
    /// Config, tokenizer and other small files: name and bytes, in the order of writing.
    pub small: Vec<(String, Vec<u8>)>,
}

/// The proof that a tensor arrived.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TensorProof {
    /// The file that holds it now.
    pub file: String,
    /// The name it is stored under.
    pub name: String,
    /// The BLAKE3 hash, in hex, of its bytes in the source and in the output; after a cast, in the
    /// output.
    pub blake3: String,
    /// Its size in the output.
    pub len_bytes: u64,
}

/// What had the output's name when the work began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Nothing.
    Free,
    /// The files of this very plan.
    Finished,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Done {
    /// What was there: if [`Output::Finished`], it was compared and nothing was written.
    pub found: Output,
    /// The proof of every tensor, in the order of the plan.
    pub proofs: Vec<TensorProof>,
}

/// What all tensors of one run share.
struct Work<'a> {
    set: &'a TensorSet,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    goal: Goal<'a>,
}

/// What is to be done with the output files.
#[derive(Clone, Copy)]
enum Goal<'a> {
    /// They are to be written, but for what an earlier run left.
    Write,
    /// The output of this name is finished, and only read.
    Compare(&'a Path),
}

impl Assembly {
    /// Returns the bytes that the folder will hold.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        let tensors: u64 = self.files.iter().map(|f| f.layout.len_bytes).sum();
        let small: usize = self.small.iter().map(|(_, bytes)| bytes.len()).sum();
        tensors + small as u64 + self.index.as_ref().map_or(0, |i| i.to_bytes().len() as u64)
    }

    /// Looks at what has the output's name, without reading tensors.
    ///
    /// # Errors
    /// [`OpError::taken`] when something is there that cannot be what would be written.
    pub fn check_output(&self) -> Result<Output> {
        let taken = match std::fs::read_dir(&self.out) {
            Ok(mut entries) => entries.next().is_some(),
            Err(_) => self.out.symlink_metadata().is_ok(),
        };
        // `.` and `..` cannot be given to a finished folder by a rename.
        let taken = taken || self.out.file_name().is_none() || fsio::is_link(&self.out);
        match taken {
            false => Ok(Output::Free),
            true if self.looks_finished() => Ok(Output::Finished),
            true => Err(OpError::taken(&self.out).into()),
        }
    }

    /// Says whether the output has the files of this plan and no other, the small ones equal and
    /// those with tensors of the same size and header.
    fn looks_finished(&self) -> bool {
        let index = self.index.iter().map(|index| (INDEX_FILE.to_owned(), index.to_bytes()));
        let small: Vec<(String, Vec<u8>)> = self.small.iter().cloned().chain(index).collect();
        let same = |(name, bytes): &(String, Vec<u8>)| {
            fsio::read_capped(&self.out.join(name), bytes.len() as u64).is_ok_and(|b| b == *bytes)
        };
        let whole = |file: &OutputFile| {
            let opened = File::open(self.out.join(&file.name));
            opened.is_ok_and(|f| holds_header(&f, &file.layout.header, file.layout.len_bytes))
        };
        let mut names: Vec<&str> = small.iter().map(|(name, _)| name.as_str()).collect();
        names.extend(self.files.iter().map(|file| file.name.as_str()));
        fsio::files_below(&self.out).is_ok_and(|found| {
            names.sort_unstable();
            found == names
        }) && small.iter().all(same)
            && self.files.iter().all(whole)
    }

    /// Writes the folder, or finds that it is there already, byte for byte; `job` names the work
    /// to `progress`. Proofs come in the order of the plan, whatever the number of threads.
    ///
    /// # Errors
    /// Something else has the output's name, another run is at work, no space, a failed read or
    /// write, a value that a cast cannot hold, or a copy that differs from its source.
    /// [`OpError::Interrupted`] when `cancel` is set: what is written stays for the next run.
    pub fn run(
        &self,
        set: &TensorSet,
        job: &str,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Done> {
        let found = self.check_output()?;
        let total = self.files.iter().map(|f| f.layout.len_bytes).sum();
        if found == Output::Finished {
            progress.start(job, total, Unit::Bytes);
            let work = Work { set, progress, cancel, goal: Goal::Compare(&self.out) };
            let proofs = work_through(&self.files, &self.out, &work)?;
            progress.finish();
            return Ok(Done { found, proofs });
        }
        let staging = self.staging();
        if !fsio::exists(&staging)? {
            // A refusal leaves nothing behind.
            fsio::check_space(&self.out, self.len_bytes())?;
        }
        let lock = take_lock(&staging, &self.out)?;
        self.remove_strays(&staging)?;
        fsio::check_space(&self.out, self.missing_bytes(&staging))?;
        progress.start(job, total, Unit::Bytes);
        let work = Work { set, progress, cancel, goal: Goal::Write };
        let proofs = work_through(&self.files, &staging, &work)?;
        for (name, bytes) in &self.small {
            fsio::write_atomic(&staging.join(name), bytes)?;
        }
        if let Some(index) = &self.index {
            fsio::write_atomic(&staging.join(INDEX_FILE), &index.to_bytes())?;
        }
        fsio::sync_dir(&staging)?;
        fsio::rename(&staging, &self.out)?;
        drop(lock);
        progress.finish();
        Ok(Done { found, proofs })
    }

    /// The folder that becomes the output.
    fn staging(&self) -> PathBuf {
        fsio::part_path(&self.out)
    }

    /// Bytes that are still to be allocated: a rerun has some already.
    fn missing_bytes(&self, staging: &Path) -> u64 {
        let have = |file: &OutputFile| {
            fsio::allocated(&staging.join(&file.name)).min(file.layout.len_bytes)
        };
        self.len_bytes().saturating_sub(self.files.iter().map(have).sum())
    }

    /// Removes what another plan left in the staging folder.
    fn remove_strays(&self, staging: &Path) -> Result<()> {
        for path in fsio::entries(staging)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !self.files.iter().any(|f| f.name == name) {
                let is_dir = path.is_dir();
                let gone = if is_dir {
                    std::fs::remove_dir_all(&path)
                } else {
                    std::fs::remove_file(&path)
                };
                gone.map_err(FsError::io("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// Makes the staging folder and locks it for this process, by the folder itself: there is no
/// lock file that could be left behind.
fn take_lock(staging: &Path, out: &Path) -> Result<Locked> {
    fsio::create_dir_all(staging)?;
    let dir = File::open(staging).map_err(FsError::io("open", staging))?;
    let lock = Locked::try_new(dir, staging)?;
    Ok(lock.ok_or_else(|| OpError::Busy { path: out.to_owned() })?)
}

/// Writes or compares the tensors of all files, as many at a time as there are threads.
fn work_through(files: &[OutputFile], dir: &Path, work: &Work<'_>) -> Result<Vec<TensorProof>> {
    let writers =
        files.iter().map(|file| FileWriter::open(file, dir, work)).collect::<Result<Vec<_>>>()?;
    // Largest first, so that no thread is left alone with the embedding at the end.
    let mut order: Vec<(usize, usize)> = files
        .iter()
        .enumerate()
        .flat_map(|(at, file)| (0..file.tensors.len()).map(move |tensor| (at, tensor)))
        .collect();
    order.sort_by_key(|(file, at)| std::cmp::Reverse(files[*file].tensors[*at].source.len_bytes()));
    let all = || {
        order
            .into_par_iter()
            .map(|place| Ok((place, writers[place.0].write_tensor(place.1)?)))
            .collect::<Result<Vec<_>>>()
    };
    let outputs: Vec<_> = writers.iter().map(|writer| &writer.output).collect();
    let mut proofs = match work.goal {
        Goal::Write => fsio::flushing(&outputs, all)?,
        Goal::Compare(_) => all()?,
    };
    proofs.sort_by_key(|(place, _)| *place);
    Ok(proofs.into_iter().map(|(_, proof)| proof).collect())
}

fn holds_header(output: &File, header: &[u8], len_bytes: u64) -> bool {
    let mut found = vec![0; header.len()];
    output.metadata().is_ok_and(|m| m.len() == len_bytes)
        && output.read_exact_at(&mut found, 0).is_ok()
        && found == header
}

/// An output file at work.
struct FileWriter<'a> {
    file: &'a OutputFile,
    output: File,
    path: PathBuf,
    resumed: bool,
    work: &'a Work<'a>,
    /// Tensors still to be written; whoever writes the last one makes the file durable.
    left: AtomicUsize,
}

impl<'a> FileWriter<'a> {
    /// Opens the file in `dir`, to write it with its full length and its header.
    fn open(file: &'a OutputFile, dir: &Path, work: &'a Work<'a>) -> Result<Self> {
        let path = dir.join(&file.name);
        let output = match work.goal {
            Goal::Write => fsio::open_rw(&path)?,
            Goal::Compare(_) => File::open(&path).map_err(FsError::io("open", &path))?,
        };
        let resumed = holds_header(&output, &file.layout.header, file.layout.len_bytes);
        if !resumed {
            // Emptied first: what another plan wrote must not be taken for ours.
            let emptied = fsio::start_over(&output, file.layout.len_bytes);
            let written = emptied.and_then(|()| output.write_all_at(&file.layout.header, 0));
            written.map_err(FsError::io("write", &path))?;
        }
        work.progress.item_start(&file.name, file.layout.len_bytes);
        work.progress.advance(&file.name, file.layout.header.len() as u64);
        let left = AtomicUsize::new(file.tensors.len());
        let writer = Self { file, output, path, resumed, work, left };
        if file.tensors.is_empty() {
            writer.finish()?;
        }
        Ok(writer)
    }

    /// Writes the tensor of this index in the file and proves that it arrived.
    fn write_tensor(&self, at: usize) -> Result<TensorProof> {
        let (tensor, range) = (&self.file.tensors[at], &self.file.layout.ranges[at]);
        let blake3 = self.write(tensor, range.start)?;
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish()?;
        }
        Ok(TensorProof {
            file: self.file.name.clone(),
            name: tensor.stored.as_str().to_owned(),
            blake3,
            len_bytes: range.end - range.start,
        })
    }

    fn finish(&self) -> Result<()> {
        if matches!(self.work.goal, Goal::Write) {
            self.output.sync_all().map_err(FsError::io("flush", &self.path))?;
        }
        self.work.progress.item_done(&self.file.name, "verified");
        Ok(())
    }

    /// Counts bytes that are done; the place where a run stops that is asked to.
    fn done(&self, bytes: usize) -> Result<()> {
        self.work.progress.advance(&self.file.name, bytes as u64);
        if self.work.cancel.is_set() { Err(OpError::Interrupted.into()) } else { Ok(()) }
    }

    /// Writes one tensor at `start` and returns the hash of its bytes.
    fn write(&self, tensor: &OutputTensor, start: u64) -> Result<String> {
        if tensor.dtype == tensor.source.dtype {
            self.copy(tensor, start)
        } else {
            self.cast(tensor, start)
        }
    }

    fn copy(&self, tensor: &OutputTensor, start: u64) -> Result<String> {
        let bytes = self.work.set.data(&tensor.source);
        let source = self.work.set.files()[tensor.source.file].mapped.file();
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK_BYTES.min(bytes.len())];
        let mut at = 0_u64;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            hasher.update(chunk);
            if !self.holds(start + at, chunk, &mut buffer)? {
                let from = Stretch { file: source, offset: tensor.source.range.start + at };
                fsio::copy_mapped(from, self.at(start + at), chunk)
                    .map_err(FsError::io("write", &self.path))?;
                self.prove(tensor, start + at, chunk, &mut buffer)?;
            }
            at += chunk.len() as u64;
            self.done(chunk.len())?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn cast(&self, tensor: &OutputTensor, start: u64) -> Result<String> {
        let (from, to) = (tensor.source.dtype, tensor.dtype);
        let bytes = self.work.set.data(&tensor.source);
        let elements = CHUNK_BYTES / from.size_bytes();
        let mut hasher = blake3::Hasher::new();
        let mut wide = vec![0.0; elements];
        let mut narrow = vec![0; elements * to.size_bytes()];
        let mut back = narrow.clone();
        let mut at = start;
        for chunk in bytes.chunks(elements * from.size_bytes()) {
            let count = chunk.len() / from.size_bytes();
            let (wide, narrow) = (&mut wide[..count], &mut narrow[..count * to.size_bytes()]);
            widen_to_f32(from, chunk, wide);
            narrow_from_f32(to, wide, narrow);
            if first_overflow(to, wide, narrow).is_some() {
                let tensor = tensor.stored.to_string();
                return Err(OpError::Overflow { tensor, dtype: to }.into());
            }
            if !self.holds(at, narrow, &mut back)? {
                self.output.write_all_at(narrow, at).map_err(FsError::io("write", &self.path))?;
                self.prove(tensor, at, narrow, &mut back)?;
            }
            hasher.update(&*narrow);
            at += narrow.len() as u64;
            self.done(narrow.len())?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Says whether the bytes are there already and need not be written.
    fn holds(&self, at: u64, want: &[u8], back: &mut [u8]) -> Result<bool> {
        if !self.resumed {
            return Ok(false);
        }
        match (self.reads_as(at, want, back)?, self.work.goal) {
            (false, Goal::Compare(out)) => {
                Err(OpError::OutputExists { path: out.to_owned() }.into())
            }
            (holds, _) => Ok(holds),
        }
    }

    fn prove(&self, tensor: &OutputTensor, at: u64, want: &[u8], back: &mut [u8]) -> Result<()> {
        if self.reads_as(at, want, back)? {
            return Ok(());
        }
        Err(OpError::ProofFailed { tensor: tensor.stored.to_string() }.into())
    }

    fn reads_as(&self, at: u64, want: &[u8], back: &mut [u8]) -> Result<bool> {
        Ok(fsio::holds(self.at(at), want, back).map_err(FsError::io("read", &self.path))?)
    }

    fn at(&self, offset: u64) -> Stretch<'_> {
        Stretch { file: &self.output, offset }
    }
}
