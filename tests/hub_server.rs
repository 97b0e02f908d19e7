//! A Hub of our own with faults: plain threads over TCP, one port as the Hub and one as its CDN.
//!
//! It speaks the endpoints that a pull needs: refs, revision, tree, commits, and resolve with a
//! redirect to the CDN for LFS files. Every request is written down, so that a test can say what
//! was asked of whom and with what.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tmax_ckpt::hash::Hash;

/// One file of a branch.
#[derive(Clone)]
pub struct Content {
    pub path: String,
    pub bytes: Vec<u8>,
    pub lfs: bool,
}

impl Content {
    pub fn text(path: &str, text: &str) -> Self {
        Self { path: path.into(), bytes: text.into(), lfs: false }
    }

    pub fn lfs(path: &str, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), bytes, lfs: true }
    }

    pub fn hash(&self) -> Hash {
        let kind = if self.lfs { Hash::Sha256([0; 32]) } else { Hash::GitSha1([0; 20]) };
        let mut hasher = kind.hasher(self.bytes.len() as u64);
        hasher.update(&self.bytes);
        hasher.finish()
    }
}

/// What goes wrong with a request.
#[derive(Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// A status, with headers and a page as body.
    Status(u16, &'static str),
    /// `Range` is answered with 200 and everything.
    IgnoreRange,
    /// The same, without a length.
    IgnoreRangeAndLength,
    /// A byte at this place of the file is changed.
    Flip(usize),
    /// The file has this many bytes less, and says so.
    Shorter(usize),
    /// The file has this many bytes more, and says so.
    Longer(usize),
    /// A header of the answer, to HEAD too, is this.
    Header(&'static str, &'static str),
    /// The body is gzip, and says so.
    Gzip,
    /// A redirect to this place of the same host.
    Redirect(&'static str),
    /// Each 16 KiB take so long.
    Slow(Duration),
    /// What follows so many bytes of the body waits for the faults' end.
    Held(usize),
}

/// Which requests a fault meets, and how often.
struct Rule {
    part: &'static str,
    fault: Fault,
    times: usize,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub cdn: bool,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub auth: Option<String>,
}

#[derive(Default)]
struct State {
    repo: String,
    branches: Vec<(String, String, Vec<Content>)>,
    rules: Vec<Rule>,
    seen: Vec<Seen>,
    tree_override: Option<String>,
    next_page: Option<String>,
}

pub struct Server {
    pub endpoint: String,
    pub cdn: String,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

impl Server {
    /// Starts a Hub with one repository, `o/n`.
    pub fn start() -> Self {
        Self::of("o/n")
    }

    /// Starts a Hub with one repository.
    pub fn of(repo: &str) -> Self {
        let state = State { repo: repo.into(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let over = Arc::new(AtomicBool::new(false));
        let hub = TcpListener::bind("127.0.0.1:0").expect("a port");
        let cdn = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = Self {
            endpoint: format!("http://127.0.0.1:{}", hub.local_addr().expect("bound").port()),
            cdn: format!("http://localhost:{}", cdn.local_addr().expect("bound").port()),
            state: Arc::clone(&state),
            over: Arc::clone(&over),
        };
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let (state, over, cdn) = (Arc::clone(&state), Arc::clone(&over), server.cdn.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let (state, over, cdn) = (Arc::clone(&state), Arc::clone(&over), cdn.clone());
                    std::thread::spawn(move || {
                        // A client that goes away is part of the tests.
                        let _ = serve(stream, &state, &over, &cdn, is_cdn);
                    });
                }
            });
        }
        server
    }

    /// Sets a branch; its commit follows from its name and content.
    pub fn branch(&self, name: &str, files: &[Content]) -> String {
        let mut hasher = Hash::GitSha1([0; 20]).hasher(0);
        files.iter().for_each(|f| hasher.update(f.hash().hex().as_bytes()));
        let commit = hasher.finish().hex();
        let mut state = self.state.lock().expect("no test panics holding it");
        state.branches.retain(|(n, _, _)| n != name);
        state.branches.push((name.into(), commit.clone(), files.to_vec()));
        commit
    }

    /// Makes requests whose path holds `part` go wrong, so many times.
    pub fn fault(&self, part: &'static str, fault: Fault, times: usize) {
        self.state.lock().expect("not poisoned").rules.push(Rule { part, fault, times });
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state.lock().expect("not poisoned").rules.clear();
    }

    /// Answers every tree request with this.
    pub fn set_tree(&self, body: &str) {
        self.state.lock().expect("not poisoned").tree_override = Some(body.into());
    }

    /// Puts this into the `Link` of the first page of every tree.
    pub fn set_next_page(&self, url: &str) {
        self.state.lock().expect("not poisoned").next_page = Some(url.into());
    }

    /// Returns all requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().expect("not poisoned").seen.clone()
    }

    /// Returns the GET requests for file bytes that reached the CDN.
    pub fn byte_requests(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.cdn && s.method == "GET").collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for url in [&self.endpoint, &self.cdn] {
            // Wakes the listener, which then ends.
            let _ = TcpStream::connect(url.trim_start_matches("http://"));
        }
    }
}

