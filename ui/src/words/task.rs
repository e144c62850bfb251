//! What the Tasks panel says about one task.

use agent_api::{
    NodeId,
    tasks::{
        AttemptOutcome, Privacy, Role, Task, TaskCounts, TaskKind, TaskPath, TaskQuery, TaskState,
    },
};

use super::Tone;
use crate::{components::icon::Icon, format};

/// One word, as the list and the dialog have it.
pub fn kind_icon(kind: TaskKind) -> Icon {
    match kind {
        TaskKind::Chat => Icon::Chat,
        TaskKind::Completion => Icon::File,
        TaskKind::Embedding => Icon::Embed,
        TaskKind::Wasm => Icon::Wasm,
        TaskKind::Code => Icon::Code,
    }
}

/// `Chat`, `WASM`: as a title.
pub fn kind_title(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Chat => "Chat",
        TaskKind::Completion => "Completion",
        TaskKind::Embedding => "Embedding",
        TaskKind::Wasm => "WASM",
        TaskKind::Code => "Code",
    }
}

/// A name in the column "Asked by → run by".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    pub name: String,
    /// This node, or its owner.
    pub me: bool,
}

pub fn asked_by(task: &Task) -> Party {
    match task.role {
        Role::Asked => Party { name: "you".into(), me: true },
        Role::Served => Party { name: task.origin_name.clone(), me: false },
    }
}

/// Who does it or did it last; `own` is this node.
pub fn run_by(task: &Task, own: Option<&NodeId>) -> Party {
    let me = task.worker.is_some() && task.worker.as_ref() == own;
    let name = match (&task.worker_name, task.state.is_final()) {
        (Some(name), _) => name.clone(),
        (None, false) => "nobody yet".into(),
        (None, true) => "nobody".into(),
    };
    Party { name, me }
}

pub fn route(path: Option<TaskPath>) -> &'static str {
    match path {
        Some(TaskPath::Local) => "local",
        Some(TaskPath::Lan) => "LAN",
        Some(TaskPath::Direct) => "direct",
        Some(TaskPath::Relay) => "relay",
        None => format::UNKNOWN,
    }
}

/// What a route means, for the pointer.
pub fn route_hint(path: Option<TaskPath>) -> &'static str {
    match path {
        Some(TaskPath::Local) => "It ran where it was submitted",
        Some(TaskPath::Lan) => "Straight, on this network",
        Some(TaskPath::Direct) => "Straight over the internet",
        Some(TaskPath::Relay) => "Through a relay, which cannot read it",
        None => "No node has it yet",
    }
}

pub fn ordinal(n: u32) -> String {
    let ending = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{}{ending}", format::count(u64::from(n)))
}

/// The state in a few words, an icon and a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub tone: Tone,
    pub icon: Icon,
    pub text: String,
    pub hint: String,
}

/// A sentence as a label: without its full stop.
fn label(sentence: &str) -> String {
    let first = sentence.split_once(". ").map_or(sentence, |(first, _)| first);
    first.trim().trim_end_matches('.').to_owned()
}

/// What the node says of a task that only waits its turn. Anything else says why it does not move.
const IN_LINE: &str = "Waits for a node.";

/// A place in a line, where it is one: of tasks that nobody can do, each is the first of its kind.
fn place_in_line(task: &Task) -> Option<String> {
    let stands = task.state == TaskState::Queued && !in_line(task);
    task.queue_position.filter(|_| !stands).map(|n| format!("{} in line", ordinal(n)))
}

fn in_line(task: &Task) -> bool {
    task.reason.is_empty() || task.reason == IN_LINE
}

