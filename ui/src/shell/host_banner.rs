//! The node is away: why, when it is tried again, and a button for now. Everything below stays
//! readable, and the banner goes by itself.

use leptos::prelude::*;

use crate::{
    app::use_app,
    components::icon::{Icon, icon},
    derived::derived,
    format,
    state::Link,
};

#[component]
pub(super) fn HostBanner() -> impl IntoView {
    let app = use_app();
    let link = derived(move || app.state.with(|s| s.link.clone()));
    // The countdown changes every second; the banner itself must not be made anew each time.
    let shown = derived(move || match link.get() {
        Link::Lost { attempt, reason, .. } => Some((Some(attempt), reason)),
        Link::Stopped { stopping: true } => {
            Some((None, "The node is stopping. Requests in flight finish first.".into()))
        }
        Link::Stopped { stopping: false } => Some((None, "The node is stopped.".into())),
        Link::Connecting | Link::Live | Link::Denied { .. } => None,
    });
    let left = move || match link.get() {
        Link::Lost { retry_at_ms, .. } => {
            format::countdown(retry_at_ms, app.now.get() - app.state.with(|s| s.clock_offset_ms))
        }
        _ => String::new(),
    };
    let button = if app.desktop { "Restart now" } else { "Try now" };
    move || {
        shown.get().map(|(attempt, reason)| {
            let title = match (attempt, app.desktop) {
                (Some(_), true) => "The node is being restarted",
                (Some(_), false) => "The node is not answering",
                (None, _) => "The node is not running",
            };
            let wait = attempt.map(|attempt| {
                view! {
                    <span class="nowrap">
                        {format!("Attempt {attempt} in ")}
                        <span class="num strong" id="host-countdown" role="timer">{left}</span>"."
                    </span>
                }
            });
            view! {
                <div class="banner banner--danger hostbanner" id="host-banner" role="alert" aria-atomic="false">
                    {icon(Icon::Error)}
                    <div>
                        <b>{title}</b>
                        <p class="small">{reason}" "{wait}" What you see below is the last that was known."</p>
                    </div>
                    <span class="push">
                        <button class="btn btn--sm" id="restart-now" type="button" on:click=move |_| app.retry_now()>
                            {icon(Icon::Refresh)}<span>{button}</span>
                        </button>
                    </span>
                </div>
            }
        })
    }
}
