//! From a task's `environment/` to a running sandbox.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dockerfile::{self, Step};
use super::error::{Error, Result};
use super::task::Task;
use crate::sandbox::bwrap::{self, Bwrap, quote};
use crate::sandbox::podman::{self, Image, Network, Podman};
use crate::sandbox::{CancelFlag, ExecRequest, Limits, Sandbox};

/// The kind of sandbox to use, found to work.
#[derive(Debug, Clone)]
pub enum Host {
    /// Namespaces on the host's own programs.
    Bwrap(bwrap::Host),
    /// Containers of real images.
    Podman(podman::Host, Network),
}

impl Host {
    /// Returns the word of the command line.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Bwrap(_) => "bwrap",
            Self::Podman(..) => "podman",
        }
    }
}

/// A sandbox made for a task, and what should be said about it.
pub struct Started {
    /// The sandbox.
    pub sandbox: Box<dyn Sandbox>,
    /// What stands in for what the task asked for.
    pub notes: Vec<String>,
}

/// Starts the environment of `task`, with its files below `scratch`.
///
/// # Errors
/// [`Error::Sandbox`]; [`Error::Task`] when the task needs more than this kind of sandbox has.
pub fn start(
    host: &Host,
    task: &Task,
    scratch: PathBuf,
    defaults: &Limits,
    cancel: &CancelFlag,
) -> Result<Started> {
    let limits = Limits {
        memory_bytes: task.memory_bytes.or(defaults.memory_bytes),
        cpus: task.cpus.or(defaults.cpus),
        file_bytes: task.storage_bytes.or(defaults.file_bytes),
        disk_bytes: task.storage_bytes.or(defaults.disk_bytes),
        ..defaults.clone()
    };
    match host {
        Host::Bwrap(host) => start_bwrap(host, task, scratch, limits, cancel),
        Host::Podman(host, network) => start_podman(host, *network, task, limits, cancel),
    }
}

fn start_podman(
    host: &podman::Host,
    network: Network,
    task: &Task,
    limits: Limits,
    cancel: &CancelFlag,
) -> Result<Started> {
    let context = task.dir.join("environment");
    let image = match &task.docker_image {
        Some(name) => Image::Name(name.clone()),
        None if context.join("Dockerfile").is_file() => {
            let tag = format!("localhost/tmax-ckpt-task:{}", &task.digest[..16]);
            Image::Build { context, tag }
        }
        None => {
            let reason = "it has neither docker_image nor environment/Dockerfile";
            return Err(Error::task(&task.dir, reason, "pass `--sandbox bwrap`"));
        }
    };
    let spec = podman::Spec {
        image,
        network,
        limits,
        env: task.env.clone(),
        workdir: task.workdir.clone(),
        build_timeout: task.build_timeout,
        cancel: cancel.clone(),
    };
    let sandbox = Box::new(Podman::start(host, spec)?);
    let notes = match network {
        Network::None => task.notes.clone(),
        Network::Podman => Vec::new(),
    };
    Ok(Started { sandbox, notes })
}

fn start_bwrap(
    host: &bwrap::Host,
    task: &Task,
    scratch: PathBuf,
    limits: Limits,
    cancel: &CancelFlag,
) -> Result<Started> {
    let plan = dockerfile::load(&task.dir)?;
    let mut notes = task.notes.clone();
    let image = task.docker_image.as_ref().unwrap_or(&plan.from);
    if !image.is_empty() {
        notes.push(format!("the host's programs stand in for the image {image}"));
    }
    let last_workdir = plan.steps.iter().rev().find_map(|step| match step {
        Step::Workdir(path) => Some(path.clone()),
        _ => None,
    });
    let workdir = task.workdir.clone().or(last_workdir).unwrap_or_else(|| "/app".into());
    let mut env = task.env.clone();
    env.extend(plan.steps.iter().filter_map(|step| match step {
        Step::Env(name, value) => Some((name.clone(), value.clone())),
        _ => None,
    }));
    let workdir = absolute("/", &workdir);
    let spec = bwrap::Spec { scratch, limits, env, workdir, cancel: cancel.clone() };
    let mut sandbox = Bwrap::start(host, spec)?;
    follow(&mut sandbox, task, &plan.steps)?;
    Ok(Started { sandbox: Box::new(sandbox), notes })
}

/// Does what a Dockerfile says, inside the sandbox.
fn follow(sandbox: &mut Bwrap, task: &Task, steps: &[Step]) -> Result<()> {
    let context = task.dir.join("environment");
    let mut cwd = "/".to_owned();
    for step in steps {
        match step {
            Step::Workdir(path) => {
                cwd = absolute(&cwd, path);
                must(sandbox, task, "/", &format!("mkdir -p {}", quote(&cwd)))?;
            }
            Step::Env(..) => {}
            Step::Copy(sources, to) => {
                for source in sources {
                    copy(sandbox, task, &context.join(source), &absolute(&cwd, to))?;
                }
            }
            Step::Run(command) => must(sandbox, task, &cwd, command)?,
        }
    }
    Ok(())
}

fn must(sandbox: &mut Bwrap, task: &Task, cwd: &str, script: &str) -> Result<()> {
    let mut request = ExecRequest::new(script, task.build_timeout);
    request.cwd = Some(cwd.to_owned());
    let done = sandbox.exec(&request)?;
    if done.exit_code == 0 {
        return Ok(());
    }
    let text = done.stderr.text();
    let last = text.trim().lines().last().unwrap_or_default();
    let reason = format!(
        "`{}` of environment/Dockerfile exits with {} in the sandbox, which has no network: {}",
        crate::name::escape(script),
        done.exit_code,
        crate::name::escape(last)
    );
    Err(Error::task(&task.dir, reason, "pass `--sandbox podman`, which builds the image"))
}

/// Copies as a Dockerfile does: a folder's content, or a file to a name or into a folder.
fn copy(sandbox: &mut Bwrap, task: &Task, source: &Path, to: &str) -> Result<()> {
    let missing = |_| {
        let what = format!("COPY of {}, which does not exist", source.display());
        Error::task(&task.dir, what, "mend environment/Dockerfile")
    };
    let meta = source.symlink_metadata().map_err(missing)?;
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    if !meta.is_dir() {
        let to = if to.ends_with('/') { format!("{to}{name}") } else { to.to_owned() };
        return Ok(sandbox.copy_in(source, &to)?);
    }
    let to = to.trim_end_matches('/');
    let entries = crate::fsio::entries(source)?;
    let made = ExecRequest::new(format!("mkdir -p {}", quote(to)), Duration::from_secs(60));
    sandbox.exec(&made)?;
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        sandbox.copy_in(&entry, &format!("{to}/{name}"))?;
    }
    Ok(())
}

/// Resolves `path` against `cwd`, a final slash kept.
fn absolute(cwd: &str, path: &str) -> String {
    match path {
        "." | "./" => format!("{}/", cwd.trim_end_matches('/')),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("{}/{}", cwd.trim_end_matches('/'), path.trim_start_matches("./")),
    }
}
