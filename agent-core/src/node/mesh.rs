//! The mesh as the node's owner sees it: asked, told of in the activity feed and the event stream,
//! and kept informed of what this node has to offer.
//!
//! Whatever goes wrong here costs the mesh only: the node goes on serving its owner.

mod feed;
mod news;
mod notices;

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    sync::{Arc, PoisonError},
    time::Duration,
};

use agent_api::{
    ActivityKind, Event, NodeId, Settings,
    mesh::{
        AdmitNode, Announcement, Coordinators, CreateMesh, DhtStats, Invite, InviteRequest,
        MarkNode, Mesh as MeshView, PeerDetails, PeerList, PeerQuery, Power, TicketInfo,
        TicketText, Topology,
    },
    node::ServingState,
};
use feed::{Feed, Happening};
use jiff::tz::TimeZone;
use news::{News, Told};
use notices::notices;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Node, NodeError,
    announce::{Facts, announcement, power},
    fitting::Measured,
};
use crate::{
    config::{Config, SeedConfig},
    identity::Identity,
    inference::InferenceState,
    machine,
    mesh::{
        Mesh, MeshError, MeshSetup, NodeKey, SeedSetup,
        membership::{NOT_NEEDED, io::MeshEvent},
    },
    storage::{Storage, model_use},
    tasks::job::Own,
};

/// Between two announcements of changed facts: a request that comes or ends changes the load.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// Files that the owner put into the models folder, and measured speeds, are looked at this often.
const MODELS_AGE: Duration = Duration::from_secs(60);
/// How often listeners hear of peers.
const PEERS_EVERY: Duration = Duration::from_millis(500);
/// Turns of `PEERS_EVERY` between two looks at the whole mesh.
const VIEW_TURNS: u32 = 2;
/// Events that wait for the next turn. More come only while hundreds of peers come or go at once;
/// lines about single ones would not be written then anyway.
const PENDING: usize = 1_024;

/// In a mesh with more others than that, most of them are not connected with this node.
const EVERYBODY: u32 = 32;

/// The mesh's own part of a start: everything it needs is there, and it never fails.
pub(super) async fn start(
    config: &Config,
    identity: &Identity,
    storage: Storage,
    settings: watch::Receiver<Settings>,
    paused: bool,
) -> (Mesh, watch::Sender<Announcement>) {
    let first = {
        let settings = settings.borrow();
        let measured = Measured::default();
        let serving = if paused { ServingState::Paused } else { ServingState::Starting };
        let inference = InferenceState::default();
        let looked = Looked::nothing();
        looked.announcement(&settings, &measured, config.seed.is_some(), serving, &inference)
    };
    let announcement = watch::Sender::new(first);
    let setup = MeshSetup {
        key: identity.signing_key().clone(),
        data_dir: config.paths.data_dir.clone(),
        storage,
        settings,
        announcement: announcement.subscribe(),
        bind: config.mesh_bind,
        seed: config.seed.clone().map(|SeedConfig { relay, relay_url, dht }| SeedSetup {
            relay,
            relay_url,
            dht,
        }),
    };
    (Mesh::start(setup).await, announcement)
}

/// This computer's time zone, where it is that of a place: servers are often set to UTC, which
/// says nothing about where they are.
fn time_zone() -> Option<String> {
    let zone = TimeZone::system();
    let place = |name: &&str| name.contains('/') && !name.starts_with("Etc/");
    zone.iana_name().filter(place).map(ToOwned::to_owned)
}

/// The part of an announcement's facts that takes a look at the disk.
#[derive(Debug)]
struct Looked {
    own: Own,
    zone: Option<String>,
    power: Option<Power>,
}

impl Looked {
    /// Before anybody looked.
    fn nothing() -> Self {
        Self { own: Own::default(), zone: time_zone(), power: None }
    }

    fn announcement(
        &self,
        settings: &Settings,
        measured: &Measured,
        seed: bool,
        serving: ServingState,
        inference: &InferenceState,
    ) -> Announcement {
        let tier = measured.tier();
        announcement(&Facts {
            settings,
            zone: self.zone.as_deref(),
            tier: tier.computed,
            class: tier.computed_class,
            power: self.power,
            seed,
            serving,
            inference,
            files: &self.own.files,
            uses: &self.own.uses,
            able: &self.own.able,
        })
    }
}

