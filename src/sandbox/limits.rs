//! Limits on what runs in a sandbox, and what enforces each.
//!
//! Control groups where they can be written (version 2 when delegated, version 1), else resource
//! limits of the process, which are weaker: they count by process. The record says which.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Error, Result};

/// What is asked for. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all processes together.
    pub memory_bytes: Option<u64>,
    /// Processes and threads together.
    pub pids: Option<u64>,
    /// Processors' worth of time for all processes together.
    pub cpus: Option<u32>,
    /// Size of one file.
    pub file_bytes: Option<u64>,
    /// Size of all files together.
    pub disk_bytes: Option<u64>,
    /// What is kept of one command's output.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: Some(4 << 30),
            pids: Some(1024),
            cpus: None,
            file_bytes: Some(10 << 30),
            disk_bytes: Some(10 << 30),
            output_bytes: 16 << 20,
        }
    }
}

/// One limit and what enforces it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Enforced {
    /// `memory_bytes`, `pids`, `cpus`, `file_bytes`, `disk_bytes`, `output_bytes`, `time`.
    pub limit: String,
    /// What was asked for; 0 stands for each command's own.
    pub value: u64,
    /// `cgroup v2`, `cgroup v1`, `rlimit …`, `tmax-ckpt`, or `nothing: why`.
    pub by: String,
}

impl Enforced {
    pub(super) fn new(limit: &str, value: u64, by: impl Into<String>) -> Self {
        Self { limit: limit.into(), value, by: by.into() }
    }
}

/// The control groups made for one sandbox; removed when dropped.
#[derive(Debug, Default)]
pub struct Cgroups {
    dirs: Vec<PathBuf>,
    memory: Option<&'static str>,
    pids: Option<&'static str>,
    cpus: Option<&'static str>,
}

const MOUNT: &str = "/sys/fs/cgroup";

/// Of processor time, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// What the names of groups begin with; the process id follows.
pub(super) const PREFIX: &str = "tmax-ckpt-";

