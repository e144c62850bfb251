//! Who the neighbours are: iroh-gossip's HyParView, with its messages, timers and random numbers
//! driven by us.
//!
//! HyParView (Leitão, Pereira, Rodrigues, DSN 2007) keeps five neighbours per node, the same at
//! both ends, in a random graph that heals itself. The crate's other half, Plumtree, gets nothing
//! to do; [`super::broadcast`] says why.
//!
//! The crate (0.101) keeps a list of the peers from which it awaits an answer, and says nothing to a
//! peer that is on it. Two ways lead onto the list for ever: an answer is put on it like a question,
//! and a peer that is dropped before it answered stays on it. Such a peer may then ask as often as it
//! likes: it is taken for a neighbour here and hears nothing of it, or its late answer makes a
//! neighbour of one end only. [`Overlay::receive`] adds the words that take it off the list.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use iroh_gossip::proto::{
    Command, Config, Event, InEvent, Message, OutEvent, PeerData, PlumtreeConfig, State, Timer,
    TopicId,
};
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{mirror, wire::overlay_frame};
use crate::mesh::{MeshId, NodeKey};

/// Lost connections after which the protocol's state is made anew: it keeps a word about every
/// peer that it ever heard.
pub(super) const MOST_LOST: usize = 8_192;

/// What the protocol wants.
#[derive(Debug)]
pub(super) enum Step {
    Send(NodeKey, Bytes),
    NeighbourUp(NodeKey),
    NeighbourDown(NodeKey),
    /// The protocol needs no connection to this peer.
    Unneeded(NodeKey),
}

#[derive(Debug)]
pub(super) struct Overlay {
    me: NodeKey,
    state: State<NodeKey, StdRng>,
    topic: TopicId,
    base: Instant,
    timers: BTreeMap<(Duration, u64), Timer<NodeKey>>,
    timers_made: u64,
    neighbours: BTreeSet<NodeKey>,
    lost: usize,
}

impl Overlay {
    pub(super) fn new(
        me: NodeKey,
        mesh: MeshId,
        base: Instant,
        rng: StdRng,
        now: Duration,
    ) -> Self {
        let mut overlay = Self {
            me,
            state: State::new(me, PeerData::default(), config(), rng),
            topic: TopicId::from_bytes(mesh.0),
            base,
            timers: BTreeMap::new(),
            timers_made: 0,
            neighbours: BTreeSet::new(),
            lost: 0,
        };
        // Before that it hears nobody who asks.
        overlay.join(Vec::new(), now);
        overlay
    }

    /// Peers to and from whom records flow.
    pub(super) fn neighbours(&self) -> &BTreeSet<NodeKey> {
        &self.neighbours
    }

