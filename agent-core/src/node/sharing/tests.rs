//! Two nodes' stores, and pulls of a third over real connections on this computer.

use std::sync::{Arc, atomic::Ordering};

use agent_api::{
    Settings,
    mesh::{AnnouncedModel, PathKind},
    pull::{Pull, PullRequest, PullSourceKind, PullState},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    mesh::files::loopback::{Instead, Loopback, Server},
    models::{
        manifest::Manifest,
        pull::{Pulls, PullsConfig, Tuning},
        registry::{credentials::Credentials, install_crypto},
    },
    storage::Storage,
};

/// Nobody listens there.
const NAME: &str = "127.0.0.1:1/library/demo:latest";

/// The demo model with bytes after its tensors, 24 MiB.
fn weights() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/edgecoder-demo-4m-q8_0.gguf");
    let mut bytes = std::fs::read(path).expect("the demo model");
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    while bytes.len() < 24 << 20 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes
}

/// A node that has the model.
struct Owner {
    _dir: tempfile::TempDir,
    store: Store,
    provider: Provider,
    server: Server,
    settings: watch::Sender<Settings>,
}

impl Owner {
    async fn start(weights: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path().to_path_buf()).expect("a store");
        let manifest = Manifest::of_gguf(Digest::of(weights), weights.len() as u64);
        std::fs::write(store.blob_path(Digest::of(weights)), weights).expect("writes");
        let name = ModelRef::parse(NAME, OLLAMA_REGISTRY).expect("a name");
        let guard = store.lock().expect("locks");
        store.install(&guard, &name, &manifest).expect("installs");
        drop(guard);
        // Made when it is first asked for, which on a slow disk takes longer than is waited.
        store.make_outboard(Digest::of(weights), &|| false).expect("hashes");
        let settings = watch::Sender::new(Settings::default());
        let shelf = Arc::new(StoreShelf(store.clone()));
        let provider = Provider::new(shelf, settings.subscribe(), CancellationToken::new());
        let server = Server::start(provider.clone(), Instead::default()).await;
        Self { _dir: dir, store, provider, server, settings }
    }

    fn sent(&self) -> u64 {
        self.provider.counters().sent.load(Ordering::Relaxed)
    }
}

fn announced(weights: &[u8]) -> Vec<AnnouncedModel> {
    vec![AnnouncedModel {
        id: ModelRef::parse(NAME, OLLAMA_REGISTRY).expect("a name").id(),
        digest: Some(Hash(Digest::of(weights).hash())),
        size_bytes: weights.len() as u64,
        context: 4096,
        resident: false,
        tokens_per_s: None,
        shared: true,
    }]
}

/// The node that pulls.
struct Puller {
    dir: tempfile::TempDir,
    store: Store,
    pulls: Pulls,
    _settings: watch::Sender<Settings>,
}

