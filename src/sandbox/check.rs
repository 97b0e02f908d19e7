//! What `doctor` asks of the sandboxes.

use std::path::Path;

use super::bwrap::{self, SystemFolders};
use super::podman;
use crate::error::Diagnose as _;

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It works.
    Ok,
    /// It works, less well than it could.
    Warn,
    /// It does not work.
    Fail,
}

/// The answer of one check.
#[derive(Debug, Clone)]
pub struct Check {
    /// `bwrap` or `podman`.
    pub name: &'static str,
    /// How it ended.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// How to mend it.
    pub help: Vec<String>,
}

/// Starts a bwrap sandbox below `scratch` and runs a command in it. `init` is this program.
#[must_use]
pub fn bwrap(init: &Path, scratch: &Path) -> Check {
    let host = match bwrap::Host::probe(init, scratch) {
        Ok(host) => host,
        Err(error) => return failed("bwrap", &error),
    };
    let root = super::limits::Cgroups::create(
        &format!("{}{}-check", super::limits::PREFIX, std::process::id()),
        &super::Limits::default(),
    );
    let limits = limits(&root.plan(&super::Limits::default()).1);
    match host.system_folders() {
        SystemFolders::Overlay => Check {
            name: "bwrap",
            level: Level::Ok,
            detail: format!("{}, overlay works, {limits}", host.version()),
            help: Vec::new(),
        },
        SystemFolders::ReadOnly => Check {
            name: "bwrap",
            level: Level::Warn,
            detail: format!("{}, /usr is read-only inside, {limits}", host.version()),
            help: vec![format!(
                "overlays are refused here ({}); use a kernel of 5.11 or later and a disk \
                 that is not itself an overlay",
                host.overlay_refusal().unwrap_or("no reason given")
            )],
        },
    }
}

/// Starts a container of this machine's own programs, below `scratch`.
#[must_use]
pub fn podman(scratch: &Path) -> Check {
    let tried = podman::Host::probe().and_then(|host| host.try_out(scratch).map(|()| host));
    match tried {
        Ok(host) => {
            let runtime = host.runtime().map(|r| format!(", with --runtime {r}"));
            let (version, runtime) = (host.version(), runtime.unwrap_or_default());
            let detail = format!("{version}{runtime}, {}", limits(&host.limits()));
            Check { name: "podman", level: Level::Ok, detail, help: Vec::new() }
        }
        Err(error) => failed("podman", &error),
    }
}

fn limits(enforced: &[super::Enforced]) -> String {
    let by = |name: &str| enforced.iter().find(|l| l.limit == name).map_or("", |l| l.by.as_str());
    format!("memory: {}, processes: {}", by("memory_bytes"), by("pids"))
}

fn failed(name: &'static str, error: &super::Error) -> Check {
    Check { name, level: Level::Fail, detail: error.to_string(), help: error.help() }
}
