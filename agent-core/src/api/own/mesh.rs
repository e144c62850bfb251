//! The product's paths about the mesh.

use agent_api::{
    endpoint::Nothing,
    mesh::{
        AdmitNode, Coordinators, CreateMesh, DhtStats, Invite, InviteRequest, MarkNode, Mesh,
        PeerDetails, PeerId, PeerList, PeerQuery, TicketInfo, TicketText, Topology,
    },
};

use super::Answer;
use crate::node::Node;

pub(in crate::api) async fn mesh(node: Node, _: Nothing) -> Answer<Mesh> {
    Ok(node.mesh())
}

pub(in crate::api) async fn peers(node: Node, query: PeerQuery) -> Answer<PeerList> {
    Ok(node.peers(&query))
}

pub(in crate::api) async fn peer(node: Node, query: PeerId) -> Answer<PeerDetails> {
    Ok(node.peer(&query.id)?)
}

pub(in crate::api) async fn topology(node: Node, _: Nothing) -> Answer<Topology> {
    Ok(node.topology())
}

pub(in crate::api) async fn invite(node: Node, request: InviteRequest) -> Answer<Invite> {
    Ok(node.invite(request).await?)
}

pub(in crate::api) async fn ticket(node: Node, ticket: TicketText) -> Answer<TicketInfo> {
    Ok(node.read_ticket(&ticket)?)
}

pub(in crate::api) async fn join(node: Node, ticket: TicketText) -> Answer<Mesh> {
    Ok(node.join_mesh(&ticket).await?)
}

pub(in crate::api) async fn leave(node: Node, _: Nothing) -> Answer<Mesh> {
    Ok(node.leave_mesh().await?)
}

pub(in crate::api) async fn create(node: Node, request: CreateMesh) -> Answer<Mesh> {
    Ok(node.create_mesh(request).await?)
}

pub(in crate::api) async fn block(node: Node, mark: MarkNode) -> Answer<Mesh> {
    Ok(node.block_node(mark).await?)
}

pub(in crate::api) async fn trust(node: Node, mark: MarkNode) -> Answer<Mesh> {
    Ok(node.trust_node(mark).await?)
}

pub(in crate::api) async fn admit(node: Node, answer: AdmitNode) -> Answer<Mesh> {
    Ok(node.admit_node(answer).await?)
}

pub(in crate::api) async fn refresh(node: Node, _: Nothing) -> Answer<Mesh> {
    Ok(node.refresh_mesh())
}

pub(in crate::api) async fn coordinators(node: Node, _: Nothing) -> Answer<Coordinators> {
    Ok(node.coordinators())
}

