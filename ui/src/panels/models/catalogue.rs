//! The catalogue: models worth pulling, with their fit on this computer. Works offline.

use std::time::Duration;

use agent_api::{
    catalogue::{Catalogue as Data, CatalogueEntry, CatalogueQuery, CatalogueVariant},
    endpoint::GetCatalogue,
    models::DiskUse,
    pull::PullRequest,
};
use leptos::{ev, prelude::*, task::spawn_local};

use crate::{
    app::{App, use_app},
    backend,
    components::{
        badge::fit_lines,
        banner::Banner,
        icon::{Icon, icon},
    },
    derived::derived,
    words::{
        catalogue::{self as words, Filter},
        pull,
    },
};

/// After the last key; the node answers in milliseconds.
const TYPING: Duration = Duration::from_millis(150);

/// Rows before "Show all": two screens.
const FIRST_ROWS: usize = 12;

/// What is shown, and what was asked for.
#[derive(Clone, Copy)]
struct Search {
    typed: RwSignal<String>,
    filters: RwSignal<Vec<Filter>>,
    answer: RwSignal<Option<Result<Data, String>>>,
    /// What the answer is about.
    about: RwSignal<String>,
    all: RwSignal<bool>,
    /// Counts questions, so that a late answer to an old one is dropped.
    asked: StoredValue<u64>,
}

impl Search {
    fn ask(self) {
        self.asked.update_value(|n| *n += 1);
        let turn = self.asked.get_value();
        let typed = self.typed.get_untracked().trim().to_owned();
        spawn_local(async move {
            let query = CatalogueQuery { q: (!typed.is_empty()).then(|| typed.clone()) };
            let answer = backend::call(GetCatalogue, &query).await.map_err(|e| e.to_string());
            if self.asked.try_get_value() == Some(turn) {
                self.about.set(typed);
                self.answer.set(Some(answer));
            }
        });
    }

    fn ask_soon(self) {
        self.asked.update_value(|n| *n += 1);
        let turn = self.asked.get_value();
        set_timeout(
            move || {
                if self.asked.try_get_value() == Some(turn) {
                    self.ask();
                }
            },
            TYPING,
        );
    }

    fn forget(self) {
        self.typed.set(String::new());
        self.filters.set(Vec::new());
        self.ask();
    }
}

#[component]
pub(super) fn Catalogue() -> impl IntoView {
    let app = use_app();
    let search = Search {
        typed: RwSignal::new(String::new()),
        filters: RwSignal::new(Vec::new()),
        answer: RwSignal::new(None),
        about: RwSignal::new(String::new()),
        all: RwSignal::new(false),
        asked: StoredValue::new(0),
    };
    // What is installed, and what the owner keeps, change the answer.
    let live = app.live();
    let installed =
        app.library.part(|list| list.models.iter().map(|m| m.id.clone()).collect::<Vec<_>>());
    let kept = derived(move || {
        app.state.with(|s| {
            let s = s.settings.as_ref()?;
            Some((s.ram_reserve_bytes, s.gpu_reserve_bytes, s.context_length, s.parallel))
        })
    });
    Effect::new(move |_| {
        installed.track();
        kept.track();
        if live.get() {
            search.ask();
        }
    });
    view! {
        <section class="card" aria-labelledby="catalogue-title" id="catalogue">
            <div class="card-head card-head--line cathead">
                <h2 id="catalogue-title">"Catalogue"</h2>
                <Field search/>
                <div class="chips" role="group" aria-label="Filters">
                    {Filter::ALL.map(|filter| chip(search, filter)).into_iter().collect_view()}
                </div>
            </div>
            {move || by_name(app, search)}
            <Rows search/>
        </section>
    }
}

#[component]
fn Field(search: Search) -> impl IntoView {
    let app = use_app();
    let keys = move |event: ev::KeyboardEvent| {
        let typed = search.typed.get_untracked();
        if event.key() == "Enter" && words::is_name(&typed) {
            event.prevent_default();
            app.library.pull.set(Some(typed.trim().to_owned()));
        }
    };
    view! {
        <div class="input-icon">
            {icon(Icon::Search)}
            <input
                class="input input--sm input--quiet"
                id="catalogue-search"
                type="search"
                placeholder="Search or paste a name"
                aria-label="Search the catalogue, or paste a name"
                autocomplete="off"
                spellcheck="false"
                prop:value=move || search.typed.get()
                on:keydown=keys
                on:input=move |event| {
                    search.typed.set(event_target_value(&event));
                    search.ask_soon();
                }
            />
        </div>
    }
}

