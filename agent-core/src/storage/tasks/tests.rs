//! The tables of tasks against a real database file.

use agent_api::{
    NodeId, TaskId,
    tasks::{Privacy, Role, ScheduleId, Task, TaskEvent, TaskKind, TaskState},
};

use super::*;
use crate::storage::Storage;

async fn open() -> (tempfile::TempDir, Storage) {
    let dir = tempfile::tempdir().expect("temp dir");
    let storage = Storage::open(&dir.path().join("edgecoder.db")).await.expect("opens").storage;
    (dir, storage)
}

fn row(id: &str) -> TaskRow {
    let task = Task {
        id: TaskId(id.to_owned()),
        kind: TaskKind::Wasm,
        state: TaskState::Queued,
        reason: "Waits.".into(),
        role: Role::Asked,
        interactive: false,
        label: Some("100%_sure".into()),
        subject: Some("rsi 1.0".into()),
        privacy: Privacy::MyNodes,
        priority: 5,
        origin: NodeId("aa".into()),
        origin_name: "here".into(),
        worker: None,
        worker_name: None,
        path: None,
        created_ms: 1_000,
        started_ms: None,
        ended_ms: None,
        attempts: 0,
        queue_position: None,
        prompt_tokens: None,
        completion_tokens: None,
        tokens_per_s: None,
        first_token_ms: None,
        schedule: Some(ScheduleId("s_1".into())),
    };
    TaskRow {
        task,
        need: 7,
        node: None,
        fence: 0,
        failures: 0,
        max_attempts: 3,
        wanted: 1,
        most: 1,
        replicas: None,
        expires_ms: Some(90_000),
        webhook: None,
    }
}

fn new(row: TaskRow, key: Option<&str>, hash: u8) -> AddTask {
    let event = TaskEvent {
        at_ms: 1,
        state: TaskState::Queued,
        attempt: 0,
        node: None,
        node_name: None,
        text: "Submitted.".into(),
    };
    AddTask(Box::new(NewTask {
        row,
        idempotency_key: key.map(Into::into),
        body_hash: [hash; 32],
        submitted: "{}".into(),
        job: "{}".into(),
        event,
    }))
}

fn step(row: &TaskRow, text: &str) -> TaskStep {
    let event = TaskEvent {
        at_ms: 2,
        state: row.task.state,
        attempt: 1,
        node: Some(NodeId("bb".into())),
        node_name: Some("b".into()),
        text: text.to_owned(),
    };
    TaskStep {
        row: row.clone(),
        events: vec![event],
        attempts: Vec::new(),
        output: None,
        delivery: None,
    }
}

#[tokio::test]
async fn a_task_comes_back_as_it_was_written_and_a_key_is_used_once() {
    let (_dir, storage) = open().await;
    let first = row("t_1");
    let add = |row, key, hash| storage.write(new(row, key, hash));
    assert_eq!(add(first.clone(), Some("k"), 1).await.expect("writes"), Added::New);
    let again = add(row("t_2"), Some("k"), 1).await.expect("writes");
    assert_eq!(again, Added::Repeated(TaskId("t_1".into()), TaskState::Queued));
    let other = add(row("t_3"), Some("k"), 2).await.expect("writes");
    assert_eq!(other, Added::Conflict(TaskId("t_1".into())));
    let kept = get_task(storage.readers(), &TaskId("t_1".into())).await.expect("reads");
    assert_eq!(kept, Some(first));
    let events = task_events(storage.readers(), &TaskId("t_1".into())).await.expect("reads");
    assert_eq!(events.len(), 1);
    assert_eq!(get_task(storage.readers(), &TaskId("t_2".into())).await.expect("reads"), None);
}

#[tokio::test]
async fn a_task_ends_once_and_never_under_an_old_fence() {
    let (_dir, storage) = open().await;
    let mut task = row("t_1");
    storage.write(new(task.clone(), None, 1)).await.expect("writes");
    task.fence = 2;
    task.task.state = TaskState::Running;
    assert!(storage.write(step(&task, "runs")).await.expect("writes"));
    let mut late = task.clone();
    late.fence = 1;
    late.task.state = TaskState::Done;
    late.task.ended_ms = Some(5);
    assert!(!storage.write(step(&late, "late")).await.expect("refused"), "an old fence");
    let mut done = late.clone();
    done.fence = 2;
    assert!(storage.write(step(&done, "done")).await.expect("writes"));
    assert!(!storage.write(step(&done, "twice")).await.expect("refused"), "it had ended");
    let events = task_events(storage.readers(), &task.task.id).await.expect("reads");
    let texts: Vec<_> = events.iter().map(|e| e.text.as_str()).collect();
    assert_eq!(texts, ["Submitted.", "runs", "done"]);
    let counts = task_counts(storage.readers(), 5).await.expect("reads");
    assert_eq!((counts.done, counts.done_today, counts.queued, counts.active), (1, 1, 0, 0));
}

