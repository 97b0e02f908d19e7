//! `strip`: the language model alone.

use std::path::{Path, PathBuf};

use clap::{ValueEnum, ValueHint};
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::resolve;
use crate::checkpoint::{Checkpoint, TensorSet};
use crate::error::Result;
use crate::fsio;
use crate::ops::assemble::{Assembly, Done, Output, TensorProof};
use crate::ops::pack::MAX_SHARD_BYTES;
use crate::ops::strip::{self, Layout, Mtp, Options, Plan, Reason};
use crate::units;

/// Drop vision and orphaned MTP tensors; fix names, config and index
///
/// Never changes a weight: bytes are copied, read back and compared. A killed run leaves nothing
/// under the final name, and the same command goes on from there; a finished output is compared
/// and left as it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint: a path, owner/name@revision, or hf://owner/name@revision
    #[arg(value_name = "CKPT", value_hint = ValueHint::AnyPath)]
    checkpoint: String,
    /// The folder to write
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: PathBuf,
    /// Names and config of the output
    #[arg(long, value_enum, default_value_t = LayoutArg::Composite)]
    layout: LayoutArg,
    /// Drop a whole MTP head too
    #[arg(long)]
    no_mtp: bool,
    /// Start a new file above this size of data
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_shard_size: Option<u64>,
    /// Print what would be written, write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// The layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutArg {
    /// What vLLM 0.19.1 serves with --language-model-only
    Composite,
    /// Qwen3_5ForCausalLM: what transformers and llama.cpp want
    Text,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// The checkpoint, as it was named.
    checkpoint: &'a str,
    /// The folder written.
    output: &'a Path,
    /// Whether nothing was written.
    dry_run: bool,
    /// The files of the output.
    files: Vec<WrittenFile<'a>>,
    /// Their sizes together.
    total_bytes: u64,
    /// Tensors that are not in the output.
    dropped: Vec<Dropped<'a>>,
    /// How many tensors have another name in the output.
    renamed: usize,
    /// What was changed in the config, in words.
    config_changes: &'a [String],
    /// Files of the checkpoint that are not in the output.
    left_out: &'a [String],
    /// Every tensor of the output, once it is written.
    tensors: Vec<CopiedTensor<'a>>,
    /// Whether the output was there, and was only compared.
    already_done: bool,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "strip/1";
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

/// A tensor that is not in the output.
#[derive(Serialize, JsonSchema)]
struct Dropped<'a> {
    /// Its stored name.
    name: &'a str,
    /// Why it was dropped.
    reason: ReasonWord,
    /// Its size.
    len_bytes: u64,
}

/// [`Reason`] in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ReasonWord {
    /// It belongs to the vision tower.
    Vision,
    /// It belongs to an MTP head that is not whole, or not wanted.
    Mtp,
    /// It is the head that the config ties to the embedding.
    DuplicateHead,
}

/// A tensor of an output.
#[derive(Serialize, JsonSchema)]
pub(super) struct CopiedTensor<'a> {
    /// The file that holds it.
    file: &'a str,
    /// The name it is stored under.
    name: &'a str,
    /// The hash of its bytes there.
    sha256: &'a str,
    /// Its size there.
    len_bytes: u64,
}

impl<'a> From<&'a TensorProof> for CopiedTensor<'a> {
    fn from(proof: &'a TensorProof) -> Self {
        let TensorProof { file, name, sha256, len_bytes } = proof;
        Self { file, name, sha256, len_bytes: *len_bytes }
    }
}