/// Asked by the API.
impl Node {
    /// This node helps others to meet.
    pub fn is_seed(&self) -> bool {
        self.inner.config.seed.is_some()
    }

    pub fn mesh(&self) -> MeshView {
        self.inner.mesh.view()
    }

    pub fn peers(&self, query: &PeerQuery) -> PeerList {
        self.inner.mesh.peers(query)
    }

    pub fn peer(&self, id: &NodeId) -> Result<PeerDetails, NodeError> {
        Ok(self.inner.mesh.peer(id)?)
    }

    pub fn topology(&self) -> Topology {
        self.inner.mesh.topology()
    }

    pub fn coordinators(&self) -> Coordinators {
        self.inner.mesh.coordinators()
    }

    pub fn dht_stats(&self) -> DhtStats {
        self.inner.mesh.dht_stats()
    }

    pub async fn invite(&self, request: InviteRequest) -> Result<Invite, NodeError> {
        Ok(self.inner.mesh.invite(request).await?)
    }

    pub fn read_ticket(&self, text: &TicketText) -> Result<TicketInfo, NodeError> {
        Ok(self.inner.mesh.read_ticket(&text.ticket)?)
    }

    /// Leaves the current mesh and enters the ticket's.
    pub async fn join_mesh(&self, text: &TicketText) -> Result<MeshView, NodeError> {
        let joined = self.read_ticket(text)?.joined;
        self.inner.mesh.join(&text.ticket).await?;
        if joined {
            // Only its nodes are tried once more; that is no news.
            return Ok(self.mesh());
        }
        Ok(self.mesh_changed(|mesh| format!("Joined the mesh {}", mesh.name)).await)
    }

    pub async fn leave_mesh(&self) -> Result<MeshView, NodeError> {
        let old = self.mesh().name;
        self.inner.mesh.leave().await?;
        Ok(self.mesh_changed(|_| format!("Left the mesh {old}")).await)
    }

    pub async fn create_mesh(&self, request: CreateMesh) -> Result<MeshView, NodeError> {
        self.inner.mesh.create(request).await?;
        Ok(self.mesh_changed(|mesh| format!("Made the mesh {}", mesh.name)).await)
    }

    pub async fn block_node(&self, mark: MarkNode) -> Result<MeshView, NodeError> {
        let name = self.name_of(&mark.node_id);
        let done = if mark.on { "blocked" } else { "no longer blocked" };
        self.inner.mesh.block(mark).await?;
        Ok(self.mesh_changed(|_| format!("{name} is {done}")).await)
    }

    pub async fn trust_node(&self, mark: MarkNode) -> Result<MeshView, NodeError> {
        self.inner.mesh.trust(mark).await?;
        Ok(self.mesh())
    }

    pub async fn admit_node(&self, answer: AdmitNode) -> Result<MeshView, NodeError> {
        self.inner.mesh.admit(answer).await?;
        Ok(self.mesh())
    }

    /// Asks every source for peers now.
    pub fn refresh_mesh(&self) -> MeshView {
        self.inner.mesh.refresh();
        self.mesh()
    }

    async fn mesh_changed(&self, text: impl FnOnce(&MeshView) -> String + Send) -> MeshView {
        let mesh = self.mesh();
        self.record(ActivityKind::MeshChanged, text(&mesh)).await;
        mesh
    }

    /// What a node calls itself; its short id while that is not known.
    fn name_of(&self, id: &NodeId) -> String {
        let known = self.inner.mesh.peer(id).map(|details| details.peer.name);
        known.ok().filter(|name| !name.is_empty()).unwrap_or_else(|| id.fmt_short().to_owned())
    }
}

/// Told by the mesh, and told to it.
impl Node {
    pub(super) fn spawn_mesh_tasks(&self) {
        // Subscribed before anything can happen.
        let events = self.inner.mesh.events();
        self.spawn_optional("announcements", self.clone().keep_announcing());
        self.spawn_optional("mesh news", self.clone().follow_mesh(events));
    }

    /// Runs a task whose end costs the mesh but not the node.
    fn spawn_optional(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let node = self.clone();
        self.inner.tasks.spawn(async move {
            if let Err(e) = tokio::spawn(task).await {
                tracing::error!("the task {name} failed: {e}");
                node.notice("mesh_task", &format!(
                    "A defect in EdgeCoder ended a part of the mesh ({name}). This computer is served all the same; restart the node to have the whole mesh again."
                ));
            }
        });
    }

