//! The fields of each kind of task.

use agent_api::{
    models::InstalledModel,
    tasks::{Language, TaskKind},
};
use leptos::{prelude::*, task::spawn_local};
use wasm_bindgen::JsCast;

use super::small;
use crate::{
    app::App,
    components::icon::{Icon, icon},
    derived::derived,
    files, format,
    tasks::{
        draft::{Draft, MAX_MODULE_BYTES, Module},
        offers,
    },
    words::model,
};

/// Which text of the form.
pub(super) type Text = fn(&mut Draft) -> &mut String;

fn typed(app: App, part: Text) -> String {
    part(&mut app.tasks.draft.get_untracked()).clone()
}

fn put(app: App, part: Text, text: String) {
    app.tasks.draft.update(|d| *part(d) = text);
}

pub(super) fn line(
    app: App,
    id: &'static str,
    label: &'static str,
    hint: &'static str,
    part: Text,
) -> AnyView {
    view! {
        <div class="field">
            <label for=id>{label}</label>
            <input class="input" id=id type="text" placeholder=hint autocomplete="off" spellcheck="false"
                value=typed(app, part) on:input=move |event| put(app, part, event_target_value(&event))/>
        </div>
    }
    .into_any()
}

fn area(
    app: App,
    id: &'static str,
    label: &'static str,
    hint: &'static str,
    rows: &'static str,
    part: Text,
) -> AnyView {
    let first = rows == "4";
    let class = if rows == "6" { "textarea mono" } else { "textarea" };
    view! {
        <div class="field">
            <label for=id>{label}</label>
            <textarea class=class id=id rows=rows placeholder=hint data-first=first
                prop:value=typed(app, part) on:input=move |event| put(app, part, event_target_value(&event))></textarea>
        </div>
    }
    .into_any()
}

/// One of several; what was chosen stays chosen when the list changes.
pub(super) fn choice(
    app: App,
    id: &'static str,
    label: &'static str,
    options: Signal<Vec<(String, String)>>,
    part: Text,
) -> AnyView {
    let options = move || {
        let chosen = typed(app, part);
        options
            .get()
            .into_iter()
            .map(|(value, name)| {
                let on = value == chosen;
                view! { <option value=value selected=on>{name}</option> }
            })
            .collect_view()
    };
    view! {
        <div class="field">
            <label for=id>{label}</label>
            <select class="select" id=id on:change=move |event| put(app, part, event_target_value(&event))>{options}</select>
        </div>
    }
    .into_any()
}

/// The owner's models, then those of other nodes.
fn models(app: App, kind: TaskKind) -> Signal<Vec<(String, String)>> {
    let active = app.active_model();
    let all = derived(move || {
        let usual = active.get().map_or_else(
            || "The active model (none yet)".into(),
            |m| format!("The active model, {}", m.name),
        );
        let mut all = vec![(String::new(), usual)];
        let fits = |m: &InstalledModel| {
            m.problem.is_none() && (kind == TaskKind::Embedding || !model::only_embeds(m))
        };
        all.extend(app.library.models().into_iter().filter(fits).map(|m| (m.id, m.name)));
        let offers = app.state.with(|s| offers::offers(s.peers.iter(), kind));
        all.extend(offers.into_iter().map(|o| (o.model, o.label)));
        all
    });
    all.into()
}

fn model_field(app: App, kind: TaskKind) -> AnyView {
    choice(app, "task-model", "Model", models(app, kind), |d| &mut d.model)
}

