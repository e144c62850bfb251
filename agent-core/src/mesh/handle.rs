//! The handle of a running mesh: what the node and the API may ask of it.
//!
//! Views are made from a snapshot, so that a question never waits for the mesh. What changes
//! something goes to the mesh's task and is on disk when it is answered.

mod invite;
mod look;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use agent_api::{
    NodeId,
    mesh::{
        AdmitNode, Announcement, Coordinators, CreateMesh, DhtStats, Invite, InviteRequest,
        MarkNode, Mesh as MeshView, MeshState, PeerDetails, PeerList, PeerQuery, Source,
        SourceState, TicketInfo, Topology,
    },
};
use ed25519_dalek::SigningKey;
use iroh::endpoint::Connection;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    MeshCard, NodeKey,
    membership::io::MeshEvent,
    net::{
        FrameCounts, Offers, PeerStream, StreamHandler, open_stream,
        peers::{Members, Uses},
        session::{self, Answer, Ask, Ends, Request, Session},
        snapshot::Snapshot,
        traffic::Traffic,
    },
    sources::Sources,
    state_file::{FIRST_NAME, TicketPeer, new_card},
    ticket::Ticket,
};
use crate::{clock::now_ms, storage::Storage};
pub use look::PeerLook;

/// Characters of a mesh's name.
const NAME_CHARS: usize = 40;
/// Connecting to a peer for a request, with its handshake.
const CONNECT_WAIT: Duration = Duration::from_secs(15);

/// What the mesh needs to start.
#[derive(Clone, Debug)]
pub struct MeshSetup {
    pub key: SigningKey,
    pub data_dir: PathBuf,
    pub storage: Storage,
    pub settings: watch::Receiver<agent_api::Settings>,
    /// What this node says of itself; the node changes it as models and load change.
    pub announcement: watch::Receiver<Announcement>,
    /// Where UDP is bound, instead of the settings' port on all interfaces; for tests and servers.
    pub bind: Option<SocketAddr>,
    pub seed: Option<SeedSetup>,
}

/// The extra work of a seed.
#[derive(Clone, Debug)]
pub struct SeedSetup {
    /// Where its relay listens for HTTP; `None`: it runs none.
    pub relay: Option<SocketAddr>,
    /// The URL under which others reach that relay, if it is not `http://` and the address.
    pub relay_url: Option<String>,
    /// Where its DHT node listens, UDP.
    pub dht: Option<SocketAddr>,
}

/// Why the mesh refused something. Shown to the owner as it is.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("the mesh is off. Turn it on in the settings")]
    Off,
    #[error("the mesh is on, but does not work: {0}")]
    Broken(String),
    #[error("this ticket cannot be used: {0}")]
    Ticket(String),
    #[error("there is no peer {0}. GET /mesh/peers lists those that are known")]
    NoSuchPeer(String),
    #[error("the peer {peer} cannot be reached: {reason}")]
    Unreachable { peer: String, reason: String },
    #[error("{0}")]
    BadRequest(String),
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the mesh is stopping")]
    Stopping,
}

