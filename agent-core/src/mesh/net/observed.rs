//! Which address others see.
//!
//! A node behind a NAT does not know the address that the NAT gives it. Whoever is connected to it
//! straight over the internet does, and says so on a stream of its own. The address then goes into
//! this node's record and into iroh's hole punching. The QUIC extension for this (address discovery)
//! needs a relay with TLS; this works with any peer.
//!
//! It is a hint like every address: a peer that lies makes others dial in vain, and each peer has one
//! say at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    pin::Pin,
    time::Duration,
};

use iroh::{TransportAddr, endpoint::Connection};
use tokio::{sync::mpsc, time::timeout};

use super::{
    network::{Range, is_on_link},
    peers::InUse,
    streams::{PeerStream, StreamHandler, open_stream},
};
use crate::mesh::NodeKey;

/// Name of the stream.
pub(super) const KIND: &str = "observed/1";
/// An address as postcard: at most 19 bytes.
const BYTES: usize = 32;
/// Peers whose word is kept, newest first: with a NAT that maps every peer to another port more of
/// them are of no use.
const REPORTS: usize = 4;
/// Changes of one peer's word in [`CHANGES_IN`], about one a minute: each is in this node's record and
/// starts hole punching anew. A few may come at once, when this node's network changes.
const CHANGES: u32 = 4;
const CHANGES_IN: Duration = Duration::from_secs(4 * 60);
/// Peers whose changes are counted: as many as are connected at most.
const REPORTERS: usize = 512;
/// Reports that wait for the driver; more are dropped, the next path change brings another.
pub(super) const QUEUE: usize = 16;
const WAIT: Duration = Duration::from_secs(10);

/// A peer's word about this node's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) by: NodeKey,
    pub(super) address: SocketAddr,
}

/// Takes what peers say.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) reports: mpsc::Sender<Report>,
}

impl StreamHandler for Observed {
    fn serve(&self, mut stream: PeerStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let reports = self.reports.clone();
        Box::pin(async move {
            let read = timeout(WAIT, stream.recv.read_to_end(BYTES)).await;
            let Ok(Ok(bytes)) = read else { return };
            if let Some(address) = decode(&bytes) {
                let _ = reports.try_send(Report { by: stream.peer, address });
            }
        })
    }
}

/// `None`: it is no address.
fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    postcard::from_bytes(bytes).ok()
}

/// The address that the other end has for us, where it is one of the internet.
pub(super) fn seen(connection: &Connection, ranges: &[Range]) -> Option<SocketAddr> {
    let paths = connection.paths();
    let mut addresses = paths.iter().filter_map(|path| match path.remote_addr() {
        TransportAddr::Ip(at) if !is_on_link(ranges, at.ip()) => Some(*at),
        _ => None,
    });
    addresses.next()
}

/// Tells the other end. Nothing depends on it: an error is the end of the connection or of the mesh.
pub(super) async fn tell(connection: Connection, in_use: InUse, address: SocketAddr) {
    let Ok(bytes) = postcard::to_stdvec(&address) else { return };
    let Ok(mut stream) = open_stream(&connection, KIND, in_use).await else { return };
    if stream.send.write_all(&bytes).await.is_ok() && stream.send.finish().is_ok() {
        let _ = timeout(WAIT, stream.send.stopped()).await;
    }
}

/// What was said, and so which addresses iroh is told of.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// By peer, with the order in which they came.
    held: BTreeMap<NodeKey, (u64, SocketAddr)>,
    count: u64,
    /// By peer, also by those not held any more: changes of its mind, and since when they count.
    changes: BTreeMap<NodeKey, (u32, Duration)>,
}

