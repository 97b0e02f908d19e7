//! `logprobs`: the log-probabilities of given tokens, by which engines and exports are compared.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::context::Context;
use super::failure::Failure;
use super::outcome::{self, Outcome};
use super::resolve::resolve_one;
use crate::checkpoint::Checkpoint;
use crate::engine::backend::WeightPrecision;
use crate::engine::device::DeviceChoice;
use crate::engine::local::{load_model, load_tokens};
use crate::engine::logprobs::logprobs;
use crate::engine::tokens::check_ids;
use crate::error::Result;
use crate::fsio;
use crate::name::escape;
use crate::units;

/// Largest file of token ids accepted.
const IDS_BYTES_MAX: u64 = 64 << 20;

/// What a file of token ids holds.
const IDS_HELP: &str = "the file holds at least two token ids, such as 785 3838 315";

/// Print the log-probabilities of given tokens
///
/// One JSON document: ids, the natural log-probability of every id but the first given all before
/// it (f32), and their sum. Weights keep their exact values and everything is computed in f32, so
/// the numbers are a fingerprint: compare them with another engine's, or with an export's.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder, or owner/name@revision from the cache
    #[arg(value_name = "CKPT")]
    checkpoint: String,
    #[command(flatten)]
    input: Input,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Compute with weights of eight bits, as llama.cpp does with a Q8_0 file
    #[arg(long)]
    q8_0: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Token ids: whole numbers, separated by spaces, commas or lines, or a JSON array
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    token_ids: Option<PathBuf>,
    /// A text, for the checkpoint's tokenizer; special tokens are read as such
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a> {
    /// `exact`, or `q8_0` if they were rounded to eight bits.
    weights: &'static str,
    /// The ids.
    ids: &'a [u32],
    /// The natural log-probability of every id but the first, given all before it.
    logprobs: Vec<f64>,
    /// Their sum.
    sum: f64,
}

impl outcome::Document for Document<'_> {
    const NAME: &'static str = "logprobs/1";
}

/// Runs the command.
///
/// # Errors
/// The checkpoint, the ids or the device cannot be used.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let device: DeviceChoice = args.device.parse()?;
    device.resolve()?;
    let checkpoint = Checkpoint::open(&resolve_one(&args.checkpoint, ctx)?.path)?;
    let ids = match (&args.input.token_ids, &args.input.text) {
        (Some(path), _) => read_ids(path)?,
        (None, text) => load_tokens(&checkpoint)?.0.encode(text.as_deref().unwrap_or_default())?,
    };
    check_ids(&ids, checkpoint.config.text.vocab_size)?;
    if ids.len() < 2 {
        let tokens = units::plural(ids.len() as u64, "token");
        let help = match &args.input.text {
            Some(_) => "give a --text of two tokens or more, such as 'To be or not'",
            None => IDS_HELP,
        };
        return Err(usage(format!("{tokens}: nothing follows that could be scored"), help));
    }
    let precision = if args.q8_0 { WeightPrecision::Q8_0 } else { WeightPrecision::Exact };
    let model = load_model(&checkpoint, device, precision)?;
    let cancelled = || ctx.interrupted(vec!["nothing was kept: run the same command again".into()]);
    let values = logprobs(&model, &ids, &ctx.cancel().into()).ok_or_else(cancelled)?;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let (position, id, value) = (at + 1, ids[at + 1], values[at]);
        let checkpoint = escape(&args.checkpoint);
        return Err(Failure::NoProbability { checkpoint, position, id, value }.into());
    }
    let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
    let document = Document {
        weights: if args.q8_0 { "q8_0" } else { "exact" },
        ids: &ids,
        logprobs: values.iter().map(|value| shortest(*value)).collect(),
        sum,
    };
    let outcome = Outcome::new(&document);
    let text = Value::Object(outcome.document().clone()).to_string();
    Ok(outcome.human(text).quiet(sum.to_string()))
}

/// The number whose shortest decimal is that of `value`, and reads back as the same f32.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("Rust reads the numbers that it writes")
}

fn read_ids(path: &Path) -> Result<Vec<u32>> {
    let bytes = fsio::read_input(path, IDS_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    let separators = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
    let words = text.split(separators).filter(|word| !word.is_empty());
    let read = |word: &str| {
        let shown = escape(&word.chars().take(20).collect::<String>());
        let message = format!("{}: `{shown}` is no token id", path.display());
        word.parse().map_err(|_| usage(message, IDS_HELP))
    };
    words.map(read).collect()
}

fn usage(message: String, help: &str) -> crate::error::Error {
    Failure::Usage(message, vec![help.into()]).into()
}
