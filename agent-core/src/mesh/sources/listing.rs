//! What the list of coordinators is made of; whoever serves it has one of these.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_api::mesh::Coordinators;
use tokio::sync::watch;

use super::{KnownPeer, OwnInfo, dht};
use crate::{
    clock::now_ms,
    mesh::{
        NodeKey,
        addr::is_local,
        coordinators::{self, SeedOffer},
        relay::RelayReport,
    },
};

/// The node's seeds as they are known now, itself first if it is one.
#[derive(Clone, Debug)]
pub struct Listing {
    own_key: NodeKey,
    is_seed: bool,
    pub own: watch::Receiver<OwnInfo>,
    pub directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
    relay: watch::Receiver<RelayReport>,
    dht: Arc<Mutex<dht::Stats>>,
}

impl Listing {
    pub fn new(
        own_key: NodeKey,
        is_seed: bool,
        own: watch::Receiver<OwnInfo>,
        directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
        relay: watch::Receiver<RelayReport>,
    ) -> Self {
        Self { own_key, is_seed, own, directory, relay, dht: Arc::default() }
    }

    /// What `GET /network/coordinators` answers.
    pub fn coordinators(&self) -> Coordinators {
        let own = self.is_seed.then(|| SeedOffer {
            key: self.own_key,
            relay: self.relay_url(),
            dht_port: self.dht_port(),
        });
        let info = self.own.borrow().clone();
        let known = Arc::clone(&self.directory.borrow());
        coordinators::list(own.as_ref(), &info, &known, now_ms())
    }

    /// The same without what helps in other nodes' own networks only.
    pub fn for_strangers(&self) -> Coordinators {
        let own = self.own_key.to_id();
        let mut list = self.coordinators();
        for other in list.coordinators.iter_mut().filter(|other| other.node_id != own) {
            other.addresses.retain(|address| {
                address.parse::<SocketAddr>().is_ok_and(|address| !is_local(address.ip()))
            });
        }
        list
    }

    /// URL of the own relay while it runs.
    pub(super) fn relay_url(&self) -> Option<String> {
        let own = self.own.borrow().clone();
        self.relay.borrow().url(&own)
    }

    /// Why the own relay does not run.
    pub(super) fn relay_problem(&self) -> Option<String> {
        self.relay.borrow().problem.clone()
    }

    /// UDP port of the own DHT node while it answers others.
    pub(super) fn dht_port(&self) -> Option<u16> {
        self.dht().server_port()
    }

    pub(super) fn dht(&self) -> MutexGuard<'_, dht::Stats> {
        self.dht.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the DHT node, which keeps them.
    pub(super) fn dht_stats(&self) -> Arc<Mutex<dht::Stats>> {
        Arc::clone(&self.dht)
    }
}
