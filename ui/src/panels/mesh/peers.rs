//! The table of peers. Thousands of rows scroll with the page; only those in view are in the
//! document. While the pointer or the focus is on it, rows keep their places; who comes meanwhile
//! is at the end.

mod row;

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use agent_api::NodeId;
use js_sys::{Function, Reflect};
use leptos::{ev, html, prelude::*};
use wasm_bindgen::JsCast;
use web_sys::HtmlElement;

use self::row::Row;
use crate::{
    app::{App, use_app},
    components::{
        banner::Banner,
        icon::{Icon, icon},
        menu::Menu,
    },
    derived::{Derived, derived},
    format,
    mesh::{
        order::{self, Column, PathFilter, Shown, Sort},
        rows,
    },
    words::mesh as words,
};

/// Rows are put in order again at this pace, as their figures change.
const REORDER_MS: i64 = 10_000;
/// Height of the page's bar and the table's head, which stay above the rows.
const COVERED: f64 = 52.0 + 34.0;

/// Place of every row, by its peer.
type Places = Derived<Arc<HashMap<NodeId, usize>>>;

/// What the table shows, and what of it is in view.
#[derive(Clone, Copy)]
struct Table {
    app: App,
    sort: RwSignal<Sort>,
    typed: RwSignal<String>,
    filter: RwSignal<PathFilter>,
    /// The pointer or the focus is on the rows.
    held: RwSignal<bool>,
    rows: Derived<Vec<NodeId>>,
    places: Places,
    range: RwSignal<Range<usize>>,
    /// The row that the tab key goes to.
    current: RwSignal<Option<NodeId>>,
    body: NodeRef<html::Tbody>,
}

impl Table {
    fn new(app: App) -> Self {
        let sort = RwSignal::new(Sort::default());
        let typed = RwSignal::new(String::new());
        let filter = RwSignal::new(PathFilter::default());
        let held = RwSignal::new(false);
        let members = derived(move || app.state.with(|s| s.peers.members()));
        let beat = derived(move || app.now.get() / REORDER_MS);
        type Query = (Sort, PathFilter, String);
        let ordered = Memo::new(move |before: Option<&Shown<Query>>| {
            let query: Query = (sort.get(), filter.get(), typed.get());
            members.track();
            let fresh = app.state.with_untracked(|s| {
                app.mesh.workers.with_untracked(|workers| {
                    order::rows(s.peers.iter(), workers, query.0, query.1, &query.2)
                })
            });
            Shown::next(before, query, beat.get(), held.get(), fresh)
        });
        let rows = derived(move || ordered.with(|shown| shown.rows.clone()));
        let places = derived(move || {
            let place = |(place, id): (usize, &NodeId)| (id.clone(), place);
            rows.with(|rows| Arc::new(rows.iter().enumerate().map(place).collect()))
        });
        Self {
            app,
            sort,
            typed,
            filter,
            held,
            rows,
            places,
            range: RwSignal::new(0..0),
            current: RwSignal::new(None),
            body: NodeRef::new(),
        }
    }

    /// Pixels of the rows above the view, and the view's height. `None` also when the table is gone:
    /// frames, timers and the blur of a removed row come later than that.
    fn view(self) -> Option<(HtmlElement, f64, f64)> {
        let body = self.body.try_get_untracked().flatten()?;
        let main = main()?;
        let above = top(&main)? - top(&body)?;
        let height = f64::from(main.client_height());
        Some((main, above, height))
    }

    fn measure(self) {
        if let Some((_, above, height)) = self.view() {
            let range = rows::window(self.rows.with_untracked(Vec::len), above, height);
            if self.range.with_untracked(|r| *r != range) {
                self.range.set(range);
            }
        }
    }

    /// Scrolls to a row and focuses it.
    fn focus(self, place: usize) {
        let Some(id) = self.rows.with_untracked(|r| r.get(place).cloned()) else { return };
        if let Some((main, above, height)) = self.view() {
            let by = rows::scroll_to(place, above, height, COVERED);
            main.set_scroll_top(main.scroll_top() + by.round() as i32);
        }
        self.measure();
        // The row is in the document at the next frame.
        set_timeout(move || crate::app::focus(&row::element_id(&id)), Duration::from_millis(20));
    }

