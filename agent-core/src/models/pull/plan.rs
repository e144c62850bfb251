//! Which bytes of a blob to ask for next: no IO, no clock, no sockets.
//!
//! Parts are handed out in order within a window after the hashed frontier, so that the hash
//! follows the download closely and there is no long pass over the file at the end. When nothing is
//! left to hand out, the slowest part is raced by a second connection: the last parts do not wait
//! for a connection that crawls.
//!
//! `now` is the time since the transfer began, without the time in which our own disk or bandwidth
//! limit was what everything waited for: it is the network that is judged here.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::extent::{Extent, PART_BYTES};
use crate::backoff::Backoff;

/// Connections at the same time on a good day.
pub(super) const CONNECTIONS: usize = 8;
/// A link as fast as this is filled by two, which keeps the bytes in order for the hash.
const FAST_BYTES_PER_S: f64 = 200e6;
const FAST_CONNECTIONS: usize = 2;
/// A bandwidth limit below this per connection starves some until the server drops them.
const LIMITED_BYTES_PER_S: u64 = 512 << 10;
/// Parts after the hashed frontier that may be open: 256 MiB, which the page cache holds.
pub(super) const WINDOW_PARTS: u64 = 32;
/// Waits of one part between its failures.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LAST_WAIT: Duration = Duration::from_secs(30);
/// Failures in a row without a byte in between, after which the whole pull waits.
const FAILURES_WITHOUT_PROGRESS: u32 = 6;
/// Failures of one part while others get through.
const FAILURES_OF_A_PART: u32 = 10;
/// Stalls of one part that are forgiven before they count as failures.
const FREE_STALLS: u32 = 5;
/// Parts without trouble after which one more connection is tried.
const PARTS_PER_STEP: u32 = 8;
/// A connection that was silent for so long is raced; also one that would need as long for what is
/// left although others were [`RACE_RATIO`] times as fast.
pub(super) const RACE_AFTER: Duration = Duration::from_secs(3);
const RACE_RATIO: f64 = 4.0;
/// Span over which the speed of all connections is measured.
const SPEED_SPAN: Duration = Duration::from_millis(250);

/// One connection of this transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ConnId(u64);

#[cfg(test)]
impl ConnId {
    pub(super) fn test(number: u64) -> Self {
        Self(number)
    }
}

/// Bytes to ask for: from `start` up to and without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub conn: ConnId,
    pub start: u64,
    pub end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Ask(Ask),
    /// Nothing to ask for until something arrives, is hashed, or this time has come.
    Wait(Option<Duration>),
    /// All bytes are here.
    Complete,
}

/// What to do with bytes that arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Leading bytes that are here already.
    pub skip: u64,
    /// Where the others belong.
    pub at: u64,
    /// How many others there are.
    pub keep: u64,
    /// Lost a race for the same part: drop it.
    pub drop: Option<ConnId>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The body ended; whether with all bytes is known here.
    Body,
    /// No bytes for the time that is allowed.
    Stalled,
    /// A failure that may pass.
    Failed,
    /// The server asks for less.
    Busy(Option<Duration>),
    /// We dropped it.
    Dropped,
}

/// The whole pull should wait: the server, the network or this part is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GiveUp;

#[derive(Debug)]
struct Conn {
    part: u64,
    /// Where its next byte belongs.
    position: u64,
    started: Duration,
    last_byte: Duration,
    bytes: u64,
}

impl Conn {
    fn rate(&self, now: Duration) -> f64 {
        self.bytes as f64 / now.saturating_sub(self.started).as_secs_f64().max(0.001)
    }
}

#[derive(Debug)]
struct Trouble {
    failures: u32,
    stalls: u32,
    backoff: Backoff,
    not_before: Duration,
}

#[derive(Debug)]
pub(super) struct Plan {
    extent: Extent,
    conns: HashMap<ConnId, Conn>,
    next_conn: u64,
    troubles: BTreeMap<u64, Trouble>,
    allowed: usize,
    clean_parts: u32,
    /// Since the last byte.
    failures: u32,
    /// The server asked to be left alone until then.
    quiet_until: Duration,
    limit: Option<u64>,
    /// Of connections that brought their part.
    finished_rate: Option<f64>,
    span_start: Duration,
    span_bytes: u64,
    fast: bool,
    race_after: Duration,
}

