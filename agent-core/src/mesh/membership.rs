//! Membership without IO: inputs and the time in, outputs out.
//!
//! The driver ([`super::net`]) and the simulator hold one [`Membership`] per node and do what its
//! outputs say. What is in a frame is known here only.
//!
//! | Part | Does |
//! |---|---|
//! | `handshake` | Hellos: same mesh? same protocol? knows the secret? |
//! | `overlay`, `mirror` | The neighbours: iroh-gossip's HyParView, and a look into its messages before it gets them |
//! | `broadcast` | How a record gets to everybody over the neighbours |
//! | `gossip` | Which records are believed, and what they change |
//! | `directory` | Who is in the mesh; fades |
//! | `sync` | Anti-entropy: two nodes find out what the other does not know |
//! | `links` | Connections, whom to dial, backoff |
//! | `liveness` | Pings, dead connections, a changed network |
//! | `merge` | Nodes of other meshes on the same network |
//! | `limits` | Token buckets, memories that forget |
//! | `clocks` | Whose clock is wrong |
//! | `view` | What the API shows |

mod announce;
mod broadcast;
mod clocks;
mod directory;
mod gossip;
mod handshake;
pub mod io;
mod limits;
mod links;
mod liveness;
mod merge;
mod mirror;
mod overlay;
mod sync;
mod view;
mod wire;

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod one_node;
#[cfg(test)]
mod pair;
#[cfg(test)]
pub(in crate::mesh) mod sim;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use agent_api::mesh::{Announcement, LanJoin};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

pub(crate) use self::wire::PROTOCOL;
use self::{
    announce::Announcer,
    broadcast::{Broadcast, RecordId, Spread},
    clocks::Clocks,
    directory::Directory,
    io::{Command, Input, MeshEvent, Now, Output},
    limits::{Rate, Recent, TokenBucket},
    links::Links,
    merge::Visitors,
    overlay::{Overlay, Step},
    sync::Sync,
};
pub use self::{
    directory::MOST_NODES,
    links::NOT_NEEDED,
    view::{AttemptView, ConnectionView, Counts, NearbyView, PeerView},
};
use super::{
    Addresses, MeshCard, NodeKey,
    addr::Loopback,
    record::{self, About, Body, Crypto},
};

/// How far another node's clock may be off.
pub const CLOCK_SKEW: Duration = Duration::from_secs(120);
/// How long a record's nonce is remembered: more than twice the skew, so that a record that is
/// forgotten is also too old.
const NONCES_KEPT: Duration = Duration::from_secs(300);
/// 20 records a second for that time, and as many again.
const MOST_NONCES: usize = 12_288;
/// How often a node asks for a place in the overlay. Each such word takes a walk through the mesh
/// and may cost somebody else a place, which then asks in turn.
const JOINS: Rate = Rate { burst: 4.0, per_s: 0.5 };
/// How often peers that are no neighbours, and act as if, are told so.
const STRAYS: Rate = Rate { burst: 8.0, per_s: 1.0 };
/// What has no time of its own is looked at that often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often the directory is searched for nodes that are gone.
const SWEEP: Duration = Duration::from_secs(5);

/// What membership needs to start.
#[derive(Debug)]
pub struct Setup {
    pub crypto: Box<dyn Crypto>,
    pub card: MeshCard,
    /// Random, new at each start.
    pub instance: u64,
    /// All randomness comes from it: the same seed and inputs give the same outputs.
    pub rng: [u8; 32],
    pub lan_join: LanJoin,
    pub blocked: BTreeSet<NodeKey>,
    /// Kept in a full table.
    pub trusted: BTreeSet<NodeKey>,
    pub announcement: Announcement,
    pub addresses: Addresses,
}

/// Why something from another node was not accepted; counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    BadSignature,
    /// Too old, or its author has said something newer.
    Expired,
    Replayed,
    TooLarge,
    ForeignMesh,
    ClockSkew,
    RateLimited,
    Malformed,
    Blocked,
    NotAMember,
}

impl Refusal {
    /// The stable word of [`agent_api::mesh::Refused`].
    pub fn word(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::Replayed => "replayed",
            Self::TooLarge => "too_large",
            Self::ForeignMesh => "foreign_mesh",
            Self::ClockSkew => "clock_skew",
            Self::RateLimited => "rate_limited",
            Self::Malformed => "malformed",
            Self::Blocked => "blocked",
            Self::NotAMember => "not_a_member",
        }
    }

    /// What it costs the peer that sent it, of [`limits::OFFENCES`]. Nothing where an honest peer
    /// cannot know better: it may not have blocked whom we blocked, it may not have seen the record
    /// that another has the nonce of, and our clock may be the wrong one.
    fn points(self) -> f64 {
        match self {
            Self::BadSignature | Self::Malformed | Self::TooLarge | Self::ForeignMesh => 20.0,
            Self::NotAMember => 5.0,
            Self::RateLimited => 1.0,
            Self::Replayed | Self::Expired | Self::ClockSkew | Self::Blocked => 0.0,
        }
    }
}

