//! A commit of the shared cache as plain files.
//!
//! A snapshot is made of links. Tasks must not be: whoever may name a link's target chooses which
//! file of this machine goes into a sandbox. Under `.plain/<commit>/`, beside the snapshots, the
//! same blobs have their paths as second names, so nothing is stored twice; where the file system
//! has no hard links, as copies.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::Hub;
use super::error::Result;
use super::plan::PlannedRevision;
use super::repo::Repo;
use super::store::RepoCache;
use crate::fsio;

/// Between two looks whether another process is done.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

impl Hub {
    /// Shows the files of a revision that was pulled into the cache as plain files, and nothing
    /// else; returns their folder.
    ///
    /// # Errors
    /// The file system's, also when a file was not pulled.
    pub fn lay_out(&self, repo: &Repo, revision: &PlannedRevision) -> Result<PathBuf> {
        let cache = RepoCache::new(&self.config().cache_dir, repo);
        let folder = cache.plain(&revision.commit);
        fsio::create_dir_all(&folder)?;
        let _lock = wait_for(&cache.plain_lock())?;
        for planned in &revision.files {
            let file = &planned.file;
            show(&cache.slot(&file.hash).place, &folder.join(&file.path))?;
        }
        // Anything else, such as what a killed copy left, would count as part of a task.
        for name in fsio::files_below(&folder)? {
            let known = |path: &str| revision.tree.binary_search_by(|f| f.path.as_str().cmp(path));
            if known(&name).is_err() {
                super::part::remove_if_there(&folder.join(&name))?;
            }
        }
        Ok(folder)
    }
}

fn wait_for(path: &Path) -> Result<fsio::Locked> {
    fsio::create_dir_all(fsio::parent(path))?;
    loop {
        if let Some(lock) = fsio::Locked::try_new(fsio::open_rw(path)?, path)? {
            return Ok(lock);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Gives a blob a second name.
fn show(blob: &Path, path: &Path) -> Result<()> {
    let source = blob.metadata().map_err(fsio::Error::io("stat", blob))?;
    if let Ok(there) = path.symlink_metadata() {
        if (there.dev(), there.ino()) == (source.dev(), source.ino()) {
            return Ok(());
        }
        super::part::remove_if_there(path)?;
    }
    fsio::create_dir_all(fsio::parent(path))?;
    if std::fs::hard_link(blob, path).is_ok() {
        return Ok(());
    }
    Ok(fsio::copy_file(blob, path)?)
}
