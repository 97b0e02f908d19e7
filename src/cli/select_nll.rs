//! `select --metric nll`: how likely the checkpoints find given trajectories, to order the queue.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::context::Context;
use super::failure::Failure;
use super::outcome::{Document, Outcome};
use super::scoring::{EngineArgs, Identified};
use crate::checkpoint::Checkpoint;
use crate::engine::chat::CancelFlag;
use crate::engine::likelihood::{ForcedError, forced, negative_log_likelihood};
use crate::engine::local::{load_model, load_template, load_tokens};
use crate::engine::template::ChatTemplate;
use crate::error::Result;
use crate::fsio;
use crate::harness::digest;
use crate::harness::prompts::Prompts;
use crate::harness::trajectory::{self, Found};
use crate::name::escape;
use crate::progress::Unit;
use crate::select::nll::{Forced, Ranking};
use crate::units::plural;

/// What every answer with this metric says.
const NO_DECISION: &str = "nll orders, it does not decide";
/// Counts the ways in which replies were laid out and scored: values of different ones are not
/// compared. 2: a reply begins at a token.
const METHOD: u32 = 2;
/// The most bytes of a file of finished values.
const STORE_BYTES_MAX: u64 = 64 << 20;

/// What was measured.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Measured {
    /// The steps and their order.
    #[serde(flatten)]
    pub ranking: Ranking,
    /// Replies that were scored.
    pub replies: u64,
    /// Replies that `--max-model-len` cut off.
    pub replies_left_out: u64,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// The JSON document of an order by nll alone.
#[derive(Serialize, JsonSchema)]
pub(super) struct Order<'a> {
    /// `nll`.
    metric: &'static str,
    /// Always false: the metric orders, and decides nothing.
    decides: bool,
    /// What was measured.
    nll: &'a Measured,
    /// The steps, the one that finds the trajectories likeliest first.
    queue: Vec<&'a str>,
}

impl Document for Order<'_> {
    const NAME: &'static str = "select.nll/1";
}

/// The JSON document of a dry run of such an order.
#[derive(Serialize, JsonSchema)]
pub(super) struct OrderPlan<'a> {
    /// Always true: nothing was computed.
    dry_run: bool,
    /// Trajectories.
    trajectories: usize,
    /// The steps.
    steps: Vec<StepPlan<'a>>,
}

impl Document for OrderPlan<'_> {
    const NAME: &'static str = "select.nll.plan/1";
}

/// What is there of one step.
#[derive(Serialize, JsonSchema)]
struct StepPlan<'a> {
    /// Its name.
    step: &'a str,
    /// Trajectories that are done.
    finished: usize,
}

/// One checkpoint's finished value of one trajectory.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scored {
    nll: f64,
    tokens: u64,
    replies: u64,
    left_out: u64,
}

/// Reads the trajectories.
///
/// # Errors
/// None is given or found, or one is malformed.
pub fn trajectories(paths: &[PathBuf]) -> Result<Vec<Found>> {
    if paths.is_empty() {
        let help = "--trajectories takes files, folders of them, or job folders with solved trials";
        let message = "`--metric nll` needs trajectories";
        return Err(Failure::Usage(message.into(), vec![help.into()]).into());
    }
    trajectory::read_all(paths)
}

/// Measures all steps, one checkpoint in memory at a time. What is done is kept in `dir`, and not
/// done again.
///
/// # Errors
/// A checkpoint, a template or the folder cannot be used; an interruption.
pub fn measure(
    steps: &[Identified],
    found: &[Found],
    engine: &EngineArgs,
    dir: &Path,
    ctx: &Context,
) -> Result<Measured> {
    let progress = ctx.progress();
    progress.start("nll", (steps.len() * found.len()) as u64, Unit::Count);
    let mut values = Vec::new();
    for step in steps {
        values.push(measure_step(step, found, engine, dir, ctx)?);
    }
    progress.finish();
    let names: Vec<String> = steps.iter().map(|step| step.local.label.clone()).collect();
    let table: Vec<Vec<Forced>> = values
        .iter()
        .map(|step| step.iter().map(|v| Forced { nll: v.nll, tokens: v.tokens }).collect())
        .collect();
    let ranking = Ranking::of(&names, &table)?;
    // The same for all steps, or the ranking would have been refused.
    let sum = |get: fn(&Scored) -> u64| values[0].iter().map(get).sum();
    let mut measured = Measured {
        ranking,
        replies: sum(|v| v.replies),
        replies_left_out: sum(|v| v.left_out),
        notes: Vec::new(),
    };
    measured.notes = notes(&measured, found, &names);
    Ok(measured)
}

