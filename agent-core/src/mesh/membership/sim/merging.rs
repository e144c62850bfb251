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

/// The owner of one of three computers that found each other invites somebody.
#[test]
fn after_an_invitation_no_member_lets_strangers_in_and_none_wants_to_leave() {
    let cards: Vec<_> = (1..=3).map(|id| (own_card(id, false), LanJoin::Automatic)).collect();
    let (mut sim, _guard) = lan(&cards);
    let one = |sim: &Sim| meshes(sim).len() == 1 && sim.is_one_view();
    assert!(sim.run_until_holds(Duration::from_secs(20), one).is_some());
    let home = sim.nodes[0].membership.card().clone();
    assert!(!home.settled);
    sim.command(0, Command::Enter(MeshCard { settled: true, ..home.clone() }));
    sim.run_for(Duration::from_secs(1));
    assert!(sim.nodes.iter().all(|node| node.membership.card().settled), "all of them know");
    let kept = MeshEvent::Entered(MeshCard { settled: true, ..home.clone() });
    assert!([1, 2].iter().all(|&n| sim.nodes[n].events.contains(&kept)), "and write it down");

    // A stranger with a mesh that sorts before and after theirs, and one that is settled itself.
    for (id, settled) in [(0, false), (250, false), (251, true)] {
        let stranger = sim.add(own_card(id, settled), LanJoin::Automatic);
        for member in 0..3 {
            sim.found(stranger, member, SourceKind::Lan);
            sim.found(member, stranger, SourceKind::Lan);
        }
    }
    sim.run_for(Duration::from_secs(60));
    for member in 0..3 {
        assert_eq!(sim.nodes[member].membership.card().id, home.id);
    }
    for stranger in 3..6 {
        assert_ne!(sim.nodes[stranger].membership.card().id, home.id);
    }
    let asks = |peer: usize| MeshEvent::AsksToJoin { peer: sim.nodes[peer].key };
    assert!(sim.nodes[..3].iter().any(|node| node.events.contains(&asks(3))), "it may ask");
    let members_ask = (0..3).any(|n| sim.nodes[5].events.contains(&asks(n)));
    assert!(!members_ask, "who has company does not ask to leave it");
}

/// As a node that came back from an unsettled time: its neighbours tell it.
#[test]
fn a_member_that_was_away_learns_that_its_mesh_is_settled() {
    let cards =
        [(own_card(1, false), LanJoin::Automatic), (own_card(2, false), LanJoin::Automatic)];
    let (mut sim, _guard) = lan(&cards);
    let one = |sim: &Sim| meshes(sim).len() == 1 && sim.is_one_view();
    assert!(sim.run_until_holds(Duration::from_secs(20), one).is_some());
    sim.kill(1);
    let home = sim.nodes[0].membership.card().clone();
    sim.command(0, Command::Enter(MeshCard { settled: true, ..home }));
    sim.restart_with_saved(1);
    let settled = |sim: &Sim| sim.nodes[1].membership.card().settled;
    assert!(sim.run_until_holds(Duration::from_secs(30), settled).is_some());
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
