//! Connections: dialed, accepted, measured, ended.

use std::{collections::HashSet, sync::Arc};

use agent_api::mesh::{PathKind, SourceKind};
use bytes::Bytes;

use super::Driver;
use crate::mesh::{
    Addresses, MeshError, NodeKey,
    membership::io::{ConnId, Input},
    net::{
        BINDING, close,
        dial::dial,
        endpoint::to_iroh,
        link::{Link, LinkEvent, Opened, TooSlow},
        observed::{Change, Report, seen, tell},
        session::{Answer, Reply},
    },
};

/// Connections with all peers together: what membership uses, and some whose handshake is not done.
const LINKS: usize = 640;
/// Connections with one peer: an old one, a new one that takes its place, and one dialed from each
/// side at once.
const LINKS_PER_PEER: usize = 4;
/// Dials at the same time; membership asks for no more.
const DIALS: usize = 16;

impl Driver<'_> {
    pub(super) fn dial(&mut self, peer: NodeKey, addresses: Addresses) {
        let Some(to) = to_iroh(peer, &addresses).filter(|_| self.dials.len() < DIALS) else {
            let reason = "this node is busy with other connections".to_owned();
            return self.input(Input::DialFailed { peer, reason });
        };
        let endpoint = self.endpoint.clone();
        self.dials.spawn(async move { (peer, dial(endpoint, to).await) });
    }

    pub(super) fn dialed(&mut self, peer: NodeKey, result: Result<Opened, String>) {
        match result {
            Ok(opened) => self.link_up(opened),
            Err(reason) => {
                self.refuse_asked(peer, &reason);
                self.publisher.dirty(peer);
                self.input(Input::DialFailed { peer, reason });
            }
        }
    }

    /// A connection is up, from either side.
    pub(super) fn link_up(&mut self, opened: Opened) {
        let peer = NodeKey(*opened.connection.remote_id().as_bytes());
        let of_peer = self.links.values().filter(|link| link.peer == peer).count();
        if self.links.len() >= LINKS || of_peer >= LINKS_PER_PEER {
            opened.connection.close(close::FULL, b"this node has too many connections");
            return;
        }
        let mut binding = [0; 32];
        if opened.connection.export_keying_material(&mut binding, BINDING, &[]).is_err() {
            // Only a connection whose handshake is not done has none.
            opened.connection.close(close::MALFORMED, b"this connection has no keys");
            return;
        }
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let side = opened.side;
        let mut link = Link::start(conn, opened, &self.context, self.now().unix_ms);
        let path = link.measure(self.network.ranges());
        let on_lan = path.is_some_and(|(kind, _)| kind == PathKind::Lan)
            || self
                .membership
                .peer(&peer)
                .is_some_and(|view| view.sources.contains(&SourceKind::Lan));
        self.links.insert(conn, link);
        self.input(Input::Connected { peer, conn, side, binding, on_lan });
        if let Some((kind, rtt)) = path {
            self.input(Input::Path { peer, conn, kind, rtt });
        }
    }

    pub(super) fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Frame { conn, bytes, _room } => {
                let now_ms = self.now().unix_ms;
                let Some(link) = self.links.get(&conn) else { return };
                link.live.heard(now_ms);
                let peer = link.peer;
                self.input(Input::Frame { peer, conn, bytes });
            }
            LinkEvent::Paths { conn } => self.measure(conn),
            LinkEvent::Down { conn, reason, malformed } => self.link_down(conn, reason, malformed),
        }
    }

    fn link_down(&mut self, conn: ConnId, reason: String, malformed: Option<&'static str>) {
        let Some(link) = self.links.remove(&conn) else { return };
        if let Some(word) = malformed {
            self.publisher.count_refused(word);
        }
        let peer = link.peer;
        self.refuse_asked(peer, &reason);
        self.input(Input::Disconnected { peer, conn, reason });
        self.set_members();
    }

    pub(super) fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let Some(link) = self.links.get(&conn) else { return };
        if let Err(TooSlow) = link.send(bytes) {
            tracing::debug!(peer = ?link.peer, "a peer does not read what it is sent");
            link.connection.close(close::TOO_SLOW, b"you do not read what you are sent");
        }
    }

    /// Tells membership of a path that changed.
    pub(super) fn measure(&mut self, conn: ConnId) {
        let ranges = self.network.ranges();
        let Some(link) = self.links.get_mut(&conn) else { return };
        let peer = link.peer;
        let seen = seen(&link.connection, ranges);
        if seen.is_some() && seen != link.told_address {
            link.told_address = seen;
            let (connection, uses) = (link.connection.clone(), self.context.uses.clone());
            if let Some(address) = seen {
                self.context.tasks.spawn(tell(connection, uses.begin(peer), address));
            }
        }
        if let Some((kind, rtt)) = link.measure(ranges) {
            self.input(Input::Path { peer, conn, kind, rtt });
        }
    }

    /// A peer says which address it sees of this node.
    pub(super) fn observed(&mut self, report: Report) {
        let change = self.reports.take(report);
        if change == Change::default() {
            return;
        }
        let endpoint = self.endpoint.clone();
        self.context.tasks.spawn(async move {
            for old in &change.remove {
                endpoint.remove_external_addr(old).await;
            }
            if let Some(new) = change.add {
                endpoint.add_external_addr(new).await;
            }
        });
    }

    /// Who may open streams, and over which connection.
    pub(super) fn set_members(&mut self) {
        let peers: HashSet<NodeKey> = self.links.values().map(|link| link.peer).collect();
        let member = |peer: NodeKey| {
            let view = self.membership.peer(&peer)?;
            let link = self.links.get(&view.connections.first()?.conn)?;
            Some((peer, link.connection.clone()))
        };
        let members = peers.into_iter().filter_map(member).collect();
        self.session.ends.members.send_replace(Arc::new(members));
    }

    pub(super) fn connect(&mut self, peer: NodeKey, reply: Reply) {
        if let Some(connection) = self.session.ends.members.borrow().get(&peer) {
            let _ = reply.send(Ok(Answer::Connection(Box::new(connection.clone()))));
            return;
        }
        // Whoever asked holds the peer in use, so that membership dials it.
        self.asked.entry(peer).or_default().push(reply);
    }

    /// Those who asked and did not wait.
    pub(super) fn forget_gone(&mut self) {
        self.asked.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
    }

    pub(super) fn answer_asked(&mut self, peer: NodeKey) {
        let connection = self.session.ends.members.borrow().get(&peer).cloned();
        let Some(connection) = connection else { return };
        for reply in self.asked.remove(&peer).into_iter().flatten() {
            let _ = reply.send(Ok(Answer::Connection(Box::new(connection.clone()))));
        }
    }

    fn refuse_asked(&mut self, peer: NodeKey, reason: &str) {
        for reply in self.asked.remove(&peer).into_iter().flatten() {
            let peer = peer.to_id().0;
            let _ = reply.send(Err(MeshError::Unreachable { peer, reason: reason.to_owned() }));
        }
    }
}
