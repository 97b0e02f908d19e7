//! The first process of a bwrap sandbox: runs the commands that the host sends.
//!
//! It is this program itself, started with [`ARGUMENT`]. It has no privilege and keeps no secret;
//! being process 1, it cannot be killed from inside, and when it ends, the kernel kills everything
//! else in the sandbox. It ends when the host's end of the socket on its standard input closes, so
//! that nothing survives even if the host side is killed.
//!
//! Frames on the socket, both ways: `[kind u8][command u32][len u32][payload]`, little-endian.

use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::pipes::{self, End, Pipes};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};

/// The hidden first argument that makes the program serve a sandbox.
pub const ARGUMENT: &str = "__sandbox-init";

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

/// A command at work.
struct Running {
    pid: Pid,
    end: End,
}

/// What the threads of the server share.
pub(super) struct Shared {
    to_host: Mutex<UnixStream>,
    running: Mutex<Option<Running>>,
    /// The command whose output the host wants.
    wanted: AtomicU32,
}

impl Shared {
    /// Sends the host a frame.
    pub(super) fn tell(&self, kind: Kind, command: u32, payload: &[u8]) {
        // A host that is gone is noticed by the reading side, which ends the process.
        let _ = write_frame(&*lock(&self.to_host), kind, command, payload);
    }

    /// Says whether the host wants the output of a command.
    pub(super) fn wants(&self, command: u32) -> bool {
        self.wanted.load(Ordering::SeqCst) == command
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves commands until the host hangs up.
///
/// `limits` are resource limits as `name=value`.
///
/// # Errors
/// The system's, before the first command; later ones go to the host.
pub fn serve(limits: impl Iterator<Item = String>) -> io::Result<()> {
    // Nobody inside may look into process 1.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let mut from_host = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    for limit in limits {
        set_limit(&limit)?;
    }
    let shared = Arc::new(Shared {
        to_host: Mutex::new(from_host.try_clone()?),
        running: Mutex::new(None),
        wanted: AtomicU32::new(0),
    });
    let spawned = start_reaper(&shared);
    shared.tell(Kind::Ready, 0, b"");
    let mut received = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from_host.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => received.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        while let Some(frame) = take_frame(&mut received)? {
            obey(&shared, &frame, &spawned);
        }
    }
}

fn obey(shared: &Arc<Shared>, frame: &Frame, spawned: &mpsc::Sender<()>) {
    match frame.kind {
        Kind::Run => {
            shared.wanted.store(frame.command, Ordering::SeqCst);
            // Held until the process is known, so that the reaper cannot be faster.
            let mut running = lock(&shared.running);
            match spawn(shared, frame) {
                Ok(started) => {
                    *running = Some(started);
                    let _ = spawned.send(());
                }
                Err(error) => {
                    shared.tell(Kind::Fail, frame.command, error.to_string().as_bytes());
                }
            }
        }
        Kind::Term => signal(shared, Signal::TERM),
        Kind::Kill => signal(shared, Signal::KILL),
        // kill(-1): reaches all but its sender, process 1; fails when nobody else is there.
        Kind::KillAll => drop(rustix::process::kill_process_group(Pid::INIT, Signal::KILL)),
        _ => shared.wanted.store(0, Ordering::SeqCst),
    }
}

fn set_limit(text: &str) -> io::Result<()> {
    let (name, value) = text.split_once('=').ok_or(io::ErrorKind::InvalidInput)?;
    let value: u64 = value.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let resource = match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "fsize" => Resource::Fsize,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    // Never above what this process may have: raising takes a capability that it lacks.
    let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = Some(value.min(hard));
    Ok(rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })?)
}

/// Collects every dead process, as process 1 must, and tells of the end of the command.
fn start_reaper(shared: &Arc<Shared>) -> mpsc::Sender<()> {
    let (spawned, wait_for_one) = mpsc::channel();
    let shared = shared.clone();
    std::thread::spawn(move || {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => {
                    let mut running = lock(&shared.running);
                    if let Some(ended) = running.take_if(|running| running.pid == pid) {
                        let signal = status.terminating_signal().map(|s| 128 + s);
                        ended.end.tell(status.exit_status().or(signal).unwrap_or(255));
                    }
                }
                Err(rustix::io::Errno::CHILD) => {
                    if wait_for_one.recv().is_err() {
                        return;
                    }
                }
                Ok(None) | Err(_) => {}
            }
        }
    });
    spawned
}

fn spawn(shared: &Arc<Shared>, frame: &Frame) -> io::Result<Running> {
    let request: Request = serde_json::from_slice(&frame.payload)?;
    let (end, ended) = pipes::end()?;
    let mut child = Command::new("/bin/bash")
        .args(["-c", &request.script])
        .current_dir(&request.cwd)
        .envs(request.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let pid = Pid::from_child(&child);
    let pipes = Pipes::of(&mut child, frame.command, shared);
    // A task may have taken the last number of a process; this one must outlive that.
    let passing_on = std::thread::Builder::new().spawn(move || pipes.pass_on(ended));
    if let Err(error) = passing_on {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        return Err(error);
    }
    Ok(Running { pid, end })
}

fn signal(shared: &Shared, signal: Signal) {
    if let Some(running) = &*lock(&shared.running) {
        // Gone already: its exit is on the way.
        let _ = rustix::process::kill_process_group(running.pid, signal);
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
