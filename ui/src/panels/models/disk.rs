//! What models take on disk, against the owner's budget.

use agent_api::{models::DiskUse, settings::SettingsPatch};
use leptos::{ev, html, prelude::*};

use crate::{
    app::use_app,
    components::{
        answer::CopyButton,
        icon::{Icon, icon},
    },
    derived::Derived,
    format,
};

const GB: u64 = 1_000_000_000;

#[component]
pub(super) fn Disk() -> impl IntoView {
    let app = use_app();
    let disk = app.library.part(|list| list.disk);
    let folder = app.library.part(|list| list.folder.clone());
    let free = move || {
        disk.get().and_then(|d| d.free_bytes).map(|b| format!("{} free", format::file_size(b)))
    };
    view! {
        <section class="card" aria-labelledby="disk-title" id="disk">
            <div class="card-head"><h2 id="disk-title">"Disk"</h2><span class="push faint small num">{free}</span></div>
            <div class="card-body stack">
                {move || disk.get().map(|d| bar(&d))}
                <Budget disk/>
                {move || folder.get().map(|folder| view! {
                    <div class="row folderline">
                        <code class="path small trunc grow" title=folder.clone()>{folder.clone()}</code>
                        <CopyButton text=folder.clone() what=" the folder’s path"/>
                        <button
                            class="ibtn ibtn--sm"
                            type="button"
                            aria-label="Look for new files in the folder"
                            title="Look for new files in the folder"
                            on:click=move |_| app.load_models()
                        >
                            {icon(Icon::Refresh)}
                        </button>
                    </div>
                })}
            </div>
        </section>
    }
}

fn bar(disk: &DiskUse) -> AnyView {
    let used = disk.installed_bytes + disk.partial_bytes;
    let total = disk.budget_bytes.or(disk.free_bytes.map(|free| used + free));
    let headline = match disk.budget_bytes {
        Some(budget) => {
            let (part, of) = format::part_of(used, budget, format::file_size);
            view! { <p><span class="big num">{part}</span>" "<span class="faint">{of}" budget"</span></p> }.into_any()
        }
        None => view! { <p><span class="big num">{format::file_size(used)}</span>" "<span class="faint">"no budget set"</span></p> }.into_any(),
    };
    let width =
        |bytes: u64| total.and_then(|t| format::share(bytes, t)).map(|p| format!("{p:.2}%"));
    let left = disk.budget_bytes.map(|b| b.saturating_sub(used));
    let line = |class: &'static str, name: &'static str, bytes: u64| {
        view! { <li><i class=format!("swatch {class}")></i>{name}<b class="num">{format::file_size(bytes)}</b></li> }
    };
    let spoken = format!(
        "Installed {}, partial downloads {}",
        format::file_size(disk.installed_bytes),
        format::file_size(disk.partial_bytes)
    );
    let piece = |class: &'static str, bytes: u64| {
        (bytes > 0).then(|| view! { <b class=class style:width=width(bytes)></b> })
    };
    view! {
        {headline}
        <div class="stackbar stackbar--lg" role="img" aria-label=spoken>
            {piece("c1", disk.installed_bytes)}{piece("hatch-c1", disk.partial_bytes)}
        </div>
        <ul class="memlist">
            {line("c1", "Installed", disk.installed_bytes)}
            {(disk.partial_bytes > 0).then(|| line("hatch-c1", "Downloading", disk.partial_bytes))}
            {left.map(|left| line("c0", "Left in budget", left))}
        </ul>
    }
    .into_any()
}

/// The budget, changed in its place.
#[component]
fn Budget(disk: Derived<Option<DiskUse>>) -> impl IntoView {
    let editing = RwSignal::new(false);
    let budget = move || disk.get().and_then(|d| d.budget_bytes);
    move || {
        if editing.get() {
            return view! { <BudgetForm budget=budget() editing/> }.into_any();
        }
        let (rule, word) = match budget() {
            Some(_) => ("When the budget is full, pulls stop and ask.", "Change"),
            None => ("Pulls stop when the disk is nearly full.", "Set a budget"),
        };
        view! {
            <p class="hint">
                {rule}" Nothing is removed by itself. "
                <button class="linkbtn" type="button" on:click=move |_| editing.set(true)>{word}</button>
            </p>
        }
        .into_any()
    }
}

#[component]
fn BudgetForm(budget: Option<u64>, editing: RwSignal<bool>) -> impl IntoView {
    let app = use_app();
    let wrong = RwSignal::new(false);
    let field = NodeRef::<html::Input>::new();
    Effect::new(move |_| {
        if let Some(field) = field.get() {
            // Focus can only fail on an element that is gone.
            let _ = field.focus();
            field.select();
        }
    });
    let save = move |event: ev::SubmitEvent| {
        event.prevent_default();
        let typed = field.get_untracked().map(|f| f.value()).unwrap_or_default();
        let Some(bytes) = format::bytes_typed(&typed, GB) else {
            wrong.set(true);
            return;
        };
        editing.set(false);
        app.patch_settings(SettingsPatch { disk_budget_bytes: Some(bytes), ..Default::default() });
    };
    let escape = move |event: ev::KeyboardEvent| {
        if event.key() == "Escape" {
            event.stop_propagation();
            editing.set(false);
        }
    };
    let note = move || {
        if wrong.get() { "A number of gigabytes, such as 120" } else { "Empty: no limit." }
    };
    view! {
        <form class="stack" on:submit=save on:keydown=escape>
            <div class="row">
                <span class="input-unit grow">
                    <input
                        class="input input--sm"
                        id="disk-budget"
                        inputmode="decimal"
                        aria-label="Disk budget for models"
                        placeholder="no limit"
                        value=budget.map(|b| format::amount(b, GB))
                        aria-invalid=move || wrong.get().then_some("true")
                        node_ref=field
                    />
                    <span>"GB"</span>
                </span>
                <button class="btn btn--sm" type="submit"><span>"Set"</span></button>
                <button class="btn btn--sm btn--ghost" type="button" on:click=move |_| editing.set(false)><span>"Keep"</span></button>
            </div>
            <p class="hint" class:hint--bad=move || wrong.get() role="status">{note}</p>
        </form>
    }
}
