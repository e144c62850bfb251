//! This node and the peers of its mesh, as workers of its tasks.

use std::{collections::HashMap, fmt, sync::Arc};

use agent_api::{NodeId, mesh::PeerState, tasks::TaskPath};

use crate::{
    clock::now_ms,
    mesh::NodeKey,
    tasks::{
        job::{BoxFuture, JobError, JobStream, Offer},
        known::{self, HereFacts},
        origin::workers::Workers,
        placement::{NodeView, Placed, Wanted, place},
        reputation::Experience,
        route::{Known, ModelElsewhere},
        shared::Shared,
        verify,
    },
};

/// Models of others that are listed at most: thousands of nodes have the same few.
const MODELS: usize = 1_000;

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
    fn look(&self, wanted: &Wanted) -> Vec<NodeView> {
        let shared = &self.shared;
        let own = shared.here.host.own();
        let region = shared.announcement.borrow().region.clone();
        let settings = shared.settings.borrow().clone();
        let here = HereFacts {
            key: shared.key,
            settings: &settings,
            region: region.as_deref(),
            inference: &own.inference,
            files: &own.files,
            uses: &own.uses,
            able: &own.able,
        };
        known::nodes(
            &here,
            &shared.mesh,
            wanted,
            (&shared.reputations, &shared.in_flight),
            now_ms(),
        )
    }
}

impl Known for Fleet {
    fn nodes(&self, wanted: &Wanted) -> Vec<NodeView> {
        self.look(wanted)
    }

    fn models_elsewhere(&self) -> Vec<ModelElsewhere> {
        let own = self.shared.settings.borrow().node_name.clone();
        let mut names = HashMap::from([(own, 1_u32)]);
        let mut models: Vec<(NodeKey, ModelElsewhere)> = Vec::new();
        self.shared.mesh.look_at_peers(|peer| {
            *names.entry(peer.name.to_owned()).or_default() += 1;
            let answers = matches!(peer.state, PeerState::Connected | PeerState::Known);
            let Some(said) = peer.announcement.filter(|said| answers && !said.accepts.is_empty())
            else {
                return;
            };
            let of_peer = said.models.iter().map(|model| {
                let (model, digest) = (model.id.clone(), model.digest);
                (peer.key, ModelElsewhere { model, node: peer.name.to_owned(), digest })
            });
            models.extend(of_peer.take(MODELS.saturating_sub(models.len())));
        });
        let told_apart = |(key, mut known): (NodeKey, ModelElsewhere)| {
            if names.get(&known.node).is_some_and(|&nodes| nodes > 1) {
                known.node = key.to_id().fmt_short().to_owned();
            }
            known
        };
        models.into_iter().map(told_apart).collect()
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
        let nodes = self.look(wanted);
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
            let path = self.shared.path_to(&node);
            self.shared.remote.attach(key, path, &offer).await
        })
    }

    fn experience(&self, node: &NodeId, what: Experience) {
        if let Some(key) = NodeKey::from_id(node) {
            self.shared.reputations.add(key, &what, now_ms());
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
        verify::must_compare(self.shared.reputations.agreed_in_a_row(&key), roll)
    }
}
