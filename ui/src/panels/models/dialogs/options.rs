//! How one model is to run. The fit is asked of the node while the owner tries values; nothing
//! changes before the button.

use std::time::Duration;

use agent_api::{
    endpoint::GetModelFit,
    fit::Fit,
    models::{Backend, FitQuery, InstalledModel, ModelOptions, ModelSource},
};
use leptos::{prelude::*, task::spawn_local};

use crate::{
    app::{App, use_app},
    backend,
    components::{
        badge::fit_badge,
        dialog::Dialog,
        icon::{Icon, icon},
    },
    derived::derived,
    format,
    words::memory::{context_stops, usable_gpu},
};

/// After the last change, before the fit is asked.
const SETTLE: Duration = Duration::from_millis(150);

/// Requests at a time, as offered.
const PARALLEL: [u32; 6] = [1, 2, 3, 4, 8, 16];

/// Seconds in memory, as offered for one model.
const KEEP: [(i64, &str); 4] = [
    (300, "5 min after its last request"),
    (3_600, "1 h after its last request"),
    (86_400, "1 day after its last request"),
    (-1, "until you unload it"),
];

#[component]
pub(super) fn Options() -> impl IntoView {
    let app = use_app();
    let target = app.library.options;
    let open = Signal::derive(move || target.with(Option::is_some));
    let title = move || {
        target.with(|t| t.as_ref().map(|m| format!("Options of {}", m.name))).unwrap_or_default()
    };
    view! {
        <Dialog
            open
            on_close=move |()| target.set(None)
            title=Signal::derive(title)
            about="What is not set here follows the settings."
            class="dialog-wide"
        >
            {move || target.get().map(|model| view! { <Form model/> })}
        </Dialog>
    }
}

#[derive(Clone, Copy)]
struct Draft {
    options: RwSignal<ModelOptions>,
    fit: RwSignal<Option<Result<Fit, String>>>,
    /// Counts questions, so that a late answer to an old one is dropped.
    asked: StoredValue<u64>,
}

impl Draft {
    fn change(self, id: String, change: impl FnOnce(&mut ModelOptions)) {
        self.options.update(change);
        self.ask(id);
    }

    fn ask(self, id: String) {
        self.asked.update_value(|n| *n += 1);
        let turn = self.asked.get_value();
        set_timeout(
            move || {
                // The dialog may be gone.
                if self.asked.try_get_value() == Some(turn) {
                    spawn_local(self.question(id, turn));
                }
            },
            SETTLE,
        );
    }

    async fn question(self, id: String, turn: u64) {
        let Some(options) = self.options.try_get_untracked() else { return };
        let query = FitQuery {
            model: id,
            context: options.context,
            parallel: options.parallel,
            gpu_layers: options.gpu_layers,
        };
        let fit = backend::call(GetModelFit, &query).await.map_err(|e| e.to_string());
        if self.asked.try_get_value() == Some(turn) {
            self.fit.set(Some(fit));
        }
    }
}

#[component]
fn Form(model: InstalledModel) -> impl IntoView {
    let app = use_app();
    let draft = Draft {
        options: RwSignal::new(model.options.clone()),
        fit: RwSignal::new(model.fit.clone().map(Ok)),
        asked: StoredValue::new(0),
    };
    let before = model.options.clone();
    let changed = derived(move || draft.options.with(|o| *o != before));
    let saved = model.id.clone();
    let save = move |_| {
        app.library.options.set(None);
        app.set_options(saved.clone(), draft.options.get_untracked());
    };
    let id = model.id.clone();
    let reset = move |_| {
        draft.options.set(ModelOptions::default());
        draft.ask(id.clone());
    };
    let nothing_set = move || draft.options.with(|o| *o == ModelOptions::default());
    let will_run =
        move || draft.fit.with(|f| !matches!(f, Some(Ok(fit)) if !crate::words::fit::fits(fit)));
    let external = model.source == ModelSource::OllamaDaemon;
    view! {
        <div class="dialog-body">
            <div class="sets sets--plain">
                {(!external).then(|| shape_rows(app, draft, &model))}
                {stay_rows(app, draft, &model)}
            </div>
            {(!external).then(|| view! { <Finding draft/> })}
        </div>
        <div class="dialog-foot">
            <button class="btn btn--ghost" type="button" disabled=nothing_set on:click=reset>
                <span>"Follow settings in all"</span>
            </button>
            <div class="push">
                <button class="btn" type="button" on:click=move |_| app.library.options.set(None)><span>"Keep as it is"</span></button>
                <button
                    class="btn btn--primary"
                    type="button"
                    id="options-save"
                    disabled=move || !changed.get() || !will_run()
                    on:click=save
                >
                    <span>"Save options"</span>
                </button>
            </div>
        </div>
    }
}

