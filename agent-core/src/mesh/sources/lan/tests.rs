//! Multicast DNS with real sockets; skipped, with the reason, where multicast does not work.

use std::{io::Read as _, process::Stdio};

use proptest::prelude::*;

use super::*;
use crate::mesh::sources::tests::{Rig, card, quiet, storage};

/// Set for the second process of a test.
const CHILD: &str = "EDGECODER_TEST_LAN_CHILD";

#[test]
fn a_key_is_one_label_and_comes_back() {
    let key = NodeKey([0xa7; 32]);
    let text = label(key);
    assert!(text.len() <= 63, "DNS labels are short");
    assert_eq!(key_of(&text), Some(key));
    assert_eq!(key_of(&text.to_uppercase()), Some(key));
    for bad in ["", "printer", "aaaa", &format!("{text}a")] {
        assert_eq!(key_of(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn random_labels_are_no_key_or_one_that_comes_back(text in ".{0,70}|[a-z2-7]{48,56}") {
        if let Some(key) = key_of(&text) {
            prop_assert_eq!(label(key), text.to_lowercase());
        }
    }

    #[test]
    fn random_packets_of_the_network_are_refused_or_bounded(
        version in prop_oneof![Just(Some(VERSION.to_owned())), proptest::option::of(".{0,5}")],
        name in proptest::option::of(".{0,300}"),
        mesh in proptest::option::of(".{0,100}"),
        at in proptest::collection::vec(any::<([u8; 4], u16)>(), 0..40),
    ) {
        let direct = at.into_iter().map(|(ip, port)| SocketAddr::from((ip, port)));
        let said = Said::read(direct, |key| match key {
            TXT_VERSION => version.as_deref(),
            TXT_NAME => name.as_deref(),
            _ => mesh.as_deref(),
        });
        if let Some(said) = said {
            prop_assert_eq!(version.as_deref(), Some(VERSION));
            let count = said.addresses.direct.len();
            prop_assert!((1..=Addresses::MAX_DIRECT).contains(&count));
            let plain = |name: &str| name.len() <= NAME_BYTES && !name.chars().any(char::is_control);
            prop_assert!(said.name.as_deref().is_none_or(plain));
        }
    }
}

#[test]
fn the_network_sees_neither_id_nor_secret_of_a_mesh() {
    let shown = mesh_hash(&card(1).id);
    assert_eq!(shown.len(), 2 * MESH_HASH_BYTES);
    assert_ne!(shown, mesh_hash(&card(2).id));
    assert!(!hex::encode([1; 32]).contains(&shown));
    let plain = blake3::hash(&[1; 32]).to_hex();
    assert!(!plain.starts_with(&shown), "handshakes send the plain hash");
}

#[test]
fn one_neighbour_is_news_once_until_something_changes() {
    let neighbours = Neighbours::default();
    let key = NodeKey([1; 32]);
    let at = |text: &str| Addresses {
        direct: vec![text.parse().expect("an address")],
        relays: Vec::new(),
    };
    assert!(neighbours.is_news(key, &at("10.0.0.1:1"), false));
    assert!(!neighbours.is_news(key, &at("10.0.0.1:1"), false));
    assert!(neighbours.is_news(key, &at("10.0.0.2:1"), false), "it moved");
    assert!(neighbours.is_news(key, &at("10.0.0.2:1"), true), "it joined this mesh");
    assert_eq!(neighbours.describe().1, "1 of this mesh on this network.");
    neighbours.lost(key);
    assert_eq!(neighbours.describe().0, SourceState::Waiting);
}

#[test]
fn names_that_do_not_answer_any_more_keep_nobody_out() {
    let neighbours = Neighbours::default();
    let addresses =
        Addresses { direct: vec!["10.0.0.1:1".parse().expect("an address")], relays: Vec::new() };
    for n in 0..MAX_NEIGHBOURS {
        let mut key = [9; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        assert!(neighbours.is_news(NodeKey(key), &addresses, false));
    }
    let real = NodeKey([1; 32]);
    assert!(!neighbours.is_news(real, &addresses, true), "all were heard of just now");
    let old = Instant::now().checked_sub(AGAIN_AFTER).expect("a clock that runs for a while");
    for neighbour in neighbours.known.lock().expect("no panic").values_mut() {
        neighbour.told = old;
    }
    assert!(neighbours.is_news(real, &addresses, true));
    assert_eq!(neighbours.known.lock().expect("no panic").len(), MAX_NEIGHBOURS);
}

/// Whether two plain discoveries on this computer hear each other.
async fn multicast_works() -> bool {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let handle = tokio::runtime::Handle::current();
    let probe = |name: &str| {
        Discoverer::new("edgecoder-probe".to_owned(), name.to_owned())
            .with_cadence(Duration::from_millis(500))
            .with_response_rate(4.0)
            .with_multicast_interfaces_v4(vec![Ipv4Addr::LOCALHOST])
            .with_addrs(1, [IpAddr::V4(Ipv4Addr::LOCALHOST)])
    };
    let listening = probe("listening").with_callback(move |id, _| {
        if id == "speaking" {
            let _ = heard.try_send(());
        }
    });
    let (Ok(_one), Ok(_two)) = (listening.spawn(&handle), probe("speaking").spawn(&handle)) else {
        return false;
    };
    tokio::time::timeout(Duration::from_secs(10), hears.recv()).await.is_ok_and(|got| got.is_some())
}

fn on() -> agent_api::Settings {
    let mut settings = quiet();
    settings.mesh.lan = true;
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_on_one_computer_find_each_other_without_configuration() {
    let dir = tempfile::tempdir().expect("temp dir");
    if std::env::var_os(CHILD).is_some() {
        let rig = Rig::start("the other", storage(&dir).await, on(), None).await;
        rig.card.send_replace(card(2));
        // Until the first process closes the pipe.
        let wait = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ = wait.await;
        rig.stop().await;
        return;
    }
    if !multicast_works().await {
        eprintln!("skipped: multicast does not work here; two nodes cannot hear each other");
        return;
    }
    let mut other = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "--nocapture"])
        .arg("mesh::sources::lan::tests::two_processes_on_one_computer_find_each_other_without_configuration")
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut rig = Rig::start("node", storage(&dir).await, on(), None).await;
    let found = loop {
        let found = rig.next().await;
        if found.name.as_deref() == Some("the other") {
            break found;
        }
    };
    assert_eq!(found.source, SourceKind::Lan);
    assert!(found.addresses.direct.iter().all(|address| address.ip().is_loopback()));
    // Besides nodes that may run on this network.
    let listed = |row: &agent_api::mesh::Source| {
        row.reason.starts_with("0 of this mesh") && row.names.iter().any(|name| name == "the other")
    };
    rig.until(SourceKind::Lan, listed).await;
    // Off while running: it goes silent.
    rig.settings.send_modify(|settings| settings.mesh.lan = false);
    rig.until(SourceKind::Lan, |row| row.state == SourceState::Off).await;
    drop(other.stdin.take());
    assert!(other.wait().expect("ends").success());
    rig.stop().await;
}
