//! Nodes on this network, by multicast DNS (RFC 6762) and its service records (RFC 6763).
//!
//! A node shows on its network: its key, its name, its UDP port and addresses, and a short hash by
//! which nodes of one mesh recognise each other. Never a mesh's id, name or secret: everybody on a
//! network reads this.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_api::mesh::{SourceKind, SourceState};
use data_encoding::BASE32_NOPAD;
use swarm_discovery::{Discoverer, DropGuard, IpClass, Peer};

use super::{
    Found,
    turn::{Turn, Woken},
};
use crate::{
    backoff::Backoff,
    mesh::{
        Addresses, MeshId, NodeKey,
        addr::{Loopback, is_local},
    },
};

const KIND: SourceKind = SourceKind::Lan;
/// `_edgecoder._udp.local`.
const SERVICE: &str = "edgecoder";
/// Text attributes: version of this format, node name, short hash of the mesh.
const TXT_VERSION: &str = "v";
const TXT_NAME: &str = "name";
const TXT_MESH: &str = "mesh";
const VERSION: &str = "1";
/// Longest name shown, in bytes.
const NAME_BYTES: usize = 64;
/// Bytes of the mesh's hash: enough to tell meshes on one network apart, too few to be of use
/// elsewhere.
const MESH_HASH_BYTES: usize = 8;
/// Seconds between questions: often right after a start, so that two computers meet while their
/// owner watches; then rarely. A newcomer's own questions are answered at any time.
const FAST_CADENCE: Duration = Duration::from_secs(1);
const SLOW_CADENCE: Duration = Duration::from_secs(30);
const FAST_FOR: Duration = Duration::from_secs(20);
/// Answers per second that nodes on one network give together, about.
const FAST_RESPONSES: f32 = 2.5;
const SLOW_RESPONSES: f32 = 1.0;
/// The same node with the same addresses is handed over again after this time, as long as it is
/// there: so that those of another mesh stay in sight.
const AGAIN_AFTER: Duration = Duration::from_secs(15);
/// Nodes that are remembered for that; more than a network of offices has.
const MAX_NEIGHBOURS: usize = 1_024;
/// Addresses shown: a few networks, IPv4 and IPv6. The answer must fit one packet.
const SHOWN_ADDRESSES: usize = 8;
/// Addresses of this computer change when its network does; looked at so often.
const LOOK_AT_ADDRESSES: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_secs(60 * 60);
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LAST_RETRY: Duration = Duration::from_secs(5 * 60);

/// Why multicast DNS does not work here. Shown to the owner as it is.
#[derive(Debug, thiserror::Error)]
enum LanError {
    #[error(
        "Multicast DNS cannot be used: {0}. Nodes on this network are not found by themselves; use a ticket"
    )]
    Start(String),
    #[error("This node has no UDP port yet.")]
    NoPort,
}

/// What is shown on the network; a change starts the discovery anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    key: NodeKey,
    name: String,
    mesh: String,
    /// Ports and addresses under them.
    addresses: Vec<SocketAddr>,
}

pub(super) async fn run(mut turn: Turn) {
    let mut retries = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let neighbours = Arc::new(Neighbours::default());
    let mut running: Option<(DropGuard, Shown, Duration)> = None;
    let mut fast_until = Instant::now() + FAST_FOR;
    loop {
        let settings = turn.settings();
        let wait = if !settings.enabled || !settings.lan {
            running = None;
            let why = if settings.enabled {
                "Turned off in the settings: this node neither shows itself on its network nor looks there."
            } else {
                "The mesh is off."
            };
            turn.say(KIND, SourceState::Off, why);
            REST
        } else {
            let fast = Instant::now() < fast_until;
            let cadence = if fast { FAST_CADENCE } else { SLOW_CADENCE };
            let shown = Shown::of(&turn);
            let same = running.as_ref().is_some_and(|(_, s, c)| *s == shown && *c == cadence);
            if same {
                LOOK_AT_ADDRESSES
            } else {
                // The old sockets close first; two of one process would hear each other.
                running = None;
                match discover(&turn, &shown, cadence, &neighbours) {
                    Ok(guard) => {
                        retries.reset();
                        running = Some((guard, shown, cadence));
                        if fast { FAST_FOR } else { LOOK_AT_ADDRESSES }
                    }
                    Err(error) => {
                        let state = match error {
                            LanError::NoPort => SourceState::Waiting,
                            LanError::Start(_) => SourceState::Failed,
                        };
                        turn.say(KIND, state, error.to_string());
                        retries.next_wait()
                    }
                }
            }
        };
        if running.is_some() {
            let (state, reason) = neighbours.describe();
            turn.say(KIND, state, reason);
        }
        match turn.wait_or_addresses(wait).await {
            Woken::Stop => return,
            Woken::Time => {}
            Woken::Asked | Woken::Settings => {
                neighbours.forget();
                fast_until = Instant::now() + FAST_FOR;
            }
            // Its network changed: shown anew by the next turn, and looked around at once.
            Woken::Addresses => fast_until = Instant::now() + FAST_FOR,
            Woken::Company => {}
        }
    }
}

