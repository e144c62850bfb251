//! What is known about a blob on its way, as it is kept beside it.
//!
//! ```text
//! <sha256 of the rest, hexadecimal>
//! {"version":1,"total":...,"hashed":...,"midstate":"...","parts":[[part,bytes],...],"file":...}
//! ```
//!
//! It is written only after the bytes it speaks of were synced, so whatever it claims is on disk.
//! With the hash's midstate, a resumed pull reads no byte again that went into it.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{
    Digest as _, Sha256,
    digest::common::hazmat::{SerializableState as _, SerializedState},
};

use super::extent::Extent;
use crate::models::{
    manifest::Digest,
    store::{Store, write_whole},
};

const VERSION: u32 = 1;
/// A window of parts is some hundred bytes; a version text of a server a few more.
const MAX_RECORD_BYTES: u64 = 64 << 10;

/// A blob on its way.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub extent: Extent,
    /// Over the bytes up to the extent's `hashed`.
    pub hasher: Sha256,
    /// `ETag` or `Last-Modified`, for files that have no digest to be known by.
    pub file: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    total: u64,
    hashed: u64,
    midstate: String,
    parts: Vec<(u64, u64)>,
    file: Option<String>,
}

impl Record {
    pub(super) fn new(total: u64, file: Option<String>) -> Self {
        Self { extent: Extent::new(total), hasher: Sha256::new(), file }
    }

    /// What an earlier pull left; `None` if that is nothing, or cannot be trusted.
    pub(super) fn load(store: &Store, digest: Digest, total: u64) -> Option<Self> {
        let path = store.state_path(digest);
        let text = read_bounded(&path)?;
        let record = Self::decode(&text).filter(|record| record.extent.total() == total);
        if record.is_none() {
            tracing::warn!("{} is damaged; its layer is fetched from the start", path.display());
        }
        let record = record?;
        let length = fs::metadata(store.partial_path(digest)).ok()?.len();
        (length >= record.extent.highest()).then_some(record)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (check, rest) = text.split_once('\n')?;
        if check != hex::encode(Sha256::digest(rest)) {
            return None;
        }
        let saved: Saved = serde_json::from_str(rest).ok()?;
        let midstate = hex::decode(&saved.midstate).ok()?;
        let midstate = SerializedState::<Sha256>::try_from(midstate.as_slice()).ok()?;
        let hasher = Sha256::deserialize(&midstate).ok()?;
        let extent = Extent::restore(saved.total, saved.hashed, &saved.parts)?;
        (saved.version == VERSION).then_some(Self { extent, hasher, file: saved.file })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let saved = Saved {
            version: VERSION,
            total: self.extent.total(),
            hashed: self.extent.hashed(),
            midstate: hex::encode(self.hasher.serialize()),
            parts: self.extent.parts().collect(),
            file: self.file.clone(),
        };
        let rest = serde_json::to_string(&saved).unwrap_or_default();
        format!("{}\n{rest}", hex::encode(Sha256::digest(&rest))).into_bytes()
    }
}

/// Writes a record whole or not at all. The caller has synced what it speaks of.
pub(super) fn save(path: &Path, encoded: &[u8]) -> io::Result<()> {
    write_whole(path, encoded)
}

fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    let length = fs::metadata(path).ok()?.len();
    if length > MAX_RECORD_BYTES {
        return None;
    }
    fs::read(path).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::models::pull::extent::PART_BYTES;

    fn record() -> Record {
        let mut record = Record::new(3 * PART_BYTES, Some("\"v1\"".into()));
        record.hasher.update(b"abc");
        record.extent.add(0, 100);
        record.extent.set_hashed(3);
        record.extent.add(2 * PART_BYTES, 50);
        record
    }

    #[test]
    fn a_saved_hash_goes_on_where_it_stopped() {
        let mut again = Record::decode(&record().encode()).expect("reads");
        again.hasher.update(b"def");
        assert_eq!(again.hasher.finalize(), Sha256::digest(b"abcdef"));
        assert_eq!(again.extent, record().extent);
        assert_eq!(again.file, record().file);
    }

    #[test]
    fn a_record_that_claims_more_than_the_file_has_is_not_believed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path().to_path_buf()).expect("opens");
        let digest = Digest::of(b"x");
        save(&store.state_path(digest), &record().encode()).expect("saves");
        fs::write(store.partial_path(digest), vec![0; 50]).expect("writes");
        assert!(Record::load(&store, digest, 3 * PART_BYTES).is_none());
        let partial = fs::File::create(store.partial_path(digest)).expect("creates");
        partial.set_len(2 * PART_BYTES + 50).expect("grows");
        assert!(Record::load(&store, digest, 3 * PART_BYTES).is_some());
        assert!(Record::load(&store, digest, 3 * PART_BYTES + 1).is_none());
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = record().encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Record::decode(&bytes).is_none());
        }
    }
}
