//! Tasks as a busy node has them, the same ones in every run.

use agent_api::tasks::{
    Delivery, DeliveryState, NewSchedule, Privacy, Role, Schedule, ScheduleId, SubmitTask, Task,
    TaskId, TaskKind, TaskPath, TaskState,
};
use serde_json::json;

use crate::mesh_page::{now_ms, peers::id as node_id};

const PEERS: [&str; 8] =
    ["kanal", "fjord-01", "kaveri", "cedar-studio", "ipe-lab", "lantau", "harbour-2", "attic-mini"];
const CHAT: [&str; 3] = ["qwen2.5-coder:14b", "llama3.3:70b", "qwen3:8b"];
const MODULES: [&str; 3] = ["image-resize 0.4", "csv-join 1.1", "rsi 1.0"];
const PATHS: [TaskPath; 3] = [TaskPath::Lan, TaskPath::Direct, TaskPath::Relay];
/// Between two tasks.
const APART_MS: i64 = 41_000;

pub(super) fn id(n: u64) -> TaskId {
    TaskId(format!("t_{n:026}"))
}

fn blank(n: u64, kind: TaskKind, state: TaskState) -> Task {
    let place = n as usize;
    let subject = match kind {
        TaskKind::Wasm => MODULES[place % 3],
        TaskKind::Embedding => "nomic-embed-text",
        _ => CHAT[place % 3],
    };
    Task {
        id: id(n),
        kind,
        state,
        reason: String::new(),
        role: Role::Asked,
        interactive: false,
        label: None,
        subject: Some(subject.into()),
        privacy: Privacy::Mesh,
        priority: 5,
        origin: node_id(0),
        origin_name: "workbench".into(),
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

/// Another node's task, or one's own, on this node or another.
fn placed(task: &mut Task, n: usize) {
    let peer = PEERS[n % PEERS.len()];
    let own = (Some(node_id(0)), Some("workbench".to_owned()));
    match n % 4 {
        0 => {
            (task.worker, task.worker_name) = own;
            task.path = Some(TaskPath::Local);
        }
        1 => {
            (task.worker, task.worker_name) = (Some(node_id(n % 8 + 1)), Some(peer.to_owned()));
            task.path = Some(PATHS[n % 3]);
        }
        _ => {
            task.role = Role::Served;
            task.origin = node_id(n % 8 + 1);
            task.origin_name = peer.into();
            (task.worker, task.worker_name) = own;
            task.path = Some(PATHS[n % 3]);
        }
    }
}

fn ended(n: u64, age: i64) -> Task {
    let place = n as usize;
    let kind = [
        TaskKind::Chat,
        TaskKind::Chat,
        TaskKind::Embedding,
        TaskKind::Chat,
        TaskKind::Code,
        TaskKind::Wasm,
        TaskKind::Completion,
    ][place % 7];
    let state = match place % 61 {
        7 | 23 => TaskState::Failed,
        31 => TaskState::Expired,
        47 => TaskState::Cancelled,
        _ => TaskState::Done,
    };
    let mut task = blank(n, kind, state);
    placed(&mut task, place);
    let took = 400 + (place as i64 * 7_919 % 64_000);
    task.created_ms = now_ms() - age - took - 300;
    task.started_ms = Some(task.created_ms + 300);
    task.ended_ms = Some(now_ms() - age);
    task.attempts = if place % 19 == 3 { 2 } else { 1 };
    if kind != TaskKind::Wasm {
        task.prompt_tokens = Some(120 + (place as u32 * 37) % 9_000);
        task.completion_tokens = Some(20 + (place as u32 * 53) % 1_900);
        task.tokens_per_s = Some(12.4 + (place % 30) as f32);
        task.first_token_ms = Some(210.0 + (place % 900) as f64);
    }
    task.reason = match state {
        TaskState::Failed if kind == TaskKind::Wasm => {
            "Over its 10 s limit. Give it more time, or less to do.".into()
        }
        TaskState::Failed => "No answer in 30 s. Three nodes were asked; submit it again.".into(),
        TaskState::Expired => "Nobody did it within a day.".into(),
        TaskState::Cancelled => "You cancelled it.".into(),
        _ => String::new(),
    };
    if place % 23 == 4 {
        task.label = Some("Nightly notes".into());
    }
    task
}

fn going(count: u64) -> Vec<Task> {
    let running = |n: u64, served: bool, ago: i64, rate: f32| {
        let mut task = blank(count + n, TaskKind::Chat, TaskState::Running);
        placed(&mut task, if served { 2 } else { 0 });
        task.origin_name = if served { "kanal" } else { "workbench" }.into();
        task.created_ms = now_ms() - ago - 900;
        task.started_ms = Some(now_ms() - ago);
        task.prompt_tokens = Some(184);
        task.tokens_per_s = Some(rate);
        task.first_token_ms = Some(412.0);
        task.subject = Some(CHAT[0].into());
        task
    };
    let mut embed = blank(count + 3, TaskKind::Embedding, TaskState::Queued);
    placed(&mut embed, 2);
    embed.origin_name = "fjord-01".into();
    embed.queue_position = Some(1);
    embed.created_ms -= 9_000;
    let mut second = blank(count + 4, TaskKind::Chat, TaskState::Queued);
    placed(&mut second, 2);
    second.queue_position = Some(2);
    second.created_ms -= 3_000;
    let mut nobody = blank(count + 5, TaskKind::Chat, TaskState::Queued);
    nobody.subject = Some(CHAT[1].into());
    nobody.reason =
        "No free node yet. cedar-studio and harbour-2 are full; it goes to the first that is free."
            .into();
    nobody.created_ms -= 1_000;
    vec![nobody, second, embed, running(2, false, 2_600, 30.0), running(1, true, 13_300, 31.2)]
}

/// Newest first.
pub(super) fn tasks(count: usize) -> Vec<Task> {
    if count == 0 {
        return Vec::new();
    }
    let count = count as u64;
    let ended = (1..=count).rev().map(|n| ended(n, (count - n) as i64 * APART_MS + 8_000));
    going(count).into_iter().chain(ended).collect()
}

/// A task that came over the page. One that says so ends at once.
pub(super) fn submitted(n: u64, body: &SubmitTask) -> Task {
    let mut task = blank(n, body.kind, TaskState::Running);
    placed(&mut task, 0);
    task.label.clone_from(&body.label);
    task.privacy = body.privacy.unwrap_or_default();
    task.started_ms = Some(task.created_ms + 40);
    task.tokens_per_s = Some(34.0);
    task
}

pub(super) fn schedule(n: u64, new: NewSchedule) -> Schedule {
    Schedule {
        id: ScheduleId(format!("s_{n:026}")),
        name: new.name,
        words: format!("As {} says", new.cron),
        cron: new.cron,
        zone: "Europe/Berlin".into(),
        task: new.task,
        missed: new.missed,
        paused: new.paused,
        created_ms: now_ms(),
        next_ms: Some(now_ms() + 3_600_000),
        last_ms: None,
        last_task: None,
        problem: None,
    }
}

pub(super) fn schedules() -> Vec<Schedule> {
    let task = |kind| SubmitTask {
        kind,
        input: json!({}),
        privacy: None,
        priority: None,
        node: None,
        idempotency_key: None,
        expires_in_s: None,
        max_attempts: None,
        replicas: None,
        label: None,
        webhook: None,
    };
    let new = |name: &str, cron: &str, kind| NewSchedule {
        name: name.into(),
        cron: cron.into(),
        zone: None,
        task: task(kind),
        missed: Default::default(),
        paused: false,
    };
    let nightly = schedule(1, new("Nightly summary", "30 2 * * *", TaskKind::Chat));
    let index = schedule(2, new("Index of notes", "*/15 * * * *", TaskKind::Embedding));
    vec![
        Schedule {
            words: "Every day at 02:30".into(),
            last_ms: Some(now_ms() - 30_000_000),
            last_task: Some(id(1)),
            ..nightly
        },
        Schedule {
            words: "Every 15 minutes".into(),
            paused: true,
            last_ms: Some(now_ms() - 900_000),
            problem: Some(
                "nomic-embed-text is on no node of the mesh. Pull it, or change the model.".into(),
            ),
            ..index
        },
    ]
}

pub(super) fn dead() -> Vec<Delivery> {
    vec![Delivery {
        id: "d1".into(),
        task: id(2),
        url: "https://hooks.example.com/notes".into(),
        state: DeliveryState::Dead,
        attempts: 8,
        created_ms: now_ms() - 90_000_000,
        next_ms: None,
        problem: Some("It answered 503 eight times within a day.".into()),
    }]
}