fn chip(search: Search, filter: Filter) -> impl IntoView {
    let on = move || search.filters.with(|f| f.contains(&filter));
    let toggle = move |_| {
        search.filters.update(|list| match list.iter().position(|f| *f == filter) {
            Some(at) => drop(list.remove(at)),
            None => list.push(filter),
        });
    };
    view! {
        <button class="chip" type="button" aria-pressed=move || on().to_string() on:click=toggle>
            {filter.label()}
        </button>
    }
}

/// What was typed is a name for sure: offered above whatever the search found.
fn by_name(app: App, search: Search) -> Option<AnyView> {
    let typed = search.typed.get().trim().to_owned();
    words::is_name(&typed).then(|| {
        let name = typed.clone();
        view! {
            <div class="catname-row">
                <p class="grow trunc">"Pull "<b>{typed}</b>" as it is written"</p>
                <button class="btn btn--sm" type="button" on:click=move |_| app.library.pull.set(Some(name.clone()))>
                    {icon(Icon::Download)}<span>"Check and pull"</span>
                </button>
            </div>
        }
        .into_any()
    })
}

#[component]
fn Rows(search: Search) -> impl IntoView {
    let app = use_app();
    let shown = derived(move || {
        search.answer.with(|answer| {
            let data = answer.as_ref()?.as_ref().ok()?;
            let filters = search.filters.get();
            let kept = data.entries.iter().filter(|e| filters.iter().all(|f| f.keeps(e)));
            Some(kept.cloned().collect::<Vec<_>>())
        })
    });
    let some = move || {
        let mut entries = shown.get().unwrap_or_default();
        if !search.all.get() {
            entries.truncate(FIRST_ROWS);
        }
        entries
    };
    // An entry that changed is drawn anew; the others stay as they are.
    let key = |entry: &CatalogueEntry| {
        let mut key = entry.id.clone();
        for variant in &entry.variants {
            key.push(if variant.installed { '+' } else { '-' });
            key.push_str(&variant.fit.reason);
        }
        key
    };
    let rest = move || shown.with(|s| s.as_ref().map_or(0, Vec::len)).saturating_sub(FIRST_ROWS);
    let failed = move || search.answer.with(|a| a.as_ref()?.as_ref().err().cloned());
    let loading = move || search.answer.with(Option::is_none);
    let nothing = move || shown.with(|s| s.as_ref().is_some_and(Vec::is_empty));
    let date = move || {
        search.answer.with(|a| {
            let data = a.as_ref()?.as_ref().ok()?;
            Some(format!("Catalogue of {}, {}", data.updated, data.origin))
        })
    };
    view! {
        {move || failed().map(|why| view! { <div class="card-body catbody"><Banner kind="danger" text=why/></div> })}
        {move || loading().then(|| view! { <div class="skcard late"><span class="sk" style:width="60%"></span><span class="sk" style:width="45%"></span></div> })}
        {move || nothing().then(|| none_found(app, search))}
        <ul class="cats">
            <For each=some key=key children=|entry| view! { <Row entry/> }/>
        </ul>
        {move || (rest() > 0 && !search.all.get()).then(|| view! {
            <div class="catmore">
                <button class="btn btn--sm btn--ghost" type="button" on:click=move |_| search.all.set(true)>
                    {icon(Icon::ChevronDown)}<span>{format!("Show {} more", rest())}</span>
                </button>
            </div>
        })}
        {move || date().map(|date| view! { <p class="card-foot">{date}</p> })}
    }
}

fn none_found(app: App, search: Search) -> AnyView {
    let typed = search.about.get();
    let filtered = search.filters.with(|f| !f.is_empty());
    let title = if typed.is_empty() {
        "No model matches these filters".to_owned()
    } else {
        format!("No model called “{typed}”")
    };
    let why = if filtered && !typed.is_empty() {
        "Nothing in the catalogue has these words and matches the filters."
    } else if filtered {
        "Nothing in the catalogue is all of this at once."
    } else {
        "The catalogue has only models that are known to work. A registry may have it under this name."
    };
    // What is a name for sure is offered above already.
    let name = (words::could_be_name(&typed) && !words::is_name(&typed)).then(|| typed.clone());
    view! {
        <div class="empty empty--inset">
            <span class="glyph">{icon(Icon::Search)}</span>
            <h3>{title}</h3>
            <p>{why}</p>
            <div class="row">
                {name.map(|name| view! {
                    <button class="btn" type="button" on:click=move |_| app.library.pull.set(Some(name.clone()))>
                        {icon(Icon::Download)}<span>"Pull it by name"</span>
                    </button>
                })}
                <button class="btn btn--ghost" type="button" on:click=move |_| search.forget()>
                    <span>"Show everything"</span>
                </button>
            </div>
        </div>
    }
    .into_any()
}

