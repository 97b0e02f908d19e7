//! The page.

use minijinja::context;
use serde::Serialize;

use super::svg::value;
use super::{Provenance, notes, points, probability, rule_sentence, svg, verdict};
use crate::select::summary::{Interval, Step, Summary};
use crate::units::plural;

/// One line of the table of steps.
#[derive(Serialize)]
struct TableRow {
    step: String,
    picked: bool,
    mean: String,
    these: String,
    new: String,
    estimate: String,
    versus: String,
    p_value: String,
    tally: String,
    p_best: String,
    p_best_new: String,
    regret: String,
    pass_at_k: String,
    graded: usize,
    timeouts: usize,
    failures: usize,
}

/// One line of the heat map.
#[derive(Serialize)]
struct HeatRow {
    task: String,
    cells: Vec<HeatCell>,
}

#[derive(Serialize)]
struct HeatCell {
    /// Shade, 0 to 10; none without a verdict.
    shade: Option<u8>,
    text: String,
}

/// Renders the page.
pub fn page(summary: &Summary, provenance: &Provenance) -> Result<String, minijinja::Error> {
    let mut all_notes = notes(summary);
    all_notes.extend(provenance.notes.iter().cloned());
    let [fewest, most] = summary.attempts_a_cell;
    let attempts = plural(most as u64, "attempt");
    let mut settings = vec![
        ("rule".to_owned(), summary.rule.to_owned()),
        ("confidence".to_owned(), summary.confidence.to_string()),
        ("indifference".to_owned(), format!("{} points", points(summary.indifference))),
        ("spread of task difficulty".to_owned(), format!("{:.2} logits", summary.task_sd)),
    ];
    settings.extend(provenance.settings.iter().cloned());
    let table: Vec<TableRow> = summary.steps.iter().map(|s| table_row(s, summary)).collect();
    let env = svg::templates()?;
    env.get_template("page.html")?.render(context! {
        picked => &summary.picked,
        baseline => &summary.baseline,
        verdict => verdict(summary),
        rule => rule_sentence(summary),
        attempts => if fewest == most { attempts } else { format!("{fewest} to {attempts}") },
        task_count => plural(summary.tasks.len() as u64, "task"),
        step_count => plural(summary.steps.len() as u64, "step"),
        notes => value(&all_notes),
        chart => value(&svg::score_chart(summary)),
        differences => value(&svg::difference_plot(summary)),
        smalls => value(&svg::small_multiples(summary)),
        steps => value(&table),
        heat => value(&heat(summary)),
        settings => value(&settings),
        document => value(&provenance.document),
    })
}

fn interval(interval: Option<Interval>) -> String {
    interval.map_or_else(|| "–".to_owned(), |i| format!("{} … {}", points(i.low), points(i.high)))
}

fn table_row(s: &Step, summary: &Summary) -> TableRow {
    let versus = s.versus_baseline.as_ref();
    TableRow {
        step: s.step.clone(),
        picked: s.step == summary.picked,
        mean: points(s.mean),
        these: interval(s.interval_these_tasks),
        new: interval(s.interval_new_tasks),
        estimate: format!("{} ± {}", points(s.estimate), points(s.estimate_sd)),
        versus: versus.map_or_else(String::new, |v| {
            let se = v.se_new_tasks.map_or_else(String::new, |se| format!(" ± {}", points(se)));
            format!("{:+.1}{se}", v.mean * 100.0)
        }),
        p_value: versus.map_or_else(String::new, |v| format!("{:.3}", v.sign_flip_p)),
        tally: versus.map_or_else(String::new, |v| format!("{}/{}/{}", v.wins, v.ties, v.losses)),
        p_best: probability(s.p_best),
        p_best_new: probability(s.p_best_new_tasks),
        regret: points(s.regret),
        pass_at_k: s
            .pass_at_k
            .iter()
            .map(|p| format!("@{} {}", p.k, points(p.value)))
            .collect::<Vec<_>>()
            .join(", "),
        graded: s.endings.graded,
        timeouts: s.endings.timeouts,
        failures: s.endings.infrastructure_failures,
    }
}

fn heat(summary: &Summary) -> Vec<HeatRow> {
    let cell = |mean: &Option<f64>| HeatCell {
        shade: mean.map(|m| (m * 10.0).round().clamp(0.0, 10.0) as u8),
        text: mean.map_or_else(|| "·".to_owned(), |m| format!("{:.0}", m * 100.0)),
    };
    summary
        .tasks
        .iter()
        .map(|t| HeatRow { task: t.task.clone(), cells: t.steps.iter().map(cell).collect() })
        .collect()
}
