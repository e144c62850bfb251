//! What worker and router tell this node: rows that ended, experiences, results to be kept.

use std::{fmt, sync::Arc};

use agent_api::{
    NodeId,
    tasks::{Placement, Task, TaskPath},
};

use crate::{
    clock::now_ms,
    mesh::NodeKey,
    storage::{
        Storage,
        tasks::{DropServedResult, SaveEndedTask, SaveServedResult, served_result},
    },
    tasks::{
        job::BoxFuture,
        reputation::Experience,
        rows::Around,
        shared::Shared,
        worker::kept::{Kept, Key},
    },
};

pub(super) struct Surroundings {
    shared: Arc<Shared>,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

impl Surroundings {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Around for Surroundings {
    fn me(&self) -> (NodeId, String) {
        (self.shared.id.clone(), self.shared.name())
    }

    fn name_of(&self, node: &NodeId) -> String {
        self.shared.name_of(node)
    }

    fn path_to(&self, node: &NodeId) -> TaskPath {
        self.shared.path_to(node)
    }

    fn ended(&self, task: Task, placement: Option<Placement>) {
        self.shared.storage.write_behind(SaveEndedTask { task: Box::new(task), placement });
        self.shared.moved.notify_one();
    }

    fn experience(&self, node: NodeKey, what: Experience) {
        self.shared.reputations.add(node, &what, now_ms());
    }
}

/// Results of other nodes' tasks in the database, until those nodes have them.
#[derive(Debug)]
pub(super) struct KeptRows(pub(super) Storage);

impl Kept for KeptRows {
    fn save(&self, key: Key, result: Vec<u8>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let Key { origin, task, fence } = key;
            let save = SaveServedResult { origin: origin.0, task, fence, result };
            self.0.write(save).await.map_err(|e| e.to_string())
        })
    }

    fn find(&self, key: Key) -> BoxFuture<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let found = served_result(self.0.readers(), &key.origin.0, &key.task, key.fence).await;
            found.unwrap_or_else(|e| {
                tracing::warn!("a kept result cannot be read: {e}");
                None
            })
        })
    }

    fn forget(&self, key: Key) -> BoxFuture<'_, ()> {
        let Key { origin, task, fence } = key;
        // One that stays is pruned by its age.
        self.0.write_behind(DropServedResult { origin: origin.0, task, fence });
        Box::pin(std::future::ready(()))
    }
}
