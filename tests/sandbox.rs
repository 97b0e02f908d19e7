//! What a sandbox promises, tried from inside one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::need::{Need, skip};
use tmax_ckpt::sandbox::bwrap::{Bwrap, Host, Spec};
use tmax_ckpt::sandbox::{CancelFlag, Error, ExecOutput, ExecRequest, Limits, Sandbox};

/// Returns what this machine can do, or says loudly that the test is skipped.
pub fn host(scratch: &Path) -> Option<Host> {
    match Host::probe(Path::new(env!("CARGO_BIN_EXE_tmax-ckpt")), scratch) {
        Ok(host) => Some(host),
        Err(error) => {
            skip(&Need::Bwrap, &error.to_string());
            None
        }
    }
}

fn spec(scratch: &Path, name: &str) -> Spec {
    Spec {
        scratch: scratch.join(name),
        limits: Limits { memory_bytes: Some(512 << 20), pids: Some(64), ..Limits::default() },
        env: vec![("COLOUR".into(), "blue".into())],
        workdir: "/app".into(),
        cancel: CancelFlag::default(),
    }
}

fn run(sandbox: &mut Bwrap, script: &str) -> ExecOutput {
    sandbox.exec(&ExecRequest::new(script, Duration::from_secs(20))).expect("the sandbox works")
}

fn sandbox() -> Option<(tempfile::TempDir, Bwrap)> {
    let dir = tempfile::tempdir().expect("a temp dir");
    let host = host(dir.path())?;
    let sandbox = Bwrap::start(&host, spec(dir.path(), "one")).expect("starts");
    Some((dir, sandbox))
}

#[test]
fn commands_have_their_own_folder_variables_and_outputs() {
    let Some((_dir, mut sandbox)) = sandbox() else { return };
    let out = run(&mut sandbox, "pwd; echo $COLOUR $HOME; echo oops >&2; exit 3");
    assert_eq!(out.stdout.text(), "/app\nblue /root\n");
    assert_eq!(out.stderr.text(), "oops\n");
    assert_eq!((out.exit_code, out.timed_out), (3, false));
    let out = run(&mut sandbox, "kill -9 $$");
    assert_eq!(out.exit_code, 137);
    // What one command starts, the next one finds.
    run(&mut sandbox, "sleep 300 >/dev/null 2>&1 & echo $! > /tmp/pid");
    let out = run(&mut sandbox, "kill -0 $(cat /tmp/pid) && echo alive");
    assert_eq!(out.stdout.text(), "alive\n");
    // Process 1 cannot be killed or looked into from inside.
    run(&mut sandbox, "kill -9 1; kill -9 -1");
    let out = run(&mut sandbox, "cat /proc/1/environ /proc/1/maps; readlink /proc/1/fd/0");
    assert_eq!(out.stdout.text().trim(), "");
    let out = run(&mut sandbox, &"x".repeat(300_000));
    assert_eq!(out.exit_code, 126, "{}", out.stderr.text());
}

/// A reply that is missing changes what a model does next, and its score.
#[test]
fn all_that_a_command_wrote_arrives_however_busy_the_machine_is() {
    let Some((_dir, mut sandbox)) = sandbox() else { return };
    let busy = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while busy.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let all: Vec<ExecOutput> =
            (0..60).map(|i| run(&mut sandbox, &format!("echo {i}; echo e{i} >&2"))).collect();
        let much = run(&mut sandbox, "head -c 300000 /dev/zero | tr '\\0' x");
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        for (i, out) in all.iter().enumerate() {
            assert_eq!(out.stdout.text(), format!("{i}\n"));
            assert_eq!(out.stderr.text(), format!("e{i}\n"));
        }
        assert_eq!(much.stdout.text().len(), 300_000);
    });
    // What a process that stays writes at once is heard, and nobody waits for its end.
    let started = Instant::now();
    let out = run(&mut sandbox, "exec > >(sleep 0.1; cat); (sleep 30; echo late) & echo now");
    assert_eq!((out.stdout.text().as_str(), out.exit_code), ("now\n", 0));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(run(&mut sandbox, "echo next").stdout.text(), "next\n");
}

