//! The DHT: nodes of a mesh that know nobody find each other through what they wrote there.
//!
//! BitTorrent's protocol (Kademlia; BEP 5 and 44) by the `mainline` crate. Seeds run the nodes of a
//! DHT of their own, which knows nothing of the public one; members visit it to announce themselves
//! and, while they have few peers, to look. The public DHT is used only if the owner says so.
//! [`slot`] tells what is written.

mod round;
mod server;
mod slot;
mod stats;

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_api::mesh::{DhtUse, SourceKind, SourceState};
use round::{Announce, Network, RoundError, Visit, Visited};
use server::Server;
use slot::Shelf;
pub(super) use stats::Stats;
use tokio::sync::watch;

use super::turn::{Turn, Woken};
use crate::{
    backoff::Backoff,
    clock::now_ms,
    mesh::{Addresses, addr::Loopback},
};

const KIND: SourceKind = SourceKind::Dht;
/// Announced so often; items are forgotten by the public DHT after two hours (BEP 44).
const ANNOUNCE_EVERY: Duration = Duration::from_secs(25 * 60);
/// After one that failed.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(3 * 60);
/// After a change of this node's addresses, which comes in several steps.
const SETTLE: Duration = Duration::from_secs(10);
/// With so many peers connected nobody is looked for.
const FEW_PEERS: u32 = 3;
/// Between two visits to look.
const FIRST_LOOK: Duration = Duration::from_secs(15);
const LAST_LOOK: Duration = Duration::from_secs(10 * 60);
/// While no DHT node is known; a list of coordinators ends the wait.
const NOTHING_KNOWN: Duration = Duration::from_secs(30);
/// A seed looks after its own node so often.
const SERVER_LOOK: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(60 * 60);
/// DHT nodes of seeds through which it is entered: one that answers is enough.
const MAX_BOOTSTRAP: usize = 16;
/// One visit with all that it does; the parts have their own, shorter limits.
const VISIT_TIMEOUT: Duration = Duration::from_secs(180);

/// When the next things are due.
#[derive(Debug)]
struct Plan {
    announce: Instant,
    look: Instant,
    looks: Backoff,
    /// What the last visits came to; said again after other news.
    last: Option<(SourceState, String)>,
}

/// Runs until the sources stop. `server`: where a seed's DHT node listens. `coordinators`: DHT nodes
/// that seeds named.
pub(super) async fn run(
    mut turn: Turn,
    server: Option<SocketAddr>,
    mut coordinators: watch::Receiver<Vec<SocketAddrV4>>,
    stats: Arc<Mutex<Stats>>,
) {
    let mut server = server.map(Server::new);
    let now = Instant::now();
    let mut plan =
        Plan { announce: now, look: now, looks: Backoff::new(FIRST_LOOK, LAST_LOOK), last: None };
    loop {
        let settings = turn.settings();
        let wait = if !settings.enabled || settings.dht == DhtUse::Off {
            if let Some(server) = &mut server {
                server.stop();
            }
            lock(&stats).off();
            let why =
                if settings.enabled { "Turned off in the settings." } else { "The mesh is off." };
            turn.say(KIND, SourceState::Off, why);
            REST
        } else {
            let stop = turn.stop.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                wait = work(&turn, &mut server, &coordinators, &mut plan, &stats) => wait,
            }
        };
        let woken = tokio::select! {
            woken = turn.wait_or_addresses(wait) => woken,
            Ok(()) = coordinators.changed() => Woken::Asked,
        };
        match woken {
            Woken::Stop => return,
            Woken::Time => {}
            Woken::Asked | Woken::Settings => plan.now(),
            Woken::Addresses => plan.announce = plan.announce.min(Instant::now() + SETTLE),
            // The last peer is gone: soon, not at once, for one that comes and goes.
            Woken::Company if turn.alone() => {
                plan.looks.reset();
                plan.look = plan.look.min(Instant::now() + FIRST_LOOK);
            }
            Woken::Company => {}
        }
    }
}

/// One turn while it is on: looks after a seed's own node, visits what is due, says how it went.
/// Returns the time until something is due.
async fn work(
    turn: &Turn,
    server: &mut Option<Server>,
    coordinators: &watch::Receiver<Vec<SocketAddrV4>>,
    plan: &mut Plan,
    stats: &Mutex<Stats>,
) -> Duration {
    let others = others(turn, coordinators);
    let port = lock(stats).server_port();
    let trouble = match server {
        Some(server) => server.look_after(&others, stats).await.err(),
        None => None,
    };
    if lock(stats).server_port() != port {
        // Announced, and in the list of coordinators.
        turn.board.changed();
    }
    let own = server.as_ref().and_then(Server::loopback);
    let public = turn.settings().dht == DhtUse::Public;
    let networks = networks(&others, own, public);
    let wait = if networks.is_empty() {
        let reason = "No DHT node is known yet; seeds of the mesh run them.";
        plan.last = Some((SourceState::Waiting, reason.to_owned()));
        NOTHING_KNOWN
    } else {
        visit_all(turn, networks, plan, stats).await;
        plan.next(turn)
    };
    if let Some(trouble) = trouble {
        turn.say(KIND, SourceState::Failed, trouble.to_string());
    } else if let Some((state, reason)) = plan.last.clone() {
        turn.say(KIND, state, reason);
    }
    if server.is_some() { wait.min(SERVER_LOOK) } else { wait }
}

