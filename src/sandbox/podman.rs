//! Real images: containers made and driven through the `podman` command.
//!
//! The container has no network unless asked for, no capability beyond podman's default set, and
//! limits that podman enforces. Commands go through `podman exec` inside `timeout`, so images need
//! `bash` and coreutils, as the harness protocol does.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Resource;

use super::bwrap::quote;
use super::error::{Error, Result};
use super::limits::Enforced;
use super::remove::remove_tree;
use super::{CancelFlag, Captured, ExecOutput, ExecRequest, Limits, Report, Sandbox, root};

/// Where a container's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// A name that podman knows or can pull.
    Name(String),
    /// A folder with a `Dockerfile`, built under the given name.
    Build {
        /// The folder, which is also the build context.
        context: std::path::PathBuf,
        /// The name to give, made from the task's digest, so that it is built once.
        tag: String,
    },
}

/// What a container can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Loopback only.
    None,
    /// Podman's default network.
    Podman,
}

/// A container to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its image.
    pub image: Image,
    /// Its network.
    pub network: Network,
    /// Its limits.
    pub limits: Limits,
    /// Variables of every command.
    pub env: Vec<(String, String)>,
    /// The folder in which commands run; the image's own if `None`.
    pub workdir: Option<String>,
    /// How long building or pulling may take.
    pub build_timeout: Duration,
    /// Asked to stop, everything returns [`Error::Interrupted`].
    pub cancel: CancelFlag,
}

/// What this machine's podman is and needs.
#[derive(Debug, Clone)]
pub struct Host {
    version: String,
    /// `--runtime` to pass, if the default one cannot work here.
    runtime: Option<&'static str>,
    /// The control groups that it can use: `memory`, `pids`, `cpu`.
    controllers: Vec<String>,
}

impl Host {
    /// Asks podman what it is.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Start`].
    pub fn probe() -> Result<Self> {
        let cancel = CancelFlag::default();
        let format = "{{.Version.Version}} {{.Host.OCIRuntime.Name}} {{.Host.CgroupsVersion}} \
                      {{.Host.Security.Rootless}} {{.Host.CgroupControllers}}";
        let mut command = podman(&["info", "--format", format]);
        let done = match run(&mut command, Duration::from_secs(30), &cancel, 1 << 16) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Missing { program: "podman" });
            }
            other => other?,
        };
        if done.exit_code != 0 {
            return Err(start_error(&done));
        }
        Ok(Self::read(&done.stdout.text(), has_runc))
    }

    /// Reads the answer of `podman info` to the format above.
    fn read(info: &str, has_runc: impl FnOnce() -> bool) -> Self {
        let words: Vec<&str> =
            info.split_whitespace().map(|word| word.trim_matches(['[', ']'])).collect();
        let word = |index: usize| words.get(index).copied().unwrap_or_default();
        let version = if word(0).is_empty() { "of unknown version" } else { word(0) };
        let v1 = word(2) == "v1";
        // crun refuses hosts that mix both control group versions; runc does not.
        let runtime = (word(1) == "crun" && v1 && has_runc()).then_some("runc");
        // Podman ignores all limits there, with a warning.
        let ignored = v1 && word(3) == "true";
        let controllers = words.iter().skip(4).filter(|word| !ignored && !word.is_empty());
        Self {
            version: format!("podman {version}"),
            runtime,
            controllers: controllers.map(|word| (*word).to_owned()).collect(),
        }
    }

    /// Starts a container of this machine's own programs below `scratch`, with the default limits.
    ///
    /// # Errors
    /// [`Error::Start`] with podman's own words; file errors.
    pub fn try_out(&self, scratch: &Path) -> Result<()> {
        let tree = scratch.join("podman-root");
        root::build(&tree)?;
        let mut command = self.command(&["run", "--rm", "--network", "none"]);
        limit_args(&mut command, self, &Limits::default());
        for folder in super::bwrap::system_folders() {
            command.arg("--volume").arg(format!("{0}:{0}:ro", folder.display()));
        }
        command.args(["--security-opt", "no-new-privileges", "--rootfs"]);
        command.arg(&tree).args(["/usr/bin/env", "true"]);
        let done = run(&mut command, Duration::from_secs(120), &CancelFlag::default(), 1 << 16)?;
        if done.exit_code != 0 {
            return Err(start_error(&done));
        }
        remove_tree(&tree)
    }

    /// Returns what enforces the default limits.
    #[must_use]
    pub fn limits(&self) -> Vec<Enforced> {
        limit_args(&mut Command::new("podman"), self, &Limits::default())
    }

    /// Who enforces a limit of control groups, or why nobody does.
    fn controller(&self, name: &str) -> std::result::Result<&'static str, String> {
        if self.controllers.iter().any(|c| c == name) {
            return Ok("podman, cgroup");
        }
        Err(format!("nothing: podman has no {name} control group here"))
    }

    /// Returns podman's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the runtime that has to be named, if any.
    #[must_use]
    pub fn runtime(&self) -> Option<&str> {
        self.runtime
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = podman(&[]);
        if let Some(runtime) = self.runtime {
            command.args(["--runtime", runtime]);
        }
        command.args(args);
        command
    }
}

