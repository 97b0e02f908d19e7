//! The settings: what they are, where each came from, and the configuration file.
//!
//! Precedence: flag, variable, `./tmax-ckpt.toml`, the user's `config.toml`, default.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;

use super::args::{ColorMode, ProgressMode};
use super::failure::Failure;
use crate::name::{escape, suggest};

/// The project's configuration file, looked for in the current folder.
pub const PROJECT_FILE: &str = "tmax-ckpt.toml";

/// The Hub, unless a setting says otherwise.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

const FILE_LEN_MAX: u64 = 1 << 20;

/// The keys of a configuration file, named as the flags are.
const KEYS: &[&str] = &["cache-dir", "color", "endpoint", "jobs", "offline", "progress"];

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// An environment variable.
    Variable(&'static str),
    /// A file: the token's, or a configuration file.
    File(PathBuf),
    /// The built-in default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// Makes a setting.
    #[must_use]
    pub fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }
}

/// A Hub token. Neither `Debug` nor anything else prints it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes a token; surrounding white space is dropped, an empty one is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let trimmed = text.trim();
        (!trimmed.is_empty()).then(|| Self(trimmed.to_owned()))
    }

    /// Returns the secret, for the header of a request to the Hub's own host.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// All settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Never open a socket.
    pub offline: Setting<bool>,
    /// The Hub cache's folder, which holds `models--…`.
    pub cache_dir: Setting<PathBuf>,
    /// The Hub's address, without a slash at its end.
    pub endpoint: Setting<String>,
    /// The Hub token.
    pub token: Setting<Option<Token>>,
    /// How many things to do at once.
    pub jobs: Setting<usize>,
    /// How to show progress.
    pub progress: Setting<ProgressMode>,
    /// When to colour.
    pub color: Setting<ColorMode>,
    /// The configuration files that were read, the first one winning.
    pub files: Vec<PathBuf>,
}

/// One parsed configuration file.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// `offline`.
    pub offline: Option<bool>,
    /// `cache-dir`, relative to the file's folder.
    pub cache_dir: Option<PathBuf>,
    /// `endpoint`.
    pub endpoint: Option<String>,
    /// `jobs`.
    pub jobs: Option<usize>,
    /// `progress`.
    pub progress: Option<ProgressMode>,
    /// `color`.
    pub color: Option<ColorMode>,
}

impl ConfigFile {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, has an unknown key or a value of the wrong type.
    pub fn read(path: &Path) -> crate::error::Result<Self> {
        let bytes = crate::fsio::read_capped(path, FILE_LEN_MAX)?;
        Ok(Self::parse(path, &String::from_utf8_lossy(&bytes))?)
    }

    /// Parses the text of a file that lies at `path`.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let table: toml::Table = toml::from_str(text)
            .map_err(|e| Failure::Toml { path: path.to_owned(), source: Box::new(e) })?;
        for key in table.keys() {
            if !KEYS.contains(&key.as_str()) {
                let near = suggest(key, KEYS.iter().copied());
                let near = KEYS.iter().copied().find(|k| Some(*k) == near);
                let (path, key) = (path.to_owned(), escape(key));
                return Err(Failure::UnknownKey { path, key, near });
            }
        }
        let values = Values { path, table: &table };
        let jobs = |v: &toml::Value| usize::try_from(v.as_integer()?).ok().filter(|n| *n > 0);
        let text = |v: &toml::Value| v.as_str().map(str::to_owned);
        let folder = |v: &toml::Value| Some(crate::fsio::parent(path).join(v.as_str()?));
        let progress = |v: &toml::Value| ProgressMode::from_str(v.as_str()?, false).ok();
        let color = |v: &toml::Value| ColorMode::from_str(v.as_str()?, false).ok();
        Ok(Self {
            path: path.to_owned(),
            offline: values.get("offline", "true or false", toml::Value::as_bool)?,
            cache_dir: values.get("cache-dir", "a path in quotes", folder)?,
            endpoint: values.get("endpoint", "an address in quotes", text)?,
            jobs: values.get("jobs", "a whole number above zero", jobs)?,
            progress: values.get(
                "progress",
                "\"auto\", \"plain\", \"json\" or \"none\"",
                progress,
            )?,
            color: values.get("color", "\"auto\", \"always\" or \"never\"", color)?,
        })
    }
}

/// The values of a file on their way into [`ConfigFile`].
struct Values<'a> {
    path: &'a Path,
    table: &'a toml::Table,
}

impl Values<'_> {
    fn get<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&toml::Value) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let bad = || Failure::BadValue { path: self.path.to_owned(), key, expected };
        read(value).map(Some).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ConfigFile, Token};
    use crate::error::Error;

    fn parse(text: &str) -> Result<ConfigFile, Error> {
        Ok(ConfigFile::parse(Path::new("conf/tmax-ckpt.toml"), text)?)
    }

    #[test]
    fn a_full_file_is_read() {
        let file = parse(
            "offline = true\ncache-dir = \"hub\"\nendpoint = \"http://localhost:1\"\njobs = 3\n\
             progress = \"plain\"\ncolor = \"never\"\n",
        )
        .expect("parses");
        assert_eq!(file.offline, Some(true));
        assert_eq!(file.cache_dir.as_deref(), Some(Path::new("conf/hub")));
        assert_eq!(file.jobs, Some(3));
    }

    #[test]
    fn mistakes_are_named_and_near_keys_suggested() {
        let error = parse("cache_dir = \"x\"").expect_err("an unknown key");
        assert_eq!(error.help(), ["did you mean `cache-dir`?"]);
        for bad in ["jobs = 0", "jobs = -1", "offline = 1", "color = \"red\"", "jobs", "[a"] {
            let error = parse(bad).expect_err(bad);
            assert_eq!(error.kind().exit_code(), 2, "{bad}");
            assert!(!error.help().is_empty(), "{bad}");
        }
    }

    #[test]
    fn tokens_do_not_print() {
        let token = Token::new(" hf_secret\n").expect("not empty");
        assert_eq!(token.expose(), "hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert!(Token::new(" \n").is_none());
    }
}
