//! Whose word on a blob counts, and whose does not.

use super::*;

#[derive(Debug)]
struct Named(&'static str, bool, u8);

impl Holder for Named {
    fn id(&self) -> &str {
        self.0
    }
    fn name(&self) -> &str {
        self.0
    }
    fn is_near(&self) -> bool {
        self.1
    }
    fn root(&self) -> [u8; 32] {
        [self.2; 32]
    }
    fn open(&self, _range: Range<u64>) -> Chunks {
        Box::pin(futures_util::stream::empty())
    }
}

const NOW: Duration = Duration::ZERO;

fn near(name: &'static str) -> Arc<dyn Holder> {
    Arc::new(Named(name, true, 1))
}

fn far(name: &'static str) -> Arc<dyn Holder> {
    Arc::new(Named(name, false, 1))
}

fn says(name: &'static str, root: u8) -> Arc<dyn Holder> {
    Arc::new(Named(name, true, root))
}

fn pool(found: Vec<Arc<dyn Holder>>) -> Pool {
    let mut pool = Pool::new(HashSet::new(), SLOW_AFTER);
    pool.admit(found);
    pool
}

/// Connections with numbers, each for a part of its own.
fn lease(pool: &mut Pool, conn: u64) -> Option<String> {
    let holder = pool.lease(ConnId::test(conn), conn * 100, NOW)?;
    Some(holder.id().to_owned())
}

fn ended(pool: &mut Pool, conn: u64, became: Became) {
    pool.ended(ConnId::test(conn), became, NOW);
}

#[test]
fn without_peers_the_registry_is_asked() {
    let mut pool = pool(vec![]);
    assert!(pool.wants_registry(NOW) && !pool.has_room(NOW) && !pool.registry_failed());
    assert_eq!(lease(&mut pool, 1), None);
}

#[test]
fn peers_on_this_network_come_first_and_alone() {
    let mut pool = pool(vec![far("far"), near("near"), near("other")]);
    assert!(!pool.wants_registry(NOW));
    let order: Vec<_> = (1..=4).map(|conn| lease(&mut pool, conn)).collect();
    let order: Vec<_> = order.iter().map(|id| id.as_deref().expect("has room")).collect();
    assert_eq!(order, ["near", "other", "near", "other"], "each one before any gets two");
    assert_eq!(lease(&mut pool, 5).as_deref(), Some("far"));
}

#[test]
fn far_peers_share_the_work_with_the_registry() {
    let mut pool = pool(vec![far("a"), far("b"), far("c"), far("d"), far("e")]);
    let asked = (1..=8).filter(|conn| lease(&mut pool, *conn).is_some()).count();
    assert_eq!(asked, FAR_CONNECTIONS, "the other connections are the registry's");
    assert!(pool.wants_registry(NOW) && !pool.has_room(NOW));
    assert!(pool.registry_failed());
    assert!(!pool.wants_registry(NOW) && pool.has_room(NOW), "now they get all");
}

#[test]
fn a_part_is_raced_by_somebody_else() {
    let mut pool = pool(vec![near("a"), near("b")]);
    let end = 100;
    let first = pool.lease(ConnId::test(1), end, NOW).expect("has room");
    let second = pool.lease(ConnId::test(2), end, NOW).expect("has room");
    assert_ne!(first.id(), second.id());
    assert!(pool.lease(ConnId::test(3), end, NOW).is_none(), "both have it: the registry races");
}

#[test]
fn slow_peers_on_this_network_are_joined_by_the_registry() {
    let mut pool = pool(vec![near("a")]);
    lease(&mut pool, 1).expect("has room");
    pool.received(ConnId::test(1), 1_000_000);
    let later = NOW + SLOW_AFTER;
    pool.measure(later, true);
    assert!(!pool.wants_registry(later), "our own limit says nothing about them");
    pool.received(ConnId::test(1), 1_000_000);
    pool.measure(later + SLOW_AFTER, false);
    assert!(pool.wants_registry(later + SLOW_AFTER));
    pool.received(ConnId::test(1), 1_000_000_000);
    pool.measure(later + 2 * SLOW_AFTER, false);
    assert!(!pool.wants_registry(later + 2 * SLOW_AFTER), "quick again");
}

#[test]
fn a_peer_that_fails_twice_is_left_alone_and_the_registry_asked_again() {
    let mut pool = pool(vec![near("a")]);
    assert!(pool.registry_failed());
    for conn in 1..=2 {
        assert!(pool.is_usable());
        lease(&mut pool, conn).expect("has room");
        ended(&mut pool, conn, Became::Failed);
    }
    assert!(!pool.is_usable() && pool.wants_registry(NOW));
    pool.admit(vec![near("a")]);
    assert!(!pool.is_usable(), "also when it is found again");
}

#[test]
fn a_failure_after_bytes_is_the_first_again() {
    let mut pool = pool(vec![near("a")]);
    for conn in 1..=10 {
        lease(&mut pool, conn).expect("has room");
        pool.received(ConnId::test(conn), 1);
        ended(&mut pool, conn, Became::Failed);
    }
    assert!(pool.is_usable());
}

#[test]
fn a_busy_peer_is_asked_later_and_not_for_ever() {
    let mut pool = pool(vec![near("a")]);
    assert!(pool.registry_failed());
    let mut now = NOW;
    for conn in 1..=u64::from(BUSY_TIMES) {
        assert!(pool.lease(ConnId::test(conn), 1, now).is_some());
        pool.ended(ConnId::test(conn), Became::Busy, now);
        assert!(!pool.has_room(now));
        now = pool.wakes_at(now).unwrap_or(now);
    }
    assert!(!pool.is_usable() && pool.wants_registry(now));
}

#[test]
fn what_most_say_about_the_hash_counts() {
    let mut pool = pool(vec![says("liar", 2), says("a", 1), says("b", 1)]);
    let asked: Vec<_> = (1..=4).filter_map(|conn| lease(&mut pool, conn)).collect();
    assert_eq!(asked, ["a", "b", "a", "b"]);
    // Who comes later has to agree with those that are being used.
    pool.admit(vec![says("x", 2), says("y", 2), says("z", 2)]);
    assert_eq!(pool.peers.len(), 2);
}

#[test]
fn a_liar_is_out_for_the_whole_pull() {
    let mut pool = pool(vec![near("a")]);
    lease(&mut pool, 1).expect("has room");
    ended(&mut pool, 1, Became::Lied);
    assert!(!pool.is_usable());
    let mut next = Pool::new(HashSet::from(["a".to_owned()]), SLOW_AFTER);
    next.admit(vec![near("a")]);
    assert!(!next.is_usable());
}

#[test]
fn no_more_peers_are_used_than_fill_a_link() {
    let names = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
    let pool = pool(names.into_iter().map(near).collect());
    assert_eq!(pool.peers.len(), MAX_HOLDERS);
}
