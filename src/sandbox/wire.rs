//! What goes over the socket between a sandbox's first process and its host.
//!
//! Frames, both ways: `[kind u8][command u32][len u32][payload]`, little-endian.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// No frame is longer.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// A request, as JSON in a frame [`Kind::Run`].
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Request {
    pub(super) script: String,
    pub(super) cwd: String,
    pub(super) env: Vec<(String, String)>,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// To the sandbox: run this.
    Run = b'r',
    /// To the sandbox: SIGTERM to the command's process group.
    Term = b't',
    /// To the sandbox: SIGKILL to the command's process group.
    Kill = b'k',
    /// To the sandbox: SIGKILL to every process.
    KillAll = b'a',
    /// To the sandbox: no more output of earlier commands is wanted.
    Forget = b'g',
    /// To the host: the sandbox is up.
    Ready = b'y',
    /// To the host: standard output; empty at its end.
    Out = b'o',
    /// To the host: standard error; empty at its end.
    Err = b'e',
    /// To the host: the exit code, in decimal, after all that the command wrote.
    Exit = b'x',
    /// To the host: why the command could not be run.
    Fail = b'f',
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Err, Exit, Fail, Forget, Kill, KillAll, Out, Ready, Run, Term};
        [Run, Term, Kill, KillAll, Forget, Ready, Out, Err, Exit, Fail]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) command: u32,
    pub(super) payload: Vec<u8>,
}

/// Writes a frame.
pub(super) fn write_frame(
    mut to: impl Write,
    kind: Kind,
    command: u32,
    payload: &[u8],
) -> io::Result<()> {
    let len = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.push(kind as u8);
    bytes.extend(command.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(payload);
    to.write_all(&bytes)
}

/// Takes one frame off the front of what was received, if it is complete.
pub(super) fn take_frame(received: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(received.get(at..at + 4)?.try_into().ok()?))
    };
    let (Some(command), Some(len)) = (word(1), word(5)) else { return Ok(None) };
    let kind = Kind::from_byte(received[0]).ok_or(io::ErrorKind::InvalidData)?;
    let len = len as usize;
    if len > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if received.len() < 9 + len {
        return Ok(None);
    }
    let payload = received[9..9 + len].to_vec();
    received.drain(..9 + len);
    Ok(Some(Frame { kind, command, payload }))
}

/// The host, seen from inside the sandbox.
pub(super) struct Host {
    to_host: Mutex<UnixStream>,
    /// The command whose output the host wants, 0 for none.
    wanted: AtomicU32,
}

impl Host {
    /// Wraps the socket to the host, which wants no output yet.
    pub(super) fn new(to_host: UnixStream) -> Self {
        Self { to_host: Mutex::new(to_host), wanted: AtomicU32::new(0) }
    }

    /// Sends the host a frame.
    pub(super) fn tell(&self, kind: Kind, command: u32, payload: &[u8]) {
        let to_host = self.to_host.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that is gone is noticed by the reading side, which ends the process.
        let _ = write_frame(&*to_host, kind, command, payload);
    }

    /// Notes that the host wants the output of this command alone.
    pub(super) fn wants_only(&self, command: u32) {
        self.wanted.store(command, Ordering::SeqCst);
    }

    /// Notes that the host wants no output.
    pub(super) fn wants_none(&self) {
        self.wants_only(0);
    }

    /// Says whether the host wants the output of a command.
    pub(super) fn wants(&self, command: u32) -> bool {
        self.wanted.load(Ordering::SeqCst) == command
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, take_frame, write_frame};

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Kind::Out, 7, b"hello").expect("writes");
        write_frame(&mut bytes, Kind::Exit, 7, b"0").expect("writes");
        let mut received = Vec::new();
        let mut seen = Vec::new();
        for byte in bytes {
            received.push(byte);
            while let Some(frame) = take_frame(&mut received).expect("is sound") {
                seen.push((frame.kind, frame.command, frame.payload));
            }
        }
        assert_eq!(seen, [(Kind::Out, 7, b"hello".to_vec()), (Kind::Exit, 7, b"0".to_vec())]);
        assert!(take_frame(&mut vec![b'?', 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
