//! Where a node may be reached.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Hints, never trusted: whoever answers has to prove that it holds the node's key. Bounded by
/// [`Addresses::MAX_DIRECT`] and [`Addresses::MAX_RELAYS`]; cleaned when they come from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// UDP.
    pub direct: Vec<SocketAddr>,
    /// Relay URLs.
    pub relays: Vec<String>,
}

/// Whether a list may name this computer itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// It came from somewhere near (ticket, LAN, this node's own table), or this node has nothing
    /// but loopback itself.
    Allowed,
    /// Somebody far away named it: it would only make this node knock at its own ports.
    Dropped,
}

impl Loopback {
    /// In what sources far away say: only a node that itself has nothing but loopback can mean it.
    pub fn from_afar(own: &Addresses) -> Self {
        if own.is_only_loopback() { Self::Allowed } else { Self::Dropped }
    }
}

impl Addresses {
    /// A machine with several networks, IPv4 and IPv6, and a public address.
    pub const MAX_DIRECT: usize = 12;
    pub const MAX_RELAYS: usize = 2;
    /// Longest relay URL.
    pub const MAX_URL: usize = 128;

    pub fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.relays.is_empty()
    }

    /// What can be dialed at all, each once, in the given order, cut to the bounds.
    #[must_use]
    pub fn cleaned(&self, loopback: Loopback) -> Self {
        let mut clean = Self::default();
        for address in &self.direct {
            // An IPv4 address in IPv6 clothes is the same place.
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let wanted = dialable(address, loopback) && !clean.direct.contains(&address);
            if wanted && clean.direct.len() < Self::MAX_DIRECT {
                clean.direct.push(address);
            }
        }
        for relay in &self.relays {
            let usable =
                is_relay_url(relay) && (loopback == Loopback::Allowed || !is_own_relay(relay));
            let wanted = usable && !clean.relays.contains(relay);
            if wanted && clean.relays.len() < Self::MAX_RELAYS {
                clean.relays.push(relay.clone());
            }
        }
        clean
    }

    /// Puts `newer` first and keeps of the rest what fits.
    pub fn merge(&mut self, newer: &Self) {
        if newer.is_empty() {
            return;
        }
        let mut merged = newer.clone();
        for address in &self.direct {
            if merged.direct.len() < Self::MAX_DIRECT && !merged.direct.contains(address) {
                merged.direct.push(*address);
            }
        }
        for relay in &self.relays {
            if merged.relays.len() < Self::MAX_RELAYS && !merged.relays.contains(relay) {
                merged.relays.push(relay.clone());
            }
        }
        *self = merged;
    }

    /// There is no other way to this node than from its own computer.
    pub fn is_only_loopback(&self) -> bool {
        !self.direct.is_empty()
            && self.direct.iter().all(|address| address.ip().is_loopback())
            && self.relays.iter().all(|relay| is_own_relay(relay))
    }
}

fn dialable(address: SocketAddr, loopback: Loopback) -> bool {
    let ip = address.ip();
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    if ip.is_loopback() {
        return loopback == Loopback::Allowed;
    }
    match ip {
        // "This network" (RFC 791) and the reserved block with the broadcast address (RFC 1112).
        IpAddr::V4(ip) => ip.octets()[0] != 0 && ip.octets()[0] < 240,
        // A link-local address means nothing without its interface, which is not on the wire.
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    }
}

/// `http` or `https` with a host, at most [`Addresses::MAX_URL`] bytes, no user and password, nothing
/// that could hide another meaning.
pub fn is_relay_url(url: &str) -> bool {
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !b"@\\\"<>`".contains(&byte));
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    // A parser of URLs forgives (`https:///a` is `https://a`); a host that is not there is no typo.
    let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next());
    let named = host.is_some_and(|host| !host.is_empty() && !host.starts_with(':'));
    url.len() <= Addresses::MAX_URL
        && plain
        && is_web
        && named
        && reqwest::Url::parse(url).is_ok_and(|url| url.has_host())
}