#[test]
fn nothing_of_the_host_is_seen_or_changed() {
    let Some((dir, mut sandbox)) = sandbox() else { return };
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s").expect("writes");
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for path in [&secret, &home, Path::new("/etc/shadow"), Path::new("/sys/kernel")] {
        let out = run(&mut sandbox, &format!("ls -d {}", path.display()));
        assert_ne!(out.exit_code, 0, "{} is seen inside", path.display());
    }
    let out = run(&mut sandbox, "ls -A /root /home /tmp /mnt | grep -v : ; env | grep -ci token");
    assert_eq!(out.stdout.text().trim(), "0");
    let out = run(&mut sandbox, "grep Cap /proc/self/status | grep -vc 0000000000000000");
    assert_eq!(out.stdout.text().trim(), "0");
    for file in ["kernel/core_pattern", "vm/drop_caches", "kernel/modprobe"] {
        let out = run(&mut sandbox, &format!(": >> /proc/sys/{file}"));
        assert_ne!(out.exit_code, 0, "{file} can be opened for writing");
    }
    assert_ne!(run(&mut sandbox, "unshare -U true").exit_code, 0);
    run(&mut sandbox, "touch /usr/bin/planted /etc/planted /planted");
    for path in ["/usr/bin/planted", "/etc/planted", "/planted"] {
        assert!(!Path::new(path).exists());
    }
}

#[test]
fn the_network_is_out_of_reach_but_loopback_inside_works() {
    let Some((_dir, mut sandbox)) = sandbox() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("has one").port();
    let out = run(&mut sandbox, &format!("exec 3<>/dev/tcp/127.0.0.1/{port}"));
    assert_ne!(out.exit_code, 0);
    let out = run(&mut sandbox, "exec 3<>/dev/tcp/1.1.1.1/53");
    assert!(out.stderr.text().contains("unreachable"), "{}", out.stderr.text());
    let out = run(&mut sandbox, "cat /proc/net/dev | tail -n +3 | cut -d: -f1");
    assert_eq!(out.stdout.text().trim(), "lo");
}

#[test]
fn nothing_outlives_the_sandbox() {
    let Some((dir, mut sandbox)) = sandbox() else { return };
    let mark = format!("98765{}", std::process::id());
    run(&mut sandbox, &format!("setsid nohup sleep {mark} >/dev/null 2>&1 & disown"));
    // It may take a while to become `sleep`.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !lives(&mark) {
        assert!(Instant::now() < deadline, "the grandchild should run while the sandbox does");
        std::thread::sleep(Duration::from_millis(10));
    }
    sandbox.stop().expect("stops");
    assert!(!lives(&mark), "the grandchild outlived the sandbox");
    assert!(!dir.path().join("one").exists());
}

/// Whether any process of this machine has `mark` as an argument.
fn lives(mark: &str) -> bool {
    std::fs::read_dir("/proc").expect("lists").flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|arg| arg == mark.as_bytes())
    })
}

#[test]
fn limits_hold() {
    let Some((_dir, mut sandbox)) = sandbox() else { return };
    let began = Instant::now();
    let request = ExecRequest::new("echo start; sleep 60", Duration::from_millis(300));
    let out = sandbox.exec(&request).expect("works");
    assert_eq!((out.exit_code, out.timed_out, out.stdout.text().as_str()), (124, true, "start\n"));
    let request = ExecRequest::new("trap '' TERM; sleep 60; sleep 60", Duration::from_millis(100));
    assert!(sandbox.exec(&request).expect("works").timed_out);
    assert!(began.elapsed() < Duration::from_secs(10));
    let request = ExecRequest::new("yes", Duration::from_millis(500));
    let out = sandbox.exec(&request).expect("works");
    assert!(out.timed_out);
    assert!(out.stdout.text().len() < (17 << 20));

    let out = run(&mut sandbox, "head -c 900m /dev/zero | tail > /dev/null; echo ${PIPESTATUS[1]}");
    assert_ne!(out.stdout.text().trim(), "0", "900 MB fitted into 512 MB");
    let by = |limit: &str| {
        let limits = &sandbox.report().limits;
        limits.iter().find(|l| l.limit == limit).expect("is reported").by.clone()
    };
    if by("pids").starts_with("nothing") {
        eprintln!("SKIPPED: no process limit here: {}", by("pids"));
        return;
    }
    let fork = "for i in $(seq 200); do sleep 5 & done 2>&1 | grep -c -i resource";
    let out = run(&mut sandbox, fork);
    assert_ne!(out.stdout.text().trim(), "0", "200 processes fitted into 64");
}

