//! Models that other nodes of the mesh offer, as choices of a form.

use agent_api::{
    mesh::{AnnouncedServing, Peer, PeerState},
    tasks::TaskKind,
};

/// Choices at most: a mesh of thousands offers more than anybody looks through; any other model can
/// still be named over the API.
const MAX: usize = 100;
/// Of a node's id, as a name that no other node has.
const ID_DIGITS: usize = 16;

/// A model of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the node is asked for: `model@id`.
    pub model: String,
    /// `qwen3:8b on kanal`.
    pub label: String,
    pub node: String,
}

/// What reachable nodes offer for this kind: what is in memory first, then what is near.
pub fn offers<'a>(peers: impl Iterator<Item = &'a Peer>, kind: TaskKind) -> Vec<Offer> {
    let mut all = Vec::new();
    for peer in peers.filter(|p| matches!(p.state, PeerState::Connected | PeerState::Known)) {
        let Some(said) = &peer.announcement else { continue };
        let serves = matches!(said.serving, AnnouncedServing::Ready | AnnouncedServing::Busy);
        if !serves || !said.accepts.contains(&kind) {
            continue;
        }
        let far = peer.rtt_ms.unwrap_or(f64::MAX);
        let id = peer.node_id.0.get(..ID_DIGITS).unwrap_or(&peer.node_id.0);
        for model in &said.models {
            let offer = Offer {
                model: format!("{}@{id}", model.id),
                label: format!("{} on {}", model.id, peer.name),
                node: peer.name.clone(),
            };
            all.push((!model.resident, far, offer));
        }
    }
    all.sort_by(|a, b| (a.0, &a.2.label).cmp(&(b.0, &b.2.label)));
    all.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    all.into_iter().take(MAX).map(|(.., offer)| offer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::peers::tests::peer;

    fn willing(n: u32) -> Peer {
        let mut peer = peer(n);
        if let Some(said) = &mut peer.announcement {
            said.accepts = vec![TaskKind::Chat];
        }
        peer
    }

    #[test]
    fn near_models_in_memory_come_first_and_name_their_node() {
        let mut near = willing(3);
        near.announcement.as_mut().expect("said").models.truncate(1);
        let far = willing(90);
        let all = offers([&far, &near].into_iter(), TaskKind::Chat);
        assert_eq!(all[0].label, "qwen3:8b on peer-3");
        assert_eq!(all[0].model, format!("qwen3:8b@{}", "0".repeat(16)));
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn only_nodes_that_take_the_kind_are_offered() {
        assert!(offers([&willing(1)].into_iter(), TaskKind::Embedding).is_empty());
        assert!(offers([&peer(1)].into_iter(), TaskKind::Chat).is_empty());
        let gone = Peer { state: PeerState::Unreachable, ..willing(1) };
        assert!(offers([&gone].into_iter(), TaskKind::Chat).is_empty());
        let many: Vec<_> = (0..200).map(willing).collect();
        assert_eq!(offers(many.iter(), TaskKind::Chat).len(), MAX);
    }
}