    fn key(self, event: &ev::KeyboardEvent) {
        let page = self
            .view()
            .map_or(10, |(_, _, height)| ((height - COVERED) / rows::ROW).max(2.0) as usize - 1);
        let total = self.rows.with_untracked(Vec::len);
        let at = self.current.with_untracked(|id| {
            id.as_ref().and_then(|id| self.places.with_untracked(|p| p.get(id).copied()))
        });
        let Some(last) = total.checked_sub(1) else { return };
        let at = at.unwrap_or(0);
        let to = match event.key().as_str() {
            "ArrowDown" => at + 1,
            "ArrowUp" => at.saturating_sub(1),
            "PageDown" => at + page,
            "PageUp" => at.saturating_sub(page),
            "Home" => 0,
            "End" => last,
            _ => return,
        };
        event.prevent_default();
        self.focus(to.min(last));
    }
}

/// Where an element begins in the window. Through `Reflect`, because the page needs nothing else of
/// the large type that the typed call answers with.
pub(crate) fn top(element: &web_sys::Element) -> Option<f64> {
    let ask: Function =
        Reflect::get(element, &"getBoundingClientRect".into()).ok()?.dyn_into().ok()?;
    Reflect::get(&ask.call0(element).ok()?, &"top".into()).ok()?.as_f64()
}

pub(crate) fn main() -> Option<HtmlElement> {
    document().get_element_by_id("main")?.dyn_into().ok()
}

#[component]
pub(super) fn Peers() -> impl IntoView {
    let app = use_app();
    let table = Table::new(app);
    // The drawer steps through the same rows.
    Effect::new(move |_| app.mesh.rows.set(table.rows.get()));
    Effect::new(move |_| {
        app.scrolled.track();
        table.rows.track();
        app.now.track();
        request_animation_frame(move || table.measure());
    });
    let resized = window_event_listener(ev::resize, move |_| table.measure());
    on_cleanup(move || resized.remove());
    let loaded = derived(move || app.state.with(|s| s.peers.loaded()));
    view! {
        <section class="card" id="peers" aria-labelledby="peers-title">
            <Head table/>
            {move || app.mesh.problem.get().map(|why| view! { <Banner kind="danger" text=why/> })}
            {move || if loaded.get() {
                view! { <Rows table/> }.into_any()
            } else {
                view! {
                    <div class="skcard late" aria-busy="true">
                        <span class="sk" style:width="60%"></span><span class="sk" style:width="80%"></span>
                    </div>
                }.into_any()
            }}
        </section>
    }
}

#[component]
fn Head(table: Table) -> impl IntoView {
    let app = table.app;
    let open = RwSignal::new(false);
    let all = app.mesh_part(words::peer_count);
    let known = derived(move || app.state.with(|s| s.peers.iter().count()));
    let filtered =
        move || table.filter.get() != PathFilter::All || table.typed.with(|t| !t.trim().is_empty());
    let count = move || {
        if filtered() {
            let shown = table.rows.with(Vec::len) as u64;
            format!("{} of {}", format::count(shown), format::count(known.get() as u64))
        } else {
            all.get().unwrap_or_default()
        }
    };
    let entry = move |filter: PathFilter| {
        let chosen = move || (table.filter.get() == filter).to_string();
        let choose = move |_| {
            open.set(false);
            table.filter.set(filter);
        };
        view! {
            <li role="none">
                <button type="button" role="menuitemradio" aria-checked=chosen on:click=choose>
                    {move || if table.filter.get() == filter { icon(Icon::Check) } else { view! { <span class="i"></span> }.into_any() }}
                    <span>{filter.title()}</span>
                </button>
            </li>
        }
    };
    view! {
        <div class="card-head card-head--line peers-head">
            <h2 id="peers-title">"Peers "<span class="count" role="status">{count}</span></h2>
            <div class="input-icon push">
                {icon(Icon::Search)}
                <input
                    class="input input--sm input--quiet"
                    id="peer-filter"
                    type="search"
                    placeholder="Filter peers"
                    aria-label="Filter peers by name, place, model or id"
                    autocomplete="off"
                    spellcheck="false"
                    prop:value=move || table.typed.get()
                    on:input=move |event| table.typed.set(event_target_value(&event))
                />
            </div>
            <Menu label=Signal::derive(move || table.filter.get().title().to_owned()) class="btn btn--sm" id="peer-path" at_end=true open>
                {PathFilter::ALL.map(entry).into_iter().collect_view()}
            </Menu>
        </div>
    }
}

