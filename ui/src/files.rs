//! Files that the owner chooses or saves, through the browser's own objects.

use js_sys::{Array, Function, Object, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

/// The first file of a file field.
pub(crate) fn chosen(field: &web_sys::HtmlInputElement) -> Option<Chosen> {
    let files = Reflect::get(field, &"files".into()).ok()?;
    let file = Reflect::get(&files, &0.into()).ok().filter(JsValue::is_object)?;
    let name = Reflect::get(&file, &"name".into()).ok()?.as_string()?;
    let bytes = Reflect::get(&file, &"size".into()).ok()?.as_f64()?;
    Some(Chosen { name, bytes, file })
}

/// A file that is not read yet.
pub(crate) struct Chosen {
    pub(crate) name: String,
    pub(crate) bytes: f64,
    file: JsValue,
}

impl Chosen {
    /// Its content in base64.
    pub(crate) async fn base64(self) -> Option<String> {
        let reader = construct("FileReader", &Array::new()).ok()?;
        let done = Promise::new(&mut |resolve, reject| {
            // Without a handler the promise would never end; setting one fails on no browser.
            let _ = Reflect::set(&reader, &"onload".into(), &resolve);
            let _ = Reflect::set(&reader, &"onerror".into(), &reject);
        });
        call(&reader, "readAsDataURL", &self.file).ok()?;
        JsFuture::from(done).await.ok()?;
        let address = Reflect::get(&reader, &"result".into()).ok()?.as_string()?;
        // An empty file has no comma.
        address.split_once(',').map(|(_, base64)| base64.to_owned())
    }
}

/// Hands a text to the browser as a download.
pub(crate) fn save(name: &str, kind: &str, text: &str) -> bool {
    let save = || -> Result<(), JsValue> {
        let options = Object::new();
        Reflect::set(&options, &"type".into(), &kind.into())?;
        let parts: JsValue = Array::of1(&text.into()).into();
        let blob = construct("Blob", &Array::of2(&parts, &options))?;
        let maker = Reflect::get(&js_sys::global(), &"URL".into())?;
        let address = call(&maker, "createObjectURL", &blob)?;
        let document = web_sys::window().and_then(|w| w.document()).ok_or("no document")?;
        let link: web_sys::HtmlElement = document.create_element("a")?.dyn_into()?;
        link.set_attribute("href", &address.as_string().unwrap_or_default())?;
        link.set_attribute("download", name)?;
        link.click();
        call(&maker, "revokeObjectURL", &address)?;
        Ok(())
    };
    save().is_ok()
}

fn construct(class: &str, arguments: &Array) -> Result<JsValue, JsValue> {
    let class: Function = Reflect::get(&js_sys::global(), &class.into())?.dyn_into()?;
    Reflect::construct(&class, arguments)
}

fn call(object: &JsValue, method: &str, argument: &JsValue) -> Result<JsValue, JsValue> {
    let method: Function = Reflect::get(object, &method.into())?.dyn_into()?;
    method.call1(object, argument)
}
