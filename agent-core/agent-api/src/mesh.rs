//! The mesh: who is in it, how each peer is reached, where peers were found, and how to join.

use serde::{Deserialize, Serialize};

use crate::{
    NodeId,
    hardware::{Tier, WorkerClass},
};

mod peer;
mod settings;

pub use peer::*;
pub use settings::*;

/// The mesh this node is in, and what it knows of it. Everything but the peers themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Mesh {
    pub at_ms: i64,
    pub state: MeshState,
    /// A sentence for the owner: why this state, and what ends it.
    pub reason: String,
    pub mesh_id: String,
    /// For people: `home`, `commons`.
    pub name: String,
    /// A private mesh has a secret that comes with a ticket; a public one lets anyone in who knows
    /// its id.
    pub private: bool,
    /// False while the mesh is the one that the first start made and nobody was invited: then it
    /// merges by itself with another such mesh on the same network.
    pub settled: bool,
    /// This node as the others see it.
    pub own: OwnNode,
    pub counts: PeerCounts,
    /// Each way of finding peers, with its state and the reason.
    pub sources: Vec<Source>,
    /// Nodes on this network that are in another mesh.
    pub nearby: Vec<Nearby>,
    /// Messages that were refused, by reason, since the start.
    pub refused: Vec<Refused>,
    /// Present when another computer uses this node's key.
    pub duplicate_identity: bool,
    /// How far this node's clock is probably ahead of the others' (negative: behind), milliseconds,
    /// in whole minutes; `None`: less than the two minutes from which on records are refused.
    pub clock_off_ms: Option<i64>,
    /// Blocked nodes; they stay blocked over restarts and meshes.
    pub blocked: Vec<BlockedNode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MeshState {
    /// Turned off in the settings.
    Off,
    /// Looking for peers for the first time since the start, or since this mesh was entered.
    Joining,
    /// The node is alone; it goes on looking.
    Alone,
    /// At least one peer is connected.
    Joined,
    /// The network could not be opened.
    Failed,
}

/// How this node is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OwnNode {
    /// UDP addresses that others may try, this network's and, where known, the public one.
    pub addresses: Vec<String>,
    /// Relay through which this node is reached when nothing else works.
    pub relay: Option<String>,
    pub relay_connected: bool,
    /// Time zone name, `Europe/Berlin`; `None`: the owner shows none.
    pub region: Option<String>,
    /// This node is a seed: it helps others to meet.
    pub seed: bool,
    /// Seconds between two announcements; it grows with the mesh.
    pub announce_every_s: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PeerCounts {
    /// Peers with a connection.
    pub connected: u32,
    /// Peers with a recent announcement, connected or not. Not counting this node.
    pub known: u32,
    /// Their last announcement is overdue.
    pub stale: u32,
    /// Connected, by path.
    pub lan: u32,
    pub direct: u32,
    pub relay: u32,
    /// Known, but the last attempts to reach them failed.
    pub unreachable: u32,
    /// Different regions among known peers.
    pub regions: u32,
}

/// A way of finding peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Source {
    pub kind: SourceKind,
    pub state: SourceState,
    /// A sentence for the owner: what it does, or why it does not.
    pub reason: String,
    /// Peers found through it since the start.
    pub found: u32,
    /// Names of some of them, or of the seeds, for the line below the source.
    pub names: Vec<String>,
    pub last_found_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Peers of earlier days, from this node's database.
    Saved,
    /// Addresses inside a ticket.
    Ticket,
    /// `GET /network/coordinators` of a seed.
    Seed,
    /// Multicast DNS on this network.
    Lan,
    /// The Kademlia table that seeds run.
    Dht,
    /// Other peers told of it, in records that it signed itself.
    Gossip,
    /// It connected to this node.
    Incoming,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Turned off by the owner.
    Off,
    /// On, but it has nothing to work with: no seed is known, nobody answers yet.
    Waiting,
    Working,
    /// It does not work; `reason` says why.
    Failed,
}

