//! The default sandbox: bubblewrap with an overlay on this machine's own programs.
//!
//! Inside are a fresh root, the host's `/usr` (writable through an overlay that dies with the
//! sandbox, else read-only), no network but loopback, no capability, no way to gain one, no device
//! beyond the usual null and random ones. Commands run through [`super::init`], so that background
//! processes live on between commands and die with the trial.

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::copy::Root;
use super::error::{Error, Result};
use super::limits::Cgroups;
use super::remove::remove_tree;
use super::wire::{self, Frame, Kind};
use super::{
    CancelFlag, Captured, ExecOutput, ExecRequest, Limits, Report, Sandbox, disk, fork, init, root,
    seccomp,
};

/// Joins the control groups, mounts the overlays, then becomes bwrap, which has the filter of
/// system calls as descriptor 9. The kernel lets a process into a group only after a grace
/// period of some milliseconds, in which the mounts are made. Arguments: the filter's file or
/// nothing, number of join files, the files, number of overlays, for each its lower folder and its
/// own folder (with `upper`, `work`, `merged`), extra mount options, then bwrap's command line.
const LAUNCH: &str = r#"set -e
[ -z "$1" ] || exec 9< "$1"; shift
n=$1; shift
(while [ "$n" -gt 0 ]; do echo $$ > "$1"; shift; n=$((n-1)); done) & joining=$!
shift "$n"
n=$1; shift
while [ "$n" -gt 0 ]; do
  mount -t overlay tmax-ckpt -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work$3" "$2/merged"
  shift 3; n=$((n-1))
done
wait $joining
exec "$@""#;

/// After SIGTERM at the time limit, this long until SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// All that a command wrote is here before its exit code. What it left behind may write on, such
/// as the `tee` of `exec > >(tee log)`, and is heard for this long.
const DRAIN_MAX: Duration = Duration::from_millis(500);
/// How often a wait looks whether it is cancelled.
const POLL: Duration = Duration::from_millis(100);
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether the host's programs can be changed inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemFolders {
    /// Writable through an overlay, whose changes die with the sandbox.
    Overlay,
    /// Read-only: the kernel or the file system refuses overlays here.
    ReadOnly,
}

/// What this machine can do, found once by trying.
#[derive(Debug, Clone)]
pub struct Host {
    init: PathBuf,
    version: String,
    system: SystemFolders,
    overlay_refusal: Option<String>,
}

/// A sandbox to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// A folder of the sandbox's own, made here and removed at the end.
    pub scratch: PathBuf,
    /// The limits.
    pub limits: Limits,
    /// Variables of every command, on top of `PATH`, `HOME` and `LANG`.
    pub env: Vec<(String, String)>,
    /// The folder in which commands run; made if need be.
    pub workdir: String,
    /// Asked to stop, `exec` returns [`Error::Interrupted`].
    pub cancel: CancelFlag,
}

