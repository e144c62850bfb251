//! Compiled modules by their SHA-256, least recently used first out.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::module::Compiled;

/// A compiled module of the largest size takes tens of MiB; usually it is one or two.
const MAX_MODULES: usize = 32;

/// Filled by whoever comes first; the others wait for it.
type Entry = Arc<OnceCell<Arc<Compiled>>>;

#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The most recently used is the last.
    entries: Mutex<Vec<(String, Entry)>>,
}

impl Cache {
    /// The entry of a module, if it has one.
    pub(super) fn known(&self, sha256: &str) -> Option<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|(key, _)| key == sha256)?;
        let found = entries.remove(at);
        let entry = Arc::clone(&found.1);
        entries.push(found);
        Some(entry)
    }

    /// The entry of a module, made if need be.
    pub(super) fn entry(&self, sha256: &str) -> Entry {
        if let Some(entry) = self.known(sha256) {
            return entry;
        }
        let entry = Entry::default();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_MODULES {
            entries.remove(0);
        }
        entries.push((sha256.to_owned(), Arc::clone(&entry)));
        entry
    }
}
