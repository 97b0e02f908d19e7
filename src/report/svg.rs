//! Coordinates of the charts. The templates draw them.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use super::probability;
use crate::select::summary::{Step, Summary};

/// Width of all wide charts, in CSS pixels.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 14.0;

/// A horizontal or vertical grid line.
#[derive(Debug, Serialize)]
pub struct Tick {
    at: f64,
    label: String,
}

/// One step's marks in the score chart.
#[derive(Debug, Serialize)]
pub struct Mark {
    x: f64,
    y: f64,
    low: f64,
    high: f64,
    bar: f64,
    bar_width: f64,
    label: String,
    picked: bool,
    title: String,
    p_best: String,
}

/// The score chart: means, band, P(best).
#[derive(Debug, Serialize)]
pub struct ScoreChart {
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    bottom: f64,
    bar_base: f64,
    label_y: f64,
    slanted: bool,
    ticks: Vec<Tick>,
    band: String,
    line: String,
    marks: Vec<Mark>,
    description: String,
}

const PLOT_TOP: f64 = 14.0;
const PLOT_BOTTOM: f64 = 254.0;
const BAR_TOP: f64 = 286.0;
const BAR_BASE: f64 = 346.0;

/// Lays out the score chart.
pub fn score_chart(summary: &Summary) -> ScoreChart {
    let steps = &summary.steps;
    let low = |s: &Step| s.interval_new_tasks.map_or(s.mean, |i| i.low.min(s.mean));
    let high = |s: &Step| s.interval_new_tasks.map_or(s.mean, |i| i.high.max(s.mean));
    let scale = Scale::nice(
        steps.iter().map(low).fold(f64::INFINITY, f64::min),
        steps.iter().map(high).fold(f64::NEG_INFINITY, f64::max),
        (PLOT_BOTTOM, PLOT_TOP),
    );
    let longest = steps.iter().map(|s| s.step.chars().count()).max().unwrap_or(0);
    let label_width = longest.min(LABEL_CHARS_MAX) as f64 * 6.6;
    let slanted = label_width > (WIDTH - LEFT - RIGHT) / steps.len() as f64 - 6.0;
    // A slanted label ends under its mark and reaches to the left of it.
    let left = if slanted { LEFT + 20.0 } else { LEFT };
    let slot = (WIDTH - left - RIGHT) / steps.len() as f64;
    let marks: Vec<Mark> = steps
        .iter()
        .enumerate()
        .map(|(i, s)| Mark {
            x: left + (i as f64 + 0.5) * slot,
            y: scale.at(s.mean),
            low: scale.at(low(s)),
            high: scale.at(high(s)),
            bar: (BAR_BASE - BAR_TOP) * s.p_best,
            bar_width: (slot * 0.6).min(46.0),
            label: shortened(&s.step),
            picked: s.step == summary.picked,
            title: title(s),
            p_best: probability(s.p_best),
        })
        .collect();
    let there = marks.iter().map(|m| format!("{:.1},{:.1}", m.x, m.high));
    let back = marks.iter().rev().map(|m| format!("{:.1},{:.1}", m.x, m.low));
    ScoreChart {
        width: WIDTH,
        height: if slanted { 440.0 } else { 384.0 },
        left,
        right: WIDTH - RIGHT,
        bottom: PLOT_BOTTOM,
        bar_base: BAR_BASE,
        label_y: BAR_BASE + 16.0,
        slanted,
        ticks: scale.ticks,
        band: there.chain(back).collect::<Vec<_>>().join(" "),
        line: marks.iter().map(|m| format!("{:.1},{:.1}", m.x, m.y)).collect::<Vec<_>>().join(" "),
        description: describe(summary),
        marks,
    }
}

const LABEL_CHARS_MAX: usize = 14;