pub fn state(task: &Task) -> Said {
    let said = |tone, icon, text: String| Said { tone, icon, text, hint: task.reason.clone() };
    let at = task.worker_name.as_deref().unwrap_or("a node");
    let line = place_in_line(task);
    match task.state {
        TaskState::Queued => match line {
            Some(line) => said(Tone::Plain, Icon::Clock, line),
            None if in_line(task) => said(Tone::Plain, Icon::Clock, "Waits".into()),
            None => said(Tone::Attention, Icon::Warn, label(&task.reason)),
        },
        TaskState::Placed => said(Tone::Plain, Icon::Send, format!("Asks {at}")),
        TaskState::Leased => {
            let text =
                line.map_or_else(|| format!("Waits at {at}"), |line| format!("{line} there"));
            said(Tone::Plain, Icon::Clock, text)
        }
        TaskState::Running => said(Tone::Busy, Icon::Play, running(task)),
        TaskState::Verifying => said(Tone::Busy, Icon::Eye, "Comparing results".into()),
        TaskState::Done if task.attempts > 1 => {
            said(Tone::Good, Icon::Check, format!("Done, {} try", ordinal(task.attempts)))
        }
        TaskState::Done => said(Tone::Good, Icon::Check, "Done".into()),
        TaskState::Failed if task.reason.is_empty() => {
            said(Tone::Bad, Icon::Error, "Failed".into())
        }
        TaskState::Failed => said(Tone::Bad, Icon::Error, label(&task.reason)),
        TaskState::Expired => said(Tone::Bad, Icon::Clock, "Not done in time".into()),
        TaskState::Cancelled => said(Tone::Plain, Icon::X, "Cancelled".into()),
    }
}

fn running(task: &Task) -> String {
    let writes = matches!(task.kind, TaskKind::Chat | TaskKind::Completion);
    match task.tokens_per_s.filter(|rate| *rate > 0.0) {
        Some(rate) if writes => format!("Streaming, {} tok/s", rate.round()),
        Some(rate) => format!("Running, {} tok/s", rate.round()),
        None => "Running".into(),
    }
}

/// The state in a word or two, for a badge above the reason.
pub fn short(task: &Task) -> Said {
    let said = state(task);
    let text = match task.state {
        TaskState::Queued => place_in_line(task).unwrap_or_else(|| "Waiting".into()),
        TaskState::Failed | TaskState::Expired => state_title(task.state).into(),
        _ => said.text,
    };
    Said { text, ..said }
}

/// The reason as it stands under that badge, without what the badge says already.
pub fn reason(task: &Task) -> String {
    let reason = task.reason.trim();
    if matches!(reason, IN_LINE | "Done." | "Runs.") {
        return String::new();
    }
    let rest = ["Done: ", "Done; "].iter().find_map(|said| reason.strip_prefix(said));
    match rest.and_then(|rest| rest.chars().next().map(|first| (first, rest))) {
        Some((first, rest)) => {
            format!("{}{}", first.to_uppercase(), &rest[first.len_utf8()..])
        }
        None => reason.to_owned(),
    }
}

/// The word of a state alone, for the timeline and the file of an export.
pub fn state_title(state: TaskState) -> &'static str {
    match state {
        TaskState::Queued => "Queued",
        TaskState::Placed => "Placed",
        TaskState::Leased => "Leased",
        TaskState::Running => "Running",
        TaskState::Verifying => "Verifying",
        TaskState::Done => "Done",
        TaskState::Failed => "Failed",
        TaskState::Cancelled => "Cancelled",
        TaskState::Expired => "Expired",
    }
}

/// When it began, or was submitted if it has not begun.
pub fn since_ms(task: &Task) -> i64 {
    task.started_ms.unwrap_or(task.created_ms)
}

/// How long it ran, or has run, or has waited so far; not known of one that ended before it began.
/// Whole seconds while it goes on: tenths would only flicker.
pub fn took(task: &Task, now_ms: i64) -> String {
    let began = task.started_ms.is_some() || task.state == TaskState::Done;
    match task.ended_ms {
        Some(ended) if began => format::wait((ended - since_ms(task)).max(0) as f64),
        _ if task.state.is_final() => format::UNKNOWN.into(),
        _ => format::duration(now_ms - since_ms(task)),
    }
}

