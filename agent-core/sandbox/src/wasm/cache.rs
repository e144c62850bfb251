//! Compiled modules by their SHA-256, least recently used first out.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::SetOnce;

use super::{Outcome, module::Compiled};

/// A compiled module of the largest size takes tens of MiB; usually it is one or two.
const MAX_MODULES: usize = 32;

/// Set when the compilation ended, however it did: what failed once is not tried again.
pub(super) type Entry = Arc<SetOnce<Result<Arc<Compiled>, Outcome>>>;

#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The most recently used is the last.
    entries: Mutex<Vec<(String, Entry)>>,
}

impl Cache {
    /// The entry of a module, if it was compiled or is being.
    pub(super) fn known(&self, sha256: &str) -> Option<Entry> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|(key, _)| key == sha256)?;
        let found = entries.remove(at);
        let entry = Arc::clone(&found.1);
        entries.push(found);
        Some(entry)
    }

    /// The entry of a module; without one, an empty one is made, and `compile` is to see that it is
    /// set.
    pub(super) fn entry(&self, sha256: &str, compile: impl FnOnce(Entry)) -> Entry {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Several may have waited for their turn to compile it.
        if let Some((_, entry)) = entries.iter().find(|(key, _)| key == sha256) {
            return Arc::clone(entry);
        }
        if entries.len() >= MAX_MODULES {
            entries.remove(0);
        }
        let entry = Entry::default();
        entries.push((sha256.to_owned(), Arc::clone(&entry)));
        drop(entries);
        compile(Arc::clone(&entry));
        entry
    }
}
