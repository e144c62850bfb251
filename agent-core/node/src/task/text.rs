//! Tasks as text. The same words as the panel's.

use agent_api::tasks::{
    AttemptOutcome, Task, TaskDetails, TaskEvent, TaskList, TaskOutput, TaskPath,
};
use serde_json::Value;

use crate::{
    mesh::ago,
    words::{duration, number, table},
};

pub(super) fn list(list: &TaskList, now_ms: i64) -> String {
    let counts = &list.counts;
    let summary = format!(
        "{} waiting, {} active; today {} done, {} failed\n",
        number(counts.queued.into()),
        number(counts.active.into()),
        number(counts.done_today.into()),
        number(counts.failed_today.into()),
    );
    if list.tasks.is_empty() {
        return format!("No tasks. {summary}");
    }
    let rows: Vec<_> = list.tasks.iter().map(|task| row(task, now_ms)).collect();
    let heading = ["TASK", "KIND", "STATE", "MODEL", "NODE", "TOKENS", "SUBMITTED", "LABEL"];
    let mut text = table(&heading, &rows);
    if let Some(next) = &list.next {
        text.push_str(&format!("There are more: --before {next} shows those before these.\n"));
    }
    text + &summary
}

fn row(task: &Task, now_ms: i64) -> Vec<String> {
    let dash = || "-".to_owned();
    let state = match task.queue_position {
        Some(place) => format!("{}, place {}", task.state.as_str(), number(place.into())),
        None => task.state.as_str().to_owned(),
    };
    vec![
        task.id.fmt_short(),
        task.kind.as_str().to_owned(),
        state,
        task.subject.clone().unwrap_or_else(dash),
        worker(task).unwrap_or_else(dash),
        task.completion_tokens.map_or_else(dash, |tokens| number(tokens.into())),
        ago(Some(task.created_ms), now_ms),
        task.label.clone().unwrap_or_else(dash),
    ]
}

fn worker(task: &Task) -> Option<String> {
    let name = task.worker_name.clone();
    name.or_else(|| task.worker.as_ref().map(|node| node.fmt_short().to_owned()))
}

fn path(path: TaskPath) -> &'static str {
    match path {
        TaskPath::Local => "on this computer",
        TaskPath::Lan => "on this network",
        TaskPath::Direct => "direct",
        TaskPath::Relay => "through a relay",
    }
}

/// `running: on studio`, as one line.
pub(super) fn standing(task: &Task) -> String {
    format!("{} {}: {}", task.id.fmt_short(), task.state.as_str(), task.reason)
}

/// `running: text`.
pub(super) fn note(task: &Task) -> String {
    format!("{}: {}", task.state.as_str(), task.reason)
}

/// An event as [`note`] has it.
pub(super) fn happened(event: &TaskEvent) -> String {
    format!("{}: {}", event.state.as_str(), event.text)
}

/// `running (studio): text`.
pub(super) fn event(event: &TaskEvent) -> String {
    let node = event.node_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    format!("{}{node}: {}", event.state.as_str(), event.text)
}

