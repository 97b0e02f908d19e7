//! `doctor`: what this machine can do, and how to mend what it cannot.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::context::Context;
use super::outcome::{self, Outcome};
use super::render::{BAD, GOOD, WARN, paint};
use super::settings::Origin;
use crate::error::Result;
use crate::sandbox::check::{self, Level};
use crate::{fsio, units};

/// How long the Hub may take to answer.
const HUB_TIMEOUT: Duration = Duration::from_secs(5);

/// Less than this free in the cache is worth a warning: a small checkpoint has as much.
const FREE_BYTES_LOW: u64 = 10_000_000_000;

/// Check the Hub, cache, token, GPU and sandboxes, and say how to mend them
#[derive(Debug, clap::Args)]
pub struct Args {}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It works.
    Ok,
    /// It works less well than it could.
    Warn,
    /// It does not work.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// How to mend it.
    pub help: Vec<String>,
}

impl Check {
    fn new(name: &'static str, status: Status, found: impl Into<String>) -> Self {
        Self { name, status, found: found.into(), help: Vec::new() }
    }

    fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }
}

/// The JSON document.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document {
    /// Whether no check failed.
    ok: bool,
    /// The checks, in the order in which they are printed.
    checks: Vec<Check>,
}

impl outcome::Document for Document {
    const NAME: &'static str = "doctor/1";
}

/// Runs the command.
///
/// # Errors
/// None; what does not work is part of the answer.
pub fn run(_: Args, ctx: &Context) -> Result<Outcome> {
    let mut checks = vec![hub(ctx), cache(ctx.cache_dir()), token(ctx), gpu()];
    checks.extend(sandboxes(ctx));
    let mut human = String::new();
    for check in &checks {
        let (style, word) = match check.status {
            Status::Ok => (GOOD, "ok  "),
            Status::Warn => (WARN, "warn"),
            Status::Fail => (BAD, "fail"),
        };
        let line = format!("{}  {:<9}  {}", paint(style, word), check.name, check.found);
        writeln!(human, "{line}").expect("strings grow");
        for line in &check.help {
            writeln!(human, "        help: {line}").expect("strings grow");
        }
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    let wrong = checks.iter().filter(|check| check.status == Status::Fail);
    let quiet: Vec<&str> = wrong.map(|check| check.name).collect();
    let document = Document { ok: !failed, checks };
    let outcome = Outcome::new(&document).human(human).quiet(quiet.join("\n"));
    Ok(if failed { outcome.negative() } else { outcome })
}

fn hub(ctx: &Context) -> Check {
    let endpoint = ctx.endpoint();
    if ctx.offline() {
        return Check::new("hub", Status::Ok, "not asked: offline");
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(HUB_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .into();
    // No token goes with this: the question is only whether somebody answers.
    match agent.get(endpoint).call() {
        Ok(answer) if answer.status().is_server_error() => {
            let found = format!("{endpoint} answers {}", answer.status());
            Check::new("hub", Status::Fail, found).help("try again later")
        }
        Ok(_) => Check::new("hub", Status::Ok, format!("{endpoint} reachable")),
        Err(error) => Check::new("hub", Status::Fail, format!("{endpoint}: {error}"))
            .help("check the network and `--endpoint`; `--offline` works with what is cached"),
    }
}

fn cache(dir: &Path) -> Check {
    let shown = dir.display();
    let locked = fsio::create_dir_all(dir).map_err(|e| e.to_string()).and_then(|()| {
        let probe = tempfile::NamedTempFile::new_in(dir).map_err(|e| e.to_string())?;
        probe.as_file().try_lock().map_err(|e| e.to_string())
    });
    if let Err(reason) = locked {
        return Check::new("cache", Status::Fail, format!("{shown}: {reason}"))
            .help("choose a folder that you may write to with `--cache-dir` or HF_HUB_CACHE");
    }
    match fsio::free_space(dir) {
        Ok(free) if free < FREE_BYTES_LOW => {
            let found = format!("{shown}, only {} free, locks work", units::bytes(free));
            Check::new("cache", Status::Warn, found)
                .help("`tmax-ckpt cache list` shows what it holds")
        }
        Ok(free) => {
            let found = format!("{shown}, {} free, locks work", units::bytes(free));
            Check::new("cache", Status::Ok, found)
        }
        Err(error) => Check::new("cache", Status::Warn, format!("{shown}: {error}"))
            .help("free space cannot be checked before writing"),
    }
}

fn token(ctx: &Context) -> Check {
    let setting = &ctx.settings().token;
    match (&setting.value, &setting.origin) {
        (Some(_), Origin::Flag) => Check::new(
            "token",
            Status::Warn,
            "given by --token, which others can read in the list of processes",
        )
        .help("set HF_TOKEN instead, or `hf auth login`"),
        (Some(_), origin) => Check::new("token", Status::Ok, format!("from {origin}")),
        (None, Origin::Default) => {
            Check::new("token", Status::Ok, "none; public repositories need none")
        }
        (None, origin) => {
            Check::new("token", Status::Warn, format!("withheld: {origin} chose the endpoint"))
                .help("set HF_ENDPOINT if you trust it with your token")
        }
    }
}

/// Looks for the driver without loading it.
fn gpu() -> Check {
    let version = Path::new("/proc/driver/nvidia/version");
    match std::fs::read_to_string(version) {
        Ok(text) => {
            let line = crate::name::escape(text.lines().next().unwrap_or_default());
            Check::new("gpu", Status::Ok, line)
        }
        Err(_) => Check::new("gpu", Status::Warn, "no CUDA driver found; scoring runs on the CPU")
            .help("for larger models, point `--endpoint-url` at a vLLM or SGLang server"),
    }
}

/// Asks both sandboxes; podman is only needed by who asks for it.
fn sandboxes(ctx: &Context) -> Vec<Check> {
    let (program, scratch) = match (ctx.program(), tempfile::tempdir()) {
        (Ok(program), Ok(scratch)) => (program, scratch),
        (Err(error), _) | (_, Err(error)) => {
            let check = Check::new("bwrap", Status::Fail, error.to_string());
            return vec![check.help("check the temporary folder")];
        }
    };
    let bwrap = convert(check::bwrap(&program, scratch.path()));
    let mut podman = convert(check::podman(scratch.path()));
    if podman.status == Status::Fail {
        podman.status = Status::Warn;
        podman.found += "; only `--sandbox podman` needs it";
    }
    vec![bwrap, podman]
}

fn convert(check: check::Check) -> Check {
    let status = match check.level {
        Level::Ok => Status::Ok,
        Level::Warn => Status::Warn,
        Level::Fail => Status::Fail,
    };
    Check { name: check.name, status, found: check.detail, help: check.help }
}

#[cfg(test)]
mod tests {
    use super::{Status, cache};

    #[test]
    fn a_cache_that_cannot_be_written_fails_with_help() {
        let dir = tempfile::tempdir().expect("a temp dir");
        assert_ne!(cache(dir.path()).status, Status::Fail);
        let file = dir.path().join("file");
        crate::fsio::write_atomic(&file, b"x").expect("writes");
        let check = cache(&file.join("hub"));
        assert_eq!(check.status, Status::Fail);
        assert_eq!(check.help.len(), 1);
    }
}
