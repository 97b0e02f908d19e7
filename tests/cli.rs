//! The binary as a script sees it: streams, exit codes, errors.

use std::path::Path;
use std::process::{Command, Output};

/// Makes the binary with an empty environment and a home of its own.
pub fn binary(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tmax-ckpt"));
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin:/usr/sbin").current_dir(home);
    command
}

fn run_with(args: &[&str], variables: &[(&str, &str)]) -> (Output, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("a temp dir");
    let output = binary(home.path())
        .args(args)
        .envs(variables.iter().copied())
        .output()
        .expect("the binary runs");
    (output, home)
}

/// Lays out streams and exit code for a snapshot, the temporary home replaced.
fn transcript(args: &[&str], variables: &[(&str, &str)]) -> String {
    let (output, home) = run_with(args, variables);
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace(&*home.path().to_string_lossy(), "[HOME]")
    };
    format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().expect("not killed"),
        text(&output.stdout),
        text(&output.stderr)
    )
}

#[test]
fn a_mistyped_flag_gets_a_suggestion() {
    insta::assert_snapshot!(transcript(&["--offlin", "config", "show"], &[]), @r"
    exit 2
    --- stdout
    --- stderr
    error: unexpected argument '--offlin' found

      help: a similar argument exists: '--offline'

    Usage: tmax-ckpt --offline <COMMAND>

    For more information, try '--help'.
    ");
}

#[test]
fn an_argument_that_is_not_utf_8_is_refused_before_anything_is_made() {
    use std::os::unix::ffi::OsStrExt as _;
    let home = tempfile::tempdir().expect("a temp dir");
    let name = std::ffi::OsStr::from_bytes(b"odd\xffname");
    let output = binary(home.path()).args(["man"]).arg(name).output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(std::fs::read_dir(home.path()).expect("lists").next().is_none());
}

/// An empty file and exit code 0 would be taken for an empty result.
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let home = tempfile::tempdir().expect("a temp dir");
    for args in [&["config", "show"][..], &["config", "show", "--json"], &["--help"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let output = binary(home.path()).args(args).stdout(full).output().expect("runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{args:?}: {error}");
        assert!(error.contains("standard output"), "{args:?}: {error}");
    }
}

#[test]
fn usage_does_not_ask_for_what_a_variable_gives() {
    let text = transcript(&["pull"], &[("HF_ENDPOINT", "http://h"), ("HF_TOKEN", "hf_a")]);
    assert!(text.contains("Usage: tmax-ckpt pull <REPO[@REV]>"), "{text}");
}

#[test]
fn errors_are_one_json_object_on_stderr_when_asked() {
    insta::assert_snapshot!(transcript(&["--json", "confg"], &[]), @r#"
    exit 2
    --- stdout
    --- stderr
    {"schema":"tmax-ckpt.error/1","kind":"usage","exit_code":2,"message":"unrecognized subcommand 'confg'","causes":[],"help":["a similar subcommand exists: 'config'","Usage: tmax-ckpt [OPTIONS] <COMMAND>","For more information, try '--help'."]}
    "#);
}

#[test]
fn twice_quiet_leaves_the_exit_code_alone() {
    let silent = |code| format!("exit {code}\n--- stdout\n--- stderr\n");
    for (args, code) in [
        (&["-qq", "verify", "./none"][..], 3),
        (&["verify", "-q", "--quiet", "./none"], 3),
        (&["-qq", "--json", "verify", "o/n"], 3),
        (&["-nqq", "confg"], 2),
        (&["-qq", "cache", "dir"], 0),
        (&["-qq", "--config", "none.toml", "cache", "dir"], 3),
    ] {
        assert_eq!(transcript(args, &[]), silent(code), "{args:?}");
    }
    let once = transcript(&["-q", "verify", "./none"], &[]);
    assert!(once.contains("error: "), "{once}");
    let flags_of_others = transcript(&["confg", "--", "-qq"], &[]);
    assert!(flags_of_others.contains("error: "), "{flags_of_others}");
}

#[test]
fn settings_name_their_origin() {
    let variables = [
        ("HF_HUB_OFFLINE", "1"),
        ("HF_TOKEN", "hf_secret"),
        ("TMAX_CKPT_JOBS", "3"),
        ("HF_ENDPOINT", ""),
    ];
    let text = transcript(&["config", "show", "--cache-dir", "hub"], &variables);
    assert!(!text.contains("secret"));
    insta::assert_snapshot!(text, @r"
    exit 0
    --- stdout
    cache-dir  hub                     flag
    color      auto                    default
    endpoint   https://huggingface.co  default
    jobs       3                       variable TMAX_CKPT_JOBS
    offline    true                    variable HF_HUB_OFFLINE
    progress   auto                    default
    token      (set)                   variable HF_TOKEN
    --- stderr
    ");
}

#[test]
fn a_flag_beats_a_variable_beats_the_project_beats_the_user() {
    let home = tempfile::tempdir().expect("a temp dir");
    let user = home.path().join(".config/tmax-ckpt");
    std::fs::create_dir_all(&user).expect("makes a folder");
    std::fs::write(user.join("config.toml"), "jobs = 4\ncolor = \"never\"\n").expect("writes");
    std::fs::write(home.path().join("tmax-ckpt.toml"), "jobs = 5\noffline = true\n")
        .expect("writes");
    let jobs = |args: &[&str], variable: Option<&str>| {
        let mut command = binary(home.path());
        command.args(["config", "show", "--json"]).args(args);
        command.envs(variable.map(|value| ("TMAX_CKPT_JOBS", value)));
        let output = command.output().expect("runs");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let origin = &document["settings"]["jobs"]["origin"];
        (document["settings"]["jobs"]["value"].clone(), origin.as_str().expect("text").to_owned())
    };
    assert_eq!(jobs(&["-j", "7"], Some("6")), (7.into(), "flag".into()));
    assert_eq!(jobs(&[], Some("6")), (6.into(), "variable TMAX_CKPT_JOBS".into()));
    assert_eq!(jobs(&[], None), (5.into(), "tmax-ckpt.toml".into()));
    assert_eq!(jobs(&["--no-config"], None).1, "default");
    std::fs::remove_file(home.path().join("tmax-ckpt.toml")).expect("removes");
    assert_eq!(jobs(&[], None).0, 4);
}

#[test]
fn an_unknown_key_is_named_with_its_neighbour() {
    let home = tempfile::tempdir().expect("a temp dir");
    std::fs::write(home.path().join("tmax-ckpt.toml"), "cache_dir = \"x\"\n").expect("writes");
    let output = binary(home.path()).args(["config", "show"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stderr), @r"
    error: tmax-ckpt.toml has the unknown key `cache_dir`
      help: did you mean `cache-dir`?
    ");
}

#[test]
fn a_cloned_project_cannot_send_the_token_to_its_own_host() {
    let home = tempfile::tempdir().expect("a temp dir");
    let project = "endpoint = \"http://evil.example\"\n";
    std::fs::write(home.path().join("tmax-ckpt.toml"), project).expect("writes");
    let output = binary(home.path())
        .args(["config", "show", "--json"])
        .env("HF_TOKEN", "hf_secret")
        .output()
        .expect("runs");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["settings"]["token"]["value"], serde_json::Value::Null);
}

#[test]
fn quiet_twice_prints_nothing_and_stdout_may_close() {
    let (output, _home) = run_with(&["-qq", "completions", "bash"], &[]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty());
    let home = tempfile::tempdir().expect("a temp dir");
    let mut child = binary(home.path())
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("spawns");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn nothing_coloured_goes_into_a_pipe_unless_forced() {
    for (variables, coloured) in [(vec![], false), (vec![("CLICOLOR_FORCE", "1")], true)] {
        let (output, _home) = run_with(&["config", "nonsense"], &variables);
        assert_eq!(output.stderr.contains(&0x1b), coloured, "{variables:?}");
    }
}

#[test]
fn every_shell_has_completions_and_every_command_a_page() {
    let command = tmax_ckpt::cli::args::command();
    let commands: Vec<_> = command.get_subcommands().filter(|sub| !sub.is_hide_set()).collect();
    assert!(commands.len() >= 14, "{}", commands.len());
    for (shell, marker) in [
        ("bash", "complete -F _tmax__ckpt -o bashdefault -o default tmax-ckpt"),
        ("elvish", "set edit:completion:arg-completer[tmax-ckpt]"),
        ("fish", "complete -c tmax-ckpt"),
        ("powershell", "Register-ArgumentCompleter"),
        ("zsh", "#compdef tmax-ckpt"),
    ] {
        let (output, _home) = run_with(&["completions", shell], &[]);
        assert!(output.status.success(), "{output:?}");
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(script.contains(marker), "{shell} has no `{marker}`");
        for sub in &commands {
            assert!(script.contains(sub.get_name()), "{shell} does not know {}", sub.get_name());
        }
        // Fish writes a long option without its dashes.
        assert!(script.contains("temperature") && script.contains("outtype"), "{shell}");
    }
    // The shell that runs on every machine takes it, and completes a command by it.
    let (output, home) = run_with(&["completions", "bash"], &[]);
    std::fs::write(home.path().join("c.bash"), &output.stdout).expect("writes");
    let script = "source ./c.bash && COMP_WORDS=(tmax-ckpt sel) COMP_CWORD=1 \
        && _tmax__ckpt tmax-ckpt sel tmax-ckpt && echo ${COMPREPLY[*]}";
    let bash = Command::new("bash").args(["-c", script]).current_dir(home.path()).output();
    let bash = bash.expect("runs");
    assert_eq!(String::from_utf8_lossy(&bash.stdout), "select\n", "{bash:?}");
    let (output, home) = run_with(&["man", "pages"], &[]);
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(home.path().join("pages/tmax-ckpt-config-show.1"));
    assert!(page.expect("the page").contains("Print each setting"));
}

#[test]
fn doctor_works_offline_on_a_bare_machine() {
    let (output, _home) = run_with(&["doctor", "--offline", "--json"], &[]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["schema"], "tmax-ckpt.doctor/1");
    let checks = document["checks"].as_array().expect("a list");
    let names: Vec<_> = checks.iter().filter_map(|check| check["name"].as_str()).collect();
    for wanted in ["hub", "cache", "bwrap", "podman"] {
        assert!(names.contains(&wanted), "no check of {wanted}: {names:?}");
    }
    assert!(checks.iter().all(|check| check["found"].as_str().is_some_and(|d| !d.is_empty())));
    let failed = checks.iter().filter(|check| check["status"] == "fail").count();
    assert_eq!(output.status.code(), Some(i32::from(failed > 0)), "{document}");
    for check in checks.iter().filter(|check| check["status"] != "ok") {
        assert!(check["help"][0].is_string(), "{check}");
    }
}

/// Whoever reads JSON is told what clap tells people.
#[test]
fn usage_errors_keep_their_words_in_json() {
    for (args, message, advice) in [
        (
            &["score", "--agent", "orakle", "--tasks", "t", "-o", "j"][..],
            "invalid value 'orakle' for '--agent <AGENT>' [possible values: model, oracle, nop]",
            "a similar value exists: 'oracle'",
        ),
        (
            &["strip"],
            "the following required arguments were not provided: --output <DIR> <CKPT>",
            "Usage: tmax-ckpt strip --output <DIR>",
        ),
        (&["cache"], "a command or an argument is missing", "Usage: tmax-ckpt cache"),
        (&["pull", "--revison", "x"], "unexpected argument '--revison' found", "--revision"),
        (
            &["strip", "a", "-o", "b", "--max-shard-size", "5XB"],
            "invalid value '5XB' for '--max-shard-size <SIZE>': `5XB` is not a size above zero",
            "write 500MB or 50GB",
        ),
        (
            &["select", "a", "--budget", "x"],
            "invalid value 'x' for '--budget <AMOUNT>': `x` is not a budget",
            "write 500 (rollouts), 90m, 2h, or 5Mtok",
        ),
    ] {
        let args: Vec<&str> = ["--json"].into_iter().chain(args.iter().copied()).collect();
        let (output, _home) = run_with(&args, &[]);
        let document: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(document["message"], message, "{args:?}");
        let help = document["help"].to_string();
        assert!(help.contains(advice), "{args:?}: {help}");
    }
}

#[test]
fn commands_that_no_help_lists_are_in_no_error_either() {
    for args in [&["--json"][..], &["--offline"], &["--offline", "--json"]] {
        let text = transcript(args, &[]);
        assert!(text.contains("strip") || args.contains(&"--json"), "{text}");
        assert!(!text.contains("bench") && !text.contains("man,"), "{text}");
    }
}

#[test]
fn help_is_a_command_too() {
    let page = |args: &[&str]| {
        let (output, _home) = run_with(args, &[]);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(page(&["help"]), page(&["--help"]));
    assert_eq!(page(&["help", "export", "gguf"]), page(&["export", "gguf", "--help"]));
    assert!(page(&["export", "--help"]).contains("export --format FORMAT"));
    let (output, _home) = run_with(&["help", "stirp"], &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_negative_number_is_a_value_out_of_range_and_no_flag() {
    for (flag, value, told) in [
        ("--temperature", "-1", "--temperature is between 0 and 10, not -1"),
        ("--top-p", "-0.5", "--top-p is above 0 and at most 1, not -0.5"),
        ("--max-tokens", "-1", "invalid value '-1' for '--max-tokens"),
    ] {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
        let (tasks, step) = (format!("{fixtures}/tasks"), format!("{fixtures}/tiny-raw/step_600"));
        let args = ["score", &step, "--tasks", &tasks, "-o", "jobs", "-n", flag, value];
        let text = transcript(&args, &[]);
        assert!(text.starts_with("exit 2\n") && text.contains(told), "{text}");
    }
}

/// Services have no such variable, and the system knows the user's folder.
#[test]
fn without_home_the_system_is_asked() {
    let script = "getent passwd \"$(id -u)\" | cut -d: -f6";
    let asked = Command::new("/bin/sh").args(["-c", script]).output().expect("runs");
    let asked = String::from_utf8(asked.stdout).expect("UTF-8");
    let folder = if asked.trim().is_empty() { "/" } else { asked.trim() };
    let home = tempfile::tempdir().expect("a temp dir");
    let output = binary(home.path()).env_remove("HOME").args(["cache", "dir"]).output();
    let output = output.expect("runs");
    let wanted = Path::new(folder).join(".cache/huggingface/hub");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), wanted.to_str().expect("text"));
}

#[test]
fn a_cache_that_somebody_named_and_that_is_not_there_is_said() {
    let text = transcript(&["cache", "list", "--cache-dir", "hbu"], &[]);
    assert!(text.contains("note: the folder hbu (flag) does not exist"), "{text}");
    let text = transcript(&["cache", "list"], &[("HF_HUB_CACHE", "hbu")]);
    assert!(text.contains("(variable HF_HUB_CACHE) does not exist"), "{text}");
    let text = transcript(&["cache", "list"], &[]);
    assert_eq!(text, "exit 0\n--- stdout\ntotal  0 B\n--- stderr\n");
}
