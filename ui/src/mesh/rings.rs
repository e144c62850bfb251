//! The latency graph: the further out, the longer the way to a peer, on a logarithmic scale.

use std::f64::consts::TAU;

use agent_api::{NodeId, mesh::Peer};

use super::{
    Dot, Kind, in_order,
    labels::{self, Area, Label, Wish},
};
use crate::words::peer as words;

pub const WIDTH: f64 = 752.0;
pub const HEIGHT: f64 = 296.0;
pub const CENTER: (f64, f64) = (WIDTH / 2.0, 152.0);
/// Rings at these round-trip times, milliseconds.
pub const RINGS: [f64; 4] = [1.0, 10.0, 50.0, 300.0];
/// Half width of the 1 ms ring and of the 300 ms ring.
const INNER: f64 = 46.0;
const OUTER: f64 = 256.0;
/// Height of a ring for its width.
const FLAT: f64 = 0.48;
/// Nobody is drawn nearer to the middle or further out.
const LEAST: f64 = 20.0;
const MOST: f64 = 292.0;

/// More peers than this are a cloud in which none can be told apart: the nearest are drawn.
const MAX_DOTS: usize = 160;
const MAX_LABELS: usize = 26;
const TOOLS: Area = Area { left: 0.0, top: 0.0, right: 170.0, bottom: 40.0 };

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    pub dots: Vec<Dot>,
    pub labels: Vec<Label>,
    /// Connected peers that were left out.
    pub left_out: usize,
}

/// Half width of the ring of a round-trip time.
pub fn reach(rtt_ms: f64) -> f64 {
    let share = rtt_ms.max(0.01).ln() / RINGS[3].ln();
    (INNER + (OUTER - INNER) * share).clamp(LEAST, MOST)
}

/// Half height of the ring of a round-trip time.
pub fn rise(rtt_ms: f64) -> f64 {
    reach(rtt_ms) * FLAT
}

/// A direction that stays the same for a peer, spread by the golden ratio so that neighbours in the
/// list are far apart.
fn direction(id: &NodeId) -> f64 {
    let hash = id.0.bytes().fold(0_u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    f64::from(hash.wrapping_mul(2_654_435_769)) / f64::from(u32::MAX) * TAU
}

pub fn draw<'a>(peers: impl Iterator<Item = &'a Peer>, name: &str) -> Graph {
    let near: Vec<(f64, &Peer)> =
        peers.filter(|p| Kind::of(p).connected()).filter_map(|p| Some((p.rtt_ms?, p))).collect();
    let mut near =
        in_order(near, |a, b| a.0.total_cmp(&b.0).then_with(|| a.1.node_id.cmp(&b.1.node_id)));
    let left_out = near.len().saturating_sub(MAX_DOTS);
    near.truncate(MAX_DOTS);
    let mut wishes = vec![Wish {
        x: CENTER.0,
        y: CENTER.1,
        radius: 6.0,
        name: name.into(),
        figure: "you".into(),
        must: true,
    }];
    let mut dots = Vec::new();
    for (rtt, peer) in near {
        let angle = direction(&peer.node_id);
        let x = CENTER.0 + reach(rtt) * angle.cos();
        let y = CENTER.1 + rise(rtt) * angle.sin();
        let radius = if peer.seed { 5.0 } else { 4.0 };
        let figure = words::rtt(rtt);
        wishes.push(Wish { x, y, radius, name: peer.name.clone(), figure, must: false });
        let title = format!("{}, {}", peer.name, words::reached(peer));
        let (kind, peer) = (Kind::of(peer), peer.node_id.clone());
        dots.push(Dot { x, y, radius, kind, peer, count: 1, title });
    }
    let frame = Area { left: 2.0, top: 2.0, right: WIDTH - 2.0, bottom: HEIGHT - 2.0 };
    let mut taken = vec![TOOLS, Area::around(CENTER.0, CENTER.1, 6.0)];
    taken.extend(dots.iter().map(|d| Area::around(d.x, d.y, d.radius)));
    // The words of the rings stand at their tops.
    taken.extend(RINGS.map(|rtt| Area::around(CENTER.0, CENTER.1 - rise(rtt) - 5.0, 14.0)));
    Graph { labels: labels::place(wishes, frame, taken, MAX_LABELS), dots, left_out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::peers::tests::peer;

    #[test]
    fn slower_peers_are_further_out_and_all_are_inside() {
        assert!(reach(1.0) < reach(10.0) && reach(10.0) < reach(300.0));
        assert_eq!((reach(1.0), reach(300.0)), (INNER, OUTER));
        assert_eq!((reach(0.0), reach(1e9)), (LEAST, MOST));
        assert!(CENTER.1 + MOST * FLAT < HEIGHT && CENTER.0 + MOST < WIDTH);
    }

    #[test]
    fn a_peer_stays_in_its_direction_when_its_latency_changes() {
        let near = draw([peer(7)].iter(), "me");
        let later = Peer { rtt_ms: Some(70.0), ..peer(7) };
        let far = draw([later].iter(), "me");
        let angle = |g: &Graph| ((g.dots[0].y - CENTER.1) / FLAT).atan2(g.dots[0].x - CENTER.0);
        assert!((angle(&near) - angle(&far)).abs() < 1e-6);
    }

    #[test]
    fn of_thousands_the_nearest_are_drawn_and_the_rest_counted() {
        let peers: Vec<_> = (1..=2_000).map(peer).collect();
        let graph = draw(peers.iter(), "me");
        assert_eq!((graph.dots.len(), graph.left_out), (MAX_DOTS, 2_000 - MAX_DOTS));
        assert!(graph.labels.len() <= MAX_LABELS);
        assert!(graph.labels.iter().any(|l| l.name == "peer-1"));
    }
}
