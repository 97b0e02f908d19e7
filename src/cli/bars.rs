//! The four progress sinks: bars, plain lines, JSON lines, nothing.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use schemars::JsonSchema;
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

use super::args::ProgressMode;
use super::outcome::{Document, printed};
use super::render;
use crate::name::escape;
use crate::progress::{Progress, SharedProgress, Silent, Unit};
use crate::units;

/// At most this many items have a bar of their own.
const ITEM_BARS_MAX: usize = 8;
/// How far back the rate looks.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// How often a plain line is printed.
const PLAIN_PERIOD: Duration = Duration::from_secs(10);
/// How often a JSON line with the state is printed.
const JSON_PERIOD: Duration = Duration::from_secs(1);

/// A sink and the writer of logs that does not tear it.
pub struct Sink {
    progress: SharedProgress,
    bars: Option<MultiProgress>,
}

impl Sink {
    /// Returns the sink.
    #[must_use]
    pub fn progress(&self) -> SharedProgress {
        Arc::clone(&self.progress)
    }

    /// Returns a writer for logs.
    #[must_use]
    pub fn log_writer(&self) -> LogWriter {
        LogWriter(self.bars.clone())
    }
}

/// Makes the sink for `mode`; `auto` is bars on a terminal whose type, the variable `TERM`, says
/// that it can move its cursor.
#[must_use]
pub fn sink(mode: ProgressMode, terminal_type: Option<&OsStr>) -> Sink {
    let terminal = io::stderr().is_terminal() && terminal_type != Some(OsStr::new("dumb"));
    let (progress, bars): (SharedProgress, _) = match mode {
        ProgressMode::None => (Arc::new(Silent), None),
        ProgressMode::Json => (Arc::new(Lines::new(Form::Json)), None),
        ProgressMode::Auto if terminal => {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            (Arc::new(Bars::new(bars.clone())), Some(bars))
        }
        ProgressMode::Auto | ProgressMode::Plain => (Arc::new(Lines::new(Form::Plain)), None),
    };
    Sink { progress, bars }
}

/// Writes log lines to stderr, above the bars if there are any.
#[derive(Clone)]
pub struct LogWriter(Option<MultiProgress>);

impl Write for LogWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(bars) => bars.suspend(|| io::stderr().write(buf)),
            None => io::stderr().write(buf),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// How much was done when, for a rate over the last ten seconds.
#[derive(Debug, Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    fn note(&mut self, now: Instant, done: u64) {
        // Four samples a second are enough; more would only cost memory.
        let newest = self.0.back().map(|(at, _)| *at);
        if newest.is_none_or(|at| now - at >= Duration::from_millis(250)) {
            self.0.push_back((now, done));
        }
        // One sample older than the window stays: the rate is measured from there.
        while self.0.len() > 2 && now - self.0[1].0 >= RATE_WINDOW {
            self.0.pop_front();
        }
    }

    /// Returns units a second, if anything moved.
    fn per_sec(&self, now: Instant, done: u64) -> Option<f64> {
        let (then, before) = *self.0.front()?;
        let secs = (now - then).as_secs_f64();
        let amount = done.saturating_sub(before);
        (secs > 0.0 && amount > 0).then(|| amount as f64 / secs)
    }
}

/// What a job has done so far.
#[derive(Debug)]
struct Job {
    name: String,
    unit: Unit,
    total: u64,
    done: u64,
    rate: Rate,
    printed: Instant,
}

impl Job {
    fn new(name: &str, total: u64, unit: Unit, now: Instant) -> Self {
        let mut rate = Rate::default();
        rate.note(now, 0);
        Self { name: escape(name), unit, total, done: 0, rate, printed: now }
    }

    fn advance(&mut self, now: Instant, amount: u64) {
        self.done += amount;
        self.rate.note(now, self.done);
    }

    fn amount(&self, n: u64) -> String {
        match self.unit {
            Unit::Bytes => units::bytes(n),
            Unit::Count => n.to_string(),
        }
    }

    /// Returns `29.1 GB/54.6 GB (53%), 412.0 MB/s, eta 62s`.
    fn status(&self, now: Instant) -> String {
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(100).min(100);
        let (done, total) = (self.amount(self.done), self.amount(self.total));
        let (rate, eta) = self.rate_and_eta(now);
        format!("{done}/{total} ({percent}%), {rate}, eta {eta}")
    }

