//! What the store takes on disk, and whether more goes in.

use std::{fs, path::Path};

use super::{Store, StoreError};

/// Kept free on the disk whatever models need: logs, the database and the owner's own work go on.
pub(super) const HEADROOM: u64 = 256 << 20;

/// Bytes that models take on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Complete layers, each once, and the owner's own GGUF files in the folder.
    pub installed_bytes: u64,
    /// Parts of pulls and imports, as far as they take space: what was not written yet does not.
    pub partial_bytes: u64,
}

impl Usage {
    pub fn total(self) -> u64 {
        self.installed_bytes.saturating_add(self.partial_bytes)
    }
}

impl Store {
    /// What all models in the folder take.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for entry in fs::read_dir(self.blobs()).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_complete = !name.contains('.') && name.starts_with("sha256-");
            let is_small = [".lock", ".state", ".outboard"].iter().any(|end| name.ends_with(end));
            let Some(meta) = (!is_small).then(|| entry.metadata().ok()).flatten() else { continue };
            if is_complete {
                usage.installed_bytes = usage.installed_bytes.saturating_add(meta.len());
            } else {
                usage.partial_bytes = usage.partial_bytes.saturating_add(allocated(&meta));
            }
        }
        for entry in fs::read_dir(&self.root).into_iter().flatten().filter_map(Result::ok) {
            let is_gguf =
                entry.path().extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf"));
            if let Some(meta) = is_gguf.then(|| entry.metadata().ok()).flatten()
                && meta.is_file()
            {
                usage.installed_bytes = usage.installed_bytes.saturating_add(meta.len());
            }
        }
        usage
    }

    /// Refuses what would go beyond the owner's budget.
    pub(super) fn check_budget(&self, needs: u64, budget: Option<u64>) -> Result<(), StoreError> {
        let Some(budget) = budget else { return Ok(()) };
        let after = self.usage().total().saturating_add(needs);
        if after > budget { Err(StoreError::OverBudget { budget, after }) } else { Ok(()) }
    }
}

/// Refuses what the disk has no room for. A file system that does not tell is taken at its word
/// when it is full.
pub(super) fn check_free(needs: u64, free: Option<u64>) -> Result<(), StoreError> {
    let needs = needs.saturating_add(HEADROOM);
    match free {
        Some(free) if free < needs => Err(StoreError::NoRoom { needs, free }),
        _ => Ok(()),
    }
}

/// Bytes that this user may still write on the file system that holds the path; `None` where the
/// system does not say. POSIX `statvfs`.
#[cfg(unix)]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
pub fn free_bytes(_path: &Path) -> Option<u64> {
    None
}

/// A part file has its full length from the start; only what was written takes space.
pub(super) fn allocated(meta: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(meta).saturating_mul(512);
    #[cfg(not(unix))]
    meta.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        assert!(check_free(1 << 30, Some(2 << 30)).is_ok());
        assert!(check_free(1 << 30, None).is_ok());
        let error = check_free(4_000_000_000, Some(3_000_000_000)).expect_err("too large");
        let text = error.to_string();
        assert!(text.contains("3.0 GB free") && text.contains("needs 4.3 GB"), "{text}");
        assert!(check_free(u64::MAX, Some(u64::MAX - 1)).is_err());
    }

    #[test]
    fn free_space_is_known_here() {
        assert!(free_bytes(Path::new("/")).is_some_and(|free| free > 0));
        assert_eq!(free_bytes(Path::new("/no/such/folder")), None);
    }
}