/// One row: a label, a hint, a control.
fn row(id: &'static str, label: &'static str, hint: String, control: AnyView) -> impl IntoView {
    view! {
        <div class="set">
            <div class="set-t">
                <label for=id>{label}</label>
                {(!hint.is_empty()).then(|| view! { <p class="hint">{hint}</p> })}
            </div>
            <div class="set-c">{control}</div>
        </div>
    }
}

/// A choice between "follow the settings" and values.
fn choice<T: Copy + PartialEq + ToString + std::str::FromStr + Send + Sync + 'static>(
    id: &'static str,
    follow: String,
    values: Vec<(T, String)>,
    now: impl Fn() -> Option<T> + Copy + Send + Sync + 'static,
    choose: impl Fn(Option<T>) + 'static,
) -> AnyView {
    let options = values
        .into_iter()
        .map(|(value, name)| {
            view! { <option value=value.to_string() selected=move || now() == Some(value)>{name}</option> }
        })
        .collect_view();
    view! {
        <select
            class="select select--auto"
            id=id
            data-first=id == "options-context"
            on:change=move |event| choose(event_target_value(&event).parse().ok())
        >
            <option value="" selected=move || now().is_none()>{follow}</option>
            {options}
        </select>
    }
    .into_any()
}

/// What decides how much memory it takes.
fn shape_rows(app: App, draft: Draft, model: &InstalledModel) -> impl IntoView + use<> {
    let settings = app.state.with_untracked(|s| s.settings.clone()).unwrap_or_default();
    let id = StoredValue::new(model.id.clone());
    let mut stops = context_stops(model.context_train, settings.context_length);
    if let Some(own) = model.options.context.filter(|c| !stops.contains(c)) {
        stops.push(own);
        stops.sort_unstable();
    }
    let context = choice(
        "options-context",
        format!(
            "Settings: {}",
            format::context(settings.context_length.min(model.context_train.max(1)))
        ),
        stops.into_iter().map(|c| (c, format!("{} tokens", format::context(c)))).collect(),
        move || draft.options.with(|o| o.context),
        move |c| draft.change(id.get_value(), |o| o.context = c),
    );
    let mut counts = PARALLEL.to_vec();
    counts.extend(model.options.parallel.filter(|p| !PARALLEL.contains(p)));
    counts.sort_unstable();
    let parallel = choice(
        "options-parallel",
        format!("Settings: {}", settings.parallel),
        counts.into_iter().map(|p| (p, p.to_string())).collect(),
        move || draft.options.with(|o| o.parallel),
        move |p| draft.change(id.get_value(), |o| o.parallel = p),
    );
    let trained = format!(
        "Trained for {}. Prompt and answer together.",
        format::context(model.context_train)
    );
    let gpu = app.library.hardware.with_untracked(|h| {
        h.as_ref().and_then(|h| h.as_ref().ok()).and_then(usable_gpu).map(|g| g.name.clone())
    });
    let runs_in_two = model.source == ModelSource::OllamaFolder && !settings.ollama_url.is_empty();
    view! {
        {row("options-context", "Context", trained, context)}
        {row("options-parallel", "Requests at a time", "Each one takes memory for its context.".into(), parallel)}
        {gpu.map(|name| row("options-layers", "Layers on the GPU", name, layers(draft, id)))}
        {runs_in_two.then(|| row(
            "options-backend",
            "Run by",
            "The same file, by one program or the other.".into(),
            program(draft, id),
        ))}
    }
}

