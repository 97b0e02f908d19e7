//! A file on its way in: positional writes in any order, a journal of what is on disk, and the
//! hash of it all computed in order by one thread while the rest still arrives.
//!
//! The hash thread takes bytes from a bounded window in memory. It holds what the connections of
//! a file can be ahead of each other, and they wait a moment for room in it, so that as a rule
//! nothing is read back that this run wrote. What an earlier run wrote is read for the hash alone;
//! meanwhile arrivals far ahead of it are not held up, and are read back from the page cache.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::error::Result;
use super::ranges::RangeSet;
use crate::fsio;
use crate::hash::{Hash, Hasher};

/// Bytes of one file kept in memory for the hash thread: a segment for each of its connections.
const WINDOW_BYTES: usize = 128 << 20;
/// How long arrivals wait for room in the window.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes read back at once.
const READ_BACK_BYTES: u64 = 1 << 20;
/// The largest journal read: each line is short, and one is written a second.
const JOURNAL_CAP_BYTES: u64 = 64 << 20;

/// A partial file and its journal.
#[derive(Debug)]
pub(super) struct PartFile {
    path: PathBuf,
    journal: Mutex<File>,
    file: File,
    size: u64,
    expected: Hash,
    state: Mutex<State>,
    changed: Condvar,
    /// Told when there is room in the window again.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    written: RangeSet,
    window: BTreeMap<u64, Bytes>,
    window_bytes: usize,
    hashed: u64,
    stopped: bool,
}

impl State {
    /// Says whether bytes at `offset` should wait for the hash thread.
    fn is_crowded(&self, offset: u64, len: usize) -> bool {
        let busy = self.written.run_end(self.hashed) > self.hashed;
        let next = offset == self.hashed && !busy;
        let near = offset < self.hashed + 2 * WINDOW_BYTES as u64;
        near && !next && !self.stopped && self.window_bytes + len > WINDOW_BYTES
    }
}

/// What the hash thread does next.
enum Next {
    Hash(Bytes),
    ReadBack(Range<u64>),
    Done,
    Stopped,
}

/// Returns the journal that belongs to a part file.
pub(super) fn journal_path(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".journal");
    name.into()
}

impl PartFile {
    /// Opens or continues the part file for content of this hash and size. What a journal of
    /// other content left behind is discarded.
    pub fn open(path: &Path, expected: Hash, size: u64) -> Result<Self> {
        fsio::create_dir_all(fsio::parent(path))?;
        let file = fsio::open_rw(path)?;
        let journal_path = journal_path(path);
        let len = file.metadata().map_err(fsio::Error::io("stat", path))?.len();
        let written = read_journal(&journal_path, expected, size, len).unwrap_or_default();
        let mut journal = fsio::open_rw(&journal_path)?;
        // Ends the line that a kill may have torn; empty lines mean nothing.
        io::Seek::seek(&mut journal, io::SeekFrom::End(0))
            .and_then(|_| journal.write_all(b"\n"))
            .map_err(fsio::Error::io("write", &journal_path))?;
        let part = Self {
            path: path.to_owned(),
            journal: Mutex::new(journal),
            file,
            size,
            expected,
            state: Mutex::new(State { written, ..State::default() }),
            changed: Condvar::new(),
            freed: Notify::new(),
        };
        if part.written_bytes() == 0 {
            part.clear()?;
        }
        Ok(part)
    }

    /// Returns how many bytes are on disk.
    pub fn written_bytes(&self) -> u64 {
        self.state().written.total()
    }

