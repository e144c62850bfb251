//! The table of tasks: some of every group, or one group down to its oldest task. Of a long list only
//! the rows in view are in the document, and pages are loaded as they are scrolled to.

mod row;

use std::ops::Range;

use agent_api::tasks::TaskId;
use leptos::{ev, html, prelude::*};
use web_sys::HtmlElement;

use self::row::Row;
use crate::{
    app::{App, use_app},
    components::icon::{Icon, icon},
    derived::{Derived, derived},
    format,
    mesh::rows,
    panels::mesh::peers::{main, top},
    tasks::board::{Board, Filter, Group},
};

/// Rows before the end of what is loaded at which the next page is asked for.
const AHEAD: usize = 80;

const COLUMNS: [(&str, &str); 9] = [
    ("t-kind", "Kind"),
    ("t-what", "Model or module"),
    ("t-who", "Asked by → run by"),
    ("t-route", "Route"),
    ("t-start num", "Started"),
    ("t-took num", "Took"),
    ("t-tok num", "Tokens"),
    ("t-state", "State"),
    ("t-acts", ""),
];

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Line {
    Head(Group),
    Row(TaskId),
}

fn overview(board: &Board) -> Vec<Line> {
    let mut lines = Vec::new();
    for group in Group::ALL {
        let rows = board.preview(group);
        if !rows.is_empty() {
            lines.push(Line::Head(group));
            lines.extend(rows.iter().map(|t| Line::Row(t.id.clone())));
        }
    }
    lines
}

fn part(board: &Board, group: Group, range: &Range<usize>) -> Vec<Line> {
    let rows = board.rows(group);
    let end = range.end.min(rows.len());
    rows[range.start.min(end)..end].iter().map(|t| Line::Row(t.id.clone())).collect()
}

#[derive(Clone, Copy)]
struct View {
    app: App,
    /// The one group that is shown.
    group: Derived<Option<Group>>,
    /// Rows of it that are loaded.
    total: Derived<usize>,
    range: RwSignal<Range<usize>>,
    body: NodeRef<html::Tbody>,
}

impl View {
    fn measure(self) {
        // At the next frame the panel may be gone.
        let Some(Some(group)) = self.group.try_with_untracked(Clone::clone) else { return };
        let Some(place) = self.place() else { return };
        let total = self.total.get_untracked();
        let range = rows::window(total, place.0, place.1);
        let near_end = range.end + AHEAD >= total;
        if self.range.with_untracked(|r| *r != range) {
            self.range.set(range);
        }
        let board = self.app.tasks.board;
        if near_end && board.with_untracked(|b| b.loaded(group) && !b.complete(group)) {
            self.app.load_more_tasks(group);
        }
    }

    /// Pixels of the rows above the view, and the view's height.
    fn place(self) -> Option<(f64, f64)> {
        let main: HtmlElement = main()?;
        let body = self.body.try_get_untracked().flatten()?;
        Some((top(&main)? - top(&body)?, f64::from(main.client_height())))
    }
}

#[component]
pub(super) fn Table() -> impl IntoView {
    let app = use_app();
    let board = app.tasks.board;
    let group = app.tasks.part(|b| b.filter().group);
    let total = derived(move || board.with(|b| group.get().map_or(0, |g| b.rows(g).len())));
    let view = View { app, group, total, range: RwSignal::new(0..60), body: NodeRef::new() };
    Effect::new(move |_| {
        app.scrolled.track();
        view.total.track();
        view.group.track();
        request_animation_frame(move || view.measure());
    });
    let resized = window_event_listener(ev::resize, move |_| view.measure());
    on_cleanup(move || resized.remove());
    let loaded = app.tasks.part(|b| b.groups().into_iter().any(|g| b.loaded(g)));
    let body = move || {
        if loaded.get() {
            view! { <Rows view/> }.into_any()
        } else if app.tasks.problem.with(Option::is_some) {
            ().into_any()
        } else {
            view! {
                <div class="skcard late" aria-busy="true" aria-label="Loading the tasks">
                    {["70%", "84%", "62%", "78%"].map(|width| view! { <span class="sk" style:width=width></span> }).into_iter().collect_view()}
                </div>
            }
            .into_any()
        }
    };
    view! {
        <section class="card" id="tasks" aria-label="Tasks">
            {problem(app)}
            {body}
            <div class="card-foot">
                <span>"Words of other people are never shown or stored here."</span>
                <span class="push" role="status">{footer(view)}</span>
            </div>
        </section>
    }
}

fn problem(app: App) -> impl Fn() -> Option<AnyView> {
    move || {
        let why = app.tasks.problem.get()?;
        let again = move |_| {
            app.tasks.problem.set(None);
            app.load_tasks();
        };
        let view = view! {
            <div class="banner banner--danger banner--flat" role="alert">
                {icon(Icon::Error)}<p>{format!("The list may be out of date. {why}")}</p>
                <span class="push">
                    <button class="btn btn--sm" type="button" id="tasks-again" on:click=again>{icon(Icon::Refresh)}<span>"Load again"</span></button>
                </span>
            </div>
        };
        Some(view.into_any())
    }
}

