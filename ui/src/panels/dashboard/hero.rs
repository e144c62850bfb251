//! The node's state, why, and the one click that changes it.

use agent_api::{models::ModelState, node::ServingState};
use leptos::prelude::*;

use crate::{
    app::use_app,
    backend,
    components::icon::{Icon, icon, mark},
    derived::derived,
    headline::{self, Tone},
    state::Link,
};

const HOUR_S: u64 = 3_600;

/// What the owner can do about the state.
#[derive(Clone, Copy, PartialEq)]
enum Offer {
    Nothing,
    Pause,
    /// `until_ms` of a timed pause.
    Resume {
        until_ms: Option<i64>,
    },
    ChooseModel,
}

#[component]
pub(super) fn Hero() -> impl IntoView {
    let app = use_app();
    let line = derived(move || {
        app.state.with(|s| headline::headline(s, app.now.get(), backend::local_offset_ms()))
    });
    let tone = derived(move || line.with(|l| l.tone));
    let glyph = move || match tone.get() {
        Tone::Serving | Tone::Ready => mark(),
        Tone::Paused => icon(Icon::Pause),
        Tone::Trouble => icon(Icon::Error),
        Tone::Waiting => icon(Icon::Idle),
    };
    let offer = derived(move || {
        app.state.with(|s| match &s.status {
            Some(status) if s.link == Link::Live => match status.serving.state {
                ServingState::Idle | ServingState::Serving => Offer::Pause,
                ServingState::Paused => Offer::Resume { until_ms: status.serving.until_ms },
                ServingState::Degraded
                    if matches!(status.model.state, ModelState::None | ModelState::Failed) =>
                {
                    Offer::ChooseModel
                }
                ServingState::Degraded | ServingState::Starting | ServingState::Stopping => {
                    Offer::Nothing
                }
            },
            _ => Offer::Nothing,
        })
    });
    let title = derived(move || line.with(|l| l.title.clone()));
    let reason = derived(move || line.with(|l| l.reason.clone()));
    view! {
        <section class=move || format!("hero card hero--{}", tone.get().class()) aria-labelledby="status-headline">
            <div class="hero-glyph">{glyph}</div>
            <div class="hero-text">
                <h2 id="status-headline" role="status">{move || title.get()}</h2>
                <p id="status-reason">{move || reason.get()}</p>
            </div>
            <div class="hero-acts">{move || acts(offer.get())}</div>
        </section>
    }
}

fn acts(offer: Offer) -> AnyView {
    match offer {
        Offer::Nothing => ().into_any(),
        Offer::Pause => view! { <PauseActs/> }.into_any(),
        Offer::Resume { until_ms } => view! { <ResumeActs until_ms/> }.into_any(),
        Offer::ChooseModel => view! {
            <a class="btn btn--primary" href="#/models">{icon(Icon::Models)}<span>"Choose a model"</span></a>
        }
        .into_any(),
    }
}

#[component]
fn PauseActs() -> impl IntoView {
    let app = use_app();
    let hour = |hours: u64| {
        let spoken = format!("Pause for {}", crate::format::counted(hours, "hour", "hours"));
        view! {
            <button type="button" aria-label=spoken on:click=move |_| app.pause(Some(hours * HOUR_S))>
                {format!("{hours}\u{202f}h")}
            </button>
        }
    };
    view! {
        <span class="label faint" id="pause-for">"Pause for"</span>
        <div class="seg seg--act" role="group" aria-labelledby="pause-for">{[1, 3, 6, 12].map(hour).collect_view()}</div>
        <button class="btn" id="pause-button" type="button" title="Pause until you resume (P)" on:click=move |_| app.pause(None)>
            {icon(Icon::Pause)}<span>"Pause"</span>
        </button>
    }
}

#[component]
fn ResumeActs(until_ms: Option<i64>) -> impl IntoView {
    let app = use_app();
    let longer = until_ms.map(|until| {
        let act = move |_| {
            let left = (until - app.now.get_untracked()).max(0) as u64 / 1_000;
            app.pause(Some(left + HOUR_S));
        };
        view! { <button class="btn" type="button" on:click=act><span>"1\u{202f}h more"</span></button> }
    });
    view! {
        <button class="btn btn--go" id="resume-button" type="button" title="Resume (P)" on:click=move |_| app.resume()>
            {icon(Icon::Play)}<span>"Resume"</span>
        </button>
        {longer}
    }
}