fn layers(draft: Draft, id: StoredValue<String>) -> AnyView {
    let typed =
        move || draft.options.with(|o| o.gpu_layers.map(|n| n.to_string())).unwrap_or_default();
    let automatic = move || {
        let now = draft.fit.with(|f| f.as_ref()?.as_ref().ok().map(|f| f.gpu_layers));
        now.map_or_else(|| "as many as fit".to_owned(), |n| format!("as many as fit: {n}"))
    };
    view! {
        <input
            class="input set-n"
            id="options-layers"
            type="text"
            inputmode="numeric"
            placeholder=automatic
            prop:value=typed
            on:input=move |event| {
                let typed = event_target_value(&event);
                draft.change(id.get_value(), |o| o.gpu_layers = typed.trim().parse().ok());
            }
        />
    }
    .into_any()
}

fn program(draft: Draft, id: StoredValue<String>) -> AnyView {
    let now = move || draft.options.with(|o| o.backend).unwrap_or_default();
    let option = move |backend: Backend, name: &'static str| {
        view! {
            <label>
                <input
                    type="radio"
                    name="options-backend"
                    prop:checked=move || now() == backend
                    on:change=move |_| draft.change(id.get_value(), |o| o.backend = Some(backend))
                />
                <span>{name}</span>
            </label>
        }
    };
    view! {
        <div class="seg" role="radiogroup" aria-label="Run by" id="options-backend">
            {option(Backend::Runner, "EdgeCoder")}
            {option(Backend::Ollama, "Ollama")}
        </div>
    }
    .into_any()
}

/// How long it stays and when it comes.
fn stay_rows(app: App, draft: Draft, model: &InstalledModel) -> impl IntoView + use<> {
    let follow = app.state.with_untracked(|s| s.settings.as_ref().map(|s| s.keep_alive_s));
    let follow = match follow {
        Some(-1) => "Settings: until the memory is needed".to_owned(),
        Some(s) => format!("Settings: {} unused", format::duration(s * 1_000)),
        None => "Follow settings".to_owned(),
    };
    let mut values: Vec<_> = KEEP.iter().map(|(s, name)| (*s, (*name).to_owned())).collect();
    if let Some(own) = model.options.keep_alive_s.filter(|s| !KEEP.iter().any(|(k, _)| k == s)) {
        values.push((own, format!("{} unused", format::duration(own * 1_000))));
    }
    let keep = choice(
        "options-keep",
        follow,
        values,
        move || draft.options.with(|o| o.keep_alive_s),
        move |s| draft.options.update(|o| o.keep_alive_s = s),
    );
    let switch =
        |id: &'static str, on: fn(&ModelOptions) -> bool, set: fn(&mut ModelOptions, bool)| {
            view! {
                <input
                    class="switch"
                    type="checkbox"
                    role="switch"
                    id=id
                    prop:checked=move || draft.options.with(on)
                    on:change=move |event| {
                        let value = event_target_checked(&event);
                        draft.options.update(|o| set(o, value));
                    }
                />
            }
            .into_any()
        };
    view! {
        {row("options-keep", "Keep in memory", "After it was loaded on request.".into(), keep)}
        {row(
            "options-pin",
            "Pin",
            "Never evicted for another model.".into(),
            switch("options-pin", |o| o.pinned, |o, on| o.pinned = on),
        )}
        {row(
            "options-preload",
            "Load at start",
            "In memory as soon as the node is up.".into(),
            switch("options-preload", |o| o.preload, |o, on| o.preload = on),
        )}
    }
}

#[component]
fn Finding(draft: Draft) -> impl IntoView {
    let finding = move || match draft.fit.get() {
        None => None,
        Some(Err(why)) => Some(
            view! { <p class="hint hint--bad">{icon(Icon::Error)}<span>{why}</span></p> }
                .into_any(),
        ),
        Some(Ok(fit)) => {
            let parts = [
                ("Weights", fit.weights_bytes),
                ("Cache", fit.cache_bytes),
                ("Buffers", fit.overhead_bytes),
                ("Together", fit.total_bytes),
            ];
            let parts = parts
                .into_iter()
                .map(|(name, bytes)| {
                    view! { <div><dt>{name}</dt><dd class="num">{format::file_size(bytes)}</dd></div> }
                })
                .collect_view();
            let guess = (!fit.exact).then_some(" Estimated from the size of the file.");
            Some(
                view! {
                    <p class="row fitrow">{fit_badge(&fit)}<span class="small">{fit.reason.clone()}{guess}</span></p>
                    <dl class="fitparts">{parts}</dl>
                }
                .into_any(),
            )
        }
    };
    view! { <div class="well wellpad" role="status" id="options-fit">{finding}</div> }
}