impl Cgroups {
    /// Makes what can be made below this process's own groups; what cannot stays `None`.
    #[must_use]
    pub fn create(name: &str, limits: &Limits) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // Once is enough: this run removes its own.
        static SWEEP: std::sync::Once = std::sync::Once::new();
        SWEEP.call_once(|| sweep(&own));
        Self::create_below(Path::new(MOUNT), &own, name, limits)
    }

    /// As [`Cgroups::create`], where `mount` is and `own` says.
    fn create_below(mount: &Path, own: &str, name: &str, limits: &Limits) -> Self {
        let mut groups = Self::default();
        if mount.join("cgroup.controllers").exists() {
            groups.create_v2(mount, own, name, limits);
        } else {
            groups.create_v1(mount, own, name, limits);
        }
        groups
    }

    fn create_v2(&mut self, mount: &Path, own: &str, name: &str, limits: &Limits) {
        let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return };
        let parent = mount.join(path);
        for controller in ["+memory", "+pids", "+cpu"] {
            // Refused while the parent holds processes of its own; the files below then are absent.
            let _ = put(&parent.join("cgroup.subtree_control"), controller);
        }
        let dir = parent.join(name);
        if std::fs::create_dir(&dir).is_ok() {
            self.fill_v2(dir, limits);
        }
    }

    /// Writes the limits into a new group of version 2.
    fn fill_v2(&mut self, dir: PathBuf, limits: &Limits) {
        if let Some(bytes) = limits.memory_bytes
            && put(&dir.join("memory.max"), &bytes.to_string()).is_ok()
        {
            let _ = put(&dir.join("memory.swap.max"), "0");
            self.memory = Some("cgroup v2");
        }
        if let Some(pids) = limits.pids
            && put(&dir.join("pids.max"), &pids.to_string()).is_ok()
        {
            self.pids = Some("cgroup v2");
        }
        if let Some(cpus) = limits.cpus
            && put(&dir.join("cpu.max"), &format!("{} {CPU_PERIOD}", quota(cpus))).is_ok()
        {
            self.cpus = Some("cgroup v2");
        }
        self.dirs.push(dir);
    }

    fn create_v1(&mut self, mount: &Path, own: &str, name: &str, limits: &Limits) {
        if let Some(bytes) = limits.memory_bytes
            && let Some(dir) = v1_dir(mount, own, "memory", name)
        {
            let set = put(&dir.join("memory.limit_in_bytes"), &bytes.to_string());
            // Absent where swap is not accounted.
            let _ = put(&dir.join("memory.memsw.limit_in_bytes"), &bytes.to_string());
            self.memory = set.is_ok().then_some("cgroup v1");
            self.dirs.push(dir);
        }
        if let Some(pids) = limits.pids
            && let Some(dir) = v1_dir(mount, own, "pids", name)
        {
            self.pids =
                put(&dir.join("pids.max"), &pids.to_string()).is_ok().then_some("cgroup v1");
            self.dirs.push(dir);
        }
        if let Some(cpus) = limits.cpus
            && let Some(dir) = v1_dir(mount, own, "cpu", name)
        {
            let set = put(&dir.join("cpu.cfs_quota_us"), &quota(cpus).to_string());
            self.cpus = set.is_ok().then_some("cgroup v1");
            self.dirs.push(dir);
        }
    }

    /// Returns the files into which a process writes its id to join.
    #[must_use]
    pub fn join_files(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// Returns the resource limits that stand in for the groups that could not be made, as
    /// arguments of the sandbox's first process, and the list of what is enforced by what.
    #[must_use]
    pub fn plan(&self, limits: &Limits) -> (Vec<String>, Vec<Enforced>) {
        let mut args = Vec::new();
        let mut enforced = Vec::new();
        if let Some(bytes) = limits.memory_bytes {
            let by = self.memory.map_or_else(
                || {
                    args.push(format!("as={bytes}"));
                    "rlimit as, each process".to_owned()
                },
                str::to_owned,
            );
            enforced.push(Enforced::new("memory_bytes", bytes, by));
        }
        if let Some(pids) = limits.pids {
            let by = self.pids.map_or_else(|| nproc(pids, &mut args), str::to_owned);
            enforced.push(Enforced::new("pids", pids, by));
        }
        if let Some(cpus) = limits.cpus {
            let by = self.cpus.unwrap_or("nothing: no writable cpu control group");
            enforced.push(Enforced::new("cpus", cpus.into(), by));
        }
        if let Some(bytes) = limits.disk_bytes {
            let by = format!("tmax-ckpt, measured every {} s", super::disk::EVERY.as_secs());
            enforced.push(Enforced::new("disk_bytes", bytes, by));
        }
        if let Some(bytes) = limits.file_bytes {
            args.push(format!("fsize={bytes}"));
            enforced.push(Enforced::new("file_bytes", bytes, "rlimit fsize, each file"));
        }
        enforced.push(Enforced::new("output_bytes", limits.output_bytes as u64, "tmax-ckpt"));
        enforced.push(Enforced::new("time", 0, "tmax-ckpt, each command"));
        (args, enforced)
    }

    /// Removes the groups, whose processes must be dead.
    ///
    /// # Errors
    /// [`Error::Io`] when the kernel still holds one after two seconds.
    pub fn remove(&mut self) -> Result<()> {
        for dir in std::mem::take(&mut self.dirs) {
            // The dead leave a group a moment after they are reported dead.
            let mut pause = Duration::from_micros(100);
            while let Err(error) = std::fs::remove_dir(&dir) {
                if error.kind() == std::io::ErrorKind::NotFound {
                    break;
                }
                if pause > Duration::from_secs(1) {
                    return Err(Error::io(format!("remove {}", dir.display()))(error));
                }
                std::thread::sleep(pause);
                pause *= 2;
            }
        }
        Ok(())
    }
}

/// Removes empty groups of runs that were killed before they could.
fn sweep(own: &str) {
    let parents = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        Some(Path::new(MOUNT).join(controllers).join(path.trim_start_matches('/')))
    });
    for entry in parents.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let pid = rest.split('-').next().unwrap_or_default();
        if !pid.is_empty() && !Path::new("/proc").join(pid).exists() {
            // One that still holds a process refuses.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // An empty group left behind costs nothing; there is nobody to tell.
        let _ = self.remove();
    }
}

fn nproc(pids: u64, args: &mut Vec<String>) -> String {
    if rustix::process::geteuid().is_root() {
        return "nothing: no writable cgroup, and root has no process limit".into();
    }
    args.push(format!("nproc={pids}"));
    "rlimit nproc, each user namespace".into()
}

/// Returns microseconds of processor time in a period.
fn quota(cpus: u32) -> u64 {
    u64::from(cpus) * CPU_PERIOD
}

fn v1_dir(mount: &Path, own: &str, controller: &str, name: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let path = parts.next()?;
        controllers.split(',').any(|c| c == controller).then_some(path)
    })?;
    let dir = mount.join(controller).join(path.trim_start_matches('/')).join(name);
    std::fs::create_dir(&dir).ok()?;
    Some(dir)
}

