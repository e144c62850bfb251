//! Opens this node's iroh endpoint: its key, its sockets, its limits. No vendor's services.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use agent_api::mesh::MeshSettings;
use ed25519_dalek::SigningKey;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayMode, RelayUrl, SecretKey, TransportAddr,
    endpoint::{BindOpts, Builder, PortmapperConfig, QuicTransportConfig, VarInt, presets},
};

use super::{ALPN, gate::Gate, lookup::Lookup};
use crate::mesh::{Addresses, NodeKey};

/// Streams that one peer may have open at the same time: the control stream, and requests. A node
/// runs some dozens of tasks at most.
const STREAMS: u32 = 64;
/// Kept alive, so that NATs keep the way open: many forget it after 30 s, some after 10.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A connection on which nothing was heard for so long is over. Membership gives up earlier.
const IDLE: Duration = Duration::from_secs(30);
/// Unread bytes of one stream: 100 Mbit/s over 100 ms are 1.25 MB.
const STREAM_WINDOW: u32 = 1 << 20;
/// Unread bytes of one connection, and unacknowledged ones. 32 peers that all stop reading in the
/// middle of a transfer cost 64 MiB; in practice streams are read and it stays empty.
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Relays at the same time: the owner's, those of tickets, those of seeds.
pub(super) const RELAYS: usize = 10;

/// Why the network could not be opened. Shown to the owner as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(
        "UDP port {port} cannot be opened: {reason}. Choose another port in the mesh settings, or 0 for any"
    )]
    Port { port: u16, reason: String },
    #[error("the network cannot be opened: {0}")]
    Bind(String),
}

/// What the endpoint is opened with.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) key: &'a SigningKey,
    /// Instead of the settings' port on all interfaces.
    pub(super) bind: Option<SocketAddr>,
    pub(super) settings: &'a MeshSettings,
    pub(super) relays: &'a BTreeSet<RelayUrl>,
    pub(super) gate: Gate,
    pub(super) lookup: Lookup,
}

pub(super) async fn open(opening: Opening<'_>) -> Result<Endpoint, OpenError> {
    let port = opening.bind.map_or(opening.settings.port, |bind| bind.port());
    let port_mapping = if opening.settings.port_mapping && opening.bind.is_none() {
        PortmapperConfig::default()
    } else {
        PortmapperConfig::Disabled
    };
    let builder = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(opening.key.as_bytes()))
        .alpns(vec![ALPN.to_vec()])
        // Custom even when empty: relays come and go while the node runs.
        .relay_mode(RelayMode::custom(opening.relays.iter().cloned()))
        .portmapper_config(port_mapping)
        .transport_config(transport())
        .address_lookup(opening.lookup)
        .hooks(opening.gate);
    let builder = bind(builder, opening.bind, opening.settings.port)?;
    let endpoint = builder.bind().await.map_err(|error| match port {
        0 => OpenError::Bind(error.to_string()),
        port => OpenError::Port { port, reason: error.to_string() },
    })?;
    // `RelayMode::custom` assumes that every relay also answers over QUIC.
    for relay in opening.relays {
        insert_relay(&endpoint, relay.clone()).await;
    }
    Ok(endpoint)
}

fn bind(builder: Builder, bind: Option<SocketAddr>, port: u16) -> Result<Builder, OpenError> {
    let error = |error: iroh::endpoint::InvalidSocketAddr| OpenError::Bind(error.to_string());
    if let Some(bind) = bind {
        return builder.clear_ip_transports().bind_addr(bind).map_err(error);
    }
    // IPv6 may be turned off on this machine.
    let optional = BindOpts::default().set_is_required(false);
    builder
        .clear_ip_transports()
        .bind_addr(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        .and_then(|b| {
            b.bind_addr_with_opts(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), optional)
        })
        .map_err(error)
}

fn transport() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .keep_alive_interval(KEEP_ALIVE)
        .default_path_keep_alive_interval(KEEP_ALIVE)
        .max_idle_timeout(IDLE.try_into().ok())
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        // Nothing here uses them; a peer that does is cut off.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .build()
}

/// Tells the endpoint of a relay. Only one with TLS can answer QUIC address discovery.
pub(super) async fn insert_relay(endpoint: &Endpoint, relay: RelayUrl) {
    let quic = (relay.scheme() == "https").then(Default::default);
    let config = Arc::new(RelayConfig::new(relay.clone(), quic));
    endpoint.insert_relay(relay, config).await;
}

/// How iroh writes where a node may be reached. `None`: that is no key.
pub(super) fn to_iroh(key: NodeKey, addresses: &Addresses) -> Option<EndpointAddr> {
    let id = EndpointId::from_bytes(&key.0).ok()?;
    let direct = addresses.direct.iter().copied().map(TransportAddr::Ip);
    let relays = addresses.relays.iter().filter_map(|url| url.parse().ok());
    Some(EndpointAddr::from_parts(id, direct.chain(relays.map(TransportAddr::Relay))))
}

/// How we write where this node is reached; bounded.
pub(super) fn from_iroh(addr: &EndpointAddr) -> Addresses {
    Addresses {
        direct: addr.ip_addrs().copied().take(Addresses::MAX_DIRECT).collect(),
        relays: addr.relay_urls().map(ToString::to_string).take(Addresses::MAX_RELAYS).collect(),
    }
}
