//! Rows of the settings: a label, a field, and what became of the last change.

use agent_api::{
    Settings,
    endpoint::PatchSettings,
    settings::{SettingsPatch, SettingsView},
};
use leptos::{html, prelude::*, task::spawn_local};

use super::View;
use crate::{
    backend,
    components::icon::{Icon, icon},
    derived::derived,
    format,
};

/// What became of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Saved {
    #[default]
    Untouched,
    Saving,
    Live,
    AfterRestart,
    Failed(String),
}

impl Saved {
    fn of(view: &SettingsView, field: &str) -> Self {
        if view.after_restart.iter().any(|f| f == field) { Self::AfterRestart } else { Self::Live }
    }
}

pub(super) fn known(view: View) -> Option<SettingsView> {
    view.with(|v| v.as_ref()?.as_ref().ok().cloned())
}

/// The note of a row: of the last change made here, else of one that still waits.
pub(super) fn note(
    view: View,
    field: &'static str,
    saved: RwSignal<Saved>,
) -> impl Fn() -> Option<AnyView> {
    move || {
        let mut saved = saved.get();
        if saved == Saved::Untouched
            && known(view).is_some_and(|v| Saved::of(&v, field) == Saved::AfterRestart)
        {
            saved = Saved::AfterRestart;
        }
        let (class, glyph, text) = match saved {
            Saved::Untouched => return None,
            Saved::Saving => ("saved faint", Icon::Refresh, "Saving".into()),
            Saved::Live => ("saved", Icon::Check, "Saved, live".into()),
            Saved::AfterRestart => {
                ("saved warn", Icon::Clock, "Saved, applies when the node starts again".into())
            }
            Saved::Failed(why) => ("saved bad", Icon::Error, format!("Not saved: {why}")),
        };
        Some(view! { <span class=class>{icon(glyph)}<span>{text}</span></span> }.into_any())
    }
}

/// Sends the change; the answer, or on failure the old value, is what the row then shows.
pub(super) fn save(view: View, field: &'static str, patch: SettingsPatch, saved: RwSignal<Saved>) {
    saved.set(Saved::Saving);
    spawn_local(async move {
        match backend::call(PatchSettings, &patch).await {
            Ok(new) => {
                saved.set(Saved::of(&new, field));
                view.set(Some(Ok(new)));
            }
            Err(error) => {
                saved.set(Saved::Failed(error.to_string()));
                // Fields show the signal's value again, although it has not changed.
                view.update(|_| {});
            }
        }
    });
}

#[component]
pub(super) fn Row(
    field: &'static str,
    label: &'static str,
    #[prop(into)] hint: Signal<String>,
    view: View,
    saved: RwSignal<Saved>,
    children: Children,
) -> impl IntoView {
    view! {
        <div class="set">
            <div class="set-t">
                <label for=format!("set-{field}")>{label}</label>
                <p class="hint">{hint}</p>
                <div role="status">{note(view, field, saved)}</div>
            </div>
            <div class="set-c">{children()}</div>
        </div>
    }
}

#[component]
pub(super) fn TextRow(
    view: View,
    field: &'static str,
    label: &'static str,
    hint: &'static str,
    /// Shown in an empty field.
    #[prop(optional)]
    empty: &'static str,
    read: fn(&Settings) -> String,
    patch: fn(String) -> SettingsPatch,
) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    let value = move || known(view).map(|v| read(&v.settings)).unwrap_or_default();
    let change = move |event| {
        let typed = event_target_value(&event).trim().to_owned();
        if typed != value() {
            save(view, field, patch(typed), saved);
        }
    };
    view! {
        <Row field label hint view saved>
            <input
                class="input set-w"
                id=format!("set-{field}")
                type="text"
                spellcheck="false"
                placeholder=empty
                prop:value=value
                on:change=change
            />
        </Row>
    }
}

