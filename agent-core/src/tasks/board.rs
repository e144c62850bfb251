//! What the panel shows: every task that this node has to do with, while it lives.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use agent_api::{TaskId, tasks::Task};
use tokio::sync::broadcast;

/// Changes that wait for the node to announce them; it asks again when it missed some.
const CHANGES: usize = 1_024;

/// Tasks that have not ended, by id. Clones share it.
#[derive(Clone, Debug)]
pub struct Board {
    tasks: Arc<Mutex<HashMap<TaskId, Task>>>,
    changes: broadcast::Sender<Task>,
}

impl Default for Board {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(CHANGES);
        Self { tasks: Arc::default(), changes }
    }
}

impl Board {
    /// Shows a task from now on.
    pub fn begin(&self, task: Task) {
        let _ = self.changes.send(task.clone());
        self.lock().insert(task.id.clone(), task);
    }

    /// Changes a task that is shown; nothing happens for others.
    pub fn update(&self, id: &TaskId, change: impl FnOnce(&mut Task)) {
        let mut tasks = self.lock();
        let Some(task) = tasks.get_mut(id) else { return };
        change(task);
        let _ = self.changes.send(task.clone());
    }

    /// Changes it a last time and shows it no more as living; returns it.
    pub fn end(&self, id: &TaskId, change: impl FnOnce(&mut Task)) -> Option<Task> {
        let mut task = self.lock().remove(id)?;
        change(&mut task);
        let _ = self.changes.send(task.clone());
        Some(task)
    }

    /// Shows it no more; whatever is known of it is in the database.
    pub fn drop_silently(&self, id: &TaskId) {
        self.lock().remove(id);
    }

    /// A change of a task that is only in the database: it waits.
    pub fn tell(&self, task: Task) {
        let _ = self.changes.send(task);
    }

    /// All that live, by id.
    pub fn tasks(&self) -> BTreeMap<TaskId, Task> {
        self.lock().clone().into_iter().collect()
    }

    pub fn get(&self, id: &TaskId) -> Option<Task> {
        self.lock().get(id).cloned()
    }

    pub fn changes(&self) -> broadcast::Receiver<Task> {
        self.changes.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
