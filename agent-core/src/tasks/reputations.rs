//! Reputations of all nodes that work was shared with: in memory, and written behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_api::{NodeId, tasks::Worker};

use super::reputation::{Experience, Reputation};
use crate::{
    mesh::NodeKey,
    storage::{REPUTATION_ROWS, SaveReputation, Storage, StorageError, list_reputations},
};

/// Between two writes about one node while all goes well: a thousand tasks a second must not be a
/// thousand rows. What a crash loses of good experience is seconds.
const SAVE_EVERY_MS: i64 = 10_000;

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Reputations {
    storage: Storage,
    nodes: Arc<Mutex<HashMap<NodeKey, Known>>>,
}

#[derive(Debug, Default)]
struct Known {
    reputation: Reputation,
    /// When it was handed to the database last; `None`: it is as it was read.
    saved_ms: Option<i64>,
    changed: bool,
}

impl Reputations {
    /// Reads what is known. Rows that cannot be read are left out.
    pub async fn open(storage: Storage) -> Result<Self, StorageError> {
        let rows = list_reputations(storage.readers()).await?;
        let read = rows.into_iter().filter_map(|row| {
            let key = NodeKey(row.node.try_into().ok()?);
            let reputation = serde_json::from_str(&row.reputation).ok()?;
            Some((key, Known { reputation, ..Known::default() }))
        });
        let nodes = Arc::new(Mutex::new(read.collect()));
        Ok(Self { storage, nodes })
    }

    /// 0.05 to 1; see [`Reputation::score`].
    pub fn score(&self, node: &NodeKey, now_ms: i64) -> f64 {
        let nodes = self.lock();
        let known = nodes.get(node).map(|known| &known.reputation);
        known.map_or_else(|| Reputation::default().score(now_ms), |known| known.score(now_ms))
    }

    /// For [`super::verify::must_compare`].
    pub fn agreed_in_a_row(&self, node: &NodeKey) -> u32 {
        self.lock().get(node).map_or(0, |known| known.reputation.agreed_in_a_row)
    }

    pub fn add(&self, node: NodeKey, experience: &Experience, now_ms: i64) {
        let mut nodes = self.lock();
        if !nodes.contains_key(&node) {
            make_room(&mut nodes);
        }
        let known = nodes.entry(node).or_default();
        known.reputation.add(experience, now_ms);
        known.changed = true;
        let due = known.saved_ms.is_none_or(|at| (now_ms - at).abs() >= SAVE_EVERY_MS);
        if due || experience.is_bad() {
            self.save(node, known, now_ms);
        }
    }

    /// Writes what was not written yet; before the end.
    pub fn flush(&self, now_ms: i64) {
        for (node, known) in self.lock().iter_mut().filter(|(_, known)| known.changed) {
            self.save(*node, known, now_ms);
        }
    }

    fn save(&self, node: NodeKey, known: &mut Known, now_ms: i64) {
        let Ok(reputation) = serde_json::to_string(&known.reputation) else { return };
        let (node, at_ms) = (node.0.to_vec(), known.reputation.at_ms);
        self.storage.write_behind(SaveReputation { node, at_ms, reputation });
        known.saved_ms = Some(now_ms);
        known.changed = false;
    }

    /// All of them, the most trusted first.
    pub fn workers(&self, name_of: impl Fn(&NodeId) -> String, now_ms: i64) -> Vec<Worker> {
        let rows: Vec<_> = {
            let nodes = self.lock();
            nodes.iter().map(|(key, known)| (key.to_id(), known.reputation.clone())).collect()
        };
        let view = |(id, reputation): (NodeId, Reputation)| {
            let name = name_of(&id);
            reputation.view(id, name, now_ms)
        };
        let mut workers: Vec<Worker> = rows.into_iter().map(view).collect();
        workers.sort_by(|a, b| {
            b.reputation.total_cmp(&a.reputation).then_with(|| a.node.0.cmp(&b.node.0))
        });
        workers
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeKey, Known>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one not met for longest goes, as in the table.
fn make_room(nodes: &mut HashMap<NodeKey, Known>) {
    if nodes.len() < usize::try_from(REPUTATION_ROWS).unwrap_or(usize::MAX) {
        return;
    }
    let oldest = nodes.iter().min_by_key(|(_, known)| known.reputation.at_ms);
    if let Some(oldest) = oldest.map(|(key, _)| *key) {
        nodes.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn storage(dir: &tempfile::TempDir) -> Storage {
        Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage
    }

    #[tokio::test]
    async fn what_is_thought_of_a_node_survives_a_restart() {
        let dir = tempfile::tempdir().expect("temp dir");
        let storage = storage(&dir).await;
        let reputations = Reputations::open(storage.clone()).await.expect("opens");
        let (good, bad) = (NodeKey([1; 32]), NodeKey([2; 32]));
        for at in 0..5 {
            reputations.add(good, &Experience::Agreed, 1_000 + at);
        }
        reputations.add(bad, &Experience::Misbehaved("it sent nonsense".into()), 1_000);
        reputations.flush(2_000);
        storage.close().await;
        let reputations =
            Reputations::open(super::tests::storage(&dir).await).await.expect("opens");
        assert_eq!(reputations.agreed_in_a_row(&good), 5);
        let workers = reputations.workers(|id| id.fmt_short().to_owned(), 2_000);
        assert_eq!((workers.len(), &workers[0].node), (2, &good.to_id()));
        assert_eq!(workers[1].problem.as_deref(), Some("it sent nonsense"));
        let unknown = reputations.score(&NodeKey([3; 32]), 0);
        assert!(reputations.score(&good, 2_000) > unknown);
        assert!(reputations.score(&bad, 2_000) < unknown);
    }

    #[tokio::test]
    async fn memory_holds_as_many_nodes_as_the_table() {
        let dir = tempfile::tempdir().expect("temp dir");
        let reputations = Reputations::open(storage(&dir).await).await.expect("opens");
        {
            let mut nodes = reputations.lock();
            for n in 0..u32::try_from(REPUTATION_ROWS).expect("fits") {
                let mut key = [0; 32];
                key[..4].copy_from_slice(&n.to_be_bytes());
                let reputation = Reputation { at_ms: i64::from(n), ..Reputation::default() };
                nodes.insert(NodeKey(key), Known { reputation, ..Known::default() });
            }
        }
        reputations.add(NodeKey([9; 32]), &Experience::Done, 1 << 40);
        let nodes = reputations.lock();
        assert_eq!(i64::try_from(nodes.len()).expect("fits"), REPUTATION_ROWS);
        assert!(!nodes.contains_key(&NodeKey([0; 32])) && nodes.contains_key(&NodeKey([9; 32])));
    }
}
