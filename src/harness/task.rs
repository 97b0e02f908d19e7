//! Tasks in Harbor's format: `task.toml` (schema 1.0 to 1.4), `instruction.md`, `environment/`,
//! `tests/test.sh`, `solution/solve.sh`.
//!
//! Strict on what is used: a wrong type or an impossible value is an error that names the key. What
//! is not used is tolerated, and noted in the record where a score could depend on it. Source: the
//! JSON schema and the packager of Harbor 0.24.0.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use super::digest;
use super::error::{Error, Result};

const TEXT_BYTES_MAX: u64 = 1 << 20;
const FILES_MAX: usize = 20_000;
const SECS_MAX: f64 = 7.0 * 86_400.0;
const VERSIONS: [&str; 5] = ["1.0", "1.1", "1.2", "1.3", "1.4"];

/// What a task is made of.
const PARTS: [&str; 7] =
    ["task.toml", "instruction.md", "README.md", "environment", "tests", "solution", "steps"];

/// Names that Harbor's packager leaves out of the digest.
const IGNORED_ENDS: [&str; 5] = [".pyc", ".DS_Store", ".swp", ".swo", "~"];

/// A task that can be run.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its folder.
    pub dir: PathBuf,
    /// The folder's name, by which records call it.
    pub name: String,
    /// What the model is asked.
    pub instruction: String,
    /// SHA-256 over its files, as Harbor's lock has it.
    pub digest: String,
    /// The agent's time; none given means none.
    pub agent_timeout: Option<Duration>,
    /// The verifier's time.
    pub verifier_timeout: Duration,
    /// The time to build its environment.
    pub build_timeout: Duration,
    /// Variables of the verifier.
    pub verifier_env: Vec<(String, String)>,
    /// Variables of the solution.
    pub solution_env: Vec<(String, String)>,
    /// Variables of every command.
    pub env: Vec<(String, String)>,
    /// A ready image, which wins over the Dockerfile.
    pub docker_image: Option<String>,
    /// The folder that commands run in, if the task says so.
    pub workdir: Option<String>,
    /// Memory for all processes.
    pub memory_bytes: Option<u64>,
    /// Disk.
    pub storage_bytes: Option<u64>,
    /// Processors.
    pub cpus: Option<u32>,
    /// What the record should say about it.
    pub notes: Vec<String>,
}

/// Loads the task in `dir`, or all tasks in its subfolders, by name.
///
/// # Errors
/// [`Error::NoTasks`], [`Error::Task`] of the first bad one.
pub fn load_all(dir: &Path) -> Result<Vec<Task>> {
    if dir.join("task.toml").is_file() {
        return Ok(vec![Task::load(dir)?]);
    }
    let mut dirs = crate::fsio::entries(dir)?;
    dirs.retain(|path| path.join("task.toml").is_file());
    if dirs.is_empty() {
        return Err(Error::NoTasks { path: dir.to_owned() });
    }
    dirs.iter().map(|dir| Task::load(dir)).collect()
}

impl Task {
    /// Loads one task.
    ///
    /// # Errors
    /// [`Error::Task`], [`Error::File`].
    pub fn load(dir: &Path) -> Result<Self> {
        refuse_links(dir)?;
        let text = read_text(dir, "task.toml")?;
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.message().to_owned();
            Error::task(dir, format!("task.toml: {line}"), "mend the file's TOML")
        })?;
        let reader = Reader { dir, table: &table };
        reader.check_supported()?;
        let instruction = read_text(dir, "instruction.md")?;
        if !dir.join("tests/test.sh").is_file() {
            return Err(Error::task(dir, "tests/test.sh is missing", "a task needs its tests"));
        }
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            name,
            instruction,
            digest: content_digest(dir)?,
            agent_timeout: reader.secs("agent", "timeout_sec")?,
            verifier_timeout: reader
                .secs("verifier", "timeout_sec")?
                .unwrap_or(Duration::from_secs(600)),
            build_timeout: reader
                .secs("environment", "build_timeout_sec")?
                .unwrap_or(Duration::from_secs(600)),
            verifier_env: reader.env("verifier")?,
            solution_env: reader.env("solution")?,
            env: reader.env("environment")?,
            docker_image: reader.text("environment", "docker_image")?,
            workdir: reader.workdir()?,
            memory_bytes: reader.size("memory_mb", "memory")?,
            storage_bytes: reader.size("storage_mb", "storage")?,
            cpus: reader.whole("environment", "cpus")?.map(|n| n.min(4096) as u32),
            notes: reader.notes()?,
            dir: dir.to_owned(),
        })
    }
}

