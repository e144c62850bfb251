//! Which of all tasks are shown: by state, by role, by kind, and by a typed text.

use std::time::Duration;

use agent_api::tasks::{Role, TaskKind};
use leptos::prelude::*;

use crate::{
    app::{App, use_app},
    components::{
        icon::{Icon, icon},
        menu::Menu,
    },
    format,
    tasks::board::Group,
    words::task as words,
};

/// The node is asked when nothing was typed for so long.
const TYPING: Duration = Duration::from_millis(250);

const ROLES: [(Option<Role>, &str); 3] =
    [(None, "Both"), (Some(Role::Served), "I served"), (Some(Role::Asked), "I asked")];

#[component]
pub(super) fn Filters() -> impl IntoView {
    let app = use_app();
    let role = move |(role, title): (Option<Role>, &'static str)| {
        let on = app.tasks.part(move |b| b.filter().role == role);
        let choose = move |_| app.filter_tasks(|f| f.role = role);
        view! {
            <label>
                <input type="radio" name="task-role" prop:checked=move || on.get() on:change=choose/>
                <span>{title}</span>
            </label>
        }
    };
    view! {
        <div class="filterbar" id="task-filters">
            <div class="seg" role="radiogroup" aria-label="State">
                {state(app, None)}
                {Group::ALL.map(|group| state(app, Some(group))).into_iter().collect_view()}
            </div>
            <div class="seg" role="radiogroup" aria-label="Role">{ROLES.map(role).into_iter().collect_view()}</div>
            // Where there is no room for both, they go to the next line together.
            <span class="push row"><Search/><Kinds/></span>
        </div>
    }
}

fn state(app: App, group: Option<Group>) -> AnyView {
    let on = app.tasks.part(move |b| b.filter().group == group);
    let count = app.tasks.part(move |b| group.map(|g| g.count(&b.counts)));
    // Cancelled tasks are of little interest: there is a way to them where all groups are shown.
    let hidden = move || group == Some(Group::Cancelled) && !on.get();
    let choose = move |_| app.filter_tasks(|f| f.group = group);
    let name = group.map_or("All", Group::title);
    let figure = move || {
        let text = count.get().map(|n| format::compact(u64::from(n)));
        text.map(|n| view! { <i class="count">{n}</i> })
    };
    view! {
        <label hidden=hidden data-group=name>
            <input type="radio" name="task-state" prop:checked=move || on.get() on:change=choose/>
            <span>{name}{figure}</span>
        </label>
    }
    .into_any()
}

#[component]
fn Search() -> impl IntoView {
    let app = use_app();
    let search = app.tasks.part(|b| b.filter().search.clone());
    let typed = RwSignal::new(search.get_untracked());
    // The filter may be cleared elsewhere.
    Effect::new(move |_| typed.set(search.get()));
    let input = move |event| {
        let text = event_target_value(&event);
        typed.set(text.clone());
        let ask = move || {
            if typed.try_get_untracked().as_deref() == Some(text.as_str()) {
                app.filter_tasks(|f| f.search = text);
            }
        };
        set_timeout(ask, TYPING);
    };
    view! {
        <div class="input-icon">
            {icon(Icon::Search)}
            <input
                class="input input--sm input--quiet"
                id="task-search"
                type="search"
                placeholder="ID, node, model"
                aria-label="Search tasks by id, label, model or node"
                autocomplete="off"
                spellcheck="false"
                prop:value=move || typed.get()
                on:input=input
            />
        </div>
    }
}

#[component]
fn Kinds() -> impl IntoView {
    let app = use_app();
    let open = RwSignal::new(false);
    let chosen = app.tasks.part(|b| b.filter().kind);
    let label = move || chosen.get().map_or("All kinds", words::kind_title).to_owned();
    let entry = move |kind: Option<TaskKind>| {
        let on = move || chosen.get() == kind;
        let choose = move |_| {
            open.set(false);
            app.filter_tasks(|f| f.kind = kind);
        };
        let glyph = kind.map_or(Icon::Tasks, words::kind_icon);
        view! {
            <li role="none">
                <button type="button" role="menuitemradio" aria-checked=move || on().to_string() on:click=choose>
                    {move || icon(if on() { Icon::Check } else { glyph })}
                    <span>{kind.map_or("All kinds", words::kind_title)}</span>
                </button>
            </li>
        }
    };
    let entries = move || {
        let kinds = std::iter::once(None).chain(TaskKind::ALL.into_iter().map(Some));
        kinds.map(entry).collect_view()
    };
    view! {
        <Menu label=Signal::derive(label) class="btn btn--sm" id="task-kind" at_end=true open>{entries()}</Menu>
    }
}
