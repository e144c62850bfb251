//! Which peers the table shows, and in which order.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use agent_api::{
    NodeId,
    hardware::Tier,
    mesh::{Peer, PeerState},
    tasks::Worker,
};

use super::{Kind, in_order};
use crate::words::{model::tier, peer as words};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Name,
    Place,
    Path,
    Rtt,
    Tier,
    Models,
    Load,
    Reputation,
    Seen,
}

/// What this node's experience says of others it shared work with.
pub type Workers = HashMap<NodeId, Worker>;

impl Column {
    pub const ALL: [Self; 9] = [
        Self::Name,
        Self::Place,
        Self::Path,
        Self::Rtt,
        Self::Tier,
        Self::Models,
        Self::Load,
        Self::Reputation,
        Self::Seen,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Name => "Peer",
            Self::Place => "Place",
            Self::Path => "Path",
            Self::Rtt => "RTT",
            Self::Tier => "Tier",
            Self::Models => "Models",
            Self::Load => "Load",
            Self::Reputation => "Rep.",
            Self::Seen => "Last seen",
        }
    }

    /// For the caption: `sorted by round-trip time`.
    pub fn spoken(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Place => "place",
            Self::Path => "path",
            Self::Rtt => "round-trip time",
            Self::Tier => "tier",
            Self::Models => "number of models",
            Self::Load => "load",
            Self::Reputation => "reputation",
            Self::Seen => "last sign of life",
        }
    }

    /// Where most people want the large values first.
    fn starts_descending(self) -> bool {
        matches!(self, Self::Tier | Self::Models | Self::Reputation | Self::Seen)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub column: Column,
    pub descending: bool,
}

impl Default for Sort {
    fn default() -> Self {
        Self { column: Column::Rtt, descending: false }
    }
}

impl Sort {
    /// After a click on a column's head: that column, or the other direction of the same.
    pub fn clicked(self, column: Column) -> Self {
        if self.column == column {
            Self { column, descending: !self.descending }
        } else {
            Self { column, descending: column.starts_descending() }
        }
    }

    /// For `aria-sort`.
    pub fn spoken(self, column: Column) -> Option<&'static str> {
        (self.column == column).then_some(if self.descending { "descending" } else { "ascending" })
    }
}

/// Which peers by how they are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathFilter {
    #[default]
    All,
    Connected,
    Only(Kind),
    /// Marked as the owner's own.
    Yours,
    /// Of other owners that this one trusts.
    Trusted,
}

impl PathFilter {
    pub const ALL: [Self; 9] = [
        Self::All,
        Self::Connected,
        Self::Only(Kind::Lan),
        Self::Only(Kind::Direct),
        Self::Only(Kind::Relay),
        Self::Only(Kind::Known),
        Self::Only(Kind::Unreachable),
        Self::Yours,
        Self::Trusted,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::All => "All paths",
            Self::Connected => "Connected",
            Self::Only(kind) => kind.title(),
            Self::Yours => "Yours",
            Self::Trusted => "Trusted",
        }
    }

    fn lets(self, peer: &Peer) -> bool {
        match self {
            Self::All => true,
            Self::Connected => peer.state == PeerState::Connected,
            Self::Only(kind) => Kind::of(peer) == kind,
            Self::Yours => peer.own,
            Self::Trusted => peer.trusted && !peer.own,
        }
    }
}

/// What rows are ordered by. Rows without a value come last, in both directions.
#[derive(Debug, PartialEq, PartialOrd)]
enum Key {
    Text(String),
    Number(f64),
}

fn key(peer: &Peer, workers: &Workers, column: Column) -> Option<Key> {
    let announced = peer.announcement.as_ref();
    Some(match column {
        Column::Name => Key::Text(peer.name.to_lowercase()),
        Column::Place => Key::Text(words::place(peer)?.to_lowercase()),
        Column::Path => Key::Number(Kind::of(peer) as usize as f64),
        Column::Rtt => Key::Number(peer.rtt_ms?),
        Column::Tier => Key::Number(match announced?.tier {
            Tier::MiniEconomy => 0.0,
            Tier::MiniStandard => 1.0,
            Tier::StudioPremium => 2.0,
        }),
        Column::Models => Key::Number(announced?.models.len() as f64),
        Column::Load => Key::Number(words::load(announced?)?.share),
        Column::Reputation => Key::Number(workers.get(&peer.node_id)?.reputation),
        Column::Seen => Key::Number(peer.last_seen_ms? as f64),
    })
}

