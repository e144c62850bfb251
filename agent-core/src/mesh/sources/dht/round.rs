//! One visit to the DHT: a node of our own that is built, asked and dropped again.
//!
//! `mainline` runs a thread per node that wakes 20 times a second, and asks its bootstrap nodes
//! without pause while none answers. So only seeds keep a node; the others visit.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use mainline::{Dht, MutableItem, async_dht::AsyncDht};

use super::slot::{Entry, SLOTS, Shelf, day_of, merge, salt, slot_of};
use crate::mesh::{Addresses, NodeKey};

/// For finding a first DHT node.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(15);
/// Packets get lost; each try takes two seconds where nobody answers.
const BOOTSTRAP_TRIES: u32 = 3;
/// For one question or one announcement; on the public DHT a few seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Slots asked at the same time.
const AT_ONCE: usize = 4;
/// Other nodes after which looking ends: more than a joining node dials at once.
const ENOUGH: usize = 8;
/// Answers that are read of one slot: as many as the nodes that store an item (20), and spare.
const MAX_ITEMS: usize = 32;
/// Two nodes of one slot may write at the same time; then one reads again.
const TRIES: usize = 3;

/// Why a visit brought nothing. Shown to the owner as it is.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error("a UDP port for it cannot be opened: {0}")]
    Bind(String),
    #[error("none of its nodes answers")]
    Silent,
    #[error("this node could not announce itself: {0}")]
    Announce(String),
}

/// Which DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// The one of the mesh's seeds, entered through these nodes.
    Seeds(Vec<SocketAddrV4>),
    /// BitTorrent's.
    Public,
}

/// What to do there.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) network: Network,
    pub(super) shelf: Shelf,
    pub(super) own: NodeKey,
    pub(super) now_ms: i64,
    pub(super) look: bool,
    /// Announce with these addresses, signed by this key, and this UDP port under the address
    /// that the DHT sees.
    pub(super) announce: Option<Announce>,
}

#[derive(Clone, Debug)]
pub(super) struct Announce {
    pub(super) secret: iroh::SecretKey,
    pub(super) addresses: Addresses,
    pub(super) port: Option<u16>,
}

/// What a visit brought.
#[derive(Debug, Default)]
pub(super) struct Visited {
    pub(super) found: Vec<Entry>,
    pub(super) announced: bool,
    /// Nodes in the routing table at the end.
    pub(super) nodes: usize,
    pub(super) size_estimate: Option<usize>,
    /// Looking worked, announcing did not.
    pub(super) problem: Option<RoundError>,
}

pub(super) async fn visit(visit: Visit) -> Result<Visited, RoundError> {
    let dht = open(visit.network.clone()).await?;
    let up = tokio::time::timeout(BOOTSTRAP_TIMEOUT, is_up(&dht)).await;
    if !up.unwrap_or(false) {
        return Err(RoundError::Silent);
    }
    let mut visited = Visited::default();
    if visit.look {
        visited.found = look(&dht, &visit).await;
    }
    if let Some(announcing) = &visit.announce {
        match announce(&dht, &visit, announcing).await {
            Ok(()) => visited.announced = true,
            Err(error) => visited.problem = Some(error),
        }
    }
    visited.nodes = dht.to_bootstrap().await.len();
    let (estimate, _) = dht.info().await.dht_size_estimate();
    visited.size_estimate = (visit.network == Network::Public).then_some(estimate);
    Ok(visited)
}

/// Whether a DHT node answered. What `bootstrapped` says is whether one named others, which a mesh's
/// only seed cannot.
async fn is_up(dht: &AsyncDht) -> bool {
    for _ in 0..BOOTSTRAP_TRIES {
        dht.bootstrapped().await;
        if !dht.to_bootstrap().await.is_empty() {
            return true;
        }
    }
    false
}

