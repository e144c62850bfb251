//! What goes into membership and what comes out.

use std::time::Duration;

use agent_api::mesh::{Announcement, PathKind, SourceKind};
use bytes::Bytes;

use crate::mesh::{Addresses, MeshCard, NodeKey};

/// Largest frame on the wire, in bytes. Anti-entropy answers are the largest; they are cut to it.
pub const FRAME_BYTES: usize = 64 << 10;

/// The time, twice: one clock that never jumps, and the one that people and other nodes know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the node started; never goes back.
    pub mono: Duration,
    /// Milliseconds since 1970; may be wrong, may jump.
    pub unix_ms: i64,
}

/// One connection among several with the same peer. Given by the driver, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Which end opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Dialed,
    Accepted,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// A connection is up; the transport proved that `peer` holds its key. Membership speaks first
    /// on it, on both ends.
    Connected {
        peer: NodeKey,
        conn: ConnId,
        side: Side,
        /// Bytes that both ends of this connection know and nobody else (TLS exporter, RFC 8446
        /// section 7.5). Proofs of a mesh's secret are bound to it.
        binding: [u8; 32],
        /// The other end is on this network (mDNS saw it, or its address is of this link).
        on_lan: bool,
    },
    /// It ended, for whatever reason; also after `Close`.
    Disconnected {
        peer: NodeKey,
        conn: ConnId,
        reason: String,
    },
    /// The last dial of this peer failed. The driver gave up; membership backs off.
    DialFailed {
        peer: NodeKey,
        reason: String,
    },
    /// The path in use changed, or was measured again.
    Path {
        peer: NodeKey,
        conn: ConnId,
        kind: PathKind,
        rtt: Duration,
    },
    Frame {
        peer: NodeKey,
        conn: ConnId,
        bytes: Bytes,
    },
    /// A source found a node. It may be in another mesh; on the LAN that is worth knowing.
    Found {
        peer: NodeKey,
        addresses: Addresses,
        source: SourceKind,
        /// The name that it shows to anyone on the LAN, if it does.
        name: Option<String>,
        /// It is of another mesh, as its own packets say.
        foreign: bool,
    },
    /// The deadline is over.
    Tick,
    /// The machine slept or its network changed: connections may be dead although nobody said so.
    NetworkChanged,
    /// What this node says of itself. `at_ms`, `every_s` and `links` are filled in here. Announced
    /// at the next turn; sooner if something important changed (serving, models), never more often
    /// than the rate that the mesh's size allows.
    Announce(Box<Announcement>),
    /// Where this node is reached; part of its signed record.
    OwnAddresses(Addresses),
    /// Something besides membership (a task, a model file) needs a connection to this peer, or does
    /// not any more. It is dialed if need be, and not closed as one too many.
    InUse {
        peer: NodeKey,
        in_use: bool,
    },
    Command(Command),
}

/// The owner's word.
#[derive(Clone, Debug)]
pub enum Command {
    /// Leave the current mesh (saying goodbye) and be in this one. Peers found before are
    /// forgotten, but for those on the LAN: [`Input::Found`] those of the ticket after it. With the
    /// current mesh's id and secret only its name and whether it is settled change.
    Enter(MeshCard),
    Block(NodeKey),
    Unblock(NodeKey),
    /// A trusted node keeps its row in a full table.
    Trust {
        peer: NodeKey,
        trusted: bool,
    },
    /// The answer to [`MeshEvent::AsksToJoin`].
    Admit {
        peer: NodeKey,
        admit: bool,
    },
    SetLanJoin(agent_api::mesh::LanJoin),
    /// Announce and ask neighbours for what is missing, now.
    Refresh,
    /// Say goodbye; nothing follows.
    Shutdown,
}

#[derive(Clone, Debug)]
pub enum Output {
    Send {
        peer: NodeKey,
        conn: ConnId,
        bytes: Bytes,
    },
    /// Connect, with these hints besides what the driver knows. One dial per peer at a time.
    Dial {
        peer: NodeKey,
        addresses: Addresses,
    },
    /// Close after what was sent is delivered. The reason goes to the other end.
    Close {
        peer: NodeKey,
        conn: ConnId,
        reason: String,
    },
    /// Close once no stream runs over it any more: another connection took its place, and what is
    /// under way is not torn down for that.
    Retire {
        peer: NodeKey,
        conn: ConnId,
        reason: String,
    },
    Event(MeshEvent),
}

/// What the node, the API and the panel hear of.
#[derive(Clone, Debug, PartialEq)]
pub enum MeshEvent {
    /// In the same mesh, handshake done. Sent once per peer, not per connection.
    PeerUp {
        peer: NodeKey,
    },
    PeerDown {
        peer: NodeKey,
        reason: String,
    },
    /// A node that nobody had told of announced itself to everyone: it came just now.
    PeerNew {
        peer: NodeKey,
    },
    /// Something about a peer changed: record, path, state. Coalesced by the listener.
    PeerChanged {
        peer: NodeKey,
    },
    /// A node's record is too old or it said goodbye; it is not in the table any more.
    PeerGone {
        peer: NodeKey,
        said_goodbye: bool,
    },
    PathChanged {
        peer: NodeKey,
        from: PathKind,
        to: PathKind,
    },
    /// Another computer uses this node's key.
    DuplicateIdentity,
    /// A node on the LAN that is in another mesh; `None`: it is out of sight.
    Nearby {
        peer: NodeKey,
    },
    AsksToJoin {
        peer: NodeKey,
    },
    /// This node moved to another mesh by itself (merging on the LAN, or admitted by its owner).
    /// The driver saves the card.
    Entered(MeshCard),
    /// Addresses and time of a peer, to be saved for the next start.
    Save {
        peer: NodeKey,
        addresses: Addresses,
        name: String,
    },
}
