//! All peers by their identity, as the node's answers and events say.

use std::{collections::BTreeMap, sync::Arc};

use agent_api::{NodeId, mesh::Peer};

/// The node's directory has at most 4,096 nodes; more than this many changes while an answer is on
/// its way are not kept, the answer has them.
const MAX_WAITING: usize = 8_192;

#[derive(Clone, Debug, PartialEq)]
enum Change {
    Known(Arc<Peer>),
    Gone(NodeId),
}

/// The peers, and what changed while the list was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peers {
    known: BTreeMap<NodeId, Arc<Peer>>,
    loaded: bool,
    /// Changes since the question that is on its way.
    waiting: Option<Vec<Change>>,
    revision: u64,
    members: u64,
}

impl Peers {
    /// Whether the list came at least once.
    pub fn loaded(&self) -> bool {
        self.loaded
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Grows when a peer comes, goes, or is reached in another way; not with its figures.
    pub fn members(&self) -> u64 {
        self.members
    }

    pub fn get(&self, id: &NodeId) -> Option<&Arc<Peer>> {
        self.known.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.known.values().map(Arc::as_ref)
    }

    /// The list was asked for: changes from now on are applied to the answer as well. An event and
    /// an answer come on two connections, so the answer may be older.
    pub fn ask(&mut self) {
        self.waiting = Some(Vec::new());
    }

    /// The question has no answer.
    pub fn give_up(&mut self) {
        self.waiting = None;
    }

    pub fn answer(&mut self, peers: Vec<Peer>) {
        self.known = peers.into_iter().map(|p| (p.node_id.clone(), Arc::new(p))).collect();
        self.loaded = true;
        self.members += 1;
        self.revision += 1;
        for change in self.waiting.take().unwrap_or_default() {
            self.change(change);
        }
    }

    pub fn apply(&mut self, changed: Vec<Peer>, gone: &[NodeId]) {
        let changed = changed.into_iter().map(|p| Change::Known(Arc::new(p)));
        for change in changed.chain(gone.iter().cloned().map(Change::Gone)) {
            if let Some(waiting) = self.waiting.as_mut().filter(|w| w.len() < MAX_WAITING) {
                waiting.push(change.clone());
            }
            // Without the list, a few changes would look like all there is.
            if self.loaded {
                self.change(change);
            }
        }
    }

    fn change(&mut self, change: Change) {
        self.revision += 1;
        match change {
            Change::Known(peer) => {
                let before = self.known.insert(peer.node_id.clone(), Arc::clone(&peer));
                let same = before.is_some_and(|b| {
                    (b.state, b.path, b.trusted, b.own)
                        == (peer.state, peer.path, peer.trusted, peer.own)
                });
                self.members += u64::from(!same);
            }
            Change::Gone(id) => self.members += u64::from(self.known.remove(&id).is_some()),
        }
    }

    /// Shows a mark at once; the node's event confirms it.
    pub fn trust(&mut self, id: &NodeId, on: bool, own: bool) {
        if let Some(peer) = self.known.get_mut(id) {
            let peer = Arc::make_mut(peer);
            (peer.trusted, peer.own) = (on, own);
            self.revision += 1;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api::{
        hardware::{Tier, WorkerClass},
        mesh::{AnnouncedModel, AnnouncedServing, Announcement, PathKind, PeerState, SourceKind},
    };

    use super::*;

    pub(crate) fn peer(n: u32) -> Peer {
        Peer {
            node_id: NodeId(format!("{n:064x}")),
            name: format!("peer-{n}"),
            connected: true,
            state: PeerState::Connected,
            path: Some(PathKind::Direct),
            rtt_ms: Some(f64::from(n)),
            address: Some("203.0.113.7:4302".into()),
            trusted: false,
            own: false,
            seed: false,
            sources: vec![SourceKind::Gossip],
            last_seen_ms: Some(1_000),
            connected_since_ms: Some(0),
            problem: None,
            announcement: Some(announcement("Europe/Berlin")),
        }
    }

    pub(crate) fn announcement(region: &str) -> Announcement {
        Announcement {
            name: "peer".into(),
            version: "0.1.0".into(),
            protocol: (1, 1),
            region: Some(region.into()),
            tier: Tier::MiniStandard,
            worker_class: WorkerClass::Gpu,
            seed: false,
            serving: AnnouncedServing::Ready,
            models: vec![model("qwen3:8b"), model("llama3.1:8b")],
            slots: 4,
            slots_free: 3,
            queue: 0,
            tokens_per_s: Some(30.0),
            price: None,
            ledger_head: None,
            links: Vec::new(),
            relay: None,
            dht_port: None,
            at_ms: 0,
            every_s: 10,
            accepts: Vec::new(),
            power: None,
        }
    }

    pub(crate) fn model(id: &str) -> AnnouncedModel {
        AnnouncedModel {
            id: id.into(),
            digest: None,
            size_bytes: 5_000_000_000,
            context: 8_192,
            resident: true,
            tokens_per_s: None,
            shared: true,
        }
    }

    fn ids(peers: &Peers) -> Vec<String> {
        peers.iter().map(|p| p.name.clone()).collect()
    }

    #[test]
    fn changes_before_the_list_are_not_taken_for_the_list() {
        let mut peers = Peers::default();
        peers.apply(vec![peer(1)], &[]);
        assert!(!peers.loaded() && ids(&peers).is_empty());
    }

    #[test]
    fn a_peer_that_went_while_the_list_was_on_its_way_does_not_come_back() {
        let mut peers = Peers::default();
        peers.ask();
        peers.apply(vec![peer(3)], &[peer(1).node_id]);
        peers.answer(vec![peer(1), peer(2)]);
        assert_eq!(ids(&peers), ["peer-2", "peer-3"]);
        peers.answer(vec![peer(4)]);
        assert_eq!(ids(&peers), ["peer-4"], "a new list replaces everything");
    }

    #[test]
    fn figures_alone_do_not_change_who_is_there() {
        let mut peers = Peers::default();
        peers.answer(vec![peer(1)]);
        let (members, revision) = (peers.members(), peers.revision());
        let slower = Peer { rtt_ms: Some(90.0), ..peer(1) };
        peers.apply(vec![slower], &[]);
        assert_eq!(peers.members(), members);
        assert!(peers.revision() > revision);
        let relayed = Peer { path: Some(PathKind::Relay), ..peer(1) };
        peers.apply(vec![relayed], &[]);
        assert!(peers.members() > members);
    }
}