#[test]
fn files_go_in_and_out_and_two_sandboxes_share_nothing() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let mut one = Bwrap::start(&host, spec(dir.path(), "one")).expect("starts");
    let mut two = Bwrap::start(&host, spec(dir.path(), "two")).expect("starts");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).expect("makes");
    std::fs::write(source.join("a.txt"), "a").expect("writes");
    run(&mut one, "mkdir /tests; touch /tests/planted");
    one.copy_in(&source, "/tests").expect("copies");
    assert_eq!(run(&mut one, "ls /tests").stdout.text(), "a.txt\n");
    assert_ne!(run(&mut two, "ls /tests").exit_code, 0);
    run(&mut one, "echo out > /logs/verifier/reward.txt; ln -s /etc/shadow /logs/verifier/link");
    one.copy_out("/logs/verifier", &dir.path().join("out")).expect("copies");
    let names: Vec<_> = std::fs::read_dir(dir.path().join("out")).expect("lists").collect();
    assert_eq!(names.len(), 1);
    one.copy_out("/nowhere", &dir.path().join("none")).expect("is no error");
    assert!(one.copy_in(&source, "/usr/x").is_err());
    assert_eq!(run(&mut two, "ps ax | grep -c [s]leep").stdout.text().trim(), "0");
}

#[test]
fn any_folder_can_be_the_working_folder() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    for workdir in ["/", "/srv/a b/c", "/usr/src/app"] {
        let spec = Spec { workdir: workdir.into(), ..spec(dir.path(), "one") };
        let mut sandbox = Bwrap::start(&host, spec).expect("starts");
        assert_eq!(run(&mut sandbox, "pwd").stdout.text(), format!("{workdir}\n"));
    }
}

#[test]
fn a_cancelled_command_stops_at_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let spec = spec(dir.path(), "one");
    let cancel = spec.cancel.clone();
    let mut sandbox = Bwrap::start(&host, spec).expect("starts");
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.cancel();
    });
    let began = Instant::now();
    let result = sandbox.exec(&ExecRequest::new("sleep 60", Duration::from_secs(60)));
    assert!(matches!(result, Err(Error::Interrupted)));
    assert!(began.elapsed() < Duration::from_secs(20));
    thread.join().expect("ends");
}

/// Prints how long a sandbox takes from start over one command to its end, ours and bwrap by hand
/// with the same overlay and flags. Run by scripts/bench-sandbox.sh.
#[test]
#[ignore = "a measurement"]
fn bench_start() {
    const ROUNDS: usize = 40;
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let mut hand = Vec::new();
    let mut ours = Vec::new();
    for round in 0..ROUNDS {
        let scratch = dir.path().join(format!("hand-{round}"));
        let began = Instant::now();
        by_hand(&scratch);
        hand.push(began.elapsed());
        let began = Instant::now();
        let mut sandbox = Bwrap::start(&host, spec(dir.path(), "ours")).expect("starts");
        assert_eq!(run(&mut sandbox, "true").exit_code, 0);
        sandbox.stop().expect("stops");
        ours.push(began.elapsed());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[ROUNDS / 2].as_secs_f64() * 1e3
    };
    let (hand, ours) = (median(&mut hand), median(&mut ours));
    println!("bwrap by hand {hand:.1} ms, tmax-ckpt {ours:.1} ms, ratio {:.2}", ours / hand);
}

/// What one would type: folders, an overlay in an own mount namespace, bwrap with the flags of
/// ours, and the clean-up.
fn by_hand(scratch: &Path) {
    let script = "set -e; d=$1; mkdir -p $d/tree/usr $d/tree/dev $d/tree/proc $d/tree/app $d/upper \
        $d/work $d/merged; for l in bin sbin lib lib64; do ln -s usr/$l $d/tree/$l; done; \
        mount -t overlay o -o lowerdir=/usr,upperdir=$d/upper,workdir=$d/work $d/merged; \
        bwrap --unshare-user --uid 0 --gid 0 --disable-userns --unshare-pid --unshare-net \
        --unshare-ipc --unshare-uts --unshare-cgroup-try --hostname sandbox --die-with-parent \
        --new-session --cap-drop ALL --clearenv \
        --bind $d/tree / --bind $d/merged /usr --dev /dev --proc /proc \
        --ro-bind /proc/sys /proc/sys --chdir /app \
        -- /usr/bin/bash -c true; umount $d/merged; rm -rf $d";
    let mut command = std::process::Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let args = ["--mount", "--", "/bin/sh", "-c", script, "sh"];
    let status = command.args(args).arg(scratch).status().expect("runs");
    assert!(status.success());
}

