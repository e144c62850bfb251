//! The handle of a running mesh: what the node and the API may ask of it.

use std::{net::SocketAddr, path::PathBuf};

use agent_api::{
    NodeId,
    mesh::{
        AdmitNode, Announcement, Coordinators, CreateMesh, DhtStats, Invite, InviteRequest,
        MarkNode, Mesh as MeshView, MeshSettings, PeerDetails, PeerList, PeerQuery, TicketInfo,
        Topology,
    },
};
use ed25519_dalek::SigningKey;
use tokio::sync::{broadcast, watch};

use super::membership::io::MeshEvent;
use crate::storage::Storage;

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
    #[error("this ticket cannot be used: {0}")]
    Ticket(String),
    #[error("there is no peer {0}. GET /mesh/peers lists those that are known")]
    NoSuchPeer(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the mesh is stopping")]
    Stopping,
}

/// A running mesh. Clones share it.
#[derive(Clone, Debug)]
pub struct Mesh {}

impl Mesh {
    /// Never fails: without a network the node serves its owner all the same, the view says
    /// `failed` with the reason, and it tries again.
    pub async fn start(_setup: MeshSetup) -> Self {
        Self {}
    }

    pub fn view(&self) -> MeshView {
        todo!()
    }

    pub fn peers(&self, _query: &PeerQuery) -> PeerList {
        todo!()
    }

    pub fn peer(&self, _id: &NodeId) -> Result<PeerDetails, MeshError> {
        todo!()
    }

    pub fn topology(&self) -> Topology {
        todo!()
    }

    pub async fn invite(&self, _request: InviteRequest) -> Result<Invite, MeshError> {
        todo!()
    }

    pub fn read_ticket(&self, _text: &str) -> Result<TicketInfo, MeshError> {
        todo!()
    }

    /// Leaves the current mesh and enters the ticket's. The card is on disk before it answers.
    pub async fn join(&self, _ticket: &str) -> Result<(), MeshError> {
        todo!()
    }

    pub async fn leave(&self) -> Result<(), MeshError> {
        todo!()
    }

    pub async fn create(&self, _request: CreateMesh) -> Result<(), MeshError> {
        todo!()
    }

    pub async fn block(&self, _mark: MarkNode) -> Result<(), MeshError> {
        todo!()
    }

    pub async fn trust(&self, _mark: MarkNode) -> Result<(), MeshError> {
        todo!()
    }

    pub async fn admit(&self, _answer: AdmitNode) -> Result<(), MeshError> {
        todo!()
    }

    pub fn refresh(&self) {
        todo!()
    }

    pub fn coordinators(&self) -> Coordinators {
        todo!()
    }

    pub fn dht_stats(&self) -> DhtStats {
        todo!()
    }

    /// What happens, for the activity feed and the event stream. A slow listener loses events.
    pub fn events(&self) -> broadcast::Receiver<MeshEvent> {
        todo!()
    }

    /// Says goodbye and closes every connection.
    pub async fn shutdown(&self) {
        todo!()
    }
}
