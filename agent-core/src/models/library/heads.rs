//! Heads of GGUF files that were read: in memory, and in the database for the next start.

use std::{
    collections::HashMap,
    fs::Metadata,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    models::{
        Head,
        gguf::{GgufError, GgufInfo, read_gguf},
    },
    storage::{HeadRow, KeepHeads, Storage, list_heads},
};

/// Version of what is kept. Raise it whenever reading a head yields something else than before: a
/// field more in [`GgufInfo`], another way to compute one.
const SHAPE: i64 = 1;

/// Known heads by path. As many as there were files in the last listing.
#[derive(Debug, Default)]
pub(super) struct Heads {
    known: Mutex<HashMap<PathBuf, KnownHead>>,
    /// Counts listings, to tell which heads a listing has asked for.
    round: AtomicU64,
    storage: Option<Storage>,
}

#[derive(Debug)]
struct KnownHead {
    size: u64,
    modified_ns: i64,
    head: Head,
    round: u64,
    kept: bool,
}

impl Heads {
    /// Begins with what the database has, and keeps there what is read.
    pub(super) async fn kept_in(storage: Storage) -> Self {
        let rows = list_heads(storage.readers(), SHAPE).await.unwrap_or_else(|e| {
            tracing::warn!("the heads of all model files will be read again: {e}");
            Vec::new()
        });
        let known = rows.into_iter().filter_map(known_head).collect();
        Self { known: Mutex::new(known), round: AtomicU64::new(0), storage: Some(storage) }
    }

    /// The head of the file. It is read if the file is not known as it is now.
    pub(super) fn of(&self, path: &Path, meta: &Metadata) -> Head {
        let size = meta.len();
        let modified_ns = nanoseconds(meta.modified().unwrap_or(UNIX_EPOCH));
        let round = self.round.load(Ordering::Relaxed);
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get_mut(path)
                && (known.size, known.modified_ns) == (size, modified_ns)
            {
                known.round = round;
                return known.head.clone();
            }
        }
        let head = read_gguf(path).map_err(Arc::new);
        // Rights and disks change without the file changing.
        if !matches!(head.as_ref().err().map(AsRef::as_ref), Some(GgufError::Io(_))) {
            let kept = KnownHead { size, modified_ns, head: head.clone(), round, kept: false };
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(path.to_path_buf(), kept);
        }
        head
    }

    /// Call before a listing.
    pub(super) fn begin(&self) -> u64 {
        self.round.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Call after it: forgets files that it did not ask for, and keeps what is new.
    pub(super) fn end(&self, round: u64) {
        let mut changes = KeepHeads::default();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|path, head| {
            if head.round < round {
                changes.gone.extend(path.to_str().map(str::to_owned));
                return false;
            }
            if !head.kept {
                head.kept = true;
                changes.read.extend(row(path, head));
            }
            true
        });
        drop(known);
        let changed = !changes.read.is_empty() || !changes.gone.is_empty();
        if let Some(storage) = self.storage.as_ref().filter(|_| changed) {
            storage.write_behind(changes);
        }
    }
}

fn known_head(row: HeadRow) -> Option<(PathBuf, KnownHead)> {
    let head = match (row.head, row.problem) {
        (Some(head), _) => Ok(serde_json::from_str::<GgufInfo>(&head).ok()?),
        (None, problem) => Err(Arc::new(GgufError::Known(problem?))),
    };
    let size = u64::try_from(row.size).ok()?;
    let known = KnownHead { size, modified_ns: row.modified_ns, head, round: 0, kept: true };
    Some((PathBuf::from(row.path), known))
}

/// `None` for a path that is not text; it is read again after a restart.
fn row(path: &Path, known: &KnownHead) -> Option<HeadRow> {
    let (head, problem) = match &known.head {
        Ok(info) => (Some(serde_json::to_string(info).ok()?), None),
        Err(e) => (None, Some(e.to_string())),
    };
    Some(HeadRow {
        path: path.to_str()?.to_owned(),
        size: i64::try_from(known.size).ok()?,
        modified_ns: known.modified_ns,
        shape: SHAPE,
        head,
        problem,
    })
}

fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    }
}
