//! Tasks, as the node runs them: what they need of it, and what it tells of them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock, PoisonError, Weak},
    time::Duration,
};

use agent_api::{
    ActivityKind, Event, TaskId,
    settings::SettingsPatch,
    tasks::{Orchestration, SetConcurrency, Task, TaskKind, TaskSettingsPatch, TaskState},
};
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep_until},
};

use super::{
    Answer, InferenceError, Inner, ModelDefaults, Node, NodeError, SubmitOptions, ToolFormat, Work,
};
use crate::{
    config::SettingsError,
    storage::RequestKind,
    tasks::{
        handle::Tasks,
        job::{BoxFuture, Host, Own},
        origin::Ended,
    },
};

/// Changes are announced at most this often.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(250);
/// Tasks of one announcement; with more, listeners ask again.
const ANNOUNCED: usize = 100;
/// Lines about failed tasks in the activity feed, per minute: a thousand tasks that fail for one
/// reason are one story.
const FAILED_LINES: u32 = 5;
const FAILED_LINES_IN: Duration = Duration::from_secs(60);

/// What tasks need of the node around them. Filled once the node is there; tasks do not keep it
/// alive.
#[derive(Default)]
pub(super) struct NodeHost {
    node: OnceLock<Weak<Inner>>,
}

impl fmt::Debug for NodeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHost").finish_non_exhaustive()
    }
}

impl NodeHost {
    pub(super) fn belongs_to(&self, node: &Node) {
        let _ = self.node.set(std::sync::Arc::downgrade(&node.inner));
    }

    fn node(&self) -> Option<Node> {
        self.node.get()?.upgrade().map(|inner| Node { inner })
    }
}

impl Host for NodeHost {
    fn infer(
        &self,
        kind: RequestKind,
        model: String,
        work: Work,
        options: SubmitOptions,
    ) -> BoxFuture<'_, Result<Answer, InferenceError>> {
        Box::pin(async move {
            let node = self.node().ok_or(InferenceError::ShuttingDown)?;
            node.submit_here(kind, &model, work, options).await
        })
    }

    fn model_here(&self, name: String) -> BoxFuture<'_, Option<String>> {
        Box::pin(async move {
            let node = self.node()?;
            if name.is_empty() {
                return node.active_model();
            }
            node.model_id(&name).await
        })
    }

    fn defaults(&self, model: String) -> BoxFuture<'_, Arc<ModelDefaults>> {
        Box::pin(async move {
            let Some(node) = self.node() else { return Arc::default() };
            node.model_defaults(&model).await.unwrap_or_default()
        })
    }

    fn own(&self) -> Own {
        let Some(node) = self.node() else { return Own::default() };
        let own = node.inner.own.read().unwrap_or_else(PoisonError::into_inner).clone();
        Own { inference: node.inner.inference.state().borrow().clone(), ..own }
    }

    fn slots(&self) -> u32 {
        let Some(node) = self.node() else { return 1 };
        let state = node.inner.inference.state();
        let state = state.borrow();
        let active = state.active.as_ref().map_or(1, |active| active.target.options.slots);
        state.slots().max(active).max(1)
    }

    fn tool_format(
        &self,
        model: String,
    ) -> BoxFuture<'_, Result<Option<ToolFormat>, InferenceError>> {
        Box::pin(async move {
            let node = self.node().ok_or(InferenceError::ShuttingDown)?;
            node.tool_format_here(&model).await
        })
    }

    fn closed(&self) -> Option<String> {
        let Some(node) = self.node().filter(|node| !node.is_stopping()) else {
            return Some("The node is stopping.".to_owned());
        };
        if node.is_paused() {
            return Some("Its owner paused it.".to_owned());
        }
        node.inner.tasks_of.shared().is_draining().then(|| "It is draining.".to_owned())
    }

    fn tell(&self, text: String) {
        let Some(node) = self.node() else { return };
        let told = node.clone();
        node.inner.tasks.spawn(async move { told.record(ActivityKind::RequestDone, text).await });
    }
}

/// Kinds of tasks that need nothing but a model.
const WITHOUT_SANDBOX: [TaskKind; 3] = [TaskKind::Chat, TaskKind::Completion, TaskKind::Embedding];

/// Before anybody looked.
pub(super) fn own_at_first() -> Own {
    Own { able: WITHOUT_SANDBOX.into(), ..Own::default() }
}

