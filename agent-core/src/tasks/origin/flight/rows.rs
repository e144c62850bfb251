//! What of a flight is on disk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use agent_api::{
    NodeId, TaskId,
    tasks::{Attempt, AttemptOutcome, Placement, TaskState, Webhook},
};
use serde_json::Value;
use tokio::{sync::mpsc, time::sleep};

use super::{Control, NEWS, Partial, Run};
use crate::{
    clock::now_ms,
    storage::{
        StorageError,
        tasks::{AttemptRow, KeptAttempt, TaskStep, get_task, task_attempts, task_words},
    },
    tasks::{
        job::{Job, JobResult},
        lifecycle::{FAILS, Gathered, Lease, Life},
        origin::{
            Inner,
            outcome::{self, Seen},
        },
        outbox,
        placement::NodeView,
    },
};

/// Stands for the result of an attempt that says that it fails anywhere.
pub(super) const IT_FAILS: &str = "null";
/// The end of a task has to be written: the database is tried again this often.
const AGAIN: Duration = Duration::from_secs(1);

impl Run {
    /// `None`: there is no such task that waits or lives.
    pub(super) async fn load(
        inner: &Arc<Inner>,
        id: &TaskId,
        controls: mpsc::Receiver<Control>,
        partial: Partial,
    ) -> Result<Option<Self>, StorageError> {
        let pool = inner.storage.readers();
        let (row, words) = tokio::try_join!(get_task(pool, id), task_words(pool, id))?;
        let Some(row) = row.filter(|row| !row.task.state.is_final()) else { return Ok(None) };
        let job = words.job.and_then(|json| serde_json::from_str::<Job>(&json).ok());
        let Some(job) = job else {
            return Err(StorageError::Write(format!("the job of {id} cannot be read")));
        };
        let tries = match row.fence {
            0 => Vec::new(),
            _ => task_attempts(pool, &row.task).await?,
        };
        let (news, inbox) = mpsc::channel(NEWS);
        let mut run = Self {
            inner: Arc::clone(inner),
            life: Life::new(row.replicas, row.max_attempts, row.expires_ms.unwrap_or(i64::MAX)),
            row,
            job,
            tries: BTreeMap::new(),
            changed: BTreeSet::new(),
            events: Vec::new(),
            flush_at: None,
            leases: HashMap::new(),
            results: HashMap::new(),
            tried: Vec::new(),
            verdict: None,
            settled: None,
            gave_up: Vec::new(),
            continued: Default::default(),
            partial,
            failed: false,
            gone: false,
            news,
            inbox,
            controls,
        };
        run.restore(tries);
        Ok(Some(run))
    }

    /// The life as the rows say it was.
    fn restore(&mut self, tries: Vec<KeptAttempt>) {
        let Self { life, row, .. } = self;
        life.state = row.task.state;
        life.attempts = row.task.attempts;
        life.failures = row.failures;
        life.fence = row.fence;
        life.here = Some(self.inner.me.clone());
        life.wanted = row.wanted as usize;
        life.most = row.most as usize;
        let running = row.task.state == TaskState::Running;
        for KeptAttempt { attempt, result, continued } in tries {
            let gathered = result.as_deref().and_then(|json| serde_json::from_str(json).ok());
            let taken = gathered.and_then(|result: JobResult| {
                outcome::take(&self.job, &result, &Seen::default()).ok()
            });
            let fails = result.as_deref() == Some(IT_FAILS);
            if attempt.ended_ms.is_none() {
                // What the node was asked to go on from is a part of the answer.
                if let Some(continued) = continued {
                    self.partial.lock().clone_from(&continued.0);
                    self.continued = continued;
                }
                self.life.leases.push(Lease {
                    fence: attempt.fence,
                    node: attempt.node.clone(),
                    state: if running { TaskState::Running } else { TaskState::Placed },
                });
            } else if let Some(taken) = taken.filter(|_| attempt.outcome.is_none()) {
                self.life.results.push(Gathered {
                    fence: attempt.fence,
                    node: attempt.node.clone(),
                    digest: taken.digest,
                });
                self.results.insert(attempt.fence, (attempt.node.clone(), taken));
            } else if fails && attempt.outcome.is_none() {
                let (fence, node) = (attempt.fence, attempt.node.clone());
                self.life.results.push(Gathered { fence, node, digest: FAILS });
            } else if fails {
                self.gave_up.push((attempt.node, attempt.reason));
                continue;
            } else {
                continue;
            }
            self.tries.insert(attempt.fence, as_row(attempt, result));
        }
    }

