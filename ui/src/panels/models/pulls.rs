//! Downloads, oldest first: how far, how fast, and what can be done about each.

use agent_api::{
    pull::{Pull, PullState},
    settings::SettingsPatch,
};
use leptos::prelude::*;

use crate::{
    app::use_app,
    components::{
        badge::fit_badge,
        icon::{Icon, icon},
    },
    derived::derived,
    format,
    words::pull as words,
};

/// Offered limits, in MB/s.
const LIMITS: [u64; 6] = [1, 5, 10, 20, 40, 80];
const MB: u64 = 1_000_000;

#[component]
pub(super) fn Pulls() -> impl IntoView {
    let app = use_app();
    let ids = derived(move || {
        app.state.with(|s| s.pulls.iter().map(|p| p.id.clone()).collect::<Vec<_>>())
    });
    let any = move || ids.with(|ids| !ids.is_empty());
    view! {
        <Show when=any>
            <section class="card" aria-labelledby="pulls-title" id="pulls">
                <div class="card-head card-head--line">
                    <h2 id="pulls-title">"Downloads "<span class="count">{move || ids.with(Vec::len)}</span></h2>
                    <span class="push"></span>
                    <Limit/>
                </div>
                <ul class="pulls">
                    <For each=move || ids.get() key=Clone::clone children=|id| view! { <Row id/> }/>
                </ul>
            </section>
        </Show>
    }
}

/// For all downloads together.
#[component]
fn Limit() -> impl IntoView {
    let app = use_app();
    let limit = derived(move || {
        app.state.with(|s| s.settings.as_ref().and_then(|s| s.download_limit)).unwrap_or(0)
    });
    let change = move |event| {
        if let Ok(bytes) = event_target_value(&event).parse() {
            app.patch_settings(SettingsPatch { download_limit: Some(bytes), ..Default::default() });
        }
    };
    let options = move || {
        let mut all: Vec<u64> = LIMITS.iter().map(|mb| mb * MB).collect();
        let now = limit.get();
        if now != 0 && !all.contains(&now) {
            all.push(now);
            all.sort_unstable();
        }
        all.into_iter()
            .map(|bytes| {
                let name = format!("{}/s", format::file_size(bytes).replace(".0", ""));
                view! { <option value=bytes.to_string() selected=bytes == now>{name}</option> }
            })
            .collect_view()
    };
    view! {
        <label class="faint small" for="pull-limit">"Limit"</label>
        <select class="select select--sm select--quiet select--auto" id="pull-limit" on:change=change>
            <option value="0" selected=move || limit.get() == 0>"No limit"</option>
            {options}
        </select>
    }
}

#[component]
fn Row(id: String) -> impl IntoView {
    let app = use_app();
    let wanted = id.clone();
    // A row that is about to go keeps its last content.
    let pull = Memo::new(move |before: Option<&Option<Pull>>| {
        let found = app.state.with(|s| s.pulls.iter().find(|p| p.id == wanted).cloned());
        found.or_else(|| before.cloned().flatten())
    });
    // Its own memo: the elements stay while numbers change, else a button that is being pressed
    // would go away under the finger.
    let known = derived(move || pull.with(Option::is_some));
    move || known.get().then(|| view! { <Lines id=id.clone() pull/> })
}

