//! A simulator: thousands of nodes in virtual time, from one seed.
//!
//! `network` says what happens to frames, and on what a test may ask for besides. Signatures are stood in for by a hash, and a
//! record is decoded once for all nodes.

mod crypto;
mod merging;
mod network;
mod scale;
mod scenarios;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use agent_api::{
    hardware::{Tier, WorkerClass},
    mesh::{AnnouncedServing, Announcement, LanJoin, SourceKind},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use self::{
    crypto::{Notary, Stamp},
    network::{Happens, Weather, Wire},
};
use super::{
    Membership, Setup,
    directory::MOST_NODES,
    io::{Command, Input, MeshEvent, Now, Output},
    links::MOST_CONNECTIONS,
};
use crate::mesh::{Addresses, MeshCard, MeshId, NodeKey};

const EPOCH_MS: i64 = 1_800_000_000_000;
/// Steps after which everything is checked at every node.
const WHOLE_WORLD: u64 = 100_000;
pub(super) struct Node {
    pub(super) membership: Membership,
    pub(super) key: NodeKey,
    pub(super) alive: bool,
    pub(super) skew_ms: i64,
    /// Nodes of different groups cannot reach each other.
    pub(super) group: u8,
    /// Reached through a relay only.
    pub(super) relayed: bool,
    started: Duration,
    tick_at: Option<Duration>,
    dials: BTreeSet<NodeKey>,
    /// What its driver keeps for the next start.
    saved: BTreeSet<NodeKey>,
    pub(super) events: Vec<MeshEvent>,
    pub(super) frames_sent: u64,
    pub(super) bytes_sent: u64,
}

/// A record whose way is followed: time of its arrival at each node.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) author: usize,
    marker: u16,
    pub(super) published: Option<Duration>,
    pub(super) arrived: BTreeMap<usize, Duration>,
}

pub(super) struct Sim {
    pub(super) seed: u64,
    pub(super) now: Duration,
    pub(super) nodes: Vec<Node>,
    weather: Weather,
    pub(super) on_lan: bool,
    pub(super) watch: Option<Watch>,
    pub(super) notary: Arc<Notary>,
    by_key: BTreeMap<NodeKey, usize>,
    heap: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    happens: BTreeMap<u64, Happens>,
    made: u64,
    wires: BTreeMap<u64, Wire>,
    wires_made: u64,
    pub(super) rng: StdRng,
    pub(super) steps: u64,
    /// Changes with everything that happens; two runs of one seed have the same.
    pub(super) trace: u64,
}

/// Prints the seed when a test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("EDGECODER_SIM_SEED={} repeats this run", self.0);
        }
    }
}

