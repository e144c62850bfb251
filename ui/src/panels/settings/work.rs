//! Work for others: what this node does for the mesh, how much of it, and who may see the owner's
//! own prompts.

use std::collections::BTreeMap;

use agent_api::{
    NodeId, Settings,
    settings::SettingsPatch,
    tasks::{TaskKind, TaskSettings, TaskSettingsPatch},
};
use leptos::prelude::*;

use super::{
    View,
    row::{NumberRow, Saved, SelectRow, SwitchRow, known, note, save},
};
use crate::{
    app::use_app,
    components::icon::{Icon, icon},
    derived::derived,
    words::task as words,
};

/// A share that nobody set, as the node has it.
const USUAL_WEIGHT: u32 = 10;
/// Nodes with a share of their own.
const MAX_WEIGHTS: usize = 32;

fn tasks(tasks: TaskSettingsPatch) -> SettingsPatch {
    SettingsPatch { tasks: Some(tasks), ..SettingsPatch::default() }
}

fn none() -> TaskSettingsPatch {
    TaskSettingsPatch::default()
}

#[component]
pub(super) fn Work(view: View) -> impl IntoView {
    let privacies =
        words::PRIVACIES.map(|(p, word)| (word.to_owned(), words::privacy_title(p).to_owned()));
    let about = move || {
        known(view)
            .map(|v| words::privacy_about(v.settings.tasks.privacy).to_owned())
            .unwrap_or_default()
    };
    view! {
        <section class="card">
            <div class="sets">
                <SwitchRow
                    view
                    field="tasks.accept"
                    label="Do work for other nodes"
                    hint="Your own requests always go first. Pausing the node pauses this as well."
                    read=|s| s.tasks.accept
                    patch=|v| tasks(TaskSettingsPatch { accept: Some(v), ..none() })
                />
                <Kinds view/>
            </div>
        </section>
        {limits(view)}
        <Weights view/>
        <section class="card">
            <div class="card-head card-head--line"><h3 class="h-card">"Your own tasks"</h3></div>
            <div class="sets">
                <SelectRow
                    view
                    field="tasks.privacy"
                    label="Who may run them"
                    hint=Signal::derive(about)
                    options=privacies.into()
                    read=|s| words::privacy_word(s.tasks.privacy).to_owned()
                    patch=|v| Some(tasks(TaskSettingsPatch { privacy: Some(words::privacy_of(v)?), ..none() }))
                />
                <NumberRow
                    view
                    field="tasks.keep_days"
                    label="Keep ended tasks"
                    hint="With their inputs and results, on this computer only."
                    unit="days"
                    min=1
                    max=365
                    read=|s| Some(s.tasks.keep_days)
                    patch=|v| tasks(TaskSettingsPatch { keep_days: Some(v), ..none() })
                />
            </div>
        </section>
    }
}

fn limits(view: View) -> impl IntoView {
    view! {
        <section class="card">
            <div class="card-head card-head--line"><h3 class="h-card">"How much"</h3></div>
            <div class="sets">
                <NumberRow
                    view
                    field="tasks.concurrency"
                    label="Others’ tasks at a time"
                    hint="Empty: as many as the model has slots, and half of the cores for programs."
                    unit=""
                    min=0
                    max=256
                    read=|s| s.tasks.concurrency
                    patch=|v| tasks(TaskSettingsPatch { concurrency: Some(v), ..none() })
                />
                <NumberRow
                    view
                    field="tasks.waiting"
                    label="Others’ tasks that may wait"
                    hint="More are refused at once, and their owners ask elsewhere."
                    unit=""
                    min=0
                    max=1_000
                    read=|s| Some(s.tasks.waiting)
                    patch=|v| tasks(TaskSettingsPatch { waiting: Some(v), ..none() })
                />
                <NumberRow
                    view
                    field="tasks.per_peer"
                    label="Of one node"
                    hint="Waiting and running together, so that nobody fills the queue alone."
                    unit=""
                    min=1
                    max=1_000
                    read=|s| Some(s.tasks.per_peer)
                    patch=|v| tasks(TaskSettingsPatch { per_peer: Some(v), ..none() })
                />
            </div>
        </section>
    }
}

/// The kinds with one turned on or off, in their usual order.
fn toggled(settings: &TaskSettings, kind: TaskKind) -> Vec<TaskKind> {
    let had = settings.kinds.contains(&kind);
    TaskKind::ALL
        .into_iter()
        .filter(|k| if *k == kind { !had } else { settings.kinds.contains(k) })
        .collect()
}

