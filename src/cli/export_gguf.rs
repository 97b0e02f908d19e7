//! `export gguf`: a GGUF file that llama.cpp loads, straight from a checkpoint.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::resolve::{self, Local};
use super::written::{DryRun, Mode, with_source_note};
use crate::checkpoint::Checkpoint;
use crate::error::{Diagnose as _, Result};
use crate::fsio;
use crate::gguf::{FileType, TensorType};
use crate::ops::assemble::Output;
use crate::ops::export_gguf::choices::parse_tensor_type;
use crate::ops::export_gguf::{
    self, Choices, Contents, ExportError, Head, Mix, Mtp, Options, OutType, Plan, PlannedTensor,
    TensorTypeChoice,
};
use crate::units;

/// Write a GGUF file that llama.cpp loads
///
/// Keys, tensors and bytes are those of llama.cpp's convert_hf_to_gguf.py, followed by
/// llama-quantize where --outtype asks for what the former does not write: without a file between
/// them, from the checkpoint's own values. The vision tower is left out (see --mmproj), and so are
/// MTP layers that the config declares and the checkpoint lacks. That the source is what the Hub
/// has is not checked: `verify` does that. A killed run leaves nothing under the final name, and
/// the same command goes on from there; a finished file is compared and left as it is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint: a folder, `hf://owner/name@rev` or `owner/name[@rev]`
    #[arg(value_name = "CKPT")]
    checkpoint: String,
    /// The type of most matrices
    #[arg(
        long,
        value_name = "TYPE",
        value_parser = OutTypeParser,
        default_value = "auto",
        ignore_case = true
    )]
    outtype: OutType,
    /// The type of matrices in whose GGUF name REGEX is found; the first that fits counts
    ///
    /// May be given several times: --tensor-type attn_v=q8_0 --tensor-type 'blk\.0\.=bf16'. What
    /// is named does not count for the mixture of the other types.
    #[arg(long, value_name = "REGEX=TYPE", value_parser = tensor_type_choice)]
    tensor_type: Vec<TensorTypeChoice>,
    /// The type of the head, and of an embedding that is the head
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    output_tensor_type: Option<TensorType>,
    /// The type of the embedding, whether or not it is the head
    #[arg(long, value_name = "TYPE", value_parser = tensor_type)]
    token_embedding_type: Option<TensorType>,
    /// Leave the head in the checkpoint's type
    #[arg(long, conflicts_with = "output_tensor_type")]
    leave_output_tensor: bool,
    /// Give all matrices the same type
    #[arg(long)]
    pure: bool,
    /// An importance matrix, as llama-imatrix writes it (GGUF or .dat)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    imatrix: Option<PathBuf>,
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

/// Reads an [`OutType`], and tells the types that llama.cpp has and this version lacks from words
/// that are none.
#[derive(Debug, Clone, Copy)]
struct OutTypeParser;

impl OutTypeParser {
    fn values() -> impl Iterator<Item = PossibleValue> {
        let value = |file_type: FileType| {
            let value = PossibleValue::new(file_type.word()).help(file_type.about());
            value.aliases(file_type.aliases())
        };
        let auto = "the 16-bit type of the checkpoint's first matrix";
        [PossibleValue::new("auto").help(auto)].into_iter().chain(FileType::all().map(value))
    }
}

impl TypedValueParser for OutTypeParser {
    type Value = OutType;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<OutType, clap::Error> {
        let text = value.to_string_lossy();
        if let Some(file_type) = FileType::from_name(&text) {
            return Ok(OutType::Type(file_type));
        }
        if is_quant_type(&text) {
            let names: Vec<&str> = FileType::all().map(FileType::word).collect();
            let message = format!(
                "--outtype {text} is not available; available are auto, {}\n\n  help: export \
                 with --outtype bf16, and `llama-quantize` makes {text} of that file",
                names.join(", ")
            );
            return Err(cmd.clone().error(ErrorKind::InvalidValue, message));
        }
        // Only `auto` is left; words that are nothing get clap's own error.
        let known = PossibleValuesParser::new(Self::values());
        known.parse_ref(cmd, arg, value).map(|_| OutType::Auto)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Self::values()))
    }
}

