//! What every command gets: settings with their origins, progress, cancellation.
//!
//! The one place that reads the environment; the variables that have a flag are read by clap for
//! it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::args::{ColorMode, GlobalArgs, ProgressMode};
use super::failure::Failure;
use super::outcome::{Document, printed};
use super::settings::{
    ConfigFile, DEFAULT_ENDPOINT, Origin, PROJECT_FILE, Setting, Settings, Token,
};
use super::{bars, render, signals};
use crate::error::{Error, Kind, Result};
use crate::fsio::Locked;
use crate::hub::RepoCache;
use crate::name::escape;
use crate::progress::{Cancel, SharedProgress};

/// The resolved circumstances of one run.
pub struct Context {
    settings: Settings,
    progress: SharedProgress,
    signals: signals::Signals,
    output: Output,
    verbose: u8,
    held: Mutex<Vec<Locked>>,
}

/// What the user wants on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Text for people.
    Human,
    /// JSON.
    Json,
    /// The path or the id.
    Quiet,
    /// Nothing.
    Silent,
}

impl Output {
    /// Reads the wish from the flags. `--json` wins over one `-q`.
    #[must_use]
    pub fn from_args(global: &GlobalArgs) -> Self {
        OutputFlags { quiet: global.quiet.into(), json: global.json }.output()
    }

    /// Reads the wish from a command line that clap has refused: flags are taken at their word,
    /// even where they may be the value of another.
    #[must_use]
    pub fn from_argv(argv: &[OsString]) -> Self {
        let words = argv.iter().filter_map(|arg| arg.to_str()).take_while(|word| *word != "--");
        let mut flags = OutputFlags::default();
        for word in words {
            match (word, word.strip_prefix('-')) {
                ("--json", _) => flags.json = true,
                ("--quiet", _) => flags.quiet += 1,
                // Flags without a value may share one dash.
                (_, Some(letters)) if letters.chars().all(|c| "hnqvVy".contains(c)) => {
                    flags.quiet += letters.matches('q').count();
                }
                _ => {}
            }
        }
        flags.output()
    }
}

/// The flags that an [`Output`] follows from.
#[derive(Default)]
struct OutputFlags {
    /// How often `-q` was given.
    quiet: usize,
    json: bool,
}

impl OutputFlags {
    fn output(&self) -> Output {
        match (self.quiet, self.json) {
            (2.., _) => Output::Silent,
            (_, true) => Output::Json,
            (1, false) => Output::Quiet,
            (0, false) => Output::Human,
        }
    }
}

impl Context {
    /// Resolves everything. Colour, logging and signal handlers are set up on the way.
    ///
    /// # Errors
    /// A configuration or token file that cannot be read, or a setting that cannot be used.
    pub fn new(global: &GlobalArgs, matches: &ArgMatches) -> Result<Self> {
        let settings = Sources::new(global, matches)?.resolve()?;
        render::set_color(settings.color.value);
        let output = Output::from_args(global);
        let quiet = matches!(output, Output::Quiet | Output::Silent);
        let mode = if quiet { ProgressMode::None } else { settings.progress.value };
        let sink = bars::sink(mode, variable("TERM").as_deref());
        render::install_logging(global.verbose, variable("RUST_LOG"), sink.log_writer());
        let signals = signals::Signals::install();
        if settings.jobs.origin != Origin::Default {
            // An error says that there are threads already: then a test made two contexts.
            let threads = rayon::ThreadPoolBuilder::new().num_threads(settings.jobs.value);
            let _ = threads.build_global();
        }
        let (verbose, held) = (global.verbose, Mutex::default());
        Ok(Self { settings, progress: sink.progress(), signals, output, verbose, held })
    }

    /// Returns all settings with their origins.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Says whether no socket may be opened.
    #[must_use]
    pub fn offline(&self) -> bool {
        self.settings.offline.value
    }

    /// Returns the Hub cache's folder.
    #[must_use]
    pub fn cache_dir(&self) -> &Path {
        &self.settings.cache_dir.value
    }

