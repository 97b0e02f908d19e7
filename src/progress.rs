//! Events of long work. The library emits them; `cli` draws them.
//!
//! Implementations never block and never fail. Bytes are work done, whatever the work is:
//! hashing and writing count, so that a bar does not stick at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A sink of progress events.
pub trait Progress: Send + Sync {
    /// Announces a job of `total` units, `unit` being bytes unless said otherwise.
    fn start(&self, job: &str, total: u64, unit: Unit);
    /// Announces one item (a file, a trial) of the job.
    fn item_start(&self, item: &str, total: u64);
    /// Adds `amount` units of work done on `item`.
    fn advance(&self, item: &str, amount: u64);
    /// Says how one item ended: `verified`, `resumed`, `reused`.
    fn item_done(&self, item: &str, outcome: &str);
    /// Ends the job: all of it is done.
    fn finish(&self);
    /// Ends the job, if there is one, before all of it is done.
    fn stop(&self);
    /// Passes on something a person should know now, such as a retry.
    fn note(&self, text: &str);
}

/// What [`Progress::advance`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of data.
    Bytes,
    /// Things: trials, tensors, tokens.
    Count,
}

/// The sink that drops everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: Unit) {}
    fn item_start(&self, _: &str, _: u64) {}
    fn advance(&self, _: &str, _: u64) {}
    fn item_done(&self, _: &str, _: &str) {}
    fn finish(&self) {}
    fn stop(&self) {}
    fn note(&self, _: &str) {}
}

/// A shared sink.
pub type SharedProgress = Arc<dyn Progress>;

/// Returns a shared sink that drops everything.
#[must_use]
pub fn silent() -> SharedProgress {
    Arc::new(Silent)
}

/// A flag that asks long work to stop at the next good place.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Says whether the work should stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