/// Says whether llama-quantize has a type of this name.
fn is_quant_type(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let starts = ["q1_0", "q2_0", "iq1_", "iq2_", "iq3_", "tq1_0", "tq2_0", "mxfp4"];
    starts.iter().any(|start| text.starts_with(start))
}

/// Brings an error of the library with its help into clap's.
fn with_help(error: &ExportError) -> String {
    let help = error.help().into_iter().map(|line| format!("  help: {line}"));
    [format!("{error}\n")].into_iter().chain(help).collect::<Vec<_>>().join("\n")
}

fn tensor_type_choice(text: &str) -> Result<TensorTypeChoice, String> {
    text.parse().map_err(|error| with_help(&error))
}

fn tensor_type(text: &str) -> Result<TensorType, String> {
    parse_tensor_type(text).map_err(|error| with_help(&error))
}

impl Args {
    fn options(&self, local: &Local) -> Options {
        Options {
            outtype: self.outtype,
            choices: self.choices(),
            imatrix: self.imatrix.clone(),
            contents: if self.mmproj { Contents::Mmproj } else { Contents::Text },
            mtp: if self.no_mtp { Mtp::Drop } else { Mtp::Keep },
            outfile: self.outfile.clone(),
            split_max_bytes: self.split_max_size,
            model_name: self.model_name.clone(),
            revision: local.revision.clone(),
            pre: self.pre.clone(),
        }
    }

    fn choices(&self) -> Choices {
        Choices {
            tensor_types: self.tensor_type.clone(),
            output: self.output_tensor_type,
            token_embedding: self.token_embedding_type,
            head: if self.leave_output_tensor { Head::Left } else { Head::Quantized },
            mix: if self.pure { Mix::Pure } else { Mix::Mixture },
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
    /// How many bits a weight takes.
    bits_per_weight: f64,
    /// The types of the tensors, the one with most bytes first.
    types: Vec<TypeCount>,
    /// Every tensor, in the files' order.
    tensor_types: Vec<TensorLine<'a>>,
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

/// How much of the files is of one type.
#[derive(Serialize, JsonSchema)]
struct TypeCount {
    /// The type.
    #[serde(rename = "type")]
    tensor_type: String,
    /// How many tensors are of it.
    tensors: u64,
    /// Their bytes.
    len_bytes: u64,
}

/// A tensor of the files.
#[derive(Serialize, JsonSchema)]
struct TensorLine<'a> {
    /// Its GGUF name.
    name: &'a str,
    /// Its shape, row-major.
    shape: &'a [u64],
    /// Its type.
    #[serde(rename = "type")]
    tensor_type: String,
    /// Its bytes.
    len_bytes: u64,
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
    let shown = Shown { plan: &plan, mode, found: &found, free_bytes: free_bytes.transpose()? };
    Ok(with_source_note(shown.outcome(ctx), &local))
}

/// What there is to tell.
struct Shown<'a> {
    plan: &'a Plan<'a>,
    mode: Mode,
    found: &'a [Output],
    free_bytes: Option<u64>,
}

impl Shown<'_> {
    fn outcome(&self, ctx: &Context) -> Outcome {
        let plan = self.plan;
        let files = plan.files.iter().zip(self.found).map(|(file, found)| WrittenFile {
            path: &file.path,
            len_bytes: file.len_bytes,
            tensors: file.tensors.len(),
            already_done: *found == Output::Finished,
        });
        let document = Document {
            dry_run: self.mode == Mode::Show,
            file_type: plan.file_type.name(),
            total_bytes: plan.len_bytes(),
            free_bytes: self.free_bytes,
            tensors: plan.tensor_count(),
            metadata_keys: plan.metadata.len(),
            files: files.collect(),
            bits_per_weight: bits_per_weight(plan),
            types: types(plan),
            tensor_types: plan.tensors().map(tensor_line).collect(),
            notes: &plan.notes,
        };
        let mut human = match self.mode {
            Mode::CarryOut => self.written(),
            Mode::Show => self.planned(&document.types),
        };
        if ctx.verbose() {
            human.push_str(&listed(&document.tensor_types));
        }
        let paths: Vec<String> = plan.files.iter().map(|f| f.path.display().to_string()).collect();
        let outcome = Outcome::new(&document).human(human).quiet(paths.join("\n"));
        outcome.notes(&plan.notes)
    }

