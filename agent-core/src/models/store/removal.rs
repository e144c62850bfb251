//! Removing models and giving them second names.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use agent_api::models::Removed;

use super::{Store, StoreError, StoreGuard, remove_if_there, sync_dir};
use crate::models::{manifest::Digest, name::ModelRef};

impl Store {
    /// Removes the model and the layers that nothing else needs. Other models, pulls under way and
    /// pulls that are paused keep theirs. A reader that has a file open keeps reading it.
    pub fn remove(&self, name: &ModelRef) -> Result<Removed, StoreError> {
        let path = self.manifest_path(name);
        let guard = self.lock().map_err(StoreError::io("lock", &self.root))?;
        let known = self.known(name).ok_or_else(|| StoreError::NotFound(name.id()))?;
        // Before anything is gone: if it cannot be told what is shared, nothing is removed.
        self.references(&guard)?;
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        // The manifest must not come back after a power cut when its layers are gone.
        let folder = path.parent().unwrap_or(&self.root);
        sync_dir(folder).map_err(StoreError::io("sync", folder))?;
        self.remove_empty_folders(&path);
        let freed_bytes = self.remove_unused(&guard, known.digests.iter().copied())?;
        Ok(Removed { model: name.id(), freed_bytes })
    }

    /// Bytes that removing the model would free now.
    pub fn removable_bytes(&self, name: &ModelRef) -> Option<u64> {
        let inventory = self.inventory();
        let known = inventory.models.iter().find(|known| known.name == *name)?;
        Some(inventory.removable_bytes(known))
    }

    /// Gives a model a second name; the layers are shared.
    pub fn copy(&self, from: &ModelRef, to: &ModelRef) -> Result<(), StoreError> {
        let guard = self.lock().map_err(StoreError::io("lock", &self.root))?;
        if let Some(taken) = self.taken(to) {
            return Err(StoreError::Exists(taken.id()));
        }
        let path = self.manifest_path(from);
        let manifest = self.manifest(from).map_err(StoreError::io("read", &path))?;
        let manifest = manifest.ok_or_else(|| StoreError::NotFound(from.id()))?;
        let path = self.manifest_path(to);
        self.install(&guard, to, &manifest).map_err(StoreError::io("write", &path))
    }

    /// Deletes those blobs that nothing refers to and nobody writes; returns the bytes freed.
    pub(super) fn remove_unused(
        &self,
        guard: &StoreGuard,
        digests: impl Iterator<Item = Digest>,
    ) -> Result<u64, StoreError> {
        let referred = self.references(guard)?;
        let unused: HashSet<Digest> = digests.filter(|digest| !referred.contains(digest)).collect();
        let mut freed = 0_u64;
        for digest in unused {
            let path = self.blob_path(digest);
            let failed = || StoreError::io("remove", &path);
            let Some(lock) = self.lock_blob(digest).map_err(failed())? else { continue };
            let bytes = bytes_freed_by_removing(&path);
            let removed = remove_if_there(&path).and_then(|()| self.remove_outboard(digest));
            self.unlock(lock).map_err(failed())?;
            removed.map_err(failed())?;
            freed = freed.saturating_add(bytes);
        }
        sync_dir(&self.blobs()).map_err(StoreError::io("sync", &self.blobs()))?;
        Ok(freed)
    }

    /// Model, namespace and host folders that have nothing in them any more.
    fn remove_empty_folders(&self, manifest: &Path) {
        let manifests: PathBuf = self.root.join("manifests");
        let folders = manifest.ancestors().skip(1).take_while(|folder| **folder != *manifests);
        for folder in folders {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// Removes a GGUF file of the owner's; returns the bytes freed.
pub(in crate::models) fn remove_file(path: &Path) -> Result<u64, StoreError> {
    let bytes = bytes_freed_by_removing(path);
    fs::remove_file(path).map_err(StoreError::io("remove", path))?;
    Ok(bytes)
}

/// A link, or a file that has another name too, frees nothing.
pub(super) fn bytes_freed_by_removing(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    #[cfg(unix)]
    let is_only_name = std::os::unix::fs::MetadataExt::nlink(&meta) == 1;
    #[cfg(not(unix))]
    let is_only_name = true;
    if meta.is_file() && is_only_name { meta.len() } else { 0 }
}
