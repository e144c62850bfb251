//! The network between simulated nodes.
//!
//! Links are reliable streams as QUIC gives them: a lost packet delays its frame and all behind it
//! by a retransmission. On top of that a test may ask for what a stream never does (frames twice
//! or out of order) and for connections that break.

use std::{cmp::Reverse, time::Duration};

use agent_api::mesh::PathKind;
use bytes::Bytes;
use rand::RngExt as _;

use super::Sim;
use crate::mesh::{
    Addresses, NodeKey,
    membership::io::{ConnId, FRAME_BYTES, Input, Side},
};

/// How long a driver tries to connect.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What the network does to frames.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// Share of packets that are lost.
    pub(super) loss: f64,
    /// Share of frames that come twice.
    pub(super) duplicates: f64,
    /// Share of frames that may overtake others.
    pub(super) reorder: f64,
    /// Share of frames after which the connection is gone.
    pub(super) resets: f64,
}

#[derive(Debug)]
pub(super) enum Happens {
    Tick,
    Frame {
        conn: u64,
        to: usize,
        bytes: Bytes,
    },
    /// The other end closed it.
    Closed {
        conn: u64,
        to: usize,
        reason: String,
    },
    Dialed {
        from: usize,
        to: NodeKey,
        reachable: Option<usize>,
    },
    Accepted {
        conn: u64,
    },
}

#[derive(Debug)]
pub(super) struct Wire {
    ends: [usize; 2],
    open: [bool; 2],
    /// When the last frame towards each end arrives: streams keep their order.
    last: [Duration; 2],
}

impl Sim {
    fn latency(&self, a: usize, b: usize) -> Duration {
        // The same in both directions, 10 to 50 ms, from the pair and the seed.
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        let mut x = pair ^ self.seed.rotate_left(17);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_micros(10_000 + (x ^ (x >> 31)) % 40_000)
    }

    fn can_reach(&self, a: usize, b: usize) -> bool {
        self.nodes[a].alive && self.nodes[b].alive && self.nodes[a].group == self.nodes[b].group
    }

    pub(super) fn send(&mut self, from: usize, conn: u64, bytes: Bytes) {
        assert!(bytes.len() <= FRAME_BYTES, "a frame of {} bytes", bytes.len());
        self.nodes[from].frames_sent += 1;
        self.nodes[from].bytes_sent += bytes.len() as u64;
        let Some(wire) = self.wires.get(&conn) else { return };
        let end = usize::from(wire.ends[1] == from);
        let to = wire.ends[1 - end];
        if !wire.open[end] || !self.can_reach(from, to) {
            return;
        }
        let weather = self.weather;
        if weather.resets > 0.0 && self.rng.random_bool(weather.resets) {
            // The other end hears of it; this end finds out by silence.
            self.close(from, conn, "connection reset");
            return;
        }
        let latency = self.latency(from, to);
        let mut arrives = self.now + latency;
        while weather.loss > 0.0 && self.rng.random_bool(weather.loss) {
            arrives += latency * 3;
        }
        let overtakes = weather.reorder > 0.0 && self.rng.random_bool(weather.reorder);
        if let Some(wire) = self.wires.get_mut(&conn) {
            if overtakes {
                arrives += latency;
            } else {
                arrives = arrives.max(wire.last[1 - end]);
                wire.last[1 - end] = arrives;
            }
        }
        if weather.duplicates > 0.0 && self.rng.random_bool(weather.duplicates) {
            let bytes = bytes.clone();
            self.at(arrives + latency, to, Happens::Frame { conn, to, bytes });
        }
        self.at(arrives, to, Happens::Frame { conn, to, bytes });
    }

    pub(super) fn close(&mut self, from: usize, conn: u64, reason: &str) {
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        let end = usize::from(wire.ends[1] == from);
        wire.open[end] = false;
        let to = wire.ends[1 - end];
        let last = wire.last[1 - end];
        if self.can_reach(from, to) {
            // After what was sent.
            let at = (self.now + self.latency(from, to)).max(last);
            self.at(at, to, Happens::Closed { conn, to, reason: reason.to_owned() });
        }
    }