impl Node {
    /// Finds out what this computer can contain, and has the mesh told.
    pub(super) async fn look_at_abilities(&self) {
        let contained = self.tasks().shared().here.sandbox.abilities().await;
        let able = contained.iter().filter(|ability| ability.able).map(|ability| ability.kind);
        let able = WITHOUT_SANDBOX.into_iter().chain(able).collect();
        self.inner.own.write().unwrap_or_else(PoisonError::into_inner).able = able;
        self.inner.announce.notify_one();
        self.tasks().moved();
    }

    /// This node's tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks_of
    }

    /// How many tasks of other nodes run here at the same time; absent: automatic.
    pub async fn set_concurrency(&self, set: SetConcurrency) -> Result<Orchestration, NodeError> {
        if set.concurrency == Some(0) {
            return Err(SettingsError::Refused(
                "the number of tasks at the same time (concurrency) is 1 to 256; leave it out for automatic".into(),
            )
            .into());
        }
        let tasks = TaskSettingsPatch {
            concurrency: Some(set.concurrency.unwrap_or(0)),
            ..TaskSettingsPatch::default()
        };
        let patch = SettingsPatch { tasks: Some(tasks), ..SettingsPatch::default() };
        self.patch_settings(patch).await?;
        Ok(self.tasks().orchestration().await?)
    }

    /// Starts no more tasks, or ends that.
    pub async fn drain(&self, on: bool) -> Result<Orchestration, NodeError> {
        self.tasks().set_drain(on);
        self.inner.announce.notify_one();
        let text =
            if on { "Draining: no task is started any more" } else { "Tasks are started again" };
        let kind = if on { ActivityKind::Paused } else { ActivityKind::Resumed };
        self.record(kind, text.to_owned()).await;
        Ok(self.tasks().orchestration().await?)
    }

    /// Announces changes of tasks to whoever listens, batched.
    pub(super) async fn announce_tasks(self) {
        let mut changes = self.tasks().board().changes();
        let mut changed: BTreeMap<TaskId, Task> = BTreeMap::new();
        let mut more = false;
        let mut due: Option<Instant> = None;
        let mut last = Instant::now();
        loop {
            let announce = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.recv() => {
                    match change {
                        Ok(task) if changed.len() < ANNOUNCED || changed.contains_key(&task.id) => {
                            changed.insert(task.id.clone(), task);
                        }
                        Ok(_) | Err(RecvError::Lagged(_)) => more = true,
                        Err(RecvError::Closed) => return,
                    }
                    due.get_or_insert_with(|| last + ANNOUNCE_EVERY);
                }
                () = announce => {
                    last = Instant::now();
                    due = None;
                    let changed: Vec<Task> = std::mem::take(&mut changed).into_values().collect();
                    let more = std::mem::take(&mut more);
                    if self.inner.bus.listeners() == 0 {
                        continue;
                    }
                    match self.tasks().counts().await {
                        Ok(counts) => self.inner.bus.send(Event::Tasks { changed, counts, more }),
                        Err(e) => tracing::warn!("tasks cannot be announced: {e}"),
                    }
                }
                () = self.inner.stop.cancelled() => return,
            }
        }
    }

    /// Writes down what the owner should know: tasks that failed.
    pub(super) async fn write_task_ends(self) {
        let mut ends = self.tasks().ends();
        let mut lines = 0;
        let mut since = Instant::now();
        loop {
            let task = tokio::select! {
                end = ends.recv() => match end {
                    Ok(Ended { task, webhook }) => {
                        if let Some(outbox) = self.outbox().filter(|_| webhook) {
                            outbox.wake();
                        }
                        task
                    }
                    Err(RecvError::Lagged(_)) => {
                        if let Some(outbox) = self.outbox() {
                            outbox.wake();
                        }
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                },
                () = self.inner.stop.cancelled() => return,
            };
            self.inner.metrics.task_ended(&task);
            if !matches!(task.state, TaskState::Failed | TaskState::Expired) {
                continue;
            }
            if since.elapsed() >= FAILED_LINES_IN {
                (lines, since) = (0, Instant::now());
            }
            lines += 1;
            if lines > FAILED_LINES {
                continue;
            }
            let name = task.label.clone().unwrap_or_else(|| task.id.fmt_short());
            let text = format!("Task {name} {}: {}", task.state.as_str(), task.reason);
            // Lines of the feed have no full stop.
            let line = text.trim_end_matches('.').to_owned();
            self.record(ActivityKind::RequestFailed, line).await;
        }
    }
}
