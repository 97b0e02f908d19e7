//! Which step is best, and how sure one can be: statistics alone.
//!
//! No files, no clock, no processes: callers bring a [`records::Table`] and a seed, and get
//! numbers. Every number is a function of the two.

pub mod allocate;
pub mod curse;
pub mod estimate;
pub mod linear;
pub mod nll;
pub mod rasch;
pub mod records;
pub mod resample;
pub mod rng;
pub mod scores;
pub mod sim;
pub mod stop;
pub mod summary;

use crate::error::{Diagnose, Kind};
use crate::name::escape;

/// What can be wrong with records or settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No steps, or no tasks.
    #[error("there is no {what} to compare")]
    Empty {
        /// `step` or `task`.
        what: &'static str,
    },
    /// A name occurs twice.
    #[error("the {what} `{}` is given twice", escape(name))]
    Twice {
        /// `step` or `task`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A reward outside `[0, 1]`, or one that contradicts the outcome.
    #[error(
        "reward of step `{}` on task `{}`: expected a number in [0, 1], got {got}",
        escape(step),
        escape(task)
    )]
    Reward {
        /// The step.
        step: String,
        /// The task.
        task: String,
        /// What was found.
        got: String,
    },
    /// The baseline is none of the steps.
    #[error(
        "the baseline `{}` is none of the {}",
        escape(name),
        crate::units::plural(steps.len() as u64, "step")
    )]
    Baseline {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        steps: Vec<String>,
    },
    /// A step has no verdict at all.
    #[error("step `{}` has no graded attempt", escape(step))]
    NoVerdict {
        /// The step.
        step: String,
    },
    /// Two steps cut the same trajectories into different tokens.
    #[error(
        "{} and {} cannot be compared by nll: they cut the replies into {} and {} tokens",
        escape(&steps[0]), escape(&steps[1]), tokens[0], tokens[1]
    )]
    Tokens {
        /// The steps.
        steps: [String; 2],
        /// Their numbers of tokens.
        tokens: [u64; 2],
    },
    /// A likelihood is not finite.
    #[error("step `{}` gives a likelihood that is not a finite number", escape(step))]
    NotANumber {
        /// The step.
        step: String,
    },
    /// A setting is out of its range.
    #[error("{setting} must be {expected}, got {got}")]
    Setting {
        /// The setting, as the user spells it.
        setting: &'static str,
        /// The range.
        expected: &'static str,
        /// What was given.
        got: String,
    },
}

impl Diagnose for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Reward { .. }
            | Self::NoVerdict { .. }
            | Self::Tokens { .. }
            | Self::NotANumber { .. } => Kind::BadData,
            Self::Baseline { .. } => Kind::NotFound,
            _ => Kind::Usage,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "nothing_to_compare",
            Self::Twice { .. } => "given_twice",
            Self::Reward { .. } => "bad_reward",
            Self::Baseline { .. } => "baseline_not_found",
            Self::NoVerdict { .. } => "no_verdict",
            Self::Tokens { .. } => "different_tokens",
            Self::NotANumber { .. } => "not_a_number",
            Self::Setting { .. } => "bad_setting",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Empty { .. } => vec!["give at least two job folders after --from".to_owned()],
            Self::Twice { .. } => vec!["give every step once".to_owned()],
            Self::Reward { .. } => vec!["correct or remove that trial's result.json".to_owned()],
            Self::Baseline { name, steps } => {
                let mut help = Vec::new();
                if let Some(near) = crate::name::suggest(name, steps.iter().map(String::as_str)) {
                    help.push(format!("did you mean `{}`?", escape(near)));
                }
                help.push(format!("the steps are {}", crate::name::few(steps)));
                help
            }
            Self::NoVerdict { .. } => vec![
                "every trial of it failed for reasons outside the model; run them again".to_owned(),
            ],
            Self::Tokens { .. } => vec![
                "their tokenizers or chat templates differ; leave out one, or choose by rollouts \
                 alone"
                    .to_owned(),
            ],
            Self::NotANumber { .. } => {
                vec!["`tmax-ckpt verify --finite` says whether its weights are".to_owned()]
            }
            Self::Setting { .. } => vec!["see `tmax-ckpt select --help`".to_owned()],
        }
    }
}
