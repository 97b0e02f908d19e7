//! Waiting for the locks of the shared cache: the one loop, which says so and can be cancelled.

use std::path::Path;
use std::time::Duration;

use super::error::{Error, Result};
use crate::fsio;
use crate::progress::{Cancel, SharedProgress};

/// Between two looks whether another process is done.
const PAUSE: Duration = Duration::from_millis(50);

/// Who waits, and for what.
#[derive(Clone, Copy)]
pub(super) struct Waiter<'a> {
    /// What another process does meanwhile, after "waiting for another process that".
    pub other: &'a str,
    /// Told once.
    pub progress: &'a SharedProgress,
    /// Ends the wait.
    pub cancel: &'a Cancel,
}

/// Takes a file's lock alone, as the other tools on this cache do, as soon as it is free.
pub(super) async fn lock(path: &Path, waiter: Waiter<'_>) -> Result<fsio::Locked> {
    let mut tries = 0;
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        waiter.note(&mut tries)?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same, for a thread that may sleep.
pub(super) fn lock_blocking(path: &Path, waiter: Waiter<'_>) -> Result<fsio::Locked> {
    waiter.until(|| try_lock(path))
}

fn try_lock(path: &Path) -> Result<Option<fsio::Locked>> {
    fsio::create_dir_all(fsio::parent(path))?;
    let lock = fsio::Locked::try_new(fsio::open_rw(path)?, path)?;
    // A removal takes the file away with the rest.
    Ok(lock.filter(|lock| lock.is_at(path)))
}

impl Waiter<'_> {
    /// Sleeps between calls of `attempt` until it gives something.
    ///
    /// # Errors
    /// That of `attempt`; [`Error::Interrupted`].
    pub fn until<T>(self, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let mut tries = 0;
        loop {
            if let Some(got) = attempt()? {
                return Ok(got);
            }
            self.note(&mut tries)?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Says once that somebody waits, unless it is over with the next try.
    fn note(self, tries: &mut u32) -> Result<()> {
        if self.cancel.is_set() {
            return Err(Error::Interrupted { kept_bytes: 0 });
        }
        *tries += 1;
        if *tries == 2 {
            self.progress.note(&format!("waiting for another process that {}", self.other));
        }
        Ok(())
    }
}