/// Of a network that many places have (RFC 1918, RFC 4193, link-local, this computer): of no use to
/// a node elsewhere.
pub fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// Whether a relay's URL leads to this computer itself, or to what answers only on its link: somebody
/// far away who names it would have this node ask its own services (CWE-918).
pub fn is_own_relay(url: &str) -> bool {
    // Parsed as the one who connects does: `http://2130706433` is 127.0.0.1, too.
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.octets()[0] == 0,
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(direct: &[&str], relays: &[&str]) -> Addresses {
        Addresses {
            direct: direct.iter().map(|text| text.parse().expect("an address")).collect(),
            relays: relays.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    #[test]
    fn garbage_in_an_address_list_is_dropped_and_the_rest_kept() {
        let garbage = list(
            &[
                "0.0.0.0:4302",
                "[::]:4302",
                "192.168.1.7:0",
                "224.0.0.251:5353",
                "[ff02::fb]:5353",
                "255.255.255.255:4302",
                "0.1.2.3:9",
                "[fe80::1]:4302",
                "192.168.1.7:4302",
                "[::ffff:192.168.1.7]:4302",
                "127.0.0.1:4302",
                "[::1]:4302",
                "[2001:db8::7]:4302",
            ],
            &[
                "",
                "ftp://relay.example",
                "https://",
                "https://:443",
                "https://a@b.example",
                "https://relay.example",
            ],
        );
        let clean = garbage.cleaned(Loopback::Dropped);
        assert_eq!(
            clean,
            list(&["192.168.1.7:4302", "[2001:db8::7]:4302"], &["https://relay.example"])
        );
        let near = garbage.cleaned(Loopback::Allowed);
        assert!(near.direct.iter().any(|address| address.ip().is_loopback()));
    }

    #[test]
    fn only_web_addresses_are_relays() {
        assert!(is_relay_url("http://203.0.113.7:4303/"));
        assert!(is_relay_url("http://[2001:db8::7]:4303"));
        assert!(is_relay_url("https://relay.example"));
        let long = format!("https://relay.example/{}", "x".repeat(200));
        for bad in [
            "",
            "relay.example",
            "ftp://relay.example",
            "https:///relay.example",
            "https://a:b@relay.example",
            "https://[relay",
            "https://relay.example:99999",
            &long,
        ] {
            assert!(!is_relay_url(bad), "{bad}");
        }
    }

    #[test]
    fn who_has_nothing_but_loopback_may_be_told_of_it() {
        let told = |own: &[&str]| Loopback::from_afar(&list(own, &["http://127.0.0.1:4303"]));
        assert_eq!(told(&["127.0.0.1:4302", "[::1]:4302"]), Loopback::Allowed);
        assert_eq!(told(&["127.0.0.1:4302", "192.168.1.7:4302"]), Loopback::Dropped);
        assert_eq!(told(&[]), Loopback::Dropped);
    }

    #[test]
    fn a_relay_on_this_computer_is_not_taken_from_far_away() {
        for own in [
            "http://127.0.0.1:4303",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]:4303",
            "http://[::ffff:127.0.0.1]",
            "http://169.254.169.254/latest",
            "http://[fe80::1]",
            "http://0.0.0.0:80",
            "http://[::]",
            "http://localhost:11434",
            "http://LOCALHOST.:11434",
            "https://a.localhost",
        ] {
            let given = list(&[], &[own]);
            assert!(given.cleaned(Loopback::Dropped).is_empty(), "{own}");
            assert_eq!(given.cleaned(Loopback::Allowed), given, "{own}");
        }
        let usable = list(&[], &["http://192.168.1.7:4303", "https://relay.example"]);
        assert_eq!(usable.cleaned(Loopback::Dropped), usable);
    }

    #[test]
    fn a_long_list_is_cut() {
        let direct = (1..=200).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        let relays = (0..50).map(|n| format!("https://r{n}.example")).collect();
        let mut known = list(&["10.9.9.9:1"], &[]);
        let clean = Addresses { direct, relays }.cleaned(Loopback::Dropped);
        assert_eq!(clean.direct.len(), Addresses::MAX_DIRECT);
        assert_eq!(clean.relays.len(), Addresses::MAX_RELAYS);
        known.merge(&clean);
        assert_eq!(known, clean, "what is newer comes first and the list stays bounded");
    }
}
