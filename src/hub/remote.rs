//! Parts of remote files, read without pulling them.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::client::{Hub, Online};
use super::error::{Error, Result};
use super::fetch::{Fetch, read_range};
use super::pattern::Pattern;
use super::plan::commit_of;
use super::repo::{CommitSha, Repo};
use super::tree::TreeFile;
use crate::progress::SharedProgress;

/// Bytes asked for first: enough for the header of most shards.
const HEADER_GUESS_BYTES: u64 = 256 << 10;
/// The longest safetensors header, by its own specification.
const HEADER_CAP_BYTES: u64 = 100_000_000;
/// The largest config or index read whole.
const TEXT_CAP_BYTES: u64 = 64 << 20;

/// A revision on the Hub, looked at from afar.
pub struct RemoteRevision<'a> {
    hub: &'a Hub,
    repo: Repo,
    /// The commit.
    pub commit: CommitSha,
    /// Its files, sorted by path.
    pub files: Vec<TreeFile>,
    progress: SharedProgress,
}

/// A file on the Hub, readable by ranges.
pub struct RemoteFile<'a> {
    revision: &'a RemoteRevision<'a>,
    /// What it is.
    pub file: TreeFile,
}

/// The small parts of a remote checkpoint that describe it.
#[derive(Debug, Clone)]
pub struct RemoteHeaders {
    /// The commit.
    pub commit: CommitSha,
    /// All files of the revision.
    pub files: Vec<TreeFile>,
    /// `config.json`.
    pub config: Option<Vec<u8>>,
    /// The `*.safetensors.index.json`, with its path.
    pub index: Option<(String, Vec<u8>)>,
    /// The first bytes of each `*.safetensors`: length and header, nothing of the tensors.
    pub shards: Vec<RemoteHeader>,
}

/// The header of one remote shard.
#[derive(Debug, Clone)]
pub struct RemoteHeader {
    /// The shard's path.
    pub path: String,
    /// The whole shard's size.
    pub size: u64,
    /// Its first `8 + n` bytes.
    pub bytes: Vec<u8>,
}

impl Hub {
    /// Looks at a revision: a branch, a tag or a commit.
    ///
    /// # Errors
    /// Those of the network; names that do not exist; [`Error::Offline`].
    pub fn open_remote<'a>(
        &'a self,
        repo: &Repo,
        revision: &str,
        progress: &SharedProgress,
    ) -> Result<RemoteRevision<'a>> {
        let pattern = Pattern::parse(revision)?;
        let name = pattern.as_single().ok_or_else(|| Error::BadPattern {
            pattern: crate::name::escape(revision),
            why: "one revision is wanted here".into(),
        })?;
        let missing =
            || (format!("{repo}@{revision}"), format!("tmax-ckpt pull {repo}@{revision}"));
        let (commit, files) = self.block_on(missing, |online| async move {
            let refs = online.refs(repo, progress).await?;
            let commit = commit_of(&online, repo, &refs, name, progress).await?;
            let files = online.tree(repo, &commit, progress).await?;
            Ok((commit, files))
        })?;
        let progress = Arc::clone(progress);
        Ok(RemoteRevision { hub: self, repo: repo.clone(), commit, files, progress })
    }

    /// Fetches config, index and shard headers of a revision, and nothing else.
    ///
    /// # Errors
    /// As [`Hub::open_remote`]; [`Error::Protocol`] for a header that cannot be one.
    pub fn remote_headers(
        &self,
        repo: &Repo,
        revision: &str,
        progress: &SharedProgress,
    ) -> Result<RemoteHeaders> {
        let remote = self.open_remote(repo, revision, progress)?;
        let top = |suffix: &str| {
            let fits = |f: &&TreeFile| f.path.ends_with(suffix) && !f.path.contains('/');
            remote.files.iter().filter(fits).map(|f| remote.file(f)).collect::<Vec<_>>()
        };
        let config = remote.find("config.json").map(|f| f.read_text()).transpose()?;
        let index = match top(".safetensors.index.json").first() {
            Some(file) => Some((file.file.path.clone(), file.read_text()?)),
            None => None,
        };
        let shards =
            top(".safetensors").iter().map(RemoteFile::read_header).collect::<Result<Vec<_>>>()?;
        Ok(RemoteHeaders {
            commit: remote.commit.clone(),
            config,
            index,
            shards,
            files: remote.files,
        })
    }
}

impl RemoteRevision<'_> {
    /// Returns a file by its path.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<RemoteFile<'_>> {
        self.files.iter().find(|f| f.path == path).map(|f| self.file(f))
    }

    fn file(&self, file: &TreeFile) -> RemoteFile<'_> {
        RemoteFile { revision: self, file: file.clone() }
    }

    fn fetch(&self, online: Arc<Online>, file: &TreeFile) -> Fetch {
        Fetch {
            online,
            repo: self.repo.clone(),
            commit: self.commit.clone(),
            file: file.clone(),
            item: file.path.clone(),
            connections: Arc::new(Semaphore::new(1)),
            progress: Arc::clone(&self.progress),
        }
    }
}

impl RemoteFile<'_> {
    /// Reads a range, which must lie inside the file.
    ///
    /// # Errors
    /// Those of the network; [`Error::RangeIgnored`] when the server has no ranges.
    pub fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let inside = range.start <= range.end && range.end <= self.file.size;
        if !inside {
            let why = format!("bytes {}..{} of {}", range.start, range.end, self.file.size);
            return Err(Error::Protocol { what: self.file.path.clone(), why });
        }
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let revision = self.revision;
        let never = || (self.file.path.clone(), format!("tmax-ckpt pull {}", revision.repo));
        revision.hub.block_on(never, |online| async move {
            read_range(&revision.fetch(online, &self.file), range).await
        })
    }

    fn read_text(&self) -> Result<Vec<u8>> {
        if self.file.size > TEXT_CAP_BYTES {
            let why = format!("{} is too much for it", crate::units::bytes(self.file.size));
            return Err(Error::Protocol { what: self.file.path.clone(), why });
        }
        self.read_range(0..self.file.size)
    }

    fn read_header(&self) -> Result<RemoteHeader> {
        let size = self.file.size;
        let mut bytes = self.read_range(0..size.min(HEADER_GUESS_BYTES))?;
        let bad = |why: String| Error::Protocol { what: self.file.path.clone(), why };
        let (length, _) =
            bytes.split_first_chunk::<8>().ok_or_else(|| bad("too short for a header".into()))?;
        let length = u64::from_le_bytes(*length);
        if length > HEADER_CAP_BYTES || length + 8 > size {
            return Err(bad(format!("a header of {length} bytes cannot be")));
        }
        let end = length + 8;
        let have = bytes.len() as u64;
        if have < end {
            bytes.extend(self.read_range(have..end)?);
        }
        bytes.truncate(usize::try_from(end).expect("at most 100 MB"));
        Ok(RemoteHeader { path: self.file.path.clone(), size, bytes })
    }
}
