//! Taking a GGUF file of the owner's into the store.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use tempfile::NamedTempFile;

use super::{
    Progress, Store, StoreError, StoreGuard, remove_if_there,
    room::{check_free, free_bytes},
    sync_dir,
    verify::hash,
};
use crate::models::{
    gguf::read_gguf,
    manifest::{Digest, Manifest},
    name::ModelRef,
};

/// How names of files begin that are being imported. Their writer holds a lock on them.
pub(super) const STAGED: &str = "import-";

/// What an import made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub name: ModelRef,
    /// Of the manifest.
    pub digest: Digest,
    pub bytes: u64,
}

impl Store {
    /// Makes a model of a GGUF file, which stays as it is.
    ///
    /// The store gets its own copy, because a blob must never change and the owner may edit the
    /// file. Where the file system can share the bytes of two files until one is written to (btrfs,
    /// XFS; Linux `FICLONE`) the copy takes no space and no time; a hard link would be the same
    /// file, so none is made. The file is hashed as it is copied.
    ///
    /// Refuses a name that is taken, a file that is not a whole GGUF model, and what goes beyond
    /// `budget_bytes` or would fill the disk. When it fails nothing is left; what a killed process
    /// leaves, [`Store::collect_garbage`] deletes.
    pub fn import(
        &self,
        source: &Path,
        name: &ModelRef,
        budget_bytes: Option<u64>,
        progress: Progress<'_>,
    ) -> Result<Imported, StoreError> {
        if let Some(taken) = self.taken(name) {
            return Err(StoreError::Exists(taken.id()));
        }
        let size = check_source(source)?;
        self.check_budget(size, budget_bytes)?;
        let staged = self.stage()?;
        let (digest, size) = self.fill(&staged, source, size, progress)?;
        // Once more, of the bytes that are kept: the file may have changed meanwhile.
        check_head(staged.path(), source)?;
        staged.as_file().sync_all().map_err(StoreError::io("sync", staged.path()))?;
        let guard = self.lock().map_err(StoreError::io("lock", &self.root))?;
        let manifest = Manifest::of_gguf(digest, size);
        let settled = self.settle(&guard, staged, digest, size, name, &manifest);
        if settled.is_err()
            && let Err(e) = self.remove_unused(&guard, std::iter::once(digest))
        {
            tracing::warn!("after an import that failed: {e}");
        }
        settled?;
        Ok(Imported { name: name.clone(), digest: manifest.digest, bytes: size })
    }

    /// An empty file among the blobs that nobody else touches.
    pub(super) fn stage(&self) -> Result<NamedTempFile, StoreError> {
        let blobs = self.blobs();
        let failed = || StoreError::io("write in", &blobs);
        // Garbage is collected under the same lock, so that it never sees the file without its own.
        let _guard = self.lock().map_err(failed())?;
        let staged =
            tempfile::Builder::new().prefix(STAGED).tempfile_in(&blobs).map_err(failed())?;
        staged.as_file().try_lock().map_err(|e| failed()(e.into()))?;
        Ok(staged)
    }

    /// Copies the source; returns its digest and length.
    pub(super) fn fill(
        &self,
        staged: &NamedTempFile,
        source: &Path,
        size: u64,
        progress: Progress<'_>,
    ) -> Result<(Digest, u64), StoreError> {
        let file = File::open(source).map_err(StoreError::io("read", source))?;
        let mut told = |done: u64| progress(done, size.max(done));
        if share_bytes(&file, staged.as_file()) {
            let shared = File::open(staged.path()).map_err(StoreError::io("read", source))?;
            return hash(shared, io::sink(), &mut told, source);
        }
        check_free(size, free_bytes(&self.root))?;
        // No more than was checked for: a file that grows is not what was asked for.
        let (digest, length) =
            hash(io::Read::take(file, size), staged.as_file(), &mut told, source)?;
        Ok((digest, length))
    }

    /// Gives the copy its name among the blobs and the model its manifest.
    pub(super) fn settle(
        &self,
        guard: &StoreGuard,
        staged: NamedTempFile,
        digest: Digest,
        size: u64,
        name: &ModelRef,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        if let Some(taken) = self.taken(name) {
            return Err(StoreError::Exists(taken.id()));
        }
        let blob = self.blob_path(digest);
        let failed = || StoreError::io("write", &blob);
        let lock = self.lock_blob(digest).map_err(failed())?;
        let lock = lock.ok_or_else(|| StoreError::Busy(digest.short()))?;
        if self.blob_size(digest) != Some(size) {
            staged.persist(&blob).map_err(|e| failed()(e.error))?;
            sync_dir(&self.blobs()).map_err(failed())?;
        }
        for part in [self.partial_path(digest), self.state_path(digest)] {
            remove_if_there(&part).map_err(failed())?;
        }
        self.unlock(lock).map_err(failed())?;
        self.install(guard, name, manifest)
            .map_err(StoreError::io("write", &self.manifest_path(name)))
    }
}

/// The name for an imported file: what the owner says, else the file's name with letters replaced
/// that model names cannot have.
pub fn import_name(source: &Path, given: Option<&str>) -> Result<ModelRef, StoreError> {
    if let Some(given) = given.filter(|given| !given.trim().is_empty()) {
        return Ok(ModelRef::local(given)?);
    }
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = stem.chars().map(|c| if allowed(c) { c } else { '-' }).take(100).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    Ok(ModelRef::local(if name.is_empty() { "imported" } else { name })?)
}

/// Length of the file, if it may be imported.
fn check_source(source: &Path) -> Result<u64, StoreError> {
    let meta = fs::metadata(source).map_err(StoreError::io("read", source))?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "a folder" } else { "not a file" };
        let why = format!("{} is {what}. Choose a GGUF file", source.display());
        return Err(StoreError::Refused(why));
    }
    check_head(source, source)?;
    Ok(meta.len())
}

/// Refuses what is no whole model; `shown` is the file that the owner knows.
fn check_head(path: &Path, shown: &Path) -> Result<(), StoreError> {
    let info = read_gguf(path)
        .map_err(|source| StoreError::NotLoadable { path: shown.to_path_buf(), source })?;
    if info.architecture == "clip" {
        let why = format!(
            "{} is the vision part of a model, not a model. Import the model's own file",
            shown.display()
        );
        return Err(StoreError::Refused(why));
    }
    Ok(())
}

/// Lets `to` share the bytes of `from` until either is written to, where the file system can.
#[cfg(target_os = "linux")]
fn share_bytes(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn share_bytes(_from: &File, _to: &File) -> bool {
    false
}
