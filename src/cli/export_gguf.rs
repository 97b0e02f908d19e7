//! `export gguf`: a GGUF file that llama.cpp loads, straight from a checkpoint.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ValueEnum, ValueHint};
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::resolve::{self, Local};
use super::written::{DryRun, Mode, with_source_note};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::fsio;
use crate::ops::assemble::Output;
use crate::ops::export_gguf::{self, Contents, Mtp, Options, OutType, Plan};
use crate::units;

/// Write a GGUF file that llama.cpp loads
///
/// Keys, tensors and bytes are those of llama.cpp's convert_hf_to_gguf.py. The vision tower is
/// left out (see --mmproj), and so are MTP layers that the config declares and the checkpoint
/// lacks. That the source is what the Hub has is not checked: `verify` does that. A killed run
/// leaves nothing under the final name, and the same command goes on from there; a finished file
/// is compared and left as it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint: a folder, `hf://owner/name@rev` or `owner/name[@rev]`
    #[arg(value_name = "CKPT")]
    checkpoint: String,
    /// The type of matrices; `auto` keeps the checkpoint's 16-bit type
    #[arg(long, value_parser = OutTypeParser, default_value = "auto", ignore_case = true)]
    outtype: OutTypeArg,
    /// A folder, a file, or a name with {ftype} in it
    ///
    /// By default a name by llama.cpp's convention in the current folder, with the step before the
    /// type: NAME-SIZE-FINETUNE-VERSION-step_600-BF16.gguf. The step is the branch of CKPT, or the
    /// name of its folder; the default branch has none.
    #[arg(short, long, alias = "output", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    outfile: Option<PathBuf>,
    /// Write the vision tower to a file of its own instead of the language model
    #[arg(long, conflicts_with_all = ["no_mtp", "pre"])]
    mmproj: bool,
    /// Leave the MTP layers out
    #[arg(long, alias = "no-nextn")]
    no_mtp: bool,
    /// Begin a new file before tensors exceed this size, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    split_max_size: Option<u64>,
    /// The model's name in the metadata; from the model card, the config or the folder by default
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// llama.cpp's name of the pre-tokenizer, for a tokenizer that is not recognised
    #[arg(long, value_name = "NAME")]
    pre: Option<String>,
    #[command(flatten)]
    dry_run: DryRun,
}

/// [`OutType`], as the command line spells it.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum OutTypeArg {
    /// 32-bit float
    F32,
    /// 16-bit IEEE float
    F16,
    /// Bfloat16
    Bf16,
    /// 8-bit blocks, half the size of bf16
    #[value(name = "q8_0")]
    Q8_0,
    /// The 16-bit type of the checkpoint's first matrix
    #[default]
    Auto,
}

/// Reads an [`OutTypeArg`], and tells the types that llama.cpp has and this version lacks from
/// words that are none.
#[derive(Debug, Clone, Copy)]
struct OutTypeParser;

