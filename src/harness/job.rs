//! A job folder: which trials there are, which are done, running the rest in parallel.
//!
//! A trial is keyed by repository, commit, task digest, harness and sampling digest, attempt, and
//! purpose; its folder's name is made from the key. So a run that was killed finds what it finished,
//! and no trial can count twice.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::dataset::Dataset;
use super::digest;
use super::environment::Host;
use super::error::{Error, Result};
use super::import;
use super::log::Log;
use super::prompts::Prompts;
use super::record::{self, Outcome, TrialRecord};
use super::task::Task;
use super::trial::{self, Purpose, Trial, write_json};
use crate::engine::chat::{CancelFlag, ChatModel};
use crate::error::Kind;
use crate::fsio;
use crate::progress::{SharedProgress, Unit};
use crate::sandbox::Limits;

/// Where the date comes from.
pub type Clock = fn() -> Timestamp;

/// The most that the job's own file may have: a line for each step and each task.
const OWN_BYTES_MAX: u64 = 16 << 20;

const REMOVE: &str = "remove the folder or choose another";

/// Infrastructure failures, none of them followed by a success, after which a run gives up.
const HOPELESS: usize = 3;

/// Who works on the tasks.
#[derive(Clone)]
pub enum Who {
    /// A model.
    Model(Arc<dyn ChatModel>),
    /// The tasks' own solutions.
    Oracle,
    /// Nobody.
    Nop,
}

impl Who {
    /// Returns the agent's name in records.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Model(_) => "vanillux",
            Self::Oracle => "oracle",
            Self::Nop => "nop",
        }
    }
}

/// One step or model to be scored.
#[derive(Clone)]
pub struct Candidate {
    /// What records call it: `owner/name@step_100`.
    pub name: String,
    /// Where it comes from.
    pub repository: String,
    /// The commit, or the digest of a local checkpoint.
    pub commit: String,
    /// What runs it.
    pub who: Who,
}

/// Everything that a job is about.
pub struct Spec {
    /// The job folder.
    pub dir: PathBuf,
    /// Where the tasks come from.
    pub dataset: Dataset,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The candidates.
    pub candidates: Vec<Candidate>,
    /// Attempts of each task by each candidate, as the job's files say.
    pub attempts: u32,
    /// The texts.
    pub prompts: Prompts,
    /// Limits and sampling.
    pub settings: super::agent::Settings,
    /// The seed of everything random.
    pub seed: u64,
    /// The sandboxes.
    pub host: Host,
    /// Limits where a task names none.
    pub limits: Limits,
    /// Trials at a time.
    pub n_concurrent: usize,
    /// Asked to stop, finished trials stay and the run ends.
    pub cancel: CancelFlag,
    /// The date.
    pub clock: Clock,
    /// Where trials are announced.
    pub progress: SharedProgress,
}

/// An open job folder, locked against other processes.
pub struct Job {
    pub(super) spec: Spec,
    pub(super) id: String,
    pub(super) harness_digest: String,
    started_at: String,
    log: Log,
    /// Kind and help of the machine's last failure.
    pub(super) last_failure: Mutex<Option<(Kind, Vec<String>)>>,
    _lock: fsio::Locked,
}

impl Job {
    /// Opens or makes the folder and writes the job's own files.
    ///
    /// # Errors
    /// [`Error::Job`] when another process uses it or it was made with other prompts or sampling.
    pub fn open(spec: Spec) -> Result<Self> {
        fsio::create_dir_all(&spec.dir)?;
        let lock = lock(&spec)?;
        let harness_digest = digest::of_json(&json!({
            "prompts": spec.prompts.digest(),
            "settings": spec.settings.to_json(),
            "seed": spec.seed,
        }));
        let Identity { id, started_at } = identity(&spec, &harness_digest)?;
        let last_failure = Mutex::default();
        let log = Log::open(&spec.dir.join("job.log"))?;
        let job = Self { spec, id, harness_digest, started_at, log, last_failure, _lock: lock };
        let scratch = job.scratch();
        if scratch.exists() {
            // Left by a run that was killed; the lock says that none is running.
            crate::sandbox::bwrap::remove_scratch(&scratch)?;
        }
        write_json(&job.spec.dir.join("config.json"), &job.config())?;
        write_json(&job.spec.dir.join("lock.json"), &job.lock_json())?;
        Ok(job)
    }

