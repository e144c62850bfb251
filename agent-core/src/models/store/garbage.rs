//! Deleting what nothing refers to.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    Store, StoreError, StoreGuard, import::STAGED, removal::bytes_freed_by_removing,
    remove_if_there, room::allocated, sync_dir,
};
use crate::models::manifest::Digest;

/// A temporary file beside the blobs is written and renamed within moments. One this old is left over
/// from a process that was killed.
const LEFT_OVER: Duration = Duration::from_secs(60 * 60);
/// How names of temporary files begin (`tempfile`'s default).
const TEMPORARY: &str = ".tmp";

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Complete layers count with their length, parts with the space they took.
    pub freed_bytes: u64,
    pub removed_files: u64,
    /// Files that are not ours to judge; they are logged and stay.
    pub unknown_files: u64,
}

impl Collected {
    fn removed(&mut self, bytes: u64) {
        self.freed_bytes = self.freed_bytes.saturating_add(bytes);
        self.removed_files += 1;
    }
}

/// What a file among the blobs is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BlobFile {
    /// A blob, its parts, its state or its lock.
    Of(Digest),
    /// The hash tree of a blob.
    Outboard(Digest),
    /// A blob that was put aside because its bytes are wrong.
    Damaged(Digest),
    Staged,
    Temporary,
    Unknown,
}

fn classify(name: &str) -> BlobFile {
    if name.starts_with(STAGED) {
        return BlobFile::Staged;
    }
    if name.starts_with(TEMPORARY) {
        return BlobFile::Temporary;
    }
    // The digits in capitals would be another file.
    let of = |stem: &str| Digest::from_file_name(stem).filter(|d| d.file_name() == stem);
    if let Some(digest) = name.strip_suffix(".damaged").and_then(of) {
        return BlobFile::Damaged(digest);
    }
    if let Some(digest) = name.strip_suffix(".outboard").and_then(of) {
        return BlobFile::Outboard(digest);
    }
    let stem = [".partial", ".state", ".lock"].iter().find_map(|end| name.strip_suffix(end));
    of(stem.unwrap_or(name)).map_or(BlobFile::Unknown, BlobFile::Of)
}

impl Store {
    /// Deletes blobs that no manifest and no pull refers to, and what killed processes left. Parts
    /// of pulls that are known stay, and so does every file with a name that is not ours.
    pub fn collect_garbage(&self) -> Result<Collected, StoreError> {
        let guard = self.lock().map_err(StoreError::io("lock", &self.root))?;
        let mut collected = Collected::default();
        // Somebody shares blobs with another program, which may be writing some right now.
        if fs::symlink_metadata(self.blobs()).is_ok_and(|meta| meta.is_symlink()) {
            tracing::info!("{} is a link; nothing in it is deleted", self.blobs().display());
            return Ok(collected);
        }
        remove_temporary(&self.root.join("pulls"), 0, &mut collected);
        remove_temporary(&self.root.join("manifests"), 0, &mut collected);
        remove_empty(&self.root.join("manifests"), 0);
        let referred = self.references(&guard)?;
        let blobs = self.blobs();
        let entries = fs::read_dir(&blobs).map_err(StoreError::io("list", &blobs))?;
        // Whether there is more of it than the blob.
        let mut found: HashMap<Digest, bool> = HashMap::new();
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let kind = entry.file_name().to_str().map_or(BlobFile::Unknown, classify);
            match kind {
                BlobFile::Of(digest) => {
                    let has_more = path.extension().is_some();
                    *found.entry(digest).or_default() |= has_more;
                }
                // Goes with the blob, or was left by one.
                BlobFile::Outboard(digest) => {
                    let has_no_blob = self.blob_size(digest).is_none();
                    *found.entry(digest).or_default() |= has_no_blob;
                }
                BlobFile::Staged => remove_if_unlocked(&path, &mut collected),
                BlobFile::Temporary if is_left_over(&path) => {
                    remove_if_unlocked(&path, &mut collected);
                }
                // A model that cannot be fetched again is of some use to its owner even so.
                BlobFile::Damaged(digest)
                    if !referred.contains(&digest) || self.blob_size(digest).is_some() =>
                {
                    remove_if_unlocked(&path, &mut collected);
                }
                BlobFile::Temporary | BlobFile::Damaged(_) => {}
                BlobFile::Unknown => {
                    tracing::info!("{} is not a file of this store; it stays", path.display());
                    collected.unknown_files += 1;
                }
            }
        }
        for (digest, has_more) in found {
            let is_referred = referred.contains(&digest);
            if !is_referred || has_more {
                self.collect_blob(&guard, digest, is_referred, &mut collected)?;
            }
        }
        sync_dir(&blobs).map_err(StoreError::io("sync", &blobs))?;
        Ok(collected)
    }

    fn collect_blob(
        &self,
        _guard: &StoreGuard,
        digest: Digest,
        is_referred: bool,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        let blob = self.blob_path(digest);
        let failed = || StoreError::io("remove", &blob);
        let had_lock_file = self.lock_path(digest).exists();
        // Whoever has the lock is writing it: none of our business.
        let Some(lock) = self.lock_blob(digest).map_err(failed())? else { return Ok(()) };
        let is_complete = fs::symlink_metadata(&blob).is_ok();
        if !is_referred && is_complete {
            let bytes = bytes_freed_by_removing(&blob);
            remove_if_there(&blob).map_err(failed())?;
            collected.removed(bytes);
        }
        if (!is_referred || !is_complete)
            && let Ok(meta) = fs::symlink_metadata(self.outboard_path(digest))
        {
            self.remove_outboard(digest).map_err(failed())?;
            collected.removed(allocated(&meta));
        }
        // Parts of what is needed and not here yet belong to a pull that goes on some day.
        if !is_referred || is_complete {
            for path in [self.partial_path(digest), self.state_path(digest)] {
                if let Ok(meta) = fs::symlink_metadata(&path) {
                    remove_if_there(&path).map_err(failed())?;
                    collected.removed(allocated(&meta));
                }
            }
        }
        self.unlock(lock).map_err(failed())?;
        collected.removed_files += u64::from(had_lock_file);
        Ok(())
    }
}

/// Tags lie four folders deep.
const DEPTH: usize = 4;

/// Folders for a manifest that was never written.
fn remove_empty(folder: &Path, depth: usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if depth < DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path(), depth + 1);
            // Fails where something is in it, as it should.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Manifests and reservations are only written under the store's lock, which is held: a temporary
/// file there has lost its writer.
fn remove_temporary(folder: &Path, depth: usize, collected: &mut Collected) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_temporary = entry.file_name().to_string_lossy().starts_with(TEMPORARY);
        if is_folder && depth < DEPTH {
            remove_temporary(&entry.path(), depth + 1, collected);
        } else if !is_folder && is_temporary {
            remove_if_unlocked(&entry.path(), collected);
        }
    }
}

fn is_left_over(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > LEFT_OVER))
}

fn remove_if_unlocked(path: &Path, collected: &mut Collected) {
    let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let Ok(file) = File::open(path) else { return };
    if !is_file || matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        return;
    }
    let bytes = file.metadata().map_or(0, |meta| allocated(&meta));
    match remove_if_there(path) {
        Ok(()) => collected.removed(bytes),
        Err(e) => tracing::warn!("cannot remove {}: {e}", path.display()),
    }
}