/// A running container.
#[derive(Debug)]
pub struct Podman {
    host: Host,
    id: String,
    spec: Spec,
    report: Report,
    stopped: bool,
}

impl Podman {
    /// Builds or pulls the image if need be and starts a container of it.
    ///
    /// # Errors
    /// [`Error::Start`] with podman's own words.
    pub fn start(host: &Host, spec: Spec) -> Result<Self> {
        let image = ensure_image(host, &spec)?;
        let name = format!("tmax-ckpt-{}-{}", std::process::id(), super::bwrap::serial());
        let mut command = host.command(&["run", "--detach", "--rm", "--init", "--name", &name]);
        let limits = limit_args(&mut command, host, &spec.limits);
        command.args(["--security-opt", "no-new-privileges", "--entrypoint", "sleep"]);
        if spec.network == Network::None {
            command.args(["--network", "none"]);
        }
        command.args([&image, "infinity"]);
        let done = run(&mut command, spec.build_timeout, &spec.cancel, 1 << 20)?;
        if done.exit_code != 0 {
            return Err(start_error(&done));
        }
        let report = report(host, &spec, &image, limits);
        let mut container = Self { host: host.clone(), id: name, spec, report, stopped: false };
        // Podman refuses a working folder that the image lacks, where docker makes it.
        let workdir = quote(container.spec.workdir.as_deref().unwrap_or("/"));
        container
            .must(&format!("mkdir -p /logs/agent /logs/verifier /logs/artifacts {workdir}"))?;
        Ok(container)
    }

    fn must(&mut self, script: &str) -> Result<()> {
        let done = self.exec_at_root(script.to_owned())?;
        if done.exit_code != 0 {
            return Err(start_error(&done));
        }
        Ok(())
    }

    /// Makes room at a path inside with the container's own programs.
    fn clear(&mut self, path: &str, script: &str) -> Result<()> {
        let done = self.exec_at_root(script.to_owned())?;
        if done.exit_code == 0 { Ok(()) } else { Err(self.copy_failed(path, &done)?) }
    }

    /// Tells whose fault it is that a copy failed: a full disk is the machine's, and so is a
    /// container that has ended; else it is what was left inside.
    fn copy_failed(&self, path: &str, done: &ExecOutput) -> Result<Error> {
        let reason = done.stderr.text().trim().to_owned();
        let lower = reason.to_lowercase();
        if ["no space left", "quota exceeded"].iter().any(|words| lower.contains(words)) {
            return Ok(Error::Copy { path: path.into(), reason });
        }
        if !self.is_running()? {
            return Ok(Error::Died { reason });
        }
        Ok(Error::InTheWay { path: path.to_owned(), reason })
    }

    /// Runs where a folder is whatever a task did to the others.
    fn exec_at_root(&mut self, script: String) -> Result<ExecOutput> {
        let request = ExecRequest::new(script, Duration::from_secs(60));
        self.exec(&ExecRequest { cwd: Some("/".into()), ..request })
    }

