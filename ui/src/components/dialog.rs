//! A native modal dialog: the browser keeps the focus inside and gives it back on closing.

use leptos::{html, prelude::*};
use wasm_bindgen::JsCast;

use super::icon::{Icon, icon};

/// Opens while `open` is true and sets it to false when it closes, whichever way.
#[component]
pub fn Dialog(
    open: RwSignal<bool>,
    title: &'static str,
    /// Without a visible title, as the palette.
    #[prop(optional)]
    bare: bool,
    #[prop(into, optional)] class: String,
    children: ChildrenFn,
) -> impl IntoView {
    let node = NodeRef::<html::Dialog>::new();
    Effect::new(move |_| {
        let Some(dialog) = node.get() else { return };
        if open.get() && !dialog.open() {
            // Fails only for a dialog that is not in the document or is open.
            let _ = dialog.show_modal();
        } else if !open.get() && dialog.open() {
            dialog.close();
        }
    });
    // A click on the dialog element itself is a click on the backdrop.
    let backdrop = move |event: leptos::ev::MouseEvent| {
        let target = event.target().map(wasm_bindgen::JsValue::from);
        let dialog = node
            .get_untracked()
            .map(|d| wasm_bindgen::JsValue::from(d.unchecked_ref::<web_sys::Element>().clone()));
        if target.is_some() && target == dialog {
            open.set(false);
        }
    };
    let head = (!bare).then(|| {
        view! {
            <div class="dialog-head">
                <h2>{title}</h2>
                <button class="ibtn" type="button" aria-label="Close" title="Close (Esc)" on:click=move |_| open.set(false)>
                    {icon(Icon::X)}
                </button>
            </div>
        }
    });
    view! {
        <dialog
            class=format!("dialog-box {class}")
            aria-label=title
            node_ref=node
            on:close=move |_| open.set(false)
            on:click=backdrop
        >
            {head}
            <Show when=move || open.get()>{children()}</Show>
        </dialog>
    }
}
