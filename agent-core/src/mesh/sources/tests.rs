//! Sources as the driver uses them, and the rig that the tests of each source share.

use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

use agent_api::{
    Settings,
    mesh::{DhtUse, SourceKind, SourceState},
};
use iroh::{Endpoint, RelayMode, endpoint::presets};
use tokio::sync::mpsc;

use super::*;
use crate::mesh::{MeshId, SeedSetup};

/// Longer than anything here takes on a slow machine; only a failing test waits so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// One node's end of the sources: everything that the driver would hold.
pub(super) struct Rig {
    pub(super) endpoint: Endpoint,
    pub(super) key: NodeKey,
    pub(super) found: mpsc::Receiver<Found>,
    pub(super) card: watch::Sender<MeshCard>,
    pub(super) settings: watch::Sender<Settings>,
    pub(super) own: watch::Sender<OwnInfo>,
    pub(super) directory: watch::Sender<Arc<Vec<KnownPeer>>>,
    pub(super) storage: Storage,
    pub(super) sources: Sources,
}

pub(super) fn card(byte: u8) -> MeshCard {
    MeshCard { id: MeshId([byte; 32]), name: "home".into(), secret: Some([7; 32]), settled: false }
}

/// Nothing on: each test turns on what it is about.
pub(super) fn quiet() -> Settings {
    let mut settings = Settings::default();
    settings.mesh.lan = false;
    settings.mesh.dht = DhtUse::Off;
    settings
}

pub(super) async fn storage(dir: &tempfile::TempDir) -> Storage {
    Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage
}

impl Rig {
    /// A node in mesh 1 on this computer only.
    pub(super) async fn start(
        name: &str,
        storage: Storage,
        settings: Settings,
        seed: Option<SeedSetup>,
    ) -> Self {
        let endpoint = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr((Ipv4Addr::LOCALHOST, 0))
            .expect("an address")
            .bind()
            .await
            .expect("binds");
        let addresses = Addresses { direct: endpoint.bound_sockets(), relays: Vec::new() };
        let own = OwnInfo {
            name: name.to_owned(),
            addresses,
            version: "0.1.0".to_owned(),
            ..OwnInfo::default()
        };
        let (found_in, found) = mpsc::channel(FOUND_QUEUE);
        let card = watch::Sender::new(card(1));
        let settings = watch::Sender::new(settings);
        let own = watch::Sender::new(own);
        let directory = watch::Sender::new(Arc::new(Vec::new()));
        let sources = Sources::start(SourceContext {
            found: found_in,
            endpoint: endpoint.clone(),
            card: card.subscribe(),
            settings: settings.subscribe(),
            own: own.subscribe(),
            directory: directory.subscribe(),
            storage: storage.clone(),
            seed,
        });
        let key = NodeKey(*endpoint.id().as_bytes());
        Self { endpoint, key, found, card, settings, own, directory, storage, sources }
    }

    pub(super) async fn next(&mut self) -> Found {
        let found = tokio::time::timeout(PATIENCE, self.found.recv()).await;
        found
            .unwrap_or_else(|_| panic!("nothing found; {:?}", self.sources.reports()))
            .expect("open")
    }

    pub(super) async fn next_of(&mut self, peer: NodeKey) -> Found {
        loop {
            let found = self.next().await;
            if found.peer == peer {
                return found;
            }
        }
    }

    /// Waits until a source's report is as wanted.
    pub(super) async fn until(
        &self,
        kind: SourceKind,
        wanted: impl Fn(&agent_api::mesh::Source) -> bool,
    ) -> agent_api::mesh::Source {
        let mut changes = self.sources.changes();
        let waiting = async {
            loop {
                let reports = self.sources.reports();
                let report = reports.into_iter().find(|row| row.kind == kind).expect("a row");
                if wanted(&report) {
                    return report;
                }
                changes.changed().await.expect("open");
            }
        };
        let ended = tokio::time::timeout(PATIENCE, waiting).await;
        ended.unwrap_or_else(|_| panic!("{kind:?} stays {:?}", self.sources.reports()))
    }

