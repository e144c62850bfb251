//! The command palette: type a few letters, press Enter.

use agent_api::models::InstalledModel;
use leptos::{ev, html, prelude::*};

use crate::{
    app::{App, use_app},
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    keyboard,
    route::{self, Panel},
    state::Link,
    tasks::board::Group,
    theme::Theme,
    words,
};

/// Something the palette can do.
#[derive(Clone)]
struct Entry {
    icon: Icon,
    label: String,
    keys: &'static str,
    run: Callback<()>,
}

fn entries(app: App) -> Vec<Entry> {
    let mut list: Vec<Entry> = Panel::ALL
        .into_iter()
        .zip(["1", "2", "3", "4", "5", "6"])
        .map(|(panel, keys)| Entry {
            icon: panel.icon(),
            label: panel.title().into(),
            keys,
            run: Callback::new(move |()| app.open(panel)),
        })
        .collect();
    let mut add = |icon, label: &str, keys, run: Callback<()>| {
        list.push(Entry { icon, label: label.into(), keys, run })
    };
    if app.state.with_untracked(|s| s.link == Link::Live) {
        if app.paused() {
            add(Icon::Play, "Resume this node", "P", Callback::new(move |()| app.resume()));
        } else {
            add(
                Icon::Pause,
                "Pause until you resume",
                "P",
                Callback::new(move |()| app.pause(None)),
            );
        }
        for hours in [1, 3, 6, 12] {
            let label = format!("Pause for {}", crate::format::counted(hours, "hour", "hours"));
            add(Icon::Clock, &label, "", Callback::new(move |()| app.pause(Some(hours * 3_600))));
        }
        let can_answer =
            |m: &InstalledModel| !m.active && m.problem.is_none() && !words::model::only_embeds(m);
        for model in app.library.models().into_iter().filter(can_answer) {
            let label = format!("Swap to {}", model.name);
            add(Icon::Swap, &label, "", Callback::new(move |()| app.ask_to_swap(model.id.clone())));
        }
        let ask_for_name = move |()| {
            app.open(Panel::Models);
            app.library.pull.set(Some(String::new()));
        };
        add(Icon::Download, "Pull a model by name or URL", "", Callback::new(ask_for_name));
        add(Icon::Tasks, "Submit a task", "N", Callback::new(move |()| app.new_task()));
        let schedules = move |()| app.go(route::SCHEDULES);
        add(Icon::Clock, "Schedules of tasks", "", Callback::new(schedules));
        let failed = move |()| {
            app.filter_tasks(|f| f.group = Some(Group::Failed));
            app.open(Panel::Tasks);
        };
        add(Icon::Error, "Failed tasks", "", Callback::new(failed));
        if app.mesh.on(app) {
            let invite = move |()| app.mesh.invite.set(true);
            add(Icon::Plus, "Invite a computer to this mesh", "", Callback::new(invite));
            let join = move |()| app.mesh.join.set(true);
            add(Icon::Ticket, "Join a mesh by its ticket", "", Callback::new(join));
            let look = move |()| app.look_for_peers();
            add(Icon::Refresh, "Look for peers now", "", Callback::new(look));
        }
    } else {
        add(
            Icon::Refresh,
            "Try to reach the node now",
            "",
            Callback::new(move |()| app.retry_now()),
        );
    }
    add(Icon::Chat, "Ask", "/", Callback::new(move |()| app.focus_ask()));
    add(
        Icon::Plus,
        "New conversation",
        "",
        Callback::new(move |()| {
            app.chat.forget();
            app.focus_ask();
        }),
    );
    for (theme, icon) in Theme::ALL.into_iter().zip([Icon::Auto, Icon::Sun, Icon::Moon]) {
        add(
            icon,
            &format!("Theme: {}", theme.label().to_lowercase()),
            "",
            Callback::new(move |()| app.set_theme(theme)),
        );
    }
    add(
        Icon::Keyboard,
        "Keyboard shortcuts",
        "?",
        Callback::new(move |()| app.shortcuts.set(true)),
    );
    list
}

