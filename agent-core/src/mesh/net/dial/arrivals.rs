//! How many connections of one place are not open yet, so that one place cannot take all room.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

/// Unfinished connections of one address: a home with several nodes behind one NAT needs some.
const PER_ADDRESS: usize = 8;
/// Unfinished connections through relays, all together: half of the handshakes are left to others.
const RELAYED: usize = 16;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// This computer.
    Here,
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u128),
    Relay,
}

/// Counts of unfinished connections; a row is there only while one is.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    counts: Arc<Mutex<HashMap<Origin, usize>>>,
}

/// Held until the connection is open or over.
#[derive(Debug)]
pub(super) struct Place {
    origin: Origin,
    arrivals: Arrivals,
}

impl Arrivals {
    /// `None`: that place has its share.
    pub(super) fn enter(&self, origin: Origin) -> Option<Place> {
        let most = match origin {
            Origin::Here => usize::MAX,
            Origin::V4(_) | Origin::V6(_) => PER_ADDRESS,
            Origin::Relay => RELAYED,
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(origin).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { origin, arrivals: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.arrivals.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_its_share_and_leaves_room_for_others() {
        let arrivals = Arrivals::default();
        let loud = Origin::V4(Ipv4Addr::new(203, 0, 113, 7));
        let mut held: Vec<Place> = std::iter::from_fn(|| arrivals.enter(loud)).collect();
        assert_eq!(held.len(), PER_ADDRESS);
        let other = arrivals.enter(Origin::V4(Ipv4Addr::new(203, 0, 113, 8)));
        assert!(other.is_some());
        held.pop();
        assert!(arrivals.enter(loud).is_some(), "one of its connections is over");
        drop((held, other));
        assert!(arrivals.counts.lock().expect("no panic").is_empty());
    }
}
