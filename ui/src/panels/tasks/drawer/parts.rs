//! Facts, timeline and attempts of a task.

use agent_api::{
    NodeId,
    tasks::{Attempt, Role, Task, TaskEvent, TaskState},
};
use leptos::prelude::*;

use super::Opened;
use crate::{
    app::App,
    backend,
    components::{
        badge::badge,
        icon::{Icon, icon},
    },
    derived::derived,
    format::{self, LocalTime},
    words::{Badge, Tone, task as words},
};

fn mark(tone: Tone, glyph: Icon, text: String, hint: &str) -> AnyView {
    badge(Badge { tone, icon: Some(glyph), text, hint: hint.into() })
}

pub(super) fn head(app: App, task: &Task) -> AnyView {
    let own = app.state.with_untracked(|s| s.status.as_ref().map(|s| s.node.node_id.clone()));
    let said = words::short(task);
    let tries = (task.attempts > 1).then(|| {
        let text = format::counted(u64::from(task.attempts), "attempt", "attempts");
        mark(Tone::Attention, Icon::Swap, text, "It was placed more than once")
    });
    let clock = task
        .schedule
        .as_ref()
        .map(|_| mark(Tone::Plain, Icon::Clock, "scheduled".into(), "A schedule submitted it"));
    let reason = words::reason(task);
    let reason = (!reason.is_empty()).then(|| view! { <p class="muted">{reason}</p> });
    view! {
        <section>
            <div class="row row--wrap" role="status">
                {mark(said.tone, said.icon, said.text, "")}{tries}{clock}{who_reads(task, own.as_ref())}
            </div>
            {reason}
        </section>
        <section>{facts(app, task, own.as_ref())}</section>
    }
    .into_any()
}

/// Whether somebody else's computer has or may have the prompt.
fn who_reads(task: &Task, own: Option<&NodeId>) -> Option<AnyView> {
    let elsewhere = task.worker.is_some() && task.worker.as_ref() != own;
    let badge = match (task.role, task.worker.is_some()) {
        (Role::Served, _) => return None,
        (_, true) if elsewhere => {
            let name = task.worker_name.clone().unwrap_or_else(|| "another node".into());
            mark(
                Tone::Plain,
                Icon::Eye,
                format!("{name} can read it"),
                "The node that runs it sees its input",
            )
        }
        (_, true) => {
            mark(Tone::Plain, Icon::Home, "stayed here".into(), "No other node saw its input")
        }
        (_, false) => return None,
    };
    Some(badge)
}

