//! A button with a menu under it. Arrows move, Escape and a click elsewhere close, the focus goes
//! back to the button.

use leptos::{ev, html, prelude::*};
use wasm_bindgen::JsCast;
use web_sys::HtmlElement;

use super::icon::{Icon, icon};
use crate::keyboard;

#[component]
pub fn Menu(
    #[prop(into)] label: Signal<String>,
    /// Class of the button.
    class: &'static str,
    #[prop(optional)] id: &'static str,
    /// Shown instead of the label, which is then only spoken.
    #[prop(optional)]
    glyph: Option<Icon>,
    /// Under the right edge of the button instead of the left.
    #[prop(optional)]
    at_end: bool,
    /// Called when the menu opens.
    #[prop(optional, into)]
    on_open: Option<Callback<()>>,
    open: RwSignal<bool>,
    children: ChildrenFn,
) -> impl IntoView {
    let root = NodeRef::<html::Div>::new();
    let button = NodeRef::<html::Button>::new();

    let outside = window_event_listener(ev::pointerdown, move |event| {
        let inside = || {
            let target = event.target()?.dyn_into::<web_sys::Node>().ok()?;
            Some(root.get_untracked()?.contains(Some(&target)))
        };
        if open.get_untracked() && inside() != Some(true) {
            open.set(false);
        }
    });
    on_cleanup(move || outside.remove());

    let focus_button = move || {
        if let Some(button) = button.try_get_untracked().flatten() {
            // Focus can only fail on an element that is gone.
            let _ = button.focus();
        }
    };
    let close = move || {
        open.set(false);
        focus_button();
    };
    let toggle = move |_| {
        open.update(|o| *o = !*o);
        if open.get_untracked() {
            if let Some(on_open) = on_open {
                on_open.run(());
            }
            focus_item_soon(root, 0);
        }
    };
    let keys = move |event: ev::KeyboardEvent| {
        if !open.get_untracked() {
            return;
        }
        let key = event.key();
        if key == "Escape" {
            event.prevent_default();
            event.stop_propagation();
            close();
        } else if key == "Tab" {
            open.set(false);
        } else {
            let items = items(root);
            let current =
                items.iter().position(|i| Some(i.as_ref()) == document().active_element().as_ref());
            if let Some(next) =
                keyboard::moved(&key, current.unwrap_or(items.len().saturating_sub(1)), items.len())
            {
                event.prevent_default();
                let _ = items[next].focus();
            }
        }
    };
    let children = StoredValue::new(children);
    view! {
        <div class="pop" node_ref=root on:keydown=keys>
            <button
                class=class
                id=(!id.is_empty()).then_some(id)
                type="button"
                node_ref=button
                aria-haspopup="menu"
                aria-expanded=move || open.get().to_string()
                aria-label=move || glyph.map(|_| label.get())
                title=move || glyph.map(|_| label.get())
                on:click=toggle
            >
                {match glyph {
                    Some(glyph) => icon(glyph),
                    None => view! { <span>{label}</span>{icon(Icon::ChevronDown)} }.into_any(),
                }}
            </button>
            // Captured, so before the item acts: a dialog that it opens gives the focus back to the button.
            <Show when=move || open.get()>
                <ul class="menu" class:menu--end=at_end role="menu" on:click:capture=move |_| focus_button()>
                    {children.with_value(|c| c())}
                </ul>
            </Show>
        </div>
    }
}

fn items(root: NodeRef<html::Div>) -> Vec<HtmlElement> {
    // At the next frame the menu may be gone.
    let Some(root) = root.try_get_untracked().flatten() else { return Vec::new() };
    let Ok(list) = root.query_selector_all("[role^=menuitem]:not([disabled])") else {
        return Vec::new();
    };
    (0..list.length()).filter_map(|i| list.get(i)?.dyn_into().ok()).collect()
}

fn focus_item_soon(root: NodeRef<html::Div>, place: usize) {
    // The menu is not in the document before the next frame.
    request_animation_frame(move || {
        if let Some(item) = items(root).get(place) {
            let _ = item.focus();
        }
    });
}
