//! One short message at a time. Failures are announced at once and stay until dismissed; the rest
//! goes by itself.

use std::time::Duration;

use leptos::prelude::*;

use crate::{
    app::use_app,
    components::icon::{Icon, icon, icon_class},
};

/// Long enough to read one line.
const SHOWN_FOR: Duration = Duration::from_secs(5);

/// Long enough to decide, too.
const OFFERED_FOR: Duration = Duration::from_secs(12);

#[component]
pub(super) fn ToastRegion() -> impl IntoView {
    let app = use_app();
    Effect::new(move |_| {
        let Some(toast) = app.toast.get().filter(|t| !t.failed) else { return };
        let shown_for = if toast.swap_to.is_some() { OFFERED_FOR } else { SHOWN_FOR };
        set_timeout(
            move || {
                // A newer message has its own time.
                if app.toast.get_untracked() == Some(toast) {
                    app.toast.set(None);
                }
            },
            shown_for,
        );
    });
    let shown = move |failed: bool| {
        app.toast.get().filter(|t| t.failed == failed).map(|toast| {
            let glyph = if failed { icon_class(Icon::Error, "i bad") } else { icon_class(Icon::Check, "i ok") };
            view! {
                <div class="toast">
                    {glyph}
                    <p>{toast.text}</p>
                    <span class="push row">
                        {toast.swap_to.map(|id| view! {
                            <button
                                class="btn btn--sm"
                                type="button"
                                on:click=move |_| {
                                    app.toast.set(None);
                                    app.ask_to_swap(id.clone());
                                }
                            >
                                <span>"Swap to it"</span>
                            </button>
                        })}
                        <button class="ibtn ibtn--sm" type="button" aria-label="Dismiss" on:click=move |_| app.toast.set(None)>
                            {icon(Icon::X)}
                        </button>
                    </span>
                </div>
            }
        })
    };
    view! {
        <div class="toasts">
            <div role="status">{move || shown(false)}</div>
            <div role="alert">{move || shown(true)}</div>
        </div>
    }
}