impl Plan {
    pub(super) fn new(extent: Extent) -> Self {
        Self {
            extent,
            conns: HashMap::new(),
            next_conn: 0,
            troubles: BTreeMap::new(),
            allowed: CONNECTIONS,
            clean_parts: 0,
            failures: 0,
            quiet_until: Duration::ZERO,
            limit: None,
            finished_rate: None,
            span_start: Duration::ZERO,
            span_bytes: 0,
            fast: false,
            race_after: RACE_AFTER,
        }
    }

    /// How long a connection may be slow before a second one races it.
    pub(super) fn race_after(self, race_after: Duration) -> Self {
        Self { race_after, ..self }
    }

    pub(super) fn extent(&self) -> &Extent {
        &self.extent
    }

    /// Bytes per second that all pulls may take.
    pub(super) fn set_limit(&mut self, limit: Option<u64>) {
        self.limit = limit;
    }

    /// The hash went on up to here; the window moves with it.
    pub(super) fn hashed(&mut self, frontier: u64) {
        self.extent.set_hashed(frontier);
    }

    fn wanted(&self) -> usize {
        let by_limit = self.limit.map_or(CONNECTIONS, |limit| {
            usize::try_from(limit / LIMITED_BYTES_PER_S).unwrap_or(CONNECTIONS).max(1)
        });
        let by_speed = if self.fast { FAST_CONNECTIONS } else { CONNECTIONS };
        self.allowed.min(by_limit).min(by_speed)
    }