/// A running mesh. Clones share it.
#[derive(Clone, Debug)]
pub struct Mesh {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    key: NodeKey,
    announcement: watch::Receiver<Announcement>,
    requests: mpsc::Sender<Request>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    events: broadcast::Sender<MeshEvent>,
    members: watch::Receiver<Arc<Members>>,
    sources: watch::Receiver<Option<Sources>>,
    offers: Offers,
    uses: Uses,
    traffic: Traffic,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Mesh {
    /// Never fails: without a network the node serves its owner all the same, the view says
    /// `failed` with the reason, and it tries again.
    pub async fn start(setup: MeshSetup) -> Self {
        let (requests, asked) = mpsc::channel(session::REQUESTS);
        let (events, _) = broadcast::channel(session::EVENTS);
        let snapshot = watch::Sender::new(Arc::new(session::empty_snapshot(MeshState::Joining)));
        let members = watch::Sender::new(Arc::default());
        let sources = watch::Sender::new(None);
        let inner = Inner {
            key: NodeKey(setup.key.verifying_key().to_bytes()),
            announcement: setup.announcement.clone(),
            requests,
            snapshot: snapshot.subscribe(),
            events: events.clone(),
            members: members.subscribe(),
            sources: sources.subscribe(),
            offers: Offers::default(),
            uses: Uses::default(),
            traffic: Traffic::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let ends = Ends {
            requests: asked,
            snapshot,
            events,
            members,
            sources,
            offers: inner.offers.clone(),
            uses: inner.uses.clone(),
            traffic: inner.traffic.clone(),
            stop: inner.stop.clone(),
        };
        inner.tasks.spawn(Session::new(setup, ends).run());
        inner.tasks.close();
        Self { inner: Arc::new(inner) }
    }

    pub fn view(&self) -> MeshView {
        view::mesh(&self.snapshot(), self.reports())
    }

    pub fn peers(&self, query: &PeerQuery) -> PeerList {
        view::peers(&self.snapshot(), query)
    }

    pub fn peer(&self, id: &NodeId) -> Result<PeerDetails, MeshError> {
        let snapshot = self.snapshot();
        let row = NodeKey::from_id(id).and_then(|key| snapshot.rows.get(&key));
        let row = row.ok_or_else(|| MeshError::NoSuchPeer(id.0.clone()))?;
        Ok(snapshot.details(row))
    }

    /// Looks at every peer that is known, without copying any: for what is done per request.
    pub fn look_at_peers(&self, mut look: impl FnMut(PeerLook<'_>)) {
        for row in self.snapshot().rows.values() {
            look(PeerLook::of(row));
        }
    }

    pub fn topology(&self) -> Topology {
        view::topology(&self.snapshot(), self.inner.key, &self.inner.announcement.borrow())
    }

    /// Makes a ticket; from then on the mesh is settled.
    pub async fn invite(&self, request: InviteRequest) -> Result<Invite, MeshError> {
        let now = now_ms();
        let expires_ms = invite::expires_ms(&request, now)?;
        match self.snapshot().state {
            MeshState::Off => return Err(MeshError::Off),
            MeshState::Failed => {
                return Err(MeshError::Broken(self.snapshot().notice.clone()));
            }
            _ => {}
        }
        self.ask(Ask::Settle).await?;
        let name = self.inner.announcement.borrow().name.clone();
        let snapshot = self.snapshot();
        let ticket = invite::ticket(&snapshot, self.inner.key, &name, (now, expires_ms));
        let text = ticket.encode();
        Ok(Invite {
            qr_svg: invite::qr(&text)?,
            mesh: invite::info(&ticket, &snapshot.card),
            ticket: text,
            expires_at_ms: expires_ms,
        })
    }

    pub fn read_ticket(&self, text: &str) -> Result<TicketInfo, MeshError> {
        Ok(invite::info(&decode(text)?, &self.snapshot().card))
    }

    /// Leaves the current mesh and enters the ticket's. The card is on disk before it answers.
    pub async fn join(&self, ticket: &str) -> Result<(), MeshError> {
        let ticket = decode(ticket)?;
        let own = self.inner.key;
        let others = ticket.peers.into_iter().filter(|(key, _)| *key != own);
        let named = others.map(|(key, addresses)| {
            let name = (key == ticket.inviter).then(|| ticket.inviter_name.clone());
            TicketPeer { key, addresses, name }
        });
        self.ask(Ask::Enter { card: ticket.card, peers: named.collect() }).await
    }

    /// Leaves for a new private mesh with nobody else in it. It is settled: otherwise a neighbour on
    /// this network would take the node back at once.
    pub async fn leave(&self) -> Result<(), MeshError> {
        self.enter_new(FIRST_NAME.to_owned(), true).await
    }

    pub async fn create(&self, request: CreateMesh) -> Result<(), MeshError> {
        let name = request.name.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS {
            return Err(MeshError::BadRequest(format!(
                "a mesh's name has 1 to {NAME_CHARS} characters"
            )));
        }
        if name.chars().any(char::is_control) {
            return Err(MeshError::BadRequest("a mesh's name is one line of text".into()));
        }
        self.enter_new(name.to_owned(), request.private).await
    }

    async fn enter_new(&self, name: String, private: bool) -> Result<(), MeshError> {
        let card = new_card(name, private).map_err(|e| MeshError::BadRequest(e.to_string()))?;
        let card = MeshCard { settled: true, ..card };
        self.ask(Ask::Enter { card, peers: Vec::new() }).await
    }

    /// A blocked node is cut off at once and stays away, over restarts and meshes.
    pub async fn block(&self, mark: MarkNode) -> Result<(), MeshError> {
        let (key, name) = self.marked(&mark)?;
        self.ask(Ask::Block { key, name, on: mark.on }).await
    }

    /// Marks a node as the owner's own (which it trusts, too) or as one that they trust; without `own`
    /// an own one is only trusted from then on.
    pub async fn trust(&self, mark: MarkNode) -> Result<(), MeshError> {
        let (key, name) = self.marked(&mark)?;
        self.ask(Ask::Trust { key, name, on: mark.on, own: mark.own }).await
    }

    pub async fn admit(&self, answer: AdmitNode) -> Result<(), MeshError> {
        let key = NodeKey::from_id(&answer.node_id)
            .ok_or_else(|| MeshError::NoSuchPeer(answer.node_id.0.clone()))?;
        let asks = |nearby: &agent_api::mesh::Nearby| {
            nearby.asks_to_join && nearby.node_id == answer.node_id
        };
        if !self.snapshot().nearby.iter().any(asks) {
            return Err(MeshError::BadRequest(
                "this node does not ask to join, or does not ask any more".into(),
            ));
        }
        self.ask(Ask::Admit { key, admit: answer.admit }).await
    }

    /// Announces, asks neighbours for what is missing, and looks for peers, now.
    pub fn refresh(&self) {
        let (reply, _) = oneshot::channel();
        // A full queue means that the mesh has more to do than to look once more.
        let _ = self.inner.requests.try_send(Request { ask: Ask::Refresh, reply });
    }

    pub fn coordinators(&self) -> Coordinators {
        let sources = self.inner.sources.borrow();
        sources.as_ref().map(Sources::coordinators).unwrap_or_default()
    }

    pub fn dht_stats(&self) -> DhtStats {
        let sources = self.inner.sources.borrow();
        sources.as_ref().map_or_else(no_dht, Sources::dht_stats)
    }

    /// Control frames since the start.
    pub fn frames(&self) -> FrameCounts {
        self.inner.traffic.counts()
    }

    /// What happens, for the activity feed and the event stream. A slow listener loses events.
    pub fn events(&self) -> broadcast::Receiver<MeshEvent> {
        self.inner.events.subscribe()
    }

    /// Streams of this kind that peers of the mesh open go to the handler from now on.
    pub fn serve_streams(&self, kind: &str, handler: Arc<dyn StreamHandler>) {
        self.inner.offers.add(kind, handler);
    }

    /// Opens a stream of this kind to a peer of the mesh, connecting first if need be. The header
    /// that names the kind is written; a peer that does not serve it stops the stream.
    pub async fn open_stream(&self, peer: NodeKey, kind: &str) -> Result<PeerStream, MeshError> {
        if !self.snapshot().rows.contains_key(&peer) {
            return Err(MeshError::NoSuchPeer(peer.to_id().0));
        }
        let in_use = self.inner.uses.begin(peer);
        let connection = self.connection(peer).await?;
        let lost = |reason: String| MeshError::Unreachable { peer: peer.to_id().0, reason };
        open_stream(&connection, kind, in_use).await.map_err(lost)
    }

    async fn connection(&self, peer: NodeKey) -> Result<Connection, MeshError> {
        if let Some(connection) = self.inner.members.borrow().get(&peer) {
            return Ok(connection.clone());
        }
        let unreachable = |reason: &str| MeshError::Unreachable {
            peer: peer.to_id().0,
            reason: reason.to_owned(),
        };
        match timeout(CONNECT_WAIT, self.request(Ask::Connect(peer))).await {
            Ok(Ok(Answer::Connection(connection))) => Ok(*connection),
            Ok(Ok(Answer::Done)) => Err(unreachable("there is no connection")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(unreachable("it did not answer in time")),
        }
    }

    /// Says goodbye and closes every connection.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.inner.snapshot.borrow())
    }

    fn reports(&self) -> Vec<Source> {
        let sources = self.inner.sources.borrow();
        sources.as_ref().map(Sources::reports).unwrap_or_default()
    }

    /// Also nodes that are not known can be marked: the owner may have their id from elsewhere.
    fn marked(&self, mark: &MarkNode) -> Result<(NodeKey, String), MeshError> {
        let key = NodeKey::from_id(&mark.node_id)
            .ok_or_else(|| MeshError::NoSuchPeer(mark.node_id.0.clone()))?;
        if key == self.inner.key {
            return Err(MeshError::BadRequest("this is the node itself".into()));
        }
        let snapshot = self.snapshot();
        let nearby = snapshot.nearby.iter().find(|nearby| nearby.node_id == mark.node_id);
        let name = snapshot.rows.get(&key).map(|row| row.name.clone());
        let name = name.or_else(|| nearby.map(|nearby| nearby.name.clone()));
        Ok((key, name.unwrap_or_else(|| mark.node_id.fmt_short().to_owned())))
    }

    async fn ask(&self, ask: Ask) -> Result<(), MeshError> {
        self.request(ask).await.map(|_| ())
    }

    async fn request(&self, ask: Ask) -> Result<Answer, MeshError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inner.requests.send(Request { ask, reply }).await;
        sent.map_err(|_| MeshError::Stopping)?;
        answer.await.map_err(|_| MeshError::Stopping)?
    }
}

fn decode(text: &str) -> Result<Ticket, MeshError> {
    Ticket::decode(text, now_ms()).map_err(|error| MeshError::Ticket(error.to_string()))
}

fn no_dht() -> DhtStats {
    DhtStats {
        state: SourceState::Off,
        reason: "The mesh has no network.".to_owned(),
        server: false,
        address: None,
        nodes: 0,
        size_estimate: None,
        announcements: 0,
        lookups: 0,
        found: 0,
    }
}
