//! Addresses from others are hints: what cannot be an address of a node is dropped.

use std::net::{IpAddr, SocketAddr};

use super::context::OwnInfo;
use crate::mesh::{Addresses, addr::is_own_relay};

/// Whether addresses of this computer itself (127.0.0.1, ::1) may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loopback {
    Keep,
    Drop,
}

impl Loopback {
    /// For sources far away: only a node that itself has nothing but loopback can mean them.
    pub(super) fn as_own(own: &OwnInfo) -> Self {
        let direct = &own.addresses.direct;
        let only = !direct.is_empty() && direct.iter().all(|a| a.ip().is_loopback());
        if only { Self::Keep } else { Self::Drop }
    }
}

/// Drops what no node can have, doubles, and what is over the bounds of [`Addresses`].
pub(super) fn clean(addresses: Addresses, loopback: Loopback) -> Addresses {
    let mut direct: Vec<SocketAddr> = Vec::new();
    for address in addresses.direct {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let usable =
            usable(&address) && (loopback == Loopback::Keep || !address.ip().is_loopback());
        if usable && !direct.contains(&address) {
            direct.push(address);
        }
    }
    direct.truncate(Addresses::MAX_DIRECT);
    let mut relays: Vec<String> = Vec::new();
    for relay in addresses.relays {
        let usable = is_relay_url(&relay) && (loopback == Loopback::Keep || !is_own_relay(&relay));
        if usable && !relays.contains(&relay) {
            relays.push(relay);
        }
    }
    relays.truncate(Addresses::MAX_RELAYS);
    Addresses { direct, relays }
}

fn usable(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// `http` or `https` with a host, at most [`Addresses::MAX_URL`] bytes, no user and password.
pub(super) fn is_relay_url(text: &str) -> bool {
    text.len() <= Addresses::MAX_URL
        && reqwest::Url::parse(text).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
        })
}

/// Of a network that many places have (RFC 1918, RFC 4193, link-local, this computer): of no use to
/// a node elsewhere.
pub(super) fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(list: &[&str]) -> Addresses {
        let direct = list.iter().map(|text| text.parse().expect("an address")).collect();
        Addresses { direct, relays: Vec::new() }
    }

    #[test]
    fn addresses_that_no_node_can_have_are_dropped() {
        let given = direct(&[
            "0.0.0.0:4302",
            "192.168.1.5:0",
            "224.0.0.251:4302",
            "255.255.255.255:4302",
            "[ff02::1]:4302",
            "[::]:4302",
            "127.0.0.1:4302",
            "192.168.1.5:4302",
            "[::ffff:192.168.1.5]:4302",
        ]);
        let kept = clean(given.clone(), Loopback::Drop);
        assert_eq!(kept, direct(&["192.168.1.5:4302"]));
        let kept = clean(given, Loopback::Keep);
        assert_eq!(kept, direct(&["127.0.0.1:4302", "192.168.1.5:4302"]));
    }

    #[test]
    fn lists_from_others_are_cut_to_the_bounds() {
        let many = Addresses {
            direct: (1..100).map(|n| SocketAddr::from(([10, 0, 0, n], 4302))).collect(),
            relays: (0..9).map(|n| format!("https://relay{n}.example")).collect(),
        };
        let kept = clean(many, Loopback::Drop);
        assert_eq!(kept.direct.len(), Addresses::MAX_DIRECT);
        assert_eq!(kept.relays.len(), Addresses::MAX_RELAYS);
    }

    #[test]
    fn only_web_addresses_are_relays() {
        assert!(is_relay_url("http://203.0.113.7:4303/"));
        assert!(is_relay_url("https://relay.example"));
        let long = format!("https://relay.example/{}", "x".repeat(200));
        for bad in ["", "relay.example", "ftp://relay.example", "https://a:b@relay.example", &long]
        {
            assert!(!is_relay_url(bad), "{bad}");
        }
    }
}