    /// Call until it says `Wait` or `Complete`, after everything that happened.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        if self.extent.is_complete() {
            return Next::Complete;
        }
        if self.conns.len() >= self.wanted() {
            return Next::Wait(None);
        }
        if now < self.quiet_until {
            return Next::Wait(Some(self.quiet_until));
        }
        let first = self.extent.hashed() / PART_BYTES;
        let last = (first + WINDOW_PARTS).min(self.extent.part_count());
        let mut earliest: Option<Duration> = None;
        for part in first..last {
            if self.extent.has_part(part) || self.conns.values().any(|conn| conn.part == part) {
                continue;
            }
            let not_before = self.troubles.get(&part).map_or(now, |trouble| trouble.not_before);
            if not_before <= now {
                return Next::Ask(self.ask(part, now));
            }
            earliest = Some(earliest.map_or(not_before, |known| known.min(not_before)));
        }
        if let Some(part) = self.slowest(now) {
            return Next::Ask(self.ask(part, now));
        }
        let look_again = (!self.conns.is_empty()).then(|| now + Duration::from_secs(1));
        Next::Wait(match (earliest, look_again) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    fn ask(&mut self, part: u64, now: Duration) -> Ask {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let start = self.extent.start(part) + self.extent.got(part);
        let started = Conn { part, position: start, started: now, last_byte: now, bytes: 0 };
        self.conns.insert(conn, started);
        Ask { conn, start, end: self.extent.end(part) }
    }

    /// The part worth a second connection: silent, or far slower than others were.
    fn slowest(&self, now: Duration) -> Option<u64> {
        // With a limit of our own, slowness says nothing about a connection.
        if self.limit.is_some() {
            return None;
        }
        let alone = self.conns.values().filter(|conn| {
            self.conns.values().filter(|other| other.part == conn.part).count() == 1
        });
        let slow = alone.filter_map(|conn| {
            let left = (self.extent.end(conn.part) - conn.position) as f64;
            let rate = conn.rate(now);
            let needs = left / rate.max(1.0);
            let silent = now.saturating_sub(conn.last_byte) >= self.race_after;
            let old = now.saturating_sub(conn.started) >= self.race_after;
            let crawls = self.finished_rate.is_some_and(|usual| rate * RACE_RATIO < usual);
            let worth = silent || (old && crawls && needs > self.race_after.as_secs_f64());
            worth.then_some((conn.part, if silent { f64::MAX } else { needs }))
        });
        slow.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(part, _)| part)
    }

    /// Bytes arrived. More of them than were asked for end the connection with `Err`.
    pub(super) fn received(
        &mut self,
        id: ConnId,
        length: u64,
        now: Duration,
    ) -> Result<Taken, TooMuch> {
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(Taken::default()) };
        let (part, end) = (conn.part, conn.position + length);
        if end > self.extent.end(part) {
            return Err(TooMuch);
        }
        let here = self.extent.start(part) + self.extent.got(part);
        let at = here.clamp(conn.position, end);
        let skip = at - conn.position;
        (conn.position, conn.last_byte) = (end, now);
        conn.bytes += length;
        if length > 0 {
            self.failures = 0;
        }
        self.extent.add(at, end - at);
        self.measure(length, now);
        let complete = self.extent.has_part(part);
        let rival = self.conns.iter().find(|(other, conn)| conn.part == part && **other != id);
        let drop = rival.filter(|_| complete).map(|(other, _)| *other);
        Ok(Taken { skip, at, keep: end - at, drop })
    }

    fn measure(&mut self, length: u64, now: Duration) {
        self.span_bytes += length;
        let span = now.saturating_sub(self.span_start);
        if span < SPEED_SPAN {
            return;
        }
        let rate = self.span_bytes as f64 / span.as_secs_f64();
        // Slow again only when clearly so, or the number of connections would swing.
        self.fast = rate >= if self.fast { FAST_BYTES_PER_S / 2.0 } else { FAST_BYTES_PER_S };
        (self.span_start, self.span_bytes) = (now, 0);
    }

    /// Whether bytes of its part are still missing.
    pub(super) fn is_open(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.position < self.extent.end(conn.part))
    }

    /// A connection is over.
    pub(super) fn ended(&mut self, id: ConnId, end: End, now: Duration) -> Result<(), GiveUp> {
        let Some(conn) = self.conns.remove(&id) else { return Ok(()) };
        let complete = self.extent.has_part(conn.part);
        if complete {
            self.troubles.remove(&conn.part);
        }
        match end {
            End::Dropped => Ok(()),
            End::Body if conn.position == self.extent.end(conn.part) => {
                self.brought_its_part(&conn, now);
                Ok(())
            }
            _ if complete => Ok(()),
            End::Stalled => {
                let trouble = self.trouble(conn.part);
                trouble.stalls += 1;
                if trouble.stalls <= FREE_STALLS {
                    return Ok(());
                }
                self.failed(conn.part, now, None)
            }
            End::Body | End::Failed => self.failed(conn.part, now, None),
            End::Busy(wait) => {
                self.slow_down();
                let wait = wait.unwrap_or(FIRST_WAIT);
                self.quiet_until = self.quiet_until.max(now + wait);
                self.failed(conn.part, now, Some(wait))
            }
        }
    }

    fn brought_its_part(&mut self, conn: &Conn, now: Duration) {
        let rate = conn.rate(now);
        self.finished_rate =
            Some(self.finished_rate.map_or(rate, |known| 0.7 * known + 0.3 * rate));
        self.clean_parts += 1;
        if self.clean_parts >= PARTS_PER_STEP {
            self.clean_parts = 0;
            self.allowed = (self.allowed + 1).min(CONNECTIONS);
        }
    }

    fn slow_down(&mut self) {
        self.clean_parts = 0;
        self.allowed = (self.allowed / 2).max(1);
    }

    fn trouble(&mut self, part: u64) -> &mut Trouble {
        self.troubles.entry(part).or_insert_with(|| Trouble {
            failures: 0,
            stalls: 0,
            backoff: Backoff::new(FIRST_WAIT, LAST_WAIT),
            not_before: Duration::ZERO,
        })
    }

    fn failed(
        &mut self,
        part: u64,
        now: Duration,
        at_least: Option<Duration>,
    ) -> Result<(), GiveUp> {
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 {
            // Once is chance; again without a byte in between is the server's or the line's limit.
            self.slow_down();
        }
        let nothing_gets_through =
            self.failures >= FAILURES_WITHOUT_PROGRESS && self.conns.is_empty();
        let trouble = self.trouble(part);
        trouble.failures += 1;
        let wait = trouble.backoff.next_wait().max(at_least.unwrap_or_default());
        trouble.not_before = now + wait;
        let hopeless = trouble.failures >= FAILURES_OF_A_PART;
        if nothing_gets_through || hopeless { Err(GiveUp) } else { Ok(()) }
    }
}

/// A server sent more bytes than it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMuch;

#[cfg(test)]
mod tests;
