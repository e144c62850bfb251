//! The part of a transfer that deals with peers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Ask, ConnId, Driver, Ended};
use crate::models::pull::{
    peers::{Became, Chunks, Holder, LOOK_AGAIN, PlaceError, SILENT},
    plan::End,
};

/// What a peer did.
pub(super) enum Event {
    Chunk(ConnId, Chunks, Option<Result<Bytes, PlaceError>>),
    Silent(ConnId),
    Found(Vec<Arc<dyn Holder>>),
}

impl<'a> Driver<'a> {
    /// Looks again after a while, in the background.
    pub(super) fn look_for_peers(&mut self) {
        let Some((places, wanted)) = self.transfer.places else { return };
        self.connections.push(Box::pin(async move {
            sleep(LOOK_AGAIN).await;
            super::Event::Peer(Event::Found(places.holders(wanted).await))
        }));
    }

    /// Whether anybody is to be asked for more.
    pub(super) fn has_room(&mut self) -> bool {
        let now = self.now();
        self.pool.measure(now, self.transfer.limiter.limit().is_some());
        self.pool.has_room(now) || self.pool.wants_registry(now)
    }

    /// Asks a peer for a part. `false`: it is for the registry.
    pub(super) fn ask_peer(&mut self, ask: Ask) -> bool {
        let Some(holder) = self.pool.lease(ask.conn, ask.end, self.now()) else { return false };
        self.drops.insert(ask.conn, CancellationToken::new());
        self.read_peer(ask.conn, holder.open(ask.start..ask.end));
        true
    }

    fn read_peer(&mut self, conn: ConnId, mut chunks: Chunks) {
        let silent = SILENT.min(self.transfer.stall);
        self.connect(conn, async move {
            super::Event::Peer(match timeout(silent, chunks.next()).await {
                Ok(chunk) => Event::Chunk(conn, chunks, chunk),
                Err(_) => Event::Silent(conn),
            })
        });
    }

    pub(super) async fn handle_peer(&mut self, event: Event) -> Option<Ended> {
        match event {
            Event::Chunk(conn, chunks, Some(Ok(bytes))) => {
                self.peer_chunk(conn, chunks, bytes).await;
            }
            Event::Chunk(conn, _, Some(Err(error))) => self.peer_failed(conn, &error),
            Event::Chunk(conn, _, None) => self.peer_ended(conn),
            Event::Silent(conn) => {
                self.peer_failed(conn, &PlaceError::Gone("it sends nothing more".to_owned()));
            }
            Event::Found(holders) => {
                self.pool.admit(holders);
                self.look_for_peers();
            }
        }
        None
    }

    async fn peer_chunk(&mut self, conn: ConnId, chunks: Chunks, bytes: Bytes) {
        let holder = self.pool.holder(conn).map(Arc::clone);
        let Ok(taken) = self.received(conn, &bytes) else {
            return self.peer_failed(conn, &PlaceError::Lied("more than was asked for".to_owned()));
        };
        self.pool.received(conn, bytes.len() as u64);
        self.read_peer(conn, chunks);
        if let (Some(holder), Some((_, wanted))) = (holder, self.transfer.places) {
            self.transfer.progress.sources.peer(wanted.blob, &*holder, taken.keep);
        }
        self.keep(taken, bytes).await;
    }

    /// A part that a peer did not bring is free for others at once.
    fn peer_failed(&mut self, conn: ConnId, error: &PlaceError) {
        if let Some(holder) = self.pool.holder(conn) {
            tracing::info!("a part of a pull is not had from {}: {error}", holder.name());
            if matches!(error, PlaceError::Lied(_)) {
                self.transfer.progress.sources.distrust(holder.id());
            }
        }
        let became = match error {
            PlaceError::Lied(_) => {
                for other in self.pool.siblings(conn) {
                    if let Some(drop) = self.drops.get(&other) {
                        drop.cancel();
                    }
                }
                Became::Lied
            }
            PlaceError::Busy => Became::Busy,
            PlaceError::Gone(_) => Became::Failed,
        };
        self.close_peer(conn, became);
    }

    fn peer_ended(&mut self, conn: ConnId) {
        let short = self.plan.is_open(conn);
        self.close_peer(conn, if short { Became::Failed } else { Became::Fine });
    }

    fn close_peer(&mut self, conn: ConnId, became: Became) {
        let now = self.now();
        self.pool.ended(conn, became, now);
        self.drops.remove(&conn);
        // Never the reason to give up: the registry is still there.
        let end = if became == Became::Fine { End::Body } else { End::Dropped };
        let _ = self.plan.ended(conn, end, now);
    }
}
