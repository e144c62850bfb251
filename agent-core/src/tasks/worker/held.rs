//! What streams of other nodes may take here before and after their tasks run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use crate::mesh::NodeKey;

/// Offers and modules that are read or wait here, and results that wait for their acknowledgement,
/// of all nodes and of one: they are in memory.
const HELD_BYTES: usize = 256 << 20;
const HELD_BYTES_OF_ONE: usize = 32 << 20;
/// What an offer costs at least.
const LEAST_BYTES: usize = 4 << 10;

/// Bytes that offers and results take, by node.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    held: Arc<Mutex<HashMap<NodeKey, usize>>>,
}

/// Bytes that are taken while this lives.
#[derive(Debug)]
pub(super) struct Held {
    memory: Memory,
    peer: NodeKey,
    bytes: usize,
}

impl Memory {
    /// `None`: there is no room for so much.
    pub(super) fn hold(&self, peer: NodeKey, bytes: usize) -> Option<Held> {
        let bytes = bytes.max(LEAST_BYTES);
        self.take(peer, bytes).then(|| Held { memory: self.clone(), peer, bytes })
    }

    fn take(&self, peer: NodeKey, bytes: usize) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = held.get(&peer).copied().unwrap_or(0).saturating_add(bytes);
        let of_all = held.values().sum::<usize>().saturating_add(bytes);
        let room = of_one <= HELD_BYTES_OF_ONE && of_all <= HELD_BYTES;
        if room {
            held.insert(peer, of_one);
        }
        room
    }
}

impl Held {
    /// Takes more for the same. `false`: there is no room, and nothing changed.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let room = self.memory.take(self.peer, bytes);
        if room {
            self.bytes += bytes;
        }
        room
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.memory.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&self.peer) {
            *held = held.saturating_sub(self.bytes);
            if *held == 0 {
                all.remove(&self.peer);
            }
        }
    }
}

/// Something that each node may have done once at a time.
#[derive(Debug, Default)]
pub(super) struct OneEach {
    turns: Mutex<HashMap<NodeKey, Arc<tokio::sync::Mutex<()>>>>,
}

impl OneEach {
    /// Waits for the node's own others, in the order in which they came. Cancel-safe.
    pub(super) async fn turn(&self, peer: NodeKey) -> OwnedMutexGuard<()> {
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Nodes with nothing here are not kept.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(peer).or_default())
        };
        turns.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const A: NodeKey = NodeKey([1; 32]);
    const B: NodeKey = NodeKey([2; 32]);

    #[test]
    fn one_node_does_not_take_the_others_memory() {
        let memory = Memory::default();
        let mut first = memory.hold(A, 10).expect("room");
        assert!(first.grow(HELD_BYTES_OF_ONE - LEAST_BYTES));
        assert!(!first.grow(1));
        assert!(memory.hold(A, 1).is_none());
        let of_b = memory.hold(B, HELD_BYTES_OF_ONE);
        assert!(of_b.is_some());
        drop(first);
        assert!(memory.hold(A, HELD_BYTES_OF_ONE).is_some());
        drop(of_b);
        assert!(memory.held.lock().expect("no panic").is_empty());
    }

    #[tokio::test]
    async fn a_node_waits_for_its_own_turn_only() {
        let turns = OneEach::default();
        let first = turns.turn(A).await;
        let mut second = Box::pin(turns.turn(A));
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.turn(B).await);
        drop(first);
        drop(second.await);
        drop(turns.turn(B).await);
        assert_eq!(turns.turns.lock().expect("no panic").len(), 1, "A is forgotten");
    }
}
