//! SIGINT and SIGTERM: the first asks the command to stop at a good place, the second stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::Kind;
use crate::progress::Cancel;

/// What the signal thread and the commands share.
#[derive(Debug, Default)]
struct State {
    cancel: Cancel,
    /// Whether the running command looks at `cancel`; if not, the first signal ends the process.
    heeded: AtomicBool,
    received: AtomicI32,
}

/// The installed handlers.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<State>);

impl Signals {
    /// Installs the handlers. Where the system refuses, signals keep their default action.
    #[must_use]
    pub fn install() -> Self {
        let signals = Self::default();
        let state = Arc::clone(&signals.0);
        if let Ok(mut incoming) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) {
            // A thread, as a handler itself may do next to nothing.
            std::thread::spawn(move || {
                for signal in incoming.forever() {
                    on_signal(&state, signal);
                }
            });
        }
        signals
    }

    /// Returns the flag that a command watches; asking for it is the promise to watch it.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        self.0.heeded.store(true, Ordering::SeqCst);
        self.0.cancel.clone()
    }

    /// Returns the flag for a wait, without the promise: where nobody gave it, the first signal
    /// ends the process, and the wait with it.
    #[must_use]
    pub fn cancel_of_a_wait(&self) -> Cancel {
        self.0.cancel.clone()
    }

    /// Returns the kind of the signal that arrived.
    #[must_use]
    pub fn received(&self) -> Option<Kind> {
        match self.0.received.load(Ordering::SeqCst) {
            SIGINT => Some(Kind::Interrupted),
            SIGTERM => Some(Kind::Terminated),
            _ => None,
        }
    }
}

fn on_signal(state: &State, signal: i32) {
    let again = state.received.swap(signal, Ordering::SeqCst) != 0;
    if again || !state.heeded.load(Ordering::SeqCst) {
        let kind = if signal == SIGTERM { Kind::Terminated } else { Kind::Interrupted };
        std::process::exit(i32::from(kind.exit_code()));
    }
    state.cancel.set();
}