/// Writes to a kernel file, which must exist and is never replaced.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    std::fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Cgroups, Enforced, Limits, PREFIX, sweep};

    fn limits() -> Limits {
        Limits { cpus: Some(2), ..Limits::default() }
    }

    fn by<'a>(enforced: &'a [Enforced], limit: &str) -> &'a str {
        &enforced.iter().find(|l| l.limit == limit).expect("is reported").by
    }

    #[test]
    fn a_group_of_version_2_gets_every_limit() {
        let dir = tempfile::tempdir().expect("a temp dir");
        // The kernel makes these with the group.
        for file in ["memory.max", "memory.swap.max", "pids.max", "cpu.max"] {
            crate::fsio::write_atomic(&dir.path().join(file), b"").expect("writes");
        }
        let mut groups = Cgroups::default();
        groups.fill_v2(dir.path().to_owned(), &limits());
        let read = |file| std::fs::read_to_string(dir.path().join(file)).expect("reads");
        assert_eq!(read("memory.max"), (4_u64 << 30).to_string());
        assert_eq!((read("memory.swap.max"), read("pids.max")), ("0".into(), "1024".into()));
        assert_eq!(read("cpu.max"), "200000 100000");
        let (args, enforced) = groups.plan(&limits());
        for limit in ["memory_bytes", "pids", "cpus"] {
            assert_eq!(by(&enforced, limit), "cgroup v2");
        }
        assert_eq!(args, [format!("fsize={}", 10_u64 << 30)]);
        assert_eq!(groups.join_files(), [dir.path().join("cgroup.procs")]);
    }

    #[test]
    fn without_controllers_resource_limits_stand_in_and_are_named() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let mount = dir.path();
        let own = "0::/here\n";
        std::fs::create_dir(mount.join("here")).expect("makes");
        // No control groups at all; then version 2 where nothing is delegated.
        for delegated in [false, true] {
            if delegated {
                crate::fsio::write_atomic(&mount.join("cgroup.controllers"), b"").expect("writes");
            }
            let mut groups = Cgroups::create_below(mount, own, "tmax-ckpt-1-1", &limits());
            assert_eq!(groups.join_files().len(), usize::from(delegated));
            let (args, enforced) = groups.plan(&limits());
            assert_eq!(by(&enforced, "memory_bytes"), "rlimit as, each process");
            assert!(args.contains(&format!("as={}", 4_u64 << 30)), "{args:?}");
            assert!(
                ["nothing: ", "rlimit nproc"].iter().any(|b| by(&enforced, "pids").starts_with(b))
            );
            assert!(by(&enforced, "cpus").starts_with("nothing: "));
            groups.remove().expect("removes");
            assert!(!mount.join("here/tmax-ckpt-1-1").exists());
        }
    }

    #[test]
    fn groups_of_version_1_lie_below_each_controller() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let own = "5:memory:/a\n4:cpu,cpuacct:/b\n3:pids:/c\n";
        for parent in ["memory/a", "cpu/b", "pids/c"] {
            std::fs::create_dir_all(dir.path().join(parent)).expect("makes");
        }
        let mut groups = Cgroups::create_below(dir.path(), own, "x", &limits());
        let wanted = ["memory/a/x", "pids/c/x", "cpu/b/x"].map(|d| dir.path().join(d));
        assert_eq!(groups.dirs, wanted);
        assert!(wanted.iter().all(|d| Path::new(d).is_dir()));
        groups.remove().expect("removes");
        assert!(!wanted.iter().any(|d| d.exists()));
    }

    /// A group named after a dead process goes, one named after a living process stays.
    #[test]
    fn groups_of_the_dead_are_swept() {
        let mut child = std::process::Command::new("true").spawn().expect("spawns");
        let dead = child.id();
        child.wait().expect("ends");
        let make = |pid: u32| Cgroups::create(&format!("{PREFIX}{pid}-sweep"), &Limits::default());
        let (mut left, kept) = (make(dead), make(std::process::id()));
        if left.dirs.is_empty() {
            return;
        }
        sweep(&std::fs::read_to_string("/proc/self/cgroup").expect("reads"));
        assert!(left.dirs.iter().all(|dir| !dir.exists()), "{:?} remain", left.dirs);
        assert!(kept.dirs.iter().all(|dir| dir.exists()), "{:?} are gone", kept.dirs);
        left.dirs.clear();
    }
}
