//! Seeds over real HTTP on this computer.

use std::net::SocketAddr;

use agent_api::{NodeId, mesh::Coordinator};
use axum::{Json, Router, http::StatusCode, response::Redirect, routing::get};
use proptest::prelude::*;

use super::*;
use crate::mesh::sources::tests::{Rig, quiet, storage};

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address: SocketAddr = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn coordinator(byte: u8) -> Coordinator {
    Coordinator {
        node_id: NodeKey([byte; 32]).to_id(),
        addresses: vec!["127.0.0.1:4302".into(), "not an address".into()],
        relay: Some("http://127.0.0.1:4303".into()),
        dht: Some("127.0.0.1:8468".into()),
        region: None,
        version: "0.1.0".into(),
        last_seen_ms: 1,
    }
}

async fn seed_with(list: Vec<Coordinator>) -> String {
    let list = Coordinators { coordinators: list };
    let answer = move || std::future::ready(Json(list.clone()));
    serve(Router::new().route("/network/coordinators", get(answer))).await
}

#[tokio::test]
async fn the_coordinators_of_a_seed_are_found_with_addresses_and_relay() {
    let bad = Coordinator { node_id: NodeId("no key".into()), ..coordinator(1) };
    let seed = seed_with(vec![coordinator(3), bad, coordinator(4)]).await;
    let dir = tempfile::tempdir().expect("temp dir");
    let mut settings = quiet();
    settings.mesh.seeds = vec![format!("{seed}/"), "http://127.0.0.1:1".into()];
    let mut rig = Rig::start("node", storage(&dir).await, settings, None).await;
    let found = rig.next().await;
    assert_eq!(found.peer, NodeKey([3; 32]));
    assert_eq!(found.source, SourceKind::Seed);
    assert_eq!(found.addresses.direct, ["127.0.0.1:4302".parse().expect("an address")]);
    assert_eq!(found.addresses.relays, ["http://127.0.0.1:4303"]);
    assert_eq!(rig.next().await.peer, NodeKey([4; 32]), "one bad entry spoils nothing");
    let report = rig.until(SourceKind::Seed, |row| row.state == SourceState::Working).await;
    assert!(report.reason.contains("1 of 2 seeds answered"), "{}", report.reason);
    assert!(report.reason.contains("nobody listens there"), "{}", report.reason);
    assert_eq!(report.names, ["127.0.0.1", "127.0.0.1"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_seed_is_asked_again_when_the_owner_changes_the_settings() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut rig = Rig::start("node", storage(&dir).await, quiet(), None).await;
    rig.until(SourceKind::Seed, |row| row.state == SourceState::Waiting).await;
    let seed = seed_with(vec![coordinator(3)]).await;
    rig.settings.send_modify(|settings| settings.mesh.seeds = vec![seed]);
    assert_eq!(rig.next().await.peer, NodeKey([3; 32]));
    rig.stop().await;
}

#[tokio::test]
async fn each_failure_is_told_in_words() {
    let huge = "x".repeat(MAX_BODY + 1);
    let router = Router::new()
        .route("/gone/network/coordinators", get(|| async { StatusCode::NOT_FOUND }))
        .route("/page/network/coordinators", get(|| async { "<html>hello</html>" }))
        .route("/huge/network/coordinators", get(move || std::future::ready(huge.clone())))
        .route(
            "/away/network/coordinators",
            get(|| async { Redirect::temporary("https://127.0.0.1:1/network/coordinators") }),
        )
        .route(
            "/loop/network/coordinators",
            get(|| async { Redirect::temporary("/loop/network/coordinators") }),
        );
    let seed = serve(router).await;
    let cases = [
        ("gone", "it answered 404; is it an EdgeCoder seed?"),
        ("page", "its answer is not a list of coordinators; is it an EdgeCoder seed?"),
        ("huge", "its answer is larger than 256 KiB"),
        // Not followed: to another scheme, and round in circles.
        ("away", "it answered 307; is it an EdgeCoder seed?"),
        ("loop", "it answered 307; is it an EdgeCoder seed?"),
    ];
    for (path, reason) in cases {
        let error = ask(&format!("{seed}/{path}")).await.expect_err(path);
        assert_eq!(error.to_string(), reason, "{path}");
    }
    for seed in ["", "seed.example", "file:///etc/passwd", "ftp://seed.example"] {
        let error = ask(seed).await.expect_err(seed);
        assert!(matches!(error, SeedError::Address), "{seed}: {error}");
    }
}

#[test]
fn a_list_from_far_away_cannot_send_this_node_to_its_own_ports() {
    let parsed = parse(coordinator(1), Loopback::Dropped).expect("a key");
    assert!(parsed.addresses.direct.is_empty());
    assert_eq!(parsed.dht, None);
}

/// Whatever a seed answers: what is taken of it can be dialed, and is bounded.
fn read_all(body: &[u8]) {
    let Ok(list) = decode(body) else { return };
    for coordinator in list.coordinators {
        let Some(parsed) = parse(coordinator, Loopback::Dropped) else { continue };
        assert!(parsed.addresses.direct.len() <= Addresses::MAX_DIRECT);
        assert!(parsed.addresses.relays.len() <= Addresses::MAX_RELAYS);
        assert!(parsed.addresses.direct.iter().all(|at| !at.ip().is_loopback() && at.port() != 0));
        assert!(parsed.dht.is_none_or(|at| !at.ip().is_loopback() && at.port() != 0));
    }
}

proptest! {
    #[test]
    fn random_answers_of_seeds_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_all(&bytes);
    }

    #[test]
    fn strange_coordinators_are_left_out(
        id in "[0-9a-f]{60,66}",
        addresses in proptest::collection::vec("[0-9.:\\[\\]a-f]{0,30}|127.0.0.1:[0-9]{1,6}|.{0,40}", 0..60),
        relay in proptest::option::of("(https?://)?.{0,40}"),
        dht in proptest::option::of("([0-9]{1,3}\\.){3}[0-9]{1,3}:[0-9]{1,6}"),
    ) {
        let node_id = NodeId(id);
        let one = Coordinator { node_id, addresses, relay, dht, ..coordinator(3) };
        let list = Coordinators { coordinators: vec![one] };
        read_all(&serde_json::to_vec(&list).expect("serializes"));
    }

    #[test]
    fn a_changed_list_of_coordinators_never_panics(
        changes in proptest::collection::vec(any::<(usize, u8)>(), 1..6),
    ) {
        let list = Coordinators { coordinators: vec![coordinator(3), coordinator(4)] };
        let mut body = serde_json::to_vec(&list).expect("serializes");
        for (at, byte) in changes {
            let at = at % body.len();
            body[at] = byte;
        }
        read_all(&body);
    }
}
