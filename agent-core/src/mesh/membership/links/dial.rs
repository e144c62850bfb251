//! Whom to dial, and when.

use std::sync::Arc;

use agent_api::mesh::SourceKind;
use rand::{RngExt as _, seq::IndexedRandom as _};

use super::{AFTER_YOU, FEW_NEIGHBOURS, Link, MOST_DIALS};
use crate::mesh::{
    NodeKey,
    membership::{Membership, io::Output},
};

impl Membership {
    /// One node that is not connected, at random: late ones half of the time, because a mesh that
    /// fell apart shows in them.
    pub(in crate::mesh::membership) fn probe(&mut self) {
        let now = self.now.mono;
        let prefers_late = self.rng.random_bool(0.5);
        let free = |key: &NodeKey, link: Option<&Link>| {
            self.may_dial(key, link) && link.is_none_or(|link| link.conns.is_empty())
        };
        let mut all: Vec<NodeKey> = Vec::new();
        let mut late: Vec<NodeKey> = Vec::new();
        for (key, entry) in self.directory.others() {
            if free(key, self.links.get(key)) {
                all.push(*key);
                if entry.is_late(now) {
                    late.push(*key);
                }
            }
        }
        for (key, link) in self.links.iter() {
            if !self.directory.contains(key) && !link.sources.is_empty() && free(key, Some(link)) {
                all.push(*key);
                late.push(*key);
            }
        }
        let from = if prefers_late && !late.is_empty() { &late } else { &all };
        if !from.is_empty() {
            let peer = from[self.rng.random_range(0..from.len())];
            self.want_anew(peer);
        }
    }

    /// Whether a dial of this peer may start now; there may be a connection with it.
    fn may_dial(&self, key: &NodeKey, link: Option<&Link>) -> bool {
        let now = self.now.mono;
        *key != self.me
            && !self.blocked.contains(key)
            && link.is_none_or(|link| {
                !link.dialing && link.not_before <= now && link.banned_until <= now
            })
    }

    pub(in crate::mesh::membership) fn plan_dials(&mut self) {
        let in_flight = self.links.iter().filter(|(_, link)| link.dialing).count();
        let mut room = MOST_DIALS.saturating_sub(in_flight);
        if room == 0 {
            return;
        }
        for peer in self.dial_list(in_flight) {
            if room == 0 {
                break;
            }
            room -= usize::from(self.dial(peer));
        }
    }

    /// Whom it would be good to be connected to, most urgent first. All of them may be dialed.
    fn dial_list(&mut self, in_flight: usize) -> Vec<NodeKey> {
        let small = self.is_small();
        let lonely = self.links.up().count() + in_flight < FEW_NEIGHBOURS;
        let mut urgent = Vec::new();
        let mut good = Vec::new();
        let mut any = Vec::new();
        for (key, link) in self.links.iter() {
            if !self.may_dial(key, Some(link)) {
                continue;
            }
            if link.wanted {
                urgent.push(*key);
            } else if link.conns.is_empty() {
                if link.in_use || !link.queued.is_empty() {
                    urgent.push(*key);
                } else if link.sources.contains(&SourceKind::Lan) && (small || lonely) {
                    good.push(*key);
                } else if lonely && !link.sources.is_empty() {
                    any.push(*key);
                }
            }
        }
        let alone = self.directory.others().filter(|(key, _)| {
            let link = self.links.get(key);
            self.may_dial(key, link) && link.is_none_or(|link| link.conns.is_empty())
        });
        if small {
            good.extend(alone.map(|(key, _)| *key));
        } else if lonely {
            any.extend(alone.map(|(key, _)| *key));
        }
        // A few of many: not the same ones for every node.
        good.extend(any.sample(&mut self.rng, FEW_NEIGHBOURS));
        urgent.extend(good);
        urgent
    }

    fn dial(&mut self, peer: NodeKey) -> bool {
        let now = self.now.mono;
        // It is in the list twice where two things speak for it.
        if !self.may_dial(&peer, self.links.get(&peer)) {
            return false;
        }
        let known = self.directory.get(&peer).map(|entry| Arc::clone(&entry.record));
        let told = known.map(|record| record.body.addresses.cleaned(self.loopback(false)));
        let is_new = self.links.get(&peer).is_none();
        let after_you = self.me > peer;
        let link = self.links.row(peer, now);
        // Both ends of a small mesh hear of each other at the same time.
        if is_new && after_you {
            link.not_before = now + AFTER_YOU;
            return false;
        }
        let mut addresses = link.addresses.clone();
        if let Some(told) = told {
            addresses.merge(&told);
        }
        // Without an address only the driver's own sources can help; a source named the peer.
        if addresses.is_empty() && link.sources.is_empty() {
            return false;
        }
        link.dialing = true;
        link.wanted = false;
        self.out.push(Output::Dial { peer, addresses });
        true
    }
}
