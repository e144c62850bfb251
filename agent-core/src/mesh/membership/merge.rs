//! Nodes of other meshes on the same network: new ones merge by themselves, others ask.
//!
//! A mesh's secret travels over an authenticated connection only, and only after a decision to let
//! the other end in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use agent_api::mesh::LanJoin;

use super::{
    Membership, Refusal,
    handshake::mesh_hash,
    io::{ConnId, MeshEvent, Output},
    links::Phase,
    wire::{Frame, Hello, Talk},
};
use crate::mesh::{MeshCard, NodeKey};

/// Nodes of other meshes that are remembered: a large office.
const MOST_VISITORS: usize = 64;
/// How long a visiting connection stays when nobody waits for anything.
const VISIT: Duration = Duration::from_secs(20);
/// How long it stays while an owner is asked.
const ASKING: Duration = Duration::from_secs(600);
/// How long a node counts as nearby after it was seen.
const NEARBY: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) name: String,
    pub(super) mesh: String,
    /// It asks; the owner has not answered.
    pub(super) asks: bool,
    /// This node asked it.
    asked: bool,
    /// The owner said yes; it gets the card when it is back.
    admitted: bool,
    seen: Duration,
    pub(super) seen_ms: i64,
}

#[derive(Debug, Default)]
pub(super) struct Visitors {
    pub(super) table: BTreeMap<NodeKey, Visitor>,
    /// Whom the owner refused, until the next start.
    denied: BTreeSet<NodeKey>,
}

impl Visitors {
    pub(super) fn forget(&mut self, peer: &NodeKey) {
        self.table.remove(peer);
    }
}

/// What two nodes of different meshes on one network do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meeting {
    Nothing,
    /// This end's mesh stays; the other end gets the card.
    Invite,
    /// The other end's mesh stays; its card is awaited.
    Follow,
    /// This end asks to join; the other end's owner decides.
    Ask,
    /// The other end asks.
    BeAsked,
}

fn meeting(ours: &Hello, theirs: &Hello) -> Meeting {
    // The smaller hash stays: both ends see the same two.
    let stays = ours.mesh < theirs.mesh;
    match (ours.lan_join, theirs.lan_join) {
        (LanJoin::Never, _) | (_, LanJoin::Never) => Meeting::Nothing,
        _ if ours.settled && theirs.settled => Meeting::Nothing,
        _ if ours.settled => Meeting::BeAsked,
        _ if theirs.settled => Meeting::Ask,
        (LanJoin::Automatic, LanJoin::Automatic) if stays => Meeting::Invite,
        (LanJoin::Automatic, LanJoin::Automatic) => Meeting::Follow,
        _ if stays => Meeting::BeAsked,
        _ => Meeting::Ask,
    }
}

impl Membership {
    pub(super) fn on_foreign_hello(&mut self, peer: NodeKey, id: ConnId, hello: Hello) {
        self.links.is_elsewhere(&peer);
        let on_lan = self.links.conn_mut(&peer, id).is_some_and(|conn| conn.on_lan);
        let room =
            self.visitors.table.contains_key(&peer) || self.visitors.table.len() < MOST_VISITORS;
        if !on_lan || !room {
            self.count(Refusal::ForeignMesh);
            self.turn_away(peer, id, "it is in another mesh; to join this one it needs a ticket");
            return;
        }
        let now = self.now;
        let visitor = self.visitors.table.entry(peer).or_insert_with(|| Visitor {
            name: String::new(),
            mesh: String::new(),
            asks: false,
            asked: false,
            admitted: false,
            seen: now.mono,
            seen_ms: now.unix_ms,
        });
        visitor.name.clone_from(&hello.name);
        visitor.mesh = hello.mesh_name.clone().unwrap_or_default();
        visitor.seen = now.mono;
        visitor.seen_ms = now.unix_ms;
        let ours = self.links.conn_mut(&peer, id).map(|conn| {
            conn.phase = Phase::Visiting;
            conn.hello = Some(hello.clone());
        });
        if ours.is_none() {
            return;
        }
        self.event(MeshEvent::Nearby { peer });
        match meeting(&self.own_stand(&hello), &hello) {
            Meeting::Nothing | Meeting::Follow | Meeting::BeAsked => {}
            Meeting::Invite => self.send_to(peer, id, &Talk::Card(self.card.clone())),
            // A node that has company does not leave it unasked.
            Meeting::Ask if self.directory.present() > 0 => {}
            Meeting::Ask => {
                if let Some(visitor) = self.visitors.table.get_mut(&peer) {
                    visitor.asked = true;
                }
                self.send_to(peer, id, &Talk::Ask);
            }
        }
    }

    /// What this node would say in a hello now, as far as a meeting depends on it.
    fn own_stand(&self, theirs: &Hello) -> Hello {
        Hello {
            mesh: self.mesh_hash,
            settled: self.card.settled,
            lan_join: self.lan_join,
            ..theirs.clone()
        }
    }

    pub(super) fn send_to(&mut self, peer: NodeKey, conn: ConnId, talk: &Talk) {
        self.out.push(Output::Send { peer, conn, bytes: talk.encode() });
    }

