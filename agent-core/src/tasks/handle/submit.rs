//! From a submission to a row.

use agent_api::{
    TaskId,
    tasks::{Role, ScheduleId, SubmitTask, Submitted, Task, TaskEvent, TaskKind, TaskState},
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{TaskError, Tasks, parse_submitted};
use crate::{
    clock::now_ms,
    storage::tasks::{Added, NewTask, TaskRow, get_task, task_words},
    tasks::{
        job::{BoxFuture, Job},
        kinds::{Checked, Problems, check},
        lifecycle::Life,
        outbox,
        rows::new_task_id,
        schedule::Submit,
    },
    text::sentence,
};

const PRIORITY: u8 = 5;
const EXPIRES_S: u64 = 24 * 60 * 60;
const MAX_ATTEMPTS: u8 = 3;

impl Tasks {
    /// Everything that is wrong with a submission.
    pub fn check(&self, task: &SubmitTask) -> Result<(), Problems> {
        check_all(task).map(|_| ())
    }

    /// Takes a task; it is on disk when this returns.
    pub async fn submit(&self, task: SubmitTask) -> Result<Submitted, TaskError> {
        self.submit_for(task, None).await
    }

    /// [`Tasks::submit`], for a schedule.
    pub async fn submit_for(
        &self,
        mut task: SubmitTask,
        schedule: Option<ScheduleId>,
    ) -> Result<Submitted, TaskError> {
        let Checked { mut job, node, module } = check_all(&task)?;
        let body_hash = body_hash(&task);
        if let Some(bytes) = module {
            let sha256 = self.shared.here.modules.put(bytes).await?;
            name_module(&mut task.input, &sha256);
            if let Job::Wasm(job) = &mut job {
                job.module = sha256;
            }
        }
        self.name_model(&mut job).await;
        let node = task.node.clone().or(node);
        let new = self.new_task(task, &job, node, body_hash, schedule);
        let id = new.row.task.id.clone();
        match self.origin.add(new).await? {
            Added::New => Ok(Submitted { id, state: TaskState::Queued, repeated: false }),
            Added::Repeated(id, state) => Ok(Submitted { id, state, repeated: true }),
            Added::Conflict(id) => Err(TaskError::Conflict(id)),
            Added::Full => Err(TaskError::QueueFull),
        }
    }

    /// An empty name means the model that is active now, here.
    async fn name_model(&self, job: &mut Job) {
        if job.model() != Some("") {
            return;
        }
        let Some(active) = self.shared.here.host.model_here(String::new()).await else { return };
        match job {
            Job::Chat(job) | Job::Completion(job) => job.model = active,
            Job::Embedding { model, .. } => *model = active,
            Job::Code(input) => input.model = active,
            Job::Wasm(_) => {}
        }
    }

    fn new_task(
        &self,
        mut submit: SubmitTask,
        job: &Job,
        node: Option<String>,
        body_hash: [u8; 32],
        schedule: Option<ScheduleId>,
    ) -> NewTask {
        let now = now_ms();
        let seconds = submit.expires_in_s.unwrap_or(EXPIRES_S);
        let expires_ms =
            now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000));
        let max_attempts = u32::from(submit.max_attempts.unwrap_or(MAX_ATTEMPTS));
        let life = Life::new(submit.replicas, max_attempts, expires_ms);
        let privacy = submit.privacy.unwrap_or_else(|| self.shared.settings.borrow().tasks.privacy);
        let need = need(job, node.as_deref(), privacy);
        let idempotency_key = submit.idempotency_key.take();
        let webhook = submit.webhook.take();
        let text = match self.shared.is_draining() {
            true => "Waits: this node drains and starts no tasks until that is ended.",
            false => "Waits for a node.",
        };
        let task = Task {
            id: new_task_id(),
            kind: submit.kind,
            state: TaskState::Queued,
            reason: text.to_owned(),
            role: Role::Asked,
            interactive: false,
            label: submit.label.clone(),
            subject: job.subject(),
            privacy,
            priority: submit.priority.unwrap_or(PRIORITY),
            origin: self.shared.id.clone(),
            origin_name: self.shared.name(),
            worker: None,
            worker_name: None,
            path: None,
            created_ms: now,
            started_ms: None,
            ended_ms: None,
            attempts: 0,
            queue_position: None,
            prompt_tokens: None,
            completion_tokens: None,
            tokens_per_s: None,
            first_token_ms: None,
            schedule,
        };
        let event = TaskEvent {
            at_ms: now,
            state: TaskState::Queued,
            attempt: 0,
            node: None,
            node_name: None,
            text: "Submitted.".to_owned(),
        };
        let row = TaskRow {
            task,
            need,
            node,
            fence: 0,
            failures: 0,
            max_attempts,
            wanted: u32::try_from(life.wanted).unwrap_or(1),
            most: u32::try_from(life.most).unwrap_or(1),
            replicas: submit.replicas,
            expires_ms: Some(expires_ms),
            webhook: webhook.and_then(|webhook| serde_json::to_string(&webhook).ok()),
        };
        NewTask {
            row,
            idempotency_key,
            body_hash,
            // Both are JSON already, or made of it.
            submitted: serde_json::to_string(&submit).unwrap_or_default(),
            job: serde_json::to_string(job).unwrap_or_default(),
            event,
        }
    }

    /// The same once more, as a new task.
    pub async fn retry(&self, id: &TaskId) -> Result<Submitted, TaskError> {
        let pool = self.shared.storage.readers();
        let Some(row) = get_task(pool, id).await? else {
            let living = self.shared.board.get(id).is_some();
            return Err(if living {
                TaskError::NoWords(id.clone())
            } else {
                TaskError::NotFound(id.clone())
            });
        };
        match row.task.state {
            TaskState::Failed | TaskState::Cancelled | TaskState::Expired => {}
            TaskState::Done => return Err(TaskError::NotOver(id.clone(), "is done")),
            _ => return Err(TaskError::NotOver(id.clone(), "is not over yet")),
        }
        let words = task_words(pool, id).await?;
        let submitted = words.submitted.as_deref().and_then(parse_submitted);
        let task = submitted.ok_or_else(|| TaskError::NoWords(id.clone()))?;
        self.submit_for(once_more(task, &row), row.task.schedule).await
    }
}