async fn open(network: Network) -> Result<AsyncDht, RoundError> {
    // Building resolves names and waits for its thread.
    let built = tokio::task::spawn_blocking(move || {
        let mut builder = Dht::builder();
        builder.port(0);
        if let Network::Seeds(nodes) = &network {
            builder.bootstrap(nodes);
            if nodes.iter().all(|node| node.ip().is_loopback()) {
                builder.bind_address(Ipv4Addr::LOCALHOST);
            }
        }
        builder.build()
    });
    match built.await {
        Ok(Ok(dht)) => Ok(dht.as_async()),
        Ok(Err(error)) => Err(RoundError::Bind(error.to_string())),
        Err(error) => Err(RoundError::Bind(error.to_string())),
    }
}

/// Reads today's slots, and yesterday's if those are empty: in the first minutes after midnight.
async fn look(dht: &AsyncDht, visit: &Visit) -> Vec<Entry> {
    let today = day_of(visit.now_ms);
    let found = look_at(dht, visit, today).await;
    if found.is_empty() { look_at(dht, visit, today.saturating_sub(1)).await } else { found }
}

/// Reads a day's slots, the own one first, until enough nodes are found.
async fn look_at(dht: &AsyncDht, visit: &Visit, day: u32) -> Vec<Entry> {
    let first = slot_of(visit.own);
    let slots = (0..SLOTS).map(|n| (first + n) % SLOTS);
    let mut answers = stream::iter(slots)
        .map(|slot| read_slot(dht, &visit.shelf, day, slot, visit.now_ms))
        .buffered(AT_ONCE);
    let mut found = Vec::new();
    while let Some((entries, _)) = answers.next().await {
        found.extend(entries.into_iter().filter(|entry| entry.key != visit.own));
        found = merge(found);
        if found.len() >= ENOUGH {
            break;
        }
    }
    found
}

/// Entries of a slot over all answers, so that one liar hides nothing; and the highest sequence
/// number.
async fn read_slot(
    dht: &AsyncDht,
    shelf: &Shelf,
    day: u32,
    slot: u8,
    now_ms: i64,
) -> (Vec<Entry>, Option<i64>) {
    let mut items = dht.get_mutable(&shelf.public(), Some(&salt(day, slot)), None).take(MAX_ITEMS);
    let mut entries = Vec::new();
    let mut newest = None;
    let reading = async {
        while let Some(item) = items.next().await {
            newest = newest.max(Some(item.seq()));
            entries = merge(
                std::mem::take(&mut entries).into_iter().chain(shelf.decode(item.value(), now_ms)),
            );
        }
    };
    // What came until then counts.
    let _ = tokio::time::timeout(QUERY_TIMEOUT, reading).await;
    (entries, newest)
}

async fn announce(dht: &AsyncDht, visit: &Visit, own: &Announce) -> Result<(), RoundError> {
    let failed = |why: &str| RoundError::Announce(why.to_owned());
    let mut addresses = own.addresses.clone();
    let seen_as = dht.info().await.public_address();
    if let (Some(seen), Some(port)) = (seen_as, own.port) {
        // Behind a NAT that keeps ports, and with a forwarded port, this is where others reach it.
        addresses.direct.insert(0, SocketAddrV4::new(*seen.ip(), port).into());
    }
    let entry = visit
        .shelf
        .own_entry(&own.secret, &addresses, visit.now_ms)
        .ok_or_else(|| failed("its addresses cannot be written"))?;
    let (day, slot) = (day_of(visit.now_ms), slot_of(visit.own));
    let mut problem = failed("it did not answer in time");
    for _ in 0..TRIES {
        let (others, seq) = read_slot(dht, &visit.shelf, day, slot, visit.now_ms).await;
        let entries = merge(std::iter::once(entry.clone()).chain(others));
        let value = visit.shelf.encode(entries).ok_or_else(|| failed("its entry is too large"))?;
        let next = seq.unwrap_or(0).saturating_add(1);
        let item = MutableItem::new(visit.shelf.signing(), &value, next, Some(&salt(day, slot)));
        match tokio::time::timeout(QUERY_TIMEOUT, dht.put_mutable(item, seq)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => problem = failed(&error.to_string()),
            Err(_) => {}
        }
    }
    Err(problem)
}
