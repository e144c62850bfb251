//! The world map: one dot per place, however many peers are there, and lines to the places with a
//! connection.

use std::{
    collections::BTreeMap,
    f64::consts::{FRAC_PI_3, TAU},
};

use agent_api::mesh::Peer;

use super::{
    Dot, Kind, in_order,
    labels::{self, Area, Label, Wish},
    places::{self, Point},
};
use crate::{format, words::peer as words};

/// The picture; the land is drawn for these numbers. East of 168° it ends with New Zealand.
pub const WIDTH: f64 = 752.0;
pub const HEIGHT: f64 = 296.0;
/// Units per degree, equirectangular.
const PER_DEGREE_EAST: f64 = 2.4;
const PER_DEGREE_NORTH: f64 = 2.485;
/// Longitude of the left edge and latitude of the top. Places beyond a side, as Alaska, are drawn on
/// it and say so.
const WEST: f64 = -132.0;
const NORTH: f64 = 73.07;
const EDGE: f64 = 9.0;
/// West of this the right side is nearer to what people know: Samoa and Tonga are beside New Zealand.
const TURN: f64 = -168.0;
/// Between two dots on a side, so that each can be seen and hit.
const EDGE_STEP: f64 = 14.0;

/// More lines than this hide the map.
const MAX_LINES: usize = 40;
/// More labels than this hide it too.
const MAX_LABELS: usize = 22;
/// Around this node, where peers of its own place are drawn.
const NEAR: f64 = 13.0;
/// Under the buttons at the top left.
const TOOLS: Area = Area { left: 0.0, top: 0.0, right: 170.0, bottom: 40.0 };

/// A line from this node to a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub kind: Kind,
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    /// This node; `None` while it shows no place.
    pub own: Option<(f64, f64)>,
    pub dots: Vec<Dot>,
    pub lines: Vec<Line>,
    pub labels: Vec<Label>,
    /// Peers in this node's own place, or on its network.
    pub near: usize,
    /// Peers that show no place that is known.
    pub elsewhere: usize,
}

fn project(point: Point) -> (f64, f64) {
    let east = if point.longitude < TURN { 360.0 } else { 0.0 };
    let x = (point.longitude + east - WEST) * PER_DEGREE_EAST;
    let y = (NORTH - point.latitude) * PER_DEGREE_NORTH;
    (x.clamp(EDGE, WIDTH - EDGE), y.clamp(EDGE, HEIGHT - EDGE))
}

/// The side of the map on which a place lies that is beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    West,
    East,
}

impl Side {
    fn of((x, _): (f64, f64)) -> Option<Self> {
        if x <= EDGE { Some(Self::West) } else { (x >= WIDTH - EDGE).then_some(Self::East) }
    }

    /// The highest place on it that nothing covers.
    fn top(self) -> f64 {
        if self == Self::West { TOOLS.bottom + EDGE } else { EDGE }
    }

    fn note(self) -> &'static str {
        match self {
            Self::West => " (west of this map)",
            Self::East => " (east of this map)",
        }
    }

    fn arrow(self) -> &'static str {
        match self {
            Self::West => "\u{2190} ",
            Self::East => "\u{2192} ",
        }
    }
}

/// Moves what lies on a side out from under the buttons and from under each other, keeping the order
/// from north to south.
fn spread<'a>(places: impl Iterator<Item = &'a mut (f64, f64)>) {
    let on_sides = places.filter_map(|at| Side::of(*at).map(|side| (side, at)));
    let on_sides = in_order(on_sides.collect(), |(_, a), (_, b)| {
        a.1.total_cmp(&b.1).then(a.0.total_cmp(&b.0))
    });
    let (mut west, mut east) = (Side::West.top(), Side::East.top());
    for (side, at) in on_sides {
        let next = if side == Side::West { &mut west } else { &mut east };
        at.1 = at.1.max(*next).min(HEIGHT - EDGE);
        *next = at.1 + EDGE_STEP;
    }
}

/// Peers of one place.
#[derive(Debug)]
struct Group<'a> {
    peers: Vec<&'a Peer>,
    kind: Kind,
}

impl<'a> Group<'a> {
    fn of(peers: Vec<&'a Peer>) -> Option<Self> {
        let peers = in_order(peers, |a, b| {
            rank(a).total_cmp(&rank(b)).then_with(|| a.node_id.cmp(&b.node_id))
        });
        let kind = Kind::of(peers.first()?);
        Some(Self { peers, kind })
    }

    fn nearest(&self) -> &'a Peer {
        // A group has at least one peer.
        self.peers[0]
    }

    fn radius(&self) -> f64 {
        radius(self.peers.len())
    }
}