/// Every typed word is in something the row says.
fn matches(peer: &Peer, words: &[String]) -> bool {
    if words.is_empty() {
        return true;
    }
    let announced = peer.announcement.as_ref();
    let mut text = format!("{} {} {}", peer.name, peer.node_id, Kind::of(peer).title());
    for part in [words::place(peer), announced.map(|a| tier(a.tier).to_owned())] {
        text.push(' ');
        text.push_str(part.as_deref().unwrap_or_default());
    }
    for model in announced.iter().flat_map(|a| &a.models) {
        text.push(' ');
        text.push_str(&model.id);
    }
    let trusted = peer.trusted && !peer.own;
    for (mark, on) in [(" yours", peer.own), (" trusted", trusted), (" seed", peer.seed)] {
        text.push_str(if on { mark } else { "" });
    }
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}

/// The rows of the table.
pub fn rows<'a>(
    peers: impl Iterator<Item = &'a Peer>,
    workers: &Workers,
    sort: Sort,
    filter: PathFilter,
    typed: &str,
) -> Vec<NodeId> {
    let typed: Vec<String> = typed.split_whitespace().map(str::to_lowercase).collect();
    let rows: Vec<_> = peers
        .filter(|p| filter.lets(p) && matches(p, &typed))
        .map(|p| (key(p, workers, sort.column), p))
        .collect();
    let rows = in_order(rows, |(a, p), (b, q)| {
        compare(a.as_ref(), b.as_ref(), sort.descending)
            .then_with(|| p.rtt_ms.unwrap_or(f64::MAX).total_cmp(&q.rtt_ms.unwrap_or(f64::MAX)))
            .then_with(|| p.name.cmp(&q.name))
            .then_with(|| p.node_id.cmp(&q.node_id))
    });
    rows.into_iter().map(|(_, p)| p.node_id.clone()).collect()
}

/// Rows that stay where they are: those of `before` that are still among `fresh`, then new ones.
pub fn kept(before: &[NodeId], fresh: Vec<NodeId>) -> Vec<NodeId> {
    let mut left: HashSet<&NodeId> = fresh.iter().collect();
    let mut rows: Vec<NodeId> = before.iter().filter(|id| left.remove(id)).cloned().collect();
    rows.extend(fresh.iter().filter(|id| left.contains(id)).cloned());
    rows
}

/// The rows as they were shown last.
#[derive(Debug, PartialEq)]
pub struct Shown<Q> {
    query: Q,
    /// When they were put in order.
    turn: i64,
    pub rows: Vec<NodeId>,
}

impl<Q: PartialEq> Shown<Q> {
    /// In the order of `fresh` if something else is asked for, or in a new turn unless somebody
    /// is at them; otherwise rows only come and go.
    pub fn next(
        before: Option<&Self>,
        query: Q,
        turn: i64,
        held: bool,
        fresh: Vec<NodeId>,
    ) -> Self {
        match before {
            Some(b) if b.query == query && (held || b.turn == turn) => {
                Self { query, turn: b.turn, rows: kept(&b.rows, fresh) }
            }
            _ => Self { query, turn, rows: fresh },
        }
    }
}