    fn is_running(&self) -> Result<bool> {
        let format = ["container", "inspect", "--format", "{{.State.Running}}", &self.id];
        let mut command = self.host.command(&format);
        let done = run(&mut command, Duration::from_secs(60), &self.spec.cancel, 1 << 16)?;
        Ok(done.stdout.text().trim() == "true")
    }

    fn podman_cp(&self, from: &str, to: &str) -> Result<ExecOutput> {
        let mut command = self.host.command(&["cp", from, to]);
        run(&mut command, Duration::from_secs(600), &self.spec.cancel, 1 << 16)
    }
}

impl Sandbox for Podman {
    fn exec(&mut self, request: &ExecRequest) -> Result<ExecOutput> {
        let mut command = self.host.command(&["exec"]);
        if let Some(cwd) = request.cwd.as_ref().or(self.spec.workdir.as_ref()) {
            command.args(["--workdir", cwd]);
        }
        for (name, value) in self.spec.env.iter().chain(&request.env) {
            command.arg("--env").arg(format!("{name}={value}"));
        }
        let secs = format!("{:.3}", request.timeout.as_secs_f64());
        command.args([&self.id, "timeout", "-k", "2", &secs, "bash", "-c", &request.script]);
        // `timeout` inside does the work; the margin is for a container that no longer answers.
        let limit = request.timeout + Duration::from_secs(30);
        let began = Instant::now();
        let mut done = run(&mut command, limit, &self.spec.cancel, self.spec.limits.output_bytes)?;
        // A command may exit with 125 itself; podman does when it cannot reach the container.
        if done.exit_code == 125 && !self.is_running()? {
            return Err(Error::Died { reason: done.stderr.text().trim().to_owned() });
        }
        let killed = done.exit_code == 137 && began.elapsed() >= request.timeout;
        if done.exit_code == 124 || killed {
            done.timed_out = began.elapsed() >= request.timeout;
            done.exit_code = 124;
        }
        Ok(done)
    }

    fn copy_in(&mut self, from: &Path, to: &str) -> Result<()> {
        let parent = to.rsplit_once('/').map_or("/", |(parent, _)| parent);
        let parent = quote(&format!("{parent}/"));
        self.clear(to, &format!("rm -rf {}; mkdir -p {parent}", quote(to)))?;
        let source = from.to_string_lossy();
        let done = self.podman_cp(&source, &format!("{}:{to}", self.id))?;
        if done.exit_code == 0 { Ok(()) } else { Err(self.copy_failed(to, &done)?) }
    }

    fn copy_out(&mut self, from: &str, to: &Path) -> Result<()> {
        let exists = self.exec_at_root(format!("test -e {}", quote(from)))?;
        if exists.exit_code != 0 {
            return Ok(());
        }
        if to.is_dir() {
            // Podman would copy into an existing folder, not over it.
            std::fs::remove_dir_all(to).map_err(crate::fsio::Error::io("remove", to))?;
        }
        let done = self.podman_cp(&format!("{}:{from}", self.id), &to.to_string_lossy())?;
        match done.exit_code {
            0 => Ok(()),
            _ => match self.copy_failed(from, &done)? {
                Error::InTheWay { reason, .. } => {
                    self.report.notes.push(format!("{from} was left out: {reason}"));
                    Ok(())
                }
                error => Err(error),
            },
        }
    }

    fn empty_dir(&mut self, path: &str) -> Result<()> {
        self.clear(path, &format!("rm -rf {0}; mkdir -p {0}; chmod 777 {0}", quote(path)))
    }

    fn report(&self) -> &Report {
        &self.report
    }

    fn stop(&mut self) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        self.stopped = true;
        let mut command = self.host.command(&["rm", "--force", "--time", "0", &self.id]);
        // Must happen even when interrupted.
        let done = run(&mut command, Duration::from_secs(60), &CancelFlag::default(), 1 << 16)?;
        if done.exit_code != 0 {
            return Err(Error::Died { reason: done.stderr.text().trim().to_owned() });
        }
        Ok(())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What cannot be removed was reported by `stop`, or the run is failing anyway.
        let _ = self.stop();
    }
}

