//! What origin, worker and router have in common.

use std::sync::OnceLock;

use agent_api::{NodeId, Settings, mesh::Announcement, tasks::TaskPath};
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    board::Board, known::InFlight, remote::Remote, reputations::Reputations, run::Here,
    worker::Worker,
};
use crate::{
    mesh::{Mesh, NodeKey},
    storage::Storage,
};

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
    /// Serves other nodes' tasks; set at the start.
    pub(super) worker: OnceLock<Worker>,
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

    /// Other nodes' tasks here: running and waiting.
    pub fn served(&self) -> (u32, u32) {
        self.worker.get().map(Worker::counts).unwrap_or_default()
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// How a node is reached now; as if directly while it is not.
    pub fn path_to(&self, node: &NodeId) -> TaskPath {
        if *node == self.id {
            return TaskPath::Local;
        }
        let path = self.mesh.peer(node).ok().and_then(|details| details.peer.path);
        path.map_or(TaskPath::Direct, TaskPath::from)
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
