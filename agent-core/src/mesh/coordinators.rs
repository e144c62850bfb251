//! The list that a seed serves: nodes that help others to meet.

use std::net::{IpAddr, SocketAddr};

use agent_api::mesh::{Coordinator, Coordinators};

use super::{
    NodeKey,
    sources::{KnownPeer, OwnInfo},
};

/// Most coordinators in a list: more seeds than a mesh needs, and an answer of a few kilobytes.
pub const MAX_COORDINATORS: usize = 64;

/// What this node offers as a seed.
#[derive(Clone, Debug)]
pub struct SeedOffer {
    pub key: NodeKey,
    /// URL of its relay while it runs.
    pub relay: Option<String>,
    /// UDP port of its DHT node while it runs.
    pub dht_port: Option<u16>,
}

/// The seeds of a directory, those seen last first; this node before them if it is a seed. Nothing
/// is in it that these nodes do not announce themselves.
pub fn list(
    own_offer: Option<&SeedOffer>,
    own: &OwnInfo,
    known: &[KnownPeer],
    now_ms: i64,
) -> Coordinators {
    let own_entry = own_offer.map(|offer| Coordinator {
        node_id: offer.key.to_id(),
        addresses: own.addresses.direct.iter().map(SocketAddr::to_string).collect(),
        relay: offer.relay.clone(),
        dht: dht_address(&own.addresses.direct, offer.dht_port),
        region: own.region.clone(),
        version: own.version.clone(),
        last_seen_ms: now_ms,
    });
    let mut seeds: Vec<&KnownPeer> =
        known.iter().filter(|peer| peer.seed && !own.blocked.contains(&peer.key)).collect();
    seeds.sort_by_key(|peer| (std::cmp::Reverse(peer.last_seen_ms), peer.key));
    let others = seeds.into_iter().map(|peer| Coordinator {
        node_id: peer.key.to_id(),
        addresses: peer.addresses.direct.iter().map(SocketAddr::to_string).collect(),
        relay: peer.relay.clone(),
        dht: dht_address(&peer.addresses.direct, peer.dht_port),
        region: peer.region.clone(),
        version: peer.version.clone(),
        last_seen_ms: peer.last_seen_ms,
    });
    let coordinators = own_entry.into_iter().chain(others).take(MAX_COORDINATORS).collect();
    Coordinators { coordinators }
}

/// Where a seed's DHT node listens. The DHT is IPv4 only (BEP 5); a public address comes first.
fn dht_address(direct: &[SocketAddr], port: Option<u16>) -> Option<String> {
    let port = port?;
    let v4 = direct.iter().filter_map(|address| match address.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let ip = v4.min_by_key(|ip| (ip.is_loopback() || ip.is_link_local(), ip.is_private()))?;
    Some(SocketAddr::from((ip, port)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Addresses;

    fn peer(byte: u8, seed: bool, last_seen_ms: i64) -> KnownPeer {
        KnownPeer {
            key: NodeKey([byte; 32]),
            addresses: Addresses {
                direct: vec![
                    "[2001:db8::1]:4302".parse().expect("an address"),
                    "10.0.0.9:4302".parse().expect("an address"),
                    "203.0.113.7:4302".parse().expect("an address"),
                ],
                relays: Vec::new(),
            },
            name: format!("node {byte}"),
            seed,
            relay: Some("http://203.0.113.7:4303".into()),
            dht_port: Some(8468),
            region: Some("Europe/Berlin".into()),
            version: "0.1.0".into(),
            last_seen_ms,
        }
    }

    #[test]
    fn a_seed_lists_itself_and_then_the_seeds_seen_last() {
        let own = OwnInfo {
            addresses: Addresses {
                direct: vec!["198.51.100.1:4302".parse().expect("an address")],
                relays: Vec::new(),
            },
            ..OwnInfo::default()
        };
        let offer = SeedOffer { key: NodeKey([9; 32]), relay: None, dht_port: Some(8468) };
        let known = [peer(1, true, 10), peer(2, false, 50), peer(3, true, 20)];
        let list = list(Some(&offer), &own, &known, 99).coordinators;
        let ids: Vec<&str> = list.iter().map(|c| &c.node_id.0[..2]).collect();
        assert_eq!(ids, ["09", "03", "01"], "ordinary nodes are not listed");
        assert_eq!(list[0].dht.as_deref(), Some("198.51.100.1:8468"));
        assert_eq!(list[0].last_seen_ms, 99);
        assert_eq!(list[1].dht.as_deref(), Some("203.0.113.7:8468"), "the public address");
        assert_eq!(list[1].addresses.len(), 3);
    }

    #[test]
    fn an_ordinary_node_lists_only_others_and_never_more_than_the_bound() {
        let known: Vec<KnownPeer> = (0..200).map(|n| peer(n, true, i64::from(n))).collect();
        let blocked = std::iter::once(NodeKey([199; 32])).collect();
        let own = OwnInfo { blocked: std::sync::Arc::new(blocked), ..OwnInfo::default() };
        let list = list(None, &own, &known, 0).coordinators;
        assert_eq!(list.len(), MAX_COORDINATORS);
        assert_eq!(list[0].node_id, NodeKey([198; 32]).to_id(), "a blocked seed is left out");
    }
}