/// Adds the limits to a command line; returns what enforces each.
fn limit_args(command: &mut Command, host: &Host, limits: &Limits) -> Vec<Enforced> {
    let mut enforced = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        let by = match host.controller("memory") {
            Ok(by) => {
                let bytes = bytes.to_string();
                command.args(["--memory", &bytes, "--memory-swap", &bytes]);
                by
            }
            Err(_) => {
                ulimit(command, "data", Resource::Data, bytes);
                "rlimit data, each process"
            }
        };
        enforced.push(Enforced::new("memory_bytes", bytes, by));
    }
    for (limit, option, controller, value) in [
        ("pids", "--pids-limit", "pids", limits.pids),
        ("cpus", "--cpus", "cpu", limits.cpus.map(u64::from)),
    ] {
        let Some(value) = value else { continue };
        let by = host.controller(controller).map(|by| {
            command.args([option, &value.to_string()]);
            by.to_owned()
        });
        enforced.push(Enforced::new(limit, value, by.unwrap_or_else(|reason| reason)));
    }
    // Without CAP_SYS_RESOURCE podman's own values for these two are refused, and it lowers its
    // hard limit of processes to less than ours; what counts is the pids limit above.
    ulimit(command, "nofile", Resource::Nofile, 20_000);
    ulimit(command, "nproc", Resource::Nproc, 16_384);
    ulimit(command, "core", Resource::Core, 0);
    if let Some(bytes) = limits.file_bytes {
        ulimit(command, "fsize", Resource::Fsize, bytes);
        enforced.push(Enforced::new("file_bytes", bytes, "rlimit fsize, each file"));
    }
    if let Some(bytes) = limits.disk_bytes {
        let by = "nothing: podman's storage has no quota of its own";
        enforced.push(Enforced::new("disk_bytes", bytes, by));
    }
    enforced.push(Enforced::new("output_bytes", limits.output_bytes as u64, "tmax-ckpt"));
    enforced.push(Enforced::new("time", 0, "timeout(1), each command"));
    enforced
}

/// Limits a resource to `most`, or to what this process may have where that is less.
fn ulimit(command: &mut Command, name: &str, resource: Resource, most: u64) {
    let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = most.min(hard);
    command.args(["--ulimit", &format!("{name}={value}:{value}")]);
}

fn ensure_image(host: &Host, spec: &Spec) -> Result<String> {
    let (context, tag) = match &spec.image {
        Image::Name(name) => return Ok(name.clone()),
        Image::Build { context, tag } => (context, tag),
    };
    let mut exists = host.command(&["image", "exists", tag]);
    let done = run(&mut exists, Duration::from_secs(60), &spec.cancel, 1 << 16)?;
    if done.exit_code == 0 {
        return Ok(tag.clone());
    }
    let mut build = host.command(&["build", "--quiet", "--tag", tag]);
    build.arg("--file").arg(context.join("Dockerfile")).arg(context);
    let done = run(&mut build, spec.build_timeout, &spec.cancel, 1 << 20)?;
    if done.exit_code != 0 {
        return Err(start_error(&done));
    }
    Ok(tag.clone())
}

fn report(host: &Host, spec: &Spec, image: &str, limits: Vec<Enforced>) -> Report {
    let runtime = host.runtime.map(|r| format!(" --runtime {r}")).unwrap_or_default();
    Report {
        kind: format!("{}{runtime}", host.version),
        root: format!("image {image}"),
        network: match spec.network {
            Network::None => "none (loopback of its own)".into(),
            Network::Podman => "podman's default network".into(),
        },
        limits,
        notes: vec!["shares the host's kernel".into()],
    }
}

fn start_error(done: &ExecOutput) -> Error {
    let text = done.stderr.text();
    let tail: Vec<&str> = text.trim().lines().rev().take(3).collect();
    let reason = tail.into_iter().rev().collect::<Vec<_>>().join("; ");
    Error::Start { kind: "podman", reason }
}

