//! One peer: what it says of itself, and how this node reaches it.

use serde::{Deserializer, Serializer};

use super::{Deserialize, NodeId, Serialize, SourceKind, Tier, WorkerClass};
use crate::tasks::TaskKind;

/// Query of `GET /mesh/peers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PeerQuery {
    /// At most so many; all that are known (4,096 at most) without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
}

/// Connected peers first, by round-trip time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PeerList {
    pub peers: Vec<Peer>,
    /// All that are known, also those that `limit` left out.
    pub total: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Peer {
    pub node_id: NodeId,
    /// What it calls itself; its short id until it said so.
    pub name: String,
    pub connected: bool,
    pub state: PeerState,
    /// How it is reached; `None` while it is not connected.
    pub path: Option<PathKind>,
    pub rtt_ms: Option<f64>,
    /// The address or relay in use.
    pub address: Option<String>,
    /// It was marked as the owner's own or an owner they trust.
    pub trusted: bool,
    /// It was marked as the owner's own.
    #[serde(default)]
    pub own: bool,
    pub seed: bool,
    /// Where it was found, in order.
    pub sources: Vec<SourceKind>,
    /// Its last sign of life: a frame on its connection, or an announcement.
    pub last_seen_ms: Option<i64>,
    pub connected_since_ms: Option<i64>,
    /// Why it is not connected, where an attempt failed; or that its clock is wrong.
    pub problem: Option<String>,
    /// The last it said of itself, signed by it; `None` until it spoke.
    pub announcement: Option<Announcement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    Connected,
    /// In the mesh by its own recent word; no connection is needed at the moment.
    Known,
    /// Its announcement is overdue.
    Stale,
    /// The last attempts to connect failed.
    Unreachable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Straight, both ends on one network (or one computer).
    Lan,
    /// Straight over the internet, punched through NATs if need be.
    Direct,
    Relay,
}

/// What a node says of itself. It travels in a small record that the node signed; see
/// `agent_core::mesh::record`. The order of the fields is the wire format: add at the end and raise
/// the record's version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Announcement {
    /// At most 64 bytes.
    pub name: String,
    pub version: String,
    /// Lowest and highest protocol version that it speaks.
    pub protocol: (u16, u16),
    /// Time zone name; `None`: not shown.
    pub region: Option<String>,
    pub tier: Tier,
    pub worker_class: WorkerClass,
    pub seed: bool,
    pub serving: AnnouncedServing,
    /// At most 32, resident ones first.
    pub models: Vec<AnnouncedModel>,
    /// Requests it runs at the same time, and how many of these slots are free.
    pub slots: u16,
    pub slots_free: u16,
    /// Requests that wait.
    pub queue: u16,
    /// Tokens per second of the active model, measured over its last requests.
    pub tokens_per_s: Option<f32>,
    /// Micro-credits per 1,000 tokens; `None`: it names no price.
    pub price: Option<u64>,
    /// Hash and length of its chain in the ledger; `None`: it has none.
    pub ledger_head: Option<(u64, Hash)>,
    /// Peers it is connected to, as the first four bytes of their keys (big-endian); at most 16.
    pub links: Vec<u32>,
    /// URL of the relay that it runs for the mesh.
    pub relay: Option<String>,
    /// UDP port of the DHT node that it runs for the mesh.
    pub dht_port: Option<u16>,
    /// When it was signed, milliseconds since 1970 by its clock; also the record's sequence number.
    pub at_ms: i64,
    /// Seconds until its next announcement. After three of these it is stale, after ten gone.
    pub every_s: u32,
    /// Kinds of tasks that it takes from other nodes; empty: none.
    pub accepts: Vec<TaskKind>,
    /// `None`: not readable there.
    pub power: Option<Power>,
}

/// What a node runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Plugged in, or a computer in which no battery is found.
    Mains,
    Battery {
        /// 0 to 100, in steps of ten: finer ones would be news all the time.
        percent: u8,
    },
}

/// Whether it takes work from the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AnnouncedServing {
    Ready,
    Busy,
    /// Its owner paused it.
    Paused,
    /// No model, or its runner is down.
    Unable,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AnnouncedModel {
    /// The name that requests use.
    pub id: String,
    /// Digest of its weights, the registry's: SHA-256. `None`: not known (another program has it).
    pub digest: Option<Hash>,
    pub size_bytes: u64,
    /// Tokens per request as it would run there.
    pub context: u32,
    /// In memory, ready to answer.
    pub resident: bool,
    /// Measured there.
    pub tokens_per_s: Option<f32>,
    /// Peers may fetch its file.
    pub shared: bool,
}

/// Query of `GET /agent-mesh/peers/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PeerId {
    pub id: NodeId,
}

/// Answer of `GET /agent-mesh/peers/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PeerDetails {
    pub peer: Peer,
    /// All addresses that are known for it.
    pub addresses: Vec<String>,
    /// Every path of the connection, the one in use first.
    pub paths: Vec<PeerPath>,
    /// Round-trip times of the last minutes, oldest first, milliseconds, at most 60.
    pub rtt_history: Vec<f64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Of the last ten attempts to connect, newest first.
    pub attempts: Vec<Attempt>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PeerPath {
    pub kind: PathKind,
    pub address: String,
    pub rtt_ms: f64,
    pub in_use: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Attempt {
    pub at_ms: i64,
    pub ok: bool,
    /// What happened.
    pub text: String,
}

/// 32 bytes; 64 hexadecimal digits in JSON, bare bytes in binary formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, std::hash::Hash)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hash(#[cfg_attr(feature = "schema", schemars(with = "String"))] pub [u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Ok(Self(<[u8; 32]>::deserialize(deserializer)?));
        }
        let digits = String::deserialize(deserializer)?;
        let byte = |at: usize| {
            let pair = digits.get(2 * at..2 * at + 2)?;
            u8::from_str_radix(pair, 16).ok()
        };
        let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
        let bytes = bytes.filter(|_| digits.len() == 64).and_then(|b| b.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("64 hexadecimal digits expected"))
    }
}
