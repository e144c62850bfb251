//! Finished results of durable tasks whose origin did not say that it has them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_api::TaskId;

use crate::{mesh::NodeKey, tasks::job::BoxFuture};

/// An origin that was started again comes back within seconds; its task has another lease then.
pub const KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// Results of all nodes, in bytes.
const KEPT_BYTES: usize = 64 << 20;
/// Of one node: a quarter, so that none takes all the room.
const KEPT_BYTES_OF_ONE: usize = KEPT_BYTES / 4;

/// One lease of one task.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub origin: NodeKey,
    pub task: TaskId,
    pub fence: u64,
}

/// Where results wait for their `Ack`. What they are is the worker's own matter.
pub trait Kept: fmt::Debug + Send + Sync + 'static {
    /// The error is a reason for the log; the task is then done again.
    fn save(&self, key: Key, result: Vec<u8>) -> BoxFuture<'_, Result<(), String>>;
    fn find(&self, key: Key) -> BoxFuture<'_, Option<Vec<u8>>>;
    fn forget(&self, key: Key) -> BoxFuture<'_, ()>;
}

/// In memory: they do not survive the worker, and then the task is done again.
#[derive(Debug, Default)]
pub struct InMemory {
    results: Mutex<HashMap<Key, (Instant, Vec<u8>)>>,
}

impl InMemory {
    fn save_now(&self, key: Key, result: Vec<u8>, now: Instant) -> Result<(), String> {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.retain(|_, (since, _)| now.duration_since(*since) < KEPT_FOR);
        results.remove(&key);
        let sum = |of: Option<&Key>| -> usize {
            let counted =
                results.iter().filter(|(other, _)| of.is_none_or(|key| key.origin == other.origin));
            counted.map(|(_, (_, bytes))| bytes.len()).sum()
        };
        if sum(Some(&key)) + result.len() > KEPT_BYTES_OF_ONE
            || sum(None) + result.len() > KEPT_BYTES
        {
            return Err("no room for one more result".to_owned());
        }
        results.insert(key, (now, result));
        Ok(())
    }

    fn find_now(&self, key: &Key, now: Instant) -> Option<Vec<u8>> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, bytes) = results.get(key)?;
        (now.duration_since(*since) < KEPT_FOR).then(|| bytes.clone())
    }
}

impl Kept for InMemory {
    fn save(&self, key: Key, result: Vec<u8>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(self.save_now(key, result, Instant::now())))
    }

    fn find(&self, key: Key) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(std::future::ready(self.find_now(&key, Instant::now())))
    }

    fn forget(&self, key: Key) -> BoxFuture<'_, ()> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(origin: u8, fence: u64) -> Key {
        Key { origin: NodeKey([origin; 32]), task: TaskId("t".to_owned()), fence }
    }

    #[test]
    fn a_result_is_kept_for_its_time_and_for_its_fence_only() {
        let (kept, now) = (InMemory::default(), Instant::now());
        kept.save_now(key(1, 7), vec![1], now).expect("room");
        assert_eq!(kept.find_now(&key(1, 7), now), Some(vec![1]));
        assert_eq!(kept.find_now(&key(1, 8), now), None);
        assert_eq!(kept.find_now(&key(2, 7), now), None);
        assert_eq!(kept.find_now(&key(1, 7), now + KEPT_FOR), None);
    }

    #[test]
    fn one_node_does_not_take_all_the_room() {
        let (kept, now) = (InMemory::default(), Instant::now());
        let large = vec![0; KEPT_BYTES_OF_ONE];
        kept.save_now(key(1, 1), large.clone(), now).expect("room");
        kept.save_now(key(1, 1), large.clone(), now).expect("the same again");
        assert!(kept.save_now(key(1, 2), vec![0], now).is_err());
        kept.save_now(key(2, 1), large, now).expect("another node's room");
        kept.save_now(key(1, 2), vec![0], now + KEPT_FOR).expect("the old one is forgotten");
    }
}
