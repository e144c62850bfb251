//! A short word in a coloured pill; the icon says the same as the colour.

use agent_api::fit::Fit;
use leptos::prelude::*;

use super::icon::icon;
use crate::words::{self, Badge};

pub fn badge(badge: Badge) -> AnyView {
    let hint = (!badge.hint.is_empty()).then_some(badge.hint);
    view! { <span class=badge.tone.badge() title=hint>{badge.icon.map(icon)}<span class="trunc">{badge.text}</span></span> }
        .into_any()
}

/// Whether a model runs here, in a word; the numbers are in its hint.
pub fn fit_badge(fit: &Fit) -> AnyView {
    badge(words::fit::badge(fit))
}

/// The word and under it the numbers.
pub fn fit_lines(fit: &Fit) -> AnyView {
    view! {
        <div class="catfit">{fit_badge(fit)}<p class="small faint">{fit.reason.clone()}</p></div>
    }
    .into_any()
}
