//! This node and the peers of its mesh, as workers of its tasks.

use std::{fmt, sync::Arc};

use agent_api::{
    NodeId,
    mesh::{AnnouncedModel, AnnouncedServing, Announcement, Peer, PeerQuery, PeerState},
    tasks::{TaskKind, TaskPath},
};

use crate::{
    clock::now_ms,
    mesh::NodeKey,
    tasks::{
        job::{BoxFuture, JobError, JobStream, Offer},
        origin::workers::Workers,
        placement::{ModelView, NodeView, Placed, Wanted, place},
        reputation::Experience,
        shared::Shared,
        verify,
    },
};

/// Nodes that are looked at for one placement, the nearest first.
const NODES: u32 = 4_096;

pub(super) struct Fleet {
    shared: Arc<Shared>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

impl Fleet {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// This node first.
    fn nodes(&self) -> Vec<NodeView> {
        let shared = &self.shared;
        let own = shared.announcement.borrow().clone();
        let here = NodeView {
            here: true,
            mine: true,
            trusted: true,
            path: Some(TaskPath::Local),
            // Its owner's work is done here whatever it takes from others; a pause is for others.
            accepts: TaskKind::ALL.to_vec(),
            serving: match own.serving {
                AnnouncedServing::Paused => AnnouncedServing::Ready,
                serving => serving,
            },
            reputation: 1.0,
            ..view(shared.id.clone(), own.name.clone(), Some(&own))
        };
        let query = PeerQuery { limit: Some(NODES), connected: None };
        let peers = shared.mesh.peers(&query).peers;
        std::iter::once(here).chain(peers.into_iter().map(|peer| self.peer(peer))).collect()
    }

    fn peer(&self, peer: Peer) -> NodeView {
        let overdue = match peer.state {
            PeerState::Connected | PeerState::Known => None,
            PeerState::Stale => Some("Its announcement is overdue.".to_owned()),
            PeerState::Unreachable => {
                Some(peer.problem.clone().unwrap_or_else(|| "It cannot be reached.".to_owned()))
            }
        };
        let key = NodeKey::from_id(&peer.node_id);
        let reputation = key.map_or(0.0, |key| self.shared.reputations.score(&key));
        NodeView {
            mine: peer.own,
            trusted: peer.trusted,
            problem: overdue,
            path: peer.path.map(TaskPath::from),
            rtt_ms: peer.rtt_ms,
            in_flight: self.shared.in_flight.of(&peer.node_id),
            reputation,
            ..view(peer.node_id, peer.name, peer.announcement.as_ref())
        }
    }
}

fn view(id: NodeId, name: String, said: Option<&Announcement>) -> NodeView {
    NodeView {
        id,
        name,
        here: false,
        mine: false,
        trusted: false,
        problem: None,
        path: None,
        rtt_ms: None,
        region: said.and_then(|said| said.region.clone()),
        serving: said.map_or(AnnouncedServing::Unable, |said| said.serving),
        accepts: said.map(|said| said.accepts.clone()).unwrap_or_default(),
        models: said.map(|said| said.models.iter().map(model).collect()).unwrap_or_default(),
        slots: said.map_or(0, |said| said.slots.into()),
        slots_free: said.map_or(0, |said| said.slots_free.into()),
        queue: said.map_or(0, |said| said.queue.into()),
        in_flight: 0,
        price: said.and_then(|said| said.price),
        reputation: 0.0,
    }
}

fn model(model: &AnnouncedModel) -> ModelView {
    ModelView {
        id: model.id.clone(),
        resident: model.resident,
        context: model.context,
        size_bytes: model.size_bytes,
        tokens_per_s: model.tokens_per_s,
    }
}

impl Workers for Fleet {
    fn me(&self) -> NodeId {
        self.shared.id.clone()
    }

    fn name_of(&self, node: &NodeId) -> String {
        self.shared.name_of(node)
    }

    fn place(&self, wanted: &Wanted) -> (Vec<NodeView>, Placed) {
        let nodes = self.nodes();
        let placed = place(wanted, &nodes, now_ms());
        (nodes, placed)
    }

    fn offer(&self, node: NodeView, offer: Offer) -> BoxFuture<'_, Result<JobStream, JobError>> {
        Box::pin(async move {
            if node.here {
                return self.shared.here.run(offer.job).await;
            }
            let Some(key) = NodeKey::from_id(&node.id) else {
                return Err(JobError::Lost("its id is not one".to_owned()));
            };
            let path = node.path.unwrap_or(TaskPath::Direct);
            self.shared.remote.offer(key, path, offer).await
        })
    }

    fn attach(&self, node: NodeId, offer: Offer) -> BoxFuture<'_, Result<JobStream, JobError>> {
        Box::pin(async move {
            let Some(key) = NodeKey::from_id(&node) else {
                return Err(JobError::Lost("its id is not one".to_owned()));
            };
            let peer = self.shared.mesh.peer(&node).ok().and_then(|details| details.peer.path);
            let path = peer.map_or(TaskPath::Direct, TaskPath::from);
            self.shared.remote.attach(key, path, offer).await
        })
    }

    fn experience(&self, node: &NodeId, what: Experience) {
        if let Some(key) = NodeKey::from_id(node) {
            self.shared.reputations.add(key, &what);
        }
    }

    fn must_compare(&self, node: &NodeId) -> bool {
        let Some(key) = NodeKey::from_id(node) else { return true };
        let mut bytes = [0; 4];
        // Without randomness every result is compared: the safe side.
        let roll = match getrandom::fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
            Err(_) => 0.0,
        };
        verify::must_compare(self.shared.reputations.get(&key).agreed_in_a_row, roll)
    }
}
