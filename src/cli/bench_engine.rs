//! `bench-engine` (hidden): prefill and decode speed on a checkpoint, as llama-bench measures them.

use std::time::Instant;

use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::resolve::resolve_one;
use crate::checkpoint::Checkpoint;
use crate::engine::backend::{Backend, Batch, Segment, WeightPrecision};
use crate::engine::device::DeviceChoice;
use crate::engine::local::load_model;
use crate::engine::model::{Model, Workspace};
use crate::error::Result;

/// Tokens a forward pass of the prompt, llama.cpp's default too.
const PIECE: usize = 512;

/// Measure prefill and decode speed on a checkpoint
///
/// Ids are arbitrary. One run of each warms up and is not counted; loading is timed apart.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder, or owner/name@revision from the cache
    #[arg(value_name = "CKPT")]
    checkpoint: String,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = positive)]
    prompt: usize,
    /// Tokens decoded after an empty prompt
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    generate: usize,
    /// Sequences decoded at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    batch: usize,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = positive)]
    repetitions: usize,
    /// Compute with weights of eight bits
    #[arg(long)]
    q8_0: bool,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number above zero is needed".into()),
        Ok(number) => Ok(number),
    }
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document {
    /// `exact`, or `q8_0` if they were rounded to eight bits.
    weights: &'static str,
    /// Threads that computed.
    threads: usize,
    /// Seconds until the model was in memory.
    load_secs: f64,
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// The speed of each repetition.
    prefill_tokens_per_sec: Vec<f64>,
    /// Sequences decoded at the same time.
    batch: usize,
    /// Tokens decoded a sequence.
    generated_tokens: usize,
    /// The speed of each repetition, all sequences together.
    decode_tokens_per_sec: Vec<f64>,
}

impl outcome::Document for Document {
    const NAME: &'static str = "bench-engine/1";
}

/// Runs the command.
///
/// # Errors
/// The checkpoint cannot be used.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let checkpoint = Checkpoint::open(&resolve_one(&args.checkpoint, ctx)?.path)?;
    let precision = if args.q8_0 { WeightPrecision::Q8_0 } else { WeightPrecision::Exact };
    let start = Instant::now();
    let model = load_model(&checkpoint, DeviceChoice::Cpu, precision)?;
    let load_secs = start.elapsed().as_secs_f64();
    let vocab = model.config().vocab_size as usize;
    let ids: Vec<u32> = (0..args.prompt).map(|i| ((i * 7919 + 13) % vocab) as u32).collect();
    let rates = |tokens: usize, secs: &dyn Fn() -> f64| -> Vec<f64> {
        secs();
        (0..args.repetitions).map(|_| tokens as f64 / secs()).collect()
    };
    let prefill = rates(args.prompt, &|| prefill_secs(&model, &ids));
    let decoded = args.generate * args.batch;
    let decode = rates(decoded, &|| decode_secs(&model, args.generate, args.batch));
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let human = format!(
        "load {load_secs:.1} s, at best prefill {:.1} and decode {:.2} tokens/s",
        best(&prefill),
        best(&decode)
    );
    let document = Document {
        weights: if args.q8_0 { "q8_0" } else { "exact" },
        threads: rayon::current_num_threads(),
        load_secs,
        prompt_tokens: args.prompt,
        prefill_tokens_per_sec: prefill,
        batch: args.batch,
        generated_tokens: args.generate,
        decode_tokens_per_sec: decode,
    };
    Ok(Outcome::new(&document).human(human.clone()).quiet(human))
}

/// Seconds for a prompt in pieces, and the logits of its last token.
fn prefill_secs<B: Backend>(model: &Model<B>, ids: &[u32]) -> f64 {
    let (mut cache, mut workspace) = (model.cache(), Workspace::default());
    let start = Instant::now();
    let mut last = 0;
    for (index, piece) in ids.chunks(PIECE).enumerate() {
        let segments = vec![Segment { offset: 0, len: piece.len(), position: index * PIECE }];
        model.forward(piece, &mut Batch { segments, caches: vec![&mut cache] }, &mut workspace);
        last = piece.len() - 1;
    }
    model.logits(&workspace, &[last]);
    start.elapsed().as_secs_f64()
}

/// Seconds for `count` steps of `batch` sequences, logits included.
fn decode_secs<B: Backend>(model: &Model<B>, count: usize, batch: usize) -> f64 {
    let vocab = model.config().vocab_size as usize;
    let mut caches: Vec<B::Cache> = (0..batch).map(|_| model.cache()).collect();
    let mut workspace = Workspace::default();
    let rows: Vec<usize> = (0..batch).collect();
    let start = Instant::now();
    for position in 0..count {
        let ids: Vec<u32> = rows.iter().map(|&i| ((position + i) % vocab) as u32).collect();
        let segments = rows.iter().map(|&offset| Segment { offset, len: 1, position }).collect();
        let mut packed = Batch { segments, caches: caches.iter_mut().collect() };
        model.forward(&ids, &mut packed, &mut workspace);
        model.logits(&workspace, &rows);
    }
    start.elapsed().as_secs_f64()
}