pub(in crate::api) async fn dht_stats(node: Node, _: Nothing) -> Answer<DhtStats> {
    Ok(node.dht_stats())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use agent_api::{
        ApiError,
        mesh::{MeshSettings, MeshState},
        settings::SettingsView,
    };
    use axum::{
        Router,
        body::{Body, to_bytes},
        http::{Request, StatusCode},
        middleware,
    };
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        api::{guard, router, server::Peer},
        config::{Config, SeedConfig, save_settings},
    };

    /// A node whose owner turned the mesh off, so that nothing leaves this computer.
    async fn node(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Node) {
        let home = tempfile::tempdir().expect("temp dir");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::resolve(Some(home.path().to_path_buf()), Some(listen))
            .expect("a configuration");
        config.runner = None;
        change(&mut config);
        let settings = agent_api::Settings {
            ollama_dir: Some(String::new()),
            ollama_url: String::new(),
            mesh: MeshSettings { enabled: false, lan: false, ..MeshSettings::default() },
            ..agent_api::Settings::default()
        };
        save_settings(&config.paths.settings(), &settings).expect("saves");
        (home, Node::start(config).await.expect("starts"))
    }

    async fn ask(router: Router, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let response = router.oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, body.to_vec())
    }

    async fn get<T: DeserializeOwned>(node: &Node, path: &str) -> T {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let (status, body) = ask(router(node), request).await;
        assert_eq!(status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("the type of the row")
    }

    async fn send(node: &Node, method: &str, path: &str, body: &Value) -> (StatusCode, Vec<u8>) {
        let request = Request::builder().method(method).uri(path);
        ask(router(node), request.body(Body::from(body.to_string())).expect("a request")).await
    }

    #[tokio::test]
    async fn a_node_without_its_mesh_answers_everything_else() {
        let (_home, node) = node(|_| {}).await;
        let mesh: Mesh = get(&node, "/mesh").await;
        assert_eq!(mesh.state, MeshState::Off);
        assert!(get::<PeerList>(&node, "/mesh/peers?connected=true").await.peers.is_empty());
        get::<Topology>(&node, "/mesh/topology").await;
        get::<DhtStats>(&node, "/dht/stats").await;
        assert!(get::<Coordinators>(&node, "/network/coordinators").await.coordinators.is_empty());
        get::<agent_api::Status>(&node, "/status").await;
        let text = node.render_metrics().await;
        assert!(text.contains("edgecoder_mesh_peers_connected 0"), "{text}");
        node.shutdown().await;
    }

    #[tokio::test]
    async fn wrong_requests_are_refused_with_a_reason() {
        let (_home, node) = node(|_| {}).await;
        let stranger = "ab".repeat(32);
        let path = format!("/agent-mesh/peers/{stranger}");
        let (status, body) = send(&node, "GET", &path, &Value::Null).await;
        let error: ApiError = serde_json::from_slice(&body).expect("an error");
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(error.message.contains(&stranger), "the id came out of the path: {error:?}");
        let damaged = json!({"ticket": "ec1damaged"});
        for (path, body, expected) in [
            ("/mesh/ticket", &damaged, StatusCode::BAD_REQUEST),
            ("/mesh/join", &json!({"tickets": "x"}), StatusCode::BAD_REQUEST),
            ("/mesh/block", &json!({"node": "x"}), StatusCode::BAD_REQUEST),
        ] {
            let (status, body) = send(&node, "POST", path, body).await;
            let error: ApiError = serde_json::from_slice(&body).expect("an error");
            assert_eq!(status, expected, "{path}: {error:?}");
        }
        node.shutdown().await;
    }

    #[tokio::test]
    async fn a_new_port_waits_for_the_next_start_and_nonsense_is_not_saved() {
        let (_home, node) = node(|_| {}).await;
        let patch =
            json!({"mesh": {"port": 4302, "port_mapping": false, "upload_limit": 1_000_000}});
        let (status, body) = send(&node, "PATCH", "/settings", &patch).await;
        assert_eq!(status, StatusCode::OK);
        let view: SettingsView = serde_json::from_slice(&body).expect("the settings");
        assert_eq!(view.after_restart, ["mesh.port", "mesh.port_mapping"]);
        assert_eq!(view.settings.mesh.upload_limit, Some(1_000_000));
        let wrong = json!({"mesh": {"seeds": ["nowhere"]}});
        let (status, body) = send(&node, "PATCH", "/settings", &wrong).await;
        let error: ApiError = serde_json::from_slice(&body).expect("an error");
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(error.message.contains("mesh.seeds"), "{error:?}");
        assert!(node.settings().mesh.seeds.is_empty());
        node.shutdown().await;
    }

    /// As it comes from another computer that asked by this name, without any secret.
    async fn from_afar(node: &Node, path: &str, host: &str) -> StatusCode {
        let guarded =
            router(node).layer(middleware::from_fn_with_state(node.clone(), guard::guard));
        let peer = Peer(SocketAddr::from(([203, 0, 113, 7], 5_000)));
        let request = Request::get(path).header("host", host).extension(peer);
        ask(guarded, request.body(Body::empty()).expect("a request")).await.0
    }

    #[tokio::test]
    async fn only_a_seed_tells_strangers_where_others_are() {
        let list = "/network/coordinators";
        let (_home, ordinary) = node(|_| {}).await;
        assert_eq!(from_afar(&ordinary, list, "127.0.0.1").await, StatusCode::UNAUTHORIZED);
        assert_eq!(from_afar(&ordinary, list, "seed.example").await, StatusCode::FORBIDDEN);
        ordinary.shutdown().await;

        let seed = SeedConfig { relay: None, relay_url: None, dht: None };
        let (_home, seed) = node(|config| config.seed = Some(seed)).await;
        assert_eq!(from_afar(&seed, list, "seed.example").await, StatusCode::OK);
        for path in ["/mesh", "/mesh/peers", "/agent-mesh/peers/ab", "/dht/stats"] {
            assert_eq!(from_afar(&seed, path, "127.0.0.1").await, StatusCode::UNAUTHORIZED);
            assert_eq!(from_afar(&seed, path, "seed.example").await, StatusCode::FORBIDDEN);
        }
        assert_eq!(from_afar(&seed, "/v1/models", "seed.example").await, StatusCode::FORBIDDEN);
        seed.shutdown().await;
    }

    #[tokio::test]
    async fn the_first_event_holds_the_mesh() {
        use futures_util::StreamExt as _;
        let (_home, node) = node(|_| {}).await;
        {
            let mut events = std::pin::pin!(node.subscribe().expect("room for a listener"));
            let first = events.next().await.expect("a snapshot");
            let agent_api::Event::Snapshot { mesh, .. } = first else {
                panic!("not a snapshot: {first:?}")
            };
            assert_eq!(mesh.state, MeshState::Off);
        }
        node.shutdown().await;
    }
}
