//! The bridge to iroh-gossip's protocol: its messages, timers and random numbers, driven by us.
//!
//! Its membership (HyParView) is used as it is. Its broadcast (Plumtree) pushes records along a
//! tree and only ids along the other links. With every node an author and several records under
//! way at once that tree never settles: at 100 nodes each record came 1.9 times and took up to
//! 580 ms in the simulator, and other timers did not help. So no link is part of a tree here.
//! Near its author, where hardly anybody has it, a record is pushed to every neighbour; after
//! that a node tells ids, and is asked at once for what is missing. See `sim/scale.rs`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use iroh_gossip::proto::{
    Command, Config, Event, InEvent, Message, OutEvent, PeerData, PlumtreeConfig, Scope, State,
    Timer, TopicId, state::MessageKind,
};
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{
    limits::Recent,
    mirror::{self, IHave, MessageId},
    wire::gossip_frame,
};
use crate::mesh::{MeshId, NodeKey};

/// How long the protocol knows a message's id: copies within that time are no replays.
const IDS_KEPT: Duration = Duration::from_secs(90);
/// 20 a second for that time, and as many again.
const MOST_IDS: usize = 4_096;
/// Ids that peers promised and that are waited for; the protocol itself keeps them without bound.
const MOST_AWAITED: usize = 4_096;
/// Neighbours that have an awaited message; there are five of them.
const MOST_HOLDERS: usize = 4;
/// A promise that is not kept within that time is broken.
const AWAIT: Duration = Duration::from_secs(20);
/// Broken promises after which the protocol's state is made anew, which frees what it kept of them.
pub(super) const MOST_BROKEN: usize = 8_192;

/// How long ids gather before they are told: one frame instead of several in a busy moment.
const GATHER: Duration = Duration::from_millis(3);
/// How long an asked neighbour may take before the next is asked: a round trip over a far relay.
const ASK_NEXT: Duration = Duration::from_millis(300);

/// What the protocol wants.
#[derive(Debug)]
pub(super) enum Step {
    Send(NodeKey, Bytes),
    NeighbourUp,
    NeighbourDown,
    /// The protocol needs no connection to this peer.
    Unneeded(NodeKey),
}

/// Counted for tests and the simulator.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    /// Copies of records that came, first ones and others.
    pub(super) copies: u64,
    pub(super) first: u64,
    pub(super) control: u64,
}

/// A record that a neighbour told of.
#[derive(Debug)]
struct Awaited {
    /// Who was asked last.
    peer: NodeKey,
    /// When the promise counts as broken.
    until: Duration,
    /// Who else has it, and over how many hops.
    others: Vec<(NodeKey, u16)>,
}

#[derive(Debug)]
pub(super) struct Broadcast {
    state: State<NodeKey, StdRng>,
    topic: TopicId,
    prune: Option<Message<NodeKey>>,
    base: Instant,
    timers: BTreeMap<(Duration, u64), Timer<NodeKey>>,
    timers_made: u64,
    neighbours: BTreeSet<NodeKey>,
    /// Ids of messages that were checked and given to the protocol.
    passed: Recent<MessageId>,
    /// Ids of messages that were refused: their other copies need no second look.
    refused: Recent<MessageId>,
    awaited: BTreeMap<MessageId, Awaited>,
    /// When the next holder of an awaited record is asked; in order, because all wait as long.
    asks: VecDeque<(Duration, MessageId)>,
    pub(super) broken: usize,
    pub(super) traffic: Traffic,
}

impl Broadcast {
    pub(super) fn new(me: NodeKey, mesh: MeshId, base: Instant, rng: StdRng) -> Self {
        let topic = TopicId::from_bytes(mesh.0);
        let prune = mirror::encode(&mirror::prune(topic.as_bytes()));
        let prune = prune.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        Self {
            state: State::new(me, PeerData::default(), config(), rng),
            topic,
            prune,
            base,
            timers: BTreeMap::new(),
            timers_made: 0,
            neighbours: BTreeSet::new(),
            passed: Recent::new(IDS_KEPT, MOST_IDS),
            refused: Recent::new(IDS_KEPT, MOST_IDS),
            awaited: BTreeMap::new(),
            asks: VecDeque::new(),
            broken: 0,
            traffic: Traffic::default(),
        }
    }

    /// Peers to and from whom records flow.
    pub(super) fn neighbours(&self) -> &BTreeSet<NodeKey> {
        &self.neighbours
    }

    pub(super) fn topic(&self) -> &[u8; 32] {
        self.topic.as_bytes()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let ask = self.asks.front().map(|(at, _)| *at);
        timer.into_iter().chain(ask).min()
    }

