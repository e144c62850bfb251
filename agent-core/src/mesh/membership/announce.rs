//! When this node speaks of itself.

use std::time::Duration;

use agent_api::mesh::{AnnouncedModel, Announcement};
use rand::{RngExt as _, rngs::StdRng};

use super::limits::{Rate, TokenBucket};

/// What an author allows itself: less than others grant it ([`super::limits::AUTHOR`]), and in a
/// large mesh less, see [`own_rate`].
const OWN: Rate = Rate { burst: 4.0, per_s: 0.2 };
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(120);
/// Records that all nodes together send, per second: what each of them receives.
const RECORDS_PER_S: u64 = 20;
/// Between a change that others should know of and its announcement: models come and go together.
const SOON: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Announcer {
    pub(super) says: Announcement,
    pub(super) next: Duration,
    /// The next one should reach everybody at once.
    pub(super) urgent: bool,
    bucket: TokenBucket,
}

impl Announcer {
    pub(super) fn new(says: Announcement, now: Duration) -> Self {
        Self { says, next: now, urgent: true, bucket: TokenBucket::full(OWN, now) }
    }

    /// Remembers; announces soon what others would decide by.
    pub(super) fn say(&mut self, says: Announcement, now: Duration) {
        if is_important(&self.says, &says) {
            self.soon(now);
        }
        self.says = says;
    }

    pub(super) fn soon(&mut self, now: Duration) {
        self.next = self.next.min(now + SOON);
        self.urgent = true;
    }

    /// In another mesh nobody has heard of this node. It speaks at once: the peers that it meets
    /// first ask for its record, and ask once.
    pub(super) fn start_over(&mut self, now: Duration) {
        self.bucket = TokenBucket::full(OWN, now);
        self.next = now;
        self.urgent = true;
    }

    /// True: it is time, and one announcement is accounted for.
    pub(super) fn is_due(&mut self, now: Duration, others: usize) -> bool {
        if self.next > now {
            return false;
        }
        let allowed = self.bucket.take(own_rate(others), 1.0, now);
        if !allowed {
            self.next = now + Duration::from_secs(1);
        }
        allowed
    }

    pub(super) fn done(&mut self, every: Duration, now: Duration, rng: &mut StdRng) {
        self.next = now + every.mul_f64(rng.random_range(0.9..1.1));
        self.urgent = false;
    }
}

/// Time between two announcements in a mesh with so many others.
pub(super) fn interval(others: usize) -> Duration {
    let others = u64::try_from(others).unwrap_or(u64::MAX);
    Duration::from_millis(others.saturating_mul(1000) / RECORDS_PER_S).clamp(SHORTEST, LONGEST)
}

/// However much happens everywhere: twice what the nodes send when nothing does. Nonces, and what
/// the broadcast holds, have room for that many.
fn own_rate(others: usize) -> Rate {
    let busiest = 2.0 / interval(others).as_secs_f64();
    Rate { per_s: busiest.min(OWN.per_s), ..OWN }
}

/// A change that others decide by.
fn is_important(old: &Announcement, new: &Announcement) -> bool {
    let same = |old: &AnnouncedModel, new: &AnnouncedModel| {
        old.id == new.id && old.resident == new.resident && old.shared == new.shared
    };
    old.serving != new.serving
        || old.name != new.name
        || old.seed != new.seed
        || old.relay != new.relay
        || old.models.len() != new.models.len()
        || !old.models.iter().zip(&new.models).all(|(old, new)| same(old, new))
}

#[cfg(test)]
mod tests {
    use super::{super::sim, *};

    #[test]
    fn a_node_never_hears_more_than_twenty_records_a_second() {
        for others in [0, 1, 31, 200, 1_000, 2_000, 2_400] {
            let every = interval(others).as_secs_f64();
            assert!(every >= 10.0);
            let per_s = f64::from(u32::try_from(others).expect("small")) / every;
            assert!(per_s <= 20.0 + 1e-9, "{per_s} records a second from {others} nodes");
        }
        assert_eq!(interval(4_096), LONGEST);
    }

    #[test]
    fn busy_nodes_of_a_large_mesh_hold_back() {
        assert!((own_rate(5).per_s - OWN.per_s).abs() < 1e-9);
        let mut announcer = Announcer::new(sim::announcement("busy"), Duration::ZERO);
        let mut said = 0;
        for second in 0..600 {
            let now = Duration::from_secs(second);
            announcer.soon(now);
            said += u32::from(announcer.is_due(now + SOON, 2_000));
        }
        // Its burst, and two for each interval of 100 s.
        assert!((14..=17).contains(&said), "{said} announcements in 10 minutes");
    }
}
