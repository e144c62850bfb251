//! The list of keys.

use leptos::prelude::*;

use crate::{app::use_app, components::dialog::Dialog, keyboard};

#[component]
pub(super) fn Shortcuts() -> impl IntoView {
    let app = use_app();
    view! {
        <Dialog open=app.shortcuts on_close=move |()| app.shortcuts.set(false) title="Keyboard shortcuts">
            <div class="dialog-body">
                <dl class="kv" id="shortcut-list">
                    {keyboard::SHEET
                        .iter()
                        .map(|(keys, what)| {
                            let keys = keys.iter().map(|k| view! { <kbd>{*k}</kbd> }).collect_view();
                            view! { <div><dt>{*what}</dt><dd><span class="keys">{keys}</span></dd></div> }
                        })
                        .collect_view()}
                </dl>
                <p class="hint">"Keys without Ctrl rest while a field has the focus. Settings, Appearance switches them off."</p>
            </div>
        </Dialog>
    }
}
