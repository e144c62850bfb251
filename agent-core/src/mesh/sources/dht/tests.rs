//! Slots as bytes, and DHT nodes with real sockets on this computer.

use mainline::MutableItem;
use proptest::prelude::*;

use super::{
    slot::{Entry, SLOTS, day_of, merge, salt, slot_of},
    *,
};
use crate::{
    clock::DAY_MS,
    mesh::{
        Addresses, MeshCard, NodeKey, SeedSetup,
        sources::{
            KnownPeer,
            tests::{PATIENCE, Rig, card, quiet, storage},
        },
    },
};

const NOW: i64 = 20_000 * DAY_MS;

fn secret(byte: u8) -> iroh::SecretKey {
    iroh::SecretKey::from_bytes(&[byte; 32])
}

fn addresses(list: &[&str]) -> Addresses {
    let direct = list.iter().map(|text| text.parse().expect("an address")).collect();
    Addresses { direct, relays: Vec::new() }
}

fn entry(shelf: &Shelf, byte: u8, at_ms: i64) -> Entry {
    let own = addresses(&["192.168.1.5:4302", "203.0.113.7:4302"]);
    shelf.own_entry(&secret(byte), &own, at_ms).expect("writes")
}

#[test]
fn an_entry_comes_back_with_the_public_address_first() {
    let shelf = Shelf::of(&card(1));
    let value = shelf.encode(vec![entry(&shelf, 1, NOW)]).expect("fits");
    let read = shelf.decode(&value, NOW + 1000);
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].key, NodeKey(*secret(1).public().as_bytes()));
    assert_eq!(read[0].addresses, addresses(&["203.0.113.7:4302", "192.168.1.5:4302"]));
}

#[test]
fn an_entry_that_was_changed_or_belongs_to_another_mesh_or_time_does_not_count() {
    let shelf = Shelf::of(&card(1));
    let value = shelf.encode(vec![entry(&shelf, 1, NOW)]).expect("fits");
    for at in 0..value.len() {
        let mut changed = value.clone();
        changed[at] ^= 1;
        assert!(shelf.decode(&changed, NOW).is_empty(), "byte {at}");
    }
    assert!(Shelf::of(&card(2)).decode(&value, NOW).is_empty(), "another mesh");
    assert!(shelf.decode(&value, NOW + DAY_MS + 1).is_empty(), "a day old");
    assert!(shelf.decode(&value, NOW - 121_000).is_empty(), "from the future");
    assert_eq!(shelf.decode(&value, NOW - 119_000).len(), 1, "clocks differ a little");
}

#[test]
fn a_private_meshs_items_cannot_be_found_by_its_id_alone() {
    let private = card(1);
    let public = MeshCard { secret: None, ..card(1) };
    let other = MeshCard { secret: Some([8; 32]), ..card(1) };
    let keys = [private, public, other].map(|card| Shelf::of(&card).public());
    assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
}

#[test]
fn a_full_slot_keeps_the_newest_that_fit_in_a_thousand_bytes() {
    let shelf = Shelf::of(&card(1));
    let many: Vec<Entry> = (1..=20).map(|n| entry(&shelf, n, NOW + i64::from(n))).collect();
    let value = shelf.encode(many).expect("fits");
    assert!(value.len() <= 1000, "{} bytes", value.len());
    let kept = shelf.decode(&value, NOW);
    assert_eq!(kept.len(), 5);
    assert!(kept.iter().all(|entry| entry.at_ms > NOW + 15), "the newest");
    // The longest that a node may announce: four IPv6 addresses and one long relay.
    let long = Addresses {
        direct: (1..9).map(|n| format!("[2001:db8::{n}]:65535").parse().expect("one")).collect(),
        relays: vec![format!("https://{}.example", "r".repeat(100))],
    };
    let longest: Vec<Entry> =
        (1..6).filter_map(|n| shelf.own_entry(&secret(n), &long, NOW)).collect();
    let value = shelf.encode(longest).expect("fits");
    assert!(value.len() <= 1000 && shelf.decode(&value, NOW).len() >= 2, "{}", value.len());
}

#[test]
fn of_one_node_the_newest_entry_counts() {
    let shelf = Shelf::of(&card(1));
    let merged = merge([entry(&shelf, 1, 5), entry(&shelf, 1, 9), entry(&shelf, 1, 7)]);
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].at_ms, 9);
}

proptest! {
    #[test]
    fn no_value_from_the_dht_breaks_the_reader(value in proptest::collection::vec(any::<u8>(), 0..1200)) {
        prop_assert!(Shelf::of(&card(1)).decode(&value, NOW).is_empty());
    }

    #[test]
    fn every_node_has_a_slot(key in any::<[u8; 32]>()) {
        prop_assert!(slot_of(NodeKey(key)) < SLOTS);
    }
}

fn on() -> agent_api::Settings {
    let mut settings = quiet();
    settings.mesh.dht = DhtUse::Seeds;
    settings
}

fn seed() -> SeedSetup {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    SeedSetup { relay: None, relay_url: None, dht: Some(any_port) }
}

/// A seed's record as another node knows it.
fn known(rig: &Rig) -> Arc<Vec<KnownPeer>> {
    Arc::new(vec![KnownPeer {
        key: rig.key,
        addresses: Addresses { direct: rig.endpoint.bound_sockets(), relays: Vec::new() },
        name: "seed".into(),
        seed: true,
        relay: None,
        dht_port: rig.sources.dht_port(),
        region: None,
        version: "0.1.0".into(),
        last_seen_ms: now_ms(),
    }])
}