    /// Returns what the job is about.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Returns all planned trials: attempt by attempt, so that an early stop is balanced.
    #[must_use]
    pub fn planned(&self) -> Vec<Trial> {
        let mut trials = Vec::new();
        for attempt in 0..self.spec.attempts {
            for task in 0..self.spec.tasks.len() {
                for candidate in 0..self.spec.candidates.len() {
                    trials.push(Trial { candidate, task, attempt, purpose: Purpose::Score });
                }
            }
        }
        trials
    }

    /// Returns the record of a trial that is done, `None` otherwise.
    ///
    /// # Errors
    /// [`Error::Job`], [`Error::File`].
    pub fn finished(&self, trial: Trial) -> Result<Option<TrialRecord>> {
        trial::finished(self, trial)
    }

    /// Runs the trials that are not done yet and returns the records of all of `wanted`, in their
    /// order. Blocks; runs [`Spec::n_concurrent`] at a time.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; the job folder's; the infrastructure's, when nothing works at all.
    pub fn run(&self, wanted: &[Trial]) -> Result<Vec<TrialRecord>> {
        self.run_each(wanted, &|_| ())
    }

    /// As [`Job::run`]; `each` gets every record as soon as there is one, finished ones first.
    ///
    /// # Errors
    /// As [`Job::run`].
    pub fn run_each(
        &self,
        wanted: &[Trial],
        each: &(dyn Fn(&TrialRecord) + Sync),
    ) -> Result<Vec<TrialRecord>> {
        let mut slots: Vec<Option<TrialRecord>> = Vec::new();
        for trial in wanted {
            slots.push(self.finished(*trial)?);
            if let Some(Some(record)) = slots.last() {
                each(record);
            }
        }
        let open: Vec<usize> = (0..wanted.len()).filter(|i| slots[*i].is_none()).collect();
        let shared = Shared {
            next: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            worked: AtomicUsize::new(wanted.len() - open.len()),
            error: Mutex::new(None),
            each,
        };
        let slots = Mutex::new(slots);
        let done = wanted.len() - open.len();
        self.log.say(&format!("Trials wanted: {}, finished before: {done}", wanted.len()))?;
        let progress = &self.spec.progress;
        progress.start("score", wanted.len() as u64, Unit::Count);
        progress.advance("", (wanted.len() - open.len()) as u64);
        std::thread::scope(|scope| {
            for _ in 0..self.spec.n_concurrent.clamp(1, open.len().max(1)) {
                scope.spawn(|| self.worker(wanted, &open, &slots, &shared));
            }
        });
        let last = slots.lock().unwrap_or_else(PoisonError::into_inner).last().cloned().flatten();
        if let Some(last) = last.filter(|last| last.outcome == Outcome::Infrastructure) {
            shared.give_up(self, &last);
        }
        if let Some(error) = shared.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let slots = slots.into_inner().unwrap_or_else(PoisonError::into_inner);
        let records = slots.into_iter().collect::<Option<Vec<_>>>().ok_or(Error::Interrupted)?;
        progress.finish();
        Ok(records)
    }

    fn worker(
        &self,
        wanted: &[Trial],
        open: &[usize],
        slots: &Mutex<Vec<Option<TrialRecord>>>,
        shared: &Shared<'_>,
    ) {
        loop {
            let at = shared.next.fetch_add(1, Ordering::SeqCst);
            let Some(slot) = open.get(at) else { return };
            if self.spec.cancel.is_cancelled() || shared.has_error() {
                return;
            }
            let name = self.trial_name(wanted[*slot]);
            self.spec.progress.item_start(&name, 1);
            let done = self.log.say(&format!("Trial {name} started"));
            let done = done.and_then(|()| {
                let record = trial::run(self, wanted[*slot])?;
                let word = outcome_word(&record);
                self.log.say(&format!("Trial {name} finished: {word}"))?;
                Ok((record, word))
            });
            match done {
                Ok((record, word)) => {
                    self.spec.progress.advance(&name, 1);
                    self.spec.progress.item_done(&name, &word);
                    shared.count(self, &record);
                    (shared.each)(&record);
                    let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
                    slots[*slot] = Some(record);
                }
                Err(error) => {
                    // What stops the run is returned; that it cannot be logged too is no news.
                    let _ = self.log.say(&format!("Trial {name} stopped: {error}"));
                    return shared.fail(error);
                }
            }
        }
    }