/// Keeps the end of a long name: the number of the step stands there.
fn shortened(name: &str) -> String {
    let count = name.chars().count();
    if count <= LABEL_CHARS_MAX {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(count - LABEL_CHARS_MAX + 1).collect();
    format!("…{tail}")
}

fn title(s: &Step) -> String {
    let interval = s.interval_new_tasks.map_or_else(String::new, |i| {
        format!(", 95% {:.1} … {:.1}", i.low * 100.0, i.high * 100.0)
    });
    let p = probability(s.p_best);
    format!("{}: {:.1}%{interval}, P(best) {p}", s.step, s.mean * 100.0)
}

fn describe(summary: &Summary) -> String {
    let each: Vec<String> = summary.steps.iter().map(title).collect();
    format!("Share of tasks solved by step. Picked: {}. {}.", summary.picked, each.join("; "))
}

/// One line of the difference plot.
#[derive(Debug, Serialize)]
pub struct Row {
    y: f64,
    x: f64,
    low: f64,
    high: f64,
    label: String,
    value: String,
    picked: bool,
    title: String,
}

/// The plot of paired differences.
#[derive(Debug, Serialize)]
pub struct DifferencePlot {
    width: f64,
    height: f64,
    zero: f64,
    base: f64,
    ticks: Vec<Tick>,
    rows: Vec<Row>,
    description: String,
}

const ROW_HEIGHT: f64 = 26.0;
const NAME_WIDTH: f64 = 150.0;
const VALUE_WIDTH: f64 = 150.0;

/// Lays out the differences to the baseline; `None` with a single step.
pub fn difference_plot(summary: &Summary) -> Option<DifferencePlot> {
    let compared: Vec<(&Step, f64, f64, f64)> = summary
        .steps
        .iter()
        .filter_map(|s| {
            let v = s.versus_baseline.as_ref()?;
            let (low, high) = v.interval.map_or((v.mean, v.mean), |i| (i.low, i.high));
            Some((s, v.mean, low, high))
        })
        .collect();
    if compared.is_empty() {
        return None;
    }
    let scale = Scale::nice(
        compared.iter().map(|c| c.2).fold(0.0, f64::min),
        compared.iter().map(|c| c.3).fold(0.0, f64::max),
        (NAME_WIDTH, WIDTH - VALUE_WIDTH),
    );
    let rows: Vec<Row> = compared
        .iter()
        .enumerate()
        .map(|(i, (s, mean, low, high))| {
            let value =
                format!("{:+.1} ({:+.1} … {:+.1})", mean * 100.0, low * 100.0, high * 100.0);
            Row {
                y: 20.0 + i as f64 * ROW_HEIGHT,
                x: scale.at(*mean),
                low: scale.at(*low),
                high: scale.at(*high),
                label: shortened(&s.step),
                picked: s.step == summary.picked,
                title: format!("{} against {}: {value} points", s.step, summary.baseline),
                value,
            }
        })
        .collect();
    let base = 10.0 + rows.len() as f64 * ROW_HEIGHT;
    let said: Vec<&str> = rows.iter().map(|r| r.title.as_str()).collect();
    Some(DifferencePlot {
        width: WIDTH,
        height: base + 26.0,
        zero: scale.at(0.0),
        base,
        ticks: scale.ticks,
        description: said.join("; "),
        rows,
    })
}

/// A small chart of one quantity by step.
#[derive(Debug, Serialize)]
pub struct Small {
    name: &'static str,
    width: f64,
    height: f64,
    base: f64,
    top: String,
    bars: Vec<SmallBar>,
    description: String,
}

/// One bar of it.
#[derive(Debug, Serialize)]
pub struct SmallBar {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    picked: bool,
    title: String,
}

/// What a step's quantity is, if its records say.
type Quantity = fn(&Step) -> Option<f64>;

/// The quantities, and how many digits their values need.
const QUANTITIES: [(&str, usize, Quantity); 6] = [
    ("Tokens written an attempt", 0, |s| s.effort.tokens),
    ("Turns an attempt", 1, |s| s.effort.turns),
    ("Format errors an attempt", 2, |s| s.effort.format_errors),
    ("Seconds an attempt", 0, |s| s.effort.secs),
    ("Time-outs, % of attempts", 1, |s| share(s.endings.timeouts, s)),
    ("No verdict, % of attempts", 1, |s| share(s.endings.infrastructure_failures, s)),
];

fn share(count: usize, s: &Step) -> Option<f64> {
    let all = s.endings.graded + s.endings.infrastructure_failures;
    (all > 0).then(|| count as f64 / all as f64 * 100.0)
}

/// Lays out the small charts that have anything to show.
pub fn small_multiples(summary: &Summary) -> Vec<Small> {
    QUANTITIES
        .iter()
        .filter_map(|(name, digits, get)| {
            let values: Vec<Option<f64>> = summary.steps.iter().map(get).collect();
            let most = values.iter().flatten().copied().fold(0.0, f64::max);
            (most > 0.0).then(|| small(summary, name, *digits, &values, most))
        })
        .collect()
}

fn small(
    summary: &Summary,
    name: &'static str,
    digits: usize,
    values: &[Option<f64>],
    most: f64,
) -> Small {
    let (width, base, full) = (240.0, 88.0, 66.0);
    let slot = width / values.len() as f64;
    let bars: Vec<SmallBar> = summary
        .steps
        .iter()
        .zip(values)
        .enumerate()
        .filter_map(|(i, (step, value))| {
            let height = (*value)? / most * full;
            let bar = (slot * 0.7).min(34.0);
            Some(SmallBar {
                x: (i as f64 + 0.5) * slot - bar / 2.0,
                y: base - height,
                width: bar,
                height,
                picked: step.step == summary.picked,
                title: format!("{}: {:.digits$}", step.step, (*value)?),
            })
        })
        .collect();
    let said: Vec<&str> = bars.iter().map(|b| b.title.as_str()).collect();
    Small {
        name,
        width,
        height: base + 4.0,
        base,
        top: format!("{most:.digits$}"),
        description: said.join("; "),
        bars,
    }
}

/// A linear scale with round grid lines, in points of a hundred.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    ticks: Vec<Tick>,
}

