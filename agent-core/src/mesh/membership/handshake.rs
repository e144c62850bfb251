//! The first frames of a connection. Only after them does anything else count.

use agent_api::mesh::LanJoin;

use super::{
    Membership, Refusal,
    io::{ConnId, MeshEvent, Output, Side},
    links::{Conn, FEW_NEIGHBOURS, MOST_CONNECTIONS, Phase},
    wire::{Hello, PROTOCOL, Talk},
};
use crate::mesh::{MeshCard, NodeKey};

const PROOF_DOMAIN: &[u8] = b"edgecoder/mesh/1";
/// Accepted connections that have not said hello, above which only nodes of the directory are let in:
/// strangers do not take the places of members.
const MOST_STRANGERS: usize = 64;
const MESH_DOMAIN: &str = "edgecoder mesh id 2026-11 v1";

/// What strangers may know of a mesh's id.
pub(super) fn mesh_hash(card: &MeshCard) -> [u8; 32] {
    blake3::derive_key(MESH_DOMAIN, &card.id.0)
}

/// Shows that `by` knows the secret, on this connection only: `binding` comes from its keys
/// (RFC 9266), so that nobody between can pass a proof on.
fn proof(card: &MeshCard, by: Side, binding: &[u8; 32]) -> blake3::Hash {
    let key = card.secret.unwrap_or(card.id.0);
    let side: &[u8] = match by {
        Side::Dialed => b"dialer",
        Side::Accepted => b"acceptor",
    };
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(PROOF_DOMAIN).update(side).update(binding).update(&card.id.0);
    hasher.finalize()
}

/// A name as others take it: control characters would be refused.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(40).collect()
}

impl Membership {
    pub(super) fn on_connected(&mut self, peer: NodeKey, conn: Conn) {
        let refusal = if self.blocked.contains(&peer) {
            self.count(Refusal::Blocked);
            Some("this node's owner blocked that one")
        } else if peer == self.me {
            Some("a node does not connect to itself")
        } else if self.links.is_banned(&peer, self.now.mono) {
            self.count(Refusal::RateLimited);
            Some("it broke the rules a short time ago; try later")
        } else if self.links.count_connections() >= MOST_CONNECTIONS {
            Some("this node has as many connections as it can serve; try others")
        } else if conn.side == Side::Accepted
            && !self.directory.contains(&peer)
            && self.strangers() >= MOST_STRANGERS
        {
            Some("too many strangers are at the door; try again in a few seconds")
        } else {
            None
        };
        let id = conn.id;
        if let Some(reason) = refusal {
            self.close(peer, id, reason);
            if conn.side == Side::Dialed {
                self.on_dial_failed(peer, reason.to_owned());
            }
            return;
        }
        let hello = self.hello(&conn);
        self.links.add(peer, conn, self.now.mono);
        self.out.push(Output::Send { peer, conn: id, bytes: Talk::Hello(hello).encode() });
    }

    /// Accepted connections whose hello is awaited.
    fn strangers(&self) -> usize {
        let conns = self.links.iter().flat_map(|(_, link)| &link.conns);
        conns.filter(|conn| conn.phase == Phase::Greeting && conn.side == Side::Accepted).count()
    }

    fn hello(&self, conn: &Conn) -> Hello {
        let shows = conn.on_lan && self.lan_join != LanJoin::Never;
        Hello {
            protocol: PROTOCOL,
            mesh: self.mesh_hash,
            instance: self.instance,
            proof: *proof(&self.card, conn.side, &conn.binding).as_bytes(),
            name: shown(&self.announcer.says.name),
            mesh_name: shows.then(|| shown(&self.card.name)),
            settled: self.card.settled,
            lan_join: self.lan_join,
            at_ms: self.now.unix_ms,
        }
    }

    pub(super) fn on_hello(&mut self, peer: NodeKey, id: ConnId, hello: Hello) {
        let Some(conn) = self.links.conn_mut(&peer, id) else { return };
        if conn.phase != Phase::Greeting {
            self.refuse(peer, Refusal::Malformed);
            return;
        }
        let (low, high) = hello.protocol;
        if low > PROTOCOL.1 || high < PROTOCOL.0 {
            let reason = format!(
                "it speaks versions {low} to {high} of the protocol, this node {} to {}; the older \
                 of the two needs an update",
                PROTOCOL.0, PROTOCOL.1
            );
            self.turn_away(peer, id, &reason);
            return;
        }
        if hello.mesh != self.mesh_hash {
            self.on_foreign_hello(peer, id, hello);
            return;
        }
        let theirs = match conn.side {
            Side::Dialed => Side::Accepted,
            Side::Accepted => Side::Dialed,
        };
        // blake3's comparison takes the same time wherever the difference is.
        if proof(&self.card, theirs, &conn.binding) != hello.proof {
            self.count(Refusal::NotAMember);
            self.turn_away(peer, id, "it does not know this mesh's secret; it needs a new ticket");
            return;
        }
        self.admit_connection(peer, id, hello);
    }

    /// Closes for good reason; the peer is not dialed again for a while.
    pub(super) fn turn_away(&mut self, peer: NodeKey, id: ConnId, reason: &str) {
        self.links.failed(&peer, reason.to_owned(), self.now, &mut self.rng);
        self.links.remove_conn(&peer, id);
        self.close(peer, id, reason);
    }

    /// A peer that was killed and started again is down before it is up: what it was told and
    /// asked before, it does not know any more.
    fn end_earlier_life(&mut self, peer: NodeKey, hello: &Hello) {
        let was_up = self.links.is_up(&peer);
        let earlier = self.links.take_earlier(&peer, hello.instance);
        for id in earlier {
            self.close(peer, id, "this node started again and has another connection");
        }
        if was_up && !self.links.is_up(&peer) {
            self.peer_is_down(peer, "it started again");
        }
    }

    fn admit_connection(&mut self, peer: NodeKey, id: ConnId, hello: Hello) {
        let knows_settled = hello.settled;
        if knows_settled {
            self.hear_settled();
        }
        self.end_earlier_life(peer, &hello);
        self.note_clock(peer, hello.at_ms);
        let was_up = self.links.is_up(&peer);
        let superseded = self.links.greet(&peer, id, hello, self.me, self.now);
        for old in superseded {
            self.retire(peer, old);
        }
        self.visitors.forget(&peer);
        // This node's hello may be from before it heard of it itself.
        if self.card.settled && !knows_settled {
            self.send(peer, Talk::Settled.encode());
        }
        self.tell_path(peer);
        if was_up {
            return;
        }
        self.event(MeshEvent::PeerUp { peer });
        self.save(peer);
        for bytes in self.links.take_queued(&peer) {
            self.send(peer, bytes);
        }
        if self.overlay.neighbours().len() < FEW_NEIGHBOURS {
            self.join(peer);
        }
        // One of the two asks; what both have is exchanged.
        if self.links.was_dialed(&peer) {
            self.sync.want(peer);
        }
        self.replan = true;
    }
}
