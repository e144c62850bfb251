//! Real nodes over iroh on 127.0.0.1. They wait for snapshots and events, never for a time.

mod bad_peers;
mod requests;

use std::net::Ipv4Addr;

use agent_api::{
    Settings,
    hardware::{Tier, WorkerClass},
    mesh::{AnnouncedServing, DhtUse, LanJoin, PathKind, PeerState, SourceKind},
};
use tempfile::TempDir;

use super::*;

/// A test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct TestNode {
    pub(crate) mesh: Mesh,
    key: SigningKey,
    settings: watch::Sender<Settings>,
    /// Kept, so that the mesh can go on watching it.
    announcement: watch::Sender<Announcement>,
    dir: TempDir,
}

impl TestNode {
    pub(crate) async fn start(name: &str) -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("random numbers");
        let dir = tempfile::tempdir().expect("temp dir");
        Self::start_in(name, SigningKey::from_bytes(&secret), dir).await
    }

    async fn start_in(name: &str, key: SigningKey, dir: TempDir) -> Self {
        Self::start_with(name, key, dir, None).await
    }

    async fn start_with(
        name: &str,
        key: SigningKey,
        dir: TempDir,
        seed: Option<SeedSetup>,
    ) -> Self {
        let mut settings = Settings::default();
        settings.mesh.lan = false;
        settings.mesh.lan_join = LanJoin::Never;
        settings.mesh.dht = DhtUse::Off;
        settings.mesh.port_mapping = false;
        let settings = watch::Sender::new(settings);
        let announcement = watch::Sender::new(announcement(name));
        let opened = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens");
        let setup = MeshSetup {
            key: key.clone(),
            data_dir: dir.path().to_path_buf(),
            storage: opened.storage,
            settings: settings.subscribe(),
            announcement: announcement.subscribe(),
            bind: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            seed,
        };
        let mesh = Mesh::start(setup).await;
        let node = Self { mesh, key, settings, announcement, dir };
        node.until("it has an address", |s| !s.addresses.direct.is_empty()).await;
        node
    }

    pub(crate) fn node_key(&self) -> NodeKey {
        self.mesh.inner.key
    }

    fn id(&self) -> NodeId {
        self.node_key().to_id()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut snapshot = self.mesh.inner.snapshot.clone();
        let waited = timeout(PATIENCE, snapshot.wait_for(|s| is_so(s))).await;
        match waited {
            Ok(found) => Arc::clone(&found.expect("the mesh runs")),
            Err(_) => panic!("not so in time: {what}; the view is {:#?}", self.mesh.view()),
        }
    }

    async fn until_connected(&self, other: &Self) {
        let key = other.node_key();
        let is_up = |s: &Snapshot| {
            s.rows.get(&key).is_some_and(|row| row.is_connected() && row.record.is_some())
        };
        self.until("the other is connected and has spoken", is_up).await;
    }

    async fn ticket(&self) -> String {
        self.mesh.invite(InviteRequest::default()).await.expect("invites").ticket
    }

    pub(crate) async fn join(&self, other: &Self) {
        self.mesh.join(&other.ticket().await).await.expect("joins");
        tokio::join!(self.until_connected(other), other.until_connected(self));
    }

    fn mark(&self, on: bool) -> MarkNode {
        MarkNode { node_id: self.id(), on, own: false }
    }
}

#[tokio::test]
async fn a_mesh_that_breaks_says_so_and_comes_back() {
    let (a, b) = (TestNode::start("a").await, TestNode::start("b").await);
    b.join(&a).await;
    let _ = b.mesh.ask(Ask::Break).await;
    b.until("it broke", |s| s.state == MeshState::Failed && s.rows.is_empty()).await;
    b.until_connected(&a).await;
    b.mesh.shutdown().await;
    a.mesh.shutdown().await;
}

#[tokio::test]
async fn a_ticket_taken_while_the_mesh_is_off_is_tried_when_it_is_on() {
    let (a, b) = (TestNode::start("a").await, TestNode::start("b").await);
    let ticket = a.ticket().await;
    b.settings.send_modify(|settings| settings.mesh.enabled = false);
    b.until("it is off", |s| s.state == MeshState::Off).await;
    b.mesh.join(&ticket).await.expect("writes it down");
    b.settings.send_modify(|settings| settings.mesh.enabled = true);
    b.until_connected(&a).await;
    b.mesh.shutdown().await;
    a.mesh.shutdown().await;
}

