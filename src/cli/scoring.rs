//! What `score` and `select` share: arguments, models that are loaded when needed, the job.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{ValueEnum, ValueHint};

use super::context::Context;
use super::failure::Failure;
use super::resolve::{self, Local};
use super::tasks;
use crate::checkpoint::Checkpoint;
use crate::engine::backend::WeightPrecision;
use crate::engine::chat::{CancelFlag, ChatError, ChatModel, ChatReply, ChatRequest, Sampling};
use crate::engine::device::DeviceChoice;
use crate::engine::endpoint::{Endpoint, EndpointOptions};
use crate::engine::generate;
use crate::engine::local::{LocalModel, LocalOptions};
use crate::error::{Error, Result};
use crate::harness::agent::Settings;
use crate::harness::environment::Host;
use crate::harness::job::{Candidate, Job, Spec, Who};
use crate::harness::prompts::Prompts;
use crate::harness::{digest, task};
use crate::name::{escape, suggest};
use crate::sandbox::podman::Network;
use crate::sandbox::{Limits, bwrap, podman};

/// The sandbox to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxChoice {
    /// Namespaces on this machine's own programs; needs no images
    Bwrap,
    /// Containers of the tasks' real images
    Podman,
}

/// How checkpoints are computed.
#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    /// Keep weights as Q8_0 instead of f32: smaller and faster, and not quite the same
    #[arg(long)]
    pub q8_0: bool,
    /// Longest prompt and reply together, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 65_536)]
    pub max_model_len: usize,
    /// The device of the engine
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
}

impl EngineArgs {
    /// Returns how weights are kept.
    #[must_use]
    pub fn precision(&self) -> WeightPrecision {
        if self.q8_0 { WeightPrecision::Q8_0 } else { WeightPrecision::Exact }
    }
}

/// How tasks are run.
#[derive(Debug, Clone, clap::Args)]
pub struct ScoringArgs {
    /// A folder of tasks in Harbor's format, or one task; or a dataset repository of the Hub:
    /// datasets/owner/name, datasets/owner/name@REV or hf://datasets/owner/name@REV/FOLDER
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub tasks: String,
    /// Only these tasks of the folder; may be repeated
    #[arg(long = "task", value_name = "NAME")]
    pub only: Vec<String>,
    /// Where commands run
    #[arg(long, value_enum, default_value = "bwrap")]
    pub sandbox: SandboxChoice,
    /// Let podman containers reach the network, for tasks that download while they run
    #[arg(long)]
    pub allow_network: bool,
    /// Trials at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub n_concurrent: usize,
    /// Prompts and tool schema instead of the default ones (docs/formats/harness.md)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub harness: Option<PathBuf>,
    /// Seed of the trials and of how they are spread
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Sampling temperature
    #[arg(long, default_value_t = 0.7)]
    pub temperature: f64,
    /// Sampling from the likeliest tokens that make up this probability
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f64,
    /// Sampling from this many tokens only
    #[arg(long)]
    pub top_k: Option<u32>,
    /// Tokens of one reply at most
    #[arg(long, default_value_t = 16_384)]
    pub max_tokens: u32,
    /// Replies of one trial at most
    #[arg(long, default_value_t = 64)]
    pub max_steps: u32,
    /// Seconds that one command may take
    #[arg(long, value_name = "SECS", default_value_t = 120)]
    pub command_timeout: u64,
    /// An OpenAI-compatible server (vllm serve, SGLang, llama-server) instead of checkpoints
    #[arg(long, value_name = "URL", requires = "model", value_hint = ValueHint::Url)]
    pub endpoint_url: Option<String>,
    /// The model's name there
    #[arg(long, value_name = "NAME", requires = "endpoint_url")]
    pub model: Option<String>,
    /// The variable that holds the server's API key
    #[arg(long, value_name = "VARIABLE", default_value = "OPENAI_API_KEY")]
    pub api_key_variable: String,
}