    /// Writes the job's `result.json` from what is in the folder.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Job`].
    pub fn finish(&self) -> Result<()> {
        let read = import::read(&self.spec.dir)?;
        let total = self.planned().len().max(read.records.len());
        let stats = import::job_stats(&read, total, &self.spec.dataset.name);
        let done = read.records.len() >= total;
        let now = (self.spec.clock)().to_string();
        let result = json!({
            "id": self.id,
            "started_at": self.started_at,
            "updated_at": now,
            "finished_at": done.then_some(&now),
            "n_total_trials": total,
            "stats": stats,
        });
        write_json(&self.spec.dir.join("result.json"), &result)
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.spec.dir.join(".scratch")
    }

    /// Returns the key of a trial.
    pub(super) fn key(&self, trial: Trial) -> String {
        let candidate = &self.spec.candidates[trial.candidate];
        let mut key = vec![
            json!(candidate.who.word()),
            json!(candidate.repository),
            json!(candidate.commit),
            json!(self.spec.tasks[trial.task].digest),
            json!(self.harness_digest),
            json!(trial.attempt),
        ];
        if trial.purpose == Purpose::Confirm {
            key.push(json!("confirm"));
        }
        Value::from(key).to_string()
    }

    /// Returns the name of a trial's folder, in Harbor's form.
    #[must_use]
    pub fn trial_name(&self, trial: Trial) -> String {
        const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        let mut number = digest::number(&self.key(trial));
        let task: String = self.spec.tasks[trial.task].name.chars().take(32).collect();
        let mut name = format!("{}__", task.trim_end_matches(['_', '-']));
        for _ in 0..7 {
            name.push(LETTERS[(number % LETTERS.len() as u64) as usize] as char);
            number /= LETTERS.len() as u64;
        }
        name
    }

    pub(super) fn agent_config(&self, candidate: &Candidate) -> Value {
        let mut kwargs = Map::new();
        kwargs.insert("repository".into(), candidate.repository.clone().into());
        kwargs.insert("commit".into(), candidate.commit.clone().into());
        kwargs.insert("harness_digest".into(), self.harness_digest.clone().into());
        kwargs.insert("settings".into(), self.spec.settings.to_json());
        kwargs.insert("seed".into(), self.spec.seed.into());
        record::agent_config(candidate.who.word(), &candidate.name, &kwargs)
    }

    fn config(&self) -> Value {
        let dir = std::path::absolute(&self.spec.dir).unwrap_or_else(|_| self.spec.dir.clone());
        let agents: Vec<Value> =
            self.spec.candidates.iter().map(|c| self.agent_config(c)).collect();
        json!({
            "job_name": dir.file_name().unwrap_or_default().to_string_lossy(),
            "jobs_dir": fsio::parent(&dir),
            "n_attempts": self.spec.attempts.max(1),
            "n_concurrent_trials": self.spec.n_concurrent.max(1),
            "environment": record::environment_config(self.spec.host.word()),
            "agents": agents,
            "datasets": [{"path": self.spec.dataset.dir}],
        })
    }

    fn lock_json(&self) -> Value {
        let trials: Vec<Value> = self
            .planned()
            .into_iter()
            .map(|trial| {
                let agent = self.agent_config(&self.spec.candidates[trial.candidate]);
                let task = &self.spec.tasks[trial.task];
                record::trial_lock(task, &self.spec.dataset.name, &agent, self.spec.host.word())
            })
            .collect();
        json!({
            "schema_version": 3,
            "created_at": self.started_at,
            "harbor": {},
            "n_concurrent_trials": self.spec.n_concurrent.max(1),
            "retry": {},
            "trials": trials,
        })
    }
}

struct Shared<'a> {
    next: AtomicUsize,
    failed: AtomicUsize,
    worked: AtomicUsize,
    error: Mutex<Option<Error>>,
    each: &'a (dyn Fn(&TrialRecord) + Sync),
}

