//! Tasks: what this node asked others for, what it does for them, and what is done by the clock.

mod dialogs;
mod drawer;
mod filters;
mod schedules;
mod submit;
mod table;

use agent_api::tasks::TaskCounts;
use leptos::prelude::*;

pub use self::dialogs::Dialogs;
use crate::{
    app::{App, use_app},
    components::icon::{Icon, icon},
    route,
    tasks::board::Filter,
};

#[component]
pub(super) fn Tasks() -> impl IntoView {
    let app = use_app();
    let live = app.live();
    Effect::new(move |_| {
        // Later changes come with events.
        if live.get() {
            app.load_tasks();
        }
    });
    move || {
        if app.tasks.schedules_shown.get() {
            view! { <schedules::Schedules/> }.into_any()
        } else {
            view! { <Lists/> }.into_any()
        }
    }
}

#[component]
fn Lists() -> impl IntoView {
    let app = use_app();
    // Nothing was ever submitted or served: there is nothing to filter.
    let nothing = app.tasks.part(|b| {
        b.known
            && b.counts == TaskCounts::default()
            && *b.filter() == Filter::default()
            && b.groups().into_iter().all(|g| b.rows(g).is_empty())
    });
    move || {
        if nothing.get() {
            empty(app)
        } else {
            view! { <div class="page"><filters::Filters/><table::Table/></div> }.into_any()
        }
    }
}

fn empty(app: App) -> AnyView {
    view! {
        <div class="page page--fill">
            <section class="card empty" id="no-tasks">
                <span class="glyph">{icon(Icon::Tasks)}</span>
                <h2>"No tasks yet"</h2>
                <p>"A task is a prompt, a text to embed, a program to write or a WASM module to run. This node does it, or the node of the mesh that can do it soonest."</p>
                <p class="faint">"What this node does for others, and requests from the Ask box and your editor, are listed here as well."</p>
                <div class="row">
                    <button class="btn btn--primary" type="button" on:click=move |_| app.new_task()>
                        {icon(Icon::Plus)}<span>"Submit task"</span>
                    </button>
                    <a class="btn" href="#/settings">{icon(Icon::Settings)}<span>"Work for others"</span></a>
                </div>
            </section>
        </div>
    }
    .into_any()
}

/// The panel's buttons in the top bar.
#[component]
pub fn Actions() -> impl IntoView {
    let app = use_app();
    let view = app.tasks;
    let some = view.part(|b| b.known && b.counts != TaskCounts::default());
    let other = move || {
        if view.schedules_shown.get() {
            view! {
                <a class="btn" id="all-tasks" href="#/tasks">{icon(Icon::Tasks)}<span>"All tasks"</span></a>
            }
            .into_any()
        } else {
            let off = move || view.exporting.get() || !some.get();
            view! {
                <a class="btn" id="schedules-link" href=format!("#{}", route::SCHEDULES)>{icon(Icon::Clock)}<span>"Schedules"</span></a>
                <button class="btn" type="button" id="export" disabled=off on:click=move |_| app.export_tasks()>
                    {icon(Icon::Download)}<span>"Export CSV"</span>
                </button>
            }
            .into_any()
        }
    };
    view! {
        <div class="actions">
            {other}
            <button class="btn btn--primary" type="button" id="submit-task" title="Submit a task (N)" on:click=move |_| app.new_task()>
                {icon(Icon::Plus)}<span>"Submit task"</span>
            </button>
        </div>
    }
}