impl ScoringArgs {
    /// Returns limits and sampling.
    ///
    /// # Errors
    /// A number outside its range.
    pub fn settings(&self) -> Result<Settings> {
        let bad = |flag, value: String, expected| Failure::BadFlag { flag, value, expected };
        if !(0.0..=10.0).contains(&self.temperature) {
            let value = self.temperature.to_string();
            return Err(bad("--temperature", value, "between 0 and 10").into());
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(bad("--top-p", self.top_p.to_string(), "above 0 and at most 1").into());
        }
        for (what, value) in [
            ("--max-tokens", u64::from(self.max_tokens)),
            ("--max-steps", u64::from(self.max_steps)),
            ("--command-timeout", self.command_timeout),
            ("--n-concurrent", self.n_concurrent as u64),
        ] {
            if value == 0 {
                return Err(bad(what, "0".into(), "at least 1").into());
            }
        }
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            max_tokens: self.max_tokens,
            seed: 0,
        };
        Ok(Settings {
            max_steps: self.max_steps,
            command_timeout: Duration::from_secs(self.command_timeout),
            sampling,
            ..Settings::default()
        })
    }

    /// Returns the prompts and the tool schema.
    ///
    /// # Errors
    /// A harness file that cannot be used.
    pub fn prompts(&self) -> Result<Prompts> {
        Ok(match &self.harness {
            Some(path) => Prompts::load(path)?,
            None => Prompts::ours(),
        })
    }

    /// Makes the candidates: the checkpoints, or the model of an endpoint.
    ///
    /// # Errors
    /// A checkpoint that is not here, both or neither of the two.
    pub fn candidates(
        &self,
        checkpoints: &[String],
        engine: &EngineArgs,
        ctx: &Context,
    ) -> Result<Candidates> {
        match (&self.endpoint_url, &self.model) {
            (Some(url), Some(name)) if checkpoints.is_empty() => {
                let models = vec![self.endpoint(url, name, ctx)?];
                Ok(Candidates { models, notes: Vec::new() })
            }
            (Some(_), _) => {
                let message = "`--endpoint-url` takes no checkpoints";
                Err(Failure::Usage(message.into(), vec!["give one or the other".into()]).into())
            }
            _ if checkpoints.is_empty() => {
                let help = "name checkpoints, or `--endpoint-url URL --model NAME`";
                Err(Failure::Usage("nothing to score".into(), vec![help.into()]).into())
            }
            _ => {
                let (found, notes) = identified(checkpoints, ctx)?;
                let models = found.iter().map(|one| self.checkpoint(one, engine, ctx)).collect();
                Ok(Candidates { models, notes })
            }
        }
    }

    fn endpoint(&self, url: &str, name: &str, ctx: &Context) -> Result<Model> {
        if ctx.offline() {
            let message = "`--endpoint-url` needs the network, and this run is offline";
            return Err(Failure::Usage(message.into(), vec!["leave one out".into()]).into());
        }
        let key = ctx.variable(&self.api_key_variable);
        let endpoint = Endpoint::new(EndpointOptions {
            url: url.to_owned(),
            model: name.to_owned(),
            api_key: key.map(|key| key.to_string_lossy().into_owned()),
            retries: 4,
            pause: Duration::from_secs(2),
        });
        let candidate = Candidate {
            name: name.to_owned(),
            repository: "endpoint".into(),
            commit: name.to_owned(),
            who: Who::Model(Arc::new(endpoint)),
        };
        Ok(Model::of(candidate))
    }

    fn checkpoint(&self, found: &Identified, engine: &EngineArgs, ctx: &Context) -> Model {
        let mut limits = generate::Limits::default();
        limits.sequences = limits.sequences.min(self.n_concurrent.max(1));
        limits.context = engine.max_model_len;
        let options = LocalOptions {
            device: engine.device,
            precision: engine.precision(),
            limits,
            now: ctx.now().to_zoned(jiff::tz::TimeZone::UTC),
        };
        let lazy = Arc::new(Lazy {
            name: found.local.label.clone(),
            path: found.local.path.clone(),
            options,
            loaded: Mutex::new(None),
        });
        let candidate = Candidate {
            name: found.local.label.clone(),
            repository: found.repository.clone(),
            commit: found.commit.clone(),
            who: Who::Model(lazy.clone()),
        };
        Model { candidate, lazy: Some(lazy) }
    }

    /// Opens the job folder `dir` for these candidates.
    ///
    /// # Errors
    /// Tasks, prompts, sandbox, or the folder cannot be used.
    pub fn open_job(
        &self,
        dir: &Path,
        candidates: Vec<Candidate>,
        attempts: u32,
        ctx: &Context,
    ) -> Result<(Job, Watch)> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(crate::fsio::Error::io("resolve", path))
        };
        let dir = absolute(dir)?;
        let dataset = tasks::find(&self.tasks, ctx)?.fetch(ctx)?;
        let mut tasks = task::load_all(&dataset.dir)?;
        self.check_names(tasks.iter().map(|task| task.name.as_str()))?;
        tasks.retain(|task| self.wants(&task.name));
        let (prompts, settings) = (self.prompts()?, self.settings()?);
        crate::fsio::create_dir_all(&dir)?;
        let cancel = CancelFlag::default();
        let spec = Spec {
            host: self.host(&dir)?,
            dir,
            dataset,
            tasks,
            candidates,
            attempts,
            prompts,
            settings,
            seed: self.seed,
            limits: Limits::default(),
            n_concurrent: self.n_concurrent,
            cancel: cancel.clone(),
            clock: jiff::Timestamp::now,
            progress: ctx.progress(),
        };
        Ok((Job::open(spec)?, Watch::start(ctx, cancel)))
    }

    /// Returns the names of the tasks that are asked for, and what would be fetched first.
    ///
    /// # Errors
    /// No or bad tasks, or a name that none has.
    pub fn preview(&self, ctx: &Context) -> Result<(Vec<String>, Option<String>)> {
        let (mut names, first) = tasks::find(&self.tasks, ctx)?.preview()?;
        self.check_names(names.iter().map(String::as_str))?;
        names.retain(|name| self.wants(name));
        Ok((names, first))
    }

    fn wants(&self, task: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == task)
    }

    fn check_names<'n>(&self, found: impl Iterator<Item = &'n str> + Clone) -> Result<()> {
        let missing = self.only.iter().find(|name| found.clone().all(|have| have != **name));
        let Some(name) = missing else { return Ok(()) };
        let message = format!("no task `{}` in {}", escape(name), escape(&self.tasks));
        let mut help = Vec::new();
        if let Some(near) = suggest(name, found) {
            help.push(format!("did you mean `{}`?", escape(near)));
        }
        help.push(format!("the folders in {} are the tasks", escape(&self.tasks)));
        Err(Failure::Usage(message, help).into())
    }

    fn host(&self, dir: &Path) -> Result<Host> {
        match self.sandbox {
            SandboxChoice::Bwrap => {
                // In the job's own file system: whether there is an overlay depends on it.
                let scratch = dir.join(".scratch-probe");
                let host = bwrap::Host::probe(&this_program()?, &scratch);
                // Empty, or what a failed sandbox left is worth a look.
                let _ = std::fs::remove_dir(&scratch);
                Ok(Host::Bwrap(host?))
            }
            SandboxChoice::Podman => {
                let network = if self.allow_network { Network::Podman } else { Network::None };
                Ok(Host::Podman(podman::Host::probe()?, network))
            }
        }
    }
}

