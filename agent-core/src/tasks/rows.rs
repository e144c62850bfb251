//! Rows of the panel for work that no database has to know while it runs: requests whose client
//! waits, and other nodes' tasks.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use agent_api::{
    NodeId, TaskId,
    tasks::{Placement, Privacy, Role, Task, TaskKind, TaskPath, TaskState},
};
use tokio_util::sync::CancellationToken;

use super::{board::Board, reputation::Experience};
use crate::{clock::now_ms, mesh::NodeKey, storage::RequestKind};

/// What worker and router need to know of the node, and tell it.
pub trait Around: fmt::Debug + Send + Sync + 'static {
    /// This node's id and name.
    fn me(&self) -> (NodeId, String);
    /// What the mesh calls a node; its short id when it is not known.
    fn name_of(&self, node: &NodeId) -> String;
    /// How a node is reached now.
    fn path_to(&self, node: &NodeId) -> TaskPath;
    /// A row that ended, to be kept for the panel. Another node chose the id of a served task: it
    /// must not take the place of a row of this node's own.
    /// With the reason why it was where it was, for a request of this node's own.
    fn ended(&self, task: Task, placement: Option<Placement>);
    /// What happened with a peer that worked for this node.
    fn experience(&self, node: NodeKey, what: Experience);
}

/// Digits of ULIDs (Crockford's base 32), lower case.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The last id of this process: the next one is larger, so that tasks go in the order in which they
/// came, also within a millisecond.
static LAST: Mutex<u128> = Mutex::new(0);

/// A new id: the time and 74 random bits of a UUID of version 7, written as a ULID.
pub fn new_task_id() -> TaskId {
    let mut bits = {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last = uuid::Uuid::now_v7().as_u128().max(last.saturating_add(1));
        *last
    };
    let mut text = [b'0'; 26];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(bits % 32).unwrap_or(0)];
        bits /= 32;
    }
    TaskId(format!("t_{}", String::from_utf8_lossy(&text)))
}

/// `t_` and 26 digits: what may be taken from another node as a task's name.
pub fn is_task_id(id: &TaskId) -> bool {
    let digits = id.0.strip_prefix("t_").map(str::as_bytes);
    digits.is_some_and(|text| text.len() == 26 && text.iter().all(|c| DIGITS.contains(c)))
}

pub fn kind_of(kind: RequestKind) -> TaskKind {
    match kind {
        RequestKind::Chat => TaskKind::Chat,
        RequestKind::Completion => TaskKind::Completion,
        RequestKind::Embedding => TaskKind::Embedding,
    }
}

/// Why a task ended that the owner did not want to go on.
pub const STOPPED: &str = "The owner of this node stopped it";

/// A row that waits, of a task that begins now.
pub fn new_row(id: TaskId, kind: TaskKind, role: Role, origin: (NodeId, String)) -> Task {
    Task {
        id,
        kind,
        state: TaskState::Queued,
        reason: String::new(),
        role,
        interactive: false,
        label: None,
        subject: None,
        privacy: Privacy::default(),
        priority: 5,
        origin: origin.0,
        origin_name: origin.1,
        worker: None,
        worker_name: None,
        path: None,
        created_ms: now_ms(),
        started_ms: None,
        ended_ms: None,
        attempts: 1,
        queue_position: None,
        prompt_tokens: None,
        completion_tokens: None,
        tokens_per_s: None,
        first_token_ms: None,
        schedule: None,
    }
}

/// A row on the board. Dropping it before its end ends it as cancelled.
#[derive(Debug)]
pub struct Row {
    board: Board,
    around: std::sync::Arc<dyn Around>,
    id: TaskId,
    begun: Instant,
    first_text: Option<Instant>,
    ended: bool,
    stop: CancellationToken,
    /// Another task has this id here: nothing is shown of this one.
    hidden: bool,
}

impl Row {
    pub fn begin(board: Board, around: std::sync::Arc<dyn Around>, task: Task) -> Self {
        let id = task.id.clone();
        let hidden = board.get(&id).is_some();
        let stop = if hidden { CancellationToken::new() } else { board.begin(task) };
        let begun = Instant::now();
        Self { board, around, id, begun, first_text: None, ended: false, stop, hidden }
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Cancelled when the owner of this node stops the task.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub fn id(&self) -> &TaskId {
        &self.id
    }

    pub fn update(&self, change: impl FnOnce(&mut Task)) {
        if !self.hidden && !self.ended {
            self.board.update(&self.id, change);
        }
    }

    pub fn waits(&self, position: Option<u32>, reason: &str) {
        self.update(|task| {
            task.state = TaskState::Leased;
            task.queue_position = position;
            reason.clone_into(&mut task.reason);
        });
    }

    pub fn runs(&self, reason: &str) {
        self.update(|task| {
            task.state = TaskState::Running;
            task.queue_position = None;
            task.started_ms = Some(now_ms());
            reason.clone_into(&mut task.reason);
        });
    }

    pub fn at(&self, node: NodeId, name: String, path: TaskPath) {
        self.update(|task| {
            task.worker = Some(node);
            task.worker_name = Some(name);
            task.path = Some(path);
        });
    }

    /// Why it is there.
    pub fn placed(&self, placement: Placement) {
        if !self.hidden && !self.ended {
            self.board.placed(&self.id, placement);
        }
    }

    /// The first text came.
    pub fn speaks(&mut self) {
        if self.first_text.is_some() {
            return;
        }
        self.first_text = Some(Instant::now());
        let ms = self.begun.elapsed().as_secs_f64() * 1e3;
        self.update(|task| task.first_token_ms = Some(ms));
    }

    /// The tokens that were counted.
    pub fn counted(&self, prompt: u32, completion: u32) {
        let took = self.first_text.map_or(0.0, |first| first.elapsed().as_secs_f32());
        self.update(|task| {
            task.prompt_tokens = Some(prompt);
            task.completion_tokens = Some(completion);
            #[expect(clippy::cast_precision_loss, reason = "tokens of one answer")]
            let speed = (took > 0.0 && completion > 1).then(|| (completion - 1) as f32 / took);
            task.tokens_per_s = speed;
        });
    }

    /// How long this node's own model wrote, as its runner measured it: what reaches a reader in one
    /// go says nothing about its speed.
    pub fn wrote(&self, tokens: u32, ms: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "a speed to be shown")]
        let speed = (ms > 0.0 && tokens > 0).then(|| (f64::from(tokens) / ms * 1e3) as f32);
        self.update(|task| task.tokens_per_s = speed);
    }

    pub fn end(&mut self, state: TaskState, reason: &str) {
        if self.ended || self.hidden {
            self.ended = true;
            return;
        }
        self.ended = true;
        let ended = self.board.end(&self.id, |task| {
            task.state = state;
            task.queue_position = None;
            task.ended_ms = Some(now_ms());
            reason.clone_into(&mut task.reason);
        });
        if let Some((task, placement)) = ended {
            self.around.ended(task, placement);
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let reason = match self.stop.is_cancelled() {
            true => STOPPED,
            false => "Whoever asked does not want it any more",
        };
        self.end(TaskState::Cancelled, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_as_they_are_checked_and_sort_by_time() {
        let ids: Vec<TaskId> = (0..50).map(|_| new_task_id()).collect();
        assert!(ids.iter().all(is_task_id), "{ids:?}");
        assert!(ids.is_sorted(), "{ids:?}");
        for wrong in ["", "t_", "t_../../etc/passwd0000000000", "T_01J00000000000000000000000"] {
            assert!(!is_task_id(&TaskId(wrong.to_owned())), "{wrong}");
        }
    }
}