impl Shared<'_> {
    fn has_error(&self) -> bool {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn fail(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Counts, and gives up when nothing has worked and several trials failed for the machine's
    /// reasons.
    fn count(&self, job: &Job, record: &TrialRecord) {
        if record.outcome != Outcome::Infrastructure {
            self.worked.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let failed = self.failed.fetch_add(1, Ordering::SeqCst) + 1;
        if failed >= HOPELESS {
            self.give_up(job, record);
        }
    }

    /// Fails if nothing has worked; `record` is a trial that failed for the machine's reasons.
    fn give_up(&self, job: &Job, record: &TrialRecord) {
        let failed = self.failed.load(Ordering::SeqCst);
        if self.worked.load(Ordering::SeqCst) == 0 {
            let path = job.spec.dir.join(&record.trial).join("exception.txt");
            let why = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            let last = job.last_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (kind, help) = last.unwrap_or((Kind::Program, Vec::new()));
            self.fail(Error::Hopeless { path: job.spec.dir.clone(), failed, why, kind, help });
        }
    }
}

fn outcome_word(record: &TrialRecord) -> String {
    match (record.outcome, record.reward) {
        (Outcome::Infrastructure, _) => "infrastructure failure".into(),
        (_, Some(reward)) => format!("reward {reward}"),
        (Outcome::AgentTimeout, None) => "out of time".into(),
        (_, None) => "no verdict".into(),
    }
}

/// Locks the folder against other processes of ours.
fn lock(spec: &Spec) -> Result<fsio::Locked> {
    let path = spec.dir.join(".lock");
    fsio::Locked::try_new(fsio::open_rw(&path)?, &path)?.ok_or_else(|| {
        let remedy = "wait for the other run, or choose another folder";
        Error::job(&spec.dir, "another process is running trials in it", remedy)
    })
}

/// What stays of a job over resumes.
struct Identity {
    id: String,
    started_at: String,
}

/// Reads the job's own file, or begins one; what is new of candidates and tasks is added to it.
fn identity(spec: &Spec, harness_digest: &str) -> Result<Identity> {
    let path = spec.dir.join("tmax-ckpt.json");
    let found = path.is_file().then(|| fsio::read_capped(&path, OWN_BYTES_MAX)).transpose()?;
    let before = found.map(|bytes| resumed(spec, &bytes, &path, harness_digest)).transpose()?;
    let mut own = before.clone().map_or_else(|| begun(spec, harness_digest), Ok)?;
    let candidates = spec.candidates.iter().map(|c| {
        (c.name.as_str(), json!([c.repository, c.commit]), "give it another name, or choose")
    });
    let tasks = spec.tasks.iter().map(|t| (t.name.as_str(), json!(t.digest), "choose"));
    stand_for(&mut own, "candidates", candidates, &spec.dir)?;
    stand_for(&mut own, "tasks", tasks, &spec.dir)?;
    if before.as_ref() != Some(&own) {
        write_json(&path, &own)?;
    }
    let text = |key: &str| own[key].as_str().map(str::to_owned);
    let own = text("id").zip(text("started_at"));
    let (id, started_at) =
        own.ok_or_else(|| Error::job(&path, "id or started_at is missing", REMOVE))?;
    Ok(Identity { id, started_at })
}

fn resumed(spec: &Spec, bytes: &[u8], path: &Path, harness_digest: &str) -> Result<Value> {
    let found: Value = serde_json::from_slice(bytes).map_err(|e| Error::job(path, e, REMOVE))?;
    if found["harness_digest"] != harness_digest {
        let reason = "it was made with other prompts, sampling, limits or seed";
        return Err(Error::job(&spec.dir, reason, "choose another folder with -o"));
    }
    spec.dataset.check_same(&found["dataset"], &spec.dir)?;
    Ok(found)
}

fn begun(spec: &Spec, harness_digest: &str) -> Result<Value> {
    if spec.dir.join("config.json").exists() {
        let remedy = "read it with `tmax-ckpt score import`, and choose another folder";
        return Err(Error::job(&spec.dir, "another program made it", remedy));
    }
    let at = (spec.clock)().to_string();
    let id = digest::uuid(&format!("{} {at} {}", spec.dir.display(), std::process::id()));
    Ok(json!({
        "schema": "tmax-ckpt.job/1",
        "id": id,
        "started_at": at,
        "harness_digest": harness_digest,
        "settings": spec.settings.to_json(),
        "seed": spec.seed,
        "dataset": spec.dataset.to_json(),
        "prompts_digest": spec.prompts.digest(),
    }))
}

/// Notes what each name stands for. Records are summed up by name: one that stood for other
/// weights, or other tests, would make a mean of two things.
fn stand_for<'a>(
    own: &mut Value,
    what: &str,
    names: impl Iterator<Item = (&'a str, Value, &'static str)>,
    dir: &Path,
) -> Result<()> {
    if !own[what].is_object() {
        own[what] = json!({});
    }
    for (name, now, remedy) in names {
        let earlier = &own[what][name];
        if !earlier.is_null() && *earlier != now {
            let reason = format!(
                "its trials of `{}` are of {earlier}, and now that is {now}",
                crate::name::escape(name)
            );
            return Err(Error::job(dir, reason, format!("{remedy} another folder with -o")));
        }
        own[what][name] = now;
    }
    Ok(())
}
