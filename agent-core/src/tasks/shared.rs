//! What origin, worker and router have in common.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use agent_api::{NodeId, Settings, mesh::Announcement, tasks::Worker};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    board::Board,
    remote::Remote,
    reputation::{Experience, Reputation},
    run::Here,
};
use crate::{
    clock::now_ms,
    mesh::{Mesh, NodeKey},
    storage::Storage,
};

/// Nodes that an experience is remembered of; the one met longest ago goes first. More than any
/// node works with in a month.
const REMEMBERED: usize = 4_096;

/// The parts that all of the module works with. Every field is a handle; [`super::handle::Tasks`]
/// owns it.
#[derive(Debug)]
pub struct Shared {
    pub key: NodeKey,
    pub id: NodeId,
    /// What this node says of itself: its name, and what placement needs of it.
    pub announcement: watch::Receiver<Announcement>,
    /// Those in force.
    pub settings: watch::Receiver<Settings>,
    pub storage: Storage,
    pub mesh: Mesh,
    pub remote: Remote,
    pub here: Here,
    pub board: Board,
    pub reputations: Reputations,
    /// Work that this node placed on others and that is not in their announcements yet.
    pub in_flight: InFlight,
    /// Other nodes' tasks here: the worker counts, the panel reads.
    pub served: Served,
    /// No task is started any more, own or others'.
    pub draining: watch::Sender<bool>,
    /// Something that placement depends on changed: a node came, a slot is free, a setting.
    pub moved: Notify,
    pub stop: CancellationToken,
    pub tracker: TaskTracker,
}

impl Shared {
    /// This node's own name.
    pub fn name(&self) -> String {
        self.announcement.borrow().name.clone()
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// What the mesh calls a node; its short id when it is not known.
    pub fn name_of(&self, node: &NodeId) -> String {
        if *node == self.id {
            return self.name();
        }
        match self.mesh.peer(node) {
            Ok(details) => details.peer.name,
            Err(_) => node.fmt_short().to_owned(),
        }
    }
}

/// Counts of other nodes' tasks that are here.
#[derive(Debug, Default)]
pub struct Served {
    pub running: AtomicU32,
    pub waiting: AtomicU32,
}

impl Served {
    /// Running and waiting.
    pub fn counts(&self) -> (u32, u32) {
        (self.running.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed))
    }
}

/// How much of this node's work is on each other node. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    counts: Arc<Mutex<HashMap<NodeId, u32>>>,
}

impl InFlight {
    /// Counts one until the guard is dropped.
    pub fn begin(&self, node: NodeId) -> InFlightGuard {
        *self.lock().entry(node.clone()).or_default() += 1;
        InFlightGuard { all: self.clone(), node }
    }

    pub fn of(&self, node: &NodeId) -> u32 {
        self.lock().get(node).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One piece of work on a node, counted while this lives.
#[derive(Debug)]
pub struct InFlightGuard {
    all: InFlight,
    node: NodeId,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut counts = self.all.lock();
        if let Some(count) = counts.get_mut(&self.node) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.node);
            }
        }
    }
}

/// What this node thinks of others. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Reputations {
    known: Arc<Mutex<HashMap<NodeKey, Reputation>>>,
    /// Nodes that changed since they were last written down.
    dirty: Arc<Mutex<Vec<NodeKey>>>,
}

impl Reputations {
    pub fn new(known: impl IntoIterator<Item = (NodeKey, Reputation)>) -> Self {
        let known = known.into_iter().take(REMEMBERED).collect();
        Self { known: Arc::new(Mutex::new(known)), dirty: Arc::default() }
    }

    pub fn add(&self, node: NodeKey, experience: &Experience) {
        let now = now_ms();
        let mut known = lock(&self.known);
        known.entry(node).or_default().add(experience, now);
        if known.len() > REMEMBERED {
            let oldest = known.iter().filter(|(key, _)| **key != node).min_by_key(|(_, r)| r.at_ms);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                known.remove(&oldest);
            }
        }
        drop(known);
        let mut dirty = lock(&self.dirty);
        if !dirty.contains(&node) {
            dirty.push(node);
        }
    }

    /// 0 to 1.
    pub fn score(&self, node: &NodeKey) -> f64 {
        let known = lock(&self.known);
        match known.get(node) {
            Some(reputation) => reputation.score(now_ms()),
            None => Reputation::default().score(now_ms()),
        }
    }

    pub fn get(&self, node: &NodeKey) -> Reputation {
        lock(&self.known).get(node).cloned().unwrap_or_default()
    }

    /// All that are known, the best first.
    pub fn views(&self, name_of: impl Fn(&NodeId) -> String) -> Vec<Worker> {
        let now = now_ms();
        let known = lock(&self.known).clone();
        let mut views: Vec<Worker> = known
            .into_iter()
            .map(|(key, reputation)| {
                let id = key.to_id();
                let name = name_of(&id);
                reputation.view(id, name, now)
            })
            .collect();
        views.sort_by(|a, b| b.reputation.total_cmp(&a.reputation).then(a.node.cmp(&b.node)));
        views
    }

    /// What changed since the last call, to be written down.
    pub fn take_changed(&self) -> Vec<(NodeKey, Reputation)> {
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        let known = lock(&self.known);
        let rows = dirty.into_iter().filter_map(|key| Some((key, known.get(&key)?.clone())));
        rows.collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
