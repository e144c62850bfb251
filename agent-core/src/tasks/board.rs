//! What the panel shows: every task that this node has to do with, while it lives.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use agent_api::{
    TaskId,
    tasks::{Placement, Task},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Changes that wait for the node to announce them; it asks again when it missed some.
const CHANGES: usize = 1_024;

#[derive(Debug)]
struct Living {
    task: Task,
    /// Why it is where it is, if that is in no database.
    placement: Option<Placement>,
    /// Cancelled when the owner does not want it to go on.
    stop: CancellationToken,
}

/// Tasks that have not ended, by id. Clones share it.
#[derive(Clone, Debug)]
pub struct Board {
    tasks: Arc<Mutex<HashMap<TaskId, Living>>>,
    changes: broadcast::Sender<Task>,
}

impl Default for Board {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(CHANGES);
        Self { tasks: Arc::default(), changes }
    }
}

impl Board {
    /// Shows a task from now on. What is returned is cancelled by [`stop`](Self::stop).
    pub fn begin(&self, task: Task) -> CancellationToken {
        let _ = self.changes.send(task.clone());
        let stop = CancellationToken::new();
        let living = Living { stop: stop.clone(), task, placement: None };
        self.lock().insert(living.task.id.clone(), living);
        stop
    }

    /// Asks whoever works on it to stop; false: it does not live.
    pub fn stop(&self, id: &TaskId) -> bool {
        let tasks = self.lock();
        tasks.get(id).inspect(|living| living.stop.cancel()).is_some()
    }

    /// Changes a task that is shown; nothing happens for others.
    pub fn update(&self, id: &TaskId, change: impl FnOnce(&mut Task)) {
        let mut tasks = self.lock();
        let Some(living) = tasks.get_mut(id) else { return };
        change(&mut living.task);
        let _ = self.changes.send(living.task.clone());
    }

    /// Why it is where it is.
    pub fn placed(&self, id: &TaskId, placement: Placement) {
        if let Some(living) = self.lock().get_mut(id) {
            living.placement = Some(placement);
        }
    }

    pub fn placement(&self, id: &TaskId) -> Option<Placement> {
        self.lock().get(id)?.placement.clone()
    }

    /// Changes it a last time and shows it no more as living; returns it.
    pub fn end(
        &self,
        id: &TaskId,
        change: impl FnOnce(&mut Task),
    ) -> Option<(Task, Option<Placement>)> {
        let Living { mut task, placement, .. } = self.lock().remove(id)?;
        change(&mut task);
        let _ = self.changes.send(task.clone());
        Some((task, placement))
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
        self.lock().iter().map(|(id, living)| (id.clone(), living.task.clone())).collect()
    }

    pub fn get(&self, id: &TaskId) -> Option<Task> {
        self.lock().get(id).map(|living| living.task.clone())
    }

    pub fn changes(&self) -> broadcast::Receiver<Task> {
        self.changes.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Living>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
