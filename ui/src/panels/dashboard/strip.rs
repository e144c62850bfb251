//! Six figures in a row.

use agent_api::{
    Status,
    models::{InstalledModel, ModelState},
};
use leptos::prelude::*;

use crate::{
    app::{App, use_app},
    backend,
    components::{
        icon::{Icon, icon},
        menu::Menu,
        spark::Spark,
    },
    derived::derived,
    format::{self, LocalTime, UNKNOWN},
    panels::models::why_not,
};

/// Ten minutes of ten-second averages.
const HISTORY: usize = 60;

#[component]
pub(super) fn Strip() -> impl IntoView {
    view! {
        <section class="strip card" aria-label="Right now">
            <ActiveModel/>
            <SpeedNow/>
            <Figure name="Requests today" read=requests/>
            <Figure name="Running" read=running/>
            <Uptime/>
            <Figure name="Memory" read=memory/>
        </section>
    }
}

/// A cell: a large value with a small unit, and a line under it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cell {
    big: String,
    unit: String,
    small: String,
    /// The same with all figures, where `small` leaves some out.
    hint: String,
}

#[component]
fn Figure(name: &'static str, read: fn(&Status) -> Cell) -> impl IntoView {
    let cell = use_app().part(read);
    let part = move |pick: fn(Cell) -> String| cell.get().map(pick).unwrap_or_default();
    view! {
        <div class="strip-cell">
            <h3>{name}</h3>
            <p class="big num">{move || part(|c| c.big)}" "<small>{move || part(|c| c.unit)}</small></p>
            <p class="small faint" title=move || part(|c| if c.hint.is_empty() { c.small } else { c.hint })>{move || part(|c| c.small)}</p>
        </div>
    }
}

fn requests(status: &Status) -> Cell {
    let r = &status.requests;
    let small = match r.failed_today {
        0 => format!("{} tokens", format::compact(r.tokens_today)),
        n => format!("{} failed, {} tok", format::count(n), format::compact(r.tokens_today)),
    };
    let tokens = format::counted(r.tokens_today, "token", "tokens");
    let hint = format!("Since midnight UTC: {} failed, {tokens}", format::count(r.failed_today));
    Cell { big: format::count(r.done_today), unit: "done".into(), small, hint }
}

fn running(status: &Status) -> Cell {
    let r = &status.requests;
    let small = match (r.queued, r.oldest_wait_ms) {
        (0, _) => "none waiting".into(),
        (n, Some(ms)) => {
            format!("{n} waiting, {}", format::duration(i64::try_from(ms).unwrap_or(i64::MAX)))
        }
        (n, None) => format!("{n} waiting"),
    };
    let unit = if r.slots == 0 { String::new() } else { format!("of {}", r.slots) };
    Cell {
        big: r.running.to_string(),
        unit,
        small,
        hint: "The wait is that of the oldest request".into(),
    }
}

fn memory(status: &Status) -> Cell {
    let m = &status.machine;
    if m.node_memory_bytes == 0 {
        return Cell { big: UNKNOWN.into(), ..Cell::default() };
    }
    let node = format::memory(m.node_memory_bytes);
    let (total, small) = match m.runner_memory_bytes {
        Some(runner) => {
            (m.node_memory_bytes + runner, format!("runner {}", format::memory(runner)))
        }
        None => (m.node_memory_bytes, "no runner".into()),
    };
    Cell {
        big: format::memory(total),
        unit: String::new(),
        hint: format!("node {node}, {small}"),
        small,
    }
}

#[component]
fn Uptime() -> impl IntoView {
    let app = use_app();
    let started = app.part(|s| s.node.started_at_ms);
    let crashes = app.part(|s| s.model.runner_crashes);
    let up = derived(move || {
        started.get().map_or(UNKNOWN.into(), |at| format::duration(app.now.get() - at))
    });
    let since = derived(move || {
        let offset = backend::local_offset_ms();
        let now = LocalTime::new(app.now.get(), offset);
        started.get().map_or(String::new(), |at| {
            format!("since {}", LocalTime::new(at, offset).clock_or_date(now))
        })
    });
    let small = move || match crashes.get().unwrap_or(0) {
        0 => since.get(),
        n => format!("{n} runner {}", if n == 1 { "crash" } else { "crashes" }),
    };
    view! {
        <div class="strip-cell">
            <h3>"Uptime"</h3>
            <p class="big num">{move || up.get()}</p>
            <p class="small faint" title=move || since.get()>{small}</p>
        </div>
    }
}

#[component]
fn SpeedNow() -> impl IntoView {
    let app = use_app();
    let rate = app.part(|s| format::rate(s.speed.tokens_per_s));
    let history = app.part(|s| s.speed.history.clone());
    let values = Signal::derive(move || history.get().unwrap_or_default());
    let peak = app.part(|s| {
        // The first ten seconds are not in the history yet.
        let top = s.speed.history.iter().copied().fold(s.speed.tokens_per_s, f64::max);
        if top > 0.0 { format!("peak {}", format::rate(top)) } else { "no requests".into() }
    });
    view! {
        <div class="strip-cell strip-tok">
            <div>
                <h3>"Speed now"</h3>
                <p class="big num" id="speed-now">{move || rate.get().unwrap_or(UNKNOWN.into())}" "<small>"tok/s"</small></p>
                <p class="small faint" title="Of the last 10 minutes">{move || peak.get()}</p>
            </div>
            <Spark values=values most=HISTORY/>
        </div>
    }
}