/// An answer before faults.
struct Answer {
    status: u16,
    headers: BTreeMap<&'static str, String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(body: &serde_json::Value) -> Self {
        let headers = BTreeMap::from([("Content-Type", "application/json".to_owned())]);
        Self { status: 200, headers, body: body.to_string().into_bytes() }
    }

    fn not_found(code: &str) -> Self {
        let headers = BTreeMap::from([("X-Error-Code", code.to_owned())]);
        Self { status: 404, headers, body: b"not here".to_vec() }
    }
}

fn serve(
    mut stream: TcpStream,
    state: &Mutex<State>,
    over: &AtomicBool,
    cdn: &str,
    is_cdn: bool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    if method.is_empty() {
        return Ok(());
    }
    let (mut range, mut auth) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.trim().to_owned()),
            "authorization" => auth = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let seen = Seen { cdn: is_cdn, method: method.into(), path: path.into(), range, auth };
    let (fault, answer) = {
        let mut state = state.lock().expect("not poisoned");
        state.seen.push(seen.clone());
        let fault = take_fault(&mut state, &seen);
        (fault, answer(&state, &seen, cdn))
    };
    let held = || {
        let faulty = !state.lock().expect("not poisoned").rules.is_empty();
        faulty && !over.load(Ordering::Relaxed)
    };
    respond(&mut stream, &held, &seen, answer, fault)?;
    stream.flush()?;
    // Read what is left, so that closing does not reset the connection under the answer.
    stream.shutdown(std::net::Shutdown::Write)?;
    let _ = reader.take(1024).read_to_end(&mut Vec::new());
    Ok(())
}

