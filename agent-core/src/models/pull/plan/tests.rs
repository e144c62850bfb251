//! A simulated network around the plan: connections that crawl, break and stall, and a node that
//! dies. proptest prints the seed of a run that fails.

use proptest::prelude::*;

use super::*;

const TOTAL: u64 = 40 * PART_BYTES + 12_345;

/// What the network does next, to a connection picked by the number.
#[derive(Clone, Copy, Debug)]
enum Step {
    Bytes(usize, u64),
    Break(usize),
    Stall(usize),
    Busy(usize),
    EndEarly(usize),
    Time(u64),
    Hash,
    /// kill -9: what was not saved is lost.
    Crash,
    Save,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (any::<usize>(), 1..PART_BYTES).prop_map(|(conn, n)| Step::Bytes(conn, n)),
        20 => any::<usize>().prop_map(|conn| Step::Bytes(conn, PART_BYTES)),
        2 => any::<usize>().prop_map(Step::Break),
        1 => any::<usize>().prop_map(Step::Stall),
        1 => any::<usize>().prop_map(Step::Busy),
        1 => any::<usize>().prop_map(Step::EndEarly),
        4 => (1u64..40_000).prop_map(Step::Time),
        8 => Just(Step::Hash),
        1 => Just(Step::Crash),
        4 => Just(Step::Save),
    ]
}

struct Simulation {
    plan: Plan,
    now: Duration,
    open: BTreeMap<ConnId, Ask>,
    saved: Extent,
    gave_up: u32,
}

impl Simulation {
    fn new() -> Self {
        let extent = Extent::new(TOTAL);
        Self {
            plan: Plan::new(extent.clone()),
            now: Duration::ZERO,
            open: BTreeMap::new(),
            saved: extent,
            gave_up: 0,
        }
    }

    fn hand_out(&mut self) {
        while let Next::Ask(ask) = self.plan.next(self.now) {
            let extent = self.plan.extent();
            let part = ask.start / PART_BYTES;
            assert!(ask.start < ask.end && ask.end <= extent.end(part), "{ask:?}");
            assert_eq!(ask.start, extent.start(part) + extent.got(part), "asks for what is here");
            let window = extent.hashed() / PART_BYTES + WINDOW_PARTS;
            assert!(part < window, "part {part} is beyond the window {window}");
            self.open.insert(ask.conn, ask);
            assert!(self.open.len() <= CONNECTIONS);
            let same = self.open.values().filter(|other| other.start / PART_BYTES == part);
            assert!(same.count() <= 2, "more than one rival");
        }
    }

    fn pick(&self, n: usize) -> Option<ConnId> {
        let count = self.open.len();
        (count > 0).then(|| self.open.keys().nth(n % count).copied()).flatten()
    }

    fn bytes(&mut self, conn: ConnId, length: u64) {
        let ask = self.open[&conn];
        let length = length.min(ask.end - ask.start);
        let before = self.plan.extent().done();
        let taken = self.plan.received(conn, length, self.now).expect("not too much");
        assert_eq!(taken.skip + taken.keep, length);
        assert_eq!(self.plan.extent().done(), before + taken.keep, "counted what was kept");
        self.open.insert(conn, Ask { start: ask.start + length, ..ask });
        if let Some(loser) = taken.drop {
            self.end(loser, End::Dropped);
        }
        if ask.start + length == ask.end {
            self.end(conn, End::Body);
        }
    }

    fn end(&mut self, conn: ConnId, end: End) {
        self.open.remove(&conn);
        if self.plan.ended(conn, end, self.now).is_err() {
            self.gave_up += 1;
            self.restart(self.plan.extent().clone());
        }
    }

