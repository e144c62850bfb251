//! Who may connect at all: blocked nodes are turned away before anything else is read from them.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use iroh::{
    EndpointAddr,
    endpoint::{AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks},
};

use super::close;
use crate::mesh::NodeKey;

/// The nodes that the owner blocked. Clones share it; the endpoint holds one.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    blocked: Arc<RwLock<Arc<HashSet<NodeKey>>>>,
    refused: Arc<AtomicU64>,
}

impl Gate {
    pub(super) fn set(&self, blocked: HashSet<NodeKey>) {
        *self.blocked.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(blocked);
    }

    pub(super) fn blocked(&self) -> Arc<HashSet<NodeKey>> {
        Arc::clone(&self.blocked.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_blocked(&self, key: NodeKey) -> bool {
        self.blocked().contains(&key)
    }

    /// Connections that were turned away since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl EndpointHooks for Gate {
    async fn before_connect<'a>(
        &'a self,
        remote: &'a EndpointAddr,
        _alpn: &'a [u8],
    ) -> BeforeConnectOutcome {
        if self.is_blocked(NodeKey(*remote.id.as_bytes())) {
            return BeforeConnectOutcome::Reject;
        }
        BeforeConnectOutcome::Accept
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        if !self.is_blocked(NodeKey(*connection.remote_id().as_bytes())) {
            return AfterHandshakeOutcome::Accept;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        AfterHandshakeOutcome::Reject {
            error_code: close::BLOCKED,
            reason: b"this node's owner does not want connections from you".to_vec(),
        }
    }
}
