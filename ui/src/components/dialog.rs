//! A native modal dialog: the browser keeps the focus inside and gives it back on closing.

use leptos::{html, prelude::*};
use wasm_bindgen::JsCast;

use super::icon::{Icon, icon};

/// Shown while `open` is true; `on_close` is called when it closes, whichever way.
#[component]
pub fn Dialog(
    #[prop(into)] open: Signal<bool>,
    #[prop(into)] on_close: Callback<()>,
    #[prop(into)] title: Signal<String>,
    /// A line under the title.
    #[prop(into, optional)]
    about: MaybeProp<String>,
    /// Without a visible title, as the palette.
    #[prop(optional)]
    bare: bool,
    /// Asks about something that cannot be taken back.
    #[prop(optional)]
    alert: bool,
    #[prop(into, optional)] class: String,
    children: ChildrenFn,
) -> impl IntoView {
    let node = NodeRef::<html::Dialog>::new();
    Effect::new(move |_| {
        let Some(dialog) = node.get() else { return };
        if open.get() && !dialog.open() {
            // Fails only for a dialog that is not in the document or is open.
            let _ = dialog.show_modal();
            focus_first_soon(node);
        } else if !open.get() && dialog.open() {
            dialog.close();
        }
    });
    let close = move || {
        // The browser tells of the closing later, perhaps when the dialog's owner is gone.
        if open.try_get_untracked() == Some(true) {
            on_close.run(());
        }
    };
    // A click on the dialog element itself is a click on the backdrop.
    let backdrop = move |event: leptos::ev::MouseEvent| {
        let target = event.target().map(wasm_bindgen::JsValue::from);
        let dialog = node
            .get_untracked()
            .map(|d| wasm_bindgen::JsValue::from(d.unchecked_ref::<web_sys::Element>().clone()));
        if target.is_some() && target == dialog {
            close();
        }
    };
    let head = (!bare).then(|| {
        view! {
            <div class="dialog-head">
                <div>
                    <h2>{title}</h2>
                    {move || about.get().filter(|a| !a.is_empty()).map(|a| view! { <p>{a}</p> })}
                </div>
                <button class="ibtn" type="button" aria-label="Close" title="Close (Esc)" on:click=move |_| close()>
                    {icon(Icon::X)}
                </button>
            </div>
        }
    });
    view! {
        <dialog
            class=format!("dialog-box {class}")
            role=alert.then_some("alertdialog")
            aria-label=title
            node_ref=node
            on:close=move |_| close()
            on:click=backdrop
        >
            {head}
            <Show when=move || open.get()>{children()}</Show>
        </dialog>
    }
}

/// Focuses what the dialog names with `data-first`; otherwise the browser's own choice stays.
fn focus_first_soon(node: NodeRef<html::Dialog>) {
    // The content is in the document at the next frame.
    request_animation_frame(move || {
        let first = node
            .try_get_untracked()
            .flatten()
            .and_then(|d| d.query_selector("[data-first]").ok()?);
        if let Some(first) = first.and_then(|e| e.dyn_into::<web_sys::HtmlElement>().ok()) {
            // Focus can only fail on an element that is gone.
            let _ = first.focus();
        }
    });
}
