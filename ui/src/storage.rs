//! What the page remembers in this browser or webview: the token, the theme, the keys. Storage may
//! be switched off; then nothing is remembered and everything else works.

fn store() -> Option<web_sys::Storage> {
    if !cfg!(target_family = "wasm") {
        return None;
    }
    web_sys::window()?.local_storage().ok()?
}

pub(crate) fn get(key: &str) -> Option<String> {
    store()?.get_item(key).ok()?
}

pub(crate) fn set(key: &str, value: &str) {
    if let Some(store) = store() {
        // A full or forbidden storage only means that the choice is not remembered.
        let _ = store.set_item(key, value);
    }
}