    fn rate_and_eta(&self, now: Instant) -> (String, String) {
        let Some(rate) = self.rate.per_sec(now, self.done) else {
            return ("--".into(), "--".into());
        };
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        let shown = match self.unit {
            Unit::Bytes => format!("{}/s", units::bytes(rate as u64)),
            Unit::Count => format!("{rate:.1}/s"),
        };
        (shown, units::duration(left))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not take the display with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The form of a line-wise sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Json,
}

/// A JSON line of progress on stderr.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// A job begins.
    Start {
        /// Its name.
        job: &'a str,
        /// How much there is to do.
        total: u64,
        /// What is counted.
        unit: UnitName,
    },
    /// How far a job is; at most once a second.
    Progress {
        /// The job.
        job: &'a str,
        /// How much is done.
        done: u64,
        /// How much there is to do.
        total: u64,
        /// How much is done a second, over the last ten; absent while nothing moves.
        per_sec: Option<u64>,
    },
    /// A file or trial of the job begins.
    Item {
        /// Its name.
        item: &'a str,
        /// How much of it there is to do.
        total: u64,
    },
    /// A file or trial of the job is done.
    ItemDone {
        /// Its name.
        item: &'a str,
        /// How it ended: `verified`, `resumed`, `reused`.
        outcome: &'a str,
    },
    /// All of a job is done.
    Finish {
        /// The job.
        job: &'a str,
        /// How much was done.
        done: u64,
    },
    /// A job ends before all of it is done: an interruption, or the error that follows.
    Stop {
        /// The job.
        job: &'a str,
        /// How much was done.
        done: u64,
    },
    /// Something that a person should know now, such as a retry.
    Note {
        /// The words.
        text: &'a str,
    },
}

impl Document for Event<'_> {
    const NAME: &'static str = "progress/1";
}

/// [`Unit`] in JSON.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum UnitName {
    /// Bytes.
    Bytes,
    /// Things: trials, tensors, tokens.
    Count,
}

/// Lines on stderr.
struct Lines {
    form: Form,
    job: Mutex<Option<Job>>,
}

impl Lines {
    fn new(form: Form) -> Self {
        Self { form, job: Mutex::new(None) }
    }

    fn json(&self, event: &Event<'_>) {
        if self.form == Form::Json {
            let line = serde_json::to_string(&printed(event)).expect("a JSON value serialises");
            render::stderr_text(&format!("{line}\n"));
        }
    }

    fn report(&self, job: &Job, now: Instant) {
        match self.form {
            Form::Plain => render::stderr_text(&format!("{}: {}\n", job.name, job.status(now))),
            Form::Json => {
                let per_sec = job.rate.per_sec(now, job.done).map(|r| r as u64);
                let (job, done, total) = (&*job.name, job.done, job.total);
                self.json(&Event::Progress { job, done, total, per_sec });
            }
        }
    }
}

impl Progress for Lines {
    fn start(&self, job: &str, total: u64, unit: Unit) {
        let name = if unit == Unit::Bytes { UnitName::Bytes } else { UnitName::Count };
        self.json(&Event::Start { job, total, unit: name });
        *lock(&self.job) = Some(Job::new(job, total, unit, Instant::now()));
    }

    fn item_start(&self, item: &str, total: u64) {
        self.json(&Event::Item { item, total });
    }

    fn advance(&self, _: &str, amount: u64) {
        let now = Instant::now();
        let mut guard = lock(&self.job);
        let Some(job) = guard.as_mut() else { return };
        job.advance(now, amount);
        let period = if self.form == Form::Plain { PLAIN_PERIOD } else { JSON_PERIOD };
        if now - job.printed >= period {
            job.printed = now;
            self.report(job, now);
        }
    }

    fn item_done(&self, item: &str, outcome: &str) {
        self.json(&Event::ItemDone { item, outcome });
    }

    fn finish(&self) {
        if let Some(job) = lock(&self.job).take() {
            self.json(&Event::Finish { job: &job.name, done: job.done });
        }
    }