    /// Returns the Hub's address.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.settings.endpoint.value
    }

    /// Returns the Hub token, for requests to the Hub's own host only.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.settings.token.value.as_ref()
    }

    /// Returns how many things to do at once.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.settings.jobs.value
    }

    /// Says whether `-v` asks for every line there is.
    #[must_use]
    pub fn verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Returns the progress sink.
    #[must_use]
    pub fn progress(&self) -> SharedProgress {
        SharedProgress::clone(&self.progress)
    }

    /// Keeps what this command reads of the Hub's cache from being removed until it ends.
    ///
    /// # Errors
    /// An interruption, while it waits for a removal.
    pub fn hold(&self, repository: &RepoCache) -> Result<()> {
        let lock = repository.in_use(&self.progress, &self.signals.cancel_of_a_wait())?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).extend(lock);
        Ok(())
    }

    /// Returns the flag that the first SIGINT or SIGTERM sets. A command that asks for it must
    /// watch it, and ends with [`Context::interrupted`]; for others the first signal is the end.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        self.signals.cancel()
    }

    /// Returns the error of a command that stopped because it was asked to. Without help lines
    /// of its own, it says that the same command goes on.
    #[must_use]
    pub fn interrupted(&self, help: Vec<String>) -> Error {
        let help =
            if help.is_empty() { vec!["run the same command to continue".into()] } else { help };
        let kind = self.signals.received().unwrap_or(Kind::Interrupted);
        Failure::Interrupted { kind, help }.into()
    }

    /// Turns a library's "interrupted" into the exit code of the signal that arrived.
    #[must_use]
    pub fn name_the_signal(&self, error: Error) -> Error {
        match (error.kind(), self.signals.received()) {
            (Kind::Interrupted, Some(Kind::Terminated)) => self.interrupted(error.help()),
            _ => error,
        }
    }

    /// Returns what the user wants on stdout.
    #[must_use]
    pub fn output(&self) -> Output {
        self.output
    }

    /// Prints one JSON line on stdout now, if the user wants JSON: for commands whose result is
    /// a stream.
    pub fn emit(&self, line: &impl Document) {
        if self.output == Output::Json {
            let text = serde_json::to_string(&printed(line)).expect("a JSON value serialises");
            render::stdout_line(&text);
        }
    }

    /// Returns the time, for commands to pass down.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    /// Returns an environment variable that is set and not empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<OsString> {
        variable(name)
    }

    /// Returns the path of this program, which is also the first process of each sandbox.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn program(&self) -> std::io::Result<PathBuf> {
        std::env::current_exe()
    }

    /// Returns the user's home folder.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        home()
    }
}

/// Returns a variable; set and empty counts as not set, as scripts mean it.
#[allow(clippy::disallowed_methods, reason = "the one home of the environment")]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns $HOME, or the folder that the system has for this user: services have no such variable.
#[allow(clippy::disallowed_methods, reason = "the one home of the environment")]
fn home() -> PathBuf {
    let of_user = || std::env::home_dir().filter(|dir| dir.is_absolute());
    variable("HOME").map(PathBuf::from).or_else(of_user).unwrap_or_else(|| PathBuf::from("/"))
}

fn under_home(name: &str, fallback: &str) -> PathBuf {
    variable(name).map_or_else(|| home().join(fallback), PathBuf::from)
}

/// Returns where the user's configuration file would be.
#[must_use]
pub fn user_file() -> PathBuf {
    under_home("XDG_CONFIG_HOME", ".config").join("tmax-ckpt/config.toml")
}

/// The places that settings come from.
struct Sources<'a> {
    global: &'a GlobalArgs,
    matches: &'a ArgMatches,
    files: Vec<ConfigFile>,
}

impl<'a> Sources<'a> {
    fn new(global: &'a GlobalArgs, matches: &'a ArgMatches) -> Result<Self> {
        let mut files = Vec::new();
        if let Some(path) = &global.config {
            files.push(ConfigFile::read(path)?);
        } else if !global.no_config {
            for path in [PathBuf::from(PROJECT_FILE), user_file()] {
                if path.is_file() {
                    files.push(ConfigFile::read(&path)?);
                }
            }
        }
        Ok(Self { global, matches, files })
    }

    fn resolve(&self) -> Result<Settings> {
        let endpoint = self.endpoint()?;
        let token = self.token(&endpoint)?;
        Ok(Settings {
            offline: self.offline(),
            cache_dir: self.cache_dir(),
            endpoint,
            token,
            jobs: self.jobs(),
            progress: self.progress(),
            color: self.color(),
            files: self.files.iter().map(|file| file.path.clone()).collect(),
        })
    }