/// Makes a system call with Debian's essential perl and returns its errno.
fn errno_of(sandbox: &mut Bwrap, call: i64, arguments: &str) -> String {
    let script = format!("perl -e 'printf \"%d\", syscall({call}, {arguments}) < 0 ? $! : 0'");
    run(sandbox, &script).stdout.text()
}

#[test]
fn system_calls_that_a_task_has_no_use_for_are_refused() {
    use tmax_ckpt::sandbox::seccomp::{DENIED, DENIED_HERE};
    let Some((_dir, mut sandbox)) = sandbox() else { return };
    let refused = libc::EPERM.to_string();
    assert_eq!(run(&mut sandbox, "grep Seccomp: /proc/self/status").stdout.text(), "Seccomp:\t2\n");
    for (name, call) in DENIED.iter().chain(DENIED_HERE) {
        assert_eq!(errno_of(&mut sandbox, *call, "0, 0, 0, 0"), refused, "{name}");
    }
    let (user, vsock) = (libc::CLONE_NEWUSER, libc::AF_VSOCK);
    for (call, arguments, errno) in [
        (libc::SYS_unshare, user.to_string(), libc::EPERM),
        (libc::SYS_clone, format!("{}, 0, 0, 0, 0", user | libc::SIGCHLD), libc::EPERM),
        (libc::SYS_clone3, "0, 0".into(), libc::ENOSYS),
        (libc::SYS_socket, format!("{vsock}, 1, 0"), libc::EPERM),
        (libc::SYS_ioctl, "0, 0x5412, 0".into(), libc::EPERM),
        // What programs do need: no terminal there, but no refusal either.
        (libc::SYS_ioctl, "0, 0x5401, 0".into(), libc::ENOTTY),
        (libc::SYS_unshare, libc::CLONE_FILES.to_string(), 0),
    ] {
        assert_eq!(
            errno_of(&mut sandbox, call, &arguments),
            errno.to_string(),
            "{call} {arguments}"
        );
    }
    let notes = &sandbox.report().notes;
    assert!(notes.iter().any(|n| n.ends_with(" system calls are refused")), "{notes:?}");
}

#[test]
fn the_usual_tools_do_not_notice_the_filter() {
    let Some((_dir, mut sandbox)) = sandbox() else { return };
    let script = "set -e; mkdir w; cd w; echo one > a; (sleep 0.1; echo two > b) & wait; \
        tar cf t.tar a b; rm a b; tar xf t.tar; cat a b | sort -r | gzip | gunzip; \
        perl -e 'pipe(R, W); if (fork) { close W; print <R>; wait } else { print W \"three\\n\" }'";
    let out = run(&mut sandbox, script);
    assert_eq!(out.stdout.text(), "two\none\nthree\n", "{}", out.stderr.text());
    let python = "import threading, subprocess, socket, tempfile\n\
        t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n\
        print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout, end='')\n\
        s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())\n\
        tempfile.TemporaryFile().write(b'x')\n";
    let git = "git init -q . && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m m \
        && git log --format=%s";
    for (tool, script, wanted) in [
        ("python3", format!("python3 -c \"{python}\""), "thread\nchild\n"),
        ("git", format!("cd $(mktemp -d) && {git}"), "m\n"),
    ] {
        if run(&mut sandbox, &format!("command -v {tool}")).exit_code == 0 {
            let out = run(&mut sandbox, &script);
            assert_eq!(out.stdout.text(), wanted, "{tool}: {}", out.stderr.text());
        }
    }
}