/// Returns the path of the running program, which is also a sandbox's first process.
///
/// # Errors
/// When the system does not say.
pub fn this_program() -> Result<PathBuf> {
    let exe = std::env::current_exe();
    Ok(exe.map_err(crate::fsio::Error::io("find", Path::new("/proc/self/exe")))?)
}

/// What is to be scored.
pub struct Candidates {
    /// The models, in the order given, each once.
    pub models: Vec<Model>,
    /// What was given and left out.
    pub notes: Vec<String>,
}

/// A checkpoint on this machine and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Where it is.
    pub local: Local,
    /// The repository, or `local`.
    pub repository: String,
    /// The commit, or the digest of the files.
    pub commit: String,
}

/// Finds checkpoints and says what each is. One that is the same as an earlier one, byte for byte,
/// would only repeat its trials: it is left out, and a note says so.
///
/// # Errors
/// A checkpoint that is not here.
pub fn identified(checkpoints: &[String], ctx: &Context) -> Result<(Vec<Identified>, Vec<String>)> {
    let mut found: Vec<Identified> = Vec::new();
    let mut notes = Vec::new();
    for text in checkpoints {
        for local in resolve::resolve(text, ctx)? {
            let (repository, commit) = identity(&local)?;
            let twin = found.iter().find(|f| (&f.repository, &f.commit) == (&repository, &commit));
            if let Some(twin) = twin {
                notes.push(format!(
                    "{} is left out: it is the same checkpoint as {}, byte for byte",
                    escape(&local.label),
                    escape(&twin.local.label)
                ));
                continue;
            }
            found.push(Identified { local, repository, commit });
        }
    }
    Ok((found, notes))
}