    pub(super) fn has_passed(&mut self, id: &MessageId, now: Duration) -> bool {
        self.passed.expire(now);
        self.passed.contains(id)
    }

    pub(super) fn was_refused(&self, id: &MessageId) -> bool {
        self.refused.contains(id)
    }

    pub(super) fn refuse(&mut self, id: MessageId, now: Duration) {
        self.awaited.remove(&id);
        self.refused.insert(id, now);
    }

    /// A message was found good: the protocol may have it. Copies follow without a second look.
    pub(super) fn pass(&mut self, id: MessageId, now: Duration) {
        self.awaited.remove(&id);
        self.passed.insert(id, now);
    }

    /// A neighbour says that it has this message. True: the protocol should ask it; otherwise
    /// somebody was asked already, and it is asked if that one does not answer.
    pub(super) fn awaits(&mut self, have: &IHave, peer: NodeKey, now: Duration) -> bool {
        if self.passed.contains(&have.id) {
            return false;
        }
        if let Some(awaited) = self.awaited.get_mut(&have.id) {
            if awaited.others.len() < MOST_HOLDERS {
                awaited.others.push((peer, have.round));
            }
            return false;
        }
        if self.awaited.len() >= MOST_AWAITED {
            return false;
        }
        let awaited = Awaited { peer, until: now + AWAIT, others: Vec::new() };
        self.awaited.insert(have.id, awaited);
        self.asks.push_back((now + ASK_NEXT, have.id));
        true
    }

    /// Who promised messages and did not have them.
    pub(super) fn broken_promises(&mut self, now: Duration) -> Vec<NodeKey> {
        let before = self.awaited.len();
        let mut who = Vec::new();
        self.awaited.retain(|_, awaited| {
            let waits = awaited.until > now;
            if !waits {
                who.push(awaited.peer);
            }
            waits
        });
        self.broken += before - self.awaited.len();
        who
    }

    /// Asks the next holder of what did not come.
    fn ask_others(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((at, id)) = self.asks.front().copied()
            && at <= now
        {
            self.asks.pop_front();
            let Some(awaited) = self.awaited.get_mut(&id) else { continue };
            if awaited.others.is_empty() {
                continue;
            }
            let (peer, round) = awaited.others.remove(0);
            awaited.peer = peer;
            self.asks.push_back((now + ASK_NEXT, id));
            let message = mirror::have(self.topic.as_bytes(), id, round);
            steps.extend(self.receive_mirrored(peer, &message, now));
        }
        steps
    }

    pub(super) fn join(&mut self, peers: Vec<NodeKey>, now: Duration) -> Vec<Step> {
        self.handle(InEvent::Command(self.topic, Command::Join(peers)), now)
    }

    pub(super) fn quit(&mut self, now: Duration) -> Vec<Step> {
        let steps = self.handle(InEvent::Command(self.topic, Command::Quit), now);
        self.timers.clear();
        self.neighbours.clear();
        steps
    }

    /// Sends a record of this node to every neighbour, without asking whether they want it.
    pub(super) fn publish(&mut self, content: Bytes, now: Duration) -> Vec<Step> {
        let id = *blake3::hash(&content).as_bytes();
        self.pass(id, now);
        let mut steps = self.push(id, &content, 0, None);
        let command = Command::Broadcast(content, Scope::Swarm);
        steps.extend(self.handle(InEvent::Command(self.topic, command), now));
        steps
    }

    /// Passes a record on unasked that is near its author: hardly anybody has it there. `nodes`:
    /// size of the mesh.
    pub(super) fn push_early(
        &self,
        from: NodeKey,
        data: &mirror::Data<'_>,
        nodes: usize,
    ) -> Vec<Step> {
        match data.scope {
            mirror::Scope::Swarm(hops) if hops + 1 < pushed_hops(nodes) => {
                self.push(data.id, data.content, hops + 1, Some(from))
            }
            _ => Vec::new(),
        }
    }

    fn push(&self, id: MessageId, content: &[u8], hops: u16, but: Option<NodeKey>) -> Vec<Step> {
        let message = mirror::data(self.topic.as_bytes(), id, content, hops);
        let frame = gossip_frame(|mut bytes| {
            bytes.extend(mirror::encode(&message)?);
            Some(bytes)
        });
        let Some(frame) = frame else { return Vec::new() };
        let others = self.neighbours.iter().filter(|peer| Some(**peer) != but);
        others.map(|peer| Step::Send(*peer, frame.clone())).collect()
    }