    pub(super) fn on_visitor_frame(&mut self, peer: NodeKey, id: ConnId, frame: Frame<'_>) {
        let now = self.now.mono;
        if let Some(visitor) = self.visitors.table.get_mut(&peer) {
            visitor.seen = now;
            visitor.seen_ms = self.now.unix_ms;
        }
        match frame {
            Frame::Talk(Talk::Ping(stamp)) => self.send_to(peer, id, &Talk::Pong(stamp)),
            Frame::Talk(Talk::Pong(_)) => {}
            Frame::Talk(Talk::Ask) => self.on_ask(peer, id),
            Frame::Talk(Talk::Card(card)) => self.on_card(peer, id, card),
            Frame::Talk(Talk::Denied) => {
                if let Some(visitor) = self.visitors.table.get_mut(&peer) {
                    visitor.asked = false;
                }
            }
            _ => self.refuse(peer, Refusal::NotAMember),
        }
    }

    fn on_ask(&mut self, peer: NodeKey, id: ConnId) {
        if self.lan_join == LanJoin::Never || self.visitors.denied.contains(&peer) {
            self.send_to(peer, id, &Talk::Denied);
            return;
        }
        let Some(visitor) = self.visitors.table.get_mut(&peer) else { return };
        if visitor.admitted {
            self.send_to(peer, id, &Talk::Card(self.card.clone()));
        } else if !std::mem::replace(&mut visitor.asks, true) {
            self.event(MeshEvent::AsksToJoin { peer });
        }
    }

    /// One node of this mesh was invited, or let in: the mesh is one to stay in, and from now on its
    /// door is shut at every member.
    pub(super) fn hear_settled(&mut self) {
        if !self.card.settled {
            self.card.settled = true;
            self.event(MeshEvent::Entered(self.card.clone()));
            self.tell_settled();
        }
    }

    pub(super) fn tell_settled(&mut self) {
        let members: Vec<_> = self.links.up().map(|(key, _)| *key).collect();
        for member in members {
            self.send(member, Talk::Settled.encode());
        }
    }

    /// The owner's answer.
    pub(super) fn admit(&mut self, peer: NodeKey, admit: bool) {
        let Some(visitor) = self.visitors.table.get_mut(&peer) else { return };
        visitor.asks = false;
        visitor.admitted = admit;
        if admit {
            self.visitors.denied.remove(&peer);
            self.hear_settled();
        } else if self.visitors.denied.len() < MOST_VISITORS {
            self.visitors.denied.insert(peer);
        }
        let talk = if admit { Talk::Card(self.card.clone()) } else { Talk::Denied };
        let conns = self.links.get(&peer).map(|link| {
            let visiting = link.conns.iter().filter(|conn| conn.phase == Phase::Visiting);
            visiting.map(|conn| conn.id).collect::<Vec<_>>()
        });
        for conn in conns.unwrap_or_default() {
            self.send_to(peer, conn, &talk);
        }
        self.event(MeshEvent::Nearby { peer });
    }

    fn on_card(&mut self, peer: NodeKey, id: ConnId, card: MeshCard) {
        let hello = self.links.conn_mut(&peer, id).and_then(|conn| conn.hello.clone());
        let Some(hello) = hello else { return };
        let asked = self.visitors.table.get(&peer).is_some_and(|visitor| visitor.asked);
        let wanted = match meeting(&self.own_stand(&hello), &hello) {
            Meeting::Follow => true,
            Meeting::Ask => asked,
            Meeting::Nothing | Meeting::Invite | Meeting::BeAsked => false,
        };
        // Only the mesh that the other end showed in its hello, and only while this node is new.
        if !wanted || self.card.settled || mesh_hash(&card) != hello.mesh {
            self.count(Refusal::NotAMember);
            return;
        }
        let card = MeshCard { settled: asked, ..card };
        self.enter(card.clone());
        self.event(MeshEvent::Entered(card));
        self.want_anew(peer);
    }

    /// Closes visits that are over and forgets who is out of sight.
    pub(super) fn tidy_visitors(&mut self) {
        let now = self.now.mono;
        let mut over = Vec::new();
        for (key, link) in self.links.iter() {
            for conn in link.conns.iter().filter(|conn| conn.phase == Phase::Visiting) {
                let visitor = self.visitors.table.get(key);
                let waits = visitor.is_some_and(|visitor| visitor.asks || visitor.asked);
                if now.saturating_sub(conn.opened) > if waits { ASKING } else { VISIT } {
                    over.push((*key, conn.id));
                }
            }
        }
        for (peer, conn) in over {
            self.turn_away(peer, conn, "it is in another mesh");
        }
        let links = &self.links;
        let mut gone = Vec::new();
        self.visitors.table.retain(|key, visitor| {
            let visiting = links.get(key).is_some_and(|link| !link.conns.is_empty());
            let stays = visiting || now.saturating_sub(visitor.seen) < NEARBY;
            if !stays {
                gone.push(*key);
            }
            stays
        });
        for peer in gone {
            self.event(MeshEvent::Nearby { peer });
        }
    }
}
