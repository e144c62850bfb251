//! Connections: dialed, accepted, measured, ended.

use std::{collections::HashSet, sync::Arc};

use agent_api::mesh::SourceKind;
use bytes::Bytes;
use iroh::endpoint::VarInt;
use tokio::task::{Id, JoinError};

use super::{Driver, Woken};
use crate::mesh::{
    Addresses, MeshError, NodeKey,
    membership::io::{ConnId, Input, Side},
    net::{
        BINDING, close,
        dial::dial,
        endpoint::to_iroh,
        link::{Link, LinkEvent, Opened, TooSlow},
        observed::{Report, seen, tell},
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
        let task = self.dials.spawn(dial(endpoint, to));
        self.dialing.insert(task.id(), peer);
    }

    /// Whose dial it was. Membership hears of every one: it counts those in flight.
    pub(super) fn dial_over(
        &mut self,
        dialed: Result<(Id, Result<Opened, String>), JoinError>,
    ) -> Woken {
        let (id, result) = match dialed {
            Ok((id, result)) => (id, result.map(Box::new)),
            Err(error) => {
                tracing::error!("a dial broke off: {error}");
                (error.id(), Err("this node failed while it dialed".to_owned()))
            }
        };
        match self.dialing.remove(&id) {
            Some(peer) => Woken::Dialed(peer, result),
            None => Woken::Tick,
        }
    }

    pub(super) fn dialed(&mut self, peer: NodeKey, result: Result<Opened, String>) {
        match result {
            Ok(opened) => self.link_up(opened),
            Err(reason) => self.dial_failed(peer, reason),
        }
    }

    fn dial_failed(&mut self, peer: NodeKey, reason: String) {
        self.refuse_asked(peer, &reason);
        self.publisher.dirty(peer);
        self.input(Input::DialFailed { peer, reason });
    }

    /// A connection that membership never hears of. If it was dialed, the dial failed.
    fn turn_away(&mut self, opened: &Opened, code: VarInt, reason: &str) {
        opened.connection.close(code, reason.as_bytes());
        if opened.side == Side::Dialed {
            let peer = NodeKey(*opened.connection.remote_id().as_bytes());
            self.dial_failed(peer, reason.to_owned());
        }
    }

    /// A connection is up, from either side.
    pub(super) fn link_up(&mut self, opened: Opened) {
        let peer = NodeKey(*opened.connection.remote_id().as_bytes());
        let of_peer = self.links.values().filter(|link| link.peer == peer).count();
        if self.links.len() >= LINKS || of_peer >= LINKS_PER_PEER {
            return self.turn_away(&opened, close::FULL, "this node has too many connections");
        }
        let mut binding = [0; 32];
        if opened.connection.export_keying_material(&mut binding, BINDING, &[]).is_err() {
            // Only a connection whose handshake is not done has none.
            return self.turn_away(&opened, close::MALFORMED, "this connection has no keys");
        }
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let side = opened.side;
        let mut link = Link::start(conn, opened, &self.context, self.now().unix_ms);
        let path = link.measure(self.network.ranges());
        let on_lan = link.is_near(self.network.ranges())
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
        self.reports.take(report, self.begun.elapsed());
        let addresses = self.reports.addresses();
        self.wanted.send_if_modified(|now| {
            let changed = now.addresses != addresses;
            now.addresses = addresses;
            changed
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