/// Tokens written, or read where nothing is written.
pub fn tokens(task: &Task) -> Option<u32> {
    match task.kind {
        TaskKind::Embedding => task.prompt_tokens,
        TaskKind::Wasm => None,
        TaskKind::Chat | TaskKind::Completion | TaskKind::Code => task.completion_tokens,
    }
}

/// `184 in, 612 out, 12.4 tok/s`.
pub fn all_tokens(task: &Task) -> String {
    let mut parts = Vec::new();
    parts.extend(task.prompt_tokens.map(|n| format!("{} in", format::count(u64::from(n)))));
    parts.extend(task.completion_tokens.map(|n| format!("{} out", format::count(u64::from(n)))));
    let rate = task.tokens_per_s.filter(|r| *r > 0.0);
    parts.extend(rate.map(|r| format!("{} tok/s", format::rate(f64::from(r)))));
    parts.join(", ")
}

/// Anybody's task may be stopped here; one's own wherever it is.
pub fn can_cancel(task: &Task) -> bool {
    !task.state.is_final()
}

/// What the owner submitted and what was not done. Words of interactive requests are not stored, so
/// there is nothing to submit again.
pub fn can_retry(task: &Task) -> bool {
    task.role == Role::Asked
        && !task.interactive
        && task.state.is_final()
        && task.state != TaskState::Done
}

/// Under the title of the panel.
pub fn summary(counts: &TaskCounts) -> String {
    let count = |n: u32| format::count(u64::from(n));
    match (counts.active, counts.queued) {
        (0, 0) if counts.done_today > 0 => format!("{} done today", count(counts.done_today)),
        (0, 0) => "Nothing runs".into(),
        (active, 0) => format!("{} running", count(active)),
        (0, queued) => format!("{} waiting", count(queued)),
        (active, queued) => format!("{} running, {} waiting", count(active), count(queued)),
    }
}

pub fn privacy_title(privacy: Privacy) -> &'static str {
    match privacy {
        Privacy::ThisNode => "This node only",
        Privacy::MyNodes => "My nodes only",
        Privacy::Trusted => "My nodes and trusted ones",
        Privacy::Mesh => "Any node of the mesh",
    }
}

/// Who can read what is sent, in a sentence.
pub fn privacy_about(privacy: Privacy) -> &'static str {
    match privacy {
        Privacy::ThisNode => "Nothing leaves this computer.",
        Privacy::MyNodes => "Only nodes that you marked as yours can run it and read it.",
        Privacy::Trusted => {
            "Your nodes and those of owners you trust can run it. The node that does can read it."
        }
        Privacy::Mesh => {
            "If this node is busy, another one runs it and its owner can read the prompt. Choose “My nodes only” to prevent that."
        }
    }
}

pub const PRIVACIES: [(Privacy, &str); 4] = [
    (Privacy::ThisNode, "this_node"),
    (Privacy::MyNodes, "my_nodes"),
    (Privacy::Trusted, "trusted"),
    (Privacy::Mesh, "mesh"),
];

pub fn privacy_word(privacy: Privacy) -> &'static str {
    PRIVACIES.iter().find(|(p, _)| *p == privacy).map_or("mesh", |(_, word)| word)
}

pub fn privacy_of(word: &str) -> Option<Privacy> {
    PRIVACIES.iter().find(|(_, other)| *other == word).map(|(p, _)| *p)
}

pub fn outcome(outcome: Option<AttemptOutcome>) -> (Tone, Icon, &'static str) {
    match outcome {
        None => (Tone::Busy, Icon::Play, "Going on"),
        Some(AttemptOutcome::Done) => (Tone::Good, Icon::Check, "Done"),
        Some(AttemptOutcome::Refused) => (Tone::Attention, Icon::Minus, "Refused"),
        Some(AttemptOutcome::Lost) => (Tone::Bad, Icon::X, "Lost"),
        Some(AttemptOutcome::Failed) => (Tone::Bad, Icon::Error, "Failed"),
        Some(AttemptOutcome::Cancelled) => (Tone::Plain, Icon::X, "Cancelled"),
        Some(AttemptOutcome::Disagreed) => (Tone::Bad, Icon::Warn, "Another result"),
    }
}