/// A candidate, and its checkpoint if it has one of its own.
pub struct Model {
    /// What records say.
    pub candidate: Candidate,
    lazy: Option<Arc<Lazy>>,
}

impl Model {
    /// Makes one that needs no loading.
    #[must_use]
    pub fn of(candidate: Candidate) -> Self {
        Self { candidate, lazy: None }
    }

    /// Returns where the checkpoint is and what it is, if there is one of its own.
    #[must_use]
    pub fn identified(&self) -> Option<Identified> {
        let lazy = self.lazy.as_ref()?;
        let local = Local { label: lazy.name.clone(), path: lazy.path.clone(), revision: None };
        let (repository, commit) =
            (self.candidate.repository.clone(), self.candidate.commit.clone());
        Some(Identified { local, repository, commit })
    }

    /// Loads the checkpoint now, so that a bad one is an error and not a failed trial.
    ///
    /// # Errors
    /// What the engine says.
    pub fn load(&self) -> Result<()> {
        self.lazy.as_ref().map_or(Ok(()), |lazy| lazy.get().map(drop))
    }

    /// Frees the memory of the checkpoint.
    pub fn unload(&self) {
        if let Some(lazy) = &self.lazy {
            *lazy.loaded.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// A checkpoint that is loaded at its first question.
struct Lazy {
    name: String,
    path: PathBuf,
    options: LocalOptions,
    loaded: Mutex<Option<Arc<LocalModel>>>,
}

impl Lazy {
    fn get(&self) -> Result<Arc<LocalModel>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = &*loaded {
            return Ok(model.clone());
        }
        let checkpoint = Checkpoint::open(&self.path)?;
        let model = Arc::new(LocalModel::load(&checkpoint, &self.name, &self.options)?);
        *loaded = Some(model.clone());
        Ok(model)
    }
}

impl ChatModel for Lazy {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let model = self.get().map_err(|error| ChatError::Engine(Arc::new(error)))?;
        model.chat(request)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// Says where a checkpoint comes from: repository and commit in the cache, else its files' hash.
fn identity(local: &Local) -> Result<(String, String)> {
    let real = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parent = local.path.parent().map(real).unwrap_or_default();
    if parent == "snapshots" {
        let repository = local.label.split('@').next().unwrap_or_default().to_owned();
        return Ok((repository, real(&local.path)));
    }
    Ok(("local".into(), content_digest(&local.path)?))
}

/// Hashes the files of a checkpoint's folder, by name.
fn content_digest(dir: &Path) -> Result<String> {
    let mut lines = String::new();
    for file in crate::fsio::entries(dir)?.into_iter().filter(|path| path.is_file()) {
        let mapped = crate::fsio::Mapped::open(&file)?;
        mapped.advise_sequential();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines += &format!("{name}\0{}\n", digest::hex(mapped.bytes()));
    }
    Ok(digest::hex(lines))
}

/// Passes Ctrl-C on to the trials, as long as it lives.
pub struct Watch {
    done: CancelFlag,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn start(ctx: &Context, cancel: CancelFlag) -> Self {
        let (signal, done) = (ctx.cancel(), CancelFlag::default());
        let over = done.clone();
        let thread = std::thread::spawn(move || {
            while !over.is_cancelled() {
                if signal.is_set() {
                    return cancel.cancel();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.cancel();
        if let Some(thread) = self.thread.take() {
            // It only sleeps and looks; a panic there has nothing to say.
            let _ = thread.join();
        }
    }
}

/// Adds the commands that show what is in a job folder.
#[must_use]
pub fn with_job_help(error: Error, dir: &Path) -> Error {
    let line = format!("`tmax-ckpt score import {}` shows what is finished", dir.display());
    error.with_help(line)
}
