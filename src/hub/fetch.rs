//! The bytes of one file: ranges over several connections, each resumed where it broke off.
//!
//! hf-hub's stream accepts a whole file in answer to a range, and ends without an error when a
//! body of unknown length is short: both are checked here.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::client::Online;
use super::error::{Error, Result, Retry};
use super::part::PartFile;
use super::repo::{CommitSha, Repo, RepoKind};
use super::tree::TreeFile;
use crate::hash::Hash;
use crate::progress::SharedProgress;

/// Connections of one file.
const CONNECTIONS_PER_FILE: usize = 4;
/// Time between two checkpoints of a part file.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// What hf-hub streams a body as.
type ByteStream = Box<dyn Stream<Item = hf_hub::HFResult<bytes::Bytes>> + Send + Unpin>;

/// What to fetch and what it needs on the way.
#[derive(Clone)]
pub(super) struct Fetch {
    pub online: Arc<Online>,
    pub repo: Repo,
    pub commit: CommitSha,
    pub file: TreeFile,
    /// The name under which progress is reported.
    pub item: String,
    pub connections: Arc<Semaphore>,
    pub progress: SharedProgress,
}

/// How a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What is missing, over several connections; in one piece if the server knows no ranges.
    Ranges,
    /// From the first byte to the last, over one connection.
    Whole,
}

/// Fetches what a part file misses, hashes it all, and says whether the hash is right. A wrong
/// one is fetched anew once, in one piece: a proxy may have mixed up ranges.
pub(super) async fn complete(fetch: &Fetch, part: &Arc<PartFile>) -> Result<()> {
    let mut wrong = None;
    for way in [Way::Ranges, Way::Whole] {
        let got = attempt(fetch, part, way).await?;
        if got == fetch.file.hash {
            return Ok(());
        }
        wrong = Some(got);
        part.clear()?;
        let name = &fetch.item;
        fetch.progress.note(&format!("{name} does not match its hash: fetching it again"));
    }
    part.discard()?;
    let got = wrong.expect("both attempts above gave a hash");
    Err(Error::HashMismatch { path: fetch.item.clone(), expected: fetch.file.hash, got })
}

/// Ends the hash thread when the work around it ends early, and keeps what is done.
struct StopOnDrop(Arc<PartFile>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

async fn attempt(fetch: &Fetch, part: &Arc<PartFile>, way: Way) -> Result<Hash> {
    let stop = StopOnDrop(Arc::clone(part));
    let hash = tokio::task::spawn_blocking({
        let part = Arc::clone(part);
        move || part.hash()
    });
    let arrived = tokio::select! {
        arrived = arrive(fetch, part, way) => arrived,
        failed = checkpoints(part) => failed,
    };
    if let Err(error) = arrived {
        drop(stop);
        // What is written stays: the next run continues from it.
        let part = Arc::clone(part);
        let kept = tokio::task::spawn_blocking(move || part.checkpoint());
        kept.await.map_err(|e| Error::Worker(e.to_string()))??;
        return Err(error);
    }
    let hash = hash.await.map_err(|e| Error::Worker(e.to_string()))??;
    hash.ok_or_else(|| Error::Worker("the hash was stopped".into()))
}

async fn arrive(fetch: &Fetch, part: &Arc<PartFile>, way: Way) -> Result<()> {
    if way == Way::Whole {
        return fetch_whole(fetch, part).await;
    }
    match fetch_ranges(fetch, part).await {
        Err(Error::RangeIgnored { .. }) => {
            let item = &fetch.item;
            fetch
                .progress
                .note(&format!("the server ignores ranges: fetching {item} in one piece"));
            fetch_whole(fetch, part).await
        }
        other => other,
    }
}

/// Writes a checkpoint now and then; ends only by failing.
async fn checkpoints(part: &Arc<PartFile>) -> Result<()> {
    loop {
        tokio::time::sleep(CHECKPOINT_EVERY).await;
        let part = Arc::clone(part);
        let done = tokio::task::spawn_blocking(move || part.checkpoint());
        done.await.map_err(|e| Error::Worker(e.to_string()))??;
    }
}

async fn fetch_ranges(fetch: &Fetch, part: &Arc<PartFile>) -> Result<()> {
    let segments: VecDeque<_> =
        part.missing().into_iter().flat_map(|gap| split(gap, fetch.online.segment_bytes)).collect();
    let workers = segments.len().min(CONNECTIONS_PER_FILE);
    let queue = Arc::new(Mutex::new(segments));
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..workers {
        let (fetch, part, queue) = (fetch.clone(), Arc::clone(part), Arc::clone(&queue));
        tasks.spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(segment) = next else { return Ok(()) };
                fetch_segment(&fetch, &part, segment).await?;
            }
        });
    }
    // The first failure ends the others, and is returned when none of them writes any more.
    while let Some(done) = tasks.join_next().await {
        let done = done.map_err(|e| Error::Worker(e.to_string())).flatten();
        if done.is_err() {
            tasks.shutdown().await;
            return done;
        }
    }
    Ok(())
}

