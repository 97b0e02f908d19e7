//! A commit of the shared cache as plain files.
//!
//! A snapshot is made of links. Tasks must not be: whoever may name a link's target chooses which
//! file of this machine goes into a sandbox. Under `.plain/<commit>/`, beside the snapshots, the
//! same blobs have their paths as second names, so nothing is stored twice; where the file system
//! has no hard links, as copies.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::client::Hub;
use super::error::Result;
use super::lock::{Waiter, lock_blocking};
use super::plan::PlannedRevision;
use super::repo::Repo;
use super::store::RepoCache;
use super::tree::TreeFile;
use crate::fsio;
use crate::hash::hash_file;
use crate::progress::{Cancel, SharedProgress};

impl Hub {
    /// Shows the files of a revision that was pulled into the cache as plain files, and nothing
    /// else; returns their folder.
    ///
    /// # Errors
    /// The file system's, also when a file was not pulled.
    pub fn lay_out(
        &self,
        repo: &Repo,
        revision: &PlannedRevision,
        progress: &SharedProgress,
        cancel: &Cancel,
    ) -> Result<PathBuf> {
        let cache = RepoCache::new(&self.config().cache_dir, repo);
        let folder = cache.plain(&revision.commit);
        fsio::create_dir_all(&folder)?;
        let other = "lays out the tasks of this repository";
        let _lock = lock_blocking(&cache.plain_lock(), Waiter { other, progress, cancel })?;
        for planned in &revision.files {
            let file = &planned.file;
            let blob = cache.slot(&file.hash).place;
            show(&blob, file, &folder.join(&file.path), |blob, path| {
                std::fs::hard_link(blob, path)
            })?;
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

/// How a blob gets a second name.
type HardLink = fn(&Path, &Path) -> std::io::Result<()>;

/// Gives a blob a second name, or makes a copy where the file system has no such names.
fn show(blob: &Path, file: &TreeFile, path: &Path, hard_link: HardLink) -> Result<()> {
    let source = blob.metadata().map_err(fsio::Error::io("stat", blob))?;
    let there = path.symlink_metadata().ok();
    let is_source = |there: &Metadata| (there.dev(), there.ino()) == (source.dev(), source.ino());
    if there.as_ref().is_some_and(is_source) {
        return Ok(());
    }
    fsio::create_dir_all(fsio::parent(path))?;
    // Replaces what is there by a rename: whoever reads it never finds the name missing.
    let part = fsio::part_path(path);
    super::part::remove_if_there(&part)?;
    if hard_link(blob, &part).is_ok() {
        return Ok(fsio::rename(&part, path)?);
    }
    match there {
        Some(there) if is_copy(path, &there, file)? => Ok(()),
        _ => Ok(fsio::copy_file(blob, path)?),
    }
}

/// Says whether a file, which is no link, has the right bytes.
fn is_copy(path: &Path, there: &Metadata, file: &TreeFile) -> Result<bool> {
    let fits = there.is_file() && there.len() == file.size;
    Ok(fits && hash_file(path, &file.hash, &|_| {})? == file.hash)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use super::{TreeFile, show};
    use crate::hash::Hash;

    fn refused(_: &Path, _: &Path) -> std::io::Result<()> {
        Err(std::io::ErrorKind::CrossesDevices.into())
    }

    #[test]
    fn a_copy_that_is_right_is_left_alone_and_a_wrong_one_replaced() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let (blob, path) = (dir.path().join("blob"), dir.path().join("deep/file"));
        std::fs::write(&blob, b"hello").expect("writes");
        let mut hasher = Hash::GitSha1([0; 20]).hasher(5);
        hasher.update(b"hello");
        let hash = hasher.finish();
        let (git_oid, xet_hash) = (hash.hex(), None);
        let file = TreeFile { path: "deep/file".into(), size: 5, hash, git_oid, xet_hash };
        let inode = || path.symlink_metadata().expect("is there").ino();
        show(&blob, &file, &path, refused).expect("copies");
        let (first, open) = (inode(), std::fs::File::open(&path).expect("opens"));
        show(&blob, &file, &path, refused).expect("leaves it");
        assert_eq!(inode(), first, "copied again");

        std::fs::write(&path, b"jello").expect("writes");
        show(&blob, &file, &path, refused).expect("replaces it");
        assert_eq!(std::fs::read(&path).expect("reads"), b"hello");
        assert_ne!(inode(), first, "written over under its reader");
        drop(open);
        // What another blob of the same bytes left there is not kept beside this one.
        show(&blob, &file, &path, |blob, path| std::fs::hard_link(blob, path)).expect("links");
        assert_eq!(inode(), blob.metadata().expect("is there").ino());
        let names = std::fs::read_dir(path.parent().expect("has one")).expect("lists").count();
        assert_eq!(names, 1, "nothing is left beside it");
        // A link is no plain file, whatever it leads to.
        std::fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink(&blob, &path).expect("links");
        show(&blob, &file, &path, refused).expect("replaces it");
        assert!(path.symlink_metadata().expect("is there").is_file());
    }
}
