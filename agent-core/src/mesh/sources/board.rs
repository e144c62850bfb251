//! What the owner sees of the sources: state, reason, and how many nodes each has found.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent_api::mesh::{Source, SourceKind, SourceState};
use tokio::sync::watch;

use super::context::Found;
use crate::clock::now_ms;

/// Names below a source; more do not fit a line.
const NAMES: usize = 8;
/// Nodes that are remembered per source, so that each counts once: the size of the directory.
const COUNTED: usize = 4_096;
/// In the order in which they are shown.
const KINDS: [SourceKind; 4] =
    [SourceKind::Saved, SourceKind::Seed, SourceKind::Lan, SourceKind::Dht];

#[derive(Debug)]
pub(super) struct Board {
    rows: Mutex<[Row; KINDS.len()]>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Row {
    kind: SourceKind,
    state: SourceState,
    reason: String,
    seen: HashSet<[u8; 32]>,
    found: u32,
    names: VecDeque<String>,
    /// The source names itself what is shown: seeds by their addresses.
    named: bool,
    last_found_ms: Option<i64>,
}

impl Default for Board {
    fn default() -> Self {
        let row = |kind| Row {
            kind,
            state: SourceState::Waiting,
            reason: "It starts.".to_owned(),
            seen: HashSet::new(),
            found: 0,
            names: VecDeque::new(),
            named: false,
            last_found_ms: None,
        };
        Self { rows: Mutex::new(KINDS.map(row)), changed: watch::Sender::new(0) }
    }
}

impl Board {
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn changed(&self) {
        self.changed.send_modify(|turn| *turn = turn.wrapping_add(1));
    }

    /// For parts that have no row of their own: their change is worth another look, too.
    pub(super) fn bump(&self) -> watch::Sender<u64> {
        self.changed.clone()
    }

    /// Says what a source does now, in a sentence for the owner.
    pub(super) fn say(&self, kind: SourceKind, state: SourceState, reason: impl Into<String>) {
        let reason = reason.into();
        let mut rows = self.rows();
        let Some(row) = rows.iter_mut().find(|row| row.kind == kind) else { return };
        if row.state == state && row.reason == reason {
            return;
        }
        if state == SourceState::Failed {
            tracing::debug!(?kind, reason, "source of peers");
        }
        row.state = state;
        row.reason = reason;
        drop(rows);
        self.changed();
    }

    /// Names to show instead of those of found nodes.
    pub(super) fn name(&self, kind: SourceKind, names: Vec<String>) {
        let mut rows = self.rows();
        let Some(row) = rows.iter_mut().find(|row| row.kind == kind) else { return };
        row.names = names.into_iter().take(NAMES).collect();
        row.named = true;
    }

    pub(super) fn state(&self, kind: SourceKind) -> (SourceState, String) {
        let rows = self.rows();
        let row = rows.iter().find(|row| row.kind == kind);
        row.map_or((SourceState::Off, String::new()), |row| (row.state, row.reason.clone()))
    }

    /// Counts a node that was handed over. Each counts once per source.
    pub(super) fn count(&self, found: &Found) {
        let mut rows = self.rows();
        let Some(row) = rows.iter_mut().find(|row| row.kind == found.source) else { return };
        row.last_found_ms = Some(now_ms());
        if row.seen.len() >= COUNTED || !row.seen.insert(found.peer.0) {
            return;
        }
        row.found = row.found.saturating_add(1);
        let name = found.name.clone().unwrap_or_else(|| format!("{:08x}", found.peer.short()));
        if !row.named && !row.names.contains(&name) {
            row.names.push_back(name);
        }
        if row.names.len() > NAMES {
            row.names.pop_front();
        }
        drop(rows);
        self.changed();
    }

    pub(super) fn reports(&self) -> Vec<Source> {
        let report = |row: &Row| Source {
            kind: row.kind,
            state: row.state,
            reason: row.reason.clone(),
            found: row.found,
            names: row.names.iter().cloned().collect(),
            last_found_ms: row.last_found_ms,
        };
        self.rows().iter().map(report).collect()
    }

    fn rows(&self) -> MutexGuard<'_, [Row; KINDS.len()]> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{Addresses, NodeKey};

    fn found(byte: u8, name: Option<&str>) -> Found {
        Found {
            peer: NodeKey([byte; 32]),
            addresses: Addresses::default(),
            source: SourceKind::Lan,
            name: name.map(str::to_owned),
            foreign: false,
        }
    }

    #[test]
    fn a_node_counts_once_per_source_and_names_stay_few() {
        let board = Board::default();
        for byte in 0..20 {
            board.count(&found(byte, Some(&format!("node {byte}"))));
            board.count(&found(byte, Some(&format!("node {byte}"))));
        }
        board.count(&found(200, None));
        let reports = board.reports();
        let lan = reports.iter().find(|row| row.kind == SourceKind::Lan).expect("a row");
        assert_eq!(lan.found, 21);
        assert_eq!(lan.names.len(), NAMES);
        assert_eq!(lan.names.last().map(String::as_str), Some("c8c8c8c8"));
        assert!(lan.last_found_ms.is_some());
        let dht = reports.iter().find(|row| row.kind == SourceKind::Dht).expect("a row");
        assert_eq!(dht.found, 0, "sources count apart");
    }

    #[test]
    fn listeners_hear_of_changes_and_only_of_changes() {
        let board = Board::default();
        let mut changes = board.changes();
        changes.mark_unchanged();
        board.say(SourceKind::Seed, SourceState::Failed, "nobody answers");
        assert!(changes.has_changed().expect("open"));
        changes.mark_unchanged();
        board.say(SourceKind::Seed, SourceState::Failed, "nobody answers");
        assert!(!changes.has_changed().expect("open"));
    }
}