    /// Returns what is missing.
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.state().written.missing(self.size)
    }

    /// Waits until the window has room for bytes that arrived at `offset`.
    ///
    /// The bytes that are next in line never wait for a hash thread that waits for them. All others
    /// wait a moment only: theirs may be the connection that the one in line needs.
    pub async fn room(&self, offset: u64, len: usize) {
        let room = async {
            loop {
                // Made before the question, so that no answer between the two is missed.
                let freed = self.freed.notified();
                if !self.state().is_crowded(offset, len) {
                    return;
                }
                freed.await;
            }
        };
        // Without room they are written all the same, and read back.
        let _ = tokio::time::timeout(ROOM_PATIENCE, room).await;
    }

    /// Writes bytes at their place and hands them to the hash thread. Bytes that are there already
    /// stay as they are: they may have been hashed, and a second answer may differ from the first.
    ///
    /// Two calls at the same time must not overlap.
    pub fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let end = offset + bytes.len() as u64;
        debug_assert!(end <= self.size);
        let gaps = self.state().written.missing_in(offset..end);
        for gap in gaps {
            let piece = (gap.start - offset) as usize..(gap.end - offset) as usize;
            self.write_new(gap.start, bytes.slice(piece))?;
        }
        Ok(())
    }

    fn write_new(&self, offset: u64, bytes: Bytes) -> Result<()> {
        self.file.write_all_at(&bytes, offset).map_err(fsio::Error::io("write", &self.path))?;
        let mut state = self.state();
        state.written.insert(offset..offset + bytes.len() as u64);
        if offset == state.hashed || state.window_bytes + bytes.len() <= WINDOW_BYTES {
            state.window_bytes += bytes.len();
            state.window.insert(offset, bytes);
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Hashes the whole file in order, waiting for what is still to come. `None` when stopped.
    pub fn hash(&self) -> Result<Option<Hash>> {
        let hash = self.hash_in_order();
        if hash.is_err() {
            // Nobody may wait for room that this thread will not make.
            self.stop();
        }
        hash
    }

    fn hash_in_order(&self) -> Result<Option<Hash>> {
        let mut hasher = self.expected.hasher(self.size);
        let mut buffer = Vec::new();
        loop {
            match self.next() {
                Next::Done => return Ok(Some(hasher.finish())),
                Next::Stopped => return Ok(None),
                Next::Hash(bytes) => self.take_in(&mut hasher, &bytes),
                Next::ReadBack(range) => {
                    buffer.resize((range.end - range.start) as usize, 0);
                    self.file
                        .read_exact_at(&mut buffer, range.start)
                        .map_err(fsio::Error::io("read back", &self.path))?;
                    self.take_in(&mut hasher, &buffer);
                }
            }
        }
    }

    fn take_in(&self, hasher: &mut Hasher, bytes: &[u8]) {
        hasher.update(bytes);
        self.state().hashed += bytes.len() as u64;
        self.freed.notify_waiters();
    }

    fn next(&self) -> Next {
        let mut state = self.state();
        loop {
            if state.stopped {
                return Next::Stopped;
            }
            let at = state.hashed;
            if at == self.size {
                return Next::Done;
            }
            if let Some(bytes) = state.window.remove(&at) {
                state.window_bytes -= bytes.len();
                return Next::Hash(bytes);
            }
            let window = state.window.keys().next().copied().unwrap_or(self.size);
            let end = state.written.run_end(at).min(window).min(at + READ_BACK_BYTES);
            if end > at {
                return Next::ReadBack(at..end);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the hash thread early.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
        self.freed.notify_waiters();
    }

    /// Makes what was written durable, then says so in the journal.
    pub fn checkpoint(&self) -> Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.state().written.clone();
        // Data first: a journal that is ahead of the disk would promise holes.
        self.file.sync_data().map_err(fsio::Error::io("flush", &self.path))?;
        let ranges: Vec<[u64; 2]> = written.ranges().iter().map(|r| [r.start, r.end]).collect();
        let line = format!("{}\n", json!({"written": ranges}));
        journal.write_all(line.as_bytes()).map_err(fsio::Error::io("write", &self.path))?;
        Ok(())
    }

    /// Gives the complete, checked file its name, and forgets the journal.
    pub fn commit(&self, to: &Path) -> Result<()> {
        self.file.sync_all().map_err(fsio::Error::io("flush", &self.path))?;
        fsio::create_dir_all(fsio::parent(to))?;
        fsio::rename(&self.path, to)?;
        remove_if_there(&journal_path(&self.path))
    }

    /// Forgets every byte, to start anew.
    pub fn clear(&self) -> Result<()> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        *self.state() = State::default();
        self.file.set_len(0).map_err(fsio::Error::io("truncate", &self.path))?;
        let header = json!({
            "schema": "tmax-ckpt.part/1", "hash": self.expected.hex(), "size_bytes": self.size,
        });
        let reset = |journal: &mut File| {
            journal.set_len(0)?;
            io::Seek::rewind(journal)?;
            journal.write_all(format!("{header}\n").as_bytes())
        };
        reset(&mut journal).map_err(fsio::Error::io("write the journal of", &self.path))?;
        Ok(())
    }

    /// Removes part and journal.
    pub fn discard(&self) -> Result<()> {
        remove_if_there(&journal_path(&self.path))?;
        remove_if_there(&self.path)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(fsio::Error::io("remove", path)(e).into())
        }
        _ => Ok(()),
    }
}

