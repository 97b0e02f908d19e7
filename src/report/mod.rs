//! The report of a selection: one HTML page without scripts, or its chart as SVG.
//!
//! Renders a [`Summary`]; computes nothing but coordinates. All text that came from outside is
//! escaped by the templates.

mod html;
mod svg;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::{Diagnose, Kind};
use crate::fsio;
use crate::select::summary::{Certainty, Step, Summary};
use crate::units::plural;

/// What a report cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The file name says neither HTML nor SVG.
    #[error("cannot tell what kind of report {} is to be", path.display())]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// Something is there that no `select` has written.
    #[error("{} exists and is no report of `select`", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A link, which the report would replace.
    #[error("{} is a link", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A template does not render: a bug.
    #[error("the report's template does not render")]
    Template(#[from] minijinja::Error),
}

impl Diagnose for ReportError {
    fn kind(&self) -> Kind {
        match self {
            Self::Extension { .. } | Self::Foreign { .. } | Self::Link { .. } => Kind::Usage,
            Self::Template(_) => Kind::Bug,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "output_exists",
            Self::Link { .. } => "output_is_link",
            _ => self.kind().id(),
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Extension { .. } => vec!["name it with .html or .svg at the end".to_owned()],
            Self::Foreign { path } => {
                vec![format!("remove {} or name another file with --report", path.display())]
            }
            Self::Link { .. } => {
                vec!["name with --report what it points to, or a name that is free".to_owned()]
            }
            Self::Template(_) => Vec::new(),
        }
    }
}

/// Where the numbers came from, in the words of the caller.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// Names and values, in order: seeds, command line, versions, hashes.
    pub settings: Vec<(String, String)>,
    /// What the reader of the records noticed.
    pub notes: Vec<String>,
    /// The JSON document, embedded in the page.
    pub document: serde_json::Value,
}

/// What both kinds of report have near their beginning, and no other file.
const MARKS: [&str; 2] = [
    r#"<meta name="generator" content="tmax-ckpt select">"#,
    "<metadata>tmax-ckpt select</metadata>",
];

/// Where the mark is looked for.
const HEAD_BYTES: u64 = 4096;

/// Refuses, before there is anything to report, a file that cannot become one: by its name, or
/// because it holds something else. A report that bears the mark is replaced, and so is an empty file.
///
/// # Errors
/// [`ReportError::Extension`], [`ReportError::Foreign`], [`ReportError::Link`], a file that cannot
/// be read.
pub fn check_target(path: &Path) -> Result<(), crate::error::Error> {
    if !matches!(path.extension().and_then(|e| e.to_str()), Some("html" | "htm" | "svg")) {
        return Err(ReportError::Extension { path: path.to_owned() }.into());
    }
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    if fsio::is_link(path) {
        return Err(ReportError::Link { path: path.to_owned() }.into());
    }
    let (file, _) = fsio::open_regular(path)?;
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(fsio::Error::io("read", path))?;
    let head = String::from_utf8_lossy(&head);
    if head.is_empty() || MARKS.iter().any(|mark| head.contains(mark)) {
        return Ok(());
    }
    Err(ReportError::Foreign { path: path.to_owned() }.into())
}

/// Renders the kind of report that the file name asks for.
///
/// # Errors
/// A name that ends neither in `.html` nor in `.svg`.
pub fn render(
    path: &Path,
    summary: &Summary,
    provenance: &Provenance,
) -> Result<String, ReportError> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("html" | "htm") => Ok(html::page(summary, provenance)?),
        Some("svg") => Ok(svg::chart(summary)?),
        _ => Err(ReportError::Extension { path: path.to_owned() }),
    }
}

/// Formats a probability; only certainty is 0 % or 100 %.
#[must_use]
pub fn probability(p: f64) -> String {
    match p {
        _ if p > 0.0 && p < 0.005 => "<1%".to_owned(),
        _ if (0.995..1.0).contains(&p) => ">99%".to_owned(),
        _ => format!("{:.0}%", p * 100.0),
    }
}

