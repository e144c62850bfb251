//! Nodes on one LAN that start in meshes of their own.

use agent_api::mesh::{LanJoin, SourceKind};
use rand::RngExt as _;

use super::{Command, Duration, Input, MeshEvent, Sim, card, seed};
use crate::mesh::{MeshCard, MeshId};

fn own_card(id: u8, settled: bool) -> MeshCard {
    MeshCard { id: MeshId([id; 32]), name: format!("home {id}"), secret: Some([id; 32]), settled }
}

fn lan(cards: &[(MeshCard, LanJoin)]) -> (Sim, super::Seed) {
    let (seed, guard) = seed(31);
    let mut sim = Sim::new(seed);
    sim.on_lan = true;
    for (card, lan_join) in cards {
        let index = sim.add(card.clone(), *lan_join);
        for other in 0..index {
            sim.found(index, other, SourceKind::Lan);
            sim.found(other, index, SourceKind::Lan);
        }
    }
    (sim, guard)
}

fn meshes(sim: &Sim) -> Vec<MeshId> {
    let mut ids: Vec<_> = sim.nodes.iter().map(|node| node.membership.card().id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn new_nodes_on_one_network_become_one_mesh_by_themselves() {
    let cards: Vec<_> = (1..=4).map(|id| (own_card(id, false), LanJoin::Automatic)).collect();
    let (mut sim, _guard) = lan(&cards);
    let one = |sim: &Sim| meshes(sim).len() == 1 && sim.is_one_view();
    assert!(sim.run_until_holds(Duration::from_secs(20), one).is_some());
    let entered = |event: &MeshEvent| matches!(event, MeshEvent::Entered(_));
    let moved = sim.nodes.iter().filter(|node| node.events.iter().any(entered)).count();
    assert_eq!(moved, 3, "one mesh stays, and the driver of every other node saves the card");
}

#[test]
fn a_new_node_asks_a_settled_mesh_and_comes_in_when_the_owner_says_so() {
    let cards = [(own_card(1, true), LanJoin::Automatic), (own_card(2, false), LanJoin::Automatic)];
    let (mut sim, _guard) = lan(&cards);
    sim.run_for(Duration::from_secs(30));
    let peer = sim.nodes[1].key;
    assert!(sim.nodes[0].events.contains(&MeshEvent::AsksToJoin { peer }));
    assert_eq!(meshes(&sim).len(), 2, "nothing happens before the owner answers");
    assert!(sim.nodes[0].membership.nearby().any(|near| near.asks_to_join));
    sim.command(0, Command::Admit { peer, admit: true });
    sim.run_for(Duration::from_secs(5));
    assert_eq!(meshes(&sim), vec![MeshId([1; 32])]);
    assert!(sim.nodes[1].membership.card().settled);
    assert!(sim.is_one_view());
}

#[test]
fn settled_nodes_and_nodes_that_refuse_never_move() {
    for (a, b) in [
        ((own_card(1, true), LanJoin::Automatic), (own_card(2, true), LanJoin::Automatic)),
        ((own_card(1, false), LanJoin::Never), (own_card(2, false), LanJoin::Automatic)),
        ((own_card(1, false), LanJoin::Ask), (own_card(2, false), LanJoin::Automatic)),
    ] {
        let (mut sim, _guard) = lan(&[a, b]);
        sim.run_for(Duration::from_secs(60));
        assert_eq!(meshes(&sim).len(), 2);
    }
}

/// Twenty computers were just started, and a script gives nineteen of them one ticket.
#[test]
fn twenty_nodes_that_join_one_at_once_are_one_mesh_within_three_seconds() {
    let (first, _guard) = seed(1);
    for seed in first..first + 20 {
        let mut sim = Sim::new(seed);
        sim.add(card(), LanJoin::Never);
        for id in 1..20 {
            sim.add(own_card(id, false), LanJoin::Never);
        }
        for round in 0..4 {
            sim.run_for(Duration::from_millis(200));
            for index in 0..20 {
                // The driver learns its addresses one after another.
                let mut addresses = Sim::address_of(index);
                if round % 2 == 0 {
                    addresses.direct.push(([192, 168, 7, 7], 4302).into());
                }
                sim.input(index, Input::OwnAddresses(addresses));
            }
        }
        for index in 1..20 {
            sim.command(index, Command::Enter(card()));
            sim.found(index, 0, SourceKind::Ticket);
            let gap = sim.rng.random_range(0..20);
            sim.run_for(Duration::from_millis(gap));
        }
        let within = Duration::from_secs(3);
        let one = |sim: &Sim| sim.is_one_view() && sim.is_symmetric();
        let took = sim.run_until_holds(within, one);
        assert!(took.is_some(), "seed {seed}: {:?}", sim.missing());
        sim.run_for(Duration::from_secs(10));
        assert!(one(&sim), "seed {seed}: it stays so");
    }
}