/// Returns what the last whole line of a fitting journal says is on disk.
fn read_journal(path: &Path, expected: Hash, size: u64, len: u64) -> Option<RangeSet> {
    let bytes = fsio::read_capped(path, JOURNAL_CAP_BYTES).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let mut lines = text.split_inclusive('\n');
    let header: Value = serde_json::from_str(lines.next()?).ok()?;
    let fits = header["schema"] == "tmax-ckpt.part/1"
        && header["hash"] == expected.hex().as_str()
        && header["size_bytes"] == size;
    if !fits {
        return None;
    }
    // A kill may have cut the last line: the one before it still holds.
    let last = lines.rfind(|line| line.ends_with('\n') && line.starts_with('{'))?;
    let line: Value = serde_json::from_str(last).ok()?;
    let mut written = RangeSet::default();
    for pair in line["written"].as_array()? {
        let (start, end) = (pair[0].as_u64()?, pair[1].as_u64()?);
        if start > end || end > size || end > len {
            return None;
        }
        written.insert(start..end);
    }
    Some(written)
}

/// Says how many bytes an interrupted download of this content left, without touching it.
pub(super) fn resumable_bytes(path: &Path, expected: Hash, size: u64) -> u64 {
    let len = std::fs::metadata(path).map_or(0, |meta| meta.len());
    read_journal(&journal_path(path), expected, size, len).map_or(0, |written| written.total())
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Hash, PartFile, WINDOW_BYTES, journal_path, resumable_bytes};
    use super::{Duration, ROOM_PATIENCE};
    use std::path::Path;

    const SIZE: usize = 5_000_000;

    fn content() -> Vec<u8> {
        (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn expected(content: &[u8]) -> Hash {
        let mut hasher = Hash::Sha256([0; 32]).hasher(0);
        hasher.update(content);
        hasher.finish()
    }

    fn write(part: &PartFile, content: &[u8], start: usize, end: usize) {
        let bytes = Bytes::copy_from_slice(&content[start..end]);
        part.write(start as u64, bytes).expect("writes");
    }

    #[test]
    fn hashes_in_order_what_arrives_in_any_order() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let content = content();
        let part = PartFile::open(&dir.path().join("x.part"), expected(&content), SIZE as u64)
            .expect("opens");
        std::thread::scope(|scope| {
            let hash = scope.spawn(|| part.hash());
            for start in [3, 1, 4, 0, 2].map(|i| i * 1_000_000) {
                for at in (start..start + 1_000_000).step_by(100_000) {
                    write(&part, &content, at, at + 100_000);
                }
            }
            let got = hash.join().expect("joins").expect("hashes");
            assert_eq!(got, Some(expected(&content)));
        });
        let to = dir.path().join("deep/x");
        part.commit(&to).expect("commits");
        assert_eq!(std::fs::read(&to).expect("reads"), content);
        assert!(!journal_path(&dir.path().join("x.part")).exists());
    }

    /// A server that ignores a range sends the file again from its first byte: what differs from
    /// the bytes that were hashed must not reach the disk.
    #[test]
    fn bytes_that_were_hashed_are_never_overwritten() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let content = content();
        let part = PartFile::open(&dir.path().join("x.part"), expected(&content), SIZE as u64)
            .expect("opens");
        write(&part, &content, 1_000_000, 2_000_000);
        write(&part, &content, 4_000_000, 4_500_000);
        let mut again = content.clone();
        again[1_000_000..2_000_000].fill(7);
        again[4_400_000] ^= 1;
        for at in (0..SIZE).step_by(300_000) {
            write(&part, &again, at, (at + 300_000).min(SIZE));
        }
        assert_eq!(part.hash().expect("hashes"), Some(expected(&content)));
        let to = dir.path().join("x");
        part.commit(&to).expect("commits");
        assert!(std::fs::read(&to).expect("reads") == content);
    }

    #[test]
    fn continues_from_the_journal_even_with_a_torn_line() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("x.part");
        let content = content();
        let open = || PartFile::open(&path, expected(&content), SIZE as u64).expect("opens");
        let part = open();
        write(&part, &content, 0, 2_000_000);
        write(&part, &content, 4_000_000, 5_000_000);
        part.checkpoint().expect("checkpoints");
        drop(part);
        let journal = journal_path(&path);
        let torn = [std::fs::read(&journal).expect("reads"), b"{\"written\":[[0,5".into()].concat();
        std::fs::write(&journal, torn).expect("writes");
        assert_eq!(resumable_bytes(&path, expected(&content), SIZE as u64), 3_000_000);
        let part = open();
        assert_eq!(part.missing(), vec![2_000_000..4_000_000; 1]);
        write(&part, &content, 2_000_000, 4_000_000);
        assert_eq!(part.hash().expect("hashes"), Some(expected(&content)));
    }

    #[test]
    fn forgets_what_belongs_to_other_content() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("x.part");
        let content = content();
        let part = PartFile::open(&path, expected(&content), SIZE as u64).expect("opens");
        write(&part, &content, 0, 1000);
        part.checkpoint().expect("checkpoints");
        drop(part);
        let other = Hash::Sha256([7; 32]);
        assert_eq!(PartFile::open(&path, other, 1000).expect("opens").written_bytes(), 0);
        assert_eq!(std::fs::metadata(&path).expect("stats").len(), 0);
    }

    #[test]
    fn a_journal_that_promises_too_much_is_not_believed() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("x.part");
        let part = PartFile::open(&path, Hash::Sha256([7; 32]), 1000).expect("opens");
        part.write(0, Bytes::from_static(b"0123456789")).expect("writes");
        part.checkpoint().expect("checkpoints");
        std::fs::File::options().write(true).open(&path).expect("opens").set_len(5).expect("cuts");
        assert_eq!(resumable_bytes(Path::new(&path), Hash::Sha256([7; 32]), 1000), 0);
    }

    /// Whoever is faster waits: nothing of a file four times the window is read back.
    #[test]
    fn arrivals_wait_for_the_hash() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let chunk = Bytes::from(content()).slice(..1 << 20);
        let count = 4 * (WINDOW_BYTES >> 20);
        let size = (count << 20) as u64;
        let mut hasher = Hash::Sha256([0; 32]).hasher(size);
        (0..count).for_each(|_| hasher.update(&chunk));
        let expected = hasher.finish();
        let part = PartFile::open(&dir.path().join("x.part"), expected, size).expect("opens");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let held = std::thread::scope(|scope| {
            let hash = scope.spawn(|| part.hash());
            let mut held = 0;
            runtime.block_on(async {
                for at in (0..count as u64).map(|i| i << 20) {
                    part.room(at, chunk.len()).await;
                    part.write(at, chunk.clone()).expect("writes");
                    let state = part.state();
                    held = held.max(state.window_bytes);
                    let waiting = state.written.run_end(state.hashed) - state.hashed;
                    // One chunk is with the hash thread at most, all others are in the window.
                    assert!(waiting <= (state.window_bytes + (1 << 20)) as u64);
                }
            });
            assert_eq!(hash.join().expect("joins").expect("hashes"), Some(expected));
            held
        });
        assert!(held <= WINDOW_BYTES + (1 << 20));
    }

    #[test]
    fn nobody_waits_for_a_hash_that_ended() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let size = 8 * WINDOW_BYTES as u64;
        let path = dir.path().join("x.part");
        let part = PartFile::open(&path, Hash::Sha256([7; 32]), size).expect("opens");
        let chunk = Bytes::from(vec![0; WINDOW_BYTES]);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        // No thread hashes: the second chunk finds no room until the work is stopped.
        part.write(0, chunk.clone()).expect("writes");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                runtime.block_on(part.room(WINDOW_BYTES as u64, chunk.len()));
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waits.is_finished());
            part.stop();
        });
        // What is far ahead of the hash does not wait, nor what it waits for.
        let part = PartFile::open(&path, Hash::Sha256([8; 32]), size).expect("opens");
        part.write(0, chunk.clone()).expect("writes");
        let now = std::time::Instant::now();
        runtime.block_on(part.room(4 * WINDOW_BYTES as u64, chunk.len()));
        part.clear().expect("clears");
        part.write(WINDOW_BYTES as u64, chunk.clone()).expect("writes");
        runtime.block_on(part.room(0, chunk.len()));
        assert!(now.elapsed() < ROOM_PATIENCE);
    }

    #[test]
    fn stopping_ends_the_hash_thread() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let part =
            PartFile::open(&dir.path().join("x.part"), Hash::Sha256([7; 32]), 1000).expect("opens");
        std::thread::scope(|scope| {
            let hash = scope.spawn(|| part.hash());
            part.stop();
            assert_eq!(hash.join().expect("joins").expect("ends"), None);
        });
    }
}