fn points(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// Returns the verdict in one sentence.
#[must_use]
pub fn verdict(summary: &Summary) -> String {
    let Summary { picked, best, .. } = summary;
    let p = |name: &str| {
        let step = summary.steps.iter().find(|step| step.step == name);
        probability(step.map_or(0.0, |step| step.p_best))
    };
    let lead = match summary.certainty {
        Certainty::Confident => {
            format!("{best} is the best of these steps with probability {}", p(best))
        }
        Certainty::Indifferent => format!(
            "{best} is within {} points of the best with the confidence asked for",
            points(summary.indifference)
        ),
        Certainty::Undecided => {
            format!("no step is shown to be the best: {best} leads with probability {}", p(best))
        }
    };
    if picked == best {
        format!("Take {picked}: {lead}.")
    } else {
        format!("Take {picked}, which is within one standard error of {best}: {lead}.")
    }
}

/// Returns the rule in one sentence.
#[must_use]
pub fn rule_sentence(summary: &Summary) -> String {
    match summary.rule {
        "one-se" if summary.picked == summary.best => "Rule one-se: the earliest step within one \
             standard error of the best, which is the best itself."
            .to_owned(),
        "one-se" => format!(
            "Rule one-se: the earliest step within one standard error of the best ({} points \
             between these two).",
            points(summary.one_se)
        ),
        "lcb" => "Rule lcb: the step with the highest lower bound.".to_owned(),
        _ => "Rule best: the step with the highest estimate.".to_owned(),
    }
}

/// Returns what a reader should know before believing the numbers.
#[must_use]
pub fn notes(summary: &Summary) -> Vec<String> {
    let mut notes = Vec::new();
    if summary.indistinguishable.len() > 1 {
        let needed = summary.tasks_needed.map_or_else(String::new, |n| {
            format!("; about {} would be needed (2 standard errors)", plural(n, "task"))
        });
        notes.push(format!(
            "{} cannot be told apart on these tasks{needed}",
            summary.indistinguishable.join(", ")
        ));
    }
    notes.extend(curse_note(summary));
    notes.extend(failure_note(summary));
    if summary.attempts_a_cell[0] * 2 < summary.attempts_a_cell[1] {
        notes.push(
            "steps have different numbers of attempts; decisions use the estimate, which allows \
             for that, and not pass@1"
                .to_owned(),
        );
    }
    notes.extend(tasks_note(summary));
    if summary.still_rising {
        notes.push("the picked step is the last one: still rising, train on?".to_owned());
    }
    notes
}

/// Says which steps' plain means are about fewer tasks than the others'.
fn tasks_note(summary: &Summary) -> Option<String> {
    let all = summary.tasks.len();
    let few: Vec<String> = summary
        .steps
        .iter()
        .filter(|step| step.tasks < all)
        .map(|step| format!("{} {}", step.step, step.tasks))
        .collect();
    (!few.is_empty()).then(|| {
        format!(
            "pass@1 and its interval are about the tasks that a step has verdicts on, of {all}: {}",
            few.join(", ")
        )
    })
}

/// Up to this many steps are named with what their failures would do to their means.
const NAMED_MAX: usize = 4;

fn failure_note(summary: &Summary) -> Option<String> {
    let failed: Vec<&Step> =
        summary.steps.iter().filter(|s| s.endings.infrastructure_failures > 0).collect();
    let total: usize = failed.iter().map(|s| s.endings.infrastructure_failures).sum();
    if failed.is_empty() {
        return None;
    }
    let which = if failed.len() > NAMED_MAX {
        format!("in {} of {} steps", failed.len(), summary.steps.len())
    } else {
        let each = failed.iter().map(|s| {
            let (count, zeroed) =
                (s.endings.infrastructure_failures, points(s.mean_missing_as_zero));
            format!("{} {count}, whose score would be {zeroed} if they counted as zero", s.step)
        });
        each.collect::<Vec<_>>().join("; ")
    };
    Some(format!("attempts without a verdict are in no mean ({total}): {which}"))
}

fn curse_note(summary: &Summary) -> Option<String> {
    let curse = &summary.curse;
    if let Some(mean) = curse.confirmed {
        let se = curse.confirmed_se.map_or_else(String::new, |se| format!(" ± {}", points(se)));
        return Some(format!(
            "{} of {} on {}, made after the choice: {}{se}",
            plural(curse.confirmed_rollouts as u64, "fresh rollout"),
            summary.picked,
            plural(curse.confirmed_tasks as u64, "task"),
            points(mean),
        ));
    }
    if summary.steps.len() < 2 {
        return None;
    }
    Some(format!(
        "the picked step's {} is a choice among {}: {} when corrected for that, {} shrunk; report \
         it on tasks not used here",
        points(curse.raw),
        summary.steps.len(),
        points(curse.corrected),
        points(curse.shrunk)
    ))
}