fn take_fault(state: &mut State, seen: &Seen) -> Option<Fault> {
    let place = if seen.cdn { "cdn" } else { "hub" };
    let key = format!("{place}{}", seen.path);
    let meets = |fault: &Fault| seen.method == "GET" || matches!(fault, Fault::Header(..));
    let fits = |r: &&mut Rule| r.times > 0 && key.contains(r.part) && meets(&r.fault);
    let rule = state.rules.iter_mut().find(fits)?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn answer(state: &State, seen: &Seen, cdn: &str) -> Answer {
    let path = seen.path.split('?').next().unwrap_or_default();
    if seen.cdn {
        let all = state.branches.iter().flat_map(|(_, _, files)| files);
        let hex = path.trim_start_matches("/blob/");
        return match all.clone().find(|f| f.hash().hex() == hex) {
            Some(file) => Answer {
                status: 200,
                headers: BTreeMap::from([("ETag", format!("\"{hex}\""))]),
                body: file.bytes.clone(),
            },
            None => Answer::not_found("EntryNotFound"),
        };
    }
    // The same content is a model and a dataset.
    let below = |starts: [&str; 2], end: &str| {
        let mut prefixes = starts.map(|start| format!("{start}{}{end}", state.repo)).into_iter();
        prefixes.find_map(|prefix| path.strip_prefix(&prefix))
    };
    if let Some(rest) = below(["/api/models/", "/api/datasets/"], "/") {
        return api(state, rest);
    }
    match below(["/", "/datasets/"], "/resolve/") {
        Some(rest) => resolve(state, rest, cdn),
        None => Answer::not_found("RepoNotFound"),
    }
}

fn api(state: &State, rest: &str) -> Answer {
    let find = |rev: &str| state.branches.iter().find(|(n, c, _)| n == rev || c == rev);
    match rest.split('/').collect::<Vec<_>>().as_slice() {
        ["refs"] => {
            let branch = |(name, commit, _): &(String, String, _)| json!({"name": name, "ref": format!("refs/heads/{name}"), "targetCommit": commit});
            let branches: Vec<_> = state.branches.iter().map(branch).collect();
            Answer::json(&json!({"branches": branches, "tags": [], "converts": []}))
        }
        ["tree", rev] => tree(state, find(rev)),
        ["commits", rev] => match find(rev) {
            Some((_, commit, _)) => Answer::json(&json!([{
                "id": commit, "title": "t", "message": "", "authors": [],
                "date": "2026-06-01T12:00:00.000Z",
            }])),
            None => Answer::not_found("RevisionNotFound"),
        },
        ["revision", rev] => match find(rev) {
            Some((_, commit, _)) => Answer::json(&json!({"id": state.repo, "sha": commit})),
            None => Answer::not_found("RevisionNotFound"),
        },
        _ => Answer::not_found("EntryNotFound"),
    }
}

fn tree(state: &State, found: Option<&(String, String, Vec<Content>)>) -> Answer {
    if let Some(body) = &state.tree_override {
        return Answer { status: 200, headers: BTreeMap::new(), body: body.clone().into_bytes() };
    }
    let Some((_, _, files)) = found else { return Answer::not_found("RevisionNotFound") };
    let entry = |file: &Content| {
        let hex = file.hash().hex();
        let size = file.bytes.len();
        match file.lfs {
            true => json!({
                "type": "file", "oid": "0".repeat(40), "size": size, "path": file.path,
                "lfs": {"oid": hex, "size": size, "pointerSize": 130},
            }),
            false => json!({"type": "file", "oid": hex, "size": size, "path": file.path}),
        }
    };
    let mut answer = Answer::json(&files.iter().map(entry).collect());
    if let Some(next) = &state.next_page {
        answer.headers.insert("Link", format!("<{next}>; rel=\"next\""));
    }
    answer
}

fn resolve(state: &State, rest: &str, cdn: &str) -> Answer {
    let rest = percent_decoded(rest);
    let (rev, path) = rest.split_once('/').unwrap_or((&rest, ""));
    let branch = state.branches.iter().find(|(n, c, _)| n == rev || c == rev);
    let Some((_, commit, files)) = branch else { return Answer::not_found("RevisionNotFound") };
    let Some(file) = files.iter().find(|f| f.path == path) else {
        return Answer::not_found("EntryNotFound");
    };
    let hex = file.hash().hex();
    let mut headers = BTreeMap::from([("X-Repo-Commit", commit.clone())]);
    if !file.lfs {
        headers.insert("ETag", format!("\"{hex}\""));
        return Answer { status: 200, headers, body: file.bytes.clone() };
    }
    headers.insert("X-Linked-ETag", format!("\"{hex}\""));
    headers.insert("X-Linked-Size", file.bytes.len().to_string());
    headers.insert("Location", format!("{cdn}/blob/{hex}"));
    Answer { status: 302, headers, body: Vec::new() }
}

fn respond(
    stream: &mut TcpStream,
    held: &dyn Fn() -> bool,
    seen: &Seen,
    mut answer: Answer,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    if let Some(Fault::Status(status, extra)) = fault {
        let page = "<html>not what you asked for</html>";
        let len = page.len();
        let head = format!("HTTP/1.1 {status} X\r\n{extra}Content-Length: {len}\r\n");
        return stream.write_all(format!("{head}Connection: close\r\n\r\n{page}").as_bytes());
    }
    match fault {
        Some(Fault::Redirect(to)) => {
            answer.status = 302;
            answer.headers.insert("Location", to.to_owned());
        }
        Some(Fault::Longer(by)) => answer.body.extend(vec![b'x'; by]),
        Some(Fault::Gzip) => {
            answer.body = gzip(&answer.body);
            answer.headers.insert("Content-Encoding", "gzip".to_owned());
        }
        Some(Fault::Flip(at)) if at < answer.body.len() => answer.body[at] ^= 1,
        Some(Fault::Shorter(by)) => answer.body.truncate(answer.body.len().saturating_sub(by)),
        _ => {}
    }
    let ranged = !matches!(fault, Some(Fault::IgnoreRange | Fault::IgnoreRangeAndLength));
    if let Some(range) = seen.range.as_deref().filter(|_| ranged && answer.status == 200) {
        let range = parse_range(range, answer.body.len());
        let all = answer.body.len();
        answer.status = 206;
        let text = format!("bytes {}-{}/{all}", range.start, range.end - 1);
        answer.headers.insert("Content-Range", text);
        answer.body = answer.body[range].to_vec();
    }
    if let Some(Fault::Header(name, value)) = fault {
        answer.headers.insert(name, value.to_owned());
    }
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !matches!(fault, Some(Fault::IgnoreRangeAndLength)) {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if seen.method == "HEAD" {
        return Ok(());
    }
    send_body(stream, held, &answer.body, fault)
}

/// Sends a body; `held` says whether the server is still up, and its faults are too.
fn send_body(
    stream: &mut TcpStream,
    held: &dyn Fn() -> bool,
    body: &[u8],
    fault: Option<Fault>,
) -> std::io::Result<()> {
    match fault {
        Some(Fault::Cut(after)) => stream.write_all(&body[..after.min(body.len())]),
        Some(Fault::Stall(after)) => {
            stream.write_all(&body[..after.min(body.len())])?;
            for _ in 0..600 {
                if !held() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
        Some(Fault::Slow(pause)) => body.chunks(16 << 10).try_for_each(|chunk| {
            std::thread::sleep(pause);
            stream.write_all(chunk)
        }),
        Some(Fault::Held(after)) => {
            let (now, later) = body.split_at(after.min(body.len()));
            stream.write_all(now)?;
            while held() {
                std::thread::sleep(Duration::from_millis(10));
            }
            stream.write_all(later)
        }
        _ => stream.write_all(body),
    }
}

/// The bytes in the form of gzip, without any compression.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let count = bytes.chunks(0xffff).count();
    for (index, chunk) in bytes.chunks(0xffff).enumerate() {
        let len = u16::try_from(chunk.len()).expect("a chunk is no longer");
        out.push(u8::from(index + 1 == count));
        out.extend(len.to_le_bytes());
        out.extend((!len).to_le_bytes());
        out.extend(chunk);
    }
    let crc = bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8)
            .fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    });
    out.extend((!crc).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

fn parse_range(text: &str, len: usize) -> Range<usize> {
    let (start, end) = text.trim_start_matches("bytes=").split_once('-').expect("a range");
    let start: usize = start.parse().expect("a number");
    start..end.parse::<usize>().map_or(len, |end| end + 1).min(len)
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        out.push(u8::from_str_radix(hex, 16).expect("two hex digits"));
        out.extend(rest.as_bytes());
    }
    String::from_utf8(out).expect("UTF-8")
}
