//! A peer as it is known, borrowed.

use agent_api::mesh::{Announcement, PathKind, PeerState};

use crate::mesh::{NodeKey, net::snapshot::Row};

/// What placing work needs of a peer. See [`agent_api::mesh::Peer`].
#[derive(Clone, Copy, Debug)]
pub struct PeerLook<'a> {
    pub key: NodeKey,
    /// Its short id until it said how it is called.
    pub name: &'a str,
    pub state: PeerState,
    /// `None`: it is not connected.
    pub path: Option<PathKind>,
    pub rtt_ms: Option<f64>,
    pub trusted: bool,
    pub own: bool,
    /// Why it is not connected, where an attempt failed.
    pub problem: Option<&'a str>,
    /// Its last sign of life, milliseconds since 1970.
    pub last_seen_ms: Option<i64>,
    pub announcement: Option<&'a Announcement>,
}

impl<'a> PeerLook<'a> {
    pub(super) fn of(row: &'a Row) -> Self {
        let path = row.path.filter(|_| row.is_connected());
        Self {
            key: row.key,
            name: &row.name,
            state: row.state,
            path: path.map(|(kind, _)| kind),
            rtt_ms: row.rtt_ms(),
            trusted: row.trusted,
            own: row.own,
            problem: row.problem.as_deref(),
            last_seen_ms: row.last_seen_ms,
            announcement: row.announcement(),
        }
    }
}
