//! Hashing layers again.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    ops::ControlFlow,
    path::Path,
};

use agent_api::models::Verified;
use sha2::{Digest as _, Sha256};

use super::{Progress, Store, StoreError, is_named, sync_dir};
use crate::models::{
    manifest::{Digest, Layer},
    name::ModelRef,
};

/// Read at a time: large enough that system calls do not count, small enough to stop quickly.
const CHUNK: usize = 1 << 20;

impl Store {
    /// Reads every layer of the model and compares it with its digest. Takes as long as the disk
    /// needs to read it all. A layer with other bytes than its digest says is put aside, so that the
    /// model counts as incomplete and a pull fetches it again.
    pub fn verify(&self, name: &ModelRef, progress: Progress<'_>) -> Result<Verified, StoreError> {
        let path = self.manifest_path(name);
        let manifest = self.manifest(name).map_err(StoreError::io("read", &path))?;
        let manifest = manifest.ok_or_else(|| StoreError::NotFound(name.id()))?;
        self.verify_layers(&name.id(), &manifest.layers, progress)
    }

    /// [`Store::verify`] for layers that are known already.
    pub(in crate::models) fn verify_layers(
        &self,
        id: &str,
        layers: &[Layer],
        progress: Progress<'_>,
    ) -> Result<Verified, StoreError> {
        let mut put_aside = |digest, file: &File| {
            if let Err(e) = self.put_aside(digest, file) {
                tracing::warn!("the damaged layer {digest} stays where it is: {e}");
            }
        };
        check_layers(id, &self.blobs(), layers, progress, &mut put_aside)
    }

    /// Renames a blob whose bytes are wrong. It is deleted once a good one is here, or nobody needs
    /// it.
    fn put_aside(&self, digest: Digest, file: &File) -> io::Result<()> {
        // Whoever has the lock is replacing it.
        let Some(lock) = self.lock_blob(digest)? else { return Ok(()) };
        let path = self.blob_path(digest);
        // A good one may have come while the bad one was read.
        if is_named(file, &path) {
            fs::rename(&path, self.damaged_path(digest))?;
            // It may have been made of the wrong bytes.
            self.remove_outboard(digest)?;
            sync_dir(&self.blobs())?;
        }
        self.unlock(lock)
    }
}

/// [`Store::verify`] for layers in any folder of blobs; nothing there is changed.
pub(in crate::models) fn verify_layers(
    id: &str,
    blobs: &Path,
    layers: &[Layer],
    progress: Progress<'_>,
) -> Result<Verified, StoreError> {
    check_layers(id, blobs, layers, progress, &mut |_, _| {})
}

fn check_layers(
    id: &str,
    blobs: &Path,
    layers: &[Layer],
    progress: Progress<'_>,
    wrong: &mut dyn FnMut(Digest, &File),
) -> Result<Verified, StoreError> {
    let mut seen = HashSet::new();
    let layers: Vec<&Layer> = layers.iter().filter(|layer| seen.insert(layer.digest)).collect();
    let total = layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
    let mut before = 0_u64;
    let mut damaged = Vec::new();
    for layer in layers {
        let path = blobs.join(layer.digest.file_name());
        let hashed = File::open(&path).map_err(StoreError::io("read", &path)).and_then(|file| {
            let mut told = |done: u64| progress(before.saturating_add(done).min(total), total);
            Ok((hash(&file, io::sink(), &mut told, &path)?.0, file))
        });
        match hashed {
            Ok((digest, _)) if digest == layer.digest => {}
            Err(StoreError::Stopped) => return Err(StoreError::Stopped),
            // What cannot be read may be readable tomorrow.
            Err(_) => damaged.push(layer.digest.to_string()),
            Ok((_, file)) => {
                wrong(layer.digest, &file);
                damaged.push(layer.digest.to_string());
            }
        }
        before = before.saturating_add(layer.size);
    }
    Ok(Verified { model: id.to_owned(), bytes: total, damaged })
}

/// Hashes all of `from` while it is written to `to`; returns the digest and the length.
pub(super) fn hash(
    mut from: impl Read,
    mut to: impl io::Write,
    told: &mut dyn FnMut(u64) -> ControlFlow<()>,
    path: &Path,
) -> Result<(Digest, u64), StoreError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0_u64;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(StoreError::io("read", path)(e)),
        };
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read]).map_err(StoreError::io("copy", path))?;
        done += read as u64;
        if told(done).is_break() {
            return Err(StoreError::Stopped);
        }
    }
    Ok((Digest::from_hash(hasher.finalize().into()), done))
}
