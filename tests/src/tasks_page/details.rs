//! One generated task in full.

use std::{convert::Infallible, time::Duration};

use agent_api::{
    NodeId,
    mesh::Peer,
    tasks::{
        Attempt, AttemptOutcome, Candidate, CostPart, Excluded, Placement, Role, Task, TaskDetails,
        TaskEvent, TaskKind, TaskNews, TaskOutput, TaskPath, TaskState,
    },
};
use axum::{
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde_json::{Value, json};

use crate::mesh_page::peers::generate;

const ANSWER: &str = "A **lease** gives one worker the sole right to run a task until it expires. If the worker goes silent, the coordinator places the task elsewhere with a higher fencing number, so a late answer from the first worker is refused.\n\n```rust\nif result.fence < task.fence {\n    return Err(Refused::Stale);\n}\n```";
/// Between two pieces of a text that is being written.
const PIECE: Duration = Duration::from_millis(40);

fn peer(n: usize) -> (NodeId, String) {
    let peer: Option<Peer> = generate(13).into_iter().nth(n);
    peer.map(|p| (p.node_id, p.name)).unwrap_or_else(|| (NodeId(String::new()), String::new()))
}

fn events(task: &Task) -> Vec<TaskEvent> {
    let began = task.started_ms.unwrap_or(task.created_ms);
    let event = |at_ms, state, node: Option<String>, text: &str| TaskEvent {
        at_ms,
        state,
        attempt: task.attempts,
        node: None,
        node_name: node,
        text: text.into(),
    };
    let mut all = vec![event(task.created_ms, TaskState::Queued, None, "Submitted to this node.")];
    if task.attempts > 1 {
        let (_, lost) = peer(8);
        all.push(event(
            task.created_ms + 12,
            TaskState::Placed,
            Some(lost.clone()),
            "Best of 3: nothing waits there.",
        ));
        all.push(event(
            task.created_ms + 190,
            TaskState::Leased,
            Some(lost.clone()),
            "For 30 s, renewed every 10 s.",
        ));
        all.push(event(
            began - 100,
            TaskState::Queued,
            Some(lost),
            "Attempt 1 was lost: it sent nothing for 15 s while its path moved to a relay.",
        ));
    }
    if task.state == TaskState::Queued {
        return all;
    }
    let node = task.worker_name.clone();
    all.push(event(began - 90, TaskState::Placed, node.clone(), "Best of 3."));
    all.push(event(began, TaskState::Running, node.clone(), "The model was in memory."));
    if let Some(ended) = task.ended_ms {
        let text = if task.reason.is_empty() {
            "The tokens were counted again here."
        } else {
            &task.reason
        };
        all.push(event(ended, task.state, node, text));
    }
    all
}

fn attempts(task: &Task) -> Vec<Attempt> {
    let (lost, lost_name) = peer(8);
    let began = task.started_ms.unwrap_or(task.created_ms);
    let attempt =
        |number, node, node_name, path, begun_ms, ended_ms, outcome, reason: &str| Attempt {
            number,
            fence: u64::from(number),
            node,
            node_name,
            role: Role::Asked,
            path,
            begun_ms,
            ended_ms,
            outcome,
            reason: reason.into(),
        };
    let Some((node, name)) = task.worker.clone().zip(task.worker_name.clone()) else {
        return Vec::new();
    };
    let outcome = match task.state {
        TaskState::Done => Some(AttemptOutcome::Done),
        TaskState::Cancelled => Some(AttemptOutcome::Cancelled),
        TaskState::Failed | TaskState::Expired => Some(AttemptOutcome::Lost),
        _ => None,
    };
    let last =
        attempt(task.attempts, node, name, task.path, began, task.ended_ms, outcome, &task.reason);
    if task.attempts < 2 {
        return vec![last];
    }
    let why = "It sent nothing for 15 s.";
    let first = attempt(
        1,
        lost,
        lost_name,
        Some(TaskPath::Relay),
        task.created_ms + 190,
        Some(began - 100),
        Some(AttemptOutcome::Lost),
        why,
    );
    vec![first, last]
}

fn placement(task: &Task) -> Placement {
    let part = |what: &str, ms| CostPart { what: what.into(), ms };
    let name = task.worker_name.clone().unwrap_or_else(|| "workbench".into());
    let candidate = |place: usize, chosen: bool, name: String, parts: Vec<CostPart>| Candidate {
        node: peer(place).0,
        name,
        chosen,
        refused: (place == 5 && !chosen).then(|| "All 4 slots are taken.".into()),
        cost_ms: parts.iter().map(|p| p.ms).sum(),
        parts,
    };
    let excluded = |place: usize, reason: &str| {
        let (node, name) = peer(place);
        Excluded { node, name, reason: reason.into() }
    };
    Placement {
        at_ms: task.created_ms,
        summary: format!("{name} has the model in memory and a free slot."),
        candidates: vec![
            candidate(
                1,
                true,
                name.clone(),
                vec![part("writing 256 tokens", 8_200.0), part("the way there", 11.0)],
            ),
            candidate(
                5,
                false,
                peer(5).1,
                vec![
                    part("writing 256 tokens", 9_100.0),
                    part("waiting", 2_400.0),
                    part("the way there", 98.0),
                ],
            ),
            candidate(
                7,
                false,
                peer(7).1,
                vec![
                    part("loading the model", 14_000.0),
                    part("writing 256 tokens", 10_300.0),
                    part("the way there", 138.0),
                ],
            ),
        ],
        excluded: vec![
            excluded(4, "Unreachable for 4 min."),
            excluded(9, "Paused by its owner."),
            excluded(10, "Does not have qwen2.5-coder:14b."),
            excluded(11, "Takes no chat from others."),
        ],
        more_excluded: 212,
    }
}

fn own(task: &Task) -> bool {
    task.role == Role::Asked && !task.interactive
}

pub(super) fn of(task: &Task) -> TaskDetails {
    let input = match task.kind {
        TaskKind::Chat => json!({"messages": [{"role": "user", "content": "What is a lease?"}]}),
        TaskKind::Completion => json!({"prompt": "A lease is"}),
        TaskKind::Embedding => json!({"input": ["What is a lease?", "What is a fence?"]}),
        TaskKind::Wasm => {
            json!({"name": "rsi 1.0", "module_sha256": "ab".repeat(32), "input_text": "{\"period\": 14}"})
        }
        TaskKind::Code => {
            json!({"prompt": "Merge two sorted lists.", "tests": "from solution import merge\nassert merge([1], [2]) == [1, 2]"})
        }
    };
    TaskDetails {
        task: task.clone(),
        events: events(task),
        attempts: attempts(task),
        placement: own(task).then(|| placement(task)),
        expires_ms: None,
        input: own(task).then_some(input),
        has_output: own(task) && task.state == TaskState::Done,
    }
}

fn result(kind: TaskKind) -> Value {
    let program = "def merge(a, b):\n    return sorted(a + b)\n";
    let round = |status: i32, stderr: &str| json!({"code": program, "status": status, "stdout": "", "stderr": stderr, "problem": null, "run_ms": 412});
    match kind {
        TaskKind::Chat | TaskKind::Completion => {
            json!({"text": ANSWER, "finish": "stop", "prompt_tokens": 184, "completion_tokens": 61})
        }
        TaskKind::Embedding => {
            json!({"vectors": [vec![0.25; 768], vec![0.5; 768]], "prompt_tokens": 9})
        }
        TaskKind::Wasm => {
            json!({"output": "eyJyc2kiOiA2MS40fQ==", "output_text": "{\"rsi\": 61.4}", "fuel_used": 214_800, "compared": 2, "agreed": 2})
        }
        TaskKind::Code => {
            json!({"code": program, "passed": true, "iterations": [round(1, "NameError: name 'merge' is not defined"), round(0, "")], "prompt_tokens": 210, "completion_tokens": 96})
        }
    }
}

pub(super) fn output(task: &Task) -> TaskOutput {
    let done = own(task) && task.state == TaskState::Done;
    let output = done.then(|| result(task.kind));
    TaskOutput { id: task.id.clone(), state: task.state, output, partial: None }
}

/// The task, then its text piece by piece, and no end: it goes on running.
pub(super) fn follow(task: Task) -> Response {
    let line = |news: &TaskNews| {
        let mut text = serde_json::to_string(news).unwrap_or_default();
        text.push('\n');
        Bytes::from(text)
    };
    let pieces: Vec<String> = ANSWER.split_inclusive(' ').map(str::to_owned).collect();
    let first = TaskNews::Task { task: Box::new(task) };
    let news =
        stream::unfold((Some(first), pieces.into_iter()), move |(first, mut rest)| async move {
            let next = match first {
                Some(first) => first,
                None => {
                    tokio::time::sleep(PIECE).await;
                    match rest.next() {
                        Some(text) => TaskNews::Text { text },
                        None => std::future::pending().await,
                    }
                }
            };
            Some((Ok::<_, Infallible>(line(&next)), (None, rest)))
        });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(news)).into_response()
}