impl Shown {
    fn of(turn: &Turn) -> Self {
        let own = turn.own.borrow();
        let mut name = own.name.clone();
        name.truncate(name.floor_char_boundary(NAME_BYTES));
        let mut addresses = own.addresses.cleaned(Loopback::Allowed).direct;
        let far = addresses.iter().all(|address| !is_local(address.ip()));
        if !far {
            // A public address does not lead to this network's nodes faster than a local one.
            addresses.retain(|address| is_local(address.ip()));
        }
        addresses.truncate(SHOWN_ADDRESSES);
        addresses.sort_unstable();
        Self { key: turn.own_key, name, mesh: mesh_hash(&turn.card.borrow().id), addresses }
    }
}

/// The first bytes of blake3 of a mesh's id under a name of its own, so that the id itself (which
/// is all that a public mesh asks for) is never shown.
fn mesh_hash(id: &MeshId) -> String {
    let hash =
        blake3::Hasher::new_derive_key("edgecoder 2026 mdns mesh v1").update(&id.0).finalize();
    hex::encode(&hash.as_bytes()[..MESH_HASH_BYTES])
}

/// A key as one DNS label: 52 characters of at most 63.
fn label(key: NodeKey) -> String {
    BASE32_NOPAD.encode(&key.0).to_lowercase()
}

fn key_of(label: &str) -> Option<NodeKey> {
    let bytes = BASE32_NOPAD.decode(label.to_uppercase().as_bytes()).ok()?;
    Some(NodeKey(bytes.try_into().ok()?))
}

fn discover(
    turn: &Turn,
    shown: &Shown,
    cadence: Duration,
    neighbours: &Arc<Neighbours>,
) -> Result<DropGuard, LanError> {
    if shown.addresses.is_empty() {
        return Err(LanError::NoPort);
    }
    let attribute = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    let attributes = [
        attribute(TXT_VERSION, VERSION),
        attribute(TXT_NAME, &shown.name),
        attribute(TXT_MESH, &shown.mesh),
    ];
    let responses = if cadence == FAST_CADENCE { FAST_RESPONSES } else { SLOW_RESPONSES };
    let heard = {
        let turn = turn.clone();
        let neighbours = Arc::clone(neighbours);
        move |label: &str, peer: &Peer| hear(&turn, &neighbours, label, peer)
    };
    let mut discoverer = Discoverer::new(SERVICE.to_owned(), label(shown.key))
        .with_cadence(cadence)
        .with_response_rate(responses)
        .with_ip_class(IpClass::Auto)
        .with_multicast_interfaces_v4(interfaces(&shown.addresses))
        .with_txt_attributes(attributes)
        .map_err(|error| LanError::Start(error.to_string()))?
        .with_callback(heard);
    for address in &shown.addresses {
        discoverer = discoverer.with_addrs(address.port(), [address.ip()]);
    }
    let handle = tokio::runtime::Handle::current();
    discoverer.spawn(&handle).map_err(|error| LanError::Start(error.to_string()))
}

/// On which networks to ask: all of this computer's own, not only the one that leads outside. With a
/// VPN that is the wrong one.
fn interfaces(addresses: &[SocketAddr]) -> Vec<Ipv4Addr> {
    let mut own: Vec<Ipv4Addr> = Vec::new();
    for address in addresses {
        if let IpAddr::V4(ip) = address.ip()
            && is_local(IpAddr::V4(ip))
            && !own.contains(&ip)
        {
            own.push(ip);
        }
    }
    own
}

