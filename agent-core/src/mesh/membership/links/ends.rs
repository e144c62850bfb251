//! How connections end, and which end because nothing needs them.

use std::time::Duration;

use super::{ADDRESS_WAIT, NOT_NEEDED, Phase, QUEUE_WAIT};
use crate::mesh::{
    NodeKey,
    membership::{
        Membership,
        io::{ConnId, MeshEvent, Output},
    },
};

impl Membership {
    pub(in crate::mesh::membership) fn on_dial_failed(&mut self, peer: NodeKey, reason: String) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.dialing = false;
            link.wanted = false;
        }
        self.links.failed(&peer, reason, self.now, &mut self.rng);
        if !self.links.is_up(&peer) {
            self.give_up_gossip(peer);
        }
        self.replan = true;
    }

    pub(in crate::mesh::membership) fn on_disconnected(
        &mut self,
        peer: NodeKey,
        id: ConnId,
        reason: &str,
    ) {
        let Some(conn) = self.links.remove_conn(&peer, id) else { return };
        if conn.is_up() && reason == NOT_NEEDED {
            self.links.rest(&peer, self.now.mono);
        } else if conn.phase == Phase::Greeting || (conn.is_up() && !self.links.is_up(&peer)) {
            self.links.failed(&peer, reason.to_owned(), self.now, &mut self.rng);
        }
        if conn.is_up() && !self.links.is_up(&peer) {
            self.peer_is_down(peer, reason);
        } else if conn.phase == Phase::Greeting && !self.links.is_up(&peer) {
            self.give_up_gossip(peer);
        }
        // Of two connections the other one is in use now.
        self.tell_path(peer);
        self.replan = true;
    }

    pub(in crate::mesh::membership) fn peer_is_down(&mut self, peer: NodeKey, reason: &str) {
        self.event(MeshEvent::PeerDown { peer, reason: reason.to_owned() });
        self.sync.forget(&peer);
        if let Some(link) = self.links.get_mut(&peer) {
            link.last_up = Some(self.now.mono);
            link.told_path = None;
        }
        self.give_up_gossip(peer);
    }

    fn give_up_gossip(&mut self, peer: NodeKey) {
        self.links.take_queued(&peer);
        let steps = self.overlay.disconnected(peer, self.now.mono);
        self.carry_out(steps);
    }

    /// Closes every connection with a peer, for good.
    pub(in crate::mesh::membership) fn drop_peer(&mut self, peer: NodeKey, reason: &str) {
        let was_up = self.links.is_up(&peer);
        let Some(link) = self.links.get_mut(&peer) else { return };
        let conns = std::mem::take(&mut link.conns);
        for conn in conns {
            self.close(peer, conn.id, reason);
        }
        if was_up {
            self.peer_is_down(peer, reason);
        }
    }

    pub(in crate::mesh::membership) fn close(&mut self, peer: NodeKey, conn: ConnId, reason: &str) {
        self.out.push(Output::Close { peer, conn, reason: reason.to_owned() });
    }

    /// Connections that nothing needs, and frames that waited too long.
    pub(in crate::mesh::membership) fn trim_links(&mut self) {
        let now = self.now.mono;
        let overdue = self.links.iter().filter(|(key, link)| {
            let unknown = link.addresses.is_empty() && !self.directory.contains(key);
            let waited = if unknown { QUEUE_WAIT - ADDRESS_WAIT } else { Duration::ZERO };
            !link.queued.is_empty() && link.queued_until.saturating_sub(waited) <= now
        });
        for peer in overdue.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.give_up_gossip(peer);
        }
        if self.is_small() {
            return;
        }
        let neighbours = self.overlay.neighbours();
        let surplus = self.links.up().filter(|(key, link)| {
            !link.in_use && link.keep_until <= now && !neighbours.contains(key)
        });
        for peer in surplus.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.drop_peer(peer, NOT_NEEDED);
        }
    }
}
