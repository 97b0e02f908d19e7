//! The first process of a bwrap sandbox: runs the commands that the host sends.
//!
//! It is this program itself, started with [`ARGUMENT`]. It has no privilege and keeps no secret;
//! being process 1, it cannot be killed from inside, and when it ends, the kernel kills everything
//! else in the sandbox. It ends when the host's end of the socket on its standard input closes, so
//! that nothing survives even if the host side is killed.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions};

use super::pipes::{self, End, Pipes};
use super::wire::{Frame, Host, Kind, Request, take_frame};

/// The hidden first argument that makes the program serve a sandbox.
pub const ARGUMENT: &str = "__sandbox-init";

/// A command at work.
struct Running {
    pid: Pid,
    end: End,
}

/// What the threads of the server share.
struct Shared {
    host: Arc<Host>,
    running: Mutex<Option<Running>>,
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
    let host = Arc::new(Host::new(from_host.try_clone()?));
    let shared = Arc::new(Shared { host, running: Mutex::new(None) });
    let spawned = start_reaper(&shared);
    shared.host.tell(Kind::Ready, 0, b"");
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
            shared.host.wants_only(frame.command);
            // Held until the process is known, so that the reaper cannot be faster.
            let mut running = lock(&shared.running);
            match spawn(shared, frame) {
                Ok(started) => {
                    *running = Some(started);
                    let _ = spawned.send(());
                }
                Err(error) => {
                    shared.host.tell(Kind::Fail, frame.command, error.to_string().as_bytes());
                }
            }
        }
        Kind::Term => signal(shared, Signal::TERM),
        Kind::Kill => signal(shared, Signal::KILL),
        // kill(-1): reaches all but its sender, process 1; fails when nobody else is there.
        Kind::KillAll => drop(rustix::process::kill_process_group(Pid::INIT, Signal::KILL)),
        _ => shared.host.wants_none(),
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
    let pipes = Pipes::of(&mut child, frame.command, &shared.host);
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