    fn written(&self) -> String {
        let file_type = self.plan.file_type.name();
        let mut text = String::new();
        for (file, found) in self.plan.files.iter().zip(self.found) {
            let done = match found {
                Output::Free => "",
                Output::Finished => "  already done, every byte compared",
            };
            let tensors = units::plural(file.tensors.len() as u64, "tensor");
            let (path, size) = (file.path.display(), units::bytes(file.len_bytes));
            writeln!(text, "{path}  {size}  {tensors}  {file_type}{done}").expect("strings grow");
        }
        text
    }

    fn planned(&self, types: &[TypeCount]) -> String {
        let plan = self.plan;
        let mut text = String::new();
        for (i, (file, found)) in plan.files.iter().zip(self.found).enumerate() {
            let (path, size) = (file.path.display(), units::bytes(file.len_bytes));
            write!(text, "would write {path}  {size}").expect("strings grow");
            if i == 0 {
                write!(text, " ({:.1} bits a weight)", bits_per_weight(plan))
                    .expect("strings grow");
                let free = self.free_bytes.map(|n| format!("; {} free", units::bytes(n)));
                text.push_str(&free.unwrap_or_default());
            }
            if *found == Output::Finished {
                text.push_str("  already there, by its head and size");
            }
            text.push('\n');
        }
        let kept = match (plan.file_type.base(), plan.kept_kinds()) {
            (TensorType::F32, _) => String::new(),
            (_, kinds) => format!(" ({})", kinds.join(", ")),
        };
        let count = |(i, t): (usize, &TypeCount)| {
            let tensors = if i == 0 { " tensors" } else { "" };
            let kept = if t.tensor_type == "f32" { kept.as_str() } else { "" };
            format!("{} {}{tensors}{kept}", t.tensor_type, t.tensors)
        };
        let counts = types.iter().enumerate().map(count);
        let left_out = plan.left_out().into_iter().map(|(part, n)| format!("{part} {n} left out"));
        let parts: Vec<String> = counts.chain(left_out).collect();
        writeln!(text, "  {}", parts.join(" · ")).expect("strings grow");
        text
    }
}

fn bits_per_weight(plan: &Plan<'_>) -> f64 {
    let (mut bytes, mut weights) = (0, 0);
    for tensor in plan.tensors() {
        bytes += tensor.len_bytes();
        weights += tensor.spec.elements().unwrap_or(0);
    }
    8.0 * bytes as f64 / weights as f64
}

fn types(plan: &Plan<'_>) -> Vec<TypeCount> {
    let mut types: Vec<TypeCount> = Vec::new();
    for tensor in plan.tensors() {
        let (name, len_bytes) = (type_name(tensor), tensor.len_bytes());
        match types.iter_mut().find(|t| t.tensor_type == name) {
            Some(found) => {
                found.tensors += 1;
                found.len_bytes += len_bytes;
            }
            None => types.push(TypeCount { tensor_type: name, tensors: 1, len_bytes }),
        }
    }
    types.sort_by_key(|t| std::cmp::Reverse(t.len_bytes));
    types
}

fn type_name(tensor: &PlannedTensor) -> String {
    tensor.spec.tensor_type.name().to_lowercase()
}

fn tensor_line(tensor: &PlannedTensor) -> TensorLine<'_> {
    TensorLine {
        name: &tensor.spec.name,
        shape: &tensor.spec.shape,
        tensor_type: type_name(tensor),
        len_bytes: tensor.len_bytes(),
    }
}

/// Lists tensors, columns aligned.
fn listed(tensors: &[TensorLine<'_>]) -> String {
    let width = tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    let line = |t: &TensorLine<'_>| {
        let size = units::bytes(t.len_bytes);
        format!("  {:width$}  {:6}  {size:>8}  {:?}\n", t.name, t.tensor_type, t.shape)
    };
    tensors.iter().map(line).collect()
}