/// Called by the discovery for each answer it hears, also this node's own.
fn hear(turn: &Turn, neighbours: &Neighbours, label: &str, peer: &Peer) {
    let Some(key) = key_of(label).filter(|key| *key != turn.own_key) else { return };
    if peer.is_expiry() {
        neighbours.lost(key);
        return;
    }
    let direct = peer.addrs().iter().map(|(ip, port)| SocketAddr::new(*ip, *port));
    let Some(said) = Said::read(direct, |name| peer.txt_attribute(name).flatten()) else { return };
    let same_mesh = said.mesh == mesh_hash(&turn.card.borrow().id);
    if neighbours.is_news(key, &said.addresses, same_mesh) {
        let Said { addresses, name, .. } = said;
        turn.offer_found(Found { peer: key, addresses, source: KIND, name, foreign: !same_mesh });
        let (state, reason) = neighbours.describe();
        turn.say(KIND, state, reason);
    }
}

/// What a neighbour's packet says, besides its key.
#[derive(Debug)]
struct Said<'a> {
    addresses: Addresses,
    name: Option<String>,
    mesh: &'a str,
}

impl<'a> Said<'a> {
    /// `None`: it cannot be reached, or speaks another version. Anybody on the network may send
    /// anything.
    fn read(
        direct: impl Iterator<Item = SocketAddr>,
        text: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<Self> {
        let text = |name: &str| text(name).unwrap_or_default();
        let addresses = Addresses { direct: direct.collect(), relays: Vec::new() };
        let addresses = addresses.cleaned(Loopback::Allowed);
        if text(TXT_VERSION) != VERSION || addresses.direct.is_empty() {
            return None;
        }
        let mut name: String = text(TXT_NAME).chars().filter(|c| !c.is_control()).collect();
        name.truncate(name.floor_char_boundary(NAME_BYTES));
        let name = (!name.is_empty()).then_some(name);
        Some(Self { addresses, name, mesh: text(TXT_MESH) })
    }
}

/// Who is there, so that nobody is handed over with every packet.
#[derive(Debug, Default)]
struct Neighbours {
    known: Mutex<HashMap<NodeKey, Neighbour>>,
}

#[derive(Debug)]
struct Neighbour {
    addresses: Addresses,
    same_mesh: bool,
    told: Instant,
}

impl Neighbours {
    fn is_news(&self, key: NodeKey, addresses: &Addresses, same_mesh: bool) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let room = known.len() < MAX_NEIGHBOURS;
        if !room && !known.contains_key(&key) && !forget_oldest(&mut known, now) {
            return false;
        }
        match known.get_mut(&key) {
            Some(old)
                if old.addresses == *addresses
                    && old.same_mesh == same_mesh
                    && now.duration_since(old.told) < AGAIN_AFTER =>
            {
                return false;
            }
            Some(old) => {
                *old = Neighbour { addresses: addresses.clone(), same_mesh, told: now };
            }
            None => {
                let addresses = addresses.clone();
                known.insert(key, Neighbour { addresses, same_mesh, told: now });
            }
        }
        true
    }

    fn lost(&self, key: NodeKey) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn describe(&self) -> (SourceState, String) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = known.values().filter(|neighbour| neighbour.same_mesh).count();
        let others = known.len() - ours;
        match (ours, others) {
            (0, 0) => (
                SourceState::Waiting,
                "It asks on this network; no other node answers yet.".to_owned(),
            ),
            (ours, 0) => (SourceState::Working, format!("{ours} of this mesh on this network.")),
            (ours, others) => (
                SourceState::Working,
                format!("{ours} of this mesh on this network, {others} of other meshes."),
            ),
        }
    }
}

/// Makes room for a newcomer. Somebody who fills the table with names that answer no more keeps
/// nobody out; a node that is still there is only handed over once more. `false`: all were heard of
/// just now.
fn forget_oldest(known: &mut HashMap<NodeKey, Neighbour>, now: Instant) -> bool {
    let oldest = known.iter().min_by_key(|(_, neighbour)| neighbour.told);
    let old = oldest.filter(|(_, oldest)| now.duration_since(oldest.told) >= AGAIN_AFTER);
    let Some(key) = old.map(|(key, _)| *key) else { return false };
    known.remove(&key).is_some()
}

#[cfg(test)]
mod tests;
