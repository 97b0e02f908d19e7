//! `bench-select` (hidden): the simulator's tables, as Markdown, with what they are to reach.

use std::fmt::Write as _;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{Document, Outcome};
use crate::error::Result;
use crate::select::allocate::Allocation;
use crate::select::rasch::Prior;
use crate::select::sim::{
    CONFIDENCES, GAPS, Gap, Measured, REGIMES, Regime, Replicate, Study, replicate, replicate_seed,
    rollouts_to_correct, stop_quality,
};
use crate::units::plural;

/// The seed of the table in BENCHMARKS.md, with which nothing was tuned.
const HELD_OUT_SEED: u64 = 20_261_123;

/// Measure the selection statistics over known truth, and compare with what is to be reached
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Simulated selections a cell
    #[arg(long, value_name = "N", default_value_t = 300)]
    replicates: u64,
    /// Seed of all of them; the settings were tuned with other seeds
    #[arg(long, value_name = "N", default_value_t = HELD_OUT_SEED)]
    seed: u64,
    /// Only the cells whose regime is one of these
    #[arg(long, value_name = "REGIME", value_parser = ["binomial", "TBLite-like", "TB2-like"])]
    regime: Vec<String>,
    /// Spread attempts evenly instead, for comparison
    #[arg(long)]
    uniform: bool,
    /// The prior's spread of the steps, in logits, instead of the one that `select` uses
    #[arg(long, value_name = "LOGITS")]
    step_sd: Option<f64>,
    /// Exit with 1 when a goal is missed
    #[arg(long)]
    check: bool,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Cells {
    /// The cells, which were also printed one a line when they were ready.
    cells: Vec<Cell>,
    /// Figures that do not reach what is asked of them.
    goals_missed: u32,
}

impl Document for Cells {
    const NAME: &'static str = "bench-select/1";
}

/// One regime and gap.
#[derive(Clone, Serialize, JsonSchema)]
pub(super) struct Cell {
    /// How tasks and attempts vary.
    regime: &'static str,
    /// By how much the best step is ahead.
    gap: &'static str,
    /// How many selections were simulated.
    simulations: u64,
    /// The seed of all of them.
    seed: u64,
    /// Rollouts after which nine of ten choices are right, if they were reached.
    rollouts_to_90: Option<f64>,
    /// Its standard error.
    rollouts_to_90_se: Option<f64>,
    /// What it is to be at most, if something is published.
    rollouts_to_90_goal: Option<f64>,
    /// What the stop rule does at each confidence.
    stops: Vec<Stop>,
}

impl Document for Cell {
    const NAME: &'static str = "bench-select.cell/1";
}

/// The stop rule at one confidence.
#[derive(Clone, Serialize, JsonSchema)]
struct Stop {
    /// The confidence asked for.
    confidence: f64,
    /// The share of right choices.
    correct: f64,
    /// Its standard error.
    correct_se: f64,
    /// Whether that is the confidence at least, two standard errors allowed for.
    calibrated: bool,
    /// Rollouts until it stops, on average.
    rollouts: f64,
    /// Its standard error.
    rollouts_se: f64,
    /// The published number of these rollouts, if there is one.
    rollouts_published: Option<f64>,
}

/// What the published simulation got for a cell, by allocation with informative tasks.
struct Published {
    regime: &'static str,
    gap: &'static str,
    /// Rollouts to 90 % correct; absent where it was not reached within 5,000.
    rollouts: Option<f64>,
    /// Mean rollouts when stopped, for each confidence; not published for binomial tasks.
    stopped: Option<[f64; CONFIDENCES.len()]>,
}