/// The seed from the environment, or the given one; printed if the test fails.
fn seed(default: u64) -> (u64, Seed) {
    let given = std::env::var("EDGECODER_SIM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or(default);
    (seed, Seed(seed))
}

pub(super) fn card() -> MeshCard {
    MeshCard { id: MeshId([7; 32]), name: "home".to_owned(), secret: Some([9; 32]), settled: true }
}

pub(in crate::mesh) fn announcement(name: &str) -> Announcement {
    Announcement {
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        protocol: (1, 1),
        region: Some("Europe/Berlin".to_owned()),
        tier: Tier::MiniStandard,
        worker_class: WorkerClass::Cpu,
        seed: false,
        serving: AnnouncedServing::Ready,
        models: Vec::new(),
        slots: 1,
        slots_free: 1,
        queue: 0,
        tokens_per_s: None,
        price: None,
        ledger_head: None,
        links: Vec::new(),
        relay: None,
        dht_port: None,
        at_ms: 0,
        every_s: 10,
        accepts: Vec::new(),
        power: None,
    }
}

impl Sim {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Duration::from_secs(1),
            nodes: Vec::new(),
            weather: Weather::default(),
            on_lan: false,
            watch: None,
            notary: Arc::default(),
            by_key: BTreeMap::new(),
            heap: BinaryHeap::new(),
            happens: BTreeMap::new(),
            made: 0,
            wires: BTreeMap::new(),
            wires_made: 0,
            rng: StdRng::seed_from_u64(seed),
            steps: 0,
            trace: 0,
        }
    }

    pub(super) fn address_of(index: usize) -> Addresses {
        let [_, b, c, d] = u32::try_from(index + 1).expect("few nodes").to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(10, b, c, d), 4302));
        Addresses { direct: vec![address], relays: Vec::new() }
    }

    pub(super) fn add(&mut self, card: MeshCard, lan_join: LanJoin) -> usize {
        let index = self.nodes.len();
        let mut key = NodeKey([0; 32]);
        self.rng.fill_bytes(&mut key.0);
        let membership = self.membership(index, key, card, lan_join);
        self.by_key.insert(key, index);
        self.nodes.push(Node {
            membership,
            key,
            alive: true,
            skew_ms: 0,
            group: 0,
            relayed: false,
            started: self.now,
            tick_at: None,
            dials: BTreeSet::new(),
            saved: BTreeSet::new(),
            events: Vec::new(),
            frames_sent: 0,
            bytes_sent: 0,
        });
        self.input(index, Input::Tick);
        index
    }

    pub(super) fn membership(
        &mut self,
        index: usize,
        key: NodeKey,
        card: MeshCard,
        lan_join: LanJoin,
    ) -> Membership {
        let mut rng = [0; 32];
        self.rng.fill_bytes(&mut rng);
        let skew = self.nodes.get(index).map_or(0, |node| node.skew_ms);
        let setup = Setup {
            crypto: Box::new(Stamp::new(key, Arc::clone(&self.notary))),
            card,
            instance: self.rng.next_u64(),
            rng,
            lan_join,
            blocked: BTreeSet::new(),
            trusted: BTreeSet::new(),
            announcement: announcement(&format!("node-{index}")),
            addresses: Self::address_of(index),
        };
        let unix_ms = EPOCH_MS + millis(self.now) + skew;
        Membership::new(setup, Now { mono: Duration::ZERO, unix_ms })
    }

    /// Starts a node that was stopped or killed, with the same key and nothing else.
    pub(super) fn restart(&mut self, index: usize) {
        let (key, card) = (self.nodes[index].key, self.nodes[index].membership.card().clone());
        let membership = self.membership(index, key, card, LanJoin::Automatic);
        let now = self.now;
        let node = &mut self.nodes[index];
        node.membership = membership;
        node.alive = true;
        node.started = now;
        node.tick_at = None;
        node.dials.clear();
        self.input(index, Input::Tick);
    }

    /// Starts a node again with the peers that it saved.
    fn restart_with_saved(&mut self, index: usize) {
        self.restart(index);
        for peer in self.nodes[index].saved.clone() {
            self.found(index, self.by_key[&peer], SourceKind::Saved);
        }
    }

    /// As a driver keeps the peers that a ticket names, before any of them answered.
    fn keep(&mut self, index: usize, peer: usize) {
        let peer = self.nodes[peer].key;
        self.nodes[index].saved.insert(peer);
    }

    /// As kill -9: nobody is told.
    pub(super) fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
        self.tear(index);
    }

    pub(super) fn found(&mut self, index: usize, peer: usize, source: SourceKind) {
        let (peer, addresses) = (self.nodes[peer].key, Self::address_of(peer));
        let foreign = false;
        self.input(index, Input::Found { peer, addresses, source, name: None, foreign });
    }

    pub(super) fn command(&mut self, index: usize, command: Command) {
        self.input(index, Input::Command(command));
    }

    /// A node says something that the others should hear at once, and its way is followed.
    pub(super) fn publish(&mut self, author: usize, marker: u16) {
        let mut says = announcement(&format!("node-{author}"));
        says.queue = marker;
        // A change that others decide by, so that it is announced at once.
        says.serving = match self.nodes[author].membership.announcer.says.serving {
            AnnouncedServing::Ready => AnnouncedServing::Busy,
            _ => AnnouncedServing::Ready,
        };
        self.watch = Some(Watch { author, marker, published: None, arrived: BTreeMap::new() });
        self.input(author, Input::Announce(Box::new(says)));
    }

    fn clock(&self, index: usize) -> Now {
        let node = &self.nodes[index];
        Now { mono: self.now - node.started, unix_ms: EPOCH_MS + millis(self.now) + node.skew_ms }
    }

    pub(super) fn input(&mut self, index: usize, input: Input) {
        if !self.nodes[index].alive {
            return;
        }
        let now = self.clock(index);
        self.steps += 1;
        let outputs = self.nodes[index].membership.handle(now, input);
        self.trace = self.trace.rotate_left(5) ^ (index as u64) ^ ((outputs.len() as u64) << 32);
        for output in outputs {
            self.output(index, output);
        }
        self.check(index);
        if self.steps.is_multiple_of(WHOLE_WORLD) {
            (0..self.nodes.len()).for_each(|index| self.check_tables(index));
        }
        self.follow(index);
        let node = &mut self.nodes[index];
        if let Some(deadline) = node.membership.deadline() {
            let at = (node.started + deadline).max(self.now + Duration::from_micros(1));
            if node.tick_at.is_none_or(|tick| tick > at) {
                node.tick_at = Some(at);
                self.at(at, index, Happens::Tick);
            }
        }
    }

    fn output(&mut self, from: usize, output: Output) {
        match output {
            Output::Send { conn, bytes, .. } => self.send(from, conn.0, bytes),
            // There are no streams here.
            Output::Close { conn, reason, .. } | Output::Retire { conn, reason, .. } => {
                self.close(from, conn.0, &reason);
            }
            Output::Dial { peer, addresses } => self.dial(from, peer, &addresses),
            Output::Event(event) => self.event(from, event),
        }
    }

    fn event(&mut self, index: usize, event: MeshEvent) {
        if let MeshEvent::PeerChanged { peer } = &event
            && let Some(entry) = self.nodes[index].membership.directory.get(peer)
        {
            let record = &entry.record;
            assert!(self.notary.signed(record), "a record that its author did not sign");
            assert_eq!(
                record.body.mesh, self.nodes[index].membership.card.id,
                "a record of another mesh"
            );
            if let Some(watch) = &mut self.watch
                && self.nodes[watch.author].key == *peer
                && record.body.announcement.queue == watch.marker
            {
                watch.arrived.entry(index).or_insert(self.now);
            }
        }
        match event {
            MeshEvent::Save { peer, .. } => {
                self.nodes[index].saved.insert(peer);
            }
            MeshEvent::PeerChanged { .. } => {}
            event => self.nodes[index].events.push(event),
        }
    }

    fn follow(&mut self, index: usize) {
        let Some(watch) = &mut self.watch else { return };
        if watch.author != index || watch.published.is_some() {
            return;
        }
        let record = self.nodes[index].membership.own_record();
        if record.is_some_and(|record| record.body.announcement.queue == watch.marker) {
            watch.published = Some(self.now);
        }
    }

    /// What must hold after every step of a node.
    fn check(&self, index: usize) {
        let membership = &self.nodes[index].membership;
        assert!(membership.directory.len() <= MOST_NODES, "the directory is bounded");
        assert!(membership.links.len() <= 6_144, "the table of links is bounded");
        assert!(membership.nonces.len() <= super::MOST_NONCES, "the nonces are bounded");
        assert!(membership.neighbours().len() <= 5, "the active view is bounded");
        if self.steps.is_multiple_of(16) {
            self.check_tables(index);
        }
    }

    /// What costs more to look at.
    fn check_tables(&self, index: usize) {
        let membership = &self.nodes[index].membership;
        let conns = membership.links.count_connections();
        assert!(conns <= MOST_CONNECTIONS, "connections are bounded, not {conns}");
    }

    /// Runs until nothing is due before this time.
    pub(super) fn run_until(&mut self, until: Duration) {
        while let Some(Reverse((at, id, index))) = self.heap.peek().copied() {
            if at > until {
                break;
            }
            self.heap.pop();
            self.now = self.now.max(at);
            if let Some(happens) = self.happens.remove(&id) {
                self.happen(index, happens);
            }
        }
        self.now = self.now.max(until);
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Runs until this holds, at most for a time; whether it came to hold.
    pub(super) fn run_until_holds(
        &mut self,
        most: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let from = self.now;
        while self.now < from + most {
            if holds(self) {
                return Some(self.now - from);
            }
            self.run_for(Duration::from_millis(100));
        }
        holds(self).then(|| self.now - from)
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&index| self.nodes[index].alive).collect()
    }

    /// Who lacks whom, for the message of a test that failed.
    pub(super) fn missing(&self) -> Vec<String> {
        let alive = self.alive();
        let mut lines = Vec::new();
        for &index in &alive {
            let membership = &self.nodes[index].membership;
            let now = self.clock(index).mono;
            for &other in alive.iter().filter(|&&other| other != index) {
                let entry = membership.directory.get(&self.nodes[other].key);
                let seen = match entry {
                    None => "not in the table".to_owned(),
                    Some(entry) if entry.record.body.goodbye => "said goodbye".to_owned(),
                    Some(entry) if entry.is_stale(now) => {
                        format!("stale, heard {:?} ago", now - entry.heard)
                    }
                    Some(_) => continue,
                };
                lines.push(format!("{other} at {index}: {seen}"));
            }
        }
        lines
    }

    /// Every living node has every other living node in its table, and not as a stale one.
    pub(super) fn is_one_view(&self) -> bool {
        let alive = self.alive();
        alive.iter().all(|&index| {
            let counts = self.nodes[index].membership.counts();
            counts.known >= alive.len() - 1
                && alive.iter().all(|&other| {
                    other == index
                        || self.nodes[index].membership.directory.contains(&self.nodes[other].key)
                })
        })
    }

    /// Whoever is somebody's neighbour knows of it.
    pub(super) fn is_symmetric(&self) -> bool {
        let neighbours = |index: usize| self.nodes[index].membership.neighbours();
        self.alive().into_iter().all(|index| {
            let key = &self.nodes[index].key;
            neighbours(index).iter().all(|other| neighbours(self.by_key[other]).contains(key))
        })
    }

    /// Starts `count` nodes, one every `gap`, each with two earlier ones as seeds.
    pub(super) fn grow(&mut self, count: usize, gap: Duration) {
        for _ in 0..count {
            let index = self.add(card(), LanJoin::Automatic);
            for _ in 0..2_usize.min(index) {
                let seed = self.rng.random_range(0..index);
                self.found(index, seed, SourceKind::Seed);
            }
            self.run_for(gap);
        }
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).expect("a short simulation")
}