/// The parts of a task are files and folders themselves: a link could show the model, or put into
/// the sandbox, any file of this machine.
fn refuse_links(dir: &Path) -> Result<()> {
    for name in PARTS {
        if dir.join(name).symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
            let reason = format!("{name} is a link");
            return Err(Error::task(dir, reason, "put the file or folder itself there"));
        }
    }
    Ok(())
}

fn read_text(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    if !path.is_file() {
        return Err(Error::task(dir, format!("{name} is missing"), "a task needs this file"));
    }
    let bytes = crate::fsio::read_capped(&path, TEXT_BYTES_MAX)?;
    String::from_utf8(bytes)
        .map_err(|_| Error::task(dir, format!("{name} is not UTF-8"), "save it as UTF-8"))
}

/// Typed access to `task.toml`.
struct Reader<'a> {
    dir: &'a Path,
    table: &'a Table,
}

impl Reader<'_> {
    fn bad(&self, key: &str, wanted: &str) -> Error {
        Error::task(self.dir, format!("task.toml: {key} is not {wanted}"), "mend this key")
    }

    fn unsupported(&self, what: &str) -> Error {
        let remedy = "run this task with Harbor, or leave it out";
        Error::task(self.dir, format!("task.toml: {what} is not supported"), remedy)
    }

    fn section(&self, name: &str) -> Result<Option<&Table>> {
        match self.table.get(name) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(table)),
            Some(_) => Err(self.bad(name, "a table")),
        }
    }

    fn get(&self, section: &str, key: &str) -> Result<Option<&Value>> {
        Ok(self.section(section)?.and_then(|table| table.get(key)))
    }

    fn text(&self, section: &str, key: &str) -> Result<Option<String>> {
        match self.get(section, key)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.bad(&format!("{section}.{key}"), "a string")),
        }
    }

    fn whole(&self, section: &str, key: &str) -> Result<Option<u64>> {
        let wanted = "a whole number from 1 to 2^40";
        let number = match self.get(section, key)? {
            None => return Ok(None),
            Some(Value::Integer(number)) => *number as f64,
            Some(Value::Float(number)) if number.fract() == 0.0 => *number,
            Some(_) => return Err(self.bad(&format!("{section}.{key}"), wanted)),
        };
        if !(1.0..=(1u64 << 40) as f64).contains(&number) {
            return Err(self.bad(&format!("{section}.{key}"), wanted));
        }
        Ok(Some(number as u64))
    }

    fn secs(&self, section: &str, key: &str) -> Result<Option<Duration>> {
        let number = match self.get(section, key)? {
            None => return Ok(None),
            Some(Value::Integer(number)) => *number as f64,
            Some(Value::Float(number)) => *number,
            Some(_) => return Err(self.bad(&format!("{section}.{key}"), "a number")),
        };
        // NaN fails both comparisons.
        if !(number > 0.0 && number <= SECS_MAX) {
            return Err(self.bad(&format!("{section}.{key}"), "between 0 and 604800 seconds"));
        }
        Ok(Some(Duration::from_secs_f64(number)))
    }

    /// Reads `memory_mb`, or the old spelling `memory = "2G"`.
    fn size(&self, key: &str, old_key: &str) -> Result<Option<u64>> {
        if let Some(mb) = self.whole("environment", key)? {
            return Ok(Some(mb << 20));
        }
        let Some(text) = self.text("environment", old_key)? else { return Ok(None) };
        let wanted = "a size such as \"512M\" or \"2G\"";
        let key = format!("environment.{old_key}");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "K" | "KB" | "KI" => 10,
            "M" | "MB" | "MI" => 20,
            "G" | "GB" | "GI" => 30,
            _ => return Err(self.bad(&key, wanted)),
        };
        let number: f64 = digits.parse().map_err(|_| self.bad(&key, wanted))?;
        if !(number > 0.0 && number <= 65_536.0) {
            return Err(self.bad(&key, wanted));
        }
        Ok(Some((number * f64::from(1u32 << shift)) as u64))
    }

    fn workdir(&self) -> Result<Option<String>> {
        let workdir = self.text("environment", "workdir")?;
        match &workdir {
            Some(path) if !path.starts_with('/') || path.contains("..") => {
                Err(self.bad("environment.workdir", "an absolute path"))
            }
            _ => Ok(workdir),
        }
    }

    fn env(&self, section: &str) -> Result<Vec<(String, String)>> {
        let table = match self.get(section, "env")? {
            None => return Ok(Vec::new()),
            Some(Value::Table(table)) => table,
            Some(_) => return Err(self.bad(&format!("{section}.env"), "a table")),
        };
        let mut env = Vec::new();
        for (name, value) in table {
            let key = format!("{section}.env.{name}");
            let value = value.as_str().ok_or_else(|| self.bad(&key, "a string"))?;
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(self.bad(&key, "a variable's name and value"));
            }
            env.push((name.clone(), self.default_of(&key, value)?));
        }
        Ok(env)
    }

    /// Takes the default of `${NAME:-default}`: the host's variables are none of a task's business.
    fn default_of(&self, key: &str, value: &str) -> Result<String> {
        let Some(inner) = value.strip_prefix("${").and_then(|v| v.strip_suffix('}')) else {
            return Ok(value.to_owned());
        };
        match inner.split_once(":-") {
            Some((_, default)) => Ok(default.to_owned()),
            None => Err(self.unsupported(&format!("{key} = {value} (a variable of the host)"))),
        }
    }

    fn check_supported(&self) -> Result<()> {
        let version = self.table.get("schema_version").or_else(|| self.table.get("version"));
        match version {
            None => {}
            Some(Value::String(version)) if VERSIONS.contains(&version.as_str()) => {}
            Some(Value::String(version)) => {
                let version = crate::name::escape(version);
                return Err(self.unsupported(&format!("schema_version {version}")));
            }
            Some(_) => return Err(self.bad("schema_version", "a string")),
        }
        if self.table.get("steps").is_some_and(|v| v.as_array().is_none_or(|a| !a.is_empty())) {
            return Err(self.unsupported("steps (a task of several steps)"));
        }
        if self.text("environment", "os")?.is_some_and(|os| os != "linux") {
            return Err(self.unsupported("environment.os other than linux"));
        }
        if self.text("verifier", "environment_mode")?.is_some_and(|mode| mode != "shared") {
            return Err(self.unsupported("verifier.environment_mode other than shared"));
        }
        for key in ["healthcheck", "mcp_servers", "skills_dir", "tpu"] {
            let used = |v: &Value| v.as_array().is_none_or(|array| !array.is_empty());
            if self.get("environment", key)?.is_some_and(used) {
                return Err(self.unsupported(&format!("environment.{key}")));
            }
        }
        for name in ["docker-compose.yaml", "docker-compose.yml"] {
            if self.dir.join("environment").join(name).exists() {
                return Err(self.unsupported(&format!("environment/{name}")));
            }
        }
        Ok(())
    }

    fn notes(&self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let allowed = self.get("environment", "allow_internet")?.and_then(Value::as_bool);
        let mode = self.text("environment", "network_mode")?;
        if allowed == Some(true) || mode.as_deref().is_some_and(|mode| mode != "no-network") {
            notes.push("the task allows a network, the sandbox has none".to_owned());
        }
        if self.whole("environment", "gpus").is_ok_and(|gpus| gpus.is_some()) {
            notes.push("the task asks for a GPU, the sandbox has none".to_owned());
        }
        for section in ["agent", "verifier"] {
            if self.text(section, "user")?.is_some() {
                notes.push(format!("{section}.user is ignored: commands run as root"));
            }
        }
        Ok(notes)
    }
}

