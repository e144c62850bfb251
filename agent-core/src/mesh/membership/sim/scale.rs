//! The bounds of the issue: how fast, how often, how much.

use super::{Duration, Sim, seed};
use crate::mesh::membership::announce::interval;

/// Per node and minute, however large the mesh is: a record of each of the others every 100 s would
/// be twice that.
const MOST_FRAMES: f64 = 600.0;

#[derive(Debug)]
struct Measured {
    slowest_ms: u128,
    mean_ms: u128,
    missed: usize,
    redundancy: f64,
    /// Likewise, of urgent records only.
    urgent_redundancy: f64,
    /// Sent per node and minute while nobody has news.
    frames: f64,
    kib: f64,
}

/// Frames per node and minute if everybody sent its records to everybody else.
fn full_broadcast(nodes: usize) -> f64 {
    (nodes as f64 - 1.0) * 60.0 / interval(nodes - 1).as_secs_f64()
}

/// Follows records of random authors through a mesh that has warmed up.
fn measure(sim: &mut Sim, rounds: u16) -> Measured {
    let before = traffic(sim);
    let (mut slowest, mut sum, mut missed) = (0, 0, 0);
    for round in 0..rounds {
        let author = (usize::from(round) * 7_919 + 3) % sim.nodes.len();
        sim.publish(author, 1_000 + round);
        sim.run_for(Duration::from_secs(3));
        let watch = sim.watch.take().expect("publish watches");
        let published = watch.published.expect("the record was signed");
        missed += sim.nodes.len() - 1 - watch.arrived.len();
        let last = watch.arrived.values().max().map_or(0, |at| (*at - published).as_millis());
        slowest = slowest.max(last);
        sum += last;
    }
    let after = traffic(sim);
    let first = (after.1 - before.1) as f64;
    Measured {
        slowest_ms: slowest,
        mean_ms: sum / u128::from(rounds),
        missed,
        redundancy: (after.0 - before.0) as f64 / first - 1.0,
        urgent_redundancy: (after.2 - before.2) as f64 / (after.3 - before.3) as f64 - 1.0,
        frames: 0.0,
        kib: 0.0,
    }
}

/// Copies and first copies; those of urgent records.
fn traffic(sim: &Sim) -> (u64, u64, u64, u64) {
    sim.nodes.iter().fold((0, 0, 0, 0), |sum, node| {
        let traffic = node.membership.broadcast.traffic;
        (
            sum.0 + traffic.copies,
            sum.1 + traffic.first,
            sum.2 + traffic.urgent_copies,
            sum.3 + traffic.urgent_first,
        )
    })
}

fn sent(sim: &Sim) -> (u64, u64) {
    sim.nodes.iter().fold((0, 0), |sum, node| (sum.0 + node.frames_sent, sum.1 + node.bytes_sent))
}

fn report(sim: &mut Sim, rounds: u16) -> Measured {
    let nodes = sim.nodes.len();
    let (steps, wall) = (sim.steps, std::time::Instant::now());
    let mut measured = measure(sim, rounds);
    let before = sent(sim);
    let idle = Duration::from_secs(20);
    sim.run_for(idle);
    let after = sent(sim);
    let per_minute = 60.0 / idle.as_secs_f64() / nodes as f64;
    measured.frames = (after.0 - before.0) as f64 * per_minute;
    measured.kib = (after.1 - before.1) as f64 * per_minute / 1024.0;
    let Measured { slowest_ms, mean_ms, missed, redundancy, urgent_redundancy, frames, kib } =
        &measured;
    println!(
        "{nodes} nodes: last node after {mean_ms} ms (mean), {slowest_ms} ms (slowest); {missed} \
         missed; redundancy {redundancy:.2}, of urgent records {urgent_redundancy:.2}; \
         {frames:.0} frames and {kib:.0} KiB sent per node and minute; full broadcast: {:.0} \
         frames at the same interval, {:.0} at 10 s; {} steps in {:?}",
        full_broadcast(nodes),
        (nodes as f64 - 1.0) * 6.0,
        sim.steps - steps,
        wall.elapsed(),
    );
    measured
}

#[test]
fn a_hundred_nodes_hear_a_record_within_400_ms() {
    let (seed, _guard) = seed(100);
    let mut sim = Sim::new(seed);
    sim.grow(100, Duration::from_millis(50));
    sim.run_for(Duration::from_secs(30));
    assert!(sim.is_one_view());
    let measured = report(&mut sim, 20);
    assert_eq!(measured.missed, 0);
    assert!(measured.slowest_ms <= 400, "{measured:?}");
    assert!(measured.urgent_redundancy <= 0.5, "{measured:?}");
    assert!(measured.redundancy <= 0.5, "{measured:?}");
}

#[test]
fn two_hundred_nodes_hear_a_record_within_600_ms() {
    let (seed, _guard) = seed(200);
    let mut sim = Sim::new(seed);
    sim.grow(200, Duration::from_millis(20));
    sim.run_for(Duration::from_secs(30));
    assert!(sim.is_one_view());
    let measured = report(&mut sim, 8);
    assert_eq!(measured.missed, 0);
    assert!(measured.slowest_ms <= 600, "{measured:?}");
    assert!(measured.urgent_redundancy <= 0.5, "{measured:?}");
    assert!(measured.redundancy <= 0.5, "{measured:?}");
    assert!(measured.frames <= MOST_FRAMES, "{measured:?}");
    assert!(measured.frames < full_broadcast(200), "{measured:?}");
}

#[test]
#[ignore = "minutes in a debug build; cargo xtask test --long runs it"]
fn a_thousand_nodes_hear_a_record_within_800_ms() {
    let (seed, _guard) = seed(1_000);
    let mut sim = Sim::new(seed);
    let wall = std::time::Instant::now();
    sim.grow(1_000, Duration::from_millis(10));
    println!("grown in {:?}, {} steps", wall.elapsed(), sim.steps);
    sim.run_for(Duration::from_secs(40));
    println!("warm after {:?}, {} steps", wall.elapsed(), sim.steps);
    let measured = report(&mut sim, 6);
    assert_eq!(measured.missed, 0);
    assert!(measured.slowest_ms <= 800, "{measured:?}");
    assert!(measured.urgent_redundancy <= 0.5, "{measured:?}");
    assert!(measured.redundancy <= 0.5, "{measured:?}");
    assert!(measured.frames <= MOST_FRAMES, "{measured:?}");
}

#[test]
#[ignore = "minutes; cargo xtask test --long runs it"]
fn two_thousand_nodes_send_less_than_full_broadcast() {
    let (seed, _guard) = seed(2_000);
    let mut sim = Sim::new(seed);
    let wall = std::time::Instant::now();
    sim.grow(2_000, Duration::from_millis(5));
    println!("grown in {:?}, {} steps", wall.elapsed(), sim.steps);
    sim.run_for(Duration::from_secs(15));
    println!("warm after {:?}, {} steps", wall.elapsed(), sim.steps);
    let measured = report(&mut sim, 6);
    assert_eq!(measured.missed, 0);
    assert!(measured.urgent_redundancy <= 0.5, "{measured:?}");
    assert!(measured.redundancy <= 0.5, "{measured:?}");
    assert!(measured.frames <= MOST_FRAMES, "{measured:?}");
    assert!(measured.frames < full_broadcast(2_000), "{measured:?}");
}
