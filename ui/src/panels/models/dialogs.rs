//! Everything about models that opens over the page. The shell holds them, because the palette,
//! a toast and the Dashboard open them as well.

mod ask;
mod details;
mod import;
mod options;
mod pull;
mod swap;

use leptos::prelude::*;

#[component]
pub fn Dialogs() -> impl IntoView {
    view! {
        <swap::Swap/>
        <ask::Remove/>
        <ask::CancelPull/>
        <pull::PullModel/>
        <import::Import/>
        <options::Options/>
        <details::Details/>
    }
}
