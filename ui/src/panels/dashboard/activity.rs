//! What the node did, newest first.

use agent_api::ActivityKind;
use leptos::prelude::*;

use crate::{
    app::use_app,
    backend,
    components::icon::{Icon, icon_class},
    derived::derived,
    format::LocalTime,
};

#[component]
pub(super) fn Feed() -> impl IntoView {
    let app = use_app();
    let lines = derived(move || app.state.with(|s| s.activity.clone()));
    let empty = derived(move || lines.with(Vec::is_empty));
    // Changes once a day: then the clocks become dates.
    let today = derived(move || LocalTime::new(app.now.get(), backend::local_offset_ms()).date());
    view! {
        <section class="card grow feedcard" aria-labelledby="activity-title">
            <div class="card-head"><h2 id="activity-title">"Activity"</h2></div>
            <div class="feed-scroll" tabindex="0" role="region" aria-label="Activity, newest first">
                <ul class="feed" id="activity" aria-live="off">
                    <For
                        each=move || lines.get()
                        key=|line| line.id
                        children=move |line| {
                            let (glyph, tone) = shape(line.kind);
                            let at = move || {
                                today.track();
                                let offset = backend::local_offset_ms();
                                let now = LocalTime::new(app.now.get_untracked(), offset);
                                LocalTime::new(line.at_ms, offset).clock_or_date(now)
                            };
                            view! {
                                <li>
                                    {icon_class(glyph, tone)}
                                    <p title=line.text.clone()>{line.text.clone()}</p>
                                    <time>{at}</time>
                                </li>
                            }
                        }
                    />
                </ul>
                <Show when=move || empty.get()>
                    <p class="feed-none faint">"Nothing yet. Requests, pauses and model changes appear here."</p>
                </Show>
            </div>
        </section>
    }
}

fn shape(kind: ActivityKind) -> (Icon, &'static str) {
    match kind {
        ActivityKind::NodeStarted => (Icon::Power, "i"),
        ActivityKind::ModelLoaded | ActivityKind::ModelUnloaded => (Icon::Models, "i"),
        ActivityKind::ModelFailed
        | ActivityKind::PullFailed
        | ActivityKind::RequestFailed
        | ActivityKind::RunnerCrashed => (Icon::Error, "i bad"),
        ActivityKind::ModelInstalled | ActivityKind::PullStarted => (Icon::Download, "i"),
        ActivityKind::ModelRemoved => (Icon::Trash, "i"),
        ActivityKind::RequestDone => (Icon::Check, "i"),
        ActivityKind::RequestCancelled => (Icon::Stop, "i"),
        ActivityKind::RunnerBack => (Icon::Refresh, "i"),
        ActivityKind::Paused | ActivityKind::PullPaused => (Icon::Pause, "i"),
        ActivityKind::Resumed => (Icon::Play, "i"),
        ActivityKind::PeerJoined | ActivityKind::MeshChanged => (Icon::Mesh, "i"),
        ActivityKind::PeerLeft => (Icon::Minus, "i"),
        ActivityKind::PeerPath => (Icon::Direct, "i"),
        ActivityKind::SettingsChanged => (Icon::Settings, "i"),
        ActivityKind::Warning => (Icon::Warn, "i warn"),
    }
}
