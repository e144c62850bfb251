//! Who may be a client of the relay, and what it may send.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use iroh_relay::server::{Access, AccessControl, ClientRequest, ConnectionId};
use tokio::sync::watch;

use super::pace::{Rate, SharedBucket};
use crate::mesh::{
    NodeKey,
    sources::{KnownPeer, OwnInfo},
};

/// Connections of clients: the directory's size. One more is refused.
const MAX_CLIENTS: usize = 4_096;
/// Of these, connections of nodes that are not in the mesh's directory: those who join by ticket, and
/// after a start those who were not heard of yet (they come again, until the directory knows them).
/// So strangers, whose keys cost nothing, leave the mesh its places; their pace is lower, too.
pub(super) const STRANGERS: usize = 64;
/// Connections of one node. It uses one; what it left behind in another network ends within half a
/// minute, when it answers no ping.
pub(super) const OF_ONE_NODE: usize = 3;

/// Lets the mesh's nodes in, and some others: those who join by ticket are not known yet. Never those
/// that the owner blocked.
#[derive(Debug)]
pub(super) struct Gate {
    own: watch::Receiver<OwnInfo>,
    members: Mutex<Members>,
    /// Whom each open connection is of. A stranger becomes a member while it is connected.
    clients: Mutex<HashMap<ConnectionId, NodeKey>>,
    /// Members' by key, also while they are not connected: coming again is no fresh burst. Those
    /// of nodes that are neither in the directory nor connected are forgotten when it is full.
    buckets: Mutex<HashMap<NodeKey, SharedBucket>>,
    strangers: SharedBucket,
}

/// The keys of the directory's nodes, read anew when it changed.
#[derive(Debug)]
struct Members {
    directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
    keys: Arc<HashSet<NodeKey>>,
}

impl Gate {
    pub(super) fn new(
        own: watch::Receiver<OwnInfo>,
        mut directory: watch::Receiver<Arc<Vec<KnownPeer>>>,
    ) -> Self {
        directory.mark_changed();
        Self {
            own,
            members: Mutex::new(Members { directory, keys: Arc::default() }),
            clients: Mutex::default(),
            buckets: Mutex::default(),
            strangers: SharedBucket::full(Rate::STRANGERS),
        }
    }

    /// For a server that starts anew, with nobody connected.
    pub(super) fn again(&self) -> Self {
        Self::new(self.own.clone(), self.directory())
    }

    pub(super) fn directory(&self) -> watch::Receiver<Arc<Vec<KnownPeer>>> {
        lock(&self.members).directory.clone()
    }

    /// What this client's connections take from now. It holds until the directory changes.
    pub(super) fn bucket(&self, key: NodeKey) -> SharedBucket {
        let members = self.members();
        if !members.contains(&key) {
            return self.strangers.clone();
        }
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= MAX_CLIENTS {
            buckets.retain(|key, bucket| members.contains(key) || bucket.is_in_use());
        }
        buckets.entry(key).or_insert_with(|| SharedBucket::full(Rate::MEMBER)).clone()
    }

    #[cfg(test)]
    pub(super) fn connected(&self) -> usize {
        lock(&self.clients).len()
    }

    fn members(&self) -> Arc<HashSet<NodeKey>> {
        let mut members = lock(&self.members);
        if members.directory.has_changed().unwrap_or(false) {
            let keys = members.directory.borrow_and_update().iter().map(|peer| peer.key).collect();
            members.keys = Arc::new(keys);
        }
        Arc::clone(&members.keys)
    }

    /// The error is a reason for people.
    fn admit(&self, key: NodeKey, connection: ConnectionId) -> Result<(), &'static str> {
        if self.own.borrow().blocked.contains(&key) {
            return Err("this relay's owner blocked this node");
        }
        let members = self.members();
        let mut clients = lock(&self.clients);
        if clients.len() >= MAX_CLIENTS {
            return Err("this relay is full");
        }
        if clients.values().filter(|client| **client == key).count() >= OF_ONE_NODE {
            return Err("this node has too many connections to this relay");
        }
        if !members.contains(&key) {
            let strangers = clients.values().filter(|client| !members.contains(client)).count();
            if strangers >= STRANGERS {
                return Err("this relay has no room for nodes that are not in its mesh yet");
            }
        }
        clients.insert(connection, key);
        Ok(())
    }
}

impl AccessControl for Gate {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let key = NodeKey(*request.endpoint_id().as_bytes());
        match self.admit(key, request.connection_id()) {
            Ok(()) => Access::Allow,
            Err(reason) => Access::Deny { reason: Some(reason.to_owned()) },
        }
    }

    fn on_disconnect(&self, _endpoint: iroh::EndpointId, connection: ConnectionId) {
        lock(&self.clients).remove(&connection);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
