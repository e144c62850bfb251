//! What models take of the memory, and the two knobs that change it most: the active model's
//! context, and how long the others stay.

use std::time::Duration;

use agent_api::{
    endpoint::GetModelFit,
    fit::Fit,
    models::{FitQuery, InstalledModel, ModelOptions, ModelState, Residency},
    settings::SettingsPatch,
};
use leptos::{prelude::*, task::spawn_local};

use crate::{
    app::use_app,
    backend,
    components::badge::fit_badge,
    derived::derived,
    format,
    words::{
        memory::{self as words, MemoryUse},
        model::KEEP_ALIVE,
    },
};

/// While the slider moves.
const MOVING: Duration = Duration::from_millis(120);

#[component]
pub(super) fn Memory() -> impl IntoView {
    let app = use_app();
    let memory = derived(move || {
        let hardware = app.library.hardware.get()?.ok()?;
        let settings = app.state.with(|s| s.settings.clone())?;
        Some(words::memory_use(&hardware, &settings, &app.library.models()))
    });
    let title = derived(move || memory.with(|m| m.as_ref().map_or("Memory", |m| m.title)));
    let device = derived(move || memory.with(|m| m.as_ref().map(|m| m.device.clone())));
    view! {
        <section class="card" aria-labelledby="memory-title" id="memory">
            <div class="card-head">
                <h2 id="memory-title">{move || title.get()}</h2><span class="push faint small trunc">{move || device.get()}</span>
            </div>
            <div class="card-body stack">
                {move || match memory.get() {
                    Some(memory) => bar(&memory),
                    None => view! { <span class="sk late" style:width="60%" aria-busy="true"></span> }.into_any(),
                }}
                <Resident/>
                <Context/>
                <KeepAlive/>
            </div>
        </section>
    }
}

fn bar(memory: &MemoryUse) -> AnyView {
    let (used, of) = format::part_of(memory.used_bytes, memory.total_bytes, format::file_size);
    let total = memory.total_bytes.max(1) as f64;
    let spoken = words::spoken(&memory.parts);
    let pieces = memory
        .parts
        .iter()
        .map(|part| {
            let width = format!("{:.2}%", part.bytes as f64 / total * 100.0);
            let class = if part.class == "c0" { "" } else { part.class };
            view! { <b class=class style:width=width></b> }
        })
        .collect_view();
    let list = memory
        .parts
        .iter()
        .map(|part| {
            let bytes = format::file_size(part.bytes);
            view! { <li><i class=format!("swatch {}", part.class)></i>{part.name.clone()}<b class="num">{bytes}</b></li> }
        })
        .collect_view();
    let also = (memory.also_ram_bytes > 0).then(|| {
        view! { <p class="hint">{format!("And {} of RAM.", format::file_size(memory.also_ram_bytes))}</p> }
    });
    let uncounted = memory
        .uncounted
        .then(|| view! { <p class="hint">"What Ollama holds is not counted here."</p> });
    view! {
        <p><span class="big num">{used}</span>" "<span class="faint">{of}</span></p>
        <div class="stackbar stackbar--lg" role="img" aria-label=spoken>{pieces}</div>
        <ul class="memlist">{list}</ul>
        {also}{uncounted}
    }
    .into_any()
}

/// More than the one that is active: who else is there, and until when.
#[component]
fn Resident() -> impl IntoView {
    let app = use_app();
    let held = app.part(|s| s.model.resident.clone());
    let crashes = app.part(|s| s.model.runner_crashes);
    let lines = move || {
        let held = held.get().filter(|h| !h.is_empty())?;
        let now = app.now.get();
        let rows = held.into_iter().map(|r| line(&r, now)).collect_view();
        Some(view! { <ul class="memlist reslist" aria-label="In memory">{rows}</ul> })
    };
    view! {
        {lines}
        {move || crashes.get().filter(|n| *n > 0).map(|n| {
            let times = format::counted(u64::from(n), "time", "times");
            view! { <p class="hint">{format!("A model’s process ended unexpectedly {times} since the node started.")}</p> }
        })}
    }
}

fn line(held: &Residency, now_ms: i64) -> impl IntoView + use<> {
    let work = match (held.state, held.running, held.queued) {
        (ModelState::Ready, 0, 0) => match held.expires_at_ms {
            Some(at) => format!("leaves in {}", format::countdown(at, now_ms)),
            None => "idle".into(),
        },
        (ModelState::Ready, running, 0) => format!("{running} running"),
        (ModelState::Ready, running, queued) => format!("{running} running, {queued} waiting"),
        (ModelState::Loading, ..) => "loading".into(),
        (ModelState::Restarting, ..) => "starting again".into(),
        (ModelState::Failed, ..) => "not loaded".into(),
        (ModelState::None | ModelState::Unloaded, ..) => "not in memory".into(),
    };
    let process = held.pid.map(|pid| format!("{} Process {pid}.", held.reason));
    view! {
        <li title=process><span class="trunc">{held.id.clone()}</span><span class="push faint nowrap">{work}</span></li>
    }
}