#[component]
fn Kinds(view: View) -> impl IntoView {
    const FIELD: &str = "tasks.kinds";
    let saved = RwSignal::new(Saved::default());
    let kinds = derived(move || known(view).map(|v| v.settings.tasks.kinds).unwrap_or_default());
    let chip = move |kind: TaskKind| {
        let on = move || kinds.with(|k| k.contains(&kind)).to_string();
        let click = move |_| {
            if let Some(view_now) = known(view) {
                let kinds = toggled(&view_now.settings.tasks, kind);
                save(view, FIELD, tasks(TaskSettingsPatch { kinds: Some(kinds), ..none() }), saved);
            }
        };
        view! { <button class="chip" type="button" aria-pressed=on data-kind=kind.as_str() on:click=click>{words::kind_title(kind)}</button> }
    };
    view! {
        <div class="set">
            <div class="set-t">
                <span class="set-l">"Kinds"</span>
                <p class="hint">"WASM and code run in a sandbox without files and network."</p>
                <div role="status">{note(view, FIELD, saved)}</div>
            </div>
            <div class="set-c kindset" role="group" aria-label="Kinds">{TaskKind::ALL.map(chip).into_iter().collect_view()}</div>
        </div>
    }
}

fn weights(settings: &Settings) -> BTreeMap<NodeId, u32> {
    settings.tasks.weights.clone()
}

/// Shares of nodes while several wait.
#[component]
fn Weights(view: View) -> impl IntoView {
    const FIELD: &str = "tasks.weights";
    let app = use_app();
    let saved = RwSignal::new(Saved::default());
    let live = app.live();
    Effect::new(move |_| {
        if live.get() && !app.state.with_untracked(|s| s.peers.loaded()) {
            app.load_peers();
        }
    });
    let all = derived(move || known(view).map(|v| weights(&v.settings)).unwrap_or_default());
    let name = move |id: &NodeId| {
        let named = app.state.with(|s| s.peers.get(id).map(|p| p.name.clone()));
        named.unwrap_or_else(|| id.fmt_short().to_owned())
    };
    let send = move |new: BTreeMap<NodeId, u32>| {
        save(view, FIELD, tasks(TaskSettingsPatch { weights: Some(new), ..none() }), saved);
    };
    let row = move |(id, weight): (NodeId, u32)| {
        let (changed, removed) = (id.clone(), id.clone());
        let change = move |event| {
            let mut new = all.get_untracked();
            match event_target_value(&event).trim().parse::<u32>() {
                Ok(weight) if (1..=100).contains(&weight) => {
                    new.insert(changed.clone(), weight);
                    send(new);
                }
                _ => {
                    saved.set(Saved::Failed("a share is a whole number from 1 to 100".into()));
                    view.update(|_| {});
                }
            }
        };
        let remove = move |_| {
            let mut new = all.get_untracked();
            new.remove(&removed);
            send(new);
        };
        let shown = name(&id);
        let (label, gone) = (format!("Share of {shown}"), format!("Remove {shown}"));
        view! {
            <li>
                <span class="trunc grow" title=id.0.clone()>{shown}</span>
                <input class="input input--sm set-share" type="text" inputmode="numeric" aria-label=label prop:value=weight.to_string() on:change=change/>
                <button class="ibtn ibtn--sm" type="button" aria-label=gone.clone() title=gone on:click=remove>{icon(Icon::X)}</button>
            </li>
        }
    };
    let others = derived(move || {
        let taken = all.get();
        app.state.with(|s| {
            let free = |p: &&agent_api::mesh::Peer| {
                !taken.contains_key(&p.node_id) && (p.connected || p.trusted)
            };
            let mut free: Vec<_> = s
                .peers
                .iter()
                .filter(free)
                .map(|p| (p.node_id.0.clone(), p.name.clone()))
                .collect();
            free.sort_by(|a, b| a.1.cmp(&b.1));
            free.truncate(200);
            free
        })
    });
    let add = move |event: leptos::ev::Event| {
        let id = event_target_value(&event);
        // It is a button, not a value: the next one is added with it, too.
        event_target::<web_sys::HtmlSelectElement>(&event).set_value("");
        if !id.is_empty() {
            let mut new = all.get_untracked();
            new.insert(NodeId(id), USUAL_WEIGHT * 2);
            send(new);
        }
    };
    let options = move || {
        others
            .get()
            .into_iter()
            .map(|(id, name)| view! { <option value=id>{name}</option> })
            .collect_view()
    };
    view! {
        <section class="card">
            <div class="set set--list">
                <div class="set-t">
                    <label for="set-weights">"Shares"</label>
                    <p class="hint">"While several nodes wait, one with a share of 20 gets twice as much done as one with 10. Every node has 10 unless you say otherwise."</p>
                    <div role="status">{note(view, FIELD, saved)}</div>
                </div>
                <div class="set-c">
                    <ul class="setlist">{move || all.get().into_iter().map(row).collect_view()}</ul>
                    <Show when=move || all.with(BTreeMap::len) < MAX_WEIGHTS>
                        <select class="select" id="set-weights" on:change=add>
                            <option value="" selected=true>"Add a node"</option>{options}
                        </select>
                    </Show>
                </div>
            </div>
        </section>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_turned_off_and_on_again_in_its_place() {
        let mut settings = TaskSettings::default();
        settings.kinds = toggled(&settings, TaskKind::Embedding);
        assert!(!settings.kinds.contains(&TaskKind::Embedding));
        assert_eq!(toggled(&settings, TaskKind::Embedding), TaskKind::ALL);
    }
}
