//! One row of the table of tasks.

use std::sync::Arc;

use agent_api::tasks::{Task, TaskId};
use leptos::{ev, prelude::*};

use crate::{
    app::{App, use_app},
    backend,
    components::icon::{Icon, icon, icon_class},
    derived::derived,
    format::{self, LocalTime, UNKNOWN},
    route,
    words::{
        Tone,
        task::{self as words, Party},
    },
};

#[component]
pub(super) fn Row(id: TaskId) -> impl IntoView {
    let app = use_app();
    let wanted = id.clone();
    // A row that is about to go keeps its last content.
    let task = Memo::new(move |before: Option<&Option<Arc<Task>>>| {
        let now = app.tasks.board.with(|b| b.get(&wanted).map(Arc::clone));
        now.or_else(|| before.cloned().flatten())
    });
    let own = StoredValue::new(id.clone());
    let open = move || own.with_value(|id| app.show_task(Some(id)));
    let enter = move |event: ev::KeyboardEvent| {
        if event.key() == "Enter" && event.target() == event.current_target() {
            event.prevent_default();
            open();
        }
    };
    // Only what goes on reads the clock.
    let took = derived(move || {
        let going = task.with(|t| t.as_ref().is_some_and(|t| !t.state.is_final()));
        let now = if going { app.now.get() } else { 0 };
        task.with(|t| t.as_ref().map_or(UNKNOWN.into(), |t| words::took(t, now)))
    });
    view! {
        <tr tabindex="-1" data-row data-task=id.0.clone() on:keydown=enter on:click=move |_| open()>
            {move || task.get().map(|t| first(app, &t))}
            <td class="t-took num">{move || took.get()}</td>
            {move || task.get().map(|t| last(app, &t))}
        </tr>
    }
}

pub(super) fn party(party: Party) -> AnyView {
    let class = if party.me { "me trunc" } else { "trunc" };
    view! { <span class=class title=party.name.clone()>{party.name.clone()}</span> }.into_any()
}

fn first(app: App, task: &Task) -> AnyView {
    let own = app.state.with_untracked(|s| s.status.as_ref().map(|s| s.node.node_id.clone()));
    let offset = backend::local_offset_ms();
    let now = LocalTime::new(app.now.get_untracked(), offset);
    let began = LocalTime::new(words::since_ms(task), offset);
    let subject = task.subject.clone().unwrap_or_else(|| UNKNOWN.into());
    let label =
        task.label.clone().map(|label| view! { <span class="t-label faint trunc">{label}</span> });
    let full = match &task.label {
        Some(label) => format!("{subject}, {label}"),
        None => subject.clone(),
    };
    view! {
        <th scope="row" class="t-kind">
            <span class="state">
                {icon_class(words::kind_icon(task.kind), "i faint")}
                <a class="rowlink trunc" href=route::task_href(&task.id) title=task.id.0.clone()>{task.kind.as_str()}</a>
            </span>
        </th>
        <td class="t-what" title=full><span class="t-two"><span class="trunc">{subject}</span>{label}</span></td>
        <td class="t-who"><span class="flow">
            {party(words::asked_by(task))}{icon_class(Icon::Right, "i faint i-sm")}{party(words::run_by(task, own.as_ref()))}
        </span></td>
        <td class="t-route faint" title=words::route_hint(task.path)>{words::route(task.path)}</td>
        <td class="t-start num faint" title=format!("{} {}", began.date(), began.clock_with_seconds())>{began.clock_or_date(now)}</td>
    }
    .into_any()
}

pub(super) fn tone_class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "state ok",
        Tone::Busy => "state info",
        Tone::Attention => "state warn",
        Tone::Bad => "state bad",
        Tone::Plain => "state muted",
    }
}

fn last(app: App, task: &Task) -> AnyView {
    let tokens =
        words::tokens(task).map_or_else(|| UNKNOWN.into(), |n| format::count(u64::from(n)));
    let said = words::state(task);
    view! {
        <td class="t-tok num">{tokens}</td>
        <td class="t-state">
            <span class=tone_class(said.tone) title=said.hint>{icon(said.icon)}<span class="trunc">{said.text}</span></span>
        </td>
        <td class="t-acts">{action(app, task)}</td>
    }
    .into_any()
}

/// What can be done about it right here.
fn action(app: App, task: &Task) -> Option<AnyView> {
    let id = task.id.clone();
    let short = id.fmt_short();
    let (glyph, label, retry) = if words::can_cancel(task) {
        let glyph = if task.started_ms.is_some() { Icon::Stop } else { Icon::X };
        (glyph, format!("Cancel {short}"), false)
    } else if words::can_retry(task) {
        (Icon::Refresh, format!("Submit {short} again"), true)
    } else {
        return None;
    };
    let act = move |event: ev::MouseEvent| {
        event.stop_propagation();
        if retry { app.retry_task(id.clone()) } else { app.cancel_task(id.clone()) }
    };
    let button = view! {
        <button class="ibtn ibtn--sm" type="button" aria-label=label.clone() title=label on:click=act>{icon(glyph)}</button>
    };
    Some(button.into_any())
}