/// How many are shown of how many.
fn footer(view: View) -> impl Fn() -> String {
    move || {
        let Some(group) = view.group.get() else { return String::new() };
        let rows = view.total.get() as u64;
        view.app.tasks.board.with(|b| match b.total(group) {
            (_, true) => format!("{} loaded, more below", format::count(rows)),
            (total, _) if u64::from(total) > rows => {
                format!("{} of {} loaded", format::count(rows), format::count(u64::from(total)))
            }
            _ => format::counted(rows, "task", "tasks"),
        })
    }
}

#[component]
fn Rows(view: View) -> impl IntoView {
    let app = view.app;
    let board = app.tasks.board;
    let lines = derived(move || {
        let range = view.range.get();
        board.with(|b| match b.filter().group {
            None => overview(b),
            Some(group) => part(b, group, &range),
        })
    });
    let gap = move |rows: usize| format!("{}px", rows as f64 * rows::ROW);
    let one = move || view.group.get().is_some();
    let above = move || {
        if one() { gap(view.range.with(|r| r.start).min(view.total.get())) } else { gap(0) }
    };
    let below = move || {
        let end = view.range.with(|r| r.end);
        if one() { gap(view.total.get().saturating_sub(end)) } else { gap(0) }
    };
    let nothing = move || lines.with(Vec::is_empty);
    let more =
        move || board.with(|b| b.filter().group.is_some_and(|g| b.loaded(g) && !b.complete(g)));
    let head = COLUMNS.map(|(class, title)| {
        let hidden = title.is_empty().then(|| view! { <span class="vh">"Actions"</span> });
        view! { <th scope="col" class=class>{title}{hidden}</th> }
    });
    let line = move |line: Line| match line {
        Line::Head(group) => heading(app, group),
        Line::Row(id) => view! { <Row id/> }.into_any(),
    };
    view! {
        <table class="table peers tasks" class:is-empty=nothing aria-rowcount=move || {
            board.with(|b| b.filter().group.map(|g| (b.total(g).0 + 1).to_string()))
        }>
            <caption class="vh">{move || view.group.get().map_or("Tasks, by state", Group::title)}</caption>
            <thead><tr>{head.into_iter().collect_view()}</tr></thead>
            <tbody node_ref=view.body>
                <tr class="gap" aria-hidden="true" style:height=above></tr>
                <For each=move || lines.get() key=Clone::clone children=line/>
                <tr class="gap" aria-hidden="true" style:height=below></tr>
            </tbody>
        </table>
        <Show when=more><p class="tasks-more faint" aria-hidden="true">"Loading older tasks"</p></Show>
        <Show when=nothing><NothingFits/></Show>
    }
}

fn heading(app: App, group: Group) -> AnyView {
    let total = app.tasks.part(move |b| b.total(group));
    let count = move || {
        let (n, more) = total.get();
        format!("{}{}", format::count(u64::from(n)), if more { "+" } else { "" })
    };
    let hidden =
        app.tasks.part(move |b| b.rows(group).len() > b.preview(group).len() || !b.complete(group));
    let all = move || {
        hidden.get().then(|| {
            view! {
                <button class="linkbtn push" type="button" data-all=group.title() on:click=move |_| app.filter_tasks(|f| f.group = Some(group))>
                    {format!("Show all {}", group.title().to_lowercase())}
                </button>
            }
        })
    };
    view! {
        <tr class="group-row">
            <th scope="rowgroup" colspan="9"><span class="row">{group.title()}<span class="count">{count}</span>{all}</span></th>
        </tr>
    }
    .into_any()
}

#[component]
fn NothingFits() -> impl IntoView {
    let app = use_app();
    let narrow = app.tasks.part(|b| b.filter().narrow());
    let title = move || match app.tasks.board.with(|b| b.filter().group) {
        _ if narrow.get() => "No task fits",
        Some(Group::Active) => "Nothing runs now",
        Some(Group::Queued) => "Nothing waits",
        Some(Group::Failed) => "Nothing failed",
        _ => "No tasks here",
    };
    let about = move || {
        if narrow.get() {
            "Ids, labels, models and names of nodes are searched."
        } else {
            "Ended tasks are kept as long as the settings say."
        }
    };
    view! {
        <div class="empty empty--inset" id="no-task-fits">
            <h3>{title}</h3>
            <p>{about}</p>
            <div class="row">
                <button class="btn btn--sm" type="button" on:click=move |_| app.filter_tasks(|f| *f = Filter::default())>
                    <span>"Show all tasks"</span>
                </button>
            </div>
        </div>
    }
}