/// One line a cell.
#[rustfmt::skip]
const PUBLISHED: [Published; REGIMES.len() * GAPS.len()] = [
    Published { regime: "binomial",    gap: "+3",       rollouts: None,          stopped: None },
    Published { regime: "binomial",    gap: "ladder 3", rollouts: Some(2_310.0), stopped: None },
    Published { regime: "binomial",    gap: "+5",       rollouts: Some(2_780.0), stopped: None },
    Published { regime: "TBLite-like", gap: "+3",       rollouts: Some(2_780.0), stopped: Some([1_688.0, 3_074.0]) },
    Published { regime: "TBLite-like", gap: "ladder 3", rollouts: Some(1_500.0), stopped: Some([688.0, 1_227.0]) },
    Published { regime: "TBLite-like", gap: "+5",       rollouts: Some(1_060.0), stopped: Some([906.0, 1_427.0]) },
    Published { regime: "TB2-like",    gap: "+3",       rollouts: Some(1_070.0), stopped: Some([752.0, 1_274.0]) },
    Published { regime: "TB2-like",    gap: "ladder 3", rollouts: Some(490.0),   stopped: Some([327.0, 510.0]) },
    Published { regime: "TB2-like",    gap: "+5",       rollouts: Some(440.0),   stopped: Some([429.0, 575.0]) },
];

/// Runs the command.
///
/// # Errors
/// None.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let mut tables = Tables::default();
    for regime in REGIMES {
        if !args.regime.is_empty() && !args.regime.iter().any(|name| name == regime.name) {
            continue;
        }
        for gap in &GAPS {
            let cell = Cell::measure(&args, regime, gap);
            ctx.emit(&cell);
            tables.add(cell, rollouts_max(regime, gap, args.allocation()));
        }
    }
    let missed = tables.missed;
    let text = tables.text(&args);
    let document = Cells { cells: tables.cells, goals_missed: missed };
    let outcome = Outcome::new(&document).human(text).one_line();
    if args.check && missed > 0 {
        let help = vec!["the tables above say which".to_owned()];
        let count = plural(u64::from(missed), "goal");
        return Ok(outcome.problem(format!("{count} missed"), help));
    }
    Ok(outcome)
}

impl Args {
    fn allocation(&self) -> Allocation {
        if self.uniform { Allocation::Uniform } else { Allocation::Ttts }
    }
}

/// How a figure stands to its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Reached,
    Missed,
    /// There is nothing to reach.
    NoGoal,
}

impl From<bool> for Verdict {
    fn from(reached: bool) -> Self {
        if reached { Self::Reached } else { Self::Missed }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Reached => "pass",
            Self::Missed => "**FAIL**",
            Self::NoGoal => "–",
        }
    }
}

impl Cell {
    fn measure(args: &Args, regime: Regime, gap: &Gap) -> Self {
        let allocation = args.allocation();
        let rollouts_max = rollouts_max(regime, gap, allocation);
        let mut prior = Prior::default();
        if let Some(step_sd) = args.step_sd {
            prior.step_sds.fill(step_sd);
        }
        let study = Study { allocation, rollouts_max, prior, ..Study::default() };
        // Each simulation has its own seed: the order in which threads take them does not matter.
        let replicates: Vec<Replicate> = (0..args.replicates)
            .into_par_iter()
            .map(|i| replicate(&study, regime, gap, replicate_seed(args.seed, i)))
            .collect();
        let published = PUBLISHED.iter().find(|p| p.regime == regime.name && p.gap == gap.name);
        let published = published.expect("one published line a cell");
        let crossing = rollouts_to_correct(&study, &replicates, args.seed);
        Self {
            regime: regime.name,
            gap: gap.name,
            simulations: args.replicates,
            seed: args.seed,
            rollouts_to_90: crossing.map(|m| m.value),
            rollouts_to_90_se: crossing.map(|m| m.se),
            rollouts_to_90_goal: published.rollouts,
            stops: (0..CONFIDENCES.len()).map(|i| Stop::of(&replicates, i, published)).collect(),
        }
    }

    /// Says whether nine in ten choices are right as early as published.
    fn early(&self) -> Verdict {
        let Some(goal) = self.rollouts_to_90_goal else { return Verdict::NoGoal };
        Verdict::from(self.rollouts_to_90.is_some_and(|rollouts| rollouts <= goal))
    }
}