#[component]
fn Lines(id: String, pull: Memo<Option<Pull>>) -> impl IntoView {
    let app = use_app();
    // Plain functions, so that all of them are one type.
    let text =
        move |read: fn(&Pull) -> Option<String>| move || pull.with(|p| p.as_ref().and_then(read));
    let name = text(|p| Some(p.model.clone()));
    let source = text(words::origin);
    let hint = move || pull.with(|p| p.as_ref().map(words::origin_hint));
    let percent =
        move || pull.with(|p| p.as_ref().and_then(|p| words::percent(p.done_bytes, p.size_bytes)));
    let bar = move || pull.with(|p| p.as_ref().map_or("bar", words::bar));
    let state = move || pull.with(|p| p.as_ref().and_then(|p| words::state(p, app.now.get())));
    let fit = derived(move || pull.with(|p| p.as_ref().and_then(|p| p.fit.clone())));
    let whole = text(|p| {
        let percent = words::percent(p.done_bytes, p.size_bytes)?;
        (p.state != PullState::Done).then(|| format::percent(percent as f64))
    });
    let (amount, speed, left) = (text(words::amount), text(words::speed), text(words::left));
    let figures = move || {
        [whole(), amount(), speed(), left()]
            .into_iter()
            .flatten()
            .map(|text| view! { <span class="num nowrap">{text}</span> })
            .collect_view()
    };
    let state_view = move || {
        state().map(|state| {
            let class = match state.tone {
                crate::words::Tone::Bad => "state bad",
                crate::words::Tone::Attention => "state warn",
                crate::words::Tone::Good => "state ok",
                crate::words::Tone::Busy | crate::words::Tone::Plain => "state",
            };
            view! { <span class=class>{state.icon.map(icon)}<span>{state.text}</span></span> }
        })
    };
    view! {
        <li class="pull" tabindex="-1" data-row data-pull=id>
            <div class="pull-top">
                <span class="strong trunc">{name}</span>
                {move || source().map(|s| view! { <span class="badge badge--line" title=hint>{icon(Icon::Globe)}{s}</span> })}
                <span class="push rowacts"><Act pull/><Cancel pull/></span>
            </div>
            <span
                class=bar
                role="progressbar"
                aria-label=name
                aria-valuemin="0"
                aria-valuemax="100"
                aria-valuenow=move || percent().map(|p| p.to_string())
            >
                <b style:width=move || format!("{}%", percent().unwrap_or(0))></b>
            </span>
            <div class="pull-meta">
                {figures}
                <span class="pull-state" role="status">{state_view}</span>
                <span class="push">{move || fit.get().map(|fit| fit_badge(&fit))}</span>
            </div>
        </li>
    }
}

#[component]
fn Act(pull: Memo<Option<Pull>>) -> impl IntoView {
    let app = use_app();
    let now = derived(move || {
        pull.with(|p| p.as_ref().map(|p| (p.state, p.id.clone(), p.model.clone())))
    });
    let installed = move |model: &str| app.library.model(model).is_some_and(|m| !m.active);
    move || {
        let (state, id, model) = now.get()?;
        let button = |glyph: Icon, word: &'static str, act: Callback<()>| {
            let label = format!("{word}: {model}");
            view! {
                <button class="btn btn--sm" type="button" aria-label=label on:click=move |_| act.run(())>
                    {icon(glyph)}<span>{word}</span>
                </button>
            }
        };
        Some(match state {
            PullState::Queued
            | PullState::Resolving
            | PullState::Downloading
            | PullState::Retrying => {
                button(Icon::Pause, "Pause", Callback::new(move |()| app.pause_pull(id.clone())))
                    .into_any()
            }
            PullState::Paused => {
                button(Icon::Play, "Resume", Callback::new(move |()| app.resume_pull(id.clone())))
                    .into_any()
            }
            PullState::Failed => button(
                Icon::Refresh,
                "Try again",
                Callback::new(move |()| app.resume_pull(id.clone())),
            )
            .into_any(),
            PullState::Done if installed(&model) => {
                let to = model.clone();
                button(
                    Icon::Swap,
                    "Swap to it",
                    Callback::new(move |()| app.ask_to_swap(to.clone())),
                )
                .into_any()
            }
            PullState::Verifying | PullState::Done => ().into_any(),
        })
    }
}

#[component]
fn Cancel(pull: Memo<Option<Pull>>) -> impl IntoView {
    let app = use_app();
    let done =
        derived(move || pull.with(|p| p.as_ref().is_none_or(|p| p.state == PullState::Done)));
    let cancel = move |_| {
        let Some(pull) = pull.get_untracked() else { return };
        if words::lost_by_cancel(&pull).is_some() {
            app.library.cancel.set(Some(pull));
        } else {
            app.cancel_pull(pull.id);
        }
    };
    let label = move || {
        pull.with(|p| {
            let model = p.as_ref().map_or("", |p| p.model.as_str());
            match done.get() {
                true => format!("Take {model} off this list; the model stays"),
                false => format!("Cancel {model}, keep nothing"),
            }
        })
    };
    let title = move || if done.get() { "Take off this list" } else { "Cancel, keep nothing" };
    view! {
        <button
            class="ibtn ibtn--sm"
            class=("ibtn--danger", move || !done.get())
            type="button"
            aria-label=label
            title=title
            on:click=cancel
        >
            {icon(Icon::X)}
        </button>
    }
}