    /// The installed models, or what is known of them, changed.
    pub(super) fn models_changed(&self) {
        self.inner.bus.send(Event::Models);
        self.inner.announce.notify_one();
    }

    /// Keeps the announcement true, until the node stops.
    async fn keep_announcing(self) {
        let mut settings = self.inner.follow_settings.subscribe();
        let mut engine = self.inner.inference.state();
        let mut looks = interval(MODELS_AGE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Looked::nothing();
        loop {
            let look = tokio::select! {
                _ = looks.tick() => true,
                () = self.inner.announce.notified() => true,
                Ok(()) = settings.changed() => false,
                Ok(()) = engine.changed() => false,
                () = self.inner.stop.cancelled() => return,
            };
            if look {
                looked = self.look().await;
            }
            let now = self.announcement_of(
                &looked,
                &settings.borrow_and_update(),
                &engine.borrow_and_update(),
            );
            self.inner.announcement.send_if_modified(|old| {
                let changed = *old != now;
                *old = now;
                changed
            });
            tokio::select! {
                () = sleep(ANNOUNCE_EVERY) => {}
                () = self.inner.stop.cancelled() => return,
            }
        }
    }

    /// Looks at the models, and keeps what it saw for placement.
    async fn look(&self) -> Looked {
        let files = self.model_files().await.into();
        let uses = model_use(self.inner.storage.readers()).await.unwrap_or_default();
        // A read of a few small files, but of devices.
        let battery = tokio::task::spawn_blocking(machine::battery).await.ok().flatten();
        let mut own = self.inner.own.write().unwrap_or_else(PoisonError::into_inner);
        own.files = files;
        own.uses = Arc::new(uses);
        Looked { own: own.clone(), zone: time_zone(), power: power(battery.as_ref()) }
    }

    fn announcement_of(
        &self,
        looked: &Looked,
        settings: &Settings,
        inference: &InferenceState,
    ) -> Announcement {
        let serving = self.serving_with(inference).state;
        let measured = self.inner.measured.lock().unwrap_or_else(PoisonError::into_inner);
        looked.announcement(settings, &measured, self.is_seed(), serving, inference)
    }

    /// Tells the owner what happens in the mesh, until the node stops.
    async fn follow_mesh(self, mut events: broadcast::Receiver<MeshEvent>) {
        let mut turns = interval(PEERS_EVERY);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut follower = Follower::new(self.clone());
        let mut open = true;
        loop {
            tokio::select! {
                event = events.recv(), if open => match event {
                    // Its goodbyes are no news.
                    Ok(_) if self.is_stopping() => {}
                    Ok(event) => follower.hear(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => follower.news.missed(),
                    Err(broadcast::error::RecvError::Closed) => open = false,
                },
                _ = turns.tick() => follower.turn().await,
                () = self.inner.stop.cancelled() => return,
            }
        }
    }
}

/// What the owner and the listeners were told.
struct Follower {
    node: Node,
    since: Instant,
    turn: u32,
    feed: Feed,
    news: News,
    pending: Vec<MeshEvent>,
    shown: Option<MeshView>,
    /// Texts of the notices that stand, by id.
    notices: HashMap<&'static str, String>,
}

impl Follower {
    fn new(node: Node) -> Self {
        Self {
            node,
            since: Instant::now(),
            turn: 0,
            feed: Feed::default(),
            news: News::default(),
            pending: Vec::new(),
            shown: None,
            notices: HashMap::new(),
        }
    }

    /// Takes note. What is told of single peers waits for the next turn: then the mesh's view has
    /// caught up with the event.
    fn hear(&mut self, event: MeshEvent) {
        match &event {
            MeshEvent::PeerUp { peer }
            | MeshEvent::PeerDown { peer, .. }
            | MeshEvent::PathChanged { peer, .. } => self.news.changed(*peer),
            MeshEvent::PeerGone { peer, .. } => self.news.gone(*peer),
            // Other peers altogether.
            MeshEvent::Entered(_) => self.news.missed(),
            MeshEvent::PeerNew { peer } => self.news.changed(*peer),
            MeshEvent::PeerChanged { peer } => return self.news.changed(*peer),
            // In the view, which is looked at every second; saving is the mesh's own business.
            MeshEvent::DuplicateIdentity
            | MeshEvent::Nearby { .. }
            | MeshEvent::AsksToJoin { .. }
            | MeshEvent::Save { .. } => return,
        }
        if self.pending.len() < PENDING {
            self.pending.push(event);
        }
    }

    async fn write_lines(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return;
        }
        let view = self.node.mesh();
        // Where not everybody is connected with everybody, a connection is no news.
        let large = view.counts.known > EVERYBODY;
        let mesh = view.mesh_id;
        for event in pending {
            let happening = match event {
                // Most of those that connect were there long before.
                MeshEvent::PeerUp { .. } if large => None,
                MeshEvent::PeerUp { peer } => {
                    let id = peer.to_id();
                    let path = self.node.inner.mesh.peer(&id).ok().and_then(|d| d.peer.path);
                    let name = self.node.name_of(&id);
                    let joined = self.news.up(peer, &name, &mesh);
                    joined.then_some(Happening::Joined { name, path })
                }
                MeshEvent::PeerNew { peer } if large => {
                    let name = self.node.name_of(&peer.to_id());
                    let joined = self.news.up(peer, &name, &mesh);
                    joined.then_some(Happening::Joined { name, path: None })
                }
                MeshEvent::PeerDown { reason, .. } if large || reason == NOT_NEEDED => None,
                MeshEvent::PeerDown { peer, reason } => self.news.down(peer, &mesh, reason),
                MeshEvent::PeerGone { peer, .. } => self.news.left(peer, &mesh),
                MeshEvent::PathChanged { peer, from, to } => {
                    let name = self.node.name_of(&peer.to_id());
                    Some(Happening::Path { name, from, to })
                }
                MeshEvent::Entered(card) => {
                    let text = format!("Merged into the mesh {} on this network", card.name);
                    self.node.record(ActivityKind::MeshChanged, text).await;
                    None
                }
                _ => None,
            };
            if let Some(happening) = happening {
                self.tell(happening).await;
            }
        }
    }

    async fn tell(&mut self, happening: Happening) {
        if let Some((kind, text)) = self.feed.note(self.since.elapsed(), happening) {
            self.node.record(kind, text).await;
        }
    }

    async fn turn(&mut self) {
        self.write_lines().await;
        for (kind, text) in self.feed.due(self.since.elapsed()) {
            self.node.record(kind, text).await;
        }
        let listened = self.node.inner.bus.listeners() > 0;
        match self.news.take() {
            _ if !listened => {}
            Told::Nothing => {}
            Told::AskAgain => self.node.inner.bus.send(Event::Resync),
            Told::Changes { changed, gone } => self.show_peers(changed, gone),
        }
        self.turn = self.turn.wrapping_add(1);
        if !self.turn.is_multiple_of(VIEW_TURNS) {
            return;
        }
        let view = self.node.mesh();
        self.keep_notices(&view);
        // When it was read is no change.
        let view = MeshView { at_ms: 0, ..view };
        if !listened {
            self.shown = None;
        } else if self.shown.as_ref() != Some(&view) {
            let at_ms = crate::clock::now_ms();
            let mesh = Box::new(MeshView { at_ms, ..view.clone() });
            self.node.inner.bus.send(Event::Mesh { mesh });
            self.shown = Some(view);
        }
    }

    fn show_peers(&self, changed: BTreeSet<NodeKey>, gone: BTreeSet<NodeKey>) {
        let mut gone: Vec<NodeId> = gone.into_iter().map(NodeKey::to_id).collect();
        let mut peers = Vec::with_capacity(changed.len());
        for peer in changed {
            match self.node.inner.mesh.peer(&peer.to_id()) {
                Ok(details) => peers.push(details.peer),
                Err(MeshError::NoSuchPeer(_)) => gone.push(peer.to_id()),
                Err(_) => {}
            }
        }
        self.node.inner.bus.send(Event::Peers { changed: peers, gone });
    }

    fn keep_notices(&mut self, view: &MeshView) {
        for (id, text) in notices(view) {
            if self.notices.get(id) == text.as_ref() {
                continue;
            }
            match text {
                Some(text) => {
                    self.node.notice(id, &text);
                    self.notices.insert(id, text);
                }
                None => {
                    self.node.clear_notice(id);
                    self.notices.remove(id);
                }
            }
        }
    }
}