#[component]
fn ActiveModel() -> impl IntoView {
    let app = use_app();
    let active = app.active_model();
    let name = move || active.get().map_or("None".into(), |m| m.name);
    let context = app.part(|s| s.model.loaded.as_ref().map(|l| l.context));
    let state = app.part(|s| s.model.state);
    let facts = move || {
        let Some(model) = active.get() else { return "none is chosen".to_owned() };
        match state.get() {
            Some(ModelState::Loading) => format!("{}, loading", model.quantization),
            Some(ModelState::Unloaded) => format!("{}, unloaded", model.quantization),
            Some(ModelState::Restarting) => format!("{}, starting again", model.quantization),
            Some(ModelState::Failed) => format!("{}, did not load", model.quantization),
            _ => match context.get().flatten() {
                Some(n) => format!("{}, {} context", model.quantization, format::context(n)),
                None => model.quantization,
            },
        }
    };
    view! {
        <div class="strip-cell strip-model">
            <h3>"Active model"</h3>
            <p class="big trunc" id="model-name" title=move || active.get().map(|m| format!("{} ({})", m.name, m.id))>{name}</p>
            <div class="small faint strip-line"><span class="trunc" id="model-facts">{facts}</span><Swap/></div>
        </div>
    }
}

#[component]
fn Swap() -> impl IntoView {
    let app = use_app();
    let open = RwSignal::new(false);
    let live = app.live();
    let active = app.active_model();
    let label = move || {
        let word = match (app.library.busy.with(|b| !b.is_empty()), active.with(Option::is_some)) {
            (true, _) => "Swapping",
            (false, true) => "Swap",
            (false, false) => "Choose",
        };
        word.to_owned()
    };
    move || {
        live.get().then(|| {
            view! {
                <Menu label=Signal::derive(label) class="linkbtn" id="swap-menu" open on_open=Callback::new(move |()| app.load_models())>
                    {move || rows(app, open)}
                </Menu>
            }
        })
    }
}

fn rows(app: App, open: RwSignal<bool>) -> AnyView {
    match app.library.list.get() {
        None => view! { <li class="menu-note">"Looking for models"</li> }.into_any(),
        Some(Err(why)) => view! { <li class="menu-note bad">{why}</li> }.into_any(),
        Some(Ok(list)) => {
            let folder = list.folder;
            let models = list.models.into_iter().map(|m| row(app, open, m)).collect_view();
            view! {
                {models}
                <li role="separator"><hr/></li>
                <li class="menu-note">"GGUF files go to "<code>{folder}</code></li>
            }
            .into_any()
        }
    }
}

fn row(app: App, open: RwSignal<bool>, model: InstalledModel) -> AnyView {
    let problem =
        why_not(&model).map(|why| view! { <span class="menu-why bad">{why.to_owned()}</span> });
    let facts = format!("{}, {}", model.quantization, format::file_size(model.size_bytes));
    let (active, off) = (model.active, model.active || model.problem.is_some());
    let name = model.name.clone();
    let choose = move |_| {
        open.set(false);
        app.ask_to_swap(model.id.clone());
    };
    view! {
        <li role="none">
            <button type="button" role="menuitemradio" aria-checked=active.to_string() disabled=off on:click=choose>
                {if active { icon(Icon::Check) } else { icon(Icon::Models) }}
                <span class="menu-name"><span class="trunc">{name}</span>{problem}</span>
                <span class="faint small push">{facts}</span>
            </button>
        </li>
    }
    .into_any()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::status;

    fn plain(text: &str) -> String {
        text.replace('\u{202f}', " ")
    }

    #[test]
    fn figures_say_what_is_wrong_only_when_something_is() {
        let mut s = status(0);
        s.requests.done_today = 1_840;
        s.requests.tokens_today = 21_480;
        assert_eq!((requests(&s).big, requests(&s).small), ("1,840".into(), "21.5k tokens".into()));
        s.requests.failed_today = 2;
        assert_eq!(requests(&s).small, "2 failed, 21.5k tok");
        assert!(requests(&s).hint.ends_with("2 failed, 21,480 tokens"));
    }

    #[test]
    fn waiting_requests_are_shown_with_the_longest_wait() {
        let mut s = status(0);
        s.requests.slots = 4;
        s.requests.running = 3;
        let cell = running(&s);
        assert_eq!(
            (cell.big.as_str(), cell.unit.as_str(), cell.small.as_str()),
            ("3", "of 4", "none waiting")
        );
        s.requests.queued = 2;
        s.requests.oldest_wait_ms = Some(9_000);
        assert_eq!(plain(&running(&s).small), "2 waiting, 9 s");
    }

    #[test]
    fn memory_is_the_sum_of_node_and_runner() {
        let mut s = status(0);
        assert_eq!(memory(&s).big, UNKNOWN);
        s.machine.node_memory_bytes = 48_000_000;
        assert_eq!(plain(&memory(&s).small), "no runner");
        s.machine.runner_memory_bytes = Some(364_000_000);
        assert_eq!(plain(&memory(&s).big), "412 MB");
        assert_eq!(plain(&memory(&s).hint), "node 48.0 MB, runner 364 MB");
    }
}
