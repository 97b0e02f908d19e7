//! A file on its way in: positional writes in any order, a journal of what is on disk, and the
//! hash of it all computed in order by one thread while the rest still arrives.
//!
//! The hash thread takes bytes from a bounded window in memory when they are next in line, and
//! reads them back from the page cache when they arrived too far ahead. Only what an earlier run
//! wrote is ever read for the hash alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};

use super::error::Result;
use super::hash::{Hash, Hasher};
use super::ranges::RangeSet;
use crate::fsio;

/// Bytes of one file kept in memory for the hash thread.
const WINDOW_BYTES: usize = 32 << 20;
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
}

#[derive(Debug, Default)]
struct State {
    written: RangeSet,
    window: BTreeMap<u64, Bytes>,
    window_bytes: usize,
    hashed: u64,
    stopped: bool,
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

    /// Writes bytes at their place and hands them to the hash thread.
    pub fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        debug_assert!(offset + bytes.len() as u64 <= self.size);
        self.file.write_all_at(&bytes, offset).map_err(fsio::Error::io("write", &self.path))?;
        let mut state = self.state();
        state.written.insert(offset..offset + bytes.len() as u64);
        if offset >= state.hashed && state.window_bytes + bytes.len() <= WINDOW_BYTES {
            state.window_bytes += bytes.len();
            if let Some(replaced) = state.window.insert(offset, bytes) {
                state.window_bytes -= replaced.len();
            }
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Hashes the whole file in order, waiting for what is still to come. `None` when stopped.
    pub fn hash(&self) -> Result<Option<Hash>> {
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
            // Bytes written twice (a second try that overlaps) may lie behind: drop them.
            while let Some(entry) = state.window.first_entry().filter(|e| *e.key() < at) {
                let dropped = entry.remove().len();
                state.window_bytes -= dropped;
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
    use super::{Bytes, Hash, PartFile, journal_path, resumable_bytes};
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
