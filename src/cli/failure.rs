//! What can go wrong in the command line itself.

use std::path::PathBuf;

use crate::error::{Diagnose, Kind};

/// The identity of [`Failure::NotCached`].
pub(super) const NOT_CACHED: &str = "revision_not_cached";

/// A failure of arguments, settings or output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A configuration file is not TOML.
    #[error("{} is not a valid configuration file", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A configuration file has a key that is none.
    #[error("{} has the unknown key `{key}`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key, escaped.
        key: String,
        /// The nearest known key.
        near: Option<&'static str>,
    },
    /// A configuration file's value has the wrong type or range.
    #[error("{}: `{key}` must be {expected}", path.display())]
    BadValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A setting that came from a flag or a variable cannot be used.
    #[error("{what} `{value}` is not {expected}")]
    BadSetting {
        /// The setting.
        what: &'static str,
        /// The value, escaped.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A flag's value is outside its range.
    #[error("{flag} is {expected}, not {value}")]
    BadFlag {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Neither a path nor the name of something on the Hub.
    #[error("`{text}` is neither an existing path nor `owner/name[@revision]`")]
    NotACheckpoint {
        /// The argument, escaped.
        text: String,
        /// What may have been meant.
        help: String,
    },
    /// Neither a folder of tasks nor a repository of some.
    #[error("{message}")]
    NoTasks {
        /// The message, the argument in it escaped.
        message: String,
        /// What may have been meant.
        help: String,
    },
    /// A repository or revision is not in the cache.
    #[error("{}{reference} is not in the cache", part_of(path))]
    NotCached {
        /// `owner/name@rev`.
        reference: String,
        /// The file of it that was asked for, escaped.
        path: Option<String>,
        /// The nearest cached revision.
        near: Option<String>,
    },
    /// What is to be removed from the cache is not in it.
    #[error("{reference} is not in the cache")]
    NothingCached {
        /// `owner/name` or `owner/name@rev`.
        reference: String,
        /// The nearest that is there.
        near: Option<String>,
    },
    /// No tensor has the name, or fits the pattern.
    #[error("no tensor is called `{pattern}`")]
    NoTensor {
        /// The name or pattern, escaped.
        pattern: String,
        /// The nearest name, or else the first, escaped.
        near: Option<String>,
    },
    /// A model computes something that is no probability.
    #[error("{checkpoint} gives token {position} (id {id}) a log-probability of {value}")]
    NoProbability {
        /// The checkpoint, escaped.
        checkpoint: String,
        /// The token's position.
        position: usize,
        /// Its id.
        id: u32,
        /// What was computed.
        value: f32,
    },
    /// SIGINT or SIGTERM arrived and the command stopped at a good place.
    #[error("interrupted")]
    Interrupted {
        /// [`Kind::Interrupted`] or [`Kind::Terminated`].
        kind: Kind,
        /// What is saved and how to go on.
        help: Vec<String>,
    },
    /// Something needs what this build or machine lacks.
    #[error("{0}")]
    Usage(
        /// The message.
        String,
        /// The help lines.
        Vec<String>,
    ),
}

fn part_of(path: &Option<String>) -> String {
    path.as_ref().map_or_else(String::new, |path| format!("{path} of "))
}

impl Diagnose for Failure {
    fn kind(&self) -> Kind {
        match self {
            Self::NotACheckpoint { .. }
            | Self::NoTasks { .. }
            | Self::NotCached { .. }
            | Self::NothingCached { .. }
            | Self::NoTensor { .. } => Kind::NotFound,
            Self::NoProbability { .. } => Kind::BadData,
            Self::Interrupted { kind, .. } => *kind,
            _ => Kind::Usage,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Toml { .. } | Self::BadValue { .. } => "config_invalid",
            Self::UnknownKey { .. } => "config_unknown_key",
            Self::BadSetting { .. } | Self::BadFlag { .. } => "setting_invalid",
            Self::NotACheckpoint { .. } => "checkpoint_not_found",
            Self::NoTasks { .. } => "tasks_not_found",
            Self::NotCached { .. } | Self::NothingCached { .. } => NOT_CACHED,
            Self::NoTensor { .. } => "tensor_not_found",
            Self::NoProbability { .. } => "no_probability",
            Self::Interrupted { kind, .. } => kind.id(),
            Self::Usage(..) => "usage",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Toml { .. } | Self::BadValue { .. } => {
                vec![
                    "`tmax-ckpt config show` lists the keys; `--no-config` ignores the file".into(),
                ]
            }
            Self::UnknownKey { near: Some(near), .. } => vec![format!("did you mean `{near}`?")],
            Self::UnknownKey { near: None, .. } => {
                vec!["`tmax-ckpt config show --no-config` lists the keys".into()]
            }
            Self::BadSetting { .. } => {
                vec!["`tmax-ckpt config show` says where it came from".into()]
            }
            Self::BadFlag { flag, expected, .. } => {
                vec![format!("give {flag} a value that is {expected}")]
            }
            Self::NotACheckpoint { help, .. } | Self::NoTasks { help, .. } => vec![help.clone()],
            Self::NotCached { reference, near, .. } => {
                let mut lines = vec![format!("`tmax-ckpt pull {reference}` fetches it")];
                if let Some(near) = near {
                    lines.push(format!("or did you mean `{near}`, which is there?"));
                }
                lines
            }
            Self::NothingCached { near, .. } => {
                let list = "`tmax-ckpt cache ls` lists what is there";
                let near = near.as_ref().map(|near| format!("did you mean `{near}`? {list}"));
                vec![near.unwrap_or_else(|| list.into())]
            }
            Self::NoTensor { near: Some(near), .. } => vec![
                format!("did you mean `{near}`?"),
                "--tensor takes a whole name, in which `*` stands for anything".into(),
            ],
            Self::NoTensor { near: None, .. } => vec!["there are no tensors".into()],
            Self::NoProbability { checkpoint, .. } => {
                vec![format!("`tmax-ckpt verify {checkpoint} --finite` names the tensors at fault")]
            }
            Self::Interrupted { help, .. } | Self::Usage(_, help) => help.clone(),
        }
    }
}
