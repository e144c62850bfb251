//! The installed models, one row each. Rows keep their places and their elements while they are
//! live, so that the pointer and the focus stay on what they were on.

use agent_api::models::{InstalledModel, ModelList};
use leptos::{ev, prelude::*};

use crate::{
    app::{App, use_app},
    backend,
    components::{
        badge::badge,
        banner::Banner,
        icon::{Icon, icon},
        menu::Menu,
    },
    derived::derived,
    format,
    words::model::{self as words, Primary},
};

#[component]
pub(super) fn Installed() -> impl IntoView {
    let app = use_app();
    // Only which of these is shown; the rows follow the list by themselves.
    let shape = derived(move || {
        app.library.list.with(|list| match list {
            None => Shape::Loading,
            Some(Err(why)) => Shape::Failed(why.clone()),
            Some(Ok(list)) if list.models.is_empty() => Shape::Nothing,
            Some(Ok(_)) => Shape::Table,
        })
    });
    move || match shape.get() {
        Shape::Loading => view! {
            <section class="card skcard late" aria-busy="true" aria-label="Loading models">
                <span class="sk" style:width="40%"></span><span class="sk" style:width="70%"></span>
            </section>
        }
        .into_any(),
        Shape::Failed(why) => view! { <Banner kind="danger" text=why/> }.into_any(),
        Shape::Nothing => nothing(app),
        Shape::Table => view! { <Table/> }.into_any(),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Loading,
    Failed(String),
    Nothing,
    Table,
}

fn nothing(app: App) -> AnyView {
    view! {
        <section class="card empty">
            <span class="glyph">{icon(Icon::Models)}</span>
            <h2>"No models yet"</h2>
            <p>"This node has nothing to answer with. Choose a model below; its size and whether it fits are shown before anything is downloaded."</p>
            <div class="row">
                <button class="btn" type="button" on:click=move |_| app.library.pull.set(Some(String::new()))>
                    {icon(Icon::Download)}<span>"Pull by name or URL"</span>
                </button>
            </div>
        </section>
    }
    .into_any()
}

#[component]
fn Table() -> impl IntoView {
    let app = use_app();
    let ids = Memo::new(move |before: Option<&Vec<String>>| {
        let before = before.map(Vec::as_slice).unwrap_or_default();
        words::order(before, &app.library.models())
    });
    let count = move || ids.with(Vec::len);
    view! {
        <section class="card" aria-labelledby="installed-title">
            <div class="table-wrap table-wrap--menus">
                <table class="table" id="models">
                    <caption class="vh">"Installed models"</caption>
                    <thead>
                        <tr>
                            <th scope="col" class="th-title">
                                <h2 id="installed-title">"Installed "<span class="count">{count}</span></h2>
                            </th>
                            <th scope="col" class="col-quant">"Quant, context"</th>
                            <th scope="col" class="num">"Size"</th>
                            <th scope="col" class="num col-rate" title="Tokens per second, measured on this computer">"Tok/s here"</th>
                            <th scope="col" class="col-used">"Last used"</th>
                            <th scope="col"><span class="vh">"Actions"</span></th>
                        </tr>
                    </thead>
                    <tbody>
                        <For each=move || ids.get() key=Clone::clone children=|id| view! { <Row id/> }/>
                    </tbody>
                </table>
            </div>
        </section>
    }
}

fn find(list: &ModelList, id: &str) -> Option<InstalledModel> {
    list.models.iter().find(|m| m.id == id).cloned()
}

#[component]
fn Row(id: String) -> impl IntoView {
    let app = use_app();
    let wanted = id.clone();
    let found = app.library.part(move |list| find(list, &wanted));
    // A row that is about to go keeps its last content.
    let model = Memo::new(move |before: Option<&Option<InstalledModel>>| {
        found.get().flatten().or_else(|| before.cloned().flatten())
    });
    let read = move |text: fn(&InstalledModel) -> String| {
        move || model.with(|m| m.as_ref().map(text)).unwrap_or_default()
    };
    let states = move || model.with(|m| m.as_ref().map(words::states));
    let traits = move || model.with(|m| m.as_ref().map(words::traits));
    let name = read(|m| m.name.clone());
    let problem = move || model.with(|m| m.as_ref().and_then(|m| m.problem.clone()));
    let under = {
        let id = id.clone();
        move || match problem() {
            Some(why) => {
                view! { <p class="small bad rowwhy">{icon(Icon::Error)}<span>{why}</span></p> }
                    .into_any()
            }
            None => view! {
                <p class="small faint row rowunder">
                    <code class="trunc">{id.clone()}</code>
                    {traits().into_iter().flatten().map(badge).collect_view()}
                </p>
            }
            .into_any(),
        }
    };
    let used = move || {
        let now = app.now.get();
        model.with(|m| m.as_ref().map(|m| words::last_used(m, now, backend::local_offset_ms())))
    };
    let details = StoredValue::new(id.clone());
    let open_details = move || app.library.details.set(Some(details.get_value()));
    let open = move |event: ev::KeyboardEvent| {
        // Only on the row itself: its buttons have an Enter of their own.
        if event.key() == "Enter" && event.target() == event.current_target() {
            event.prevent_default();
            open_details();
        }
    };
    let active = move || model.with(|m| m.as_ref().is_some_and(|m| m.active));
    view! {
        <tr class:is-active=active tabindex="-1" data-row data-model=id.clone() on:keydown=open>
            <td class="cell-name">
                <span class="row">
                    <button class="rowlink trunc" type="button" title=name on:click=move |_| open_details()>{name}</button>
                    {move || states().into_iter().flatten().map(badge).collect_view()}
                </span>
                {under}
            </td>
            <td class="faint nowrap col-quant">{read(words::quant_and_context)}</td>
            <td class="num">{read(|m| format::file_size(m.size_bytes))}</td>
            <td class="num col-rate">
                {read(|m| m.tokens_per_s.map_or_else(|| format::UNKNOWN.into(), format::rate))}
            </td>
            <td class="faint nowrap col-used">{used}</td>
            <td class="right"><span class="rowacts"><Act id=id.clone() model/><More id=id.clone() model/></span></td>
        </tr>
    }
}

/// The one action that makes most sense now.
#[component]
fn Act(id: String, model: Memo<Option<InstalledModel>>) -> impl IntoView {
    let app = use_app();
    let busy = derived(move || app.library.is_busy(&id));
    let action = derived(move || {
        model.with(|m| m.as_ref().and_then(|m| Some((words::primary(m)?, m.name.clone()))))
    });
    move || {
        let (action, name) = action.get()?;
        let (word, label) = match action {
            Primary::Swap => ("Swap", format!("Swap to {name}")),
            Primary::Load => ("Load", format!("Load {name} into memory")),
            Primary::Unload => ("Unload", format!("Unload {name} from memory")),
        };
        let act = move |_| {
            let Some(model) = model.get_untracked() else { return };
            match action {
                Primary::Swap => app.ask_to_swap(model.id),
                Primary::Load => app.load(model),
                Primary::Unload => app.unload(model),
            }
        };
        let spinner = move || busy.get().then(|| icon(Icon::Refresh));
        Some(view! {
            <button
                class="btn btn--sm"
                type="button"
                aria-label=label.clone()
                title=label
                aria-busy=move || busy.get().to_string()
                disabled=move || busy.get()
                on:click=act
            >
                {spinner}<span>{word}</span>
            </button>
        })
    }
}

#[component]
fn More(id: String, model: Memo<Option<InstalledModel>>) -> impl IntoView {
    let app = use_app();
    let open = RwSignal::new(false);
    let label = move || {
        model.with(|m| format!("More for {}", m.as_ref().map_or("this model", |m| m.name.as_str())))
    };
    let menu_id = StoredValue::new(id);
    view! {
        <Menu label=Signal::derive(label) class="ibtn ibtn--sm" glyph=Icon::Dots at_end=true open>
            {move || model.get().map(|m| entries(app, open, menu_id.get_value(), m))}
        </Menu>
    }
}

fn entries(app: App, open: RwSignal<bool>, id: String, model: InstalledModel) -> AnyView {
    let entry = move |glyph: Icon, label: &'static str, run: Box<dyn Fn() + Send + Sync>| {
        let choose = move |_| {
            open.set(false);
            run();
        };
        view! {
            <li role="none">
                <button type="button" role="menuitem" on:click=choose>{icon(glyph)}<span>{label}</span></button>
            </li>
        }
    };
    let usable = model.problem.is_none();
    let held = words::in_memory(&model);
    let (swap, load, unload, verify, options) =
        (id.clone(), model.clone(), model.clone(), model.clone(), model.clone());
    let answers = !words::only_embeds(&model);
    let can_verify = model.digest.is_some();
    let library = app.library;
    view! {
        {(usable && answers && !model.active).then(|| {
            entry(Icon::Swap, "Swap to it", Box::new(move || app.ask_to_swap(swap.clone())))
        })}
        {(usable && !held).then(|| {
            let word = if model.active { "Load" } else { "Load beside the active one" };
            entry(Icon::Play, word, Box::new(move || app.load(load.clone())))
        })}
        {held.then(|| entry(Icon::Stop, "Unload", Box::new(move || app.unload(unload.clone()))))}
        {usable.then(|| {
            entry(Icon::Settings, "Options", Box::new(move || library.options.set(Some(options.clone()))))
        })}
        {entry(Icon::Info, "Details", Box::new(move || library.details.set(Some(id.clone()))))}
        {can_verify.then(|| entry(Icon::Check, "Verify files", Box::new(move || app.verify(verify.clone()))))}
        <li role="separator"><hr/></li>
        {remove_entry(app, open, model)}
    }
    .into_any()
}

fn remove_entry(app: App, open: RwSignal<bool>, model: InstalledModel) -> AnyView {
    let why = words::why_kept(&model);
    let frees = model.removable_bytes.map(format::file_size);
    let choose = move |_| {
        open.set(false);
        app.library.remove.set(Some(model.clone()));
    };
    view! {
        <li role="none">
            <button type="button" role="menuitem" class="menu-danger" disabled=why.is_some() title=why on:click=choose>
                {icon(Icon::Trash)}
                <span class="menu-name">
                    <span>"Remove"</span>
                    {why.map(|why| view! { <span class="menu-why">{why}</span> })}
                </span>
                <span class="faint small push num">{frees}</span>
            </button>
        </li>
    }
    .into_any()
}
