//! A node and its peers, whose every frame a test can write by hand.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent_api::mesh::LanJoin;
use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::{
    Membership, Refusal, Setup,
    io::{ConnId, Input, Now, Output, Side},
    sim::{announcement, card},
    wire::{Passed, Wave, wave_frame},
};
use crate::mesh::{
    Addresses, MeshId, NodeKey,
    record::{self, About, Body, Crypto as _, Ed25519, Record},
};

pub(super) const NOW_MS: i64 = 1_800_000_000_000;

pub(super) fn key(n: u8) -> Ed25519 {
    Ed25519::new(SigningKey::from_bytes(&[n; 32]))
}

pub(super) fn setup(n: u8) -> Setup {
    Setup {
        crypto: Box::new(key(n)),
        card: card(),
        instance: u64::from(n),
        rng: [n; 32],
        lan_join: LanJoin::Automatic,
        blocked: BTreeSet::new(),
        trusted: BTreeSet::new(),
        announcement: announcement(&format!("node-{n}")),
        addresses: Addresses::default(),
    }
}

pub(super) fn node(n: u8) -> Membership {
    Membership::new(setup(n), at(0))
}

pub(super) fn at(ms: u64) -> Now {
    Now { mono: Duration::from_millis(ms), unix_ms: NOW_MS + i64::try_from(ms).expect("small") }
}

/// One end of connection `conn`; both ends have the same binding.
pub(super) fn connect(peer: NodeKey, conn: u64, side: Side) -> Input {
    let mut binding = [3; 32];
    binding[..8].copy_from_slice(&conn.to_le_bytes());
    Input::Connected { peer, conn: ConnId(conn), side, binding, on_lan: false }
}

/// Connects two nodes and carries their frames for 20 ms.
pub(super) fn introduce(ours: &mut Membership, theirs: &mut Membership, conn: u64, from_ms: u64) {
    let (us, them) = (ours.key(), theirs.key());
    let mut to_theirs =
        frames_to(them, ours.handle(at(from_ms), connect(them, conn, Side::Dialed)));
    let mut to_ours = frames_to(us, theirs.handle(at(from_ms), connect(us, conn, Side::Accepted)));
    let conn = ConnId(conn);
    for ms in from_ms..from_ms + 20 {
        for bytes in std::mem::take(&mut to_ours) {
            let frame = Input::Frame { peer: them, conn, bytes };
            to_theirs.extend(frames_to(them, ours.handle(at(ms), frame)));
        }
        for bytes in std::mem::take(&mut to_theirs) {
            let frame = Input::Frame { peer: us, conn, bytes };
            to_ours.extend(frames_to(us, theirs.handle(at(ms), frame)));
        }
    }
    assert!(ours.is_connected(&them) && ours.neighbours().contains(&them));
}

/// Our node and a peer that did its handshake and is a neighbour.
pub(super) struct Pair {
    pub(super) node: Membership,
    pub(super) peer: NodeKey,
    pub(super) ms: u64,
}

impl Pair {
    pub(super) fn new() -> Self {
        let (mut ours, mut theirs) = (node(1), node(2));
        introduce(&mut ours, &mut theirs, 1, 1);
        Self { node: ours, peer: theirs.key(), ms: 1_000 }
    }

    /// Node 3 is a neighbour too: it hears what ours passes on.
    pub(super) fn with_listener() -> (Self, NodeKey) {
        let mut pair = Self::new();
        let mut listener = node(3);
        introduce(&mut pair.node, &mut listener, 3, 100);
        (pair, listener.key())
    }

    pub(super) fn frame(&mut self, bytes: impl Into<Bytes>) -> Vec<Output> {
        self.ms += 1;
        let frame = Input::Frame { peer: self.peer, conn: ConnId(1), bytes: bytes.into() };
        self.node.handle(at(self.ms), frame)
    }

    pub(super) fn tick(&mut self) -> Vec<Output> {
        self.node.handle(at(self.ms), Input::Tick)
    }

    pub(super) fn gossip(&mut self, content: &[u8]) -> Vec<Output> {
        self.frame(wave(content))
    }

    pub(super) fn refused(&self, refusal: Refusal) -> u64 {
        let rows = self.node.refused();
        rows.iter().find(|row| row.reason == refusal.word()).map_or(0, |row| row.count)
    }

    pub(super) fn knows(&self, author: u8) -> bool {
        self.node.peer(&key(author).key()).is_some_and(|peer| peer.record.is_some())
    }
}

/// A record that its author passes on.
pub(super) fn wave(content: &[u8]) -> Bytes {
    let records = vec![Passed { hops: 0, urgent: true, bytes: content }];
    wave_frame(&Wave { have: Vec::new(), want: Vec::new(), records })
}

/// What is sent to a peer.
pub(super) fn frames_to(peer: NodeKey, outputs: Vec<Output>) -> Vec<Bytes> {
    let sent = outputs.into_iter().filter_map(|output| match output {
        Output::Send { peer: to, bytes, .. } if to == peer => Some(bytes),
        _ => None,
    });
    sent.collect()
}

pub(super) fn frames(outputs: Vec<Output>) -> Vec<Bytes> {
    let sent = outputs.into_iter().filter_map(|output| match output {
        Output::Send { bytes, .. } => Some(bytes),
        _ => None,
    });
    sent.collect()
}

pub(super) fn closes(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Close { .. }))
}

pub(super) fn sealed(author: u8, at_ms: i64, nonce: u64) -> Arc<Record> {
    sealed_in(MeshId([7; 32]), author, at_ms, nonce)
}

pub(super) fn sealed_in(mesh: MeshId, author: u8, at_ms: i64, nonce: u64) -> Arc<Record> {
    let mut says = announcement("somebody");
    says.at_ms = at_ms;
    let about = About { goodbye: false, addresses: Addresses::default(), announcement: says };
    let crypto = key(author);
    let body = Body::new(mesh, crypto.key(), u64::from(author) + 100, nonce, about);
    record::seal(&crypto, body).expect("small")
}