#[component]
fn Row(entry: CatalogueEntry) -> impl IntoView {
    let chosen = RwSignal::new(words::first_choice(&entry.variants));
    let variants = StoredValue::new(entry.variants.clone());
    let variant = derived(move || variants.with_value(|v| v.get(chosen.get()).cloned()));
    let label = format!("Quantization of {}", entry.title);
    let facts = words::facts(&entry);
    let options = entry
        .variants
        .iter()
        .enumerate()
        .map(|(at, v)| view! { <option value=at.to_string() selected=move || chosen.get() == at>{v.quantization.clone()}</option> })
        .collect_view();
    let single = entry.variants.len() < 2;
    let choose = move |event| {
        if let Ok(at) = event_target_value(&event).parse() {
            chosen.set(at);
        }
    };
    let title = StoredValue::new(entry.title.clone());
    view! {
        <li class="catrow" tabindex="-1" data-row data-entry=entry.id.clone()>
            <div class="catname">
                <p class="row" title=entry.summary.clone()>
                    <span class="strong trunc">{entry.title.clone()}</span>
                </p>
                <p class="faint small" title=facts.clone()>{facts.clone()}</p>
            </div>
            {move || variant.get().map(|v| fit_lines(&v.fit))}
            <div class="catq">
                <select class="select select--sm select--quiet" aria-label=label disabled=single on:change=choose>{options}</select>
            </div>
            <div class="catact">{move || variant.get().map(|v| view! { <Act variant=v title=title.get_value()/> })}</div>
        </li>
    }
}

/// Where a variant stands: here, on its way, or to be had.
#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Here,
    Coming(Option<u64>),
    Stopped,
    There,
}

#[component]
fn Act(variant: CatalogueVariant, title: String) -> impl IntoView {
    let app = use_app();
    let name = variant.pull.clone();
    let here = variant.installed;
    let stage = derived(move || {
        let pulls = |state: &crate::state::AppState| {
            let pull = state.pulls.iter().find(|p| p.model == name)?;
            Some(match pull::under_way(pull) {
                true => Stage::Coming(pull::percent(pull.done_bytes, pull.size_bytes)),
                false if pull.state == agent_api::pull::PullState::Done => Stage::Here,
                false => Stage::Stopped,
            })
        };
        let other = if here { Stage::Here } else { Stage::There };
        app.state.with(pulls).unwrap_or(other)
    });
    let variant = StoredValue::new(variant);
    let act = move |_| {
        let variant = variant.get_value();
        let disk = app
            .library
            .list
            .with_untracked(|l| l.as_ref().and_then(|l| l.as_ref().ok()).map(|l| l.disk));
        if words::no_question(&variant, &disk.unwrap_or(DiskUse::default())) {
            let size = words::size(&variant);
            app.start_pull(PullRequest { model: variant.pull, swap_when_done: false }, size);
        } else {
            app.library.pull.set(Some(variant.pull));
        }
    };
    move || match stage.get() {
        Stage::Here => view! {
            <span class="state ok small">{icon(Icon::Check)}"Installed"</span>
        }
        .into_any(),
        Stage::Coming(percent) => {
            let text = percent.map_or("Pulling".into(), |p| format!("Pulling, {p}\u{202f}%"));
            view! { <span class="faint small num">{text}</span> }.into_any()
        }
        Stage::Stopped => view! { <span class="faint small">"See above"</span> }.into_any(),
        Stage::There => {
            let words = variant.with_value(words::button);
            let label = format!("{words}: {title}");
            view! {
                <button class="btn btn--sm" type="button" aria-label=label on:click=act>
                    {icon(Icon::Download)}<span>{words}</span>
                </button>
            }
            .into_any()
        }
    }
}
