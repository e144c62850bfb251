//! The relay of a seed: packets between nodes that cannot reach each other directly.
//!
//! iroh's relay over plain HTTP (and WebSocket); a proxy in front gives it TLS. It sees
//! who talks to whom and how much, never what: QUIC's encryption ends at the nodes.
//!
//! The same port answers `GET /network/coordinators`: of a seed it is the one that everybody
//! reaches, while the API's is its owner's.

mod frames;
mod gate;
mod opening;
mod pace;
mod server;

use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    time::Duration,
};

use futures_util::FutureExt as _;
use gate::Gate;
use server::Server;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    SeedSetup,
    addr::is_local,
    sources::{Listing, OwnInfo},
};
use crate::backoff::Backoff;

/// Between two lives, also attempts to open the port.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// Why the relay does not run; it is tried again. The owner reads it.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("it cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("that on {address} stopped: {reason}")]
    Stopped { address: SocketAddr, reason: String },
    #[error("it broke off by a fault of this program. The log says where; please report it")]
    Broke,
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
    own.addresses
        .direct
        .iter()
        .map(SocketAddr::ip)
        .filter(fits)
        .min_by_key(|ip| (ip.is_loopback(), is_local(*ip), ip.is_ipv6()))
}

/// Starts the relay of a seed, if it has one. The task ends when `stop` is cancelled.
pub fn spawn(
    seed: &SeedSetup,
    listing: Listing,
    report: watch::Sender<RelayReport>,
    stop: CancellationToken,
    tasks: &TaskTracker,
    changed: watch::Sender<u64>,
) {
    if let Some(address) = seed.relay {
        let configured = seed.relay_url.clone();
        report.send_modify(|report| report.configured = configured);
        let say = move |bound: Option<SocketAddr>, problem: Option<String>| {
            report.send_modify(|report| {
                report.bound = bound;
                report.problem = problem;
            });
            changed.send_modify(|turn| *turn = turn.wrapping_add(1));
        };
        let gate = Gate::new(listing.own.clone(), listing.directory.clone());
        let open = move || start(address, gate.again(), listing.clone());
        tasks.spawn(run(address, open, stop, say));
    }
}

/// Opens the relay and keeps it open: whatever ends it, it starts again after a wait.
async fn run<F>(
    address: SocketAddr,
    open: impl Fn() -> F,
    stop: CancellationToken,
    say: impl Fn(Option<SocketAddr>, Option<String>),
) where
    F: Future<Output = Result<Server, RelayError>>,
{
    let mut retries = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let begun = Instant::now();
        let life = AssertUnwindSafe(live(address, open(), &stop, &say)).catch_unwind();
        let error = match life.await {
            Ok(Ok(())) => return say(None, None),
            Ok(Err(error)) => error,
            Err(_) => RelayError::Broke,
        };
        // One that ends soon after its start is not trusted yet.
        if begun.elapsed() >= LAST_RETRY {
            retries.reset();
        }
        tracing::warn!(%address, "the relay does not run: {error}");
        say(None, Some(error.to_string()));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(retries.next_wait()) => {}
        }
    }
}

/// One life of the relay; `Ok` when it was stopped.
async fn live(
    address: SocketAddr,
    opening: impl Future<Output = Result<Server, RelayError>>,
    stop: &CancellationToken,
    say: &impl Fn(Option<SocketAddr>, Option<String>),
) -> Result<(), RelayError> {
    let mut server = opening.await?;
    tracing::info!(%address, "relay runs");
    say(Some(server.address()), None);
    let ended = stop.run_until_cancelled(server.ended()).await;
    say(None, None);
    server.shutdown().await;
    let reason = match ended {
        None => return Ok(()),
        Some(Ok(())) => "it ended by itself".to_owned(),
        Some(Err(error)) => error.to_string(),
    };
    Err(RelayError::Stopped { address, reason })
}

async fn start(address: SocketAddr, gate: Gate, listing: Listing) -> Result<Server, RelayError> {
    let started = Server::spawn(address, gate, listing).await;
    started.map_err(|source| RelayError::Listen { address, source })
}

#[cfg(test)]
mod tests;