/// A node on this network that is not in this node's mesh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Nearby {
    pub node_id: NodeId,
    pub name: String,
    /// Name of its mesh.
    pub mesh: String,
    /// It asked to join this node's mesh and waits for the owner.
    pub asks_to_join: bool,
    pub seen_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Refused {
    /// Stable word: `bad_signature`, `expired`, `replayed`, `too_large`, `foreign_mesh`,
    /// `clock_skew`, `rate_limited`, `malformed`, `blocked`, `not_a_member`.
    pub reason: String,
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockedNode {
    pub node_id: NodeId,
    pub name: String,
    pub since_ms: i64,
}

/// Answer of `GET /mesh/topology`: nodes and the links between them, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Topology {
    pub at_ms: i64,
    pub own: NodeId,
    pub nodes: Vec<TopologyNode>,
    pub links: Vec<Link>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TopologyNode {
    pub node_id: NodeId,
    pub name: String,
    pub region: Option<String>,
    pub seed: bool,
    pub tier: Option<Tier>,
}

/// A connection that one of its two ends reported: this node, or a peer in its own announcement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Link {
    pub from: NodeId,
    pub to: NodeId,
    /// Known for this node's own connections only.
    pub path: Option<PathKind>,
    pub rtt_ms: Option<f64>,
}

/// Body of `POST /mesh/invite`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct InviteRequest {
    /// Seconds until the ticket is refused, at most 30 days; absent: 7 days.
    pub expires_in_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Invite {
    /// Text to hand over. Whoever has it can join: it carries the secret of a private mesh.
    pub ticket: String,
    pub expires_at_ms: i64,
    /// The ticket as QR code: an SVG image, dark on light.
    pub qr_svg: String,
    pub mesh: TicketInfo,
}

/// Body of `POST /mesh/join` and `POST /mesh/ticket`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TicketText {
    pub ticket: String,
}

/// What a ticket leads to; shown before joining.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TicketInfo {
    pub mesh_id: String,
    pub name: String,
    pub private: bool,
    pub inviter: NodeId,
    pub inviter_name: String,
    pub expires_at_ms: i64,
    /// This node is in that mesh already.
    pub joined: bool,
    /// Addresses inside, for the curious.
    pub addresses: Vec<String>,
}

/// Body of `POST /mesh/create`: leave the current mesh and start another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateMesh {
    /// 1 to 40 characters.
    pub name: String,
    pub private: bool,
}

/// Body of `POST /mesh/block` and `POST /mesh/trust`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MarkNode {
    pub node_id: NodeId,
    /// False takes the mark away.
    #[serde(default = "yes")]
    pub on: bool,
    /// `POST /mesh/trust`: the node is the owner's own, not only one they trust.
    #[serde(default)]
    pub own: bool,
}

fn yes() -> bool {
    true
}

/// Body of `POST /mesh/admit`: the answer to a nearby node that asks to join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AdmitNode {
    pub node_id: NodeId,
    pub admit: bool,
}

/// Answer of `GET /network/coordinators`: nodes that help others to meet. Public on a seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Coordinators {
    pub coordinators: Vec<Coordinator>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Coordinator {
    pub node_id: NodeId,
    /// UDP addresses, `203.0.113.7:4302`.
    pub addresses: Vec<String>,
    /// URL of its relay, if it runs one.
    pub relay: Option<String>,
    /// UDP address of its DHT node, if it runs one.
    pub dht: Option<String>,
    pub region: Option<String>,
    pub version: String,
    pub last_seen_ms: i64,
}

/// Answer of `GET /dht/stats`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DhtStats {
    pub state: SourceState,
    pub reason: String,
    /// True when this node answers others' lookups (seeds do).
    pub server: bool,
    pub address: Option<String>,
    /// Nodes in the routing table.
    pub nodes: u32,
    /// Estimated size of the whole DHT.
    pub size_estimate: Option<u64>,
    pub announcements: u64,
    pub lookups: u64,
    pub found: u64,
}
