//! Models: the files this node can load, and what the runner holds.

use agent_api::models::{InstalledModel, LoadedModel, ModelList, ModelState};
use leptos::prelude::*;

use crate::{
    app::{App, use_app},
    components::{
        answer::CopyButton,
        banner::Banner,
        icon::{Icon, icon},
    },
    format,
};

/// Why a model cannot be chosen.
pub(super) fn why_not(model: &InstalledModel) -> Option<&str> {
    model.problem.as_deref()
}

#[component]
pub(super) fn Models() -> impl IntoView {
    let app = use_app();
    // Also again when another model becomes active, or the node is back.
    let active = app.active_model();
    let live = app.live();
    Effect::new(move |_| {
        active.track();
        if live.get() {
            app.load_models();
        }
    });
    view! {
        <div class="page">
            <div class="cols">
                <div class="stack stack--lg">{move || installed(app)}</div>
                <aside class="stack stack--lg" aria-label="Runner and folder"><Runner/>{move || folder(app)}</aside>
            </div>
        </div>
    }
}

fn installed(app: App) -> AnyView {
    match app.models.get() {
        None => view! {
            <section class="card skcard late" aria-busy="true" aria-label="Loading models">
                <span class="sk" style:width="40%"></span><span class="sk" style:width="70%"></span>
            </section>
        }
        .into_any(),
        Some(Err(why)) => view! { <Banner kind="danger" text=why/> }.into_any(),
        Some(Ok(list)) if list.models.is_empty() => nothing_installed(&list),
        Some(Ok(list)) => table(app, list.models),
    }
}

fn nothing_installed(list: &ModelList) -> AnyView {
    view! {
        <section class="card empty">
            <span class="glyph">{icon(Icon::Models)}</span>
            <h2>"No models"</h2>
            <p>"The node found no GGUF file. Put one into this folder, then look again."</p>
            <code class="path">{list.folder.clone()}</code>
        </section>
    }
    .into_any()
}

fn table(app: App, models: Vec<InstalledModel>) -> AnyView {
    let count = models.len().to_string();
    view! {
        <section class="card" aria-labelledby="installed-title">
            <div class="table-wrap">
                <table class="table" id="models">
                    <caption class="vh">"Installed models"</caption>
                    <thead>
                        <tr>
                            <th scope="col" class="th-title">
                                <h2 id="installed-title">"Installed "<span class="count">{count}</span></h2>
                            </th>
                            <th scope="col">"Quant, context"</th>
                            <th scope="col" class="num">"Size"</th>
                            <th scope="col"><span class="vh">"Actions"</span></th>
                        </tr>
                    </thead>
                    <tbody>{models.into_iter().map(|m| row(app, m)).collect_view()}</tbody>
                </table>
            </div>
        </section>
    }
    .into_any()
}

fn row(app: App, model: InstalledModel) -> AnyView {
    let facts = format!("{}, {}", model.quantization, format::context(model.context_train));
    let under = match why_not(&model) {
        Some(why) => view! { <p class="small bad">{why.to_owned()}</p> }.into_any(),
        None => {
            let weights = model
                .parameters
                .map(|n| format!(", {} weights", format::parameters(n)))
                .unwrap_or_default();
            let license = model.license.as_ref().map(|l| format!(", {l}")).unwrap_or_default();
            view! { <p class="small faint"><code>{model.id.clone()}</code>{weights}{license}</p> }
                .into_any()
        }
    };
    let badges = view! {
        {model.active.then(|| view! { <span class="badge badge--ok">{icon(Icon::Check)}"Active"</span> })}
        {model.demo.then(|| view! { <span class="badge badge--line" title="Shipped so that a fresh node answers offline">"Demo"</span> })}
    };
    let id = model.id.clone();
    let swapping = Memo::new(move |_| app.swapping.with(|s| s.as_deref() == Some(id.as_str())));
    let anything = move || app.swapping.with(Option::is_some);
    let action = (!model.active && model.problem.is_none()).then(|| {
        let chosen = model.clone();
        view! {
            <button
                class="btn btn--sm"
                type="button"
                aria-label=format!("Swap to {}", model.name)
                aria-busy=move || swapping.get().to_string()
                disabled=anything
                on:click=move |_| app.swap(chosen.clone())
            >
                {icon(Icon::Swap)}<span>{move || if swapping.get() { "Swapping" } else { "Swap" }}</span>
            </button>
        }
    });
    view! {
        <tr class:is-active=model.active title=model.path.clone()>
            <td><span class="row"><span class="strong nowrap">{model.name.clone()}</span>{badges}</span>{under}</td>
            <td class="faint nowrap">{facts}</td>
            <td class="num">{format::file_size(model.size_bytes)}</td>
            <td class="right">{action}</td>
        </tr>
    }
    .into_any()
}

#[component]
fn Runner() -> impl IntoView {
    let app = use_app();
    let model = app.part(|s| s.model.clone());
    let state = move || model.get().map_or("Not known", |m| word(m.state));
    let reason = move || model.get().map(|m| m.reason).unwrap_or_default();
    let facts = move || {
        let model = model.get()?;
        let mut rows = model.loaded.as_ref().map(loaded).unwrap_or_default();
        rows.push((
            "Process",
            model.runner_pid.map_or(format::UNKNOWN.into(), |pid| pid.to_string()),
        ));
        rows.push(("Ended unexpectedly", times(model.runner_crashes)));
        Some(
            rows.into_iter()
                .map(|(k, v)| view! { <div><dt>{k}</dt><dd>{v}</dd></div> })
                .collect_view(),
        )
    };
    view! {
        <section class="card" aria-labelledby="runner-title">
            <div class="card-head"><h2 id="runner-title">"Runner"</h2><span class="push faint small">{state}</span></div>
            <div class="card-body">
                <p class="hint">{reason}</p>
                <dl class="kv kv--tight">{facts}</dl>
            </div>
        </section>
    }
}

fn times(n: u32) -> String {
    if n == 0 { "never".into() } else { format::counted(u64::from(n), "time", "times") }
}

fn word(state: ModelState) -> &'static str {
    match state {
        ModelState::None => "No model",
        ModelState::Loading => "Loading",
        ModelState::Ready => "Ready",
        ModelState::Unloaded => "Not in memory",
        ModelState::Restarting => "Starting again",
        ModelState::Failed => "Failed",
    }
}

fn loaded(model: &LoadedModel) -> Vec<(&'static str, String)> {
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    vec![
        ("In memory", model.id.clone()),
        ("Context", format!("{} tokens", format::count(u64::from(model.context)))),
        ("Requests at a time", model.slots.to_string()),
        ("Loaded in", format::wait(model.load_ms)),
        ("Chat template", yes(model.has_chat_template)),
        ("Tools", yes(model.supports_tools)),
    ]
}

fn folder(app: App) -> Option<AnyView> {
    let folder = app.models.get()?.ok()?.folder;
    Some(
        view! {
            <section class="card" aria-labelledby="folder-title">
                <div class="card-head">
                    <h2 id="folder-title">"Folder"</h2><span class="push"></span>
                    <CopyButton text=folder.clone() what=" the folder’s path"/>
                </div>
                <div class="card-body stack">
                    <code class="path">{folder}</code>
                    <p class="hint">"GGUF files in this folder can be swapped to. The node never removes one."</p>
                    <button class="btn btn--sm start" type="button" on:click=move |_| app.load_models()>
                        {icon(Icon::Refresh)}<span>"Look again"</span>
                    </button>
                </div>
            </section>
        }
        .into_any(),
    )
}