/// Returns Harbor's content digest: SHA-256 over `path NUL hash LF` of the files by path.
///
/// # Errors
/// [`Error::Task`] for a link out of the folder or too many files; [`Error::File`].
pub fn content_digest(dir: &Path) -> Result<String> {
    let mut files = Vec::new();
    for name in ["task.toml", "instruction.md", "README.md", "trajectory.json"] {
        if dir.join(name).is_file() {
            files.push(name.to_owned());
        }
    }
    for name in ["environment", "tests", "solution", "steps"] {
        collect(dir, name, &mut files)?;
    }
    files.retain(|path| {
        !path.split('/').any(|part| part == "__pycache__")
            && !IGNORED_ENDS.iter().any(|end| path.ends_with(end))
    });
    files.sort();
    let mut lines = String::new();
    for path in files {
        let bytes = crate::fsio::read_capped(&dir.join(&path), 1 << 30)?;
        lines += &format!("{path}\0{}\n", digest::hex(bytes));
    }
    Ok(digest::hex(lines))
}

fn collect(dir: &Path, name: &str, files: &mut Vec<String>) -> Result<()> {
    let path = dir.join(name);
    // Not `is_dir`: a link could lead anywhere, or in a circle.
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    for entry in std::fs::read_dir(&path).map_err(crate::fsio::Error::io("list", &path))? {
        let entry = entry.map_err(crate::fsio::Error::io("list", &path))?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(crate::fsio::Error::io("stat", &path))?;
        if kind.is_dir() {
            collect(dir, &name, files)?;
        } else if kind.is_file() {
            files.push(name);
        } else {
            let reason = format!("{name} is neither a file nor a folder");
            return Err(Error::task(dir, reason, "put the file itself there"));
        }
        if files.len() > FILES_MAX {
            let reason = format!("more than {FILES_MAX} files");
            return Err(Error::task(dir, reason, "pack large inputs into an archive"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Task;
    use std::path::Path;

    fn task(toml: &str) -> Result<Task, String> {
        let dir = tempfile::tempdir().expect("a temp dir");
        std::fs::create_dir(dir.path().join("tests")).expect("makes");
        std::fs::write(dir.path().join("tests/test.sh"), "true").expect("writes");
        std::fs::write(dir.path().join("instruction.md"), "do it").expect("writes");
        std::fs::write(dir.path().join("task.toml"), toml).expect("writes");
        Task::load(dir.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn traps_are_refused_by_name() {
        for (toml, part) in [
            ("schema_version = \"9.9\"", "schema_version 9.9"),
            ("schema_version = 1", "schema_version is not a string"),
            ("agent = 3", "agent is not a table"),
            ("[agent]\ntimeout_sec = nan", "agent.timeout_sec is not between"),
            ("[agent]\ntimeout_sec = -1", "agent.timeout_sec is not between"),
            ("[agent]\ntimeout_sec = inf", "agent.timeout_sec is not between"),
            ("[agent]\ntimeout_sec = \"5\"", "agent.timeout_sec is not a number"),
            ("[environment]\nmemory = \"lots\"", "environment.memory is not a size"),
            ("[environment]\nmemory_mb = -5", "environment.memory_mb is not a whole"),
            ("[environment]\nos = \"windows\"", "environment.os"),
            ("[environment]\nworkdir = \"../x\"", "environment.workdir"),
            ("[verifier.env]\nKEY = \"${HF_TOKEN}\"", "a variable of the host"),
            ("[[steps]]\nname = \"a\"", "several steps"),
            ("a = [", "task.toml: "),
        ] {
            let error = task(toml).expect_err(toml);
            assert!(error.contains(part), "{toml}: {error}");
        }
    }

    #[test]
    fn links_are_refused_wherever_they_are() {
        let outside = tempfile::tempdir().expect("a temp dir");
        std::fs::write(outside.path().join("test.sh"), "true").expect("writes");
        for name in ["task.toml", "instruction.md", "tests", "environment", "solution", "tests/x"] {
            let dir = tempfile::tempdir().expect("a temp dir");
            std::fs::create_dir(dir.path().join("tests")).expect("makes");
            for file in ["task.toml", "instruction.md", "tests/test.sh"] {
                std::fs::write(dir.path().join(file), "").expect("writes");
            }
            Task::load(dir.path()).expect("loads without the link");
            let place = dir.path().join(name);
            let _ = (std::fs::remove_file(&place), std::fs::remove_dir_all(&place));
            std::os::unix::fs::symlink(outside.path(), &place).expect("links");
            let error = Task::load(dir.path()).expect_err(name).to_string();
            assert!(error.contains(&format!("{name} is")), "{name}: {error}");
        }
    }

    #[test]
    fn old_and_new_spellings_are_read() {
        let task = task("version = \"1.0\"\n[environment]\nmemory = \"2G\"\nstorage_mb = 10\n[verifier.env]\nA = \"${A:-b}\"\n[x]\ny = 1")
            .expect("loads");
        assert_eq!(task.memory_bytes, Some(2 << 30));
        assert_eq!(task.storage_bytes, Some(10 << 20));
        assert_eq!(task.verifier_env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(task.verifier_timeout.as_secs(), 600);
    }

    #[test]
    fn fixture_tasks_load_with_harbors_digest() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tasks");
        assert!(super::load_all(&dir).expect("loads").len() >= 12);
        let task = Task::load(&dir.join("make-folder")).expect("loads");
        assert_eq!(task.digest.len(), 64);
    }
}