#[test]
fn files_beyond_the_limit_end_what_writes_them() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let limits = Limits { disk_bytes: Some(20 << 20), ..Limits::default() };
    let mut sandbox =
        Bwrap::start(&host, Spec { limits, ..spec(dir.path(), "one") }).expect("starts");
    let fill = "(for i in $(seq 40); do head -c 1m /dev/urandom > /var/tmp/$i; done; sleep 60) & \
        sleep 60";
    let began = Instant::now();
    let out = run(&mut sandbox, fill);
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!((out.exit_code, out.timed_out), (137, false));
    let words = out.stderr.text();
    assert_eq!(words, "tmax-ckpt: killed: the files here take more than 21.0 MB\n");
    assert_eq!(run(&mut sandbox, "ps ax | grep -c '[s]leep 60'").stdout.text().trim(), "0");
    let limits = &sandbox.report().limits;
    let disk = limits.iter().find(|l| l.limit == "disk_bytes").expect("is reported");
    assert!(disk.by.starts_with("tmax-ckpt, measured"), "{disk:?}");
    let note = "what ran was killed: the files here take more than 21.0 MB";
    assert!(sandbox.report().notes.contains(&note.to_owned()), "{:?}", sandbox.report().notes);
    // The sandbox lives on, and so can who makes room, however long that takes.
    let slow = run(&mut sandbox, "rm /var/tmp/1; sleep 3; rm /var/tmp/*; echo fine");
    assert_eq!((slow.stdout.text().as_ref(), slow.stderr.text().as_ref()), ("fine\n", ""));
}

/// Returns the size of the largest file below a folder.
fn largest_file(dir: &Path) -> u64 {
    let size = |name: &String| dir.join(name).symlink_metadata().map_or(0, |found| found.len());
    tmax_ckpt::fsio::readable_files_below(dir).iter().map(size).max().unwrap_or(0)
}

#[test]
fn what_a_command_leaves_behind_fills_no_disk_between_commands() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let limits = Limits { disk_bytes: Some(20 << 20), ..Limits::default() };
    let spec = Spec { limits, ..spec(dir.path(), "one") };
    let mut sandbox = Bwrap::start(&host, spec).expect("starts");
    let late = "(sleep 0.5; head -c 40m /dev/zero > /var/tmp/big; exec sleep 60) \
        > /dev/null 2>&1 & echo begun";
    assert_eq!(run(&mut sandbox, late).stdout.text(), "begun\n");
    let deadline = Instant::now() + Duration::from_secs(60);
    while largest_file(dir.path()) < 40 << 20 {
        assert!(Instant::now() < deadline, "nothing is written");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Less than the time between two looks: the looks before and after it are the only ones.
    let next = run(&mut sandbox, "ps ax | grep -c '[s]leep 60'");
    let words = "tmax-ckpt: killed: the files here take more than 21.0 MB\n";
    assert_eq!((next.stdout.text().trim(), next.stderr.text().as_ref()), ("0", words));
    run(&mut sandbox, "rm /var/tmp/big");
    // And what one command itself leaves there is told with it.
    let at_once = run(&mut sandbox, "head -c 40m /dev/zero > /var/tmp/big");
    assert_eq!((at_once.exit_code, at_once.stderr.text().as_ref()), (0, words));
    assert_eq!(run(&mut sandbox, "rm /var/tmp/big").stderr.text(), "");
    let notes = &sandbox.report().notes;
    let killed = notes.iter().filter(|note| note.contains("was killed")).count();
    assert_eq!(killed, 1, "one note says it: {notes:?}");
}

#[test]
fn without_overlays_the_hosts_programs_are_read_only() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let Some(host) = host(dir.path()) else { return };
    let host = host.without_overlay("asked for by a test");
    let mut sandbox = Bwrap::start(&host, spec(dir.path(), "one")).expect("starts");
    assert_eq!(run(&mut sandbox, "echo a > f; cat f; ls /usr/bin | head -c1 | wc -c").exit_code, 0);
    let out = run(&mut sandbox, "touch /usr/planted");
    assert!(out.stderr.text().contains("Read-only file system"), "{}", out.stderr.text());
    let report = sandbox.report();
    assert_eq!(report.root, "fresh root, the host's /usr read-only");
    assert!(report.notes.contains(&"no overlay: asked for by a test".to_owned()), "{report:?}");
}