impl Scale {
    /// Widens `[low, high]` to round numbers and maps it to `range`.
    fn nice(low: f64, high: f64, range: (f64, f64)) -> Self {
        let (low, high) = (low * 100.0, high * 100.0);
        let span = (high - low).max(1.0);
        let step = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]
            .into_iter()
            .find(|step| span / step <= 7.0)
            .unwrap_or(25.0);
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let mut scale = Self {
            low: first * step,
            high: last * step,
            from: range.0,
            to: range.1,
            ticks: Vec::new(),
        };
        let count = (last - first) as usize;
        scale.ticks = (0..=count)
            .map(|i| {
                let value = (first + i as f64) * step;
                Tick { at: scale.at(value / 100.0), label: format!("{value}") }
            })
            .collect();
        scale
    }

    fn at(&self, share: f64) -> f64 {
        let part = (share * 100.0 - self.low) / (self.high - self.low);
        self.from + part * (self.to - self.from)
    }
}

/// Returns the templates, all of which escape what they print.
pub fn templates() -> Result<Environment<'static>, minijinja::Error> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.add_filter("px", |value: f64| format!("{value:.1}"));
    env.add_template("style.css", include_str!("style.css"))?;
    env.add_template("charts.svg", include_str!("charts.svg"))?;
    env.add_template("chart.svg", include_str!("chart.svg"))?;
    env.add_template("page.html", include_str!("page.html"))?;
    Ok(env)
}

/// Returns a view as the templates' own kind of value.
pub fn value(view: &impl Serialize) -> Value {
    fn convert(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::from(()),
            serde_json::Value::Bool(b) => Value::from(b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(whole), _) => Value::from(whole),
                (None, float) => Value::from(float.unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Value::from(s),
            serde_json::Value::Array(items) => items.into_iter().map(convert).collect(),
            serde_json::Value::Object(map) => {
                Value::from_pairs(map.into_iter().map(|(key, item)| (key, convert(item))))
            }
        }
    }
    convert(serde_json::to_value(view).expect("views are plain structs, which serialise"))
}

/// Returns the score chart as a file of its own.
pub fn chart(summary: &Summary) -> Result<String, minijinja::Error> {
    let env = templates()?;
    env.get_template("chart.svg")?.render(context! { chart => value(&score_chart(summary)) })
}
