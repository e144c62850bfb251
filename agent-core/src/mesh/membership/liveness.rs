//! Which connections are dead although nobody said so.

use std::time::Duration;

use agent_api::mesh::PathKind;

use super::{
    Membership,
    io::{ConnId, Output},
    links::{Conn, Phase},
    wire::Talk,
};
use crate::mesh::NodeKey;

/// Silence after which the other end is asked. Gossip in a busy mesh makes this rare.
const QUIET: Duration = Duration::from_secs(4);
/// Silence after which a connection is dead: noticed within 15 s.
const DEAD: Duration = Duration::from_secs(12);
/// Relays add seconds when they reconnect themselves: noticed within 30 s.
const DEAD_RELAY: Duration = Duration::from_secs(25);
/// How long the hello may take, from the connection's start.
const GREETING: Duration = Duration::from_secs(10);
/// After a change of network an unanswered ping means another path is needed.
const SUSPECT: Duration = Duration::from_secs(3);
/// Streams that hang on a connection that was replaced go on over the new one.
const DEAD_RETIRED: Duration = Duration::from_secs(8);

impl Conn {
    fn dies_after(&self) -> Duration {
        match (self.phase, self.path) {
            (Phase::Greeting, _) => GREETING,
            (_, Some((PathKind::Relay, _))) => DEAD_RELAY,
            _ if self.closing => DEAD_RETIRED,
            _ => DEAD,
        }
    }
}

impl Membership {
    pub(super) fn check_liveness(&mut self) {
        let now = self.now.mono;
        let mut pings: Vec<(NodeKey, ConnId)> = Vec::new();
        let mut dead: Vec<(NodeKey, ConnId, Duration)> = Vec::new();
        for (key, link) in self.links.iter_mut() {
            for conn in &mut link.conns {
                // Other frames do not stand in for the hello.
                let greeting = conn.phase == Phase::Greeting;
                let since = if greeting { conn.opened } else { conn.heard };
                let silent = now.saturating_sub(since);
                if silent >= conn.dies_after() {
                    dead.push((*key, conn.id, silent));
                } else if !greeting && silent >= QUIET && conn.pinged.is_none() {
                    conn.pinged = Some(now);
                    pings.push((*key, conn.id));
                }
            }
        }
        for (peer, conn) in pings {
            self.ping(peer, conn);
        }
        for (peer, conn, silent) in dead {
            let reason = format!("no answer for {} seconds", silent.as_secs());
            self.close(peer, conn, &reason);
            self.on_disconnected(peer, conn, &reason);
        }
        self.replace_suspects();
    }

    /// Another connection with the peer took the place of this one.
    pub(super) fn retire(&mut self, peer: NodeKey, conn: ConnId) {
        let reason = "another connection between the same two nodes is used".to_owned();
        self.ping(peer, conn);
        self.out.push(Output::Retire { peer, conn, reason });
    }

    fn ping(&mut self, peer: NodeKey, conn: ConnId) {
        let stamp = u64::try_from(self.now.mono.as_millis()).unwrap_or(u64::MAX);
        let bytes = Talk::Ping(stamp).encode();
        self.out.push(Output::Send { peer, conn, bytes });
    }

    /// The machine slept, or is on another network now.
    pub(super) fn on_network_changed(&mut self) {
        let now = self.now.mono;
        let mut pings = Vec::new();
        for (key, link) in self.links.iter_mut() {
            // Timers may have slept too: silence of that time says nothing.
            for conn in &mut link.conns {
                conn.heard = now;
                if conn.is_up() {
                    conn.pinged = Some(now);
                    conn.suspect = true;
                    pings.push((*key, conn.id));
                }
            }
        }
        for (peer, conn) in pings {
            self.ping(peer, conn);
        }
        self.links.forgive_all();
        self.replan = true;
    }

    /// Make before break: a new connection is dialed while the old one may still come back.
    fn replace_suspects(&mut self) {
        let now = self.now.mono;
        let mut anew = Vec::new();
        for (key, link) in self.links.iter_mut() {
            for conn in &mut link.conns {
                if !conn.suspect {
                    continue;
                }
                match conn.pinged {
                    None => conn.suspect = false,
                    Some(since) if now.saturating_sub(since) >= SUSPECT => {
                        conn.suspect = false;
                        anew.push(*key);
                    }
                    Some(_) => {}
                }
            }
        }
        for peer in anew {
            self.want_anew(peer);
        }
    }
}