    pub(super) fn new_try(&mut self, fence: u64, node: &NodeView, placement: Placement) {
        let row = AttemptRow {
            fence,
            number: self.life.attempts,
            node: node.id.clone(),
            node_name: node.name.clone(),
            path: node.path,
            begun_ms: now_ms(),
            ended_ms: None,
            outcome: None,
            reason: String::new(),
            placement: Some(placement),
            result: None,
            continued: Some(self.continued.clone()).filter(|(text, _)| !text.is_empty()),
        };
        self.row.task.worker = Some(node.id.clone());
        self.row.task.worker_name = Some(node.name.clone());
        self.row.task.path = node.path;
        self.tries.insert(fence, row);
        self.changed.insert(fence);
    }

    /// An attempt ended, or (without an outcome) its result waits for others.
    pub(super) fn finish_try(&mut self, fence: u64, outcome: Option<AttemptOutcome>, reason: &str) {
        let Some(row) = self.tries.get_mut(&fence) else { return };
        row.ended_ms.get_or_insert_with(now_ms);
        row.outcome = outcome;
        reason.clone_into(&mut row.reason);
        self.changed.insert(fence);
    }

    pub(super) fn note_try(&mut self, fence: u64, change: impl FnOnce(&mut AttemptRow)) {
        if let Some(row) = self.tries.get_mut(&fence) {
            change(row);
            self.changed.insert(fence);
        }
    }

    /// The row as the life says it is.
    pub(super) fn sync(&mut self) {
        let Self { row, life, tries, changed, .. } = self;
        row.task.state = life.state;
        row.task.attempts = life.attempts;
        row.fence = life.fence;
        row.failures = life.failures;
        row.wanted = u32::try_from(life.wanted).unwrap_or(u32::MAX);
        row.most = u32::try_from(life.most).unwrap_or(u32::MAX);
        if life.state.is_final() {
            row.task.ended_ms.get_or_insert_with(now_ms);
        }
        // Results that nothing is compared with any more are not kept.
        for (fence, attempt) in tries {
            let waits = life.results.iter().any(|result| result.fence == *fence);
            let kept = attempt.outcome.is_none() && attempt.result.is_some();
            if kept && (life.state.is_final() || !waits) {
                attempt.result = None;
                if !life.state.is_final() {
                    attempt.outcome = Some(AttemptOutcome::Failed);
                }
                changed.insert(*fence);
            }
        }
        if !matches!(life.state, TaskState::Leased | TaskState::Running) {
            row.task.queue_position = None;
        }
    }