    pub(super) fn disconnected(&mut self, peer: NodeKey, now: Duration) -> Vec<Step> {
        self.awaited.retain(|_, awaited| {
            awaited.others.retain(|(holder, _)| *holder != peer);
            awaited.peer != peer || !awaited.others.is_empty()
        });
        self.handle(InEvent::PeerDisconnected(peer), now)
    }

    /// Bytes that were looked at and found fit for the protocol.
    pub(super) fn receive(&mut self, peer: NodeKey, bytes: &[u8], now: Duration) -> Vec<Step> {
        let Ok(message) = postcard::from_bytes::<Message<NodeKey>>(bytes) else {
            return Vec::new();
        };
        match message.kind() {
            MessageKind::Data => self.traffic.copies += 1,
            MessageKind::Control => self.traffic.control += 1,
        }
        self.handle(InEvent::RecvMessage(peer, message), now)
    }

    /// A message of which something was taken out.
    pub(super) fn receive_mirrored(
        &mut self,
        peer: NodeKey,
        message: &mirror::Message<'_>,
        now: Duration,
    ) -> Vec<Step> {
        mirror::encode(message).map_or(Vec::new(), |bytes| self.receive(peer, &bytes, now))
    }

    pub(super) fn tick(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = self.ask_others(now);
        // A timer that schedules itself for now would keep this loop alive; none does, but the
        // protocol is not ours.
        for _ in 0..1_024 {
            let Some((&(at, _), _)) = self.timers.first_key_value() else { break };
            if at > now {
                break;
            }
            if let Some((_, timer)) = self.timers.pop_first() {
                steps.extend(self.handle(InEvent::TimerExpired(timer), now));
            }
        }
        steps
    }

    fn handle(&mut self, event: InEvent<NodeKey>, now: Duration) -> Vec<Step> {
        let mut eager: Vec<NodeKey> = Vec::new();
        if let InEvent::RecvMessage(from, _) = &event {
            eager.push(*from);
        }
        let grafts = matches!(event, InEvent::TimerExpired(_));
        let mut steps = Vec::new();
        for out in self.state.handle(event, self.base + now, None) {
            match out {
                OutEvent::SendMessage(to, message) => {
                    if grafts {
                        eager.push(to);
                    }
                    let frame = gossip_frame(|bytes| postcard::to_extend(&message, bytes).ok());
                    steps.extend(frame.map(|bytes| Step::Send(to, bytes)));
                }
                OutEvent::ScheduleTimer(wait, timer) => {
                    self.timers.insert((now + wait, self.timers_made), timer);
                    self.timers_made += 1;
                }
                OutEvent::EmitEvent(_, Event::NeighborUp(peer)) => {
                    self.neighbours.insert(peer);
                    eager.push(peer);
                    steps.push(Step::NeighbourUp);
                }
                OutEvent::EmitEvent(_, Event::NeighborDown(peer)) => {
                    self.neighbours.remove(&peer);
                    steps.push(Step::NeighbourDown);
                }
                OutEvent::EmitEvent(_, Event::Received(_)) => self.traffic.first += 1,
                OutEvent::DisconnectPeer(peer) => steps.push(Step::Unneeded(peer)),
                OutEvent::PeerData(..) => {}
            }
        }
        for peer in eager {
            self.keep_lazy(peer, now);
        }
        steps
    }

    /// Takes a neighbour out of the tree again; see the module's description.
    fn keep_lazy(&mut self, peer: NodeKey, now: Duration) {
        if self.neighbours.contains(&peer)
            && let Some(prune) = &self.prune
        {
            // A prune makes the protocol say nothing.
            let word = InEvent::RecvMessage(peer, prune.clone());
            self.state.handle(word, self.base + now, None).for_each(drop);
        }
    }
}

/// Hops over which records are pushed: as long as the last hop makes fewer copies than there are nodes.
fn pushed_hops(nodes: usize) -> u16 {
    let mut hops = 1;
    let mut copies = 5;
    while copies * 4 <= nodes {
        copies *= 4;
        hops += 1;
    }
    hops
}

fn config() -> Config {
    Config {
        broadcast: PlumtreeConfig {
            // An id is asked for at once, of the first who has it.
            graft_timeout_1: Duration::ZERO,
            graft_timeout_2: ASK_NEXT,
            dispatch_timeout: GATHER,
            message_id_retention: IDS_KEPT,
            cache_evict_interval: Duration::from_secs(5),
            ..PlumtreeConfig::default()
        },
        ..Config::default()
    }
}
