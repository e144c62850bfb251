//! What the sources are given, and what they hand back.

use std::{collections::HashSet, sync::Arc};

use agent_api::{Settings, mesh::SourceKind};
use tokio::sync::{mpsc, watch};

use crate::{
    mesh::{Addresses, MeshCard, NodeKey, SeedSetup},
    storage::Storage,
};

/// Nodes that wait for the driver. It takes them at once; a full queue loses nodes, which every
/// source offers again while this node is alone.
pub const FOUND_QUEUE: usize = 256;

/// Everything that [`Sources::start`](super::Sources::start) needs. The watches are followed while
/// the sources run; the driver keeps them up to date.
#[derive(Debug)]
pub struct SourceContext {
    /// Where found nodes go; [`FOUND_QUEUE`] is a good size.
    pub found: mpsc::Sender<Found>,
    /// This node's endpoint: whose key it has and where its UDP sockets are bound.
    pub endpoint: iroh::Endpoint,
    /// The mesh whose nodes are looked for.
    pub card: watch::Receiver<MeshCard>,
    pub settings: watch::Receiver<Settings>,
    pub own: watch::Receiver<OwnInfo>,
    /// Nodes of the mesh by their own signed records, without this node.
    pub directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
    pub storage: Storage,
    pub seed: Option<SeedSetup>,
}

/// A node that a source found. Nothing about it is proved yet, not even that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub peer: NodeKey,
    /// Cleaned and bounded. May be empty.
    pub addresses: Addresses,
    pub source: SourceKind,
    /// What it calls itself, at most 64 bytes, where the source knows.
    pub name: Option<String>,
    /// It says that it is in another mesh.
    pub foreign: bool,
}

/// This node, as the sources tell others of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnInfo {
    pub name: String,
    /// As in its own record.
    pub addresses: Addresses,
    /// Time zone name; `None`: not shown.
    pub region: Option<String>,
    pub version: String,
    /// Peers of the mesh that are connected. At 0 every source looks for more.
    pub connected: u32,
    /// The owner blocked them: they are not offered, and an own relay refuses them.
    pub blocked: Arc<HashSet<NodeKey>>,
}

/// A node of the mesh as its own record describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    pub key: NodeKey,
    pub addresses: Addresses,
    pub name: String,
    pub seed: bool,
    /// URL of the relay that it runs.
    pub relay: Option<String>,
    /// UDP port of the DHT node that it runs.
    pub dht_port: Option<u16>,
    pub region: Option<String>,
    pub version: String,
    /// Milliseconds since 1970.
    pub last_seen_ms: i64,
}
