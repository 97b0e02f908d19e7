//! What the writers of checkpoints share: arguments, carrying a plan out, and telling of it.

use std::path::PathBuf;

use clap::ValueHint;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::Outcome;
use super::resolve::Local;
use crate::checkpoint::TensorSet;
use crate::error::Result;
use crate::fsio;
use crate::hub::Checks;
use crate::ops::assemble::{Assembly, Done, Output, TensorProof};
use crate::ops::pack::MAX_SHARD_BYTES;
use crate::units;

/// The flag of all commands that write.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct DryRun {
    /// Print what would be written, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Whether a plan is shown or carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing is written.
    Show,
    /// It is done.
    CarryOut,
}

impl DryRun {
    pub fn mode(self) -> Mode {
        if self.dry_run { Mode::Show } else { Mode::CarryOut }
    }
}

/// The arguments of commands that write a folder of safetensors.
#[derive(Debug, clap::Args)]
pub(super) struct FolderArgs {
    /// The checkpoint: a path, owner/name@revision, or hf://owner/name@revision
    #[arg(value_name = "CKPT", value_hint = ValueHint::AnyPath)]
    pub checkpoint: String,
    /// The folder to write
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Start a new file above this size of data (50GB when not given)
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_shard_size: Option<u64>,
    #[command(flatten)]
    dry_run: DryRun,
}

impl FolderArgs {
    pub fn mode(&self) -> Mode {
        self.dry_run.mode()
    }

    pub fn max_shard_bytes(&self) -> u64 {
        self.max_shard_size.unwrap_or(MAX_SHARD_BYTES)
    }
}

/// A file of an output.
#[derive(Serialize, JsonSchema)]
pub(super) struct WrittenFile<'a> {
    /// Its name.
    name: &'a str,
    /// Its size.
    len_bytes: u64,
    /// How many tensors it holds, if it is a file of tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<usize>,
}

/// A tensor of an output.
#[derive(Serialize, JsonSchema)]
pub(super) struct CopiedTensor<'a> {
    /// The file that holds it.
    file: &'a str,
    /// The name it is stored under.
    name: &'a str,
    /// The BLAKE3 hash of its bytes there.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    blake3: &'a str,
    /// Its size there.
    len_bytes: u64,
}

impl<'a> From<&'a TensorProof> for CopiedTensor<'a> {
    fn from(proof: &'a TensorProof) -> Self {
        let TensorProof { file, name, blake3, len_bytes } = proof;
        Self { file, name, blake3, len_bytes: *len_bytes }
    }
}

/// Notes that a source which we pulled has changed since its hashes were checked, as far as that
/// can be told without reading it.
pub(super) fn with_source_note(outcome: Outcome, source: &Local) -> Outcome {
    let count = Checks::of(&source.path).changed();
    if count == 0 {
        return outcome;
    }
    let (files, label) = (units::plural(count as u64, "file"), &source.label);
    outcome.hint(format!(
        "note: {files} of {label} changed after the last check of its hashes; `tmax-ckpt verify \
         {label}` checks them"
    ))
}

/// Runs the plan, or only looks at what has the output's name.
pub(super) fn carry_out(
    assembly: &Assembly,
    set: &TensorSet,
    job: &str,
    mode: Mode,
    ctx: &Context,
) -> Result<Done> {
    if mode == Mode::Show {
        return Ok(Done { found: assembly.check_output()?, proofs: Vec::new() });
    }
    assembly.run(set, job, &*ctx.progress(), &ctx.cancel())
}

/// Says what is or would be written: the head of the text of every writer of checkpoints.
pub(super) fn written(assembly: &Assembly, found: Output, mode: Mode) -> Result<String> {
    let bytes = units::bytes(assembly.len_bytes());
    let tensors: usize = assembly.files.iter().map(|f| f.tensors.len()).sum();
    let out = assembly.out.display();
    let what = format!(
        "{out}  {bytes}  {} in {}",
        units::plural(tensors as u64, "tensor"),
        units::plural(assembly.files.len() as u64, "file")
    );
    if found == Output::Finished {
        let checked = match mode {
            Mode::Show => "by names, sizes and headers",
            Mode::CarryOut => "every byte compared",
        };
        return Ok(format!("{what}: already done, {checked}\n"));
    }
    match mode {
        Mode::Show => {
            let free = units::bytes(fsio::free_space(&assembly.out)?);
            Ok(format!("would write {what}; {free} free\n"))
        }
        Mode::CarryOut => Ok(format!("{what}, every byte read back and compared\n")),
    }
}

/// The files of an output for JSON.
pub(super) fn written_files(assembly: &Assembly) -> Vec<WrittenFile<'_>> {
    let shards = assembly.files.iter().map(|file| WrittenFile {
        name: &file.name,
        len_bytes: file.layout.len_bytes,
        tensors: Some(file.tensors.len()),
    });
    let small = assembly.small.iter().map(|(name, bytes)| WrittenFile {
        name,
        len_bytes: bytes.len() as u64,
        tensors: None,
    });
    shards.chain(small).collect()
}