/// Connected peers by round-trip time, then those that are only known, then the unreachable.
fn rank(peer: &Peer) -> f64 {
    match Kind::of(peer) {
        Kind::Unreachable => 2e9,
        Kind::Known => 1e9,
        _ => peer.rtt_ms.unwrap_or(1e6),
    }
}

pub(super) fn radius(count: usize) -> f64 {
    (3.6 + 1.15 * (count.max(1) as f64).ln()).min(10.0)
}

fn title(group: &Group<'_>, place: &str) -> String {
    let first = group.nearest();
    let count = group.peers.len();
    if count == 1 {
        return format!("{}, {place}, {}", first.name, words::reached(first));
    }
    let connected = group.peers.iter().filter(|p| Kind::of(p).connected()).count();
    let nearest = if connected > 0 {
        format!(", {connected} connected, nearest {} {}", first.name, words::reached(first))
    } else {
        String::new()
    };
    format!("{place}, {}{nearest}", format::counted(count as u64, "peer", "peers"))
}

fn dot(group: &Group<'_>, (x, y): (f64, f64), title: String) -> Dot {
    Dot {
        x,
        y,
        radius: group.radius(),
        kind: group.kind,
        peer: group.nearest().node_id.clone(),
        count: group.peers.len(),
        title,
    }
}

/// Raised towards the north, as a flight on a map.
fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    let lift = (0.3 * (x2 - x1).hypot(y2 - y1)).min(88.0);
    let (cx, cy) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0 - lift);
    format!("M{x1:.1} {y1:.1}Q{cx:.1} {cy:.1} {x2:.1} {y2:.1}")
}

fn region(peer: &Peer) -> Option<&str> {
    peer.announcement.as_ref()?.region.as_deref()
}

/// Where a peer is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spot<'a> {
    /// Around this node.
    Near,
    /// At its own place: a zone and where that is.
    At(&'a str, Point),
    Nowhere,
}

impl<'a> Spot<'a> {
    /// `own`: this node's zone, if it is a place.
    fn of(peer: &'a Peer, own: Option<&str>) -> Self {
        let zone = region(peer).map(places::current);
        let here = zone.is_some() && zone == own || Kind::of(peer) == Kind::Lan;
        match zone.and_then(|zone| Some((zone, places::locate(zone)?))) {
            _ if here && own.is_some() => Self::Near,
            Some((zone, point)) => Self::At(zone, point),
            None => Self::Nowhere,
        }
    }
}

/// The zone of a node that shows one that is a place.
fn located(own: Option<&str>) -> Option<&str> {
    own.map(places::current).filter(|zone| places::locate(zone).is_some())
}

/// There are peers, and the map would show none of them, because nobody says where they are.
pub fn shows_nobody<'a>(peers: impl Iterator<Item = &'a Peer>, own: Option<&str>) -> bool {
    let own = located(own);
    let mut peers = peers.peekable();
    peers.peek().is_some() && peers.all(|peer| Spot::of(peer, own) == Spot::Nowhere)
}

/// Draws the peers around a node called `name` in `own` (a time zone).
pub fn draw<'a>(peers: impl Iterator<Item = &'a Peer>, name: &str, own: Option<&str>) -> Map {
    let own_zone = located(own);
    let mut map = Map { own: own_zone.and_then(places::locate).map(project), ..Map::default() };
    let mut near: Vec<&Peer> = Vec::new();
    let mut by_place: BTreeMap<&str, (Point, Vec<&Peer>)> = BTreeMap::new();
    for peer in peers {
        match Spot::of(peer, own_zone) {
            Spot::Near => near.push(peer),
            Spot::At(zone, point) => {
                by_place.entry(zone).or_insert_with(|| (point, Vec::new())).1.push(peer);
            }
            Spot::Nowhere => map.elsewhere += 1,
        }
    }
    let mut wishes = Vec::new();
    let mut groups: Vec<_> = by_place
        .into_iter()
        .filter_map(|(zone, (point, peers))| Some((zone, Group::of(peers)?, project(point))))
        .collect();
    spread(map.own.iter_mut().chain(groups.iter_mut().map(|(_, _, at)| at)));
    let groups = in_order(groups, |a, b| {
        let (a, b) = (&a.1, &b.1);
        rank(a.nearest())
            .total_cmp(&rank(b.nearest()))
            .then(b.peers.len().cmp(&a.peers.len()))
            .then_with(|| a.nearest().node_id.cmp(&b.nearest().node_id))
    });
    for (zone, group, at) in &groups {
        let (place, side) = (places::name(zone), Side::of(*at));
        let noted = format!("{place}{}", side.map_or("", Side::note));
        let dot = dot(group, *at, title(group, &noted));
        if let Some(own) = map.own
            && group.kind.connected()
            && map.lines.len() < MAX_LINES
        {
            map.lines.push(Line { kind: group.kind, path: line(own, *at) });
        }
        let (name, figure) = match group.peers.len() {
            1 => (group.nearest().name.clone(), rtt(group.nearest())),
            n => (place, n.to_string()),
        };
        let name = format!("{}{name}", side.map_or("", Side::arrow));
        wishes.push(Wish { x: dot.x, y: dot.y, radius: dot.radius, name, figure, must: false });
        map.dots.push(dot);
    }
    // The smaller ones are drawn last and stay in sight and in reach.
    map.dots =
        in_order(map.dots, |a, b| b.radius.total_cmp(&a.radius).then_with(|| a.peer.cmp(&b.peer)));
    add_near(&mut map, near, own_zone.unwrap_or_default());
    let wishes = own_wish(&map, name).into_iter().chain(wishes).collect();
    map.labels = label(&map, wishes);
    map
}