/// One node's part of the mesh.
#[derive(Debug)]
pub struct Membership {
    me: NodeKey,
    crypto: Box<dyn Crypto>,
    card: MeshCard,
    mesh_hash: [u8; 32],
    instance: u64,
    lan_join: LanJoin,
    blocked: BTreeSet<NodeKey>,
    trusted: BTreeSet<NodeKey>,
    addresses: Addresses,
    announcer: Announcer,
    last_at_ms: i64,
    directory: Directory,
    overlay: Overlay,
    broadcast: Broadcast,
    joins: TokenBucket,
    strays: TokenBucket,
    nonces: Recent<(u64, u64)>,
    links: Links,
    sync: Sync,
    visitors: Visitors,
    clocks: Clocks,
    refused: BTreeMap<Refusal, u64>,
    /// When another computer with this node's key was last heard.
    duplicate: Option<Duration>,
    /// Records of this node's key up to that time may be from before its last start.
    own_until_ms: i64,
    /// [`Self::own_until_ms`] was raised: this happens once, to what was said before the start.
    caught_up: bool,
    stopped: bool,
    rng: StdRng,
    base: Instant,
    now: Now,
    next_housekeeping: Duration,
    next_sweep: Duration,
    /// Something changed that may call for a connection.
    replan: bool,
    out: Vec<Output>,
}

impl Membership {
    pub fn new(setup: Setup, now: Now) -> Self {
        let mut rng = StdRng::from_seed(setup.rng);
        let me = setup.crypto.key();
        let base = Instant::now();
        let gossip_rng = StdRng::from_rng(&mut rng);
        Self {
            me,
            mesh_hash: handshake::mesh_hash(&setup.card),
            instance: setup.instance,
            lan_join: setup.lan_join,
            blocked: setup.blocked,
            trusted: setup.trusted,
            addresses: setup.addresses.cleaned(Loopback::Allowed),
            announcer: Announcer::new(setup.announcement, now.mono),
            last_at_ms: 0,
            directory: Directory::new(me),
            overlay: Overlay::new(me, setup.card.id, base, gossip_rng, now.mono),
            broadcast: Broadcast::new(now.mono),
            joins: TokenBucket::full(JOINS, now.mono),
            strays: TokenBucket::full(STRAYS, now.mono),
            nonces: Recent::new(NONCES_KEPT, MOST_NONCES),
            links: Links::default(),
            sync: Sync::new(now.mono),
            visitors: Visitors::default(),
            clocks: Clocks::default(),
            refused: BTreeMap::new(),
            duplicate: None,
            own_until_ms: now.unix_ms,
            caught_up: false,
            stopped: false,
            crypto: setup.crypto,
            card: setup.card,
            rng,
            base,
            now,
            next_housekeeping: now.mono,
            next_sweep: now.mono + SWEEP,
            replan: false,
            out: Vec::new(),
        }
    }

    /// Takes what happened and says what to do. Also does what became due in the meantime.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Output> {
        if self.stopped {
            return Vec::new();
        }
        // The driver's clock never goes back; a simulator's might by rounding.
        self.now = Now { mono: now.mono.max(self.now.mono), unix_ms: now.unix_ms };
        match input {
            Input::Connected { peer, conn, side, binding, on_lan } => {
                self.on_connected(peer, links::Conn::new(conn, side, binding, on_lan, self.now));
            }
            Input::Disconnected { peer, conn, reason } => self.on_disconnected(peer, conn, &reason),
            Input::DialFailed { peer, reason } => self.on_dial_failed(peer, reason),
            Input::Path { peer, conn, kind, rtt } => self.on_path(peer, conn, kind, rtt),
            Input::Frame { peer, conn, bytes } => self.on_frame(peer, conn, &bytes),
            Input::Found { peer, addresses, source, name, foreign } => {
                self.on_found(peer, &addresses, source, name);
                // Its packets are no proof: what a member says of itself counts more.
                if foreign && !self.directory.contains(&peer) && !self.links.is_up(&peer) {
                    self.links.is_elsewhere(&peer);
                }
            }
            Input::Tick => {}
            Input::NetworkChanged => self.on_network_changed(),
            Input::Announce(says) => self.on_announce(*says),
            Input::OwnAddresses(addresses) => self.on_own_addresses(&addresses),
            Input::InUse { peer, in_use } => self.on_in_use(peer, in_use),
            Input::Command(command) => self.on_command(command),
        }
        self.settle();
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due, by the clock of [`Now::mono`]. `None` after the shutdown.
    pub fn deadline(&self) -> Option<Duration> {
        if self.stopped {
            return None;
        }
        let fixed = self.next_housekeeping.min(self.announcer.next).min(self.sync.deadline());
        let gossip = self.overlay.deadline().into_iter().chain(self.broadcast.deadline());
        gossip.chain([fixed]).min()
    }