#[component]
fn Rows(table: Table) -> impl IntoView {
    let total = move || table.rows.with(Vec::len);
    let caption = move || {
        let sort = table.sort.get();
        let way = if sort.descending { ", largest first" } else { "" };
        format!("Peers, sorted by {}{way}", sort.column.spoken())
    };
    let drawn = move || {
        let range = table.range.get();
        table.rows.with(|rows| {
            let end = range.end.min(rows.len());
            rows[range.start.min(end)..end].to_vec()
        })
    };
    let gap = move |rows: usize| format!("{}px", rows as f64 * rows::ROW);
    let above = move || gap(table.range.with(|r| r.start).min(total()));
    let below = move || gap(total().saturating_sub(table.range.with(|r| r.end)));
    let hold = move |on: bool| table.held.set(on);
    let left = move |event: ev::FocusEvent| {
        let to = event.related_target().and_then(|t| t.dyn_into::<web_sys::Node>().ok());
        // A row that is removed with the panel loses the focus after the panel's values are gone.
        let Some(body) = table.body.try_get_untracked().flatten() else { return };
        if !body.contains(to.as_ref()) {
            hold(false);
        }
    };
    view! {
        <table class="table peers" aria-rowcount=move || (total() + 1).to_string()>
            <caption class="vh">{caption}</caption>
            <thead><tr aria-rowindex="1">{Column::ALL.map(|c| view! { <ColumnHead table column=c/> }).into_iter().collect_view()}</tr></thead>
            <tbody
                node_ref=table.body
                on:pointerenter=move |_| hold(true)
                on:pointerleave=move |_| hold(false)
                on:focusin=move |_| hold(true)
                on:focusout=left
                on:keydown=move |event| table.key(&event)
            >
                <tr class="gap" aria-hidden="true" style:height=above></tr>
                <For each=drawn key=Clone::clone children=move |id| view! { <Row id table/> }/>
                <tr class="gap" aria-hidden="true" style:height=below></tr>
            </tbody>
        </table>
        <Show when=move || total() == 0>
            <div class="empty empty--inset" id="no-peers">
                <h3>"No peer fits"</h3>
                <p>"Names, places, models, tiers and ids are searched."</p>
                <div class="row">
                    <button class="btn btn--sm" type="button" on:click=move |_| {
                        table.typed.set(String::new());
                        table.filter.set(PathFilter::All);
                    }><span>"Show all peers"</span></button>
                </div>
            </div>
        </Show>
    }
}

#[component]
fn ColumnHead(table: Table, column: Column) -> impl IntoView {
    let on = move || table.sort.get().column == column;
    let glyph = move || {
        let down = on() && table.sort.get().descending;
        view! { <svg class="i" class:is-down=down aria-hidden="true"><use href=Icon::Up.href()></use></svg> }
    };
    let click = move |_| {
        table.sort.update(|s| *s = s.clicked(column));
        // The rows in view are other ones now.
        table.current.set(None);
    };
    view! {
        <th scope="col" class=row::class(column) aria-sort=move || table.sort.get().spoken(column)>
            <button class="th-sort" type="button" data-sort=column.title() on:click=click>{column.title()}{glyph}</button>
        </th>
    }
}