fn rtt(peer: &Peer) -> String {
    match Kind::of(peer) {
        kind if kind.connected() => peer.rtt_ms.map(words::rtt).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Peers in this node's place, one dot per kind, around it.
fn add_near(map: &mut Map, near: Vec<&Peer>, zone: &str) {
    let Some((x, y)) = map.own else { return };
    map.near = near.len();
    let mut by_kind: BTreeMap<Kind, Vec<&Peer>> = BTreeMap::new();
    for peer in near {
        by_kind.entry(Kind::of(peer)).or_default().push(peer);
    }
    let place = places::name(zone);
    for (n, group) in by_kind.into_values().filter_map(Group::of).enumerate() {
        // From the upper right clockwise.
        let angle = (n as f64 * FRAC_PI_3 * 1.2 - FRAC_PI_3) % TAU;
        let far = NEAR.max(group.radius() + 8.0);
        let at = (x + far * angle.cos(), y + far * angle.sin());
        let title = title(&group, &place);
        map.dots.push(dot(&group, at, title));
    }
}

fn own_wish(map: &Map, name: &str) -> Option<Wish> {
    let (x, y) = map.own?;
    let figure = if map.near > 0 { format!("you, {} nearby", map.near) } else { "you".into() };
    let radius = if map.near > 0 { NEAR + 5.0 } else { 6.0 };
    Some(Wish { x, y, radius, name: name.into(), figure, must: true })
}

fn label(map: &Map, wishes: Vec<Wish>) -> Vec<Label> {
    let frame = Area { left: 2.0, top: 2.0, right: WIDTH - 2.0, bottom: HEIGHT - 2.0 };
    // Known places without a connection may be covered: there can be hundreds.
    let strong = map.dots.iter().filter(|d| d.kind.connected() || d.kind == Kind::Unreachable);
    let mut taken: Vec<Area> =
        strong.take(MAX_LINES).map(|d| Area::around(d.x, d.y, d.radius)).collect();
    taken.push(TOOLS);
    if let Some((x, y)) = map.own {
        taken.push(Area::around(x, y, 6.0));
    }
    labels::place(wishes, frame, taken, MAX_LABELS)
}

#[cfg(test)]
mod tests {
    use agent_api::mesh::{PathKind, PeerState};

    use super::*;
    use crate::mesh::peers::tests::{announcement, peer};

    fn at(n: u32, region: &str) -> Peer {
        Peer { announcement: Some(announcement(region)), ..peer(n) }
    }

    fn draw_all(peers: &[Peer], own: Option<&str>) -> Map {
        draw(peers.iter(), "workbench", own)
    }

    #[test]
    fn known_cities_are_where_the_land_is_drawn_for_them() {
        let hamburg = project(Point { latitude: 53.55, longitude: 10.0 });
        assert!((hamburg.0 - 340.8).abs() < 1.0 && (hamburg.1 - 48.5).abs() < 1.0, "{hamburg:?}");
        let sydney = project(Point { latitude: -33.87, longitude: 151.2 });
        assert!((sydney.0 - 679.7).abs() < 1.0 && (sydney.1 - 265.9).abs() < 1.0, "{sydney:?}");
        let honolulu = project(Point { latitude: 21.3, longitude: -157.8 });
        assert_eq!(honolulu.0, EDGE, "on the edge, not outside");
        let apia = project(Point { latitude: -13.8, longitude: -171.7 });
        assert_eq!(apia.0, WIDTH - EDGE, "on New Zealand's side");
    }

    #[test]
    fn places_beyond_a_side_say_so_and_lie_apart_from_the_buttons_and_each_other() {
        let zones = [
            "America/Anchorage",
            "America/Juneau",
            "Pacific/Honolulu",
            "America/Nome",
            "Pacific/Apia",
        ];
        let peers: Vec<_> = zones.iter().zip(1..).map(|(zone, n)| at(n, zone)).collect();
        let map = draw_all(&peers, Some("America/Sitka"));
        let (own, dots) = (map.own.expect("Sitka"), &map.dots);
        let west: Vec<_> = dots.iter().filter(|dot| dot.x == EDGE).collect();
        assert_eq!((west.len(), dots.len()), (4, 5));
        let mut heights: Vec<f64> = west.iter().map(|dot| dot.y).chain([own.1]).collect();
        heights.sort_by(f64::total_cmp);
        assert!(heights[0] > TOOLS.bottom, "{heights:?}");
        assert!(heights.windows(2).all(|two| two[1] - two[0] >= EDGE_STEP), "{heights:?}");
        assert!(west.iter().all(|dot| dot.title.contains("west of this map")), "{west:?}");
        assert!(map.labels.iter().any(|label| label.name.starts_with('\u{2190}')));
        assert!(dots.iter().any(|dot| dot.title.contains("Apia (east of this map)")));
    }

    #[test]
    fn a_map_without_any_place_is_known_as_empty() {
        let nobody = |peers: &[Peer], own| shows_nobody(peers.iter(), own);
        let nowhere = Peer { announcement: None, ..peer(1) };
        let lan = Peer { path: Some(PathKind::Lan), ..nowhere.clone() };
        assert!(!nobody(&[], None), "nobody is missing");
        assert!(nobody(std::slice::from_ref(&nowhere), Some("Europe/Berlin")));
        assert!(nobody(std::slice::from_ref(&lan), None), "beside a node that is nowhere");
        assert!(!nobody(std::slice::from_ref(&lan), Some("Europe/Berlin")));
        assert!(!nobody(&[nowhere, at(2, "Asia/Tokyo")], None));
    }

    #[test]
    fn two_thousand_peers_are_few_dots_and_few_labels() {
        let zones = ["Asia/Tokyo", "Europe/Paris", "America/New_York", "Africa/Lagos"];
        let peers: Vec<_> = (0..2_000).map(|n| at(n, zones[n as usize % 4])).collect();
        let map = draw_all(&peers, Some("Europe/Berlin"));
        assert_eq!((map.dots.len(), map.lines.len()), (4, 4));
        assert_eq!(map.dots.iter().map(|d| d.count).sum::<usize>(), 2_000);
        assert!(map.labels.len() <= MAX_LABELS);
        assert!(map.labels.iter().any(|l| l.name == "Tokyo" && l.figure == "500"));
    }

    #[test]
    fn peers_here_and_on_the_lan_stand_around_this_node() {
        let lan = Peer { path: Some(PathKind::Lan), announcement: None, ..peer(1) };
        let peers = [lan, at(2, "Europe/Berlin"), at(3, "Mars/Base"), at(4, "Asia/Tokyo")];
        let map = draw_all(&peers, Some("Europe/Berlin"));
        assert_eq!((map.near, map.elsewhere, map.lines.len()), (2, 1, 1));
        let (x, y) = map.own.expect("Berlin");
        let around = map.dots.iter().filter(|d| (d.x - x).hypot(d.y - y) < 20.0).count();
        assert_eq!(around, 2);
        assert!(map.labels.iter().any(|l| l.figure == "you, 2 nearby"));
    }

    #[test]
    fn a_node_that_shows_no_place_draws_no_lines() {
        let map = draw_all(&[at(1, "Asia/Tokyo")], None);
        assert!(map.own.is_none() && map.lines.is_empty() && map.dots.len() == 1);
    }

    #[test]
    fn a_place_is_coloured_by_its_best_connection_and_opens_that_peer() {
        let known =
            Peer { state: PeerState::Known, path: None, connected: false, ..at(1, "Asia/Tokyo") };
        let map = draw_all(&[known, at(9, "Asia/Tokyo")], None);
        assert_eq!((map.dots[0].kind, map.dots[0].count), (Kind::Direct, 2));
        assert_eq!(map.dots[0].peer, peer(9).node_id);
        assert_eq!(
            map.dots[0].title,
            "Tokyo, 2 peers, 1 connected, nearest peer-9 direct, 9.0\u{202f}ms"
        );
    }
}
