//! The numbers behind `GET /dht/stats`.

use std::net::SocketAddrV4;

use agent_api::mesh::{DhtStats, SourceKind};

use super::{super::board::Board, round::Visited};

/// Counted since the start.
#[derive(Clone, Debug, Default)]
pub(in crate::mesh::sources) struct Stats {
    /// Where the own node listens, on a seed.
    server: Option<SocketAddrV4>,
    server_nodes: usize,
    visit_nodes: usize,
    size_estimate: Option<u64>,
    announcements: u64,
    lookups: u64,
    found: u64,
}

impl Stats {
    pub(super) fn off(&mut self) {
        self.server(None, 0);
        self.visit_nodes = 0;
        self.size_estimate = None;
    }

    pub(super) fn server(&mut self, address: Option<SocketAddrV4>, nodes: usize) {
        self.server = address;
        self.server_nodes = nodes;
    }

    pub(super) fn visited(&mut self, visited: &Visited, looked: bool, found: u64) {
        self.announcements += u64::from(visited.announced);
        self.lookups += u64::from(looked);
        self.found += found;
        self.visit_nodes = visited.nodes;
        self.size_estimate = visited.size_estimate.map(|size| size as u64);
    }

    pub(in crate::mesh::sources) fn server_port(&self) -> Option<u16> {
        self.server.map(|address| address.port())
    }

    pub(in crate::mesh::sources) fn answer(&self, board: &Board) -> DhtStats {
        let (state, reason) = board.state(SourceKind::Dht);
        let nodes = self.server_nodes.max(self.visit_nodes);
        DhtStats {
            state,
            reason,
            server: self.server.is_some(),
            address: self.server.map(|address| address.to_string()),
            nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
            size_estimate: self.size_estimate,
            announcements: self.announcements,
            lookups: self.lookups,
            found: self.found,
        }
    }
}