#[tokio::test]
async fn waiting_tasks_come_by_need_priority_and_age() {
    let (_dir, storage) = open().await;
    for (id, need, priority) in [("t_1", 7, 5), ("t_2", 7, 9), ("t_3", -4, 5), ("t_4", 7, 5)] {
        let mut row = row(id);
        (row.need, row.task.priority) = (need, priority);
        storage.write(new(row, None, 1)).await.expect("writes");
    }
    assert_eq!(lanes(storage.readers(), 10).await.expect("reads"), [-4, 7]);
    let ids = |tasks: Vec<QueuedTask>| tasks.into_iter().map(|t| t.id).collect::<Vec<_>>();
    let queued = queued_of(storage.readers(), 7, 10).await.expect("reads");
    assert_eq!(ids(queued), ["t_2", "t_1", "t_4"]);
    let cancelled = TaskId("t_1".into());
    let end = EndQueued {
        ids: vec![cancelled.clone(), cancelled.clone()],
        state: TaskState::Cancelled,
        reason: "Cancelled by you.".into(),
        now_ms: 9,
        body: |_| String::new(),
    };
    assert_eq!(storage.write(end).await.expect("writes"), [cancelled]);
    let queued = queued_of(storage.readers(), 7, 10).await.expect("reads");
    assert_eq!(ids(queued), ["t_2", "t_4"]);
}

#[tokio::test]
async fn pages_are_filtered_and_go_on_where_the_last_one_ended() {
    let (_dir, storage) = open().await;
    for n in 0..9 {
        let mut row = row(&format!("t_{n}"));
        row.task.label = Some(format!("label {n}_x"));
        storage.write(new(row, None, 1)).await.expect("writes");
    }
    let page = |filter: Filter| {
        let pool = storage.readers().clone();
        async move {
            let rows = list_tasks(&pool, &filter).await.expect("reads");
            rows.into_iter().map(|row| row.task.id.0).collect::<Vec<_>>()
        }
    };
    let all = Filter { limit: 4, ..Filter::default() };
    assert_eq!(page(all.clone()).await, ["t_8", "t_7", "t_6", "t_5"]);
    let before = Filter { before: Some(TaskId("t_5".into())), ..all.clone() };
    assert_eq!(page(before).await, ["t_4", "t_3", "t_2", "t_1"]);
    let found = Filter { search: Some("L 3_".into()), ..all.clone() };
    assert_eq!(page(found).await, ["t_3"], "an underscore is an underscore");
    for state in ["queued", "active", "ended"] {
        let some = Filter { state: Some(state.into()), limit: 9, ..Filter::default() };
        assert_eq!(page(some).await.len(), if state == "queued" { 9 } else { 0 }, "{state}");
    }
    let served = Filter { role: Some(Role::Served), limit: 9, ..Filter::default() };
    assert!(page(served).await.is_empty());
}

#[tokio::test]
async fn ended_rows_of_others_never_replace_a_row_and_go_when_they_are_old() {
    let (_dir, storage) = open().await;
    storage.write(new(row("t_1"), None, 1)).await.expect("writes");
    for id in ["t_1", "t_2"] {
        let mut task = row(id).task;
        task.role = Role::Served;
        task.state = TaskState::Done;
        task.ended_ms = Some(1_000);
        storage
            .write(SaveEndedTask { task: Box::new(task), placement: None })
            .await
            .expect("writes");
    }
    let kept = get_task(storage.readers(), &TaskId("t_1".into())).await.expect("reads");
    assert_eq!(kept.map(|row| row.task.role), Some(Role::Asked));
    let prune = PruneTasks { before_ms: 2_000, own: 9, others: 9, most: 10 };
    assert_eq!(storage.write(prune).await.expect("writes"), 1);
    let counts = task_counts(storage.readers(), 1_000).await.expect("reads");
    assert_eq!((counts.done, counts.queued), (0, 1));
}

#[tokio::test]
async fn a_request_that_ended_keeps_the_reason_for_its_node() {
    let (_dir, storage) = open().await;
    let mut task = row("t_1").task;
    (task.interactive, task.state, task.ended_ms) = (true, TaskState::Done, Some(1_000));
    task.worker = Some(NodeId("ab".repeat(32)));
    let placement = Placement { summary: "It was free.".to_owned(), ..Placement::default() };
    let save = SaveEndedTask { task: Box::new(task), placement: Some(placement.clone()) };
    storage.write(save).await.expect("writes");
    let id = TaskId("t_1".into());
    let kept = task_placement(storage.readers(), &id).await.expect("reads");
    assert_eq!(kept, Some(placement));
}