    /// `false`: it is not on disk; for the end of a task that means that it had ended.
    pub(super) async fn persist(&mut self) -> bool {
        let attempts = self.changed.iter().filter_map(|fence| self.tries.get(fence)).cloned();
        let ends = self.life.state.is_final();
        let output = self.settled.and_then(|fence| self.output(fence));
        let delivery = if ends { self.delivery(output.as_deref()) } else { None };
        let step = TaskStep {
            row: self.row.clone(),
            events: self.events.clone(),
            attempts: attempts.collect(),
            output,
            delivery,
        };
        loop {
            match self.inner.storage.write(step.clone()).await {
                Ok(true) => break,
                Ok(false) => {
                    self.gone = true;
                    return false;
                }
                Err(StorageError::Closed) => {
                    self.gone = true;
                    self.hold();
                    return false;
                }
                Err(e) if ends => {
                    tracing::warn!("a task's end cannot be written yet: {e}");
                    tokio::select! {
                        () = sleep(AGAIN) => {}
                        () = self.inner.stop.cancelled() => {
                            self.gone = true;
                            self.hold();
                            return false;
                        }
                    }
                }
                Err(e) => {
                    tracing::warn!("a task's step cannot be written: {e}");
                    return false;
                }
            }
        }
        self.events.clear();
        self.changed.clear();
        self.flush_at = None;
        // Placements are large, and on disk from now on.
        self.tries.values_mut().for_each(|row| (row.placement, row.continued) = (None, None));
        let waits: Vec<u64> = self.life.results.iter().map(|result| result.fence).collect();
        self.tries.retain(|fence, row| row.ended_ms.is_none() || waits.contains(fence));
        true
    }

    /// What its webhook is to get.
    fn delivery(&self, output: Option<&str>) -> Option<(Webhook, String)> {
        let webhook = serde_json::from_str(self.row.webhook.as_deref()?).ok()?;
        let output: Option<Value> = output.and_then(|json| serde_json::from_str(json).ok());
        Some((webhook, outbox::body(&self.row.task, output.as_ref())))
    }

    fn output(&self, fence: u64) -> Option<String> {
        let (_, taken) = self.results.get(&fence)?;
        let (agreed, compared) = self.verdict.unwrap_or((1, 1));
        if compared > 1 {
            return Some(outcome::with_verdict(taken.output.clone(), agreed, compared));
        }
        Some(taken.output.clone())
    }

    /// The task's result is the one of this lease.
    pub(super) fn settle(&mut self, fence: u64) {
        self.settled = Some(fence);
        let Some((node, taken)) = self.results.get(&fence).cloned() else { return };
        self.row.task.worker_name = Some(self.inner.workers.name_of(&node));
        self.row.task.worker = Some(node);
        self.row.task.prompt_tokens = taken.prompt_tokens;
        self.row.task.completion_tokens = taken.completion_tokens;
        if let Some(row) = self.tries.get(&fence) {
            self.row.task.path = row.path;
        }
        if self.verdict.is_none() {
            self.finish_try(fence, Some(AttemptOutcome::Done), "Done.");
        }
        self.note_try(fence, |row| row.result = None);
    }

    /// Results were compared: what is thought of their nodes.
    pub(super) fn judge(&mut self, agreed: &[NodeId], disagreed: &[NodeId]) {
        use crate::tasks::reputation::Experience;

        self.verdict = Some((agreed.len(), agreed.len() + disagreed.len()));
        let fences: Vec<(u64, NodeId)> =
            self.life.results.iter().map(|r| (r.fence, r.node.clone())).collect();
        for (fence, node) in fences {
            let agrees = agreed.contains(&node);
            let (outcome, reason, what) = if agrees {
                (AttemptOutcome::Done, "Agrees with what counts.", Experience::Agreed)
            } else {
                (AttemptOutcome::Disagreed, "Differs from what counts.", Experience::Disagreed)
            };
            self.finish_try(fence, Some(outcome), reason);
            self.note_try(fence, |row| row.result = None);
            if node != self.inner.me {
                self.inner.workers.experience(&node, what);
            }
        }
    }
}

fn as_row(attempt: Attempt, result: Option<String>) -> AttemptRow {
    AttemptRow {
        fence: attempt.fence,
        number: attempt.number,
        node: attempt.node,
        node_name: attempt.node_name,
        path: attempt.path,
        begun_ms: attempt.begun_ms,
        ended_ms: attempt.ended_ms,
        outcome: attempt.outcome,
        reason: attempt.reason,
        placement: None,
        result,
        continued: None,
    }
}