impl Stop {
    fn of(replicates: &[Replicate], index: usize, published: &Published) -> Self {
        let (correct, rollouts) = stop_quality(replicates, index);
        let confidence = CONFIDENCES[index];
        Self {
            confidence,
            correct: correct.value,
            correct_se: correct.se,
            calibrated: correct.value + 2.0 * correct.se >= confidence,
            rollouts: rollouts.value,
            rollouts_se: rollouts.se,
            rollouts_published: published.stopped.map(|stopped| stopped[index]),
        }
    }

    /// Says whether that takes no more rollouts than published: shown, and no goal of ours.
    fn price(&self) -> &'static str {
        match self.rollouts_published {
            None => "–",
            Some(published) if self.rollouts <= published => "yes",
            Some(_) => "no",
        }
    }
}

/// The two tables as they grow.
#[derive(Default)]
struct Tables {
    early: String,
    stops: String,
    cells: Vec<Cell>,
    missed: u32,
}

impl Tables {
    fn add(&mut self, cell: Cell, rollouts_max: usize) {
        let names = format!("| {} | {} |", cell.regime, cell.gap);
        let crossed = match (cell.rollouts_to_90, cell.rollouts_to_90_se) {
            (Some(value), Some(se)) => measured(Measured { value, se }, 0),
            _ => format!("> {rollouts_max}"),
        };
        let goal = cell.rollouts_to_90_goal.map_or("> 5000".to_owned(), |goal| goal.to_string());
        let early = cell.early();
        self.missed += u32::from(early == Verdict::Missed);
        let _ = writeln!(self.early, "{names} {crossed} | {goal} | {} |", early.word());
        for stop in &cell.stops {
            self.missed += u32::from(!stop.calibrated);
            let _ = writeln!(
                self.stops,
                "{names} {} | {} | {} | {} | {} | {} |",
                stop.confidence,
                measured(Measured { value: stop.correct, se: stop.correct_se }, 3),
                Verdict::from(stop.calibrated).word(),
                measured(Measured { value: stop.rollouts, se: stop.rollouts_se }, 0),
                stop.rollouts_published.map_or_else(|| "–".to_owned(), |p| p.to_string()),
                stop.price(),
            );
        }
        self.cells.push(cell);
    }

    fn text(&self, args: &Args) -> String {
        let mut text = format!(
            "{} a cell, seed {}. ± is one standard error.\n\n",
            plural(args.replicates, "simulated selection"),
            args.seed
        );
        text.push_str(EARLY_HEAD);
        text.push_str(&self.early);
        text.push('\n');
        text.push_str(STOPS_HEAD);
        text.push_str(&self.stops);
        let _ = writeln!(text, "\n{} missed.", plural(u64::from(self.missed), "goal"));
        text
    }
}

const EARLY_HEAD: &str = "\
| regime | gap | rollouts to 90 % correct | at most | |
|---|---|---|---|---|
";

const STOPS_HEAD: &str = "\
| regime | gap | stopped at | correct | as often as asked | rollouts | published | no more than that |
|---|---|---|---|---|---|---|---|
";

/// Rollouts over which a cell is followed: well past its crossing.
fn rollouts_max(regime: Regime, gap: &Gap, allocation: Allocation) -> usize {
    let base = match (regime.name, gap.name) {
        ("binomial", "+3") => 5_000,
        ("binomial", _) => 4_000,
        ("TBLite-like", "+3") => 3_600,
        ("TBLite-like", "+5") => 1_800,
        ("TBLite-like", _) => 2_200,
        (_, "+3") => 1_600,
        _ => 800,
    };
    if allocation == Allocation::Uniform { 3 * base } else { base }
}

fn measured(m: Measured, digits: usize) -> String {
    format!("{:.digits$} ± {:.digits$}", m.value, m.se)
}
