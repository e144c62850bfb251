//! Hashing layers again.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
    path::Path,
};

use agent_api::models::Verified;
use sha2::{Digest as _, Sha256};

use super::{Progress, Store, StoreError};
use crate::models::{
    manifest::{Digest, Layer},
    name::ModelRef,
};

/// Read at a time: large enough that system calls do not count, small enough to stop quickly.
const CHUNK: usize = 1 << 20;

impl Store {
    /// Reads every layer of the model and compares it with its digest. Takes as long as the disk
    /// needs to read it all.
    pub fn verify(&self, name: &ModelRef, progress: Progress<'_>) -> Result<Verified, StoreError> {
        let path = self.manifest_path(name);
        let manifest = self.manifest(name).map_err(StoreError::io("read", &path))?;
        let manifest = manifest.ok_or_else(|| StoreError::NotFound(name.id()))?;
        verify_layers(&name.id(), &self.blobs(), &manifest.layers, progress)
    }
}

/// [`Store::verify`] for layers in any folder of blobs.
pub(in crate::models) fn verify_layers(
    id: &str,
    blobs: &Path,
    layers: &[Layer],
    progress: Progress<'_>,
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
            hash(file, io::sink(), &mut told, &path)
        });
        match hashed {
            Ok((digest, _)) if digest == layer.digest => {}
            Err(StoreError::Stopped) => return Err(StoreError::Stopped),
            Ok(_) | Err(_) => damaged.push(layer.digest.to_string()),
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