    /// Returns whether the flag `id` was typed or came from `variable`.
    fn origin(&self, id: &str, variable: &'static str) -> Origin {
        match self.matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Variable(variable),
            _ => Origin::Default,
        }
    }

    fn in_files<T>(&self, get: impl Fn(&ConfigFile) -> Option<T>) -> Option<Setting<T>> {
        self.files.iter().find_map(|file| {
            get(file).map(|value| Setting::new(value, Origin::File(file.path.clone())))
        })
    }

    fn offline(&self) -> Setting<bool> {
        match self.origin("offline", "HF_HUB_OFFLINE") {
            Origin::Default => {
                self.in_files(|file| file.offline).unwrap_or(Setting::new(false, Origin::Default))
            }
            origin => Setting::new(self.global.offline, origin),
        }
    }

    fn cache_dir(&self) -> Setting<PathBuf> {
        if let Some(dir) = self.global.cache_dir.as_ref().filter(|dir| !dir.is_empty()) {
            return Setting::new(dir.into(), self.origin("cache_dir", "HF_HUB_CACHE"));
        }
        if let Some(dir) = variable("HF_HOME") {
            return Setting::new(Path::new(&dir).join("hub"), Origin::Variable("HF_HOME"));
        }
        self.in_files(|file| file.cache_dir.clone()).unwrap_or_else(|| {
            let dir = under_home("XDG_CACHE_HOME", ".cache").join("huggingface/hub");
            Setting::new(dir, Origin::Default)
        })
    }

    fn endpoint(&self) -> Result<Setting<String>> {
        let mut endpoint = match self.global.endpoint.as_ref().filter(|text| !text.is_empty()) {
            Some(text) => Setting::new(text.clone(), self.origin("endpoint", "HF_ENDPOINT")),
            None => self
                .in_files(|file| file.endpoint.clone())
                .unwrap_or_else(|| Setting::new(DEFAULT_ENDPOINT.into(), Origin::Default)),
        };
        while endpoint.value.ends_with('/') {
            endpoint.value.pop();
        }
        let text = &endpoint.value;
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            let value = escape(text);
            let expected = "an http:// or https:// address";
            return Err(Failure::BadSetting { what: "endpoint", value, expected }.into());
        }
        Ok(endpoint)
    }

    /// Finds the token. An endpoint that the current folder chose gets none: a cloned project
    /// must not be able to send the user's token to a host of its own.
    fn token(&self, endpoint: &Setting<String>) -> Result<Setting<Option<Token>>> {
        let given = self.global.token.as_deref().and_then(Token::new);
        if given.is_some() && self.origin("token", "HF_TOKEN") == Origin::Flag {
            return Ok(Setting::new(given, Origin::Flag));
        }
        if endpoint.origin == Origin::File(PROJECT_FILE.into()) {
            return Ok(Setting::new(None, endpoint.origin.clone()));
        }
        if given.is_some() {
            return Ok(Setting::new(given, Origin::Variable("HF_TOKEN")));
        }
        let path = variable("HF_TOKEN_PATH").map_or_else(
            || {
                let home = under_home("XDG_CACHE_HOME", ".cache").join("huggingface");
                variable("HF_HOME").map_or(home, PathBuf::from).join("token")
            },
            PathBuf::from,
        );
        if !path.is_file() {
            return Ok(Setting::new(None, Origin::Default));
        }
        let bytes = crate::fsio::read_capped(&path, 1 << 16)?;
        let token = Token::new(&String::from_utf8_lossy(&bytes));
        Ok(Setting::new(token, Origin::File(path)))
    }

    fn jobs(&self) -> Setting<usize> {
        match self.global.jobs {
            Some(jobs) => Setting::new(jobs.get(), self.origin("jobs", "TMAX_CKPT_JOBS")),
            None => self.in_files(|file| file.jobs).unwrap_or_else(|| {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                Setting::new(cores, Origin::Default)
            }),
        }
    }

    fn progress(&self) -> Setting<ProgressMode> {
        if let Some(mode) = self.global.progress {
            return Setting::new(mode, self.origin("progress", "TMAX_CKPT_PROGRESS"));
        }
        let falsey = ["0", "n", "no", "f", "false", "off"];
        let disable = variable("HF_HUB_DISABLE_PROGRESS_BARS")
            .is_some_and(|v| !falsey.contains(&v.to_string_lossy().to_lowercase().as_str()));
        if disable {
            let origin = Origin::Variable("HF_HUB_DISABLE_PROGRESS_BARS");
            return Setting::new(ProgressMode::None, origin);
        }
        self.in_files(|file| file.progress)
            .unwrap_or(Setting::new(ProgressMode::Auto, Origin::Default))
    }

    fn color(&self) -> Setting<ColorMode> {
        match self.global.color {
            Some(mode) => Setting::new(mode, Origin::Flag),
            // NO_COLOR and CLICOLOR_FORCE are part of "auto", which judges each stream.
            None => self
                .in_files(|file| file.color)
                .unwrap_or(Setting::new(ColorMode::Auto, Origin::Default)),
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}