    fn settle(&mut self) {
        if self.stopped {
            return;
        }
        let now = self.now.mono;
        if self.overlay.deadline().is_some_and(|at| at <= now) {
            let steps = self.overlay.tick(now);
            self.carry_out(steps);
        }
        self.broadcast.ask_others(now);
        if self.next_housekeeping <= now {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.keep_house();
        }
        if self.announcer.is_due(now, self.directory.present()) {
            self.announce(false);
        }
        if self.sync.deadline() <= now {
            self.run_sync();
        }
        self.send_waves();
        if std::mem::take(&mut self.replan) {
            self.plan_dials();
        }
    }

    fn keep_house(&mut self) {
        let now = self.now.mono;
        self.check_liveness();
        self.trim_links();
        let quiet = self.announce_every() * directory::GONE_AFTER;
        self.duplicate.take_if(|heard| now.saturating_sub(*heard) > quiet);
        self.tidy_visitors();
        self.tidy_clocks();
        self.look_for_neighbours();
        for peer in self.broadcast.broken_promises(now) {
            self.offence(peer, 1.0);
        }
        if self.overlay.is_worn() {
            let rng = StdRng::from_rng(&mut self.rng);
            let steps = self.overlay.renew(rng, now);
            self.carry_out(steps);
        }
        if self.next_sweep <= now {
            self.next_sweep = now + SWEEP;
            for (peer, said_goodbye) in self.directory.sweep(now) {
                if !said_goodbye {
                    self.event(MeshEvent::PeerGone { peer, said_goodbye });
                }
            }
        }
        self.replan = true;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Enter(card) => self.enter(card),
            Command::Block(peer) => self.block(peer),
            Command::Unblock(peer) => {
                self.blocked.remove(&peer);
                self.replan = true;
            }
            Command::Trust { peer, trusted } => {
                if trusted {
                    self.trusted.insert(peer);
                } else {
                    self.trusted.remove(&peer);
                }
            }
            Command::Admit { peer, admit } => self.admit(peer, admit),
            Command::SetLanJoin(lan_join) => self.lan_join = lan_join,
            Command::Refresh => {
                self.announcer.soon(self.now.mono);
                self.links.forgive_all();
                self.sync_with_neighbours(None);
                self.replan = true;
            }
            Command::Shutdown => {
                self.leave();
                self.stopped = true;
            }
        }
    }

    fn on_announce(&mut self, mut says: Announcement) {
        record::fit(&mut says);
        self.announcer.say(says, self.now.mono);
    }

    fn on_own_addresses(&mut self, addresses: &Addresses) {
        let addresses = addresses.cleaned(Loopback::Allowed);
        if addresses != self.addresses {
            self.addresses = addresses;
            self.announcer.soon(self.now.mono);
        }
    }

    /// Signs what this node says of itself and sends it to everyone.
    fn announce(&mut self, goodbye: bool) {
        let every = announce::interval(self.directory.present());
        let mut says = self.announcer.says.clone();
        // Also the sequence number: it never repeats, whatever the clock does. Unless the clock was
        // so far ahead that nobody believed it, and would not until that time comes.
        let most = self.now.unix_ms.saturating_add(gossip::skew_ms());
        if self.last_at_ms > most {
            self.last_at_ms = 0;
        }
        self.last_at_ms = self.now.unix_ms.max(self.last_at_ms + 1);
        says.at_ms = self.last_at_ms;
        says.every_s = u32::try_from(every.as_secs()).unwrap_or(u32::MAX);
        says.links = self.links.up().map(|(key, _)| key.short()).take(record::LINKS).collect();
        record::fit(&mut says);
        let record = loop {
            let about =
                About { goodbye, addresses: self.addresses.clone(), announcement: says.clone() };
            let nonce = self.rng.next_u64();
            let body = Body::new(self.card.id, self.me, self.instance, nonce, about);
            if let Some(record) = record::seal(self.crypto.as_ref(), body) {
                break Some(record);
            }
            // Long names: the last models, which are not in memory, are left out.
            if says.models.pop().is_none() {
                break None;
            }
        };
        if let Some(record) = record {
            let now = self.now.mono;
            let urgent = self.announcer.urgent || goodbye;
            let (id, bytes) = (RecordId::of(&record.hash), record.bytes.clone());
            // A full table has a row for this node: it got it first.
            let _ = self.directory.insert(record, now, now, |_| true);
            let spread = Spread { id, bytes, hops: 0, urgent };
            self.broadcast.spread(spread, None, self.directory.present(), now);
        }
        self.announcer.done(every, self.now.mono, &mut self.rng);
    }

    fn send_waves(&mut self) {
        for (peer, frame) in self.broadcast.frames(self.now.mono) {
            self.send(peer, frame);
        }
    }

    /// Asks a connected peer for a place in the overlay.
    fn join(&mut self, peer: NodeKey) {
        let now = self.now.mono;
        if self.joins.take(JOINS, 1.0, now) {
            let steps = self.overlay.join(vec![peer], now);
            self.carry_out(steps);
        }
    }

    /// A node with few neighbours asks one of its other peers, each second another one.
    fn look_for_neighbours(&mut self) {
        let neighbours = self.overlay.neighbours();
        if neighbours.len() >= links::FEW_NEIGHBOURS {
            return;
        }
        let up = self.links.up().map(|(key, _)| *key);
        let others: Vec<_> = up.filter(|key| !neighbours.contains(key)).collect();
        if !others.is_empty() {
            let peer = others[self.rng.random_range(0..others.len())];
            self.join(peer);
        }
    }

    /// Does what the overlay's protocol wants.
    fn carry_out(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Send(peer, bytes) => self.send_gossip(peer, bytes),
                Step::NeighbourUp(peer) => {
                    self.broadcast.neighbour_up(peer);
                    if self.overlay.neighbours().len() == 1 {
                        // The first way into the mesh: now somebody hears it.
                        self.announcer.soon(self.now.mono);
                    }
                }
                Step::NeighbourDown(peer) => {
                    self.broadcast.neighbour_down(&peer, self.now.mono);
                    self.replan = true;
                }
                Step::Unneeded(peer) => self.links.linger(&peer, self.now.mono),
            }
        }
    }

    fn block(&mut self, peer: NodeKey) {
        self.blocked.insert(peer);
        self.directory.remove(&peer);
        self.drop_peer(peer, "blocked by this node's owner");
        self.visitors.forget(&peer);
        self.event(MeshEvent::PeerGone { peer, said_goodbye: false });
    }

    /// Leaves this mesh and is in another.
    fn enter(&mut self, card: MeshCard) {
        if card.id == self.card.id && card.secret == self.card.secret {
            let settles = card.settled && !self.card.settled;
            self.card = card;
            if settles {
                self.tell_settled();
            }
            return;
        }
        self.leave();
        self.mesh_hash = handshake::mesh_hash(&card);
        self.directory = Directory::new(self.me);
        let rng = StdRng::from_rng(&mut self.rng);
        self.overlay = Overlay::new(self.me, card.id, self.base, rng, self.now.mono);
        self.joins = TokenBucket::full(JOINS, self.now.mono);
        self.broadcast = Broadcast::new(self.now.mono);
        self.card = card;
        self.sync = Sync::new(self.now.mono);
        self.visitors = Visitors::default();
        self.clocks = Clocks::default();
        self.links.start_over(self.now.mono);
        self.announcer.start_over(self.now.mono);
        self.replan = true;
    }

    /// Says goodbye and closes everything.
    fn leave(&mut self) {
        self.announce(true);
        self.send_waves();
        let steps = self.overlay.quit(self.now.mono);
        self.carry_out(steps);
        for peer in self.links.connected() {
            self.drop_peer(peer, "it left the mesh");
        }
    }

    fn count(&mut self, refusal: Refusal) {
        *self.refused.entry(refusal).or_default() += 1;
    }

    /// Counts, and closes the peer if it goes on like this.
    fn refuse(&mut self, peer: NodeKey, refusal: Refusal) {
        self.count(refusal);
        self.offence(peer, refusal.points());
    }

    fn event(&mut self, event: MeshEvent) {
        self.out.push(Output::Event(event));
    }
}
