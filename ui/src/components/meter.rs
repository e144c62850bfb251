//! One line of the machine's meters.

use leptos::prelude::*;

use super::icon::{Icon, icon};
use crate::format::UNKNOWN;

/// Amber from here on.
const HIGH_PERCENT: f64 = 90.0;

/// A reading: `percent` fills the bar, `value` and `of` say it in words. Without `percent` the bar
/// is empty and not announced as a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub percent: Option<f64>,
    pub value: String,
    pub of: String,
}

impl Reading {
    pub fn unknown() -> Self {
        Self { percent: None, value: UNKNOWN.into(), of: String::new() }
    }

    fn high(&self) -> bool {
        self.percent.is_some_and(|p| p >= HIGH_PERCENT)
    }
}

#[component]
pub fn Meter(
    glyph: Icon,
    label: &'static str,
    /// Longer than the label, for the hint and for screen readers.
    #[prop(into)]
    name: String,
    #[prop(into)] reading: Signal<Reading>,
) -> impl IntoView {
    let percent = move || reading.with(|r| r.percent);
    let spoken = move || reading.with(|r| format!("{} {}", r.value, r.of).trim().to_owned());
    let title = name.clone();
    view! {
        <li class="meter" class:meter--warn=move || reading.with(Reading::high) title=title>
            {icon(glyph)}
            <span class="meter-label">{label}</span>
            <span
                class="meter-bar"
                role=move || percent().map(|_| "meter")
                aria-label=name
                aria-valuemin=move || percent().map(|_| "0")
                aria-valuemax=move || percent().map(|_| "100")
                aria-valuenow=move || percent().map(|p| format!("{p:.0}"))
                aria-valuetext=spoken
            >
                <b style:width=move || format!("{:.1}%", percent().unwrap_or(0.0))></b>
            </span>
            <span class="meter-value">
                {move || reading.with(|r| r.value.clone())}" "<small>{move || reading.with(|r| r.of.clone())}</small>
            </span>
        </li>
    }
}
