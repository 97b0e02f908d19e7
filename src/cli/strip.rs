//! `strip`: the language model alone.

use std::path::Path;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::resolve;
use super::written::{
    CopiedTensor, FolderArgs, Mode, WrittenFile, carry_out, with_source_note, written,
    written_files,
};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::name::few;
use crate::ops::assemble::Output;
use crate::ops::strip::{self, Layout, Mtp, Options, Plan, Reason};
use crate::units;

/// Drop vision and orphaned MTP tensors; fix names, config and index
///
/// Never changes a weight: bytes are copied, read back and compared. Every tensor's name, type and
/// shape is held to the config; that the source is what the Hub has is not checked: `verify` does
/// that. A killed run leaves nothing
/// under the final name, and the same command goes on from there; a finished output is compared
/// and left as it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    folder: FolderArgs,
    /// Names and config of the output
    #[arg(long, value_enum, default_value_t = LayoutArg::Composite)]
    layout: LayoutArg,
    /// Drop a whole MTP head too
    #[arg(long)]
    no_mtp: bool,
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

/// Runs the command.
///
/// # Errors
/// The checkpoint is not found, unsound or incomplete; the output exists; a failed write.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let local = resolve::resolve_one(&args.folder.checkpoint, ctx)?;
    let checkpoint = Checkpoint::open(&local.path)?;
    let options = Options {
        layout: match args.layout {
            LayoutArg::Composite => Layout::Composite,
            LayoutArg::Text => Layout::Text,
        },
        mtp: if args.no_mtp { Mtp::Drop } else { Mtp::Keep },
        max_shard_bytes: args.folder.max_shard_bytes(),
    };
    let (output, mode) = (&args.folder.output, args.folder.mode());
    let plan = strip::plan(&checkpoint, output, &options)?;
    let done = carry_out(&plan.assembly, checkpoint.set(), "strip", mode, ctx)?;
    let dropped = plan.dropped.iter().map(|(reason, tensor)| Dropped {
        name: tensor.stored.as_str(),
        reason: reason_word(*reason),
        len_bytes: tensor.len_bytes(),
    });
    let document = Document {
        checkpoint: &local.label,
        output,
        dry_run: mode == Mode::Show,
        files: written_files(&plan.assembly),
        total_bytes: plan.assembly.len_bytes(),
        dropped: dropped.collect(),
        renamed: plan.renamed,
        config_changes: &plan.config_changes,
        left_out: &plan.left_out,
        tensors: done.proofs.iter().map(CopiedTensor::from).collect(),
        already_done: done.found == Output::Finished,
    };
    let text = human(&plan, done.found, mode)?;
    let quiet = output.display().to_string();
    Ok(with_source_note(Outcome::new(&document).human(text).quiet(quiet), &local))
}

fn reason_word(reason: Reason) -> ReasonWord {
    match reason {
        Reason::Vision => ReasonWord::Vision,
        Reason::Mtp => ReasonWord::Mtp,
        Reason::DuplicateHead => ReasonWord::DuplicateHead,
    }
}

fn human(plan: &Plan, found: Output, mode: Mode) -> Result<String> {
    let mut text = written(&plan.assembly, found, mode)?;
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
        text += &format!("  left out {}\n", few(&plan.left_out));
    }
    Ok(text)
}
