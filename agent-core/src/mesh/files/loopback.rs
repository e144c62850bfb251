//! For tests: peers on this computer over real endpoints, without a mesh.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use agent_api::{
    hardware::{Tier, WorkerClass},
    mesh::{AnnouncedModel, AnnouncedServing, Announcement, PathKind, Peer, PeerState},
};
use futures_util::future::BoxFuture;
use iroh::{
    Endpoint, EndpointAddr, RelayMode, TransportAddr,
    endpoint::{Connection, presets},
};

use super::{BiStream, Neighbours, Provider};
use crate::mesh::NodeKey;

const ALPN: &[u8] = b"edgecoder/files-test";

async fn endpoint() -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))
        .expect("an address")
        .alpns(vec![ALPN.to_vec()])
        .bind()
        .await
        .expect("binds")
}

/// What answers instead of the provider; `None`: the provider does.
pub(crate) type Instead = Arc<Mutex<Option<Vec<u8>>>>;

/// One that answers.
#[derive(Debug)]
pub(crate) struct Server {
    pub address: EndpointAddr,
    /// Streams that were opened.
    pub streams: Arc<AtomicUsize>,
    endpoint: Endpoint,
}

impl Server {
    pub(crate) async fn start(provider: Provider, instead: Instead) -> Self {
        let endpoint = endpoint().await;
        let socket = endpoint.bound_sockets()[0];
        let address = EndpointAddr::from_parts(endpoint.id(), [TransportAddr::Ip(socket)]);
        let streams = Arc::new(AtomicUsize::new(0));
        tokio::spawn(accept(endpoint.clone(), provider, instead, Arc::clone(&streams)));
        Self { address, streams, endpoint }
    }

    pub(crate) fn key(&self) -> NodeKey {
        NodeKey(*self.endpoint.id().as_bytes())
    }

    pub(crate) async fn stop(&self) {
        self.endpoint.close().await;
    }
}

async fn accept(
    endpoint: Endpoint,
    provider: Provider,
    instead: Instead,
    streams: Arc<AtomicUsize>,
) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { continue };
        let (provider, instead, streams) =
            (provider.clone(), Arc::clone(&instead), Arc::clone(&streams));
        tokio::spawn(async move {
            let peer = NodeKey(*connection.remote_id().as_bytes());
            while let Ok((send, recv)) = connection.accept_bi().await {
                streams.fetch_add(1, Ordering::Relaxed);
                let (provider, instead) = (provider.clone(), Arc::clone(&instead));
                tokio::spawn(answer(
                    peer,
                    BiStream { send, recv, in_use: None },
                    provider,
                    instead,
                ));
            }
        });
    }
}

async fn answer(peer: NodeKey, mut stream: BiStream, provider: Provider, instead: Instead) {
    let mut length = [0];
    if stream.recv.read_exact(&mut length).await.is_err() {
        return;
    }
    let mut kind = vec![0; usize::from(length[0])];
    stream.recv.read_exact(&mut kind).await.expect("a header");
    let kind = String::from_utf8(kind).expect("text");
    let wrong = instead.lock().expect("no test panics with it").clone();
    let Some(wrong) = wrong else { return provider.serve(peer, &kind, stream).await };
    // The other end may have had enough.
    let _ = stream.send.write_all(&wrong).await;
    let _ = stream.send.finish();
    let _ = stream.send.stopped().await;
}

/// One that asks.
#[derive(Debug)]
pub(crate) struct Client {
    _endpoint: Endpoint,
    connection: Connection,
}

impl Client {
    pub(crate) async fn connect(to: EndpointAddr) -> Self {
        let endpoint = endpoint().await;
        let connection = endpoint.connect(to, ALPN).await.expect("connects");
        Self { _endpoint: endpoint, connection }
    }

    /// A stream of this kind, with a header as the mesh would write one.
    pub(crate) async fn open(&self, kind: &str) -> io::Result<BiStream> {
        let (mut send, recv) = self.connection.open_bi().await.map_err(io::Error::other)?;
        let length = u8::try_from(kind.len()).expect("short");
        send.write_all(&[length]).await.map_err(io::Error::other)?;
        send.write_all(kind.as_bytes()).await.map_err(io::Error::other)?;
        Ok(BiStream { send, recv, in_use: None })
    }
}

/// Some servers as the peers of one node.
#[derive(Debug, Default)]
pub(crate) struct Loopback {
    pub peers: Vec<(Peer, Client)>,
    pub is_private: bool,
}

impl Loopback {
    /// A peer that announces these models.
    pub(crate) async fn add(&mut self, name: &str, server: &Server, models: Vec<AnnouncedModel>) {
        let client = Client::connect(server.address.clone()).await;
        self.peers.push((peer(name, server.key(), models), client));
    }
}

pub(crate) fn peer(name: &str, key: NodeKey, models: Vec<AnnouncedModel>) -> Peer {
    Peer {
        node_id: key.to_id(),
        name: name.to_owned(),
        connected: true,
        state: PeerState::Connected,
        path: Some(PathKind::Lan),
        rtt_ms: Some(0.5),
        address: None,
        trusted: false,
        own: false,
        seed: false,
        sources: Vec::new(),
        last_seen_ms: None,
        connected_since_ms: None,
        problem: None,
        announcement: Some(Announcement {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            protocol: (1, 1),
            region: None,
            tier: Tier::MiniStandard,
            worker_class: WorkerClass::Cpu,
            seed: false,
            serving: AnnouncedServing::Ready,
            models,
            slots: 1,
            slots_free: 1,
            queue: 0,
            tokens_per_s: None,
            price: None,
            ledger_head: None,
            links: Vec::new(),
            relay: None,
            dht_port: None,
            at_ms: 0,
            every_s: 10,
            accepts: Vec::new(),
            power: None,
        }),
    }
}

impl Neighbours for Loopback {
    fn peers(&self) -> Vec<Peer> {
        self.peers.iter().map(|(peer, _)| peer.clone()).collect()
    }

    fn is_private(&self) -> bool {
        self.is_private
    }

    fn open(&self, peer: NodeKey, kind: &'static str) -> BoxFuture<'_, io::Result<BiStream>> {
        let found = self.peers.iter().find(|(known, _)| known.node_id == peer.to_id());
        Box::pin(async move {
            let (_, client) = found.ok_or(io::ErrorKind::NotFound)?;
            client.open(kind).await
        })
    }
}