pub(super) fn kind_fields(app: App, kind: TaskKind) -> AnyView {
    match kind {
        TaskKind::Chat | TaskKind::Completion => {
            let hint = if kind == TaskKind::Chat { "What is to be answered" } else { "The beginning, which the model continues" };
            view! {
                {area(app, "task-prompt", "Prompt", hint, "4", |d| &mut d.prompt)}
                <div class="grid3">
                    {model_field(app, kind)}
                    {small("task-temperature", "Temperature", "the model’s", |d| &mut d.temperature)}
                    {small("task-tokens", "Tokens at most", "no limit", |d| &mut d.max_tokens)}
                </div>
            }
            .into_any()
        }
        TaskKind::Embedding => view! {
            {area(app, "task-texts", "Texts", "One text a line", "4", |d| &mut d.texts)}
            {model_field(app, kind)}
        }
        .into_any(),
        TaskKind::Wasm => view! { <WasmFields/> }.into_any(),
        TaskKind::Code => view! {
            {area(app, "task-prompt", "What the program has to do", "A function merge(a, b) that merges two sorted lists", "4", |d| &mut d.prompt)}
            {area(app, "task-tests", "Tests", "from solution import merge\nassert merge([1, 3], [2]) == [1, 2, 3]", "6", |d| &mut d.tests)}
            <p class="hint">"A program that imports the solution and ends with an error when it is wrong. It runs in the sandbox, and the model tries again until it passes."</p>
            <div class="grid3">
                {model_field(app, kind)}
                {language(app)}
                {small("task-iterations", "Attempts", "4", |d| &mut d.iterations)}
            </div>
        }
        .into_any(),
    }
}

fn language(app: App) -> AnyView {
    let now = app.tasks.draft.with_untracked(|d| d.language);
    let choose = move |event| {
        let python = event_target_value(&event) == "python";
        let language = if python { Language::Python } else { Language::Javascript };
        app.tasks.draft.update(|d| d.language = language);
    };
    view! {
        <div class="field">
            <label for="task-language">"Language"</label>
            <select class="select" id="task-language" on:change=choose>
                <option value="python" selected=now == Language::Python>"Python"</option>
                <option value="javascript" selected=now == Language::Javascript>"JavaScript"</option>
            </select>
        </div>
    }
    .into_any()
}

#[component]
fn WasmFields() -> impl IntoView {
    let app = crate::app::use_app();
    let problem = RwSignal::new(None::<&'static str>);
    let module = derived(move || {
        app.tasks.draft.with(|d| d.module.as_ref().map(|m| (m.name.clone(), m.bytes)))
    });
    let choose = move |event: leptos::ev::Event| {
        let field = event.target().and_then(|t| t.dyn_into::<web_sys::HtmlInputElement>().ok());
        let Some(file) = field.as_ref().and_then(files::chosen) else { return };
        if file.bytes > MAX_MODULE_BYTES {
            return problem.set(Some(
                "A module has at most 5 MiB. Build it without debug information, or strip it.",
            ));
        }
        problem.set(None);
        spawn_local(async move {
            let (name, bytes) = (file.name.clone(), file.bytes as u64);
            match file.base64().await {
                Some(base64) => {
                    let module = Some(Module { name, bytes, base64 });
                    app.tasks.draft.update(|d| d.module = module);
                }
                None => problem
                    .set(Some("The file could not be read, or it is empty. Choose it again.")),
            }
        });
    };
    let chosen = move || {
        match module.get() {
            Some((name, bytes)) => view! {
                <span class="state">{icon(Icon::Wasm)}<b>{name}</b></span><span class="faint">{format::file_size(bytes)}</span>
            }
            .into_any(),
            None => view! { <span class="faint">"A .wasm file, at most 5 MiB"</span> }.into_any(),
        }
    };
    view! {
        <div class="field">
            <label for="task-module">"Module"</label>
            <div class="row filerow">
                <label class="btn btn--sm" for="task-module">{icon(Icon::File)}<span>"Choose file"</span></label>
                <input class="vh" id="task-module" type="file" accept=".wasm,application/wasm" on:change=choose/>
                {chosen}
            </div>
            {move || problem.get().map(|why| view! { <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p> })}
        </div>
        {area(app, "task-module-input", "Input", "Text that the module reads", "3", |d| &mut d.module_input)}
        <div class="grid3 grid3--even">
            {small("task-wall", "Time, in seconds", "10", |d| &mut d.wall_s)}
            {small("task-memory", "Memory, in MiB", "64", |d| &mut d.memory_mb)}
            {small("task-fuel", "Fuel, in millions", "1000", |d| &mut d.fuel)}
        </div>
    }
}