/// What the slider offers, for the active model.
#[derive(Clone, Debug, PartialEq)]
struct Scale {
    id: String,
    options: ModelOptions,
    total_bytes: u64,
    stops: Vec<u32>,
    at: usize,
}

fn scale(model: &InstalledModel) -> Option<Scale> {
    let fit = model.fit.as_ref()?;
    let stops = words::context_stops(model.context_train, fit.context);
    let at = stops.iter().position(|c| *c == fit.context).unwrap_or(0);
    (stops.len() > 1).then(|| Scale {
        id: model.id.clone(),
        options: model.options.clone(),
        total_bytes: fit.total_bytes,
        stops,
        at,
    })
}

#[component]
fn Context() -> impl IntoView {
    let app = use_app();
    let scale = app
        .library
        .part(|list| list.models.iter().find(|m| m.active && m.problem.is_none()).and_then(scale));
    // A new scale is a new slider: what was looked at before is over.
    move || scale.get().flatten().map(|scale| view! { <Slider scale/> })
}

/// While the owner moves it, the node is asked what each value would take; letting go applies it.
#[component]
fn Slider(scale: Scale) -> impl IntoView {
    let app = use_app();
    let (at, total_bytes) = (scale.at, scale.total_bytes);
    let last = scale.stops.len() - 1;
    let scale = StoredValue::new(scale);
    let place = RwSignal::new(at);
    let answer = RwSignal::new(None::<Result<Fit, String>>);
    let tokens = move || scale.with_value(|s| s.stops.get(place.get()).copied());
    let look = move |event| {
        let Ok(to) = event_target_value(&event).parse() else { return };
        place.set(to);
        set_timeout(
            move || {
                // The slider may have moved on, or be gone.
                if place.try_get_untracked() == Some(to) {
                    ask(scale.get_value(), to, place, answer);
                }
            },
            MOVING,
        );
    };
    let apply = move |event| {
        let to = event_target_value(&event).parse().ok().filter(|to| *to != at);
        let Scale { id, mut options, stops, .. } = scale.get_value();
        if let Some(tokens) = to.and_then(|to: usize| stops.get(to).copied()) {
            options.context = Some(tokens);
            app.set_options(id, options);
        }
    };
    let finding = move || match answer.get() {
        Some(Ok(fit)) => {
            view! { <p class="hint row">{fit_badge(&fit)}<span>{fit.reason}</span></p> }.into_any()
        }
        Some(Err(why)) => view! { <p class="hint hint--bad">{why}</p> }.into_any(),
        None => {
            let text = format!("{} with this context.", format::file_size(total_bytes));
            view! { <p class="hint">{text}</p> }.into_any()
        }
    };
    let filled = move || format!("--v:{:.1}%", place.get() as f64 / last as f64 * 100.0);
    let spoken = move || tokens().map(|t| format!("{} tokens", format::count(u64::from(t))));
    view! {
        <div class="field memknob">
            <div class="row">
                <label class="small strong" for="context">"Context"</label>
                <span class="push num small">{move || tokens().map(format::context)}</span>
            </div>
            <input class="slider" id="context" type="range" min="0" max=last.to_string() step="1"
                prop:value=move || place.get().to_string() style=filled aria-valuetext=spoken
                on:input=look on:change=apply/>
            <div role="status">{finding}</div>
        </div>
    }
}

/// Asks the node about a context without changing anything.
fn ask(
    scale: Scale,
    at: usize,
    place: RwSignal<usize>,
    answer: RwSignal<Option<Result<Fit, String>>>,
) {
    let query = FitQuery {
        context: scale.stops.get(at).copied(),
        parallel: scale.options.parallel,
        gpu_layers: scale.options.gpu_layers,
        model: scale.id,
    };
    spawn_local(async move {
        let fit = backend::call(GetModelFit, &query).await.map_err(|e| e.to_string());
        if place.try_get_untracked() == Some(at) {
            answer.set(Some(fit));
        }
    });
}

#[component]
fn KeepAlive() -> impl IntoView {
    let app = use_app();
    let now = derived(move || app.state.with(|s| s.settings.as_ref().map(|s| s.keep_alive_s)));
    let change = move |event| {
        if let Ok(seconds) = event_target_value(&event).parse() {
            app.patch_settings(SettingsPatch { keep_alive_s: Some(seconds), ..Default::default() });
        }
    };
    let options = move || {
        let now = now.get();
        let other = now.filter(|s| !KEEP_ALIVE.iter().any(|(known, _)| known == s));
        let other = other.map(|s| {
            let name = format!("{} unused", format::duration(s * 1_000));
            view! { <option value=s.to_string() selected=true>{name}</option> }
        });
        let known = KEEP_ALIVE
            .iter()
            .map(|(s, name)| view! { <option value=s.to_string() selected=now == Some(*s)>{*name}</option> })
            .collect_view();
        (known, other)
    };
    view! {
        <div class="row" title="Models that a request loaded leave memory then; the active one stays">
            <label class="small grow nowrap" for="keep-alive">"Unload after"</label>
            <select class="select select--sm select--auto" id="keep-alive" on:change=change>{options}</select>
        </div>
    }
}
