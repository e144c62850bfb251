//! Tells iroh which relays to use and under which further addresses this node is reached.
//!
//! One task does it, one change after the other, always towards the newest wish: two changes at once
//! could end in the older one.

use std::{collections::BTreeSet, net::SocketAddr};

use iroh::{Endpoint, RelayUrl};
use tokio::sync::watch;

use super::endpoint::insert_relay;

/// What iroh is to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) relays: BTreeSet<RelayUrl>,
    /// As peers see this node.
    pub(super) addresses: BTreeSet<SocketAddr>,
}

/// Runs until the driver is gone. `known`: what iroh knows already.
pub(super) async fn apply(
    endpoint: Endpoint,
    mut wanted: watch::Receiver<Wanted>,
    mut known: Wanted,
) {
    loop {
        let next = wanted.borrow_and_update().clone();
        for relay in known.relays.difference(&next.relays) {
            endpoint.remove_relay(relay).await;
        }
        for relay in next.relays.difference(&known.relays) {
            insert_relay(&endpoint, relay.clone()).await;
        }
        for old in known.addresses.difference(&next.addresses) {
            endpoint.remove_external_addr(old).await;
        }
        for new in next.addresses.difference(&known.addresses) {
            endpoint.add_external_addr(*new).await;
        }
        known = next;
        if wanted.changed().await.is_err() {
            return;
        }
    }
}
