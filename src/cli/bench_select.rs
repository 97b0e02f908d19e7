//! `bench-select` (hidden): the simulator's table, as Markdown.

use std::fmt::Write as _;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{Document, Outcome};
use crate::error::Result;
use crate::select::allocate::Allocation;
use crate::select::sim::{
    CONFIDENCES, GAPS, Gap, Measured, REGIMES, Regime, Replicate, Study, replicate, replicate_seed,
    rollouts_to_correct, stop_quality,
};

/// Measure the selection statistics over known truth and print the table
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Simulated selections a cell
    #[arg(long, value_name = "N", default_value_t = 300)]
    replicates: u64,
    /// Seed of all of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Only the cells whose regime is one of these
    #[arg(long, value_name = "REGIME", value_parser = ["binomial", "TBLite-like", "TB2-like"])]
    regime: Vec<String>,
    /// Spread attempts evenly instead, for comparison
    #[arg(long)]
    uniform: bool,
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Cells {
    /// The cells, which were also printed one a line when they were ready.
    cells: Vec<Cell>,
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
    /// Rollouts until it stops, on average.
    rollouts: f64,
    /// Its standard error.
    rollouts_se: f64,
}

/// Runs the command.
///
/// # Errors
/// None.
pub fn run(args: Args, ctx: &Context) -> Result<Outcome> {
    let mut text = String::from(HEAD);
    let mut rows = Vec::new();
    for regime in REGIMES {
        if !args.regime.is_empty() && !args.regime.iter().any(|name| name == regime.name) {
            continue;
        }
        for gap in &GAPS {
            let (line, row) = cell(&args, regime, gap);
            ctx.emit(&row);
            text.push_str(&line);
            rows.push(row);
        }
    }
    Ok(Outcome::new(&Cells { cells: rows }).human(text).one_line())
}

const HEAD: &str = "\
| regime | gap | simulations | rollouts to 90 % correct | correct at 0.8 | rollouts at 0.8 | \
correct at 0.9 | rollouts at 0.9 |
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

fn cell(args: &Args, regime: Regime, gap: &Gap) -> (String, Cell) {
    let allocation = if args.uniform { Allocation::Uniform } else { Allocation::Ttts };
    let rollouts_max = rollouts_max(regime, gap, allocation);
    let study = Study { allocation, rollouts_max, ..Study::default() };
    // Each simulation has its own seed: the order in which threads take them does not matter.
    let replicates: Vec<Replicate> = (0..args.replicates)
        .into_par_iter()
        .map(|i| replicate(&study, regime, gap, replicate_seed(args.seed, i)))
        .collect();
    let crossing = rollouts_to_correct(&study, &replicates, args.seed);
    let crossed = crossing.map_or_else(|| format!("> {rollouts_max}"), |m| measured(m, 0));
    let mut line = format!("| {} | {} | {} | {crossed} |", regime.name, gap.name, args.replicates);
    let mut stops = Vec::new();
    for (i, confidence) in CONFIDENCES.iter().enumerate() {
        let (correct, rollouts) = stop_quality(&replicates, i);
        let _ = write!(line, " {} | {} |", measured(correct, 3), measured(rollouts, 0));
        stops.push(Stop {
            confidence: *confidence,
            correct: correct.value,
            correct_se: correct.se,
            rollouts: rollouts.value,
            rollouts_se: rollouts.se,
        });
    }
    let row = Cell {
        regime: regime.name,
        gap: gap.name,
        simulations: args.replicates,
        seed: args.seed,
        rollouts_to_90: crossing.map(|m| m.value),
        rollouts_to_90_se: crossing.map(|m| m.se),
        stops,
    };
    (line + "\n", row)
}

fn measured(m: Measured, digits: usize) -> String {
    format!("{:.digits$} ± {:.digits$}", m.value, m.se)
}
