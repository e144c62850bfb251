//! Tasks that are submitted by the clock, and results that could not be delivered.

use agent_api::tasks::{Delivery, Schedule};
use leptos::prelude::*;

use crate::{
    app::{App, use_app},
    backend,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    derived::derived,
    format::{self, LocalTime, UNKNOWN},
    route,
    words::task as words,
};

#[component]
pub(super) fn Schedules() -> impl IntoView {
    let app = use_app();
    let live = app.live();
    Effect::new(move |_| {
        // Later changes come with events.
        if live.get() {
            app.load_schedules();
        }
    });
    let list = move || {
        match app.tasks.schedules.get() {
        None => view! {
            <section class="card skcard late" aria-busy="true"><span class="sk" style:width="60%"></span><span class="sk" style:width="75%"></span></section>
        }
        .into_any(),
        Some(Err(why)) => failed(app, &why),
        Some(Ok(list)) if list.is_empty() => none(app),
        Some(Ok(list)) => table(app, list),
    }
    };
    view! { <div class="page">{list}<Undelivered/></div> }
}

fn failed(app: App, why: &str) -> AnyView {
    view! {
        <div class="banner banner--danger" role="alert">
            {icon(Icon::Error)}<p>{format!("The schedules could not be loaded. {why}")}</p>
            <span class="push"><button class="btn btn--sm" type="button" on:click=move |_| app.load_schedules()>{icon(Icon::Refresh)}<span>"Load again"</span></button></span>
        </div>
    }
    .into_any()
}

fn new_schedule(app: App) {
    app.tasks.draft.update(|d| d.repeats = true);
    app.new_task();
}

fn none(app: App) -> AnyView {
    view! {
        <section class="card empty" id="no-schedules">
            <span class="glyph">{icon(Icon::Clock)}</span>
            <h2>"Nothing is scheduled"</h2>
            <p>"A schedule submits the same task again and again: a summary every morning, a check every hour."</p>
            <div class="row">
                <button class="btn btn--primary" type="button" on:click=move |_| new_schedule(app)>{icon(Icon::Plus)}<span>"Schedule a task"</span></button>
            </div>
        </section>
    }
    .into_any()
}

fn table(app: App, list: Vec<Schedule>) -> AnyView {
    let count = list.len().to_string();
    view! {
        <section class="card" id="schedules" aria-labelledby="schedules-title">
            <div class="card-head card-head--line">
                <h2 id="schedules-title">"Schedules "<span class="count">{count}</span></h2>
                <span class="push"></span>
                <button class="btn btn--sm" type="button" on:click=move |_| new_schedule(app)>{icon(Icon::Plus)}<span>"Schedule a task"</span></button>
            </div>
            <div class="table-wrap"><table class="table">
                <thead><tr><th>"Name"</th><th>"When"</th><th>"Next"</th><th>"Last"</th><th><span class="vh">"Actions"</span></th></tr></thead>
                <tbody>{list.into_iter().map(|s| row(app, s)).collect_view()}</tbody>
            </table></div>
        </section>
    }
    .into_any()
}

fn moment(app: App, at_ms: Option<i64>) -> String {
    let offset = backend::local_offset_ms();
    let now = LocalTime::new(app.now.get_untracked(), offset);
    at_ms.map_or_else(|| UNKNOWN.into(), |at| LocalTime::new(at, offset).moment(now))
}