pub(super) fn details(details: &TaskDetails, now_ms: i64) -> String {
    let task = &details.task;
    let mut text = format!("{} ({})\n", task.id, task.kind.as_str());
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            text.push_str(&format!("  {name:<13}{value}\n"));
        }
    };
    line("State:", Some(format!("{}. {}", task.state.as_str(), task.reason)));
    line("Label:", task.label.clone());
    line("Model:", task.subject.clone());
    let reached = task.path.map(|way| format!(", {}", path(way))).unwrap_or_default();
    line("Node:", worker(task).map(|name| format!("{name}{reached}")));
    line(
        "Submitted:",
        Some(format!("{} on {}", ago(Some(task.created_ms), now_ms), task.origin_name)),
    );
    let ended = task.ended_ms.map(|at| format!("{}{}", ago(Some(at), now_ms), took(task)));
    line("Ended:", ended);
    let left = details.expires_ms.filter(|_| !task.state.is_final());
    let left = left.and_then(|at| u64::try_from((at - now_ms) / 1_000).ok());
    line("Expires:", left.map(|seconds| format!("in {}", duration(seconds))));
    line("Tokens:", tokens(task));
    line("First token:", task.first_token_ms.map(|ms| format!("after {ms:.0} ms")));
    line("Schedule:", task.schedule.as_ref().map(ToString::to_string));
    if let Some(placement) = &details.placement {
        line("Placement:", Some(placement.summary.clone()));
        for candidate in &placement.candidates {
            let refused = candidate.refused.as_ref().map(|why| format!(", refused: {why}"));
            let parts: Vec<_> = candidate
                .parts
                .iter()
                .map(|part| format!("{} {:.0} ms", part.what, part.ms))
                .collect();
            line(
                "",
                Some(format!(
                    "{} {:.0} ms ({}){}",
                    candidate.name,
                    candidate.cost_ms,
                    parts.join(", "),
                    refused.unwrap_or_default()
                )),
            );
        }
        for node in &placement.excluded {
            line("", Some(format!("not {}: {}", node.name, node.reason)));
        }
    }
    for attempt in &details.attempts {
        let outcome = attempt.outcome.map_or("under way", outcome);
        line(
            &format!("Attempt {}:", attempt.number),
            Some(format!("{outcome} on {}. {}", attempt.node_name, attempt.reason)),
        );
    }
    for happened in &details.events {
        line(&after(happened.at_ms - task.created_ms), Some(event(happened)));
    }
    text
}

fn took(task: &Task) -> String {
    let took = task.ended_ms.zip(task.started_ms).map(|(end, start)| end - start);
    let took = took.and_then(|ms| u64::try_from(ms).ok());
    took.map(|ms| format!(", ran for {}", milliseconds(ms))).unwrap_or_default()
}

fn milliseconds(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { duration(ms / 1_000) }
}

fn after(ms: i64) -> String {
    format!("+{}", milliseconds(u64::try_from(ms).unwrap_or(0)))
}

fn tokens(task: &Task) -> Option<String> {
    let written = task.completion_tokens?;
    let read = task.prompt_tokens.unwrap_or_default();
    let speed = task.tokens_per_s.map(|speed| format!(", {speed:.1} tokens/s"));
    Some(format!(
        "{} read, {} written{}",
        number(read.into()),
        number(written.into()),
        speed.unwrap_or_default()
    ))
}

fn outcome(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Done => "done",
        AttemptOutcome::Refused => "refused",
        AttemptOutcome::Lost => "lost",
        AttemptOutcome::Failed => "failed",
        AttemptOutcome::Cancelled => "cancelled",
        AttemptOutcome::Disagreed => "another result",
    }
}