#[component]
pub(super) fn NumberRow(
    view: View,
    field: &'static str,
    label: &'static str,
    hint: &'static str,
    unit: &'static str,
    /// Smallest value the field offers; 0 also stands for an empty field.
    min: u32,
    #[prop(default = u32::MAX)] max: u32,
    read: fn(&Settings) -> Option<u32>,
    patch: fn(u32) -> SettingsPatch,
) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    let number = move || known(view).and_then(|v| read(&v.settings));
    let value = move || number().map(|n| n.to_string()).unwrap_or_default();
    let change = move |event| {
        let typed = event_target_value(&event);
        let typed = typed.trim();
        if typed == value() {
            return;
        }
        match typed.parse() {
            Ok(n) if n <= max => save(view, field, patch(n), saved),
            Ok(_) => {
                saved.set(Saved::Failed(format!("{max} is the largest")));
                view.update(|_| {});
            }
            Err(_) if typed.is_empty() && min == 0 => save(view, field, patch(0), saved),
            Err(_) => {
                saved.set(Saved::Failed("it must be a whole number".into()));
                view.update(|_| {});
            }
        }
    };
    view! {
        <Row field label hint view saved>
            <span class="input-unit">
                <input
                    class="input set-n"
                    id=format!("set-{field}")
                    type="text"
                    inputmode="numeric"
                    placeholder=(min == 0).then_some("automatic")
                    prop:value=value
                    on:change=change
                />
                <span>{unit}</span>
            </span>
        </Row>
    }
}

#[component]
pub(super) fn SwitchRow(
    view: View,
    field: &'static str,
    label: &'static str,
    hint: &'static str,
    read: fn(&Settings) -> bool,
    patch: fn(bool) -> SettingsPatch,
) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    let on = move || known(view).is_some_and(|v| read(&v.settings));
    view! {
        <Row field label hint view saved>
            <input
                class="switch"
                type="checkbox"
                role="switch"
                id=format!("set-{field}")
                prop:checked=on
                on:change=move |event| save(view, field, patch(event_target_checked(&event)), saved)
            />
        </Row>
    }
}

/// One of a few values; a value that is not among them is offered as it is.
#[component]
pub(super) fn SelectRow(
    view: View,
    field: &'static str,
    label: &'static str,
    #[prop(into)] hint: Signal<String>,
    /// Values as the form sends them, and their names.
    options: Vec<(String, String)>,
    read: fn(&Settings) -> String,
    /// `None`: the value is not one.
    patch: fn(&str) -> Option<SettingsPatch>,
) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    let value = move || known(view).map(|v| read(&v.settings)).unwrap_or_default();
    let change = move |event| {
        if let Some(patch) = patch(&event_target_value(&event)) {
            save(view, field, patch, saved);
        }
    };
    let offered: Vec<String> = options.iter().map(|(value, _)| value.clone()).collect();
    let options = options
        .into_iter()
        .map(|(option, name)| {
            let this = option.clone();
            view! { <option value=option prop:selected=move || value() == this>{name}</option> }
        })
        .collect_view();
    let other = move || {
        let value = value();
        (!value.is_empty() && !offered.contains(&value)).then(|| {
            view! { <option value=value.clone() selected=true>{value.clone()}</option> }
        })
    };
    view! {
        <Row field label hint view saved>
            <select class="select select--auto" id=format!("set-{field}") on:change=change>{options}{other}</select>
        </Row>
    }
}

/// A few texts, as addresses: each can be removed, and one added.
#[component]
pub(super) fn ListRow(
    view: View,
    field: &'static str,
    label: &'static str,
    #[prop(into)] hint: Signal<String>,
    /// Shown in the empty field.
    example: &'static str,
    /// More cannot be added.
    most: usize,
    read: fn(&Settings) -> Vec<String>,
    patch: fn(Vec<String>) -> SettingsPatch,
) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    let list = derived(move || known(view).map(|v| read(&v.settings)).unwrap_or_default());
    let typed = NodeRef::<html::Input>::new();
    let submit = move |event: leptos::ev::SubmitEvent| {
        event.prevent_default();
        let Some(input) = typed.get_untracked() else { return };
        let text = input.value().trim().to_owned();
        let mut all = list.get_untracked();
        if text.is_empty() || all.contains(&text) {
            return;
        }
        all.push(text);
        save(view, field, patch(all), saved);
    };
    // What was refused stays in the field to be corrected.
    Effect::new(move |before: Option<Vec<String>>| {
        let now = list.get();
        if before.is_some_and(|b| b.len() < now.len())
            && let Some(input) = typed.get_untracked()
        {
            input.set_value("");
        }
        now
    });
    let row = move |text: String| {
        let shown = text.clone();
        let name = format!("Remove {text}");
        let remove = move |_| {
            let mut all = list.get_untracked();
            all.retain(|other| *other != text);
            save(view, field, patch(all), saved);
        };
        view! {
            <li>
                <code class="path trunc grow">{shown}</code>
                <button class="ibtn ibtn--sm" type="button" aria-label=name.clone() title=name on:click=remove>{icon(Icon::X)}</button>
            </li>
        }
    };
    view! {
        <div class="set set--list">
            <div class="set-t">
                <label for=format!("set-{field}")>{label}</label>
                <p class="hint">{hint}</p>
                <div role="status">{note(view, field, saved)}</div>
            </div>
            <div class="set-c">
                <ul class="setlist">{move || list.get().into_iter().map(row).collect_view()}</ul>
                <Show when=move || list.with(Vec::len) < most>
                    <form class="row" on:submit=submit>
                        <input class="input grow" id=format!("set-{field}") type="text" spellcheck="false" autocomplete="off"
                            placeholder=example node_ref=typed/>
                        <button class="btn btn--sm" type="submit"><span>"Add"</span></button>
                    </form>
                </Show>
            </div>
        </div>
    }
}

