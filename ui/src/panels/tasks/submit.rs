//! The dialog of a new task: what is to be done, by whom, and when.

mod fields;
mod more;

use agent_api::tasks::{Privacy, TaskKind};
use leptos::{ev, prelude::*};

use self::fields::{Text, choice, kind_fields};
use crate::{
    app::{App, use_app},
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    derived::derived,
    words::task as words,
};

#[component]
pub(super) fn SubmitTask() -> impl IntoView {
    let app = use_app();
    let open = app.tasks.submit;
    Effect::new(move |_| {
        if open.get() {
            // For the choice of models.
            app.load_models();
            if !app.state.with_untracked(|s| s.peers.loaded()) {
                app.load_peers();
            }
        }
    });
    view! {
        <Dialog open on_close=move |()| open.set(false) title="Submit a task" class="dialog-task">
            <Form/>
        </Dialog>
    }
}

#[component]
fn Form() -> impl IntoView {
    let app = use_app();
    let view = app.tasks;
    let kind = derived(move || view.draft.with(|d| d.kind));
    let repeats = derived(move || view.draft.with(|d| d.repeats));
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        app.submit_task();
    };
    let keys = move |event: ev::KeyboardEvent| {
        if event.key() == "Enter" && (event.ctrl_key() || event.meta_key()) {
            event.prevent_default();
            if view.draft.with_untracked(crate::tasks::draft::Draft::ready) {
                app.submit_task();
            }
        }
    };
    let option = move |this: TaskKind| {
        let choose = move |_| {
            view.refusals.set(Vec::new());
            view.draft.update(|d| d.kind = this);
        };
        view! {
            <label data-kind=this.as_str()>
                <input type="radio" name="task-new-kind" prop:checked=move || kind.get() == this on:change=choose/>
                <span>{icon(words::kind_icon(this))}{words::kind_title(this)}</span>
            </label>
        }
    };
    let off = move || view.busy.get() || view.draft.with(|d| !d.ready());
    let verb = move || if repeats.get() { "Schedule" } else { "Submit" };
    view! {
        <form class="dialog-form" id="task-form" on:submit=submit on:keydown=keys>
            <div class="dialog-body">
                {move || refused(app)}
                <div class="seg start" role="radiogroup" aria-label="Kind">{TaskKind::ALL.map(option).into_iter().collect_view()}</div>
                {move || kind_fields(app, kind.get())}
                <div class="grid2">
                    {privacy(app)}
                    {choice(app, "task-node", "On node", nodes(app), |d| &mut d.node)}
                </div>
                {move || reader(app)}
                <more::Repeat/>
                <more::More/>
            </div>
            <div class="dialog-foot">
                <span class="small faint">{move || if repeats.get() { "Each run is a task of its own." } else { "Kept with its result until the settings say otherwise." }}</span>
                <div class="push">
                    <button class="btn" type="button" on:click=move |_| view.submit.set(false)><span>"Cancel"</span></button>
                    <button class="btn btn--primary" type="submit" id="task-send" title="Ctrl Enter" aria-busy=move || view.busy.get().to_string() disabled=off>
                        <span>{verb}</span>
                    </button>
                </div>
            </div>
        </form>
    }
}

/// Everything that was wrong, at the top.
fn refused(app: App) -> Option<AnyView> {
    let problems = app.tasks.refusals.get();
    if problems.is_empty() {
        return None;
    }
    let title = if problems.len() == 1 {
        "It was not submitted"
    } else {
        "It was not submitted, for several reasons"
    };
    let rows = problems.into_iter().map(|p| view! { <li>{p}</li> }).collect_view();
    let view = view! {
        <div class="banner banner--danger refused" id="task-refused" role="alert" tabindex="-1">
            {icon(Icon::Error)}<div><b>{title}</b><ul>{rows}</ul></div>
        </div>
    };
    Some(view.into_any())
}

fn privacy_in_force(app: App) -> Privacy {
    let usual = app.state.with(|s| s.settings.as_ref().map(|s| s.tasks.privacy));
    app.tasks.draft.with(|d| d.privacy).or(usual).unwrap_or_default()
}

fn privacy(app: App) -> AnyView {
    let now = privacy_in_force(app);
    let options = words::PRIVACIES.map(|(privacy, word)| {
        view! { <option value=word selected=privacy == now>{words::privacy_title(privacy)}</option> }
    });
    let choose = move |event| {
        let privacy = words::privacy_of(&event_target_value(&event));
        app.tasks.draft.update(|d| d.privacy = privacy);
    };
    view! {
        <div class="field">
            <label for="task-privacy">"Who may run it"</label>
            <select class="select" id="task-privacy" on:change=choose>{options.into_iter().collect_view()}</select>
        </div>
    }
    .into_any()
}

/// Who can read the prompt, in a sentence.
fn reader(app: App) -> AnyView {
    let privacy = privacy_in_force(app);
    let glyph = if privacy == Privacy::ThisNode { Icon::Lock } else { Icon::Eye };
    view! {
        <div class="banner banner--note" id="task-reader">{icon(glyph)}<p>{words::privacy_about(privacy)}</p></div>
    }
    .into_any()
}

/// Nodes that take work, to pin the task to one; the usual answer is none.
fn nodes(app: App) -> Signal<Vec<(String, String)>> {
    let own = app.part(|s| (s.node.node_id.0.clone(), s.node.name.clone()));
    let all = derived(move || {
        let mut all = vec![(String::new(), "Whoever is soonest".to_owned())];
        all.extend(own.get().map(|(id, name)| (id, format!("{name} (this node)"))));
        app.state.with(|s| {
            let takes = |p: &&agent_api::mesh::Peer| {
                p.announcement.as_ref().is_some_and(|a| !a.accepts.is_empty()) && p.connected
            };
            let mut peers: Vec<_> = s.peers.iter().filter(takes).collect();
            peers.sort_by(|a, b| a.name.cmp(&b.name));
            all.extend(peers.iter().take(100).map(|p| (p.node_id.0.clone(), p.name.clone())));
        });
        all
    });
    all.into()
}

/// A field of one line, for what may be left out.
fn small(id: &'static str, label: &'static str, hint: &'static str, part: Text) -> AnyView {
    fields::line(crate::app::use_app(), id, label, hint, part)
}