fn row(app: App, schedule: Schedule) -> AnyView {
    let last = match &schedule.last_task {
        Some(id) => {
            view! { <a href=route::task_href(id) title=id.0.clone()>{moment(app, schedule.last_ms)}</a> }.into_any()
        }
        None => view! { <span class="faint">{moment(app, schedule.last_ms)}</span> }.into_any(),
    };
    let next = if schedule.paused {
        view! { <span class="badge badge--warn">{icon(Icon::Pause)}"paused"</span> }.into_any()
    } else {
        view! { <span>{moment(app, schedule.next_ms)}</span> }.into_any()
    };
    let problem = schedule.problem.clone().map(|why| {
        view! { <p class="small bad rowwhy">{icon(Icon::Error)}<span>{why}</span></p> }
    });
    let button = move |glyph: Icon, label: String, act: Callback<()>| {
        view! { <button class="ibtn ibtn--sm" type="button" aria-label=label.clone() title=label on:click=move |_| act.run(())>{icon(glyph)}</button> }
    };
    let (id, name, paused) = (schedule.id.clone(), schedule.name.clone(), schedule.paused);
    let (run, pause) = (id.clone(), id);
    let (verb, glyph) = if paused { ("Go on with", Icon::Play) } else { ("Pause", Icon::Pause) };
    let gone = schedule.clone();
    view! {
        <tr data-row tabindex="-1">
            <td>
                <span class="state">{icon(words::kind_icon(schedule.task.kind))}<b class="strong">{name.clone()}</b></span>
                {problem}
            </td>
            <td title=format!("{} in {}", schedule.cron, schedule.zone)>{schedule.words}<span class="faint">{format!(" {}", schedule.zone)}</span></td>
            <td class="nowrap">{next}</td>
            <td class="nowrap">{last}</td>
            <td class="right"><span class="rowacts">
                {button(Icon::Bolt, format!("Run {name} now"), Callback::new(move |()| app.run_schedule(run.clone())))}
                {button(glyph, format!("{verb} {name}"), Callback::new(move |()| app.pause_schedule(pause.clone(), !paused)))}
                {button(Icon::Trash, format!("Remove {name}"), Callback::new(move |()| app.tasks.remove.set(Some(gone.clone()))))}
            </span></td>
        </tr>
    }
    .into_any()
}

#[component]
fn Undelivered() -> impl IntoView {
    let app = use_app();
    let list = derived(move || app.tasks.dead.get().and_then(Result::ok).unwrap_or_default());
    view! {
        <Show when=move || !list.with(Vec::is_empty)>
            <section class="card" id="undelivered" aria-labelledby="undelivered-title">
                <div class="card-head card-head--line">
                    <h2 id="undelivered-title">"Not delivered "<span class="count">{move || list.with(Vec::len)}</span></h2>
                    <span class="faint">"Results whose webhook did not take them"</span>
                </div>
                <ul class="pulls">{move || list.get().into_iter().map(|d| delivery(app, d)).collect_view()}</ul>
            </section>
        </Show>
    }
}

fn delivery(app: App, delivery: Delivery) -> AnyView {
    let tries = format::counted(u64::from(delivery.attempts), "attempt", "attempts");
    let why = delivery.problem.clone().unwrap_or_default();
    let (retry, remove) = (delivery.id.clone(), delivery.id);
    view! {
        <li class="pull">
            <div class="pull-top">
                <code class="path trunc grow">{delivery.url}</code>
                <button class="btn btn--sm" type="button" on:click=move |_| app.retry_delivery(retry.clone())>{icon(Icon::Refresh)}<span>"Try again"</span></button>
                <button class="btn btn--sm btn--danger-quiet" type="button" on:click=move |_| app.remove_delivery(remove.clone())>{icon(Icon::Trash)}<span>"Remove"</span></button>
            </div>
            <p class="small"><a href=route::task_href(&delivery.task)>{delivery.task.fmt_short()}</a><span class="faint">{format!(", {tries}. ")}</span><span class="bad">{why}</span></p>
        </li>
    }
    .into_any()
}

#[component]
pub(super) fn RemoveSchedule() -> impl IntoView {
    let app = use_app();
    let target = app.tasks.remove;
    let open = Signal::derive(move || target.with(Option::is_some));
    let name = move || target.with(|t| t.as_ref().map(|t| t.name.clone())).unwrap_or_default();
    let remove = move |_| {
        if let Some(schedule) = target.get_untracked() {
            target.set(None);
            app.remove_schedule(schedule.id);
        }
    };
    view! {
        <Dialog open on_close=move |()| target.set(None) title=Signal::derive(move || format!("Remove {}?", name())) alert=true class="dialog-ask">
            <div class="dialog-body"><p>"It submits no more tasks. Those that it submitted stay."</p></div>
            <div class="dialog-foot"><div class="push">
                <button class="btn" type="button" data-first on:click=move |_| target.set(None)><span>"Keep"</span></button>
                <button class="btn btn--danger" type="button" id="schedule-remove-now" on:click=remove><span>"Remove"</span></button>
            </div></div>
        </Dialog>
    }
}