impl TypedValueParser for OutTypeParser {
    type Value = OutTypeArg;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<OutTypeArg, clap::Error> {
        let known = EnumValueParser::<OutTypeArg>::new();
        known.parse_ref(cmd, arg, value).map_err(|error| {
            let text = value.to_string_lossy();
            if is_quant_type(&text) {
                let names = known.possible_values().into_iter().flatten();
                let names: Vec<String> = names.map(|v| v.get_name().to_owned()).collect();
                let message = format!(
                    "--outtype {text} is not available yet; available are {}\n\n  help: export \
                     with --outtype bf16, and `llama-quantize` makes {text} of that file",
                    names.join(", ")
                );
                return cmd.clone().error(ErrorKind::InvalidValue, message);
            }
            error
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = OutTypeArg::value_variants().iter();
        Some(Box::new(values.filter_map(ValueEnum::to_possible_value)))
    }
}

/// Says whether llama-quantize has a type of this name.
fn is_quant_type(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let starts = ["q2_k", "q3_k", "q4_", "q5_", "q6_k", "iq", "tq1_0", "tq2_0", "mxfp4"];
    starts.iter().any(|start| text.starts_with(start))
}

impl From<OutTypeArg> for OutType {
    fn from(arg: OutTypeArg) -> Self {
        match arg {
            OutTypeArg::F32 => Self::F32,
            OutTypeArg::F16 => Self::F16,
            OutTypeArg::Bf16 => Self::Bf16,
            OutTypeArg::Q8_0 => Self::Q8_0,
            OutTypeArg::Auto => Self::Auto,
        }
    }
}

impl Args {
    fn options(&self, local: &Local) -> Options {
        Options {
            outtype: self.outtype.into(),
            contents: if self.mmproj { Contents::Mmproj } else { Contents::Text },
            mtp: if self.no_mtp { Mtp::Drop } else { Mtp::Keep },
            outfile: self.outfile.clone(),
            split_max_bytes: self.split_max_size,
            model_name: self.model_name.clone(),
            revision: local.revision.clone(),
            pre: self.pre.clone(),
        }
    }
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// Whether nothing was written.
    dry_run: bool,
    /// The type of most matrices.
    file_type: &'static str,
    /// The sizes of the files together.
    total_bytes: u64,
    /// What is free where they go.
    free_bytes: Option<u64>,
    /// How many tensors they hold.
    tensors: usize,
    /// How many metadata keys.
    metadata_keys: usize,
    /// The files.
    files: Vec<WrittenFile<'a>>,
    /// What is worth knowing about them, in words.
    notes: &'a [String],
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "export-gguf/1";
}

/// A GGUF file.
#[derive(Serialize, JsonSchema)]
struct WrittenFile<'a> {
    /// Where it is.
    path: &'a Path,
    /// Its size.
    len_bytes: u64,
    /// How many tensors it holds.
    tensors: usize,
    /// Whether it was there, and was only compared.
    already_done: bool,
}

/// Runs the command.
///
/// # Errors
/// The checkpoint is not there or not whole, its tokenizer cannot be expressed, a value cannot be
/// quantised, or a file cannot be written.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let local = resolve::resolve_one(&args.checkpoint, ctx)?;
    let checkpoint = Checkpoint::open(&local.path)?;
    let plan = export_gguf::plan(&checkpoint, &args.options(&local))?;
    let mode = args.dry_run.mode();
    let found = if mode == Mode::Show {
        export_gguf::check_outputs(&plan)?
    } else {
        let written = export_gguf::run(&plan, ctx.progress().as_ref(), &ctx.cancel())?;
        written.into_iter().map(|file| file.found).collect()
    };
    let free_bytes = plan.files.first().map(|f| fsio::free_space(fsio::parent(&f.path)));
    let outcome = outcome(&plan, mode, &found, free_bytes.transpose()?);
    Ok(with_source_note(outcome, &local))
}

fn outcome(plan: &Plan<'_>, mode: Mode, found: &[Output], free_bytes: Option<u64>) -> Outcome {
    let file_type = plan.file_type.tensor_type.name();
    let files = plan.files.iter().zip(found).map(|(file, found)| WrittenFile {
        path: &file.path,
        len_bytes: file.len_bytes,
        tensors: file.tensors.len(),
        already_done: *found == Output::Finished,
    });
    let document = Document {
        dry_run: mode == Mode::Show,
        file_type,
        total_bytes: plan.len_bytes(),
        free_bytes,
        tensors: plan.tensor_count(),
        metadata_keys: plan.metadata.len(),
        files: files.collect(),
        notes: &plan.notes,
    };
    let mut human = String::new();
    for (file, found) in plan.files.iter().zip(found) {
        let done = match (found, mode) {
            (Output::Free, _) => "",
            (Output::Finished, Mode::CarryOut) => "  already done, every byte compared",
            (Output::Finished, Mode::Show) => "  already there, by its head and size",
        };
        let tensors = units::plural(file.tensors.len() as u64, "tensor");
        let (path, size) = (file.path.display(), units::bytes(file.len_bytes));
        writeln!(human, "{path}  {size}  {tensors}  {file_type}{done}").expect("strings grow");
    }
    if let (Mode::Show, Some(free)) = (mode, free_bytes) {
        let (needed, free) = (units::bytes(plan.len_bytes()), units::bytes(free));
        writeln!(human, "would write {needed}, {free} are free").expect("strings grow");
    }
    let paths: Vec<String> = plan.files.iter().map(|f| f.path.display().to_string()).collect();
    let outcome = Outcome::new(&document).human(human).quiet(paths.join("\n"));
    outcome.notes(&plan.notes)
}