fn facts(app: App, task: &Task, own: Option<&NodeId>) -> AnyView {
    let offset = backend::local_offset_ms();
    let now = app.now.get_untracked();
    let at = |ms: i64| LocalTime::new(ms, offset).moment(LocalTime::new(now, offset));
    let first =
        task.first_token_ms.map(|ms| format!("{} after it was submitted", format::wait(ms)));
    let waited = task.started_ms.map(|s| format::wait((s - task.created_ms).max(0) as f64));
    let route = task.path.map(|p| words::route(Some(p)).to_owned());
    let list = [
        ("Model or module", task.subject.clone().unwrap_or_default()),
        ("Label", task.label.clone().unwrap_or_default()),
        ("Asked by", words::asked_by(task).name),
        ("Run by", words::run_by(task, own).name),
        ("Route", route.unwrap_or_default()),
        ("Submitted", at(task.created_ms)),
        ("Waited", waited.unwrap_or_default()),
        ("Took", task.ended_ms.map(|_| words::took(task, now)).unwrap_or_default()),
        ("Tokens", words::all_tokens(task)),
        ("First token", first.unwrap_or_default()),
        ("Who may run it", words::privacy_title(task.privacy).to_owned()),
    ];
    let row = |(name, value): (&'static str, String)| view! { <div><dt>{name}</dt><dd>{value}</dd></div> };
    let shown = list.into_iter().filter(|(_, value)| !value.is_empty()).map(row).collect_view();
    view! { <dl class="kv" id="task-facts">{shown}</dl> }.into_any()
}

/// `+8.4 s` after the submission.
fn after(ms: i64) -> String {
    format!("+{}", format::wait(ms as f64))
}

fn event_icon(state: TaskState) -> (&'static str, Icon) {
    match state {
        TaskState::Failed | TaskState::Expired => ("fail", Icon::X),
        TaskState::Cancelled => ("next", Icon::X),
        TaskState::Running => ("live", Icon::Play),
        TaskState::Queued | TaskState::Leased => ("live", Icon::Clock),
        TaskState::Placed => ("live", Icon::Send),
        TaskState::Verifying => ("live", Icon::Eye),
        TaskState::Done => ("", Icon::Check),
    }
}

/// `first` and `last` of the timeline.
fn event(event: &TaskEvent, began_ms: i64, (first, last): (bool, bool)) -> AnyView {
    let offset = backend::local_offset_ms();
    // What is over has a check, whatever it was; only the last step is what it is now.
    let back = event.state == TaskState::Queued && !first;
    let (class, glyph) = match event_icon(event.state) {
        _ if back => ("fail", Icon::X),
        (class @ ("fail" | "next"), glyph) => (class, glyph),
        now if last => now,
        _ => ("", Icon::Check),
    };
    let node = event.node_name.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
    let title = if back { "Back in the queue" } else { words::state_title(event.state) };
    let title = format!("{title}{node}");
    let time = if event.at_ms <= began_ms {
        LocalTime::new(event.at_ms, offset).clock_with_seconds()
    } else {
        after(event.at_ms - began_ms)
    };
    let text = (!event.text.is_empty()).then(|| view! { <p>{event.text.clone()}</p> });
    view! {
        <li class=class><span class="pt">{icon(glyph)}</span><div><b>{title}</b>{text}</div><time>{time}</time></li>
    }
    .into_any()
}

#[component]
pub(super) fn Timeline(opened: Opened) -> impl IntoView {
    let events = derived(move || {
        let mut all = opened
            .details
            .with(|d| Some(d.as_ref()?.as_ref().ok()?.events.clone()))
            .unwrap_or_default();
        // The stream is ahead of the details.
        for event in opened.live.with(|l| l.events.clone()) {
            if !all.contains(&event) {
                all.push(event);
            }
        }
        all
    });
    let rows = move || {
        let all = events.get();
        let began = all.first().map_or(0, |e| e.at_ms);
        let last = all.len().saturating_sub(1);
        let row = |(n, e): (usize, &TaskEvent)| event(e, began, (n == 0, n == last));
        all.iter().enumerate().map(row).collect_view()
    };
    view! {
        <Show when=move || !events.with(Vec::is_empty)>
            <section><h3>"Timeline"</h3><ol class="timeline" id="task-timeline">{rows}</ol></section>
        </Show>
    }
}

fn attempt(attempt: &Attempt) -> AnyView {
    let (tone, glyph, word) = words::outcome(attempt.outcome);
    let class = match tone {
        Tone::Good => "ok",
        Tone::Bad => "bad",
        Tone::Attention => "warn",
        Tone::Busy | Tone::Plain => "faint",
    };
    let long = attempt.ended_ms.map(|end| format::wait((end - attempt.begun_ms).max(0) as f64));
    let route = attempt.path.map(|p| format!(", {}", words::route(Some(p)))).unwrap_or_default();
    let why = (!attempt.reason.is_empty())
        .then(|| view! { <span class="faint">{format!(" {}", attempt.reason)}</span> });
    view! {
        <li>
            <span class=class>{icon(glyph)}</span>
            <p title=format!("Lease {}", attempt.fence)><b>{attempt.node_name.clone()}</b>{format!("{route}. {word}.")}{why}</p>
            <time>{long}</time>
        </li>
    }
    .into_any()
}

/// Of a task that was tried once and is done, the timeline says it all.
#[component]
pub(super) fn Attempts(opened: Opened) -> impl IntoView {
    let attempts = derived(move || {
        let all = opened.details.with(|d| Some(d.as_ref()?.as_ref().ok()?.attempts.clone()));
        all.filter(|a| a.len() > 1).unwrap_or_default()
    });
    view! {
        <Show when=move || !attempts.with(Vec::is_empty)>
            <section>
                <h3>"Attempts"</h3>
                <ul class="feed attempts">{move || attempts.get().iter().map(attempt).collect_view()}</ul>
            </section>
        </Show>
    }
}