    pub(super) fn dial(&mut self, from: usize, peer: NodeKey, addresses: &Addresses) {
        assert!(self.nodes[from].dials.insert(peer), "two dials of one peer at a time");
        let target = self.by_key.get(&peer).copied();
        let reachable = target.filter(|&to| {
            self.can_reach(from, to)
                && Self::address_of(to).direct.iter().all(|at| addresses.direct.contains(at))
        });
        let wait = reachable.map_or(DIAL_TIMEOUT, |to| self.latency(from, to) * 2);
        self.at(self.now + wait, from, Happens::Dialed { from, to: peer, reachable });
    }

    fn dialed(&mut self, from: usize, peer: NodeKey, reachable: Option<usize>) {
        self.nodes[from].dials.remove(&peer);
        let Some(to) = reachable.filter(|&to| self.can_reach(from, to)) else {
            let reason = "no answer".to_owned();
            self.input(from, Input::DialFailed { peer, reason });
            return;
        };
        let conn = self.wires_made;
        self.wires_made += 1;
        let arrives = self.now + self.latency(from, to);
        self.wires
            .insert(conn, Wire { ends: [from, to], open: [true; 2], last: [self.now, arrives] });
        self.at(arrives, to, Happens::Accepted { conn });
        self.connected(from, to, conn, Side::Dialed);
    }

    fn connected(&mut self, index: usize, other: usize, conn: u64, side: Side) {
        let mut binding = [0; 32];
        binding[..8].copy_from_slice(&conn.to_le_bytes());
        let peer = self.nodes[other].key;
        let (conn, on_lan) = (ConnId(conn), self.on_lan);
        self.input(index, Input::Connected { peer, conn, side, binding, on_lan });
        let relayed = self.nodes[index].relayed || self.nodes[other].relayed;
        let kind = match (on_lan, relayed) {
            (true, _) => PathKind::Lan,
            (false, true) => PathKind::Relay,
            (false, false) => PathKind::Direct,
        };
        let rtt = self.latency(index, other) * 2;
        self.input(index, Input::Path { peer, conn, kind, rtt });
    }

    pub(super) fn at(&mut self, at: Duration, index: usize, happens: Happens) {
        self.heap.push(Reverse((at, self.made, index)));
        self.happens.insert(self.made, happens);
        self.made += 1;
    }

    pub(super) fn happen(&mut self, index: usize, happens: Happens) {
        match happens {
            Happens::Tick => {
                let node = &mut self.nodes[index];
                if node.tick_at == Some(self.now) {
                    node.tick_at = None;
                    self.input(index, Input::Tick);
                }
            }
            Happens::Frame { conn, to, bytes } => {
                let Some(wire) = self.wires.get(&conn) else { return };
                let end = usize::from(wire.ends[1] == to);
                let from = wire.ends[1 - end];
                if wire.open[end] && self.can_reach(from, to) {
                    let peer = self.nodes[from].key;
                    self.input(to, Input::Frame { peer, conn: ConnId(conn), bytes });
                }
            }
            Happens::Closed { conn, to, reason } => {
                let Some(wire) = self.wires.get_mut(&conn) else { return };
                let end = usize::from(wire.ends[1] == to);
                let peer = self.nodes[wire.ends[1 - end]].key;
                if std::mem::replace(&mut wire.open[end], false) {
                    self.input(to, Input::Disconnected { peer, conn: ConnId(conn), reason });
                }
            }
            Happens::Dialed { from, to, reachable } => {
                if self.nodes[from].alive && self.nodes[from].dials.contains(&to) {
                    self.dialed(from, to, reachable);
                }
            }
            Happens::Accepted { conn } => {
                let Some(wire) = self.wires.get(&conn) else { return };
                let [from, to] = wire.ends;
                if self.nodes[to].alive {
                    self.connected(to, from, conn, Side::Accepted);
                }
            }
        }
    }

    /// A node is dead: the other ends of its wires find out by themselves.
    pub(super) fn tear(&mut self, index: usize) {
        self.wires.retain(|_, wire| {
            !wire.ends.contains(&index) || {
                let side = usize::from(wire.ends[1] == index);
                wire.open[side] = false;
                wire.open[1 - side]
            }
        });
    }
}
