//! What happens to meshes.

use std::collections::BTreeSet;

use agent_api::mesh::{LanJoin, PathKind, SourceKind};
use rand::{Rng as _, RngExt as _};

use super::{Command, Duration, Input, MeshEvent, Sim, Weather, card, seed};
use crate::mesh::membership::sync::PERIOD;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn five_nodes_are_all_connected_within_two_seconds_and_notice_who_leaves() {
    let (seed, _guard) = seed(5);
    let mut sim = Sim::new(seed);
    sim.grow(5, Duration::from_millis(100));
    let took = sim.run_until_holds(2 * SECOND, |sim| {
        sim.is_one_view() && sim.nodes.iter().all(|node| node.membership.counts().connected == 4)
    });
    assert!(took.is_some(), "five nodes see and reach each other");

    let lost = sim.nodes[3].key;
    sim.kill(3);
    let noticed = |sim: &Sim| {
        let alive = sim.alive();
        alive.iter().all(|&index| {
            let down = |event: &MeshEvent| {
                matches!(event, MeshEvent::PeerDown { peer, .. } if *peer == lost)
            };
            sim.nodes[index].events.iter().any(down)
        })
    };
    assert!(sim.run_until_holds(15 * SECOND, noticed).is_some(), "a killed node is noticed");

    let left = sim.nodes[4].key;
    sim.command(4, Command::Shutdown);
    sim.run_for(SECOND);
    sim.nodes[4].alive = false;
    for index in [0, 1, 2] {
        let gone = MeshEvent::PeerGone { peer: left, said_goodbye: true };
        assert!(sim.nodes[index].events.contains(&gone), "goodbye is heard by {index}");
    }
    sim.run_for(120 * SECOND);
    for index in [0, 1, 2] {
        let gone = MeshEvent::PeerGone { peer: lost, said_goodbye: false };
        assert!(sim.nodes[index].events.contains(&gone), "the killed node fades at {index}");
        assert_eq!(sim.nodes[index].membership.counts().known, 2);
    }
}

#[test]
fn a_dead_peer_is_noticed_within_15_s_and_behind_a_relay_within_30_s() {
    let (seed, _guard) = seed(13);
    let mut sim = Sim::new(seed);
    for index in 0..5 {
        sim.add(card(), LanJoin::Automatic);
        sim.nodes[index].relayed = index == 4;
        if index > 0 {
            sim.found(index, 0, SourceKind::Seed);
        }
        sim.run_for(SECOND / 10);
    }
    sim.run_for(5 * SECOND);
    let (direct, relayed) = (sim.nodes[3].key, sim.nodes[4].key);
    let path = |sim: &Sim, from: usize, to| {
        sim.nodes[from].membership.peer(&to).and_then(|peer| peer.connections.first()?.path)
    };
    assert_eq!(path(&sim, 0, direct), Some(PathKind::Direct));
    assert_eq!(path(&sim, 0, relayed), Some(PathKind::Relay));
    let noticed = |sim: &Sim, who: &[usize], lost| {
        let down =
            |event: &MeshEvent| matches!(event, MeshEvent::PeerDown { peer, .. } if *peer == lost);
        who.iter().filter(|&&index| sim.nodes[index].events.iter().any(down)).count()
    };

    sim.kill(3);
    let killed = sim.now;
    let took = sim.run_until_holds(15 * SECOND, |sim| noticed(sim, &[0, 1, 2], direct) == 3);
    assert!(took.is_some(), "those with a direct path notice first");
    let left = killed + 30 * SECOND - sim.now;
    let took = sim.run_until_holds(left, |sim| noticed(sim, &[4], direct) == 1);
    assert!(took.is_some(), "and the one behind the relay");

    sim.kill(4);
    sim.run_for(15 * SECOND);
    assert_eq!(noticed(&sim, &[0, 1, 2], relayed), 0, "a relay may be gone for seconds");
    let took = sim.run_until_holds(15 * SECOND, |sim| noticed(sim, &[0, 1, 2], relayed) == 3);
    assert!(took.is_some(), "the death of a relayed peer is noticed");
}