    pub(super) fn topic(&self) -> &[u8; 32] {
        self.topic.as_bytes()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn is_worn(&self) -> bool {
        self.lost > MOST_LOST
    }

    /// Starts over with the same neighbours.
    pub(super) fn renew(&mut self, rng: StdRng, now: Duration) -> Vec<Step> {
        let neighbours: Vec<_> = self.neighbours.iter().copied().collect();
        let mut steps = self.quit(now);
        self.state = State::new(self.me, PeerData::default(), config(), rng);
        self.lost = 0;
        steps.extend(self.join(neighbours, now));
        steps
    }

    /// What a peer is told that takes this node for a neighbour without being one.
    pub(super) fn farewell(&self) -> Option<Bytes> {
        let word = mirror::Message::farewell(*self.topic());
        overlay_frame(|mut bytes| {
            bytes.extend(mirror::encode(&word)?);
            Some(bytes)
        })
    }

    pub(super) fn join(&mut self, peers: Vec<NodeKey>, now: Duration) -> Vec<Step> {
        self.handle(InEvent::Command(self.topic, Command::Join(peers)), now)
    }

    pub(super) fn quit(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = self.handle(InEvent::Command(self.topic, Command::Quit), now);
        self.timers.clear();
        let left = std::mem::take(&mut self.neighbours);
        steps.extend(left.into_iter().map(Step::NeighbourDown));
        steps
    }

    pub(super) fn disconnected(&mut self, peer: NodeKey, now: Duration) -> Vec<Step> {
        self.lost += 1;
        self.handle(InEvent::PeerDisconnected(peer), now)
    }

    /// A message that was looked at and found fit for the protocol.
    pub(super) fn receive(
        &mut self,
        peer: NodeKey,
        message: &mirror::Message<'_>,
        now: Duration,
    ) -> Vec<Step> {
        let topic = message.topic;
        let mut steps = Vec::new();
        if message.is_join() {
            steps = self.hear(peer, &mirror::Message::neighbour(topic), now);
        }
        steps.extend(self.hear(peer, message, now));
        let left = |step: &Step| match step {
            Step::NeighbourDown(peer) => Some(*peer),
            _ => None,
        };
        for peer in steps.iter().filter_map(left).collect::<Vec<_>>() {
            steps.extend(self.hear(peer, &mirror::Message::farewell(topic), now));
        }
        steps
    }

    fn hear(&mut self, peer: NodeKey, message: &mirror::Message<'_>, now: Duration) -> Vec<Step> {
        let real = mirror::encode(message)
            .and_then(|bytes| postcard::from_bytes::<Message<NodeKey>>(&bytes).ok());
        real.map_or(Vec::new(), |message| self.handle(InEvent::RecvMessage(peer, message), now))
    }

    pub(super) fn tick(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
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
        let mut steps = Vec::new();
        for out in self.state.handle(event, self.base + now, None) {
            match out {
                OutEvent::SendMessage(to, message) => {
                    let frame = overlay_frame(|bytes| postcard::to_extend(&message, bytes).ok());
                    steps.extend(frame.map(|bytes| Step::Send(to, bytes)));
                }
                OutEvent::ScheduleTimer(wait, timer) => {
                    self.timers.insert((now + wait, self.timers_made), timer);
                    self.timers_made += 1;
                }
                OutEvent::EmitEvent(_, Event::NeighborUp(peer)) => {
                    self.neighbours.insert(peer);
                    steps.push(Step::NeighbourUp(peer));
                }
                OutEvent::EmitEvent(_, Event::NeighborDown(peer)) => {
                    self.neighbours.remove(&peer);
                    steps.push(Step::NeighbourDown(peer));
                }
                OutEvent::DisconnectPeer(peer) => steps.push(Step::Unneeded(peer)),
                OutEvent::EmitEvent(_, Event::Received(_)) | OutEvent::PeerData(..) => {}
            }
        }
        steps
    }
}

fn config() -> Config {
    Config {
        broadcast: PlumtreeConfig {
            // Its caches stay empty.
            cache_evict_interval: Duration::from_secs(3_600),
            ..PlumtreeConfig::default()
        },
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_worn_state_is_renewed_and_asks_its_neighbours_again() {
        let rng = || StdRng::from_seed([1; 32]);
        let (me, peer) = (NodeKey([1; 32]), NodeKey([2; 32]));
        let mut overlay = Overlay::new(me, MeshId([7; 32]), Instant::now(), rng(), Duration::ZERO);
        let join = mirror::decode(&[&[7; 32][..], &[0, 0, 0]].concat())
            .map(|join| overlay.receive(peer, &join, Duration::ZERO));
        assert!(join.is_some() && overlay.neighbours().contains(&peer));
        for n in 0..=MOST_LOST {
            let mut stranger = NodeKey([3; 32]);
            stranger.0[..8].copy_from_slice(&n.to_be_bytes());
            overlay.disconnected(stranger, Duration::ZERO);
        }
        assert!(overlay.is_worn());
        let steps = overlay.renew(rng(), Duration::from_secs(1));
        assert!(!overlay.is_worn() && overlay.neighbours().is_empty());
        let down = |step: &Step| matches!(step, Step::NeighbourDown(key) if *key == peer);
        assert_eq!(steps.iter().filter(|step| down(step)).count(), 1);
        assert!(steps.iter().any(|step| matches!(step, Step::Send(to, _) if *to == peer)));
    }
}
