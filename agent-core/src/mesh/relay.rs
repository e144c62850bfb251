//! The relay of a seed: packets between nodes that cannot reach each other directly.
//!
//! iroh's relay, embedded, over plain HTTP (and WebSocket); a proxy in front gives it TLS. It sees
//! who talks to whom and how much, never what: QUIC's encryption ends at the nodes.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use iroh_relay::server::{
    Access, AccessControl, ClientRateLimit, ClientRequest, ConnectionId, RelayConfig, Server,
    ServerConfig,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{NodeKey, SeedSetup, sources::OwnInfo};
use crate::backoff::Backoff;

/// Bytes per second that one client may send through, and the burst above it. Enough for answers of
/// models to several peers; a relay is a way to meet, not to move model files.
const CLIENT_RATE: u32 = 4 << 20;
const CLIENT_BURST: u32 = 16 << 20;
/// Connected nodes: the directory's size. One more is refused.
const MAX_CLIENTS: usize = 4_096;
/// Keys whose decoding is remembered: the directory's size.
const KEY_CACHE: usize = 4_096;
/// Between two attempts to open the port.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);
/// Open connections get so long to end; the rest is cut.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the relay does not run. Shown to the owner as it is.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("the relay cannot listen on {address}: {source}. It tries again")]
    Listen { address: SocketAddr, source: iroh_relay::server::SpawnError },
    #[error("the relay on {address} stopped: {reason}. It starts again")]
    Stopped { address: SocketAddr, reason: String },
}

/// What the relay says of itself while it runs.
#[derive(Clone, Debug, Default)]
pub struct RelayReport {
    /// Where it listens; `None`: it does not run.
    pub bound: Option<SocketAddr>,
    /// The owner's word on how others reach it.
    configured: Option<String>,
    pub problem: Option<String>,
}

impl RelayReport {
    /// The URL for others; `None` while it does not run or no address of this node is known.
    pub fn url(&self, own: &OwnInfo) -> Option<String> {
        let bound = self.bound?;
        if let Some(configured) = &self.configured {
            return Some(configured.clone());
        }
        let ip = if bound.ip().is_unspecified() { best_ip(own, &bound)? } else { bound.ip() };
        Some(format!("http://{}", SocketAddr::new(ip, bound.port())))
    }
}

/// The address that most others can use: public before private, IPv4 before IPv6.
fn best_ip(own: &OwnInfo, bound: &SocketAddr) -> Option<IpAddr> {
    let fits = |ip: &IpAddr| bound.is_ipv6() || ip.is_ipv4();
    own.addresses.direct.iter().map(SocketAddr::ip).filter(fits).min_by_key(|ip| {
        let private = match ip {
            IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
        };
        (ip.is_loopback(), private, ip.is_ipv6())
    })
}

/// Starts the relay of a seed, if it has one. The task ends when `stop` is cancelled.
pub fn spawn(
    seed: Option<&SeedSetup>,
    own: watch::Receiver<OwnInfo>,
    stop: CancellationToken,
    tasks: &TaskTracker,
    changed: watch::Sender<u64>,
) -> watch::Receiver<RelayReport> {
    let (report, reports) = watch::channel(RelayReport::default());
    if let Some(seed) = seed
        && let Some(address) = seed.relay
    {
        let configured = seed.relay_url.clone();
        report.send_modify(|report| report.configured = configured);
        let say = move |bound: Option<SocketAddr>, problem: Option<String>| {
            report.send_modify(|report| {
                report.bound = bound;
                report.problem = problem;
            });
            changed.send_modify(|turn| *turn = turn.wrapping_add(1));
        };
        tasks.spawn(run(address, own, stop, say));
    }
    reports
}

async fn run(
    address: SocketAddr,
    own: watch::Receiver<OwnInfo>,
    stop: CancellationToken,
    say: impl Fn(Option<SocketAddr>, Option<String>),
) {
    let mut retries = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let error = match start(address, own.clone()).await {
            Ok(mut server) => {
                retries.reset();
                tracing::info!(%address, "relay runs");
                say(server.http_addr(), None);
                tokio::select! {
                    () = stop.cancelled() => {
                        say(None, None);
                        // Dropping the server cuts what is still open.
                        let _ = tokio::time::timeout(STOP_TIMEOUT, server.shutdown()).await;
                        return;
                    }
                    ended = server.join() => {
                        let reason = match ended {
                            Ok(Ok(())) => "it ended by itself".to_owned(),
                            Ok(Err(error)) => error.to_string(),
                            Err(error) => error.to_string(),
                        };
                        RelayError::Stopped { address, reason }
                    }
                }
            }
            Err(error) => error,
        };
        tracing::warn!("{error}");
        say(None, Some(error.to_string()));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(retries.next_wait()) => {}
        }
    }
}

async fn start(address: SocketAddr, own: watch::Receiver<OwnInfo>) -> Result<Server, RelayError> {
    let mut relay = RelayConfig::new(address);
    if let Some(rate) = NonZeroU32::new(CLIENT_RATE) {
        let mut limit = ClientRateLimit::new(rate);
        limit.max_burst_bytes = NonZeroU32::new(CLIENT_BURST);
        relay.limits.client_rx = Some(limit);
    }
    relay.key_cache_capacity = Some(KEY_CACHE);
    relay.access = std::sync::Arc::new(Gate { own, clients: AtomicUsize::new(0) });
    let mut config = ServerConfig::default();
    config.relay = Some(relay);
    Server::spawn(config).await.map_err(|source| RelayError::Listen { address, source })
}

/// Lets every node in that the owner did not block: those who join by ticket are not known yet.
#[derive(Debug)]
struct Gate {
    own: watch::Receiver<OwnInfo>,
    clients: AtomicUsize,
}

impl AccessControl for Gate {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let key = NodeKey(*request.endpoint_id().as_bytes());
        if self.own.borrow().blocked.contains(&key) {
            return Access::Deny {
                reason: Some("this relay's owner blocked this node".to_owned()),
            };
        }
        if self.clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return Access::Deny { reason: Some("this relay is full".to_owned()) };
        }
        Access::Allow
    }

    fn on_disconnect(&self, _endpoint: iroh::EndpointId, _connection: ConnectionId) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