/// An amount of bytes, typed in GB; an empty field is `None`.
#[component]
pub(super) fn SizeRow(
    view: View,
    field: &'static str,
    label: &'static str,
    #[prop(into)] hint: Signal<String>,
    unit: &'static str,
    /// Bytes of one unit.
    scale: u64,
    /// Shown in an empty field.
    empty: &'static str,
    read: fn(&Settings) -> Option<u64>,
    patch: fn(u64) -> SettingsPatch,
) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    let value = move || {
        let bytes = known(view).and_then(|v| read(&v.settings));
        bytes.map(|b| format::amount(b, scale)).unwrap_or_default()
    };
    let change = move |event| {
        let typed = event_target_value(&event);
        if typed.trim() == value() {
            return;
        }
        match format::bytes_typed(&typed, scale) {
            Some(bytes) => save(view, field, patch(bytes), saved),
            None => {
                saved.set(Saved::Failed(format!("it must be a number of {unit}")));
                // The field shows the value in force again.
                view.update(|_| {});
            }
        }
    };
    view! {
        <Row field label hint view saved>
            <span class="input-unit">
                <input
                    class="input set-n"
                    id=format!("set-{field}")
                    type="text"
                    inputmode="decimal"
                    placeholder=empty
                    prop:value=value
                    on:change=change
                />
                <span>{unit}</span>
            </span>
        </Row>
    }
}

/// The API key goes in and never comes back: only whether one is set is known.
#[component]
pub(super) fn KeyRow(view: View) -> impl IntoView {
    const FIELD: &str = "api_key";
    let saved = RwSignal::new(Saved::default());
    let typed = NodeRef::<html::Input>::new();
    let set = derived(move || known(view).is_some_and(|v| v.api_key_set));
    let send = move |key: String| {
        save(view, FIELD, SettingsPatch { api_key: Some(key), ..SettingsPatch::default() }, saved);
    };
    let submit = move |event: leptos::ev::SubmitEvent| {
        event.prevent_default();
        if let Some(field) = typed.get_untracked() {
            let key = field.value().trim().to_owned();
            field.set_value("");
            if !key.is_empty() {
                send(key);
            }
        }
    };
    let remove = move || {
        set.get().then(|| {
            view! {
                <button class="btn btn--sm btn--danger-quiet" type="button" on:click=move |_| send(String::new())>
                    <span>"Remove key"</span>
                </button>
            }
        })
    };
    view! {
        <Row field=FIELD label="Key for other computers" hint="Sent by them with every request. It is not shown again." view saved>
            {move || if set.get() {
                view! { <span class="badge badge--ok">{icon(Icon::Check)}"Set"</span> }.into_any()
            } else {
                view! { <span class="badge">"None"</span> }.into_any()
            }}
            {remove}
            <form class="row" on:submit=submit>
                <input
                    class="input set-n"
                    id="set-api_key"
                    type="password"
                    autocomplete="off"
                    placeholder="New key"
                    node_ref=typed
                />
                <button class="btn btn--sm" type="submit"><span>"Set key"</span></button>
            </form>
        </Row>
    }
}