async fn announced(rig: &Rig) {
    rig.until(KIND, |row| row.reason.contains("This node is announced")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_know_only_a_seeds_dht_find_each_other() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("temp dir"));
    let seed = Rig::start("seed", storage(&dirs[0]).await, on(), Some(seed())).await;
    announced(&seed).await;
    let stats = seed.sources.dht_stats();
    assert!(stats.server && stats.announcements == 1, "{stats:?}");
    let listed = seed.sources.coordinators().coordinators;
    assert_eq!(listed[0].dht, stats.address, "the list says where");

    let a = Rig::start("a", storage(&dirs[1]).await, on(), None).await;
    a.directory.send_replace(known(&seed));
    a.sources.look_now();
    announced(&a).await;

    let mut b = Rig::start("b", storage(&dirs[2]).await, on(), None).await;
    b.directory.send_replace(known(&seed));
    b.sources.look_now();
    let found = b.next_of(a.key).await;
    assert_eq!(found.source, SourceKind::Dht);
    assert_eq!(found.addresses.direct, a.endpoint.bound_sockets());
    // What it found is passed on before the round is over.
    announced(&b).await;
    let stats = b.sources.dht_stats();
    assert!(!stats.server && stats.found >= 1, "{stats:?}");
    // A node of another mesh finds nobody there.
    b.card.send_replace(card(2));
    b.until(KIND, |row| row.reason.contains("0 other nodes")).await;

    for rig in [seed, a, b] {
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_seeds_that_learn_of_each_other_later_are_one_dht() {
    let dirs = [(); 4].map(|()| tempfile::tempdir().expect("temp dir"));
    let one = Rig::start("one", storage(&dirs[0]).await, on(), Some(seed())).await;
    let two = Rig::start("two", storage(&dirs[1]).await, on(), Some(seed())).await;
    announced(&one).await;
    announced(&two).await;
    let first_port = two.sources.dht_port();
    two.directory.send_replace(known(&one));
    two.sources.look_now();
    // It starts anew with the other, on another port here, since the port is any.
    let mut changes = two.sources.changes();
    let renewed = async {
        while two.sources.dht_port() == first_port {
            changes.changed().await.expect("open");
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("in time");
    let a = Rig::start("a", storage(&dirs[2]).await, on(), None).await;
    a.directory.send_replace(known(&one));
    a.sources.look_now();
    announced(&a).await;
    let mut b = Rig::start("b", storage(&dirs[3]).await, on(), None).await;
    b.directory.send_replace(known(&two));
    b.sources.look_now();
    b.next_of(a.key).await;
    for rig in [one, two, a, b] {
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeds_dht_node_starts_anew_on_its_port() {
    let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = free.local_addr().expect("bound");
    drop(free);
    let stats = Mutex::new(Stats::default());
    let mut server = Server::new(address);
    server.look_after(&[], &stats).await.expect("starts");
    // Somebody else is known now, and it knows nobody.
    let other: SocketAddrV4 = "127.0.0.1:9".parse().expect("an address");
    server.look_after(&[other], &stats).await.expect("starts anew");
    assert_eq!(lock(&stats).server_port(), Some(address.port()));
    server.stop();
    server.look_after(&[other], &stats).await.expect("starts again");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let busy = taken.local_addr().expect("bound");
    let error = Server::new(busy).look_after(&[], &stats).await.expect_err("refused");
    assert!(error.to_string().contains(&busy.to_string()), "{error}");
    let v6 = "[::1]:8468".parse().expect("an address");
    let error = Server::new(v6).look_after(&[], &stats).await.expect_err("refused");
    assert!(error.to_string().contains("IPv4"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dht_that_does_not_answer_is_told_in_words() {
    // A socket that is open and silent.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    let SocketAddr::V4(address) = silent.local_addr().expect("bound") else { panic!("IPv4") };
    let visit = Visit {
        network: Network::Seeds(vec![address]),
        shelf: Shelf::of(&card(1)),
        own: NodeKey([1; 32]),
        now_ms: NOW,
        look: true,
        announce: None,
    };
    let error = visit_apart(visit).await.expect_err("nobody");
    assert_eq!(error.to_string(), "none of its nodes answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_in_the_own_slot_does_not_keep_a_node_from_announcing() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("temp dir"));
    let seed = Rig::start("seed", storage(&dirs[0]).await, on(), Some(seed())).await;
    announced(&seed).await;
    let port = seed.sources.dht_port().expect("runs");
    let a = Rig::start("a", storage(&dirs[1]).await, on(), None).await;
    let shelf = Shelf::of(&card(1));
    let dht = mainline::Dht::builder()
        .bootstrap(&[SocketAddrV4::new([127, 0, 0, 1].into(), port)])
        .bind_address([127, 0, 0, 1].into())
        .port(0)
        .build()
        .expect("starts")
        .as_async();
    let salt = salt(day_of(now_ms()), slot_of(a.key));
    let item = MutableItem::new(shelf.signing(), b"rubbish", 1 << 40, Some(&salt));
    dht.put_mutable(item, None).await.expect("stored");
    a.directory.send_replace(known(&seed));
    a.sources.look_now();
    announced(&a).await;
    for rig in [seed, a] {
        rig.stop().await;
    }
}
