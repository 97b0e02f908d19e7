//! `inspect` of a revision on the Hub: config, index and headers, by ranges.

use std::path::{Path, PathBuf};

use super::context::Context;
use super::hub;
use crate::arch::ModelConfig;
use crate::checkpoint::{CONFIG_FILE, CheckpointError};
use crate::error::Result;
use crate::hub::{CommitSha, RemoteHeader, RemoteHeaders, RepoRef};
use crate::name::escape;
use crate::ops::inspect::FileHead;
use crate::safetensors::{self, Header, INDEX_FILE, Index, IndexFault, SINGLE_FILE};
use crate::units;

/// The heads of a checkpoint that is not on this machine.
pub(super) struct RemoteCheckpoint {
    /// `owner/name@rev`.
    pub label: String,
    /// The commit.
    pub commit: CommitSha,
    /// The config, if the revision has one.
    pub config: Option<ModelConfig>,
    shards: Vec<(String, u64, Header)>,
    total_bytes: u64,
}

impl RemoteCheckpoint {
    /// Reads config, index and headers, and nothing else.
    ///
    /// # Errors
    /// Those of the network; what [`crate::checkpoint::TensorSet::open`] would refuse.
    pub fn read(reference: &RepoRef, ctx: &Context) -> Result<Self> {
        let hub = hub::open(ctx)?;
        let revision = reference.revision_or_main();
        let headers = hub.remote_headers(&reference.repo, revision, &ctx.progress())?;
        let label = reference.to_string();
        let dir = PathBuf::from(&label);
        let config = headers.config.as_deref().map(ModelConfig::parse).transpose();
        let path = dir.join(CONFIG_FILE);
        let config = config.map_err(|source| CheckpointError::Config { path, source })?;
        let shards = shards(&headers, &dir)?;
        let total_bytes = headers.files.iter().map(|f| f.size).sum();
        Ok(Self { label, commit: headers.commit, config, shards, total_bytes })
    }

    /// Returns the heads of the files with tensors.
    pub fn heads(&self) -> Vec<FileHead<'_>> {
        self.shards
            .iter()
            .map(|(name, len_bytes, header)| FileHead { name, len_bytes: *len_bytes, header })
            .collect()
    }

    /// Says where this came from and how to have all of it.
    pub fn hint(&self) -> String {
        let total = units::bytes(self.total_bytes);
        format!("note: headers read from the Hub; `tmax-ckpt pull {}` fetches {total}", self.label)
    }
}

/// Picks the files that loaders read, and checks them as those of a folder are checked.
fn shards(headers: &RemoteHeaders, dir: &Path) -> Result<Vec<(String, u64, Header)>> {
    let index = headers.index.as_ref().filter(|(path, _)| path == INDEX_FILE);
    let single = headers.shards.iter().find(|shard| shard.path == SINGLE_FILE);
    let parsed = |shard: &RemoteHeader| -> Result<(String, u64, Header)> {
        let header = Header::parse(&shard.bytes, shard.size).map_err(|fault| {
            safetensors::Error::File { path: dir.join(escape(&shard.path)), fault }
        })?;
        Ok((shard.path.clone(), shard.size, header))
    };
    let index = match (index, single) {
        (Some(_), Some(_)) => {
            return Err(CheckpointError::Ambiguous { dir: dir.to_owned() }.into());
        }
        (None, None) => {
            let other = headers.shards.iter().map(|s| escape(&s.path)).take(5).collect();
            return Err(CheckpointError::NoTensors { dir: dir.to_owned(), other }.into());
        }
        (None, Some(single)) => return Ok(vec![parsed(single)?]),
        (Some((_, bytes)), None) => bytes,
    };
    let fault = |fault| safetensors::Error::Index { path: dir.join(INDEX_FILE), fault };
    let index = Index::parse(index).map_err(fault)?;
    let shards = index
        .shards()
        .into_iter()
        .map(|name| match headers.shards.iter().find(|shard| shard.path == name) {
            Some(shard) => parsed(shard),
            None => Err(fault(IndexFault::MissingShard(name.to_owned())).into()),
        })
        .collect::<Result<Vec<_>>>()?;
    let held: Vec<(&str, &Header)> = shards.iter().map(|(n, _, h)| (n.as_str(), h)).collect();
    match index.faults(&held).into_iter().next() {
        Some(found) => Err(fault(found).into()),
        None => Ok(shards),
    }
}
