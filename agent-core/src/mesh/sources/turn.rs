//! What every source shares: whom to hand nodes to, what to follow, when to look again.

use std::{sync::Arc, time::Duration};

use agent_api::{
    Settings,
    mesh::{MeshSettings, SourceKind, SourceState},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    board::Board,
    context::{Found, KnownPeer, OwnInfo},
};
use crate::mesh::{Addresses, MeshCard, NodeKey};

#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) own_key: NodeKey,
    pub(super) endpoint: iroh::Endpoint,
    pub(super) found: mpsc::Sender<Found>,
    pub(super) board: Arc<Board>,
    pub(super) card: watch::Receiver<MeshCard>,
    pub(super) settings: watch::Receiver<Settings>,
    pub(super) own: watch::Receiver<OwnInfo>,
    pub(super) directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
    pub(super) look: watch::Receiver<u64>,
    pub(super) stop: CancellationToken,
}

/// Why a source woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    Stop,
    /// The owner asked, or this node is in another mesh now.
    Asked,
    /// Settings of the mesh changed.
    Settings,
    /// The last peer is gone; or the first one is there.
    Company,
    /// This node is reached at other addresses: its network changed.
    Addresses,
    /// The wait is over.
    Time,
}

impl Turn {
    pub(super) fn settings(&self) -> MeshSettings {
        self.settings.borrow().mesh.clone()
    }

    pub(super) fn alone(&self) -> bool {
        self.own.borrow().connected == 0
    }

    pub(super) fn say(&self, kind: SourceKind, state: SourceState, reason: impl Into<String>) {
        self.board.say(kind, state, reason);
    }

    /// Hands a node over; false: it is this node, the owner blocked it, or the driver is too busy
    /// to take it now.
    pub(super) fn offer(
        &self,
        source: SourceKind,
        peer: NodeKey,
        addresses: Addresses,
        name: Option<String>,
    ) -> bool {
        self.offer_found(Found { peer, addresses, source, name, foreign: false })
    }

    /// As [`Self::offer`].
    pub(super) fn offer_found(&self, found: Found) -> bool {
        if found.peer == self.own_key || self.own.borrow().blocked.contains(&found.peer) {
            return false;
        }
        let taken = self.found.try_send(found.clone()).is_ok();
        if taken {
            self.board.count(&found);
        }
        taken
    }

    /// Waits until something is to be done, at most `wait`. What changed meanwhile counts as seen.
    /// Addresses wake nobody here, see [`Self::wait_or_addresses`].
    pub(super) async fn wait(&mut self, wait: Duration) -> Woken {
        self.wait_for(wait, false).await
    }

    /// As [`Self::wait`], for sources that tell others of this node's addresses.
    pub(super) async fn wait_or_addresses(&mut self, wait: Duration) -> Woken {
        self.wait_for(wait, true).await
    }

    async fn wait_for(&mut self, wait: Duration, tells_addresses: bool) -> Woken {
        let deadline = Instant::now() + wait;
        let mesh = self.settings();
        let card = self.card.borrow_and_update().id;
        let alone = self.alone();
        let addresses = self.own.borrow().addresses.clone();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Woken::Stop,
                () = tokio::time::sleep_until(deadline) => return Woken::Time,
                changed = self.look.changed() => return ended(changed, Woken::Asked),
                changed = self.settings.changed() => {
                    if changed.is_err() || self.settings.borrow_and_update().mesh != mesh {
                        return ended(changed, Woken::Settings);
                    }
                }
                changed = self.card.changed() => {
                    if changed.is_err() || self.card.borrow_and_update().id != card {
                        return ended(changed, Woken::Asked);
                    }
                }
                changed = self.own.changed() => {
                    let (other_company, moved) = {
                        let own = self.own.borrow_and_update();
                        ((own.connected == 0) != alone, own.addresses != addresses)
                    };
                    if changed.is_err() || other_company {
                        return ended(changed, Woken::Company);
                    }
                    if moved && tells_addresses {
                        return Woken::Addresses;
                    }
                }
            }
        }
    }
}

/// A watch without a sender: the driver is gone, and with it the reason to look for peers.
fn ended(changed: Result<(), watch::error::RecvError>, woken: Woken) -> Woken {
    if changed.is_ok() { woken } else { Woken::Stop }
}
