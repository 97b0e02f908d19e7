//! Servers that lie, through the binary: what each lie is answered with, and that nothing wrong
//! gets a name.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::cli::binary;
use crate::hub_server::{Content, Fault, Server};

/// No lie keeps us longer.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A lie and the answer to it. Exit code 0 means that the right bytes arrived all the same.
struct Lie {
    name: &'static str,
    tell: fn(&Server),
    exit_code: i32,
    says: &'static str,
}

const fn lie(name: &'static str, exit_code: i32, says: &'static str, tell: fn(&Server)) -> Lie {
    Lie { name, tell, exit_code, says }
}

/// Always.
const EVER: usize = usize::MAX;

const LIES: &[Lie] = &[
    lie("size shorter than said", 6, "model.safetensors", |s| {
        s.fault("cdn/blob/", Fault::Shorter(1000), EVER);
    }),
    lie("size longer than said", 6, "model.safetensors", |s| {
        s.fault("cdn/blob/", Fault::Longer(1000), EVER);
    }),
    lie("another hash than said", 6, "does not match its hash", |s| {
        s.fault("cdn/blob/", Fault::Flip(70_000), EVER);
    }),
    lie("another small file than said", 6, "config.json", |s| {
        s.fault("hub/o/n/resolve/", Fault::Flip(0), EVER);
    }),
    lie("wrong ETag of the linked file", 0, "", |s| {
        s.fault("hub/o/n/resolve/", Fault::Header("X-Linked-ETag", "\"0123\""), EVER);
    }),
    lie("wrong size of a small file", 6, "expected 2 bytes, got 12", |s| {
        s.fault("config.json", Fault::Header("X-Linked-Size", "12"), EVER);
    }),
    lie("a commit of another form", 0, "", |s| {
        s.fault("hub/o/n/resolve/", Fault::Header("X-Repo-Commit", "../../evil"), EVER);
    }),
    lie("gzip that was not asked for", 6, "model.safetensors", |s| {
        s.fault("cdn/blob/", Fault::Gzip, EVER);
    }),
    lie("another Content-Range than asked for", 0, "", |s| {
        s.fault("cdn/blob/", Fault::Header("Content-Range", "bytes 0-9/10"), EVER);
    }),
    lie("redirect in a circle", 5, "a redirect within another host", |s| {
        s.fault("cdn/blob/", Fault::Redirect("/blob/again"), EVER);
    }),
    lie("redirect to a local file", 5, "HTTP 302", |s| {
        s.fault("cdn/blob/", Fault::Redirect("file:///etc/passwd"), EVER);
    }),
    lie("redirect to another protocol", 5, "URL scheme is not allowed", |s| {
        s.fault("cdn/blob/", Fault::Redirect("ftp://127.0.0.1/x"), EVER);
    }),
    lie("a list that climbs", 6, "holds the unsafe name", |s| s.set_tree(&entry("../../evil"))),
    lie("a list with an absolute path", 6, "holds the unsafe name", |s| {
        s.set_tree(&entry("/tmp/evil"))
    }),
    lie("a list that names a file twice", 5, "is listed twice", |s| {
        s.set_tree(&[entry("a"), entry("a")].concat().replace("][", ","));
    }),
    lie("a list with a folder of a file's name", 5, "both a file and a folder", |s| {
        s.set_tree(&[entry("a"), entry("a/b")].concat().replace("][", ","));
    }),
    lie("a list of a million files", 5, "more than", |s| {
        let one = entry("a");
        let one = one.trim_matches(['[', ']']);
        s.set_tree(&format!("[{}]", vec![one; 1_000_000].join(",")));
    }),
    lie("a list of a quarter million files", 5, "more than 200000 files", |s| {
        let one = |i: u32| entry(&i.to_string()).trim_matches(['[', ']']).to_owned();
        s.set_tree(&format!("[{}]", (0..250_000).map(one).collect::<Vec<_>>().join(",")));
    }),
    lie("a list that is a page", 5, "the file list", |s| s.set_tree("<html>Log in</html>")),
    lie("a list with control characters", 6, "\\u{1b}", |s| s.set_tree(&entry("a\\u001b[2J"))),
    lie("a file of 2^62 bytes", 5, "a size that no file has", |s| {
        s.set_tree(&entry("a").replace("\"size\":1", "\"size\":4611686018427387904"));
    }),
    lie("a file larger than the disk", 7, "free", |s| {
        s.set_tree(&entry("a").replace("\"size\":1", "\"size\":17592186044416"));
    }),
    lie("a file of negative size", 5, "no size", |s| {
        s.set_tree(&entry("a").replace("\"size\":1", "\"size\":-1"));
    }),
];

/// A list of one file of one byte.
fn entry(path: &str) -> String {
    let oid = "0".repeat(40);
    format!(r#"[{{"type":"file","oid":"{oid}","size":1,"path":"{path}"}}]"#)
}

fn files() -> Vec<Content> {
    let large = (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    vec![Content::text("config.json", "{}"), Content::lfs("model.safetensors", large)]
}

fn pull(server: &Server, home: &Path) -> Output {
    binary(home)
        .env("HF_ENDPOINT", &server.endpoint)
        .env("HF_TOKEN", "hf_topsecret")
        .args(["pull", "o/n@main", "--json"])
        .output()
        .expect("runs")
}

/// Every file below a folder, with its content.
fn contents(dir: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().expect("a type").is_dir() {
            true => contents(&entry.path(), found),
            false => found.extend(std::fs::read(entry.path())),
        }
    }
}

fn check(lie: &Lie) -> Vec<String> {
    let server = Server::start();
    let commit = server.branch("main", &files());
    (lie.tell)(&server);
    let home = tempfile::tempdir().expect("a temp dir");
    let start = Instant::now();
    let output = pull(&server, home.path());
    let err = String::from_utf8_lossy(&output.stderr);
    let mut wrong = Vec::new();
    let mut expect = |ok: bool, what: &str| {
        if !ok {
            wrong.push(format!("{}: {what}\n{err}", lie.name));
        }
    };
    let code = output.status.code();
    expect(code == Some(lie.exit_code), &format!("exit code {code:?}, not {}", lie.exit_code));
    expect(err.contains(lie.says), &format!("does not say `{}`", lie.says));
    expect(!err.contains("this is a bug"), "panics");
    expect(code == Some(0) || err.contains("help"), "has no help line");
    expect(!err.contains("hf_topsecret"), "tells the token");
    expect(start.elapsed() < TIME_MAX, "takes long");
    expect(server.seen().iter().all(|s| !s.cdn || s.auth.is_none()), "gives the token away");
    let snapshot =
        home.path().join(format!(".cache/huggingface/hub/models--o--n/snapshots/{commit}"));
    let mut named = Vec::new();
    contents(&snapshot, &mut named);
    let right = |bytes: &Vec<u8>| files().iter().any(|file| file.bytes == *bytes);
    expect(named.iter().all(right), "names wrong bytes");
    expect(code != Some(0) || named.len() == 2, "names too little");
    wrong
}

#[test]
fn every_lie_is_answered_as_expected() {
    // At once: most of the time is spent in pauses before another try.
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = LIES.iter().map(|lie| scope.spawn(|| check(lie))).collect();
        all.into_iter().flat_map(|one| one.join().expect("no check panics")).collect()
    });
    assert!(wrong.is_empty(), "{} answers are wrong:\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn lies_have_names_of_their_own() {
    let mut names: Vec<&str> = LIES.iter().map(|lie| lie.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), LIES.len());
}
