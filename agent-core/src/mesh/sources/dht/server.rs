//! A seed's DHT node: answers everybody's questions and keeps what they store, in memory.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::Mutex,
    time::Duration,
};

use mainline::{Dht, ServerSettings, async_dht::AsyncDht};

use super::{lock, stats::Stats};

/// What it keeps at most. A mesh has at most 32 items of 1,000 bytes; a seed may serve several.
const MAX_VALUES: usize = 1_000;
/// Info hashes and peers under each (BEP 5): our nodes store none.
const MAX_INFO_HASHES: usize = 64;
const MAX_PEERS: usize = 64;
/// Its thread looks up every 50 ms.
const PORT_WAIT: Duration = Duration::from_millis(100);
const PORT_TRIES: u32 = 10;
/// For an answer of its own thread.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("The DHT node of this seed needs an IPv4 address; {0} is none.")]
    NotV4(SocketAddr),
    #[error("The DHT node of this seed cannot listen on UDP {address}: {source}. It tries again.")]
    Listen { address: SocketAddrV4, source: std::io::Error },
    #[error("The DHT node of this seed stopped. It starts again.")]
    Stopped,
}

pub(super) struct Server {
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    dht: AsyncDht,
    local: SocketAddrV4,
    /// Other seeds' nodes that it was told of.
    bootstrap: Vec<SocketAddrV4>,
    /// Told of in their place while there are none: `mainline` takes a node without any for the
    /// very first of a DHT, and then believes whoever asks it to be a node, also visitors that are
    /// gone a second later. Open, and read by nobody.
    _nobody: UdpSocket,
}

impl Server {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, running: None }
    }

    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Where this computer itself reaches it.
    pub(super) fn loopback(&self) -> Option<SocketAddrV4> {
        let local = self.running.as_ref()?.local;
        let ip = if local.ip().is_unspecified() { Ipv4Addr::LOCALHOST } else { *local.ip() };
        Some(SocketAddrV4::new(ip, local.port()))
    }

    /// Starts it if it does not run, and counts. While it knows nobody and other seeds are known by
    /// now, it starts anew with them: `mainline` takes bootstrap nodes at the start only. What it
    /// kept is lost then, and written again by its owners within minutes.
    pub(super) async fn look_after(
        &mut self,
        others: &[SocketAddrV4],
        stats: &Mutex<Stats>,
    ) -> Result<(), ServerError> {
        let IpAddr::V4(ip) = self.address.ip() else {
            return Err(ServerError::NotV4(self.address));
        };
        let address = SocketAddrV4::new(ip, self.address.port());
        let mut nodes = 0;
        if let Some(running) = &self.running {
            let Some(known) = nodes_of(running.dht.clone()).await else {
                self.running = None;
                lock(stats).server(None, 0);
                return Err(ServerError::Stopped);
            };
            nodes = known;
            if known == 0 && others.iter().any(|other| !running.bootstrap.contains(other)) {
                self.running = None;
            }
        }
        if self.running.is_none() {
            match start(address, others).await {
                Ok(running) => {
                    tracing::info!(address = %running.local, "DHT node runs");
                    self.running = Some(running);
                }
                Err(source) => {
                    lock(stats).server(None, 0);
                    return Err(ServerError::Listen { address, source });
                }
            }
        }
        lock(stats).server(self.running.as_ref().map(|running| running.local), nodes);
        Ok(())
    }
}

/// A node that was stopped holds its port until its thread has noticed.
async fn start(address: SocketAddrV4, others: &[SocketAddrV4]) -> std::io::Result<Running> {
    for _ in 1..PORT_TRIES {
        match start_once(address, others).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                tokio::time::sleep(PORT_WAIT).await;
            }
            result => return result,
        }
    }
    start_once(address, others).await
}

async fn start_once(address: SocketAddrV4, others: &[SocketAddrV4]) -> std::io::Result<Running> {
    let bootstrap = others.to_vec();
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut given: Vec<SocketAddr> = others.iter().copied().map(SocketAddr::V4).collect();
    if given.is_empty() {
        given.push(nobody.local_addr()?);
    }
    let build = tokio::task::spawn_blocking(move || {
        // `mainline` panics, sometimes, where it cannot open its port; so it is tried before.
        drop(UdpSocket::bind(address)?);
        let settings = ServerSettings {
            max_info_hashes: MAX_INFO_HASHES,
            max_peers_per_info_hash: MAX_PEERS,
            max_mutable_values: MAX_VALUES,
            max_immutable_values: 1,
            ..ServerSettings::default()
        };
        Dht::builder()
            .server_mode()
            .server_settings(settings)
            .bootstrap(&given)
            .bind_address(*address.ip())
            .port(address.port())
            .build()
    });
    let dht = build.await.map_err(std::io::Error::other)??.as_async();
    let asked = dht.clone();
    let info = apart(async move { asked.info().await }).await;
    let local = info.ok_or_else(|| std::io::Error::other("its thread ended"))?.local_addr();
    Ok(Running { dht, local, bootstrap, _nobody: nobody })
}

async fn nodes_of(dht: AsyncDht) -> Option<usize> {
    apart(async move { dht.to_bootstrap().await.len() }).await
}

/// In a task of its own: `mainline` panics where its thread ended.
async fn apart<T: Send + 'static>(asking: impl Future<Output = T> + Send + 'static) -> Option<T> {
    tokio::time::timeout(ANSWER, tokio::spawn(asking)).await.ok()?.ok()
}