fn announcement(name: &str) -> Announcement {
    Announcement {
        name: name.to_owned(),
        version: "0.1.0".to_owned(),
        protocol: (1, 1),
        region: Some("Europe/Berlin".to_owned()),
        tier: Tier::MiniStandard,
        worker_class: WorkerClass::Cpu,
        seed: false,
        serving: AnnouncedServing::Ready,
        models: Vec::new(),
        slots: 4,
        slots_free: 4,
        queue: 0,
        tokens_per_s: None,
        price: None,
        ledger_head: None,
        links: Vec::new(),
        relay: None,
        dht_port: None,
        at_ms: 0,
        every_s: 0,
        accepts: Vec::new(),
        power: None,
    }
}

async fn next_event(
    events: &mut broadcast::Receiver<MeshEvent>,
    wanted: impl Fn(&MeshEvent) -> bool,
) -> MeshEvent {
    let found = async {
        loop {
            match events.recv().await {
                Ok(event) if wanted(&event) => return event,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(error) => panic!("the mesh stopped: {error}"),
            }
        }
    };
    timeout(PATIENCE, found).await.expect("the event comes")
}

#[tokio::test]
async fn two_nodes_meet_by_ticket_and_see_what_the_other_says() {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), TestNode::start("attic"));
    let invite = desk.mesh.invite(InviteRequest::default()).await.expect("invites");
    assert!(invite.qr_svg.contains("<svg"));
    let info = attic.mesh.read_ticket(&invite.ticket).expect("reads");
    assert_eq!((info.inviter_name.as_str(), info.joined, info.private), ("desk", false, true));
    attic.join(&desk).await;

    let seen = desk.mesh.peer(&attic.id()).expect("known");
    assert_eq!(seen.peer.name, "attic");
    assert_eq!(seen.peer.path, Some(PathKind::Lan));
    assert!(seen.peer.rtt_ms.is_some() && seen.bytes_received > 0 && !seen.paths.is_empty());
    assert!(seen.peer.sources.contains(&SourceKind::Incoming));
    let peers = attic.mesh.peers(&PeerQuery::default());
    assert_eq!((peers.total, peers.peers[0].name.as_str()), (1, "desk"));
    assert!(peers.peers[0].sources.contains(&SourceKind::Ticket));

    let view = attic.mesh.view();
    assert_eq!((view.state, view.counts.connected, view.counts.lan), (MeshState::Joined, 1, 1));
    let (FrameCounts { sent, received }, heard) = (attic.mesh.frames(), desk.mesh.frames());
    for count in [sent, received, heard.sent, heard.received] {
        assert!(count.frames > 0 && count.bytes >= count.frames, "{count:?}");
    }
    assert_eq!(view.mesh_id, desk.mesh.view().mesh_id);
    assert!(view.settled && attic.mesh.read_ticket(&invite.ticket).expect("reads").joined);
    let topology = attic.mesh.topology();
    assert_eq!((topology.nodes.len(), topology.links.len()), (2, 1));

    desk.announcement.send_modify(|said| said.serving = AnnouncedServing::Paused);
    let paused = |s: &Snapshot| {
        let row = s.rows.get(&desk.node_key());
        row.and_then(|row| row.announcement())
            .is_some_and(|said| said.serving == AnnouncedServing::Paused)
    };
    attic.until("the other says that it is paused", paused).await;
    tokio::join!(desk.mesh.shutdown(), attic.mesh.shutdown());
}

#[tokio::test]
async fn a_third_node_is_heard_of_through_the_second() {
    let (a, b, c) = tokio::join!(TestNode::start("a"), TestNode::start("b"), TestNode::start("c"));
    b.join(&a).await;
    c.join(&b).await;
    tokio::join!(a.until_connected(&c), c.until_connected(&a));
    assert_eq!(a.mesh.view().counts.connected, 2);
}

#[tokio::test]
async fn a_wrong_secret_is_refused_and_the_owner_reads_why() {
    let (desk, stranger) = tokio::join!(TestNode::start("desk"), TestNode::start("stranger"));
    let mut ticket = Ticket::decode(&desk.ticket().await, now_ms()).expect("reads");
    ticket.card.secret = Some([7; 32]);
    stranger.mesh.join(&ticket.encode()).await.expect("a ticket like any other");
    let told =
        stranger.until("it is refused", |s| s.rows.values().any(|row| row.problem.is_some())).await;
    let problem = told.rows[&desk.node_key()].problem.clone().expect("there is one");
    assert!(problem.contains("secret"), "{problem}");
    let refused = |s: &Snapshot| s.refused.iter().any(|refused| refused.reason == "not_a_member");
    desk.until("it is counted", refused).await;
    assert_eq!(desk.mesh.view().counts.connected, 0);
}