#[test]
fn one_seed_gives_one_run() {
    let run = || {
        let mut sim = Sim::new(77);
        sim.weather = Weather { loss: 0.02, duplicates: 0.01, reorder: 0.01, resets: 0.0005 };
        sim.grow(30, Duration::from_millis(50));
        sim.run_for(20 * SECOND);
        (sim.steps, sim.trace)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_mesh_survives_churn_loss_wrong_clocks_and_strange_streams() {
    let (seed, _guard) = seed(60);
    let mut sim = Sim::new(seed);
    sim.weather = Weather { loss: 0.02, duplicates: 0.01, reorder: 0.01, resets: 0.0005 };
    for _ in 0..40 {
        let skew = sim.rng.random_range(-55_000..55_000);
        let index = sim.add(card(), LanJoin::Automatic);
        sim.nodes[index].skew_ms = skew;
        sim.restart(index);
        // Several: with a single one, which may die before it answers, a node stays alone.
        for _ in 0..3.min(index) {
            let first = sim.rng.random_range(0..index);
            sim.found(index, first, SourceKind::Ticket);
            sim.keep(index, first);
        }
        sim.run_for(SECOND / 10);
    }
    for _ in 0..30 {
        let index = sim.rng.random_range(0..40);
        if sim.nodes[index].alive {
            sim.kill(index);
        } else {
            sim.restart_with_saved(index);
        }
        let pause = sim.rng.next_u64() % 4_000;
        sim.run_for(Duration::from_millis(pause));
    }
    sim.weather = Weather::default();
    let one = |sim: &Sim| sim.is_one_view() && sim.is_symmetric();
    let took = sim.run_until_holds(2 * PERIOD, one);
    assert!(took.is_some(), "everybody who lives knows who lives: {:#?}", sim.missing());
}

fn heal(nodes: usize, apart: Duration) {
    let (seed, _guard) = seed(nodes as u64);
    let mut sim = Sim::new(seed);
    sim.grow(nodes, Duration::from_millis(50));
    sim.run_for(20 * SECOND);
    assert!(sim.is_one_view());
    for index in 0..nodes {
        sim.nodes[index].group = u8::from(index % 3 == 0);
    }
    sim.run_for(apart);
    for node in &mut sim.nodes {
        node.group = 0;
    }
    let took = sim.run_until_holds(2 * PERIOD, Sim::is_one_view);
    println!("{nodes} nodes, {apart:?} apart: one view after {took:?}");
    assert!(took.is_some(), "one view within two anti-entropy periods");
    // And they stay together.
    sim.run_for(60 * SECOND);
    assert!(sim.is_one_view());
    sim.publish(0, 4_711);
    sim.run_for(3 * SECOND);
    let arrived = sim.watch.take().expect("watched").arrived.len();
    assert_eq!(arrived, nodes - 1, "a record crosses what was the border");
}

#[test]
fn two_halves_of_a_small_mesh_become_one_view() {
    heal(6, 60 * SECOND);
    heal(6, 300 * SECOND);
}

#[test]
fn two_halves_of_a_large_mesh_become_one_view() {
    heal(80, 60 * SECOND);
    heal(80, 200 * SECOND);
}

#[test]
fn a_restarted_node_finds_its_mesh_by_a_saved_peer_without_the_seed() {
    let (seed, _guard) = seed(9);
    let mut sim = Sim::new(seed);
    sim.grow(6, SECOND / 10);
    sim.run_for(5 * SECOND);
    sim.kill(0);
    sim.kill(5);
    sim.run_for(20 * SECOND);
    sim.restart(5);
    sim.found(5, 0, SourceKind::Seed);
    sim.found(5, 3, SourceKind::Saved);
    let joined = |sim: &Sim| sim.nodes[5].membership.counts().connected == 4;
    assert!(sim.run_until_holds(3 * SECOND, joined).is_some());
}

#[test]
fn after_sleep_connections_are_replaced_before_they_are_given_up() {
    let (seed, _guard) = seed(11);
    let mut sim = Sim::new(seed);
    sim.grow(4, SECOND / 10);
    sim.run_for(5 * SECOND);
    // The old paths are dead, new ones work: every wire breaks without a word.
    sim.wires.clear();
    sim.nodes[1].events.clear();
    sim.input(1, Input::NetworkChanged);
    sim.run_for(6 * SECOND);
    let down = |event: &MeshEvent| matches!(event, MeshEvent::PeerDown { .. });
    assert!(!sim.nodes[1].events.iter().any(down), "no peer was lost: {:?}", sim.nodes[1].events);
    sim.run_for(20 * SECOND);
    assert_eq!(sim.nodes[1].membership.counts().connected, 3);
}

#[test]
fn a_node_whose_clock_is_wrong_is_told_and_the_others_see_it() {
    for (skew_ms, off_ms) in [(300_000, 300_000), (-300_000, -300_000)] {
        let (seed, _guard) = seed(14);
        let mut sim = Sim::new(seed);
        sim.grow(4, SECOND / 10);
        let wrong = sim.add(card(), LanJoin::Automatic);
        sim.nodes[wrong].skew_ms = skew_ms;
        sim.restart(wrong);
        sim.found(wrong, 0, SourceKind::Ticket);
        sim.run_for(30 * SECOND);
        let key = sim.nodes[wrong].key;
        assert_eq!(sim.nodes[wrong].membership.clock_off_ms(), Some(off_ms));
        let mut seen = 0;
        let way = if skew_ms > 0 { "5 minutes ahead" } else { "5 minutes behind" };
        // For as long as it is connected.
        sim.run_for(330 * SECOND);
        for index in 0..4 {
            let membership = &sim.nodes[index].membership;
            assert_eq!(membership.clock_off_ms(), None, "{index} has the right time");
            let Some(peer) = membership.peer(&key).filter(|_| membership.is_connected(&key)) else {
                continue;
            };
            assert!(peer.problem.is_some_and(|problem| problem.contains(way)), "at {index}");
            seen += 1;
        }
        assert!(seen > 0, "somebody is connected with it");

        sim.nodes[wrong].skew_ms = 0;
        sim.run_for(60 * SECOND);
        for node in &sim.nodes {
            assert_eq!(node.membership.clock_off_ms(), None);
            let problem = node.membership.peer(&key).and_then(|peer| peer.problem);
            assert_eq!(problem, None, "it has the right time now");
        }
    }
}

#[test]
fn two_computers_with_one_key_are_both_told() {
    let (seed, _guard) = seed(12);
    let mut sim = Sim::new(seed);
    sim.grow(4, SECOND / 10);
    sim.run_for(5 * SECOND);
    // The twin: another process with node 3's key. The network leads to whoever dialed last.
    let twin = sim.add(card(), LanJoin::Automatic);
    let key = sim.nodes[3].key;
    let own = sim.nodes[twin].key;
    sim.nodes[twin].membership = sim.membership(twin, key, card(), LanJoin::Automatic);
    sim.nodes[twin].key = key;
    sim.by_key.remove(&own);
    sim.found(twin, 0, SourceKind::Saved);
    sim.found(twin, 1, SourceKind::Saved);
    sim.run_for(40 * SECOND);
    let told: BTreeSet<_> = [3, twin]
        .into_iter()
        .filter(|&index| sim.nodes[index].events.contains(&MeshEvent::DuplicateIdentity))
        .collect();
    assert_eq!(told, BTreeSet::from([3, twin]));
    assert!(sim.nodes[3].membership.has_duplicate());
}