fn split(range: Range<u64>, segment_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let (end, step) = (range.end, segment_bytes.max(1));
    range.step_by(step as usize).map(move |at| at..end.min(at + step))
}

/// Fetches one range, continuing after each failure from the byte reached.
async fn fetch_segment(fetch: &Fetch, part: &Arc<PartFile>, segment: Range<u64>) -> Result<()> {
    let mut at = segment.start;
    let mut failures = 0;
    while at < segment.end {
        let before = at;
        let _permit = fetch.connections.acquire().await.expect("never closed");
        match stream(fetch, part, &mut at, segment.end).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                failures = if at > before { 0 } else { failures + 1 };
                retry_or_give_up(fetch, error, failures).await?;
            }
        }
    }
    Ok(())
}

/// Fetches the file from its first byte to its last over one connection.
async fn fetch_whole(fetch: &Fetch, part: &Arc<PartFile>) -> Result<()> {
    let _permit = fetch.connections.acquire().await.expect("never closed");
    for failures in 1.. {
        let mut at = 0;
        match stream(fetch, part, &mut at, fetch.file.size).await {
            Ok(()) => return Ok(()),
            Err(error) => retry_or_give_up(fetch, error, failures).await?,
        }
    }
    unreachable!("the loop above ends by returning")
}

async fn retry_or_give_up(fetch: &Fetch, error: Error, failures: u32) -> Result<()> {
    let attempts = fetch.online.timeouts.attempts;
    if failures >= attempts && error.retry() != Retry::Never {
        let what = fetch.item.clone();
        return Err(Error::GaveUp { what, attempts, source: Box::new(error) });
    }
    tracing::debug!(item = fetch.item, failures, %error, "transfer failed");
    fetch.online.back_off(error, failures, &fetch.progress).await
}

/// Streams `at..end` into the part file; `at` moves on with every byte that is safe.
async fn stream(fetch: &Fetch, part: &Arc<PartFile>, at: &mut u64, end: u64) -> Result<()> {
    let size = fetch.file.size;
    if *at == end {
        return Ok(());
    }
    let (start, want) = (*at, end - *at);
    let range = (start > 0 || end < size).then_some(start..end);
    let (len, mut body) = open(fetch, range.clone()).await?;
    match len {
        Some(len) if len == want => {}
        // From the first byte on, a body of unknown length is right whatever the server did.
        None if start == 0 => {}
        _ if range.is_some() => return Err(Error::RangeIgnored { what: fetch.item.clone() }),
        len => {
            let got = len.unwrap_or_default();
            return Err(Error::SizeMismatch { path: fetch.item.clone(), expected: size, got });
        }
    }
    while let Some(mut chunk) = next_chunk(fetch, &mut body).await? {
        let surplus = (*at + chunk.len() as u64).saturating_sub(end);
        chunk.truncate(chunk.len() - surplus as usize);
        let len = chunk.len() as u64;
        part.room(*at, chunk.len()).await;
        part.write(*at, chunk)?;
        *at += len;
        fetch.progress.advance(&fetch.item, len);
        if surplus > 0 {
            return Err(match range {
                Some(_) => Error::RangeIgnored { what: fetch.item.clone() },
                None => {
                    let got = size + surplus;
                    Error::SizeMismatch { path: fetch.item.clone(), expected: size, got }
                }
            });
        }
    }
    if *at < end {
        let why = format!("{} bytes short", end - *at);
        return Err(Error::Cut { what: fetch.item.clone(), why });
    }
    Ok(())
}

