//! Frames come in: which are read, which records are believed, and what they change.

use std::{sync::Arc, time::Duration};

use super::{
    CLOCK_SKEW, Membership, Refusal, STRAYS,
    broadcast::{Copy, RecordId, Spread},
    directory::{GONE_AFTER, Offered, STALE_AFTER, key_prefix},
    io::{ConnId, MeshEvent},
    limits::{AUTHOR, BYTES, FRAMES},
    links::Phase,
    mirror::{self, Content},
    wire::{self, BadFrame, Frame, Passed, Talk, Wave},
};
use crate::mesh::{
    NodeKey,
    record::{Record, RecordError},
};

/// What it costs a peer to send too many records of its own, or one of them again; of
/// [`super::limits::OFFENCES`].
const REPEATS_ITSELF: f64 = 5.0;

/// How a record came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Just signed, as it says.
    Broadcast,
    /// From another node's table.
    Sync,
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::TooLarge => Self::TooLarge,
            RecordError::Malformed => Self::Malformed,
            RecordError::BadSignature => Self::BadSignature,
        }
    }
}

pub(super) fn skew_ms() -> i64 {
    i64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(i64::MAX)
}

impl Membership {
    pub(super) fn on_frame(&mut self, peer: NodeKey, id: ConnId, bytes: &[u8]) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&peer) else { return };
        let Some(conn) = link.conns.iter_mut().find(|conn| conn.id == id) else { return };
        conn.heard = now.mono;
        conn.pinged = None;
        let phase = conn.phase;
        link.seen_ms = Some(now.unix_ms);
        let length = f64::from(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let allowed =
            link.frames.take(FRAMES, 1.0, now.mono) && link.bytes.take(BYTES, length, now.mono);
        if !allowed {
            self.refuse(peer, Refusal::RateLimited);
            return;
        }
        match wire::decode(bytes) {
            Err(BadFrame::TooLarge) => self.refuse(peer, Refusal::TooLarge),
            Err(BadFrame::Malformed) => self.refuse(peer, Refusal::Malformed),
            Ok(Frame::Talk(Talk::Hello(hello))) => self.on_hello(peer, id, hello),
            Ok(frame) => match phase {
                // Nothing but a hello counts before the handshake.
                Phase::Greeting => self.refuse(peer, Refusal::NotAMember),
                Phase::Visiting => self.on_visitor_frame(peer, id, frame),
                Phase::Up => self.on_member_frame(peer, id, frame),
            },
        }
    }

    fn on_member_frame(&mut self, peer: NodeKey, id: ConnId, frame: Frame<'_>) {
        match frame {
            Frame::Overlay(message) => self.on_overlay(peer, message),
            Frame::Wave(wave) => self.on_wave(peer, &wave),
            Frame::Records { more, records } => self.on_records(peer, more, &records),
            // Over the connection that is asked about.
            Frame::Talk(Talk::Ping(stamp)) => self.send_to(peer, id, &Talk::Pong(stamp)),
            Frame::Talk(Talk::Pong(_)) => {}
            Frame::Talk(Talk::Digest(digest)) => self.on_digest(peer, &digest),
            Frame::Talk(Talk::Differ(differ)) => self.on_differ(peer, &differ),
            Frame::Talk(Talk::Want(prefixes)) => self.on_want(peer, &prefixes),
            // From the time before it moved to this mesh.
            Frame::Talk(Talk::Ask | Talk::Card(_) | Talk::Denied) => {}
            Frame::Talk(Talk::Settled) => self.hear_settled(),
            Frame::Talk(Talk::Hello(_)) => self.refuse(peer, Refusal::Malformed),
        }
    }

    fn on_overlay(&mut self, peer: NodeKey, bytes: &[u8]) {
        let Some(mut message) = mirror::decode(bytes) else {
            self.refuse(peer, Refusal::Malformed);
            return;
        };
        if message.topic != *self.overlay.topic() {
            self.refuse(peer, Refusal::ForeignMesh);
            return;
        }
        let Content::Swarm(swarm) = &mut message.content;
        swarm.strip();
        let steps = self.overlay.receive(peer, &message, self.now.mono);
        self.carry_out(steps);
    }

    fn on_wave(&mut self, peer: NodeKey, wave: &Wave<'_>) {
        // From anybody else it is no part of the broadcast; what it says comes by anti-entropy.
        if !self.overlay.neighbours().contains(&peer) {
            self.tell_stray(peer);
            return;
        }
        for record in &wave.records {
            self.on_passed(peer, record);
        }
        self.broadcast.on_have(peer, &wave.have, self.now.mono);
        self.broadcast.on_want(peer, &wave.want);
    }

    /// A peer that takes this node for a neighbour is wrong, or about to hear so: it would spend one
    /// of its few places on it for nothing.
    fn tell_stray(&mut self, peer: NodeKey) {
        if self.strays.take(STRAYS, 1.0, self.now.mono)
            && let Some(bytes) = self.overlay.farewell()
        {
            self.send(peer, bytes);
        }
    }

    fn on_passed(&mut self, peer: NodeKey, passed: &Passed<'_>) {
        let now = self.now.mono;
        let id = RecordId::of(blake3::hash(passed.bytes).as_bytes());
        match self.broadcast.copy(&id, &peer, now) {
            Some(Copy::FromAnother) => return,
            Some(Copy::Replayed) => return self.count(Refusal::Replayed),
            None if self.broadcast.was_refused(&id) => return,
            None => {}
        }
        match self.believe(peer, passed.bytes) {
            Ok(record) => {
                let hops = passed.hops.saturating_add(1);
                let (bytes, urgent) = (record.bytes.clone(), passed.urgent);
                let spread = Spread { id, bytes, hops, urgent };
                self.broadcast.spread(spread, Some(peer), self.directory.present(), now);
            }
            Err(refusal) => {
                self.broadcast.refuse(id, now);
                if refusal == Refusal::RateLimited {
                    // The author's rate or a full table: whoever passes it on cannot know.
                    self.count(refusal);
                } else {
                    self.refuse(peer, refusal);
                }
            }
        }
    }

    /// Checks a broadcast record and takes it in.
    fn believe(&mut self, peer: NodeKey, bytes: &[u8]) -> Result<Arc<Record>, Refusal> {
        let now = self.now.mono;
        let record = self.crypto.open(bytes)?;
        let author = record.author();
        self.check_and_note(&record, Route::Broadcast)?;
        let nonce = (key_prefix(&author), record.body.nonce);
        self.nonces.expire(now);
        if self.nonces.contains(&nonce) {
            // An author may send two records with one nonce to two peers: neither of them is to
            // pay for what it passes on in good faith.
            if author == peer {
                self.offence(peer, REPEATS_ITSELF);
            }
            return Err(Refusal::Replayed);
        }
        if author == self.me {
            self.on_own_record(&record)?;
            return Ok(record);
        }
        let offered = self.directory.judge(&record, now);
        if offered == Offered::Older {
            return Err(Refusal::Expired);
        }
        if let Some(entry) = self.directory.get_mut(&author)
            && !entry.rate.take(AUTHOR, 1.0, now)
        {
            if author == peer {
                self.offence(peer, REPEATS_ITSELF);
            }
            return Err(Refusal::RateLimited);
        }
        if offered != Offered::Same && !self.take_in(Arc::clone(&record), now, offered) {
            return Err(Refusal::RateLimited);
        }
        if offered == Offered::New && !record.body.goodbye {
            self.event(MeshEvent::PeerNew { peer: author });
        }
        self.nonces.insert(nonce, now);
        self.note_right_clock(author);
        Ok(record)
    }

    fn check_and_note(&mut self, record: &Record, route: Route) -> Result<(), Refusal> {
        let outcome = self.check(record, route);
        if outcome == Err(Refusal::ClockSkew) {
            self.note_wrong_clock(record);
        }
        outcome
    }

    /// What holds for every record, however it came.
    fn check(&self, record: &Record, route: Route) -> Result<(), Refusal> {
        if record.body.mesh != self.card.id {
            return Err(Refusal::ForeignMesh);
        }
        if self.blocked.contains(&record.author()) {
            return Err(Refusal::Blocked);
        }
        let age = self.now.unix_ms.saturating_sub(record.at_ms());
        if age < -skew_ms() {
            return Err(Refusal::ClockSkew);
        }
        match route {
            Route::Broadcast if age > skew_ms() => Err(Refusal::ClockSkew),
            // Gone, even if its clock is as wrong as it may be.
            Route::Sync if age > record.every_ms() * i64::from(GONE_AFTER) + skew_ms() => {
                Err(Refusal::Expired)
            }
            Route::Broadcast | Route::Sync => Ok(()),
        }
    }

    /// A record with this node's own key came back.
    fn on_own_record(&mut self, record: &Record) -> Result<(), Refusal> {
        let at_ms = record.at_ms();
        if record.body.instance == self.instance || at_ms <= self.own_until_ms {
            // An echo, or from before the last start.
            return Err(Refusal::Expired);
        }
        // This clock may be behind what it was before the start. A twin speaks again after this
        // node has said something newer; the past does not.
        let is_answered = self.last_at_ms > self.own_until_ms;
        if at_ms > self.last_at_ms && !(self.caught_up && is_answered) {
            self.caught_up = true;
            self.own_until_ms = at_ms;
            self.last_at_ms = at_ms;
            self.announcer.soon(self.now.mono);
            return Err(Refusal::Expired);
        }
        if self.duplicate.replace(self.now.mono).is_none() {
            self.event(MeshEvent::DuplicateIdentity);
        }
        // The others should hear of it too: they see two computers take turns.
        Ok(())
    }

    /// Puts a believed record into the directory. False: it is full.
    fn take_in(&mut self, record: Arc<Record>, heard: Duration, offered: Offered) -> bool {
        let now = self.now.mono;
        let author = record.author();
        let goodbye = record.body.goodbye;
        let was_there = self.directory.contains(&author);
        let addresses_changed = self
            .directory
            .get(&author)
            .is_none_or(|entry| entry.record.body.addresses != record.body.addresses);
        let (links, trusted) = (&self.links, &self.trusted);
        let keep = |key: &NodeKey| trusted.contains(key) || links.is_up(key);
        match self.directory.insert(record, heard, now, keep) {
            Err(_) => return false,
            Ok(Some(peer)) => self.event(MeshEvent::PeerGone { peer, said_goodbye: false }),
            Ok(None) => {}
        }
        if goodbye {
            self.links.is_elsewhere(&author);
            if was_there {
                self.event(MeshEvent::PeerGone { peer: author, said_goodbye: true });
            }
            return true;
        }
        self.event(MeshEvent::PeerChanged { peer: author });
        if addresses_changed && self.links.is_up(&author) {
            self.save(author);
        }
        // In a large mesh a new node is no reason to connect, unless something waits for it; and
        // what is missing is looked for every second anyway.
        let wanted = self.is_small() || self.links.get(&author).is_some();
        self.replan |= wanted && (offered == Offered::New || addresses_changed);
        true
    }

    /// One record of an anti-entropy answer. `Ok(true)`: it told of a node that was missed.
    pub(super) fn learn(&mut self, bytes: &[u8]) -> Result<bool, Refusal> {
        let now = self.now.mono;
        let record = self.crypto.open(bytes)?;
        self.check_and_note(&record, Route::Sync)?;
        if record.author() == self.me {
            self.on_own_record(&record)?;
            return Ok(false);
        }
        let offered = self.directory.judge(&record, now);
        let missed = match offered {
            Offered::Same | Offered::Older => return Ok(false),
            Offered::New | Offered::Full => !record.body.goodbye,
            Offered::Newer { was_stale } => was_stale,
        };
        // How old it is by both clocks; at most just stale, because they may differ.
        let age = u64::try_from(self.now.unix_ms.saturating_sub(record.at_ms())).unwrap_or(0);
        let every = u64::try_from(record.every_ms()).unwrap_or(0);
        let age = Duration::from_millis(age.min(every * u64::from(STALE_AFTER)));
        let fits = self.take_in(record, now.saturating_sub(age), offered);
        Ok(missed && fits)
    }
}