impl Host {
    /// Finds out by starting sandboxes below `scratch` what works here. `init` is this program
    /// (see [`init`]).
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Start`] when no variant works.
    pub fn probe(init: &Path, scratch: &Path) -> Result<Self> {
        let version = bwrap_version()?;
        let mut host = Self {
            init: init.to_owned(),
            version,
            system: SystemFolders::Overlay,
            overlay_refusal: None,
        };
        if let Err(refusal) = host.try_out(scratch) {
            host = host.without_overlay(&refusal.to_string());
            host.try_out(scratch)?;
        }
        Ok(host)
    }

    /// Returns what can be changed inside.
    #[must_use]
    pub fn system_folders(&self) -> SystemFolders {
        self.system
    }

    /// Returns bwrap's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns why there is no overlay, if there is none.
    #[must_use]
    pub fn overlay_refusal(&self) -> Option<&str> {
        self.overlay_refusal.as_deref()
    }

    /// Returns the same without overlays, for a reason that reports then give.
    #[must_use]
    pub fn without_overlay(mut self, reason: &str) -> Self {
        self.system = SystemFolders::ReadOnly;
        self.overlay_refusal = Some(reason.to_owned());
        self
    }

    fn try_out(&self, scratch: &Path) -> Result<()> {
        let spec = Spec {
            // The second try must not meet what a failed first one left.
            scratch: scratch.join(format!("probe-{}-{}", std::process::id(), serial())),
            limits: Limits::default(),
            env: Vec::new(),
            workdir: "/app".into(),
            cancel: CancelFlag::default(),
        };
        let mut sandbox = Bwrap::start(self, spec)?;
        let out = sandbox.exec(&ExecRequest::new("exit 7", START_TIMEOUT))?;
        sandbox.stop()?;
        if out.exit_code != 7 {
            let reason = format!("a test command exited with {}", out.exit_code);
            return Err(Error::Start { kind: "bwrap", reason });
        }
        Ok(())
    }
}

/// A running bwrap sandbox.
#[derive(Debug)]
pub struct Bwrap {
    child: Child,
    link: Link,
    root: Root,
    cgroups: Cgroups,
    disk: disk::Watch,
    spec: Spec,
    report: Report,
    /// The number of the last command.
    command: u32,
    stopped: bool,
}

impl Bwrap {
    /// Starts a sandbox.
    ///
    /// It dies with the thread that calls this (`--die-with-parent`), so use it on that thread.
    ///
    /// # Errors
    /// [`Error::Start`] with what was printed; file errors.
    pub fn start(host: &Host, spec: Spec) -> Result<Self> {
        let tree = spec.scratch.join("root");
        root::build(&tree)?;
        let root = Root::open(&tree).map_err(Error::io("open the sandbox's root"))?;
        let outside = check_ours(&spec.workdir).is_ok();
        if outside {
            root.make_dirs(&spec.workdir).map_err(|fault| fault.into_error(&spec.workdir))?;
        }
        let name = format!("{}{}-{}", super::limits::PREFIX, std::process::id(), serial());
        let cgroups = Cgroups::create(&name, &spec.limits);
        let (rlimits, limits) = cgroups.plan(&spec.limits);
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("make a socket"))?;
        let filter = write_filter(&spec.scratch)?;
        let mut command = launch(host, &spec, filter.as_deref(), &cgroups, &rlimits)?;
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = fork::spawn(&mut command).map_err(Error::io("start the sandbox"))?;
        // Dropped now, so that the socket closes when the sandbox dies.
        drop(command);
        let report = report(host, filter.as_deref(), limits);
        let link = Link::new(ours)?;
        let disk = disk::Watch::new(&spec.scratch, spec.limits.disk_bytes);
        let mut sandbox =
            Self { child, link, root, cgroups, disk, spec, report, command: 0, stopped: false };
        sandbox.wait_ready()?;
        if !outside {
            sandbox.make_workdir_inside()?;
        }
        Ok(sandbox)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if self.spec.cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            match self.link.receive(POLL) {
                Ok(Some(frame)) if frame.kind == Kind::Ready => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    return Err(Error::Start { kind: "bwrap", reason: self.last_words() });
                }
            }
        }
        Err(Error::Start { kind: "bwrap", reason: "nothing heard from it for 20 s".into() })
    }

    /// Makes a working folder below `/usr`, which only the inside sees.
    fn make_workdir_inside(&mut self) -> Result<()> {
        let script = format!("mkdir -p {}", quote(&self.spec.workdir));
        let made = self.exec_in("/", &ExecRequest::new(script, START_TIMEOUT))?;
        if made.exit_code != 0 {
            let reason = format!("cannot make {}: {}", self.spec.workdir, made.stderr.text());
            return Err(Error::Start { kind: "bwrap", reason });
        }
        Ok(())
    }

    /// Returns what the sandbox printed before it died.
    fn last_words(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.by_ref().take(4096).read_to_string(&mut text);
        }
        match text.trim() {
            "" => "it printed nothing".into(),
            text => text.replace('\n', "; "),
        }
    }

    fn exec_in(&mut self, cwd: &str, request: &ExecRequest) -> Result<ExecOutput> {
        let mut env = self.spec.env.clone();
        env.extend(request.env.iter().cloned());
        let inner = wire::Request { script: request.script.clone(), cwd: cwd.to_owned(), env };
        let json = serde_json::to_vec(&inner).expect("strings serialise");
        self.command += 1;
        let mut run = Running::new(self.spec.limits.output_bytes);
        // What earlier commands left behind went on writing.
        let over = self.disk.look_between();
        self.enforce_disk(over, Some(&mut run))?;
        self.send(Kind::Run, &json)?;
        let deadline = Instant::now() + request.timeout;
        while run.exit_code.is_none() {
            if self.spec.cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.hear(&mut run, left.clamp(Duration::from_millis(1), POLL))?;
            self.escalate(&mut run, deadline)?;
            let over = self.disk.look_if_due();
            self.enforce_disk(over, Some(&mut run))?;
        }
        let drained = Instant::now() + DRAIN_MAX;
        while run.open > 0 && Instant::now() < drained {
            let left = drained.saturating_duration_since(Instant::now());
            self.hear(&mut run, left.max(Duration::from_millis(1)))?;
        }
        let over = self.disk.look_between();
        self.enforce_disk(over, Some(&mut run))?;
        self.send(Kind::Forget, b"")?;
        let timed_out = run.stage != Stage::Running;
        let exit_code = if timed_out { 124 } else { run.exit_code.unwrap_or(255) };
        Ok(ExecOutput { stdout: run.stdout, stderr: run.stderr, exit_code, timed_out })
    }

    /// Waits for one frame of the running command.
    fn hear(&mut self, run: &mut Running, wait: Duration) -> Result<()> {
        let frame = match self.link.receive(wait) {
            Ok(frame) => frame,
            Err(error) => {
                let reason = format!("{error}; {}", self.last_words());
                return Err(Error::Died { reason });
            }
        };
        if let Some(frame) = frame.filter(|frame| frame.command == self.command) {
            run.take(&frame);
        }
        Ok(())
    }

    fn escalate(&mut self, run: &mut Running, deadline: Instant) -> Result<()> {
        let over = Instant::now().checked_duration_since(deadline);
        let (kind, next) = match (run.stage, over) {
            (_, None) => return Ok(()),
            (Stage::Running, Some(_)) => (Kind::Term, Stage::Terminated),
            (Stage::Terminated, Some(over)) if over > TERM_GRACE => (Kind::Kill, Stage::Killed),
            _ => return Ok(()),
        };
        if run.exit_code.is_none() {
            self.send(kind, b"")?;
            run.stage = next;
        }
        Ok(())
    }

    /// Kills everything once the files take too much, and tells the record and who reads the
    /// command's output.
    fn enforce_disk(
        &mut self,
        over: io::Result<Option<String>>,
        run: Option<&mut Running>,
    ) -> Result<()> {
        let over = over.map_err(Error::io("measure the sandbox's files"))?;
        let Some(why) = over else { return Ok(()) };
        if let Some(run) = run {
            run.stderr.push(format!("tmax-ckpt: killed: {why}\n").as_bytes());
        }
        let note = format!("what ran was killed: {why}");
        if !self.report.notes.contains(&note) {
            self.report.notes.push(note);
        }
        self.send(Kind::KillAll, b"")
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let sent = wire::write_frame(&self.link.stream, kind, self.command, payload);
        sent.map_err(|error| Error::Died { reason: format!("{error}; {}", self.last_words()) })
    }
}

/// What is known of the command that runs.
struct Running {
    stdout: Captured,
    stderr: Captured,
    /// How many of its outputs are open.
    open: u8,
    exit_code: Option<i32>,
    stage: Stage,
}

impl Running {
    fn new(limit: usize) -> Self {
        let (stdout, stderr) = (Captured::new(limit), Captured::new(limit));
        Self { stdout, stderr, open: 2, exit_code: None, stage: Stage::Running }
    }

    fn take(&mut self, frame: &Frame) {
        match frame.kind {
            Kind::Out | Kind::Err if frame.payload.is_empty() => {
                self.open = self.open.saturating_sub(1);
            }
            Kind::Out => self.stdout.push(&frame.payload),
            Kind::Err => self.stderr.push(&frame.payload),
            Kind::Exit => {
                let code = std::str::from_utf8(&frame.payload).ok().and_then(|t| t.parse().ok());
                self.exit_code = Some(code.unwrap_or(255));
            }
            Kind::Fail => {
                // As a shell says it that cannot run a command.
                let text = String::from_utf8_lossy(&frame.payload);
                self.stderr.push(format!("bash: {text}\n").as_bytes());
                self.exit_code = Some(126);
                self.open = 0;
            }
            _ => {}
        }
    }
}

/// Our end of the socket to process 1.
#[derive(Debug)]
struct Link {
    stream: UnixStream,
    received: Vec<u8>,
    buffer: Vec<u8>,
}

impl Link {
    fn new(stream: UnixStream) -> Result<Self> {
        stream
            .set_write_timeout(Some(Duration::from_secs(30)))
            .map_err(Error::io("prepare a socket"))?;
        Ok(Self { stream, received: Vec::new(), buffer: vec![0; 1 << 18] })
    }

    /// Waits for a frame; an error means that the sandbox is dead.
    fn receive(&mut self, wait: Duration) -> io::Result<Option<Frame>> {
        if let Some(frame) = wire::take_frame(&mut self.received)? {
            return Ok(Some(frame));
        }
        self.stream.set_read_timeout(Some(wait))?;
        match self.stream.read(&mut self.buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => self.received.extend_from_slice(&self.buffer[..len]),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => return Ok(None),
                _ => return Err(error),
            },
        }
        wire::take_frame(&mut self.received)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Terminated,
    Killed,
}

impl Sandbox for Bwrap {
    fn exec(&mut self, request: &ExecRequest) -> Result<ExecOutput> {
        let cwd = request.cwd.clone().unwrap_or_else(|| self.spec.workdir.clone());
        self.exec_in(&cwd, request)
    }

    fn copy_in(&mut self, from: &Path, to: &str) -> Result<()> {
        check_ours(to)?;
        self.root.copy_in(from, to).map_err(|fault| fault.into_error(to))
    }

    fn copy_out(&mut self, from: &str, to: &Path) -> Result<()> {
        check_ours(from)?;
        let unread = self.root.copy_out(from, to).map_err(|fault| fault.into_error(from))?;
        if unread > 0 {
            let entries = crate::units::plural(unread, "entry");
            self.report
                .notes
                .push(format!("{entries} of {from} cannot be read, and were left out"));
        }
        Ok(())
    }

    fn empty_dir(&mut self, path: &str) -> Result<()> {
        check_ours(path)?;
        self.root.empty_dir(path).map_err(|fault| fault.into_error(path))
    }

    fn report(&self) -> &Report {
        &self.report
    }

    fn stop(&mut self) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        let over = self.disk.look();
        let told = self.enforce_disk(over, None);
        self.end().and(told)
    }
}

impl Bwrap {
    /// Kills everything and removes the files.
    fn end(&mut self) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        self.stopped = true;
        // Process 1 dies with bwrap, and with it all others: none of them can outlive the wait
        // below by more than the kernel takes.
        let _ = self.child.kill();
        self.child.wait().map_err(Error::io("end the sandbox"))?;
        self.wait_dead();
        self.cgroups.remove()?;
        remove_tree(&self.spec.scratch)
    }

    /// Waits until process 1 has closed its socket, which it does when it is dead.
    fn wait_dead(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && self.link.receive(POLL).is_ok() {}
    }
}

impl Drop for Bwrap {
    fn drop(&mut self) {
        // What cannot be removed was reported by `stop`, or the run is failing anyway.
        let _ = self.end();
    }
}

/// Builds the command line: unshare the mounts, then [`LAUNCH`], then bwrap.
fn launch(
    host: &Host,
    spec: &Spec,
    filter: Option<&Path>,
    cgroups: &Cgroups,
    rlimits: &[String],
) -> Result<Command> {
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", LAUNCH, "sh"]);
    command.arg(filter.unwrap_or(Path::new("")));
    let join = cgroups.join_files();
    command.arg(join.len().to_string()).args(join);
    let overlays = match host.system {
        SystemFolders::Overlay => overlays(spec)?,
        SystemFolders::ReadOnly => Vec::new(),
    };
    command.arg(overlays.len().to_string());
    for (lower, own) in &overlays {
        command.arg(lower).arg(own).arg(if root { "" } else { ",userxattr" });
    }
    command.arg("bwrap").args(bwrap_args(host, spec, &overlays));
    if filter.is_some() {
        command.args(["--seccomp", "9"]);
    }
    command.arg("--").arg("/run/tmax-init").arg(init::ARGUMENT).args(rlimits);
    command.args(["core=0", "nofile=20000"]);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(command)
}

/// Writes the filter of system calls where bwrap can read it.
fn write_filter(scratch: &Path) -> Result<Option<PathBuf>> {
    let Some(filter) = seccomp::filter() else { return Ok(None) };
    let path = scratch.join("seccomp.bpf");
    root::put(&path, &filter).map_err(Error::io("write the filter of system calls"))?;
    Ok(Some(path))
}

/// Makes the folders of the overlays, one for each system folder that is not a link.
fn overlays(spec: &Spec) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut overlays = Vec::new();
    for lower in system_folders() {
        let name = lower.file_name().unwrap_or_default();
        let own = spec.scratch.join("overlay").join(name);
        for part in ["upper", "work", "merged"] {
            crate::fsio::create_dir_all(&own.join(part))?;
        }
        overlays.push((lower, own));
    }
    Ok(overlays)
}

/// The host's folders of programs that are no links to others.
pub(super) fn system_folders() -> Vec<PathBuf> {
    let host = |name: &&str| Path::new("/").join(name);
    root::SYSTEM.iter().map(host).filter(|p| p.is_dir() && !p.is_symlink()).collect()
}

fn bwrap_args(host: &Host, spec: &Spec, overlays: &[(PathBuf, PathBuf)]) -> Vec<PathBuf> {
    let mut args: Vec<PathBuf> = [
        "--unshare-user",
        "--uid",
        "0",
        "--gid",
        "0",
        "--disable-userns",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--hostname",
        "sandbox",
        "--die-with-parent",
        "--new-session",
        "--as-pid-1",
        "--cap-drop",
        "ALL",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "--setenv",
        "HOME",
        "/root",
        "--setenv",
        "LANG",
        "C.UTF-8",
        "--bind",
    ]
    .iter()
    .map(PathBuf::from)
    .collect();
    args.extend([spec.scratch.join("root"), "/".into()]);
    if overlays.is_empty() {
        for folder in system_folders() {
            args.extend(["--ro-bind".into(), folder.clone(), folder]);
        }
    }
    for (lower, own) in overlays {
        args.extend(["--bind".into(), own.join("merged"), lower.clone()]);
    }
    for name in root::ETC_SHOWN {
        let shown = Path::new("/etc").join(name);
        if shown.is_dir() {
            args.extend(["--ro-bind".into(), shown.clone(), shown]);
        }
    }
    args.extend(["--ro-bind".into(), host.init.clone(), "/run/tmax-init".into()]);
    args.extend(["--dev", "/dev", "--proc", "/proc"].map(PathBuf::from));
    // Root may write kernel settings without any capability, if it is the host's root.
    args.extend(["--ro-bind", "/proc/sys", "/proc/sys"].map(PathBuf::from));
    if Path::new("/proc/sysrq-trigger").exists() {
        args.extend(["--ro-bind", "/dev/null", "/proc/sysrq-trigger"].map(PathBuf::from));
    }
    args.extend(["--chdir", "/"].map(PathBuf::from));
    args
}

fn report(host: &Host, filter: Option<&Path>, limits: Vec<super::Enforced>) -> Report {
    let mut notes = vec!["shares the host's kernel and programs".to_owned()];
    notes.push(if filter.is_some() {
        format!("{} system calls are refused", seccomp::DENIED.len() + seccomp::DENIED_HERE.len())
    } else {
        "no system calls are refused: no filter is known for this processor".into()
    });
    notes.extend(host.overlay_refusal.iter().map(|why| format!("no overlay: {why}")));
    Report {
        kind: host.version.clone(),
        root: match host.system {
            SystemFolders::Overlay => "fresh root, overlay on the host's /usr".into(),
            SystemFolders::ReadOnly => "fresh root, the host's /usr read-only".into(),
        },
        network: "none (loopback of its own)".into(),
        limits,
        notes,
    }
}

fn bwrap_version() -> Result<String> {
    match Command::new("bwrap").arg("--version").output() {
        Ok(out) => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::Missing { program: "bwrap" })
        }
        Err(error) => Err(Error::io("run bwrap")(error)),
    }
}

/// Refuses paths that do not lie in the fresh root.
fn check_ours(path: &str) -> Result<()> {
    let top = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if root::SYSTEM.contains(&top) || ["dev", "proc", "sys"].contains(&top) {
        return Err(Error::Unsupported {
            what: format!("the bwrap sandbox cannot copy files to or from {path}"),
            remedy: "copy elsewhere and move inside, or pass `--sandbox podman`".into(),
        });
    }
    Ok(())
}

/// Removes the scratch folder of sandboxes that are dead, whatever modes they left behind.
///
/// # Errors
/// When files remain.
pub fn remove_scratch(scratch: &Path) -> Result<()> {
    remove_tree(scratch)
}

/// Quotes a word for the shell.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns a number that this process has not used yet, for names.
pub(super) fn serial() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