impl Plan {
    fn now(&mut self) {
        self.announce = Instant::now();
        self.look = self.announce;
        self.looks.reset();
    }

    /// Time until something is due.
    fn next(&self, turn: &Turn) -> Duration {
        let own = turn.own.borrow();
        let far = Instant::now() + REST;
        // New addresses wake the task, and being alone does.
        let announce = if own.addresses == Addresses::default() { far } else { self.announce };
        let look = if own.connected < FEW_PEERS { self.look } else { far };
        announce.min(look).saturating_duration_since(Instant::now())
    }
}

/// DHT nodes of other seeds: those of the directory, then those that coordinators named.
fn others(turn: &Turn, coordinators: &watch::Receiver<Vec<SocketAddrV4>>) -> Vec<SocketAddrV4> {
    let mut nodes: Vec<SocketAddrV4> = Vec::new();
    let mut add = |ip: IpAddr, port: u16| {
        if let IpAddr::V4(ip) = ip
            && nodes.len() < MAX_BOOTSTRAP
            && !nodes.contains(&SocketAddrV4::new(ip, port))
        {
            nodes.push(SocketAddrV4::new(ip, port));
        }
    };
    let loopback = Loopback::from_afar(&turn.own.borrow().addresses);
    for peer in turn.directory.borrow().iter() {
        let Some(port) = peer.dht_port.filter(|port| *port != 0) else { continue };
        for address in peer.addresses.cleaned(loopback).direct {
            add(address.ip(), port);
        }
    }
    for address in coordinators.borrow().iter() {
        add(IpAddr::V4(*address.ip()), address.port());
    }
    nodes
}

fn networks(others: &[SocketAddrV4], own: Option<SocketAddrV4>, public: bool) -> Vec<Network> {
    let seeds: Vec<SocketAddrV4> = own.into_iter().chain(others.iter().copied()).collect();
    let seeds = (!seeds.is_empty()).then_some(Network::Seeds(seeds));
    seeds.into_iter().chain(public.then_some(Network::Public)).collect()
}

/// Announces and looks, if it is time, on each network.
async fn visit_all(turn: &Turn, networks: Vec<Network>, plan: &mut Plan, stats: &Mutex<Stats>) {
    let now = Instant::now();
    let own = turn.own.borrow().clone();
    let announce = now >= plan.announce && own.addresses != Addresses::default();
    let look = now >= plan.look && own.connected < FEW_PEERS;
    if !announce && !look {
        return;
    }
    let shelf = Shelf::of(&turn.card.borrow());
    let announcing = announce.then(|| Announce {
        secret: turn.endpoint.secret_key().clone(),
        addresses: own.addresses.clone(),
        port: turn.endpoint.bound_sockets().iter().find(|s| s.is_ipv4()).map(SocketAddr::port),
    });
    let loopback = Loopback::from_afar(&own.addresses);
    let mut results = Vec::new();
    for network in networks {
        let visit = Visit {
            network: network.clone(),
            shelf: shelf.clone(),
            own: turn.own_key,
            now_ms: now_ms(),
            look,
            announce: announcing.clone(),
        };
        let result = visit_apart(visit).await;
        let mut found = 0;
        if let Ok(visited) = &result {
            for entry in &visited.found {
                let addresses = entry.addresses.cleaned(loopback);
                found += u64::from(turn.offer(KIND, entry.key, addresses, None));
            }
            lock(stats).visited(visited, look, found);
        }
        results.push((network, result));
    }
    let announced = results.iter().any(|(_, r)| r.as_ref().is_ok_and(|v| v.announced));
    if announce {
        plan.announce = now + if announced { ANNOUNCE_EVERY } else { ANNOUNCE_AGAIN };
    }
    plan.look = now + plan.looks.next_wait();
    plan.last = Some(describe(&results));
}

/// In a task of its own: `mainline` panics where its thread ends early.
async fn visit_apart(visit: Visit) -> Result<Visited, RoundError> {
    let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(round::visit(visit)));
    match tokio::time::timeout(VISIT_TIMEOUT, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(RoundError::Silent),
    }
}

fn describe(results: &[(Network, Result<Visited, RoundError>)]) -> (SourceState, String) {
    let one = |(network, result): &(Network, Result<Visited, RoundError>)| {
        let whose = match network {
            Network::Seeds(_) => "The seeds' DHT",
            Network::Public => "BitTorrent's public DHT",
        };
        match result {
            Ok(Visited { problem: Some(problem), .. }) => format!("{whose}: {problem}."),
            Ok(visited) => {
                let told = if visited.announced { "This node is announced. " } else { "" };
                let found = visited.found.len();
                format!("{whose} answers. {told}{found} other nodes are listed there.")
            }
            Err(error) => format!("{whose}: {error}."),
        }
    };
    let works = |(_, r): &(Network, Result<Visited, RoundError>)| {
        r.as_ref().is_ok_and(|visited| visited.problem.is_none())
    };
    let state = if results.iter().any(works) { SourceState::Working } else { SourceState::Failed };
    (state, results.iter().map(one).collect::<Vec<_>>().join(" "))
}

fn lock(stats: &Mutex<Stats>) -> std::sync::MutexGuard<'_, Stats> {
    stats.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