#[tokio::test]
async fn a_blocked_node_is_cut_off_and_stays_away_until_it_is_let_in() {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), TestNode::start("attic"));
    attic.join(&desk).await;
    desk.mesh.block(attic.mark(true)).await.expect("blocks");
    assert_eq!(desk.mesh.view().blocked[0].name, "attic");
    let key = desk.node_key();
    let cut = |s: &Snapshot| s.rows.get(&key).is_none_or(|row| !row.is_connected());
    attic.until("it is cut off", cut).await;
    let refused = |s: &Snapshot| s.refused.iter().any(|refused| refused.reason == "blocked");
    desk.until("it knocks and is turned away", refused).await;
    assert_eq!(desk.mesh.peers(&PeerQuery::default()).total, 0);
    desk.mesh.block(attic.mark(false)).await.expect("lets in");
    tokio::join!(desk.until_connected(&attic), attic.until_connected(&desk));
}

#[tokio::test]
async fn of_two_connections_dialed_at_once_one_stays() {
    let (a, b) = tokio::join!(TestNode::start("a"), TestNode::start("b"));
    a.mesh.join(&b.ticket().await).await.expect("joins");
    // Both know the mesh and the other's address now, whoever was first.
    let (to_a, to_b) = tokio::join!(a.ticket(), b.ticket());
    for _ in 0..3 {
        let (first, second) = tokio::join!(a.mesh.join(&to_b), b.mesh.join(&to_a));
        first.and(second).expect("joins");
        tokio::join!(a.until_connected(&b), b.until_connected(&a));
    }
    let one = |s: &Snapshot| s.links == 1 && s.rows.values().any(|row| row.is_connected());
    tokio::join!(a.until("one connection", one), b.until("one connection", one));
}

#[test]
fn a_killed_node_is_noticed() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime")
    };
    let (living, killed) = (runtime(), runtime());
    let desk = living.block_on(TestNode::start("desk"));
    let attic = killed.block_on(TestNode::start("attic"));
    let mut events = desk.mesh.events();
    let ticket = living.block_on(desk.ticket());
    killed.block_on(attic.mesh.join(&ticket)).expect("joins");
    living.block_on(desk.until_connected(&attic));
    // Its tasks and sockets go without a word, as with kill -9.
    killed.shutdown_background();
    let down = next_event(&mut events, |event| matches!(event, MeshEvent::PeerDown { .. }));
    let down = living.block_on(down);
    assert!(matches!(down, MeshEvent::PeerDown { peer, .. } if peer == attic.node_key()));
    living.block_on(desk.mesh.shutdown());
}

#[tokio::test]
async fn a_restarted_node_finds_its_mesh_without_a_ticket() {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), TestNode::start("attic"));
    attic.join(&desk).await;
    attic.mesh.shutdown().await;
    let TestNode { mesh, key, dir, .. } = attic;
    let before = mesh.view().mesh_id;
    drop(mesh);
    let attic = TestNode::start_in("attic", key, dir).await;
    assert_eq!(attic.mesh.view().mesh_id, before);
    tokio::join!(attic.until_connected(&desk), desk.until_connected(&attic));
    let found = attic.mesh.peer(&desk.id()).expect("known").peer.sources;
    let by_itself = [SourceKind::Saved, SourceKind::Incoming];
    assert!(found.iter().any(|source| by_itself.contains(source)), "{found:?}");
}

#[tokio::test]
async fn the_mesh_is_turned_off_and_on_while_it_runs() {
    let (desk, attic) = tokio::join!(TestNode::start("desk"), TestNode::start("attic"));
    attic.join(&desk).await;
    attic.settings.send_modify(|settings| settings.mesh.enabled = false);
    let off = attic.until("it is off", |s| s.state == MeshState::Off).await;
    assert!(off.rows.is_empty());
    assert!(attic.mesh.view().reason.contains("settings"));
    assert!(matches!(attic.mesh.invite(InviteRequest::default()).await, Err(MeshError::Off)));
    let key = attic.node_key();
    let gone = |s: &Snapshot| s.rows.get(&key).is_none_or(|row| row.state != PeerState::Connected);
    desk.until("the other is gone", gone).await;
    attic.settings.send_modify(|settings| settings.mesh.enabled = true);
    tokio::join!(attic.until_connected(&desk), desk.until_connected(&attic));
}
