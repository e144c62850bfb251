//! The layout of iroh-gossip's messages, to see what is inside one before its protocol does.
//!
//! `iroh_gossip::proto::Message` is opaque. These types have the same postcard form; tests hold
//! them to the real ones. What could hurt the protocol is taken out or refused here: it keeps what
//! peers attach to nodes without bound, and messages of its other half, Plumtree, for ever.

use serde::{Deserialize, Serialize};

use crate::mesh::NodeKey;

/// Steps of a random walk; ours are 6.
const MOST_STEPS: u16 = 16;
/// Nodes in a shuffle; ours have 8.
const MOST_NODES: usize = 16;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Message<'a> {
    pub(super) topic: [u8; 32],
    #[serde(borrow)]
    pub(super) content: Content<'a>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Content<'a> {
    #[serde(borrow)]
    Swarm(Swarm<'a>),
}

/// HyParView.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Swarm<'a> {
    #[serde(borrow)]
    Join(Option<&'a [u8]>),
    #[serde(borrow)]
    ForwardJoin(ForwardJoin<'a>),
    #[serde(borrow)]
    Shuffle(Shuffle<'a>),
    #[serde(borrow)]
    ShuffleReply(Vec<Peer<'a>>),
    #[serde(borrow)]
    Neighbor(Neighbor<'a>),
    Disconnect(Disconnect),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Peer<'a> {
    id: NodeKey,
    #[serde(borrow)]
    data: Option<&'a [u8]>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ForwardJoin<'a> {
    #[serde(borrow)]
    peer: Peer<'a>,
    ttl: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Shuffle<'a> {
    origin: NodeKey,
    #[serde(borrow)]
    nodes: Vec<Peer<'a>>,
    ttl: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Priority {
    High,
    Low,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Neighbor<'a> {
    priority: Priority,
    #[serde(borrow)]
    data: Option<&'a [u8]>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Disconnect {
    alive: bool,
    respond: bool,
}

/// Reads a message; `None`: damaged, or outside the bounds.
pub(super) fn decode(bytes: &[u8]) -> Option<Message<'_>> {
    let (message, rest) = postcard::take_from_bytes::<Message<'_>>(bytes).ok()?;
    let Content::Swarm(swarm) = &message.content;
    let fine = swarm.is_within_bounds();
    (rest.is_empty() && fine).then_some(message)
}

pub(super) fn encode(message: &Message<'_>) -> Option<Vec<u8>> {
    postcard::to_stdvec(message).ok()
}

impl Message<'_> {
    /// What a peer says that wants to be a neighbour whatever it costs.
    pub(super) fn neighbour(topic: [u8; 32]) -> Self {
        let word = Neighbor { priority: Priority::High, data: None };
        Self { topic, content: Content::Swarm(Swarm::Neighbor(word)) }
    }

    /// What a peer says that is no neighbour any more.
    pub(super) fn farewell(topic: [u8; 32]) -> Self {
        let word = Disconnect { alive: true, respond: false };
        Self { topic, content: Content::Swarm(Swarm::Disconnect(word)) }
    }

    pub(super) fn is_join(&self) -> bool {
        matches!(self.content, Content::Swarm(Swarm::Join(_)))
    }
}

impl Swarm<'_> {
    fn is_within_bounds(&self) -> bool {
        match self {
            Self::Join(_) | Self::Neighbor(_) | Self::Disconnect(_) => true,
            Self::ForwardJoin(walk) => walk.ttl <= MOST_STEPS,
            Self::Shuffle(walk) => walk.ttl <= MOST_STEPS && walk.nodes.len() <= MOST_NODES,
            Self::ShuffleReply(nodes) => nodes.len() <= MOST_NODES,
        }
    }

    /// Takes out what the sender attached to nodes. Addresses come from signed records only, and
    /// the protocol would keep these bytes for every key that anyone names.
    pub(super) fn strip(&mut self) {
        match self {
            Self::Join(data) => *data = None,
            Self::ForwardJoin(walk) => walk.peer.data = None,
            Self::Shuffle(Shuffle { nodes, .. }) | Self::ShuffleReply(nodes) => {
                for node in nodes {
                    node.data = None;
                }
            }
            Self::Neighbor(neighbor) => neighbor.data = None,
            Self::Disconnect(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use iroh_gossip::proto::Message as Real;

    use super::*;

    fn swarm(swarm: Swarm<'_>) -> Message<'_> {
        Message { topic: [7; 32], content: Content::Swarm(swarm) }
    }

    #[test]
    fn the_mirror_has_the_layout_of_the_real_messages() {
        let peer = |n| Peer { id: NodeKey([n; 32]), data: Some(&b"data"[..]) };
        let messages = [
            Swarm::Join(None),
            Swarm::Join(Some(b"data")),
            Swarm::ForwardJoin(ForwardJoin { peer: peer(1), ttl: 6 }),
            Swarm::Shuffle(Shuffle { origin: NodeKey([2; 32]), nodes: vec![peer(3)], ttl: 5 }),
            Swarm::ShuffleReply(vec![peer(4), peer(5)]),
            Swarm::Neighbor(Neighbor { priority: Priority::Low, data: None }),
            Swarm::Disconnect(Disconnect { alive: true, respond: false }),
        ];
        for message in messages.map(swarm) {
            let bytes = encode(&message).expect("encodes");
            let real: Real<NodeKey> = postcard::from_bytes(&bytes).expect("the real type reads it");
            assert_eq!(postcard::to_stdvec(&real).expect("encodes"), bytes);
            assert_eq!(decode(&bytes).as_ref(), Some(&message));
        }
    }

    #[test]
    fn words_of_plumtree_and_long_walks_are_refused() {
        // A graft: the second kind of content, and its third kind of word.
        let graft = [&[7; 32][..], &[1, 2, 0, 1]].concat();
        assert!(postcard::from_bytes::<Real<NodeKey>>(&graft).is_ok(), "a real message");
        assert_eq!(decode(&graft), None);
        let peer = Peer { id: NodeKey([1; 32]), data: None };
        let walk = swarm(Swarm::ForwardJoin(ForwardJoin { peer, ttl: MOST_STEPS + 1 }));
        assert_eq!(decode(&encode(&walk).expect("encodes")), None);
    }
}