fn podman(args: &[&str]) -> Command {
    let mut command = Command::new("podman");
    command.args(args);
    // The token and whatever else is in our environment is none of its business, save what it
    // needs to find its own files.
    command.env_remove("HF_TOKEN").env_remove("HUGGING_FACE_HUB_TOKEN");
    command
}

fn has_runc() -> bool {
    Command::new("runc").arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Runs a program of the host, its output captured, killed at the limit or when cancelled.
fn run(
    command: &mut Command,
    limit: Duration,
    cancel: &CancelFlag,
    output_bytes: usize,
) -> Result<ExecOutput> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = super::fork::spawn(command).map_err(Error::io("run podman"))?;
    let stdout = collect(child.stdout.take(), output_bytes);
    let stderr = collect(child.stderr.take(), output_bytes);
    let (exit_code, timed_out) = wait(&mut child, limit, cancel)?;
    let join = |thread: std::thread::JoinHandle<Captured>| thread.join().unwrap_or_default();
    Ok(ExecOutput { stdout: join(stdout), stderr: join(stderr), exit_code, timed_out })
}

fn wait(child: &mut Child, limit: Duration, cancel: &CancelFlag) -> Result<(i32, bool)> {
    use std::os::unix::process::ExitStatusExt as _;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io("wait for podman"))? {
            let signal = status.signal().map(|s| 128 + s);
            return Ok((status.code().or(signal).unwrap_or(255), false));
        }
        let over = Instant::now() >= deadline;
        if over || cancel.is_cancelled() {
            let _ = child.kill();
            let _ = child.wait();
            return if over { Ok((124, true)) } else { Err(Error::Interrupted) };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn collect(
    stream: Option<impl Read + Send + 'static>,
    limit: usize,
) -> std::thread::JoinHandle<Captured> {
    std::thread::spawn(move || {
        let mut captured = Captured::new(limit);
        let Some(mut stream) = stream else { return captured };
        let mut buffer = [0; 1 << 14];
        // A read error ends the output like its end does; the exit code tells the rest.
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            captured.push(&buffer[..len]);
        }
        captured
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Host, Limits, limit_args};

    fn by(info: &str) -> (Vec<String>, Vec<String>) {
        let host = Host::read(info, || true);
        let mut command = Command::new("podman");
        let enforced =
            limit_args(&mut command, &host, &Limits { cpus: Some(2), ..Limits::default() });
        let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        (args, enforced.into_iter().map(|limit| limit.by).collect())
    }

    #[test]
    fn limits_that_podman_ignores_are_not_reported_as_enforced() {
        let (args, by_root) = by("4.3.1 runc v1 false [cpuset cpu cpuacct memory pids]\n");
        assert!(["--memory", "--pids-limit", "--cpus"].iter().all(|o| args.contains(&(*o).into())));
        assert_eq!(by_root[..3], ["podman, cgroup"; 3]);
        let (args, rootless) = by("4.3.1 runc v1 true [memory pids]\n");
        assert!(!args.iter().any(|arg| ["--memory", "--pids-limit"].contains(&arg.as_str())));
        assert_eq!(rootless[0], "rlimit data, each process");
        assert!(rootless[1..3].iter().all(|by| by.starts_with("nothing: ")), "{rootless:?}");
        let (_, delegated) = by("5.4.0 crun v2 true [memory pids]\n");
        assert_eq!(delegated[..2], ["podman, cgroup"; 2]);
        assert_eq!(delegated[2], "nothing: podman has no cpu control group here");
    }

    #[test]
    fn runc_stands_in_for_crun_on_mixed_control_groups() {
        for (info, has_runc, runtime) in [
            ("4.3.1 crun v1 false [cpu]", true, Some("runc")),
            ("4.3.1 crun v1 false [cpu]", false, None),
            ("4.3.1 crun v2 false [cpu]", true, None),
            ("4.3.1 runc v1 false [cpu]", true, None),
        ] {
            assert_eq!(Host::read(info, || has_runc).runtime(), runtime, "{info}");
        }
        assert_eq!(Host::read("", || true).version(), "podman of unknown version");
    }
}