    pub(super) async fn stop(self) -> Storage {
        tokio::time::timeout(PATIENCE, self.sources.shutdown()).await.expect("sources stop");
        self.endpoint.close().await;
        self.storage
    }
}

fn addresses(text: &str) -> Addresses {
    Addresses { direct: vec![text.parse().expect("an address")], relays: Vec::new() }
}

#[tokio::test]
async fn a_restarted_node_finds_the_peers_of_earlier_days_without_a_seed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let first = Rig::start("first", storage(&dir).await, quiet(), None).await;
    let (friend, blocked) = (NodeKey([5; 32]), NodeKey([6; 32]));
    first.sources.save(friend, addresses("192.168.1.5:4302"), "garage".into());
    first.sources.save(blocked, addresses("192.168.1.6:4302"), "blocked".into());
    let storage = first.stop().await;
    // A write that waits for the disk comes after those that do not.
    let flush = crate::storage::SetState { key: "flush", value: None };
    storage.write(flush).await.expect("writes");

    let mut second = Rig::start("second", storage, quiet(), None).await;
    second.own.send_modify(|own| own.blocked = Arc::new(HashSet::from([blocked])));
    let found = second.next_of(friend).await;
    assert_eq!(found.source, SourceKind::Saved);
    assert_eq!(found.name.as_deref(), Some("garage"));
    assert_eq!(found.addresses, addresses("192.168.1.5:4302"));
    let report = second.until(SourceKind::Saved, |row| row.found > 0).await;
    assert!(report.names.contains(&"garage".to_owned()));
    second.stop().await;
}

#[tokio::test]
async fn saved_peers_are_offered_newest_first_and_those_of_another_mesh_are_not() {
    let dir = tempfile::tempdir().expect("temp dir");
    let storage = storage(&dir).await;
    for (mesh, node, seen_ms) in [(1, 10, 100), (1, 11, 300), (1, 12, 200), (2, 13, 900)] {
        let row = crate::storage::SavedPeer {
            node: vec![node; 32],
            name: String::new(),
            addresses: r#"{"direct":["10.0.0.1:1"],"relays":[]}"#.into(),
            seen_ms,
        };
        let save = crate::storage::SaveMeshPeer { mesh: vec![mesh; 32], row };
        storage.write(save).await.expect("writes");
    }
    let mut rig = Rig::start("node", storage, quiet(), None).await;
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(rig.next().await.peer.0[0]);
    }
    assert_eq!(order, [11, 12, 10]);
    // In another mesh, that mesh's peers.
    rig.card.send_replace(card(2));
    assert_eq!(rig.next().await.peer, NodeKey([13; 32]));
    rig.stop().await;
}

#[tokio::test]
async fn every_source_says_what_it_does_and_follows_the_settings() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut settings = quiet();
    settings.mesh.enabled = false;
    let rig = Rig::start("node", storage(&dir).await, settings, None).await;
    for kind in [SourceKind::Saved, SourceKind::Seed, SourceKind::Lan, SourceKind::Dht] {
        rig.until(kind, |row| row.state == SourceState::Off).await;
    }
    assert_eq!(rig.sources.dht_stats().state, SourceState::Off);
    rig.settings.send_modify(|settings| settings.mesh.enabled = true);
    let saved = rig.until(SourceKind::Saved, |row| row.state == SourceState::Waiting).await;
    assert!(saved.reason.contains("No peer"), "{}", saved.reason);
    rig.until(SourceKind::Seed, |row| row.reason.contains("No seed is set")).await;
    rig.until(SourceKind::Lan, |row| row.reason.contains("settings")).await;
    rig.settings.send_modify(|settings| settings.mesh.dht = DhtUse::Seeds);
    rig.until(SourceKind::Dht, |row| row.reason.contains("No DHT node is known")).await;
    rig.stop().await;
}