fn notes(measured: &Measured, found: &[Found], names: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    let own =
        |name: &&String| found.iter().any(|f| f.trajectory.model.as_deref() == Some(name.as_str()));
    let authors: Vec<String> = names.iter().filter(own).map(|name| escape(name)).collect();
    if !authors.is_empty() {
        notes.push(format!(
            "{} wrote some of these trajectories itself, which favours it: a model finds its own \
             words likely",
            authors.join(", ")
        ));
    }
    if measured.replies_left_out > 0 {
        let replies = plural(measured.replies_left_out, "reply");
        notes.push(format!("{replies} beyond --max-model-len left out"));
    }
    notes
}

fn measure_step(
    step: &Identified,
    found: &[Found],
    engine: &EngineArgs,
    dir: &Path,
    ctx: &Context,
) -> Result<Vec<Scored>> {
    let mut store = Store::open(dir, step, engine)?;
    let progress = ctx.progress();
    let done = found.iter().filter(|f| store.values.contains_key(&f.sha256)).count();
    progress.advance("", done as u64);
    if done < found.len() {
        let scorer = Scorer::load(step, engine, ctx)?;
        for one in found {
            if store.values.contains_key(&one.sha256) {
                continue;
            }
            let value = scorer.value(one, &ctx.cancel().into())?;
            let value = value.ok_or_else(|| ctx.interrupted(Vec::new()))?;
            store.values.insert(one.sha256.clone(), value);
            store.write()?;
            progress.advance("", 1);
        }
    }
    Ok(found.iter().map(|f| store.values[&f.sha256]).collect())
}

/// A checkpoint in memory.
struct Scorer {
    model: crate::engine::model::Model<crate::engine::cpu::CpuBackend>,
    tokens: crate::engine::tokens::Tokens,
    template: ChatTemplate,
    tools: Vec<Value>,
    context: usize,
}

impl Scorer {
    fn load(step: &Identified, engine: &EngineArgs, ctx: &Context) -> Result<Self> {
        let checkpoint = Checkpoint::open(&step.local.path)?;
        let (tokens, files) = load_tokens(&checkpoint)?;
        let now = ctx.now().to_zoned(jiff::tz::TimeZone::UTC);
        let (template, _) = load_template(&files, now)?;
        let model = load_model(&checkpoint, engine.device, engine.precision())?;
        let context = engine.max_model_len.min(model.config().max_position_embeddings as usize);
        Ok(Self { model, tokens, template, tools: Prompts::ours().tools, context })
    }

    /// Returns the value of a trajectory, `None` if cancelled.
    fn value(&self, found: &Found, cancel: &CancelFlag) -> Result<Option<Scored>> {
        let Found { trajectory, path, .. } = found;
        // A list of messages does not say which tools there were: those of the harness.
        let tools = if trajectory.tools.is_empty() { &self.tools } else { &trajectory.tools };
        let laid = forced(&self.template, &self.tokens, &trajectory.messages, tools, self.context)
            .map_err(ForcedError::into_error)
            .map_err(|error| error.with_help(format!("it is about {}", path.display())))?;
        let one = |sequence| negative_log_likelihood(&self.model, sequence, cancel);
        let nll: Option<f64> = laid.sequences.iter().map(one).sum();
        Ok(nll.map(|nll| Scored {
            nll,
            tokens: laid.tokens() as u64,
            replies: laid.replies() as u64,
            left_out: laid.left_out as u64,
        }))
    }
}

/// The finished values of one checkpoint, in a file of the job folder.
struct Store {
    path: PathBuf,
    key: Value,
    values: BTreeMap<String, Scored>,
}

impl Store {
    fn open(dir: &Path, step: &Identified, engine: &EngineArgs) -> Result<Self> {
        let key = json!({
            "method": METHOD,
            "tmax_ckpt": env!("CARGO_PKG_VERSION"),
            "repository": step.repository,
            "commit": step.commit,
            "q8_0": engine.q8_0,
            "max_model_len": engine.max_model_len,
            "tools": digest::of_json(&Value::Array(Prompts::ours().tools)),
        });
        let path = dir.join("nll").join(format!("{}.json", &digest::of_json(&key)[..16]));
        let mut store = Self { path, key, values: BTreeMap::new() };
        if store.path.is_file() {
            let bytes = fsio::read_capped(&store.path, STORE_BYTES_MAX)?;
            store.values = store.parse(&bytes).ok_or_else(|| {
                let message = format!("{} does not hold finished values", store.path.display());
                Failure::Usage(message, vec!["remove it, and they are computed again".into()])
            })?;
        }
        Ok(store)
    }