/// Every word of what was typed is somewhere in the label.
fn matches(label: &str, typed: &str) -> bool {
    let label = label.to_lowercase();
    typed.to_lowercase().split_whitespace().all(|word| label.contains(word))
}

#[component]
pub(super) fn Palette() -> impl IntoView {
    let app = use_app();
    Effect::new(move |_| {
        if app.palette.get() && app.state.with_untracked(|s| s.link == Link::Live) {
            app.load_models();
        }
    });
    view! {
        <Dialog open=app.palette on_close=move |()| app.palette.set(false) title="Jump to" bare=true class="palette">
            <Search/>
        </Dialog>
    }
}

#[component]
fn Search() -> impl IntoView {
    let app = use_app();
    let typed = RwSignal::new(String::new());
    let chosen = RwSignal::new(0_usize);
    let all = Memo::new_with_compare(move |_| entries(app), |_, _| true);
    let found = Signal::derive(move || {
        all.with(|all| {
            all.iter().filter(|e| typed.with(|t| matches(&e.label, t))).cloned().collect::<Vec<_>>()
        })
    });
    let run = move |entry: Entry| {
        app.palette.set(false);
        entry.run.run(());
    };
    let keys = move |event: ev::KeyboardEvent| {
        let list = found.get_untracked();
        if event.key() == "Enter" {
            event.prevent_default();
            if let Some(entry) = list.get(chosen.get_untracked()) {
                run(entry.clone());
            }
        } else if let Some(next) = keyboard::moved(&event.key(), chosen.get_untracked(), list.len())
            && !matches!(event.key().as_str(), "Home" | "End")
        {
            event.prevent_default();
            chosen.set(next);
            if let Some(row) = document().get_element_by_id(&format!("cmd-{next}")) {
                let options = web_sys::ScrollIntoViewOptions::new();
                options.set_block(web_sys::ScrollLogicalPosition::Nearest);
                row.scroll_into_view_with_scroll_into_view_options(&options);
            }
        }
    };
    let field = NodeRef::<html::Input>::new();
    Effect::new(move |_| {
        if let Some(field) = field.get() {
            let _ = field.focus();
        }
    });
    let rows = move || {
        let list = found.get();
        if list.is_empty() {
            return view! { <li class="faint">"Nothing by that name"</li> }.into_any();
        }
        list.into_iter()
            .enumerate()
            .map(|(place, entry)| {
                let on = move || chosen.get() == place;
                let (glyph, label, keys) = (icon(entry.icon), entry.label.clone(), entry.keys);
                view! {
                    <li
                        id=format!("cmd-{place}")
                        role="option"
                        class:on=on
                        aria-selected=move || on().to_string()
                        on:pointermove=move |_| chosen.set(place)
                        on:click=move |_| run(entry.clone())
                    >
                        {glyph}<span class="trunc">{label}</span>
                        <span class="push">{(!keys.is_empty()).then(|| view! { <kbd>{keys}</kbd> })}</span>
                    </li>
                }
            })
            .collect_view()
            .into_any()
    };
    view! {
        <div class="palette-in">
            {icon(Icon::Search)}
            <input
                id="palette-input"
                type="text"
                role="combobox"
                aria-label="Panel or action"
                aria-expanded="true"
                aria-controls="palette-list"
                aria-activedescendant=move || format!("cmd-{}", chosen.get())
                placeholder="Panel or action"
                autocomplete="off"
                spellcheck="false"
                node_ref=field
                on:keydown=keys
                on:input=move |event| {
                    typed.set(event_target_value(&event));
                    chosen.set(0);
                }
            />
            <kbd>"Esc"</kbd>
        </div>
        <ul class="palette-list" id="palette-list" role="listbox" aria-label="Panels and actions">{rows}</ul>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_typed_word_must_match() {
        assert!(matches("Pause for 3 hours", "pau 3"));
        assert!(matches("Models", ""));
        assert!(!matches("Pause for 3 hours", "resume"));
    }
}
