//! Where peers are found: earlier days, seeds, this network, the DHT. And what a seed gives back: a
//! relay, a DHT node, the list of coordinators.
//!
//! Each source is one task that works alone: it says what it does and why not
//! ([`Sources::reports`]), hands nodes to the driver, and follows the settings while it runs. None
//! of them is needed; the mesh goes on without any. What they find is a hint, never trusted: the
//! transport proves who answers.
//!
//! Waiting costs nothing: timers are tens of seconds apart, and sources other than the LAN rest
//! while peers are connected.

mod board;
mod context;
mod dht;
mod lan;
mod listing;
mod rerun;
mod saved;
mod seeds;
mod turn;

use std::sync::Arc;

use agent_api::mesh::{Coordinators, DhtStats, Source, SourceKind};
use board::Board;
pub use context::{FOUND_QUEUE, Found, KnownPeer, OwnInfo, SourceContext};
pub use listing::Listing;
use rerun::rerun;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use turn::Turn;

use super::{
    Addresses, MeshCard, NodeKey,
    relay::{self, RelayReport},
};
use crate::storage::Storage;

/// The running sources. Clones share them; dropping them stops nothing, [`Sources::shutdown`] does.
#[derive(Clone, Debug)]
pub struct Sources {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    board: Arc<Board>,
    look: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
    card: watch::Receiver<MeshCard>,
    storage: Storage,
    listing: Listing,
}

impl Sources {
    /// Starts every source in its own task; returns at once. Needs a tokio runtime. What cannot
    /// start says so in [`Self::reports`] and is tried again.
    pub fn start(context: SourceContext) -> Self {
        let own_key = NodeKey(*context.endpoint.id().as_bytes());
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let board = Arc::new(Board::default());
        let (look, looks) = watch::channel(0);
        let turn = Turn {
            own_key,
            endpoint: context.endpoint,
            found: context.found,
            board: Arc::clone(&board),
            card: context.card.clone(),
            settings: context.settings,
            own: context.own.clone(),
            directory: context.directory.clone(),
            look: looks,
            stop: stop.clone(),
        };
        let report = watch::Sender::new(RelayReport::default());
        let listing = Listing::new(
            own_key,
            context.seed.is_some(),
            context.own,
            context.directory,
            report.subscribe(),
        );
        if let Some(seed) = &context.seed {
            relay::spawn(seed, listing.clone(), report, stop.clone(), &tasks, board.bump());
        }
        let dht_addresses = watch::Sender::new(Vec::new());
        let storage = context.storage.clone();
        let saved = move |turn| saved::run(turn, storage.clone());
        tasks.spawn(rerun(turn.clone(), SourceKind::Saved, saved));
        let found = dht_addresses.clone();
        let seeds = move |turn| seeds::run(turn, found.clone());
        tasks.spawn(rerun(turn.clone(), SourceKind::Seed, seeds));
        tasks.spawn(rerun(turn.clone(), SourceKind::Lan, lan::run));
        let server = context.seed.as_ref().and_then(|seed| seed.dht);
        let stats = listing.dht_stats();
        let dht = move |turn| dht::run(turn, server, dht_addresses.subscribe(), Arc::clone(&stats));
        tasks.spawn(rerun(turn, SourceKind::Dht, dht));
        tasks.close();
        Self {
            inner: Arc::new(Inner {
                board,
                look,
                stop,
                tasks,
                card: context.card,
                storage: context.storage,
                listing,
            }),
        }
    }

    /// Saved, Seed, LAN and DHT, in this order. The other kinds (ticket, gossip, incoming) are the
    /// driver's to count.
    pub fn reports(&self) -> Vec<Source> {
        self.inner.board.reports()
    }

    /// Changes whenever a report, the own relay or the own DHT node changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.board.changes()
    }

    /// Every source looks once more, now.
    pub fn look_now(&self) {
        self.inner.look.send_modify(|turn| *turn = turn.wrapping_add(1));
    }

    /// What `GET /network/coordinators` answers: the seeds that this node knows, itself first if it
    /// is one.
    pub fn coordinators(&self) -> Coordinators {
        self.inner.listing.coordinators()
    }

    /// What `GET /dht/stats` answers.
    pub fn dht_stats(&self) -> DhtStats {
        let stats = self.inner.listing.dht().clone();
        stats.answer(&self.inner.board)
    }

    /// Keeps a peer for the next start, in the mesh of now. Does not wait for the disk; a lost row
    /// costs one more way to find the mesh.
    pub fn save(&self, peer: NodeKey, addresses: Addresses, name: String) {
        let mesh = self.inner.card.borrow().id;
        saved::save(&self.inner.storage, mesh, peer, addresses, name);
    }

    /// URL of the own relay while it runs; empty otherwise.
    pub fn relay_urls(&self) -> Vec<String> {
        self.inner.listing.relay_url().into_iter().collect()
    }

    /// Why the own relay does not run; `None` while it does, and where there is none.
    pub fn relay_problem(&self) -> Option<String> {
        self.inner.listing.relay_problem()
    }

    /// UDP port of the own DHT node while it answers others; a seed announces it.
    pub fn dht_port(&self) -> Option<u16> {
        self.inner.listing.dht_port()
    }

    /// Stops every task, the relay and the DHT node, and waits until they are gone.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests;