    fn parse(&self, bytes: &[u8]) -> Option<BTreeMap<String, Scored>> {
        let document: Value = serde_json::from_slice(bytes).ok()?;
        if document["key"] != self.key {
            return None;
        }
        let entry = |(sha256, value): (&String, &Value)| {
            let number = |name: &str| value[name].as_u64();
            let nll: f64 = value["nll"].as_str()?.parse().ok()?;
            let (tokens, replies) = (number("tokens")?, number("replies")?);
            Some((sha256.clone(), Scored { nll, tokens, replies, left_out: number("left_out")? }))
        };
        document["trajectories"].as_object()?.iter().map(entry).collect()
    }

    fn write(&self) -> Result<()> {
        let entry = |(sha256, v): (&String, &Scored)| {
            // As text, because that reads back as the same number, bit for bit.
            let value = json!({
                "nll": v.nll.to_string(), "tokens": v.tokens, "replies": v.replies,
                "left_out": v.left_out,
            });
            (sha256.clone(), value)
        };
        let values: Map<String, Value> = self.values.iter().map(entry).collect();
        let document =
            json!({"schema": "tmax-ckpt.nll/1", "key": self.key, "trajectories": values});
        fsio::create_dir_all(fsio::parent(&self.path))?;
        fsio::write_atomic(&self.path, document.to_string().as_bytes())?;
        Ok(())
    }
}

/// Says what [`measure`] would compute.
///
/// # Errors
/// A file of finished values that holds none.
pub fn dry_run(
    steps: &[Identified],
    found: &[Found],
    engine: &EngineArgs,
    dir: &Path,
) -> Result<Outcome> {
    let mut rows = Vec::new();
    let mut human = String::new();
    let of = plural(found.len() as u64, "trajectory");
    for step in steps {
        let store = Store::open(dir, step, engine)?;
        let done = found.iter().filter(|f| store.values.contains_key(&f.sha256)).count();
        let _ =
            writeln!(human, "would measure {} on {of}, {done} of them finished", step.local.label);
        rows.push(StepPlan { step: &step.local.label, finished: done });
    }
    let document = OrderPlan { dry_run: true, trajectories: found.len(), steps: rows };
    Ok(Outcome::new(&document).human(human).quiet(dir.display().to_string()))
}

/// The answer without tasks: the order, and no choice.
#[must_use]
pub fn outcome(measured: &Measured) -> Outcome {
    let ranking = &measured.ranking;
    let names = ranking.queue().into_iter().map(|step| ranking.steps[step].step.as_str());
    let queue: Vec<&str> = names.collect();
    let quiet = queue.join("\n");
    let document = Order { metric: "nll", decides: false, nll: measured, queue };
    let outcome = Outcome::new(&document).human(text(measured)).quiet(quiet);
    outcome
        .notes(&measured.notes)
        .hint("hint: give --tasks DIR, and rollouts choose, begun in this order")
}

/// Returns what a choice by rollouts says about the order of its queue.
#[must_use]
pub fn queue_note(measured: &Measured) -> String {
    let ranking = &measured.ranking;
    let names: Vec<String> =
        ranking.queue().iter().map(|step| escape(&ranking.steps[*step].step)).collect();
    format!("the queue began in the order of nll, {}; {NO_DECISION}", names.join(", "))
}

fn text(measured: &Measured) -> String {
    let ranking = &measured.ranking;
    let shown: Vec<String> = ranking.steps.iter().map(|step| escape(&step.step)).collect();
    let width = shown.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(8);
    let mut text = format!("{:width$}  {:>5}  {:>9}  {:>18}\n", "step", "queue", "nll", "behind");
    for (step, name) in ranking.steps.iter().zip(&shown) {
        let behind = match step.behind_se {
            Some(se) => format!("{:+.4} ± {se:.4}", step.behind),
            None if step.place == 1 => String::new(),
            None => format!("{:+.4}", step.behind),
        };
        let line = format!("{name:width$}  {:>5}  {:>9.4}  {behind:>18}", step.place, step.nll);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let replies = plural(measured.replies, "reply");
    let of = plural(ranking.trajectories as u64, "trajectory");
    let tokens = plural(ranking.tokens, "token");
    let _ =
        writeln!(text, "{tokens} of {replies} in {of}: mean -ln p a token, ± one standard error");
    let _ = writeln!(text, "No step is picked: {NO_DECISION}.");
    text
}