impl Puller {
    async fn start(loopback: Loopback) -> Self {
        install_crypto();
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path().join("models")).expect("a store");
        let opened = Storage::open(&dir.path().join("edgecoder.db")).await.expect("a database");
        let settings = watch::Sender::new(Settings::default());
        let peers = Arc::<Peers>::default();
        peers.attach(Some(Arc::new(loopback)));
        let config = PullsConfig {
            store: store.clone(),
            storage: opened.storage,
            credentials: Credentials::new(dir.path().join("credentials.json")),
            usage: Arc::new(|| 0),
            tuning: Tuning {
                headroom: 0,
                // On a busy machine everything is slow for a while; that is not what is tested.
                race_after: Duration::from_secs(3600),
                slow_after: Duration::from_secs(3600),
                ..Tuning::default()
            },
            owner: "node".to_owned(),
            places: Some(peers),
            hold: None,
        };
        let (pulls, _hearing) = Pulls::start(config, settings.subscribe());
        Self { dir, store, pulls, _settings: settings }
    }

    async fn pull(&self) -> Pull {
        let request = PullRequest { model: NAME.to_owned(), swap_when_done: false };
        let id = self.pulls.add(request).await.expect("is added").id;
        let mut watching = self.pulls.watch();
        let ended = |list: &Arc<Vec<Pull>>| {
            list.iter().any(|p| p.id == id && (p.state.is_settled() || p.retry_at_ms.is_some()))
        };
        let list = Arc::clone(&*watching.wait_for(ended).await.expect("the actor runs"));
        list.iter().find(|pull| pull.id == id).cloned().expect("was found")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_pulled_from_two_peers_while_its_registry_is_down() {
    let weights = weights();
    let (one, two) = (Owner::start(&weights).await, Owner::start(&weights).await);
    let mut loopback = Loopback::default();
    loopback.add("attic-mini", &one.server, announced(&weights)).await;
    loopback.add("kitchen", &two.server, announced(&weights)).await;
    let puller = Puller::start(loopback).await;
    let done = puller.pull().await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    let here = std::fs::read(puller.store.blob_path(Digest::of(&weights))).expect("is here");
    assert!(here == weights);
    assert!(done.sources.iter().all(|source| source.kind == PullSourceKind::Peer && source.lan));
    let bytes: u64 = done.sources.iter().map(|source| source.bytes).sum();
    assert_eq!((done.sources.len(), bytes), (2, weights.len() as u64), "{:?}", done.sources);
    // Hashes are 0.4 percent, and nothing is sent twice.
    let sent = one.sent() + two.sent();
    assert!(sent < weights.len() as u64 * 101 / 100, "{sent}");
    assert!(one.sent() > 0 && two.sent() > 0);
    drop(puller.dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_taken_from_strangers_by_nobody() {
    let weights = weights();
    let owner = Owner::start(&weights).await;
    let mut loopback = Loopback::default();
    loopback.add("stranger", &owner.server, announced(&weights)).await;
    loopback.peers[0].0.path = Some(PathKind::Relay);
    let puller = Puller::start(loopback).await;
    let waits = puller.pull().await;
    assert_eq!(waits.state, PullState::Retrying, "{}", waits.reason);
    assert_eq!(owner.server.streams.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_had_from_an_owner_who_shares_nothing() {
    let weights = weights();
    let owner = Owner::start(&weights).await;
    owner.settings.send_modify(|settings| settings.mesh.share_models = false);
    let mut loopback = Loopback { is_private: true, ..Loopback::default() };
    loopback.add("attic-mini", &owner.server, announced(&weights)).await;
    let puller = Puller::start(loopback).await;
    let waits = puller.pull().await;
    assert_eq!(waits.state, PullState::Retrying, "{}", waits.reason);
    assert_eq!(owner.sent(), 0);
    assert!(owner.store.blob_size(Digest::of(&weights)).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_away_is_asked_no_more() {
    let weights = weights();
    let (stays, goes) = (Owner::start(&weights).await, Owner::start(&weights).await);
    let mut loopback = Loopback::default();
    loopback.add("stays", &stays.server, announced(&weights)).await;
    loopback.add("goes", &goes.server, announced(&weights)).await;
    goes.server.stop().await;
    let puller = Puller::start(loopback).await;
    let done = puller.pull().await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert_eq!(done.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["stays"]);
}

#[test]
fn near_peers_are_asked_before_far_ones_and_only_those_that_share() {
    let key = |n: u8| NodeKey([n; 32]).to_id();
    let model = |shared| AnnouncedModel { shared, ..announced(b"x").remove(0) };
    let peer = |n: u8, path, rtt, shared| {
        let mut peer =
            crate::mesh::files::loopback::peer("p", NodeKey([n; 32]), vec![model(shared)]);
        (peer.path, peer.rtt_ms) = (path, rtt);
        peer
    };
    let found = candidates(
        vec![
            peer(1, Some(PathKind::Relay), Some(5.0), true),
            peer(2, Some(PathKind::Direct), Some(90.0), true),
            peer(3, Some(PathKind::Lan), Some(9.0), true),
            peer(4, None, None, true),
            peer(5, Some(PathKind::Lan), Some(1.0), true),
            peer(6, Some(PathKind::Lan), Some(0.1), false),
        ],
        |_| true,
    );
    let order: Vec<_> = found.into_iter().map(|(_, peer)| peer.node_id).collect();
    assert_eq!(order, [key(5), key(3), key(1), key(2), key(4)]);
}

#[test]
fn whoever_names_many_models_may_have_more_and_is_asked_last() {
    let key = |n: u8| NodeKey([n; 32]);
    let model = |weights: u8| announced(&[weights]).remove(0);
    let peer = |n: u8, weights: std::ops::Range<u8>| {
        let mut peer =
            crate::mesh::files::loopback::peer("p", key(n), weights.map(model).collect());
        (peer.path, peer.connected) = (Some(PathKind::Direct), true);
        peer
    };
    let wanted = model(99).digest;
    let found =
        candidates(vec![peer(1, 0..3), peer(2, 0..9), peer(3, 99..100)], |m| m.digest == wanted);
    let order: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
    assert_eq!(order, [key(3), key(2)]);
}