/// What there is of a result for people and scripts: the text, the program's text, else its JSON.
/// `None`: nothing yet.
pub(super) fn result(output: &TaskOutput) -> Option<String> {
    let Some(value) = &output.output else { return output.partial.clone() };
    let fields = ["text", "output_text", "code"];
    let text = fields.iter().find_map(|field| value.get(field).and_then(Value::as_str));
    Some(match text {
        Some(text) => text.to_owned(),
        None => serde_json::to_string_pretty(value).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use agent_api::{
        NodeId, TaskId,
        tasks::{Attempt, Excluded, Placement, Privacy, Role, TaskCounts, TaskKind, TaskState},
    };
    use serde_json::json;

    use super::*;

    fn task(id: &str) -> Task {
        Task {
            id: TaskId(id.to_owned()),
            kind: TaskKind::Chat,
            state: TaskState::Running,
            reason: "studio is writing".to_owned(),
            role: Role::Asked,
            interactive: false,
            label: None,
            subject: Some("m".to_owned()),
            privacy: Privacy::Mesh,
            priority: 5,
            origin: NodeId("ab".repeat(32)),
            origin_name: "laptop".to_owned(),
            worker: Some(NodeId("cd".repeat(32))),
            worker_name: Some("studio".to_owned()),
            path: Some(TaskPath::Lan),
            created_ms: 10_000,
            started_ms: Some(11_000),
            ended_ms: None,
            attempts: 1,
            queue_position: None,
            prompt_tokens: Some(12),
            completion_tokens: Some(1_234),
            tokens_per_s: Some(40.0),
            first_token_ms: Some(80.4),
            schedule: None,
        }
    }

    #[test]
    fn a_list_says_where_each_task_is() {
        let mut waiting = task("t_00000000000000000000queued");
        (waiting.state, waiting.queue_position) = (TaskState::Queued, Some(2));
        (waiting.worker, waiting.worker_name, waiting.completion_tokens) = (None, None, None);
        let counts = TaskCounts { queued: 1, active: 1, ..TaskCounts::default() };
        let tasks = vec![task("t_00000000000000000000runnin"), waiting];
        let text = list(&TaskList { tasks, next: None, counts }, 75_000);
        assert_eq!(
            text,
            "TASK      KIND  STATE            MODEL  NODE    TOKENS  SUBMITTED      LABEL\n\
             t_runnin  chat  running          m      studio  1,234   1 min 5 s ago  -\n\
             t_queued  chat  queued, place 2  m      -       -       1 min 5 s ago  -\n\
             1 waiting, 1 active; today 0 done, 0 failed\n"
        );
        let older = Some(TaskId("t_older".to_owned()));
        let text = self::list(&TaskList { tasks: vec![task("t_1")], next: older, counts }, 75_000);
        assert!(text.contains("--before t_older"), "{text}");
    }

    #[test]
    fn one_task_says_what_happened_and_why_there() {
        let node = NodeId("cd".repeat(32));
        let view = TaskDetails {
            task: task("t_1"),
            events: vec![TaskEvent {
                at_ms: 10_200,
                state: TaskState::Leased,
                attempt: 1,
                node: Some(node.clone()),
                node_name: Some("studio".to_owned()),
                text: "studio took it".to_owned(),
            }],
            attempts: vec![Attempt {
                number: 1,
                fence: 1,
                node: node.clone(),
                node_name: "studio".to_owned(),
                role: Role::Asked,
                path: None,
                begun_ms: 10_000,
                ended_ms: None,
                outcome: None,
                reason: String::new(),
            }],
            placement: Some(Placement {
                summary: "studio has the model in memory".to_owned(),
                excluded: vec![Excluded {
                    node,
                    name: "attic".to_owned(),
                    reason: "it does not have the model".to_owned(),
                }],
                ..Placement::default()
            }),
            expires_ms: Some(75_000 + 120_000),
            input: None,
            has_output: false,
        };
        let text = details(&view, 75_000);
        for expected in [
            "running. studio is writing",
            "Node:        studio, on this network",
            "Expires:     in 2 min 0 s",
            "12 read, 1,234 written, 40.0 tokens/s",
            "studio has the model in memory",
            "not attic: it does not have the model",
            "Attempt 1:   under way on studio",
            "+200 ms      leased (studio): studio took it",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn a_result_is_its_text_where_it_has_one() {
        let output = |output: Option<Value>, partial: Option<&str>| TaskOutput {
            id: TaskId("t".to_owned()),
            state: TaskState::Done,
            output,
            partial: partial.map(ToOwned::to_owned),
        };
        let text = |view: TaskOutput| result(&view);
        assert_eq!(text(output(Some(json!({"text": "hi"})), None)).as_deref(), Some("hi"));
        assert_eq!(text(output(Some(json!({"code": "x = 1"})), None)).as_deref(), Some("x = 1"));
        assert_eq!(text(output(None, Some("so far"))).as_deref(), Some("so far"));
        assert_eq!(text(output(None, None)), None);
        let vectors = json!({"vectors": [[1.0]], "prompt_tokens": 1});
        assert!(text(output(Some(vectors), None)).expect("json").contains("vectors"));
    }
}
