//! What few tasks need: when they repeat, how urgent they are, who is told.

use agent_api::tasks::TaskKind;
use leptos::prelude::*;

use super::small;
use crate::{app::use_app, derived::derived, tasks::draft::CRONS};

#[component]
pub(super) fn Repeat() -> impl IntoView {
    let app = use_app();
    let draft = app.tasks.draft;
    let on = derived(move || draft.with(|d| d.repeats));
    let cron = derived(move || draft.with(|d| d.cron.clone()));
    let preset = move |(value, name): (&'static str, &'static str)| {
        view! {
            <button class="chip" type="button" aria-pressed=move || (cron.get() == value).to_string()
                on:click=move |_| draft.update(|d| d.cron = value.into())>{name}</button>
        }
    };
    view! {
        <label class="row checkline">
            <input class="check" type="checkbox" id="task-repeats" prop:checked=move || on.get()
                on:change=move |event| { let on = event_target_checked(&event); draft.update(|d| d.repeats = on); }/>
            <span>"Repeat by the clock"</span>
        </label>
        <Show when=move || on.get()>
            <div class="well wellpad stack">
                <div class="grid2">
                    {small("schedule-name", "Name", "Nightly summary", |d| &mut d.name)}
                    <div class="field">
                        <label for="schedule-cron">"Cron expression"</label>
                        <input class="input mono" id="schedule-cron" type="text" autocomplete="off" spellcheck="false"
                            prop:value=move || cron.get()
                            on:input=move |event| { let text = event_target_value(&event); draft.update(|d| d.cron = text); }/>
                    </div>
                </div>
                <div class="chips" role="group" aria-label="Usual times">{CRONS.map(preset).into_iter().collect_view()}</div>
                <label class="row checkline">
                    <input class="check" type="checkbox" prop:checked=move || draft.with(|d| d.catch_up)
                        on:change=move |event| { let on = event_target_checked(&event); draft.update(|d| d.catch_up = on); }/>
                    <span>"Make up for runs that were missed while this computer was off"</span>
                </label>
                <p class="hint">"In this computer’s time. In every text, "<code>"{{time}}"</code>" becomes the planned time of the run."</p>
            </div>
        </Show>
    }
}

#[component]
pub(super) fn More() -> impl IntoView {
    let app = use_app();
    let wasm = derived(move || app.tasks.draft.with(|d| d.kind == TaskKind::Wasm));
    view! {
        <details class="fold" id="task-more">
            <summary>"More"</summary>
            <div class="stack">
                <div class="grid2">
                    {small("task-label", "Label", "For you, in the list", |d| &mut d.label)}
                    {small("task-priority", "Priority", "5; 0 is last, 9 is first", |d| &mut d.priority)}
                    <Show when=move || wasm.get()>
                        {small("task-replicas", "Nodes that compare", "none; 2 to 5", |d| &mut d.replicas)}
                    </Show>
                </div>
                <div class="grid2">
                    {small("task-webhook", "Webhook", "https://… gets the result", |d| &mut d.webhook)}
                    {small("task-secret", "Key of its signature", "none", |d| &mut d.secret)}
                </div>
            </div>
        </details>
    }
}
