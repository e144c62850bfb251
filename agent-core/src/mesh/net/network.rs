//! This machine's network: which addresses are on its own links, when that changes, and whether
//! the machine slept.

use std::{fmt, net::IpAddr, time::Duration};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use iroh::Watcher as _;
use netwatch::{interfaces::IpNet, netmon};

use crate::mesh::membership::io::Now;

/// A wall clock that ran so much further than the monotonic one: the machine slept, or somebody set
/// the clock. Above what NTP corrects in one step after the start, below what a peer waits for us.
const SLEEP: Duration = Duration::from_secs(10);

/// A range of addresses on one of this machine's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    addr: IpAddr,
    prefix: u8,
}

impl Range {
    pub(super) fn new(addr: IpAddr, prefix: u8) -> Self {
        Self { addr, prefix }
    }

    fn contains(self, other: IpAddr) -> bool {
        match (self.addr, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// Whether the address is on a link of this machine, or this machine itself. Public IPv4 ranges do
/// not count: a provider's subnet is shared with strangers.
pub(super) fn is_on_link(ranges: &[Range], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if ip.is_loopback() || ranges.iter().any(|range| range.addr == ip) {
        return true;
    }
    let private = match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        // A global prefix of one link is not shared with other links.
        IpAddr::V6(_) => true,
    };
    private && ranges.iter().any(|range| range.contains(ip))
}

/// Whether the address is one that only nodes on this network can have: private, link-local, or this
/// machine's own. A global IPv6 prefix says nothing about who is on its link (a data centre, a
/// mobile network), so it does not count where strangers would be let in for it.
pub(super) fn is_neighbour(ranges: &[Range], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let own = ip.is_loopback() || ranges.iter().any(|range| range.addr == ip);
    let local = match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    own || (local && is_on_link(ranges, ip))
}

/// Follows the interfaces. Without a monitor (the system does not allow one) nothing is reported
/// and only loopback counts as this network.
pub(super) struct Network {
    /// Ends when dropped.
    _monitor: Option<netmon::Monitor>,
    states: BoxStream<'static, netmon::State>,
    last: Option<netmon::State>,
    ranges: Vec<Range>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("ranges", &self.ranges).finish_non_exhaustive()
    }
}

impl Network {
    pub(super) async fn start() -> Self {
        let monitor = match netmon::Monitor::new().await {
            Ok(monitor) => Some(monitor),
            Err(error) => {
                tracing::warn!("changes of the network are not noticed: {error}");
                None
            }
        };
        let mut network = Self {
            _monitor: None,
            states: stream::pending().boxed(),
            last: None,
            ranges: Vec::new(),
        };
        if let Some(monitor) = &monitor {
            network.read(monitor.interface_state().get());
            network.states = monitor.interface_state().stream().boxed();
        }
        network._monitor = monitor;
        network
    }

    pub(super) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Returns at the next change that may have cut connections. Safe to cancel.
    pub(super) async fn changed(&mut self) {
        loop {
            match self.states.next().await {
                Some(state) => {
                    if self.read(state) {
                        return;
                    }
                }
                None => self.states = stream::pending().boxed(),
            }
        }
    }

    /// Whether it is a change that matters.
    fn read(&mut self, new: netmon::State) -> bool {
        let major = self.last.as_ref().is_some_and(|old| new.is_major_change(old));
        self.ranges = ranges_of(&new);
        self.last = Some(new);
        major
    }
}

fn ranges_of(state: &netmon::State) -> Vec<Range> {
    let up = state.interfaces.values().filter(|interface| interface.is_up());
    up.flat_map(|interface| interface.addrs().map(|net| to_range(&net))).collect()
}

fn to_range(net: &IpNet) -> Range {
    match net {
        IpNet::V4(net) => Range::new(IpAddr::V4(net.addr()), net.prefix_len()),
        IpNet::V6 { net, .. } => Range::new(IpAddr::V6(net.addr()), net.prefix_len()),
    }
}

/// Notices that the machine slept: the monotonic clock stands still then, the wall clock does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct SleepWatch {
    last: Now,
}

impl SleepWatch {
    pub(super) fn new(now: Now) -> Self {
        Self { last: now }
    }

    /// Called often; true once after each jump.
    pub(super) fn slept(&mut self, now: Now) -> bool {
        let mono = now.mono.saturating_sub(self.last.mono);
        let wall = u64::try_from(now.unix_ms.saturating_sub(self.last.unix_ms)).unwrap_or(0);
        self.last = now;
        // Some systems count sleep in the monotonic clock: then our own long silence tells.
        Duration::from_millis(wall).saturating_sub(mono) > SLEEP || mono > SLEEP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn this_network_is_what_shares_a_link_with_us() {
        let ranges = [
            Range::new(ip("192.168.7.5"), 24),
            Range::new(ip("203.0.113.9"), 24),
            Range::new(ip("2001:db8:0:1::5"), 64),
            Range::new(ip("fe80::1"), 64),
        ];
        for near in [
            "127.0.0.1",
            "::1",
            "192.168.7.200",
            "203.0.113.9",
            "2001:db8:0:1::99",
            "fe80::abcd",
            "::ffff:192.168.7.8",
        ] {
            assert!(is_on_link(&ranges, ip(near)), "{near} is near");
        }
        for far in ["192.168.8.1", "10.0.0.1", "203.0.113.10", "2001:db8:0:2::5", "198.51.100.1"] {
            assert!(!is_on_link(&ranges, ip(far)), "{far} is far");
        }
    }

    #[test]
    fn a_shared_global_prefix_makes_no_neighbour() {
        let ranges = [
            Range::new(ip("192.168.7.5"), 24),
            Range::new(ip("2001:db8:0:1::5"), 64),
            Range::new(ip("fd00:1::5"), 64),
        ];
        for near in ["192.168.7.9", "fd00:1::9", "2001:db8:0:1::5", "127.0.0.1"] {
            assert!(is_neighbour(&ranges, ip(near)), "{near}");
        }
        for stranger in ["2001:db8:0:1::99", "192.168.8.9", "fd00:2::9", "203.0.113.9"] {
            assert!(!is_neighbour(&ranges, ip(stranger)), "{stranger}");
        }
    }

    #[test]
    fn a_sleep_is_noticed_once_and_a_clock_set_back_is_none() {
        let at = |mono, unix_ms| Now { mono: Duration::from_secs(mono), unix_ms };
        let mut watch = SleepWatch::new(at(0, 1_000_000));
        assert!(!watch.slept(at(1, 1_001_000)));
        assert!(watch.slept(at(2, 1_062_000)), "the lid was closed for a minute");
        assert!(!watch.slept(at(3, 1_063_000)));
        assert!(!watch.slept(at(4, 3_000)), "the clock was set back");
        assert!(!watch.slept(at(5, 4_000)));
    }
}
