//! The table that `select` prints.

use std::fmt::Write as _;

use super::render::{DIM, GOOD, STRONG, paint};
use crate::report;
use crate::select::estimate::PassAtK;
use crate::select::summary::{Step, Summary};
use crate::units::plural;

/// Returns the table for people.
#[must_use]
pub fn text(summary: &Summary) -> String {
    let width = summary.steps.iter().map(|s| s.step.chars().count()).max().unwrap_or(0).max(8);
    let versus = format!("vs {}", summary.baseline);
    let mut text = format!(
        "{:width$}  {:>8}  {:>6}  {:>13}  {:>24}  {:>7}  {:>6}\n",
        "step", "estimate", "pass@1", "95% interval", versus, "P(best)", "regret"
    );
    for step in &summary.steps {
        text.push_str(&row(summary, step, width));
    }
    let [fewest, most] = summary.attempts_a_cell;
    let attempts = plural(most as u64, "attempt");
    let attempts = if fewest == most { attempts } else { format!("{fewest} to {attempts}") };
    let tasks = plural(summary.tasks.len() as u64, "task");
    let _ = writeln!(text, "{tasks} × {attempts}. {}", report::rule_sentence(summary));
    let steps: Vec<(&str, &[PassAtK])> =
        summary.steps.iter().map(|s| (s.step.as_str(), &s.pass_at_k[..])).collect();
    text.push_str(&pass_at_k(&steps));
    let _ = writeln!(text, "{}", paint(STRONG, report::verdict(summary)));
    text
}

/// Returns a line with the largest k that every step has attempts for, where there is one.
pub(super) fn pass_at_k(steps: &[(&str, &[PassAtK])]) -> String {
    let last = |list: &[PassAtK]| list.iter().map(|p| p.k).max().unwrap_or(0);
    let k = steps.iter().map(|(_, list)| last(list)).min().unwrap_or(0);
    let of = |(step, list): &(&str, &[PassAtK])| {
        let found = list.iter().find(|p| p.k == k)?;
        Some(format!("{step} {:.1}", found.value * 100.0))
    };
    match steps.iter().map(of).collect::<Option<Vec<String>>>() {
        Some(steps) if k > 1 => format!("pass@{k} {}\n", steps.join(", ")),
        _ => String::new(),
    }
}

fn row(summary: &Summary, step: &Step, width: usize) -> String {
    let interval = step
        .interval_new_tasks
        .map_or_else(String::new, |i| format!("{:.1} … {:.1}", i.low * 100.0, i.high * 100.0));
    let versus = step.versus_baseline.as_ref().map_or_else(String::new, |v| {
        let interval = v.interval.map_or_else(String::new, |i| {
            format!(" ({:+.1} … {:+.1})", i.low * 100.0, i.high * 100.0)
        });
        format!("{:+.1}{interval}", v.mean * 100.0)
    });
    let mark = if step.step == summary.picked {
        paint(GOOD, "← picked")
    } else if step.step == summary.best {
        paint(DIM, "best estimate")
    } else {
        String::new()
    };
    let line = format!(
        "{:width$}  {:>8.1}  {:>6.1}  {interval:>13}  {versus:>24}  {:>7}  {:>6.1}  {mark}",
        step.step,
        step.estimate * 100.0,
        step.mean * 100.0,
        report::probability(step.p_best),
        step.regret * 100.0,
    );
    format!("{}\n", line.trim_end())
}