/// Whether a task would be in the answer to a query, apart from its state.
pub fn fits(task: &Task, query: &TaskQuery) -> bool {
    let wanted = query.search.as_deref().unwrap_or_default().trim().to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    let maybe = |text: &Option<String>| text.as_deref().is_some_and(has);
    query.kind.is_none_or(|kind| kind == task.kind)
        && query.role.is_none_or(|role| role == task.role)
        && (wanted.is_empty()
            || has(&task.id.0)
            || has(&task.origin_name)
            || maybe(&task.label)
            || maybe(&task.subject)
            || maybe(&task.worker_name))
}

#[cfg(test)]
pub(crate) mod tests {
    use agent_api::tasks::TaskId;

    use super::*;

    pub(crate) fn task(n: u32, state: TaskState) -> Task {
        Task {
            id: TaskId(format!("t_{n:026}")),
            kind: TaskKind::Chat,
            state,
            reason: String::new(),
            role: Role::Asked,
            interactive: false,
            label: None,
            subject: Some("qwen3:8b".into()),
            privacy: Privacy::Mesh,
            priority: 5,
            origin: NodeId("aa".repeat(32)),
            origin_name: "workbench".into(),
            worker: None,
            worker_name: None,
            path: None,
            created_ms: 1_000,
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

    fn plain(text: &str) -> String {
        text.replace('\u{202f}', " ")
    }

    #[test]
    fn a_waiting_task_says_its_place_or_why_nobody_takes_it() {
        let mut waiting = task(1, TaskState::Queued);
        waiting.queue_position = Some(1);
        assert_eq!(state(&waiting).text, "1st in line");
        waiting.queue_position = Some(112);
        assert_eq!(state(&waiting).text, "112th in line");
        waiting.queue_position = None;
        waiting.reason = "No free peer yet. It is tried again when one is.".into();
        let said = state(&waiting);
        assert_eq!((said.text.as_str(), said.tone), ("No free peer yet", Tone::Attention));
        assert_eq!(said.hint, waiting.reason, "the whole reason is in the hint");
        waiting.queue_position = Some(1);
        assert_eq!(state(&waiting).text, "No free peer yet", "the first of its kind is no line");
        assert_eq!(short(&waiting).text, "Waiting");
        waiting.reason = IN_LINE.into();
        assert_eq!(state(&waiting).text, "1st in line");
        assert_eq!((short(&waiting).text, reason(&waiting)), ("1st in line".into(), String::new()));
    }

    #[test]
    fn a_running_task_says_how_fast_and_a_failed_one_why() {
        let mut running = task(1, TaskState::Running);
        assert_eq!(state(&running).text, "Running");
        running.tokens_per_s = Some(30.6);
        assert_eq!(state(&running).text, "Streaming, 31 tok/s");
        running.kind = TaskKind::Code;
        assert_eq!(state(&running).text, "Running, 31 tok/s");
        let failed = Task { reason: "No answer in 30 s.".into(), ..task(1, TaskState::Failed) };
        assert_eq!(state(&failed).text, "No answer in 30 s");
        let second = Task { attempts: 2, ..task(1, TaskState::Done) };
        assert_eq!(state(&second).text, "Done, 2nd try");
        assert_eq!(short(&failed).text, "Failed");
        assert_eq!(reason(&failed), failed.reason);
    }

    #[test]
    fn what_is_done_is_said_once() {
        let done = |reason: &str| reason_of(TaskState::Done, reason);
        assert_eq!(done("Done."), "");
        assert_eq!(done("Done: 2 of 3 nodes agree."), "2 of 3 nodes agree.");
        assert_eq!(
            done("Done; not compared with another node."),
            "Not compared with another node."
        );
        assert_eq!(reason_of(TaskState::Cancelled, "Cancelled by you."), "Cancelled by you.");
    }

    fn reason_of(state: TaskState, reason: &str) -> String {
        super::reason(&Task { reason: reason.into(), ..task(1, state) })
    }

    #[test]
    fn times_go_on_in_seconds_and_end_in_tenths() {
        let mut task = task(1, TaskState::Running);
        assert_eq!(plain(&took(&task, 14_300)), "13 s", "since it was submitted");
        task.started_ms = Some(4_300);
        assert_eq!(plain(&took(&task, 14_300)), "10 s", "since it began");
        task.state = TaskState::Done;
        task.ended_ms = Some(9_200);
        assert_eq!(plain(&took(&task, 99_000)), "4.9 s");
        task.ended_ms = task.started_ms;
        assert_eq!(plain(&took(&task, 99_000)), "<1 ms");
        task.state = TaskState::Cancelled;
        task.started_ms = None;
        assert_eq!(took(&task, 99_000), format::UNKNOWN, "it never ran");
    }

    #[test]
    fn the_two_parties_are_named_and_this_node_is_you() {
        let own = NodeId("aa".repeat(32));
        let mut it = task(1, TaskState::Queued);
        assert_eq!(asked_by(&it), Party { name: "you".into(), me: true });
        assert_eq!(run_by(&it, Some(&own)).name, "nobody yet");
        it.role = Role::Served;
        it.origin_name = "kanal".into();
        it.worker = Some(own.clone());
        it.worker_name = Some("workbench".into());
        assert_eq!(asked_by(&it), Party { name: "kanal".into(), me: false });
        assert_eq!(run_by(&it, Some(&own)), Party { name: "workbench".into(), me: true });
    }

    #[test]
    fn only_own_tasks_that_were_not_done_are_tried_again() {
        let failed = task(1, TaskState::Failed);
        assert!(can_retry(&failed) && !can_cancel(&failed));
        assert!(!can_retry(&task(1, TaskState::Done)));
        assert!(!can_retry(&Task { role: Role::Served, ..failed.clone() }));
        assert!(!can_retry(&Task { interactive: true, ..failed }));
        assert!(can_cancel(&task(1, TaskState::Leased)));
    }

    #[test]
    fn the_panel_is_summed_up_in_a_few_words() {
        let counts = |active, queued| TaskCounts { active, queued, ..TaskCounts::default() };
        assert_eq!(summary(&counts(2, 3)), "2 running, 3 waiting");
        assert_eq!(summary(&counts(0, 1_200)), "1,200 waiting");
        assert_eq!(summary(&counts(0, 0)), "Nothing runs");
    }

    #[test]
    fn tokens_are_those_that_the_kind_has() {
        let mut it = task(1, TaskState::Done);
        (it.prompt_tokens, it.completion_tokens) = (Some(184), Some(1_612));
        assert_eq!((tokens(&it), all_tokens(&it)), (Some(1_612), "184 in, 1,612 out".into()));
        it.kind = TaskKind::Embedding;
        assert_eq!(tokens(&it), Some(184));
        it.kind = TaskKind::Wasm;
        assert_eq!(tokens(&it), None);
    }

    #[test]
    fn a_search_looks_where_the_node_looks() {
        let it = Task { label: Some("Nightly notes".into()), ..task(7, TaskState::Done) };
        let query = |text: &str| TaskQuery { search: Some(text.into()), ..TaskQuery::default() };
        for found in ["nightly", "QWEN", "00007", "workbench", " "] {
            assert!(fits(&it, &query(found)), "{found}");
        }
        assert!(!fits(&it, &query("llama")));
        assert!(!fits(&it, &TaskQuery { role: Some(Role::Served), ..TaskQuery::default() }));
    }

    #[test]
    fn every_privacy_has_a_word_that_leads_back_to_it() {
        for (privacy, word) in PRIVACIES {
            assert_eq!(privacy_of(privacy_word(privacy)), Some(privacy));
            assert_eq!(serde_json::json!(privacy), word);
        }
        assert!(privacy_about(Privacy::Mesh).contains("can read"));
    }

    #[test]
    fn ordinals_are_spoken_as_people_do() {
        let all: Vec<_> = [1, 2, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal).into();
        assert_eq!(all.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 102nd 111th");
    }
}
