//! Keeps files that are being written from being open in processes that are being started.
//!
//! Between its `fork` and its `exec` a new process has open what this one has open. A script that
//! another thread is just writing cannot be run while that lasts («Text file busy»): of trials side
//! by side, one in some hundred had tests that did not start, and a verdict that was none.

use std::io;
use std::process::{Child, Command};
use std::sync::{PoisonError, RwLock};

/// Held alone by who starts a process, and shared by those who write.
static FORKS: RwLock<()> = RwLock::new(());

/// Starts a process, while nothing is written that somebody may run.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    // Returns when the new process runs its program, and has no file of ours any more.
    command.spawn()
}

/// Opens, writes and closes something that may be run, while no process is started.
pub(super) fn writing<T>(write: impl FnOnce() -> T) -> T {
    let _shared = FORKS.read().unwrap_or_else(PoisonError::into_inner);
    write()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{spawn, writing};

    #[test]
    fn what_was_written_can_be_run_while_others_start_processes() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let run = |name: &str| spawn(&mut Command::new(dir.path().join(name)))?.wait();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        spawn(&mut Command::new("true")).and_then(|mut c| c.wait()).expect("runs");
                    }
                });
            }
            let mut options = std::fs::File::options();
            options.write(true).create_new(true).mode(0o755);
            let failed: Vec<_> = (0..300)
                .filter_map(|i| {
                    let name = i.to_string();
                    writing(|| {
                        use std::io::Write as _;
                        let mut file = options.open(dir.path().join(&name)).expect("opens");
                        file.write_all(b"#!/bin/sh\n").expect("writes");
                    });
                    run(&name).err()
                })
                .collect();
            done.store(true, Ordering::Relaxed);
            assert!(failed.is_empty(), "{} of 300: {:?}", failed.len(), failed[0]);
        });
    }
}