    fn stop(&self) {
        if let Some(job) = lock(&self.job).take() {
            self.json(&Event::Stop { job: &job.name, done: job.done });
        }
    }

    fn note(&self, text: &str) {
        match self.form {
            Form::Plain => render::stderr_text(&format!("{}\n", escape(text))),
            Form::Json => self.json(&Event::Note { text }),
        }
    }
}

/// Bars on a terminal.
struct Bars {
    multi: MultiProgress,
    state: Mutex<BarState>,
}

#[derive(Default)]
struct BarState {
    job: Option<(Job, ProgressBar)>,
    items: BTreeMap<String, ProgressBar>,
    /// Items under way that have no bar.
    hidden: usize,
}

impl Bars {
    fn new(multi: MultiProgress) -> Self {
        Self { multi, state: Mutex::new(BarState::default()) }
    }

    fn style(template: &str) -> ProgressStyle {
        ProgressStyle::with_template(template)
            .expect("the templates of this file are well formed")
            .progress_chars("━╸ ")
    }
}

impl BarState {
    fn show_total(&self, now: Instant) {
        let Some((job, bar)) = &self.job else { return };
        let more = match self.hidden {
            0 => String::new(),
            n => format!("  … {n} more"),
        };
        bar.set_message(format!("{}{more}", job.status(now)));
    }
}

impl Progress for Bars {
    fn start(&self, job: &str, total: u64, unit: Unit) {
        self.finish();
        let bar = self.multi.add(ProgressBar::new(total));
        bar.set_style(Self::style("{prefix:<9} {bar:24.cyan} {msg}"));
        bar.set_prefix(escape(job));
        lock(&self.state).job = Some((Job::new(job, total, unit, Instant::now()), bar));
    }

    fn item_start(&self, item: &str, total: u64) {
        let mut state = lock(&self.state);
        if state.items.len() >= ITEM_BARS_MAX {
            state.hidden += 1;
            return;
        }
        let bar = self.multi.insert(0, ProgressBar::new(total));
        bar.set_style(Self::style("  {prefix} {bar:16.dim} {percent:>3}%"));
        bar.set_prefix(escape(item));
        state.items.insert(item.to_owned(), bar);
    }

    fn advance(&self, item: &str, amount: u64) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        if let Some(bar) = state.items.get(item) {
            bar.inc(amount);
        }
        if let Some((job, bar)) = state.job.as_mut() {
            job.advance(now, amount);
            bar.inc(amount);
        }
        state.show_total(now);
    }

    fn item_done(&self, item: &str, outcome: &str) {
        let mut state = lock(&self.state);
        match state.items.remove(item) {
            Some(bar) => bar.finish_and_clear(),
            None => state.hidden = state.hidden.saturating_sub(1),
        }
        // A bar that ends becomes one quiet line above those that go on.
        let line = format!("  {}  {}", escape(item), escape(outcome));
        let _ = self.multi.println(render::paint(render::DIM, line));
    }

    fn finish(&self) {
        let mut state = lock(&self.state);
        for bar in std::mem::take(&mut state.items).into_values() {
            bar.finish_and_clear();
        }
        state.hidden = 0;
        if let Some((_, bar)) = state.job.take() {
            bar.finish_and_clear();
        }
    }

    fn stop(&self) {
        self.finish();
    }

    fn note(&self, text: &str) {
        let _ = self.multi.println(escape(text));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Job, Unit};

    #[test]
    fn rates_look_ten_seconds_back_and_zero_has_no_eta() {
        let start = Instant::now();
        let mut job = Job::new("pull", 1000, Unit::Bytes, start);
        assert_eq!(job.status(start), "0 B/1.0 kB (0%), --, eta --");
        for second in 1..=20 {
            job.advance(start + Duration::from_secs(second), if second > 10 { 10 } else { 1 });
        }
        let now = start + Duration::from_secs(20);
        assert_eq!(job.status(now), "110 B/1.0 kB (11%), 10 B/s, eta 1m 29s");
    }

    #[test]
    fn an_empty_job_is_done_and_counts_have_no_unit() {
        let now = Instant::now();
        assert_eq!(Job::new("x", 0, Unit::Count, now).status(now), "0/0 (100%), --, eta --");
    }
}