/// Opens hf-hub's byte stream: HTTP or Xet, whichever the file is in.
async fn open(fetch: &Fetch, range: Option<Range<u64>>) -> Result<(Option<u64>, ByteStream)> {
    let online = &fetch.online;
    online.wait_for_turn().await;
    // A handle whose kind is only known at run time asks for a dataset's metadata as for a model's.
    let (owner, name) = (fetch.repo.owner(), fetch.repo.name());
    let patience = online.timeouts.connect + online.timeouts.read;
    let answer = match fetch.repo.kind() {
        RepoKind::Model => timeout(patience, ask(online.hf.model(owner, name), fetch, range)).await,
        RepoKind::Dataset => {
            timeout(patience, ask(online.hf.dataset(owner, name), fetch, range)).await
        }
    };
    match answer {
        Ok(answer) => answer.map_err(|e| Error::from_hf(e, &fetch.item)),
        Err(_) => Err(Error::Stalled { what: fetch.item.clone(), after: patience }),
    }
}

/// Sends a HEAD and a GET, each perhaps with a redirect and a connection of its own.
async fn ask<T: hf_hub::RepoType>(
    repository: hf_hub::HFRepository<T>,
    fetch: &Fetch,
    range: Option<Range<u64>>,
) -> hf_hub::HFResult<(Option<u64>, ByteStream)> {
    repository
        .download_file_stream()
        .filename(&fetch.file.path)
        .revision(fetch.commit.as_str())
        .maybe_range(range)
        .send()
        .await
}

/// Waits for the next piece of a body, as long as a transfer may stand still.
async fn next_chunk(fetch: &Fetch, body: &mut ByteStream) -> Result<Option<bytes::Bytes>> {
    let patience = fetch.online.timeouts.read;
    let chunk = timeout(patience, body.next())
        .await
        .map_err(|_| Error::Stalled { what: fetch.item.clone(), after: patience })?;
    chunk.transpose().map_err(|e| Error::from_hf(e, &fetch.item))
}

/// Reads one range into memory, continuing after each failure from the byte reached.
pub(super) async fn read_range(fetch: &Fetch, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut failures = 0;
    loop {
        let before = bytes.len();
        match read_on(fetch, &range, &mut bytes).await {
            Ok(()) => return Ok(bytes),
            Err(error) => {
                failures = if bytes.len() > before { 0 } else { failures + 1 };
                retry_or_give_up(fetch, error, failures).await?;
            }
        }
    }
}

/// Reads what is left of a range; `bytes` holds what arrived, however this ends.
async fn read_on(fetch: &Fetch, range: &Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
    let start = range.start + bytes.len() as u64;
    let (len, mut body) = open(fetch, Some(start..range.end)).await?;
    let left = range.end - start;
    if len.is_some_and(|len| len != left) || (len.is_none() && start > 0) {
        return Err(Error::RangeIgnored { what: fetch.item.clone() });
    }
    let want = bytes.len() + left as usize;
    while let Some(chunk) = next_chunk(fetch, &mut body).await? {
        bytes.extend_from_slice(&chunk[..chunk.len().min(want - bytes.len())]);
        if bytes.len() == want {
            return Ok(());
        }
    }
    let why = format!("{} bytes short", want - bytes.len());
    Err(Error::Cut { what: fetch.item.clone(), why })
}