#[tokio::test]
async fn what_others_make_does_not_push_out_what_the_owner_submitted() {
    let (_dir, storage) = open().await;
    for n in 0..3_i64 {
        let mut own = row(&format!("t_{n}"));
        storage.write(new(own.clone(), None, 1)).await.expect("writes");
        own.task.state = TaskState::Done;
        own.task.ended_ms = Some(n);
        assert!(storage.write(step(&own, "Done.")).await.expect("writes"));
    }
    for n in 0..20_i64 {
        let mut task = row(&format!("u_{n}")).task;
        (task.role, task.interactive) =
            if n % 2 == 0 { (Role::Served, false) } else { (Role::Asked, true) };
        (task.state, task.ended_ms) = (TaskState::Done, Some(1_000 + n));
        storage
            .write(SaveEndedTask { task: Box::new(task), placement: None })
            .await
            .expect("writes");
    }
    let left = async || {
        let filter = Filter { limit: 99, ..Filter::default() };
        let rows = list_tasks(storage.readers(), &filter).await.expect("reads");
        let mut ids: Vec<String> = rows.into_iter().map(|row| row.task.id.0).collect();
        ids.sort();
        ids
    };
    let prune = PruneTasks { before_ms: i64::MIN, own: 9, others: 4, most: 10 };
    assert_eq!(storage.write(prune).await.expect("writes"), 10);
    assert_eq!(storage.write(prune).await.expect("writes"), 6);
    assert_eq!(storage.write(prune).await.expect("writes"), 0);
    assert_eq!(left().await, ["t_0", "t_1", "t_2", "u_16", "u_17", "u_18", "u_19"]);
    let prune = PruneTasks { own: 1, ..prune };
    assert_eq!(storage.write(prune).await.expect("writes"), 2);
    assert_eq!(left().await, ["t_2", "u_16", "u_17", "u_18", "u_19"]);
}

#[tokio::test]
async fn a_result_for_another_node_is_kept_until_that_node_has_it() {
    let (_dir, storage) = open().await;
    let task = TaskId("t_1".into());
    let origin = [3; 32];
    let save = SaveServedResult { origin, task: task.clone(), fence: 4, result: vec![1, 2] };
    storage.write(save).await.expect("writes");
    let kept = |fence| served_result(storage.readers(), &origin, &task, fence);
    assert_eq!(kept(4).await.expect("reads"), Some(vec![1, 2]));
    assert_eq!(kept(3).await.expect("reads"), None);
    let drop = DropServedResult { origin, task: task.clone(), fence: 4 };
    storage.write(drop).await.expect("writes");
    assert_eq!(kept(4).await.expect("reads"), None);
}

#[tokio::test]
async fn kept_results_have_a_bound_and_the_oldest_go() {
    let (_dir, storage) = open().await;
    let origin = |n: u8| [n % 4; 32];
    for n in 0..20 {
        let origin = origin(n);
        let task = TaskId(format!("t_{n:02}"));
        let save = SaveServedResult { origin, task, fence: 1, result: vec![0; 4 << 20] };
        storage.write(save).await.expect("writes");
    }
    let mut kept = 0;
    for n in 0..20 {
        let task = TaskId(format!("t_{n:02}"));
        let found = served_result(storage.readers(), &origin(n), &task, 1).await.expect("reads");
        assert_eq!(found.is_some(), n >= 4, "{n}");
        kept += usize::from(found.is_some());
    }
    assert_eq!(kept, 16, "64 MiB");
    let prune = PruneServedResults { before_ms: i64::MAX };
    assert_eq!(storage.write(prune).await.expect("writes"), 16);
}

#[tokio::test]
async fn one_node_does_not_take_the_others_room_for_kept_results() {
    let (_dir, storage) = open().await;
    let task = |n: u8| TaskId(format!("t_{n:02}"));
    let save = |origin: u8, n: u8| {
        let result = vec![0; 4 << 20];
        SaveServedResult { origin: [origin; 32], task: task(n), fence: 1, result }
    };
    storage.write(save(1, 0)).await.expect("writes");
    for n in 0..20 {
        storage.write(save(2, n)).await.expect("writes");
    }
    let found = async |origin: u8, n: u8| {
        let found = served_result(storage.readers(), &[origin; 32], &task(n), 1).await;
        found.expect("reads").is_some()
    };
    assert!(found(1, 0).await, "the oldest of all, of another node");
    for n in 0..20 {
        assert_eq!(found(2, n).await, n >= 12, "{n}: 32 MiB");
    }
}
