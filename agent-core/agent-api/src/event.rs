//! What the node announces. One enum, over SSE and over the desktop's channel.

use serde::{Deserialize, Serialize};

use crate::{
    Activity, NodeId, Settings, Status,
    host::HostState,
    mesh::{Mesh, Peer},
    pull::Pull,
    tasks::{Task, TaskCounts},
};

/// A fact for whoever listens. Subscribing gives a `Snapshot` first, then changes without a gap.
/// A listener that falls behind gets `Resync` and asks again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    Snapshot {
        status: Box<Status>,
        /// The newest 50, newest first.
        activity: Vec<Activity>,
        settings: Box<Settings>,
        pulls: Vec<Pull>,
        mesh: Box<Mesh>,
    },
    /// At most once a second, and only while somebody listens.
    Status {
        status: Box<Status>,
    },
    Activity {
        item: Activity,
    },
    /// The API key is blanked.
    Settings {
        settings: Box<Settings>,
    },
    /// All pulls, at most four times a second and only while somebody listens.
    Pulls {
        pulls: Vec<Pull>,
    },
    /// The list of installed models, their options or what is in memory changed; ask again.
    Models,
    /// The mesh, its sources or its counts changed; at most once a second and only while somebody
    /// listens.
    Mesh {
        mesh: Box<Mesh>,
    },
    /// Peers that are new or changed, and those that are gone; at most twice a second and only while
    /// somebody listens. `GET /mesh/peers` has them all.
    Peers {
        changed: Vec<Peer>,
        gone: Vec<NodeId>,
    },
    /// Tasks that are new or changed, at most 100, and all counts; at most four times a second and
    /// only while somebody listens. With more than 100 changes `more` says to ask again.
    Tasks {
        changed: Vec<Task>,
        counts: TaskCounts,
        more: bool,
    },
    /// A schedule or a delivery changed; ask again.
    Schedules,
    /// Sent by the host around the node, not by the node: it outlives it.
    Host {
        state: HostState,
    },
    Resync,
}

impl Event {
    /// The SSE event name; the same word as the `type` tag.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Snapshot { .. } => "snapshot",
            Self::Status { .. } => "status",
            Self::Activity { .. } => "activity",
            Self::Settings { .. } => "settings",
            Self::Pulls { .. } => "pulls",
            Self::Models => "models",
            Self::Mesh { .. } => "mesh",
            Self::Peers { .. } => "peers",
            Self::Tasks { .. } => "tasks",
            Self::Schedules => "schedules",
            Self::Host { .. } => "host",
            Self::Resync => "resync",
        }
    }
}
