//! Copying to the clipboard, where the webview or browser allows it.

use js_sys::Reflect;
use wasm_bindgen_futures::JsFuture;

/// Whether it worked. Without a clipboard (a page that is not from loopback or HTTPS) it does not.
pub(crate) async fn copy(text: &str) -> bool {
    let Some(window) = web_sys::window() else { return false };
    let navigator = window.navigator();
    let has_clipboard = Reflect::get(&navigator, &"clipboard".into()).is_ok_and(|c| c.is_object());
    has_clipboard && JsFuture::from(navigator.clipboard().write_text(text)).await.is_ok()
}
