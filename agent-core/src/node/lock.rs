//! One node per data directory.
//!
//! The lock is the operating system's, so it is gone with the process however that ends; the
//! file's text only says who holds it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

/// Who holds a data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    /// Empty until the API listens.
    pub url: String,
}

/// The node that runs on a data directory now, if one does. The file of a node that was killed
/// still names it; only the lock says whether it lives.
pub fn running_holder(lock: &Path) -> Option<Holder> {
    let mut file = File::open(lock).ok()?;
    match file.try_lock_shared() {
        // Let go at once, when the file is dropped.
        Ok(()) => None,
        Err(_) => {
            let mut text = String::new();
            (&mut file).take(4096).read_to_string(&mut text).ok()?;
            serde_json::from_str(&text).ok()
        }
    }
}

#[derive(Debug)]
pub(super) struct DirLock {
    file: Mutex<File>,
}

pub(super) enum LockError {
    /// The text may be missing if the holder is just starting.
    Held(Option<Holder>),
    Io(io::Error),
}

impl DirLock {
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {
                let lock = Self { file: Mutex::new(file) };
                // Whoever held it before is gone; until the API listens there is no address.
                let holder = Holder { pid: std::process::id(), url: String::new() };
                lock.write(&holder).map_err(LockError::Io)?;
                Ok(lock)
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = (&mut file).take(4096).read_to_string(&mut text);
                Err(LockError::Held(serde_json::from_str(&text).ok()))
            }
            Err(TryLockError::Error(e)) => Err(LockError::Io(e)),
        }
    }

    pub(super) fn write(&self, holder: &Holder) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(serde_json::to_string(holder)?.as_bytes())
    }

    /// Lets go before the last handle is dropped, so that a restart does not meet itself.
    pub(super) fn release(&self) {
        let file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = file.set_len(0);
        let _ = file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_taker_learns_who_holds_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("node.lock");
        let Ok(first) = DirLock::take(&path) else { panic!("free") };
        let holder = Holder { pid: 7, url: "http://127.0.0.1:4301".into() };
        first.write(&holder).expect("writes");
        let Err(LockError::Held(Some(seen))) = DirLock::take(&path) else { panic!("held") };
        assert_eq!(seen, holder);
        drop(first);
        assert!(DirLock::take(&path).is_ok());
    }
}