/// Runs the command.
///
/// # Errors
/// The checkpoint is not found, unsound or incomplete; the output exists; a failed write.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let local = resolve::resolve_one(&args.checkpoint, ctx)?;
    let checkpoint = Checkpoint::open(&local.path)?;
    let options = Options {
        layout: match args.layout {
            LayoutArg::Composite => Layout::Composite,
            LayoutArg::Text => Layout::Text,
        },
        mtp: if args.no_mtp { Mtp::Drop } else { Mtp::Keep },
        max_shard_bytes: args.max_shard_size.unwrap_or(MAX_SHARD_BYTES),
    };
    let plan = strip::plan(&checkpoint, &args.output, &options)?;
    let done = carry_out(&plan.assembly, checkpoint.set(), "strip", args.dry_run, ctx)?;
    let dropped = plan.dropped.iter().map(|(reason, tensor)| Dropped {
        name: tensor.stored.as_str(),
        reason: reason_word(*reason),
        len_bytes: tensor.len_bytes(),
    });
    let document = Document {
        checkpoint: &local.label,
        output: &args.output,
        dry_run: args.dry_run,
        files: written_files(&plan.assembly),
        total_bytes: plan.assembly.len_bytes(),
        dropped: dropped.collect(),
        renamed: plan.renamed,
        config_changes: &plan.config_changes,
        left_out: &plan.left_out,
        tensors: done.proofs.iter().map(CopiedTensor::from).collect(),
        already_done: done.found == Output::Finished,
    };
    let text = human(&plan, done.found, args.dry_run)?;
    let quiet = args.output.display().to_string();
    Ok(Outcome::new(&document).human(text).quiet(quiet))
}

fn reason_word(reason: Reason) -> ReasonWord {
    match reason {
        Reason::Vision => ReasonWord::Vision,
        Reason::Mtp => ReasonWord::Mtp,
        Reason::DuplicateHead => ReasonWord::DuplicateHead,
    }
}

fn human(plan: &Plan, found: Output, dry_run: bool) -> Result<String> {
    let mut text = written(&plan.assembly, found, dry_run)?;
    let kinds = [
        (Reason::Vision, "vision"),
        (Reason::Mtp, "mtp"),
        (Reason::DuplicateHead, "duplicate head"),
    ];
    for (reason, word) in kinds {
        let of: Vec<_> = plan.dropped.iter().filter(|(why, _)| *why == reason).collect();
        if !of.is_empty() {
            let bytes = units::bytes(of.iter().map(|(_, t)| t.len_bytes()).sum());
            let tensors = units::plural(of.len() as u64, "tensor");
            text += &format!("  dropped  {word}: {tensors}, {bytes}\n");
        }
    }
    if plan.renamed > 0 {
        text += &format!("  renamed  {}\n", units::plural(plan.renamed as u64, "tensor"));
    }
    for change in &plan.config_changes {
        text += &format!("  config   {change}\n");
    }
    if !plan.left_out.is_empty() {
        text += &format!("  left out {}\n", plan.left_out.join(", "));
    }
    Ok(text)
}

/// Runs the plan, or only looks at what has the output's name.
pub(super) fn carry_out(
    assembly: &Assembly,
    set: &TensorSet,
    job: &str,
    dry_run: bool,
    ctx: &Context,
) -> Result<Done> {
    if dry_run {
        return Ok(Done { found: assembly.check_output()?, proofs: Vec::new() });
    }
    assembly.run(set, job, &*ctx.progress(), &ctx.cancel())
}

/// Says what is or would be written: the head of the text of every writer of checkpoints.
pub(super) fn written(assembly: &Assembly, found: Output, dry_run: bool) -> Result<String> {
    let bytes = units::bytes(assembly.len_bytes());
    let tensors: usize = assembly.files.iter().map(|f| f.tensors.len()).sum();
    let out = assembly.out.display();
    let what = format!(
        "{out}  {bytes}  {} in {}",
        units::plural(tensors as u64, "tensor"),
        units::plural(assembly.files.len() as u64, "file")
    );
    if found == Output::Finished {
        let checked = if dry_run { "by names, sizes and headers" } else { "every byte compared" };
        return Ok(format!("{what}: already done, {checked}\n"));
    }
    if dry_run {
        let free = units::bytes(fsio::free_space(&assembly.out)?);
        return Ok(format!("would write {what}; {free} free\n"));
    }
    Ok(format!("{what}, every byte read back and compared\n"))
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
