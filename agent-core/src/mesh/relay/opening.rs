//! Connections that are not a client's yet: an HTTP request, a handshake.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::mesh::addr::is_local;

/// With more than that the oldest one is cut: whoever only holds connections open keeps nobody out,
/// and a handshake takes less than a second.
const MOST: usize = 512;
/// Of one source; several nodes behind one router come at once when its line is back.
const OF_ONE_SOURCE: usize = 32;

/// The open ones, oldest first. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    most: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    source: Option<IpAddr>,
    cut: CancellationToken,
}

/// The place of one connection; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    opening: Opening,
    id: u64,
    /// The connection has to end.
    pub(super) cut: CancellationToken,
}

impl Default for Opening {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Opening {
    pub(super) fn of(most: usize) -> Self {
        Self { most, table: Arc::default() }
    }

    /// A place for a new connection, if need be that of the oldest one, of the same source if that
    /// has its share. It is cut by `stop`, too.
    pub(super) fn enter(&self, from: IpAddr, stop: &CancellationToken) -> Place {
        let source = source(from);
        let cut = stop.child_token();
        let mut table = self.lock();
        let id = table.next_id;
        table.next_id += 1;
        let waiting = &mut table.waiting;
        let is_same = |other: &&Waiting| source.is_some() && other.source == source;
        let oldest = if waiting.iter().filter(is_same).count() >= OF_ONE_SOURCE {
            waiting.iter().position(|other| is_same(&other))
        } else {
            (waiting.len() >= self.most).then_some(0)
        };
        if let Some(oldest) = oldest.and_then(|oldest| waiting.remove(oldest)) {
            oldest.cut.cancel();
        }
        waiting.push_back(Waiting { id, source, cut: cut.clone() });
        drop(table);
        Place { opening: self.clone(), id, cut }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.opening.lock().waiting.retain(|waiting| waiting.id != self.id);
    }
}

/// Whom connections are counted for: an address, of IPv6 the network of one customer (RFC 6177).
/// `None`: a local one is counted for nobody, because a proxy in front of the relay has it.
fn source(from: IpAddr) -> Option<IpAddr> {
    match from.to_canonical() {
        ip if is_local(ip) => None,
        IpAddr::V4(ip) => Some(ip.into()),
        IpAddr::V6(ip) => Some(IpAddr::V6((ip.to_bits() >> 64 << 64).into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn are_cut(places: &[Place]) -> Vec<bool> {
        places.iter().map(|place| place.cut.is_cancelled()).collect()
    }

    #[test]
    fn a_new_connection_gets_the_place_of_the_oldest_one() {
        let (opening, stop) = (Opening::of(3), CancellationToken::new());
        let enter = || opening.enter(ip("127.0.0.1"), &stop);
        let mut places = vec![enter(), enter(), enter()];
        assert_eq!(are_cut(&places), [false; 3]);
        places.push(enter());
        assert_eq!(are_cut(&places), [true, false, false, false]);
        // One that became a client leaves its place.
        drop(places.remove(1));
        places.push(enter());
        assert_eq!(are_cut(&places), [true, false, false, false]);
        places.clear();
        assert!(opening.lock().waiting.is_empty(), "no place is lost");
    }

    #[test]
    fn one_source_takes_places_from_itself_only() {
        let (opening, stop) = (Opening::default(), CancellationToken::new());
        let others = ["198.51.100.1", "2001:db8:0:1::1", "10.0.0.1"].map(ip);
        let others = others.map(|other| opening.enter(other, &stop));
        for prefix in ["2001:db8::", "::ffff:198.51.100."] {
            let of_one = |n: usize| {
                let n = if prefix.ends_with("::") { n } else { 9 };
                opening.enter(ip(&format!("{prefix}{n}")), &stop)
            };
            let places: Vec<_> = (0..OF_ONE_SOURCE + 2).map(of_one).collect();
            let cut = are_cut(&places);
            assert!(cut[0] && cut[1] && cut[2..].iter().all(|cut| !cut), "{prefix}: {cut:?}");
        }
        let proxied: Vec<_> = (0..100).map(|_| opening.enter(ip("::1"), &stop)).collect();
        assert_eq!(are_cut(&proxied), [false; 100], "a proxy brings everybody");
        assert_eq!(are_cut(&others), [false; 3]);
        stop.cancel();
        assert_eq!(are_cut(&others), [true; 3]);
    }
}
