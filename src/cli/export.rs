//! `export`: the group of formats, and `export safetensors`.

use std::path::Path;

use clap::{Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::written::{
    CopiedTensor, FolderArgs, Mode, WrittenFile, carry_out, with_source_note, written,
    written_files,
};
use super::{export_gguf, resolve};
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::name::few;
use crate::ops::assemble::Output;
use crate::ops::reshard::{self, Options};
use crate::units;

/// Write a checkpoint in another form
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "`export --format FORMAT …` is the same as `export FORMAT …`.")]
pub struct Args {
    /// The format
    #[command(subcommand)]
    format: Format,
}

/// The formats.
#[derive(Debug, Subcommand)]
enum Format {
    Safetensors(SafetensorsArgs),
    Gguf(export_gguf::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the format.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    match args.format {
        Format::Safetensors(args) => safetensors(args, ctx),
        Format::Gguf(args) => export_gguf::run(args, ctx),
    }
}

/// Re-shard or cast safetensors, with a fresh index and reproducible bytes
///
/// What is written is read back and compared. That the source is what the Hub has is not checked:
/// `verify` does that.
#[derive(Debug, clap::Args)]
struct SafetensorsArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Cast floating tensors, rounding to nearest even
    #[arg(long, value_enum)]
    dtype: Option<DtypeArg>,
}

/// The types to cast to, as vLLM spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DtypeArg {
    /// Eight bits of exponent, seven of mantissa
    #[value(alias = "bf16")]
    Bfloat16,
    /// Five bits of exponent, ten of mantissa; refused where values do not fit
    #[value(alias = "f16")]
    Float16,
    /// Exact
    #[value(alias = "f32")]
    Float32,
}

impl DtypeArg {
    fn dtype(self) -> Dtype {
        match self {
            Self::Bfloat16 => Dtype::Bf16,
            Self::Float16 => Dtype::F16,
            Self::Float32 => Dtype::F32,
        }
    }
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
    /// How many tensors were cast.
    casts: usize,
    /// Files of the checkpoint that are not in the output.
    left_out: &'a [String],
    /// Every tensor of the output, once it is written.
    tensors: Vec<CopiedTensor<'a>>,
    /// Whether the output was there, and was only compared.
    already_done: bool,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "export-safetensors/1";
}

fn safetensors(args: SafetensorsArgs, ctx: &Context) -> Result<Outcome> {
    let local = resolve::resolve_one(&args.folder.checkpoint, ctx)?;
    let checkpoint = Checkpoint::open(&local.path)?;
    let options = Options {
        max_shard_bytes: args.folder.max_shard_bytes(),
        dtype: args.dtype.map(DtypeArg::dtype),
    };
    let (output, mode) = (&args.folder.output, args.folder.mode());
    let plan = reshard::plan(&checkpoint, output, &options)?;
    let done = carry_out(&plan.assembly, checkpoint.set(), "export", mode, ctx)?;
    let document = Document {
        checkpoint: &local.label,
        output,
        dry_run: mode == Mode::Show,
        files: written_files(&plan.assembly),
        total_bytes: plan.assembly.len_bytes(),
        casts: plan.casts,
        left_out: &plan.left_out,
        tensors: done.proofs.iter().map(CopiedTensor::from).collect(),
        already_done: done.found == Output::Finished,
    };
    let mut text = written(&plan.assembly, done.found, mode)?;
    if plan.casts > 0 {
        text += &format!("  cast     {}\n", units::plural(plan.casts as u64, "tensor"));
    }
    if !plan.left_out.is_empty() {
        text += &format!("  left out {}\n", few(&plan.left_out));
    }
    let quiet = output.display().to_string();
    Ok(with_source_note(Outcome::new(&document).human(text).quiet(quiet), &local))
}