impl Reports {
    /// `now`: since the mesh started. A peer that changes its mind too often is not heard.
    pub(super) fn take(&mut self, report: Report, now: Duration) {
        let address = SocketAddr::new(report.address.ip().to_canonical(), report.address.port());
        let ip = address.ip();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || address.port() == 0 {
            return;
        }
        let repeated = self.held.get(&report.by).is_some_and(|(_, said)| *said == address);
        if !repeated && !self.may_change(report.by, now) {
            return;
        }
        self.count += 1;
        self.held.insert(report.by, (self.count, address));
        if self.held.len() > REPORTS
            && let Some(oldest) =
                self.held.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| *key)
        {
            self.held.remove(&oldest);
        }
    }

    fn may_change(&mut self, by: NodeKey, now: Duration) -> bool {
        if self.changes.len() >= REPORTERS {
            self.changes.retain(|_, (_, since)| now.saturating_sub(*since) < CHANGES_IN);
        }
        if self.changes.len() >= REPORTERS && !self.changes.contains_key(&by) {
            return false;
        }
        let (count, since) = self.changes.entry(by).or_insert((0, now));
        if now.saturating_sub(*since) >= CHANGES_IN {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count <= CHANGES
    }

    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.held.values().map(|(_, at)| *at).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::ZERO;

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    fn report(by: u8, address: &str) -> Report {
        Report { by: NodeKey([by; 32]), address: at(address) }
    }

    #[test]
    fn a_peer_has_one_say_and_the_oldest_goes_first() {
        let mut reports = Reports::default();
        reports.take(report(1, "203.0.113.7:4000"), START);
        reports.take(report(2, "203.0.113.7:4000"), START);
        assert_eq!(reports.addresses(), BTreeSet::from([at("203.0.113.7:4000")]));
        reports.take(report(1, "203.0.113.7:5000"), START);
        assert!(
            reports.addresses().contains(&at("203.0.113.7:4000")),
            "another peer still says so"
        );
        assert!(reports.addresses().contains(&at("203.0.113.7:5000")));
        for by in 3..6 {
            reports.take(report(by, "198.51.100.1:1"), START);
        }
        assert!(!reports.addresses().contains(&at("203.0.113.7:4000")));
        assert!(reports.held.len() <= REPORTS);
    }

    #[test]
    fn what_cannot_be_dialed_is_no_address() {
        let mut reports = Reports::default();
        for wrong in ["127.0.0.1:4000", "0.0.0.0:1", "203.0.113.7:0", "224.0.0.1:9", "[::1]:7"] {
            reports.take(report(1, wrong), START);
            assert_eq!(reports.addresses(), BTreeSet::new(), "{wrong}");
        }
    }

    #[test]
    fn a_peer_that_keeps_changing_its_mind_is_not_heard_for_a_while() {
        let mut reports = Reports::default();
        for port in 1..100 {
            reports.take(report(1, &format!("203.0.113.7:{port}")), START);
        }
        let last = BTreeSet::from([at(&format!("203.0.113.7:{CHANGES}"))]);
        assert_eq!(reports.addresses(), last);
        reports.take(report(1, "203.0.113.7:4000"), CHANGES_IN);
        assert_eq!(reports.addresses(), BTreeSet::from([at("203.0.113.7:4000")]));
    }

    #[test]
    fn many_peers_cannot_make_the_table_grow() {
        let mut reports = Reports::default();
        for n in 0..2_000_u16 {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&n.to_be_bytes());
            let address = at("203.0.113.7:4000");
            reports.take(Report { by: NodeKey(key), address }, START);
        }
        assert!(reports.changes.len() <= REPORTERS);
    }

    proptest! {
        #[test]
        fn what_peers_say_is_no_address_or_one_that_can_be_dialed(
            said in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..BYTES), 0..20),
        ) {
            let mut reports = Reports::default();
            for (by, bytes) in said.iter().enumerate() {
                let by = NodeKey([u8::try_from(by).expect("few"); 32]);
                if let Some(address) = decode(bytes) {
                    reports.take(Report { by, address }, START);
                }
            }
            for address in reports.addresses() {
                let ip = address.ip();
                prop_assert!(!ip.is_loopback() && !ip.is_unspecified() && address.port() != 0);
            }
            prop_assert!(reports.held.len() <= REPORTS);
        }

        #[test]
        fn a_changed_address_never_panics(
            v6 in any::<bool>(),
            change in any::<(usize, u8, usize)>(),
        ) {
            let address = at(if v6 { "[2001:db8::7]:4302" } else { "203.0.113.7:4302" });
            let mut bytes = postcard::to_stdvec(&address).expect("serializes");
            prop_assert!(bytes.len() <= BYTES);
            prop_assert_eq!(decode(&bytes), Some(address));
            let (length, (place, byte, cut)) = (bytes.len(), change);
            bytes[place % length] = byte;
            bytes.truncate(length - cut % length);
            let _ = decode(&bytes);
        }
    }
}
