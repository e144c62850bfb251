//! Seeds over real HTTP on this computer.

use std::net::SocketAddr;

use agent_api::{NodeId, mesh::Coordinator};
use axum::{Json, Router, http::StatusCode, response::Redirect, routing::get};

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
