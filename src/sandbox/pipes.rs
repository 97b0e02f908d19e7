//! Passes on what one command prints: all that it wrote before it ended, and then its exit code.
//!
//! The exit code goes last so that whoever hears of it has everything: a pause after it would take
//! for silence what a busy machine is late with.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::wire::{Host, Kind};

/// Tells of the end of a command, once.
#[derive(Debug)]
pub(super) struct End(PipeWriter);

impl End {
    /// Says that the command has ended, with this exit code.
    pub(super) fn tell(mut self, code: i32) {
        // Nobody listens only if the host is gone.
        let _ = self.0.write_all(&code.to_le_bytes());
    }
}

/// Makes what tells of an end, and what hears of it.
pub(super) fn end() -> io::Result<(End, PipeReader)> {
    io::pipe().map(|(hears, tells)| (End(tells), hears))
}

/// The pipes that a command writes into.
pub(super) struct Pipes {
    host: Arc<Host>,
    command: u32,
    open: Vec<(Kind, File)>,
    buffer: Vec<u8>,
}

impl Pipes {
    /// Takes the pipes of a command.
    pub(super) fn of(child: &mut Child, command: u32, host: &Arc<Host>) -> Self {
        let out = child.stdout.take().map(|out| (Kind::Out, File::from(OwnedFd::from(out))));
        let err = child.stderr.take().map(|err| (Kind::Err, File::from(OwnedFd::from(err))));
        let open = out.into_iter().chain(err).collect();
        Self { host: host.clone(), command, open, buffer: vec![0; 1 << 16] }
    }

    /// Passes on until the command has ended and nobody can write any more, which may be a process
    /// that it left behind.
    pub(super) fn pass_on(mut self, ended: PipeReader) {
        let mut ended = Some(ended);
        while ended.is_some() || !self.open.is_empty() {
            let over = self.pass_on_ready(ended.as_ref());
            let Some(mut end) = ended.take_if(|_| over) else { continue };
            let mut code = [0; 4];
            if end.read_exact(&mut code).is_err() {
                return;
            }
            self.drain();
            let code = i32::from_le_bytes(code).to_string();
            self.host.tell(Kind::Exit, self.command, code.as_bytes());
        }
    }

    /// Waits until there is something, passes it on, and says whether the command has ended.
    fn pass_on_ready(&mut self, ended: Option<&PipeReader>) -> bool {
        let mut fds: Vec<_> =
            self.open.iter().map(|(_, file)| PollFd::new(file, PollFlags::IN)).collect();
        fds.extend(ended.map(|end| PollFd::new(end, PollFlags::IN)));
        let ready: Vec<bool> = match poll(&mut fds, None) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            // Interrupted.
            Err(_) => return false,
        };
        let over = ready.len() > self.open.len() && ready[self.open.len()];
        // Backwards: what is at its end leaves the list.
        for at in (0..self.open.len()).rev().filter(|at| ready[*at]) {
            self.pass_on_once(at);
        }
        over
    }

    /// Passes on what the command left in its pipes when it ended, and not what others write into
    /// them since.
    fn drain(&mut self) {
        for at in (0..self.open.len()).rev() {
            let mut left = rustix::io::ioctl_fionread(&self.open[at].1).unwrap_or(0);
            let mut open = true;
            while open && left > 0 {
                let len = self.pass_on_once(at);
                left = left.saturating_sub(len as u64);
                open = len > 0;
            }
            if open && is_ready(&self.open[at].1) {
                self.pass_on_once(at);
            }
        }
    }

    /// Reads once, and passes it on if the host wants it; returns how much there was. None is the
    /// end, and an error ends an output as its end does.
    fn pass_on_once(&mut self, at: usize) -> usize {
        let (kind, file) = &mut self.open[at];
        let len = file.read(&mut self.buffer).unwrap_or(0);
        if self.host.wants(self.command) {
            self.host.tell(*kind, self.command, &self.buffer[..len]);
        }
        if len == 0 {
            self.open.remove(at);
        }
        len
    }
}

fn is_ready(file: &File) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}