fn compare(a: Option<&Key>, b: Option<&Key>, descending: bool) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => {
            let order = a.partial_cmp(b).unwrap_or(Ordering::Equal);
            if descending { order.reverse() } else { order }
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use agent_api::mesh::PathKind;

    use super::*;
    use crate::mesh::peers::tests::{announcement, model, peer};

    fn shown(peers: &[Peer], sort: Sort, filter: PathFilter, typed: &str) -> Vec<String> {
        let rows = rows(peers.iter(), &Workers::new(), sort, filter, typed);
        rows.iter()
            .map(|id| {
                peers.iter().find(|p| p.node_id == *id).expect("a row of a peer").name.clone()
            })
            .collect()
    }

    fn lost(n: u32) -> Peer {
        let unreachable = PeerState::Unreachable;
        Peer { connected: false, state: unreachable, path: None, rtt_ms: None, ..peer(n) }
    }

    #[test]
    fn the_nearest_come_first_and_peers_without_a_figure_last_in_both_directions() {
        let peers = [peer(3), lost(9), peer(1), peer(2)];
        let sort = Sort::default();
        assert_eq!(
            shown(&peers, sort, PathFilter::All, ""),
            ["peer-1", "peer-2", "peer-3", "peer-9"]
        );
        let turned = sort.clicked(Column::Rtt);
        assert_eq!(
            shown(&peers, turned, PathFilter::All, ""),
            ["peer-3", "peer-2", "peer-1", "peer-9"]
        );
        assert_eq!(turned.spoken(Column::Rtt), Some("descending"));
        assert_eq!(turned.clicked(Column::Name), Sort { column: Column::Name, descending: false });
    }

    #[test]
    fn the_filter_finds_names_places_models_and_marks() {
        let mut special = peer(5);
        let mut said = announcement("Asia/Tokyo");
        said.models = vec![model("gemma3:4b")];
        (special.announcement, special.trusted, special.seed) = (Some(said), true, true);
        special.own = true;
        let peers = [peer(1), special, peer(2)];
        for typed in ["tokyo", "GEMMA", "yours seed", "peer-5", "peer-5 tokyo"] {
            assert_eq!(
                shown(&peers, Sort::default(), PathFilter::All, typed),
                ["peer-5"],
                "{typed}"
            );
        }
        assert!(shown(&peers, Sort::default(), PathFilter::All, "nothing like it").is_empty());
        assert_eq!(shown(&peers, Sort::default(), PathFilter::Yours, ""), ["peer-5"]);
        let friend = Peer { trusted: true, ..peer(6) };
        let peers = [&peers[..], &[friend]].concat();
        for typed in ["", "trusted"] {
            assert_eq!(shown(&peers, Sort::default(), PathFilter::Trusted, typed), ["peer-6"]);
        }
        assert_eq!(shown(&peers, Sort::default(), PathFilter::Yours, ""), ["peer-5"]);
    }

    #[test]
    fn paths_are_told_apart() {
        let relayed = Peer { path: Some(PathKind::Relay), ..peer(1) };
        let peers = [relayed, peer(2), lost(3)];
        let only = |kind| shown(&peers, Sort::default(), PathFilter::Only(kind), "");
        assert_eq!(only(Kind::Relay), ["peer-1"]);
        assert_eq!(only(Kind::Unreachable), ["peer-3"]);
        assert_eq!(shown(&peers, Sort::default(), PathFilter::Connected, "").len(), 2);
    }

    #[test]
    fn rows_under_the_pointer_keep_their_places() {
        let id = |n| peer(n).node_id;
        let before = [id(1), id(2), id(3)];
        let fresh = vec![id(4), id(3), id(1)];
        assert_eq!(kept(&before, fresh), [id(1), id(3), id(4)]);
    }

    #[test]
    fn rows_change_places_in_a_new_turn_or_when_asked_and_not_when_somebody_joins() {
        let id = |n| peer(n).node_id;
        let next = |before: &Shown<_>, query, turn, held, fresh| {
            Shown::next(Some(before), query, turn, held, fresh)
        };
        let first = Shown::next(None, "rtt", 0, false, vec![id(1), id(2)]);
        let joined = next(&first, "rtt", 0, false, vec![id(3), id(2), id(1)]);
        assert_eq!(joined.rows, [id(1), id(2), id(3)]);
        let left = next(&joined, "rtt", 0, false, vec![id(3), id(2)]);
        assert_eq!(left.rows, [id(2), id(3)]);
        let held = next(&left, "rtt", 1, true, vec![id(3), id(2)]);
        assert_eq!(held.rows, [id(2), id(3)], "under the pointer");
        let released = next(&held, "rtt", 1, false, vec![id(3), id(2)]);
        assert_eq!(released.rows, [id(3), id(2)]);
        let clicked = next(&held, "name", 1, true, vec![id(3), id(2)]);
        assert_eq!(clicked.rows, [id(3), id(2)]);
    }

    #[test]
    fn the_best_reputation_comes_first_and_who_has_none_last() {
        let worker = |n, reputation| {
            let node = peer(n).node_id;
            let worker = Worker {
                node: node.clone(),
                name: String::new(),
                reputation,
                done: 0,
                failed: 0,
                agreed: 0,
                disagreed: 0,
                agreed_in_a_row: 0,
                problem: None,
            };
            (node, worker)
        };
        let workers = Workers::from([worker(1, 0.4), worker(3, 0.9)]);
        let peers = [peer(1), peer(2), peer(3)];
        let sort = Sort::default().clicked(Column::Reputation);
        let rows = rows(peers.iter(), &workers, sort, PathFilter::All, "");
        assert_eq!(rows, [peer(3).node_id, peer(1).node_id, peer(2).node_id]);
    }

    #[test]
    fn every_column_orders_all_rows() {
        let peers: Vec<_> = (0..40).map(peer).chain([lost(50)]).collect();
        for column in Column::ALL {
            for descending in [false, true] {
                let sort = Sort { column, descending };
                let rows = rows(peers.iter(), &Workers::new(), sort, PathFilter::All, "");
                assert_eq!(rows.len(), 41, "{column:?}");
            }
        }
    }
}