/// A submission as it was when it was taken: what it left open then stays as it was decided.
fn once_more(mut task: SubmitTask, row: &TaskRow) -> SubmitTask {
    task.webhook = row.webhook.as_deref().and_then(|json| serde_json::from_str(json).ok());
    // A default that was widened since must not send its words further.
    task.privacy = Some(row.task.privacy);
    task
}

/// The submission with its webhook.
fn check_all(task: &SubmitTask) -> Result<Checked, Problems> {
    let webhook = task.webhook.as_ref().and_then(|webhook| outbox::check(webhook).err());
    let problem = webhook.map(|problem| format!("webhook: {problem}"));
    match (check(task), problem) {
        (Ok(checked), None) => Ok(checked),
        (Ok(_), Some(problem)) => Err(Problems(vec![problem])),
        (Err(Problems(mut lines)), problem) => {
            lines.extend(problem);
            Err(Problems(lines))
        }
    }
}

impl Submit for Tasks {
    fn check(&self, task: &SubmitTask) -> Result<(), String> {
        check_all(task).map(|_| ()).map_err(|problems| problems.to_string())
    }

    fn submit(
        &self,
        task: SubmitTask,
        schedule: ScheduleId,
    ) -> BoxFuture<'_, Result<Submitted, String>> {
        Box::pin(async move {
            let submitted = self.submit_for(task, Some(schedule)).await;
            submitted.map_err(|error| sentence(&error.to_string()))
        })
    }
}

/// A module is kept by its digest, not in the row.
fn name_module(input: &mut Value, sha256: &str) {
    if let Value::Object(input) = input {
        input.remove("module");
        input.insert("module_sha256".to_owned(), sha256.into());
    }
}

/// SHA-256 of the submission without its key, with the fields of every object in order: two bodies
/// that mean the same have the same.
fn body_hash(task: &SubmitTask) -> [u8; 32] {
    let mut body = serde_json::to_value(task).unwrap_or_default();
    if let Value::Object(fields) = &mut body {
        fields.remove("idempotency_key");
    }
    Sha256::digest(sorted(body).to_string().as_bytes()).into()
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            let fields = fields.into_iter().map(|(name, value)| (name, sorted(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// What a node has to have for it, as a number: tasks with the same need wait in one lane.
fn need(job: &Job, node: Option<&str>, privacy: agent_api::tasks::Privacy) -> i64 {
    let kind: TaskKind = job.kind();
    let mut hash = Sha256::new();
    hash.update(kind.as_str());
    hash.update([0, privacy as u8]);
    hash.update(job.model().unwrap_or_default());
    hash.update([0]);
    hash.update(node.unwrap_or_default());
    let digest: [u8; 32] = hash.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(json: &str) -> SubmitTask {
        serde_json::from_str(json).expect("a submission")
    }

    #[test]
    fn bodies_that_mean_the_same_have_the_same_hash_and_the_key_is_no_part_of_it() {
        let a = task(r#"{"kind":"chat","input":{"a":1,"b":{"d":2,"c":3}},"idempotency_key":"x"}"#);
        let b = task(r#"{"input":{"b":{"c":3,"d":2},"a":1},"kind":"chat"}"#);
        let c = task(r#"{"kind":"chat","input":{"a":2,"b":{"d":2,"c":3}}}"#);
        assert_eq!(body_hash(&a), body_hash(&b));
        assert_ne!(body_hash(&a), body_hash(&c));
    }

    #[test]
    fn ids_grow_and_have_the_contracts_form() {
        let mut last = new_task_id();
        for _ in 0..10_000 {
            let next = new_task_id();
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        assert_eq!(last.0.len(), 28);
        assert!(crate::tasks::rows::is_task_id(&last), "{last}");
    }

    #[test]
    fn a_retry_goes_no_further_than_the_task_did() {
        use crate::tasks::rows::new_row;
        use agent_api::{NodeId, tasks::Privacy};

        let origin = (NodeId("a".into()), "here".into());
        let mut row = new_row(new_task_id(), TaskKind::Chat, Role::Asked, origin);
        row.privacy = Privacy::ThisNode;
        let row = TaskRow {
            task: row,
            need: 1,
            node: None,
            fence: 0,
            failures: 0,
            max_attempts: 3,
            wanted: 1,
            most: 1,
            replicas: None,
            expires_ms: None,
            webhook: None,
        };
        let again = once_more(task(r#"{"kind":"chat","input":{"a":1}}"#), &row);
        assert_eq!(again.privacy, Some(Privacy::ThisNode));
    }

    #[test]
    fn a_module_leaves_its_digest_in_the_input() {
        let mut input = serde_json::json!({"module": "AAAA", "fuel": 5});
        name_module(&mut input, "abc");
        assert_eq!(input, serde_json::json!({"module_sha256": "abc", "fuel": 5}));
    }
}