    fn restart(&mut self, extent: Extent) {
        self.open.clear();
        self.plan = Plan::new(extent);
        self.now = Duration::ZERO;
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Bytes(n, length) => {
                if let Some(conn) = self.pick(n) {
                    self.bytes(conn, length);
                }
            }
            Step::Break(n) | Step::Stall(n) | Step::Busy(n) | Step::EndEarly(n) => {
                let end = match step {
                    Step::Break(_) => End::Failed,
                    Step::Stall(_) => End::Stalled,
                    Step::Busy(_) => End::Busy(Some(Duration::from_secs(3))),
                    _ => End::Body,
                };
                if let Some(conn) = self.pick(n) {
                    self.end(conn, end);
                }
            }
            Step::Time(millis) => self.now += Duration::from_millis(millis),
            Step::Hash => self.plan.hashed(self.plan.extent().contiguous()),
            Step::Save => self.saved = self.plan.extent().clone(),
            Step::Crash => self.restart(self.saved.clone()),
        }
        self.hand_out();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whatever_the_network_does_all_bytes_arrive_once_it_behaves(
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut simulation = Simulation::new();
        simulation.hand_out();
        for step in steps {
            simulation.run(step);
        }
        for round in 0.. {
            prop_assert!(round < 10_000, "does not come to an end");
            simulation.plan.hashed(simulation.plan.extent().contiguous());
            match simulation.plan.next(simulation.now) {
                Next::Complete => break,
                Next::Ask(ask) => { simulation.open.insert(ask.conn, ask); }
                Next::Wait(_) => match simulation.pick(round) {
                    Some(conn) => simulation.bytes(conn, PART_BYTES),
                    None => simulation.now += Duration::from_secs(1),
                },
            }
        }
        prop_assert_eq!(simulation.plan.extent().done(), TOTAL);
    }
}

fn asks(plan: &mut Plan, now: Duration) -> Vec<Ask> {
    let mut asks = Vec::new();
    while let Next::Ask(ask) = plan.next(now) {
        asks.push(ask);
    }
    asks
}

#[test]
fn a_connection_that_crawls_at_the_end_is_raced_from_where_it_is() {
    let mut plan = Plan::new(Extent::new(2 * PART_BYTES));
    let open = asks(&mut plan, Duration::ZERO);
    assert_eq!(open.len(), 2);
    let second = Duration::from_secs(1);
    plan.received(open[0].conn, PART_BYTES, second).expect("fits");
    plan.ended(open[0].conn, End::Body, second).expect("goes on");
    plan.received(open[1].conn, 1_000, second).expect("fits");
    assert_eq!(asks(&mut plan, second), [], "not yet");
    let later = Duration::from_secs(60);
    let rival = asks(&mut plan, later);
    assert_eq!(rival.len(), 1);
    assert_eq!((rival[0].start, rival[0].end), (PART_BYTES + 1_000, 2 * PART_BYTES));
    let taken = plan.received(rival[0].conn, PART_BYTES - 1_000, later).expect("fits");
    assert_eq!(taken.drop, Some(open[1].conn));
    assert_eq!(plan.next(later), Next::Complete);
}

#[test]
fn a_server_that_asks_for_less_gets_less_and_later_more() {
    let mut plan = Plan::new(Extent::new(100 * PART_BYTES));
    let open = asks(&mut plan, Duration::ZERO);
    assert_eq!(open.len(), CONNECTIONS);
    let now = Duration::from_secs(1);
    let wait = Duration::from_secs(10);
    plan.ended(open[7].conn, End::Busy(Some(wait)), now).expect("goes on");
    for ask in &open[..7] {
        plan.received(ask.conn, PART_BYTES, now).expect("fits");
        plan.ended(ask.conn, End::Body, now).expect("goes on");
    }
    assert_eq!(asks(&mut plan, now + Duration::from_secs(5)), [], "as long as it asked for");
    assert_eq!(asks(&mut plan, now + wait).len(), CONNECTIONS / 2);
}

#[test]
fn when_nothing_gets_through_the_whole_pull_waits_but_one_stall_is_no_failure() {
    let mut plan = Plan::new(Extent::new(PART_BYTES));
    let mut now = Duration::ZERO;
    let mut tries = 0;
    loop {
        let Next::Ask(ask) = plan.next(now) else {
            now += Duration::from_secs(1);
            continue;
        };
        tries += 1;
        if plan.ended(ask.conn, End::Stalled, now).is_err() {
            break;
        }
    }
    assert_eq!(tries, FREE_STALLS + FAILURES_WITHOUT_PROGRESS);
}

#[test]
fn a_bandwidth_limit_needs_fewer_connections() {
    let mut plan = Plan::new(Extent::new(100 * PART_BYTES));
    plan.set_limit(Some(1_000));
    assert_eq!(asks(&mut plan, Duration::ZERO).len(), 1);
    plan.set_limit(None);
    assert_eq!(asks(&mut plan, Duration::ZERO).len(), CONNECTIONS - 1);
}
