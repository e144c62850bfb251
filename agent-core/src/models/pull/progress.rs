//! What a running pull shows of itself, written by its threads and read by the queue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::sources::Sources;
use crate::models::{
    gguf::{self, GgufInfo},
    manifest::{Digest, Manifest},
};

/// Totals over all pulls since the start; for metrics, and for tests that nothing is done twice.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of layers that came over the network.
    pub received: AtomicU64,
    /// Bytes that went into a hash.
    pub hashed: AtomicU64,
    /// Of these, bytes that were read from disk because they had arrived ahead of their turn.
    pub read_back: AtomicU64,
}

/// One pull's progress.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes that came over the network for this pull, in this run of the node.
    pub received: AtomicU64,
    done: Mutex<HashMap<Digest, Arc<AtomicU64>>>,
    note: Mutex<String>,
    pub sources: Sources,
    /// The head of its model layer.
    pub head: Arc<HeadSlot>,
}

impl Progress {
    /// Bytes of a layer that are here.
    pub(super) fn layer(&self, digest: Digest) -> Arc<AtomicU64> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(done.entry(digest).or_default())
    }

    pub(super) fn done(&self, digest: Digest) -> u64 {
        self.layer(digest).load(Ordering::Relaxed)
    }

    /// All different layers together.
    pub(super) fn total_done(&self, manifest: &Manifest) -> u64 {
        let mut seen = std::collections::HashSet::new();
        let different = manifest.layers.iter().filter(|layer| seen.insert(layer.digest));
        different.map(|layer| self.done(layer.digest).min(layer.size)).sum()
    }

    /// What a person should know while it runs; empty: nothing.
    pub(super) fn note(&self) -> String {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_note(&self, note: impl Into<String>) {
        *self.note.lock().unwrap_or_else(PoisonError::into_inner) = note.into();
    }
}

/// Where the head of a GGUF is put as soon as enough of the file is here.
#[derive(Debug, Default)]
pub(super) struct HeadSlot {
    /// Bytes it was tried with last.
    tried: AtomicU64,
    info: Mutex<Option<Arc<GgufInfo>>>,
}

impl HeadSlot {
    /// The metadata with its vocabulary is 1 to 12 MiB.
    pub(super) const STEPS: [u64; 3] = [1 << 20, 4 << 20, 16 << 20];

    pub(super) fn info(&self) -> Option<Arc<GgufInfo>> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, info: GgufInfo) {
        *self.info.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(info));
    }

    /// How many of the file's first bytes to try next, if so many are here. The small step comes
    /// first also when all are: most heads are short.
    pub(super) fn due(&self, have: u64, total: u64) -> Option<u64> {
        let tried = self.tried.load(Ordering::Relaxed);
        let step = Self::STEPS.iter().map(|step| (*step).min(total)).find(|step| *step > tried);
        step.filter(|step| have >= *step && self.info().is_none())
    }

    pub(super) fn offer(&self, bytes: &[u8], total: u64) {
        self.tried.fetch_max(bytes.len() as u64, Ordering::Relaxed);
        if let Some(info) = parse_head(bytes, total) {
            self.set(info);
        }
    }
}

/// Reads the head from a file's first bytes; `None` if they do not hold all of it.
pub(super) fn parse_head(bytes: &[u8], file_bytes: u64) -> Option<GgufInfo> {
    gguf::parse_prefix(bytes, file_bytes).ok()
}
