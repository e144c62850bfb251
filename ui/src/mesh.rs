//! What the Mesh panel shows, as pure functions: which peers in which order, where they are on the
//! map, how far out in the latency graph, and which of them get a label.

pub mod labels;
pub mod land;
pub mod map;
pub mod order;
pub mod peers;
pub mod places;
pub mod rings;
pub mod rows;

use std::cmp::Ordering;

use agent_api::mesh::{PathKind, Peer, PeerState};

/// How a peer is drawn and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Lan,
    Direct,
    Relay,
    /// In the mesh, without a connection to this node.
    Known,
    Unreachable,
}

impl Kind {
    /// In the order of the legend.
    pub const ALL: [Self; 5] =
        [Self::Direct, Self::Relay, Self::Lan, Self::Known, Self::Unreachable];

    pub fn of(peer: &Peer) -> Self {
        match (peer.state, peer.path) {
            (PeerState::Unreachable, _) => Self::Unreachable,
            (PeerState::Connected, Some(PathKind::Lan)) => Self::Lan,
            (PeerState::Connected, Some(PathKind::Relay)) => Self::Relay,
            (PeerState::Connected, _) => Self::Direct,
            (PeerState::Known | PeerState::Stale, _) => Self::Known,
        }
    }

    pub fn connected(self) -> bool {
        matches!(self, Self::Lan | Self::Direct | Self::Relay)
    }

    /// The word in class names: `mnode--direct`.
    pub fn class(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Known => "known",
            Self::Unreachable => "gone",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Lan => "LAN",
            Self::Direct => "Direct",
            Self::Relay => "Relay",
            Self::Known => "No connection",
            Self::Unreachable => "Unreachable",
        }
    }
}

/// How many peers of each kind, in the order of [`Kind::ALL`], without the kinds that have none.
pub fn counts<'a>(peers: impl Iterator<Item = &'a Peer>) -> Vec<(Kind, usize)> {
    let mut counts = Kind::ALL.map(|kind| (kind, 0));
    for peer in peers {
        let kind = Kind::of(peer);
        for (other, count) in &mut counts {
            *count += usize::from(*other == kind);
        }
    }
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// The places of `len` things in order. The standard sort is compiled anew for each type and is
/// large; this one is compiled once for all of the panel.
fn places_in_order(len: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..len).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

/// `items` in order.
fn in_order<T>(items: Vec<T>, compare: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    let order = places_in_order(items.len(), &|a, b| compare(&items[a], &items[b]));
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| items[place].take()).collect()
}

/// A point that is drawn as a circle or another small shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Dot {
    pub x: f64,
    pub y: f64,
    pub radius: f64,
    pub kind: Kind,
    /// The peer that a click opens: of several, the nearest.
    pub peer: agent_api::NodeId,
    /// How many peers it stands for.
    pub count: usize,
    /// For screen readers and the pointer.
    pub title: String,
}
