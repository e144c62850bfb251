//! What happens to a task, for those who follow it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent_api::{
    TaskId,
    tasks::{Task, TaskEvent},
};
use tokio::sync::broadcast;

/// Tasks that are followed at the same time: panels and scripts hold a few each.
const FOLLOWED: usize = 256;
/// News that wait for a slow follower; it then asks again.
const BACKLOG: usize = 256;

/// Something new about one task.
#[derive(Clone, Debug)]
pub enum News {
    Task(Box<Task>),
    Event(TaskEvent),
    /// Text of the answer from this byte on.
    Text {
        at: usize,
        text: String,
    },
    /// The answer begins again; its text so far does not count.
    Restart,
    /// It ended, and that is on disk.
    End,
}

/// Who follows what.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    tasks: Mutex<HashMap<TaskId, broadcast::Sender<News>>>,
}

impl Listeners {
    /// `None`: too many are followed.
    pub(super) fn follow(&self, id: &TaskId) -> Option<broadcast::Receiver<News>> {
        let mut tasks = self.lock();
        tasks.retain(|_, sender| sender.receiver_count() > 0);
        if tasks.len() >= FOLLOWED && !tasks.contains_key(id) {
            return None;
        }
        let sender = tasks.entry(id.clone()).or_insert_with(|| broadcast::Sender::new(BACKLOG));
        Some(sender.subscribe())
    }

    /// Nobody listening is fine, and costs nothing.
    pub(super) fn tell(&self, id: &TaskId, news: impl FnOnce() -> News) {
        let tasks = self.lock();
        if let Some(sender) = tasks.get(id) {
            let _ = sender.send(news());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, broadcast::Sender<News>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
