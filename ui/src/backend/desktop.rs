//! The desktop shell: its commands take the requests, one channel brings everything else.

use std::{cell::RefCell, collections::HashMap};

use agent_api::host::{HostMessage, HostRequest, HostResponse};
use futures_channel::mpsc;
use futures_util::stream;
use js_sys::{Array, Function, Object, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue, prelude::Closure};
use wasm_bindgen_futures::{JsFuture, spawn_local};

use super::{
    BACKOFF_S, CallError, Delivery, Opened, Reply, TextStream, browser::sleep, error_of, incoming,
    now_ms, words,
};
use crate::state::Link;

/// Pieces of one answer that wait for the page, which takes them as they come; so many only pile up
/// while the page is stuck, and then the answer is cut instead of the memory filled.
const MAX_WAITING_PIECES: usize = 4_096;

type Pieces = mpsc::Sender<Result<String, String>>;

#[derive(Default)]
struct Streams {
    next: u32,
    open: HashMap<u32, Pieces>,
}

thread_local! {
    static STREAMS: RefCell<Streams> = RefCell::default();
}

fn core() -> Option<JsValue> {
    let window: JsValue = web_sys::window()?.into();
    let tauri = Reflect::get(&window, &"__TAURI__".into()).ok()?;
    let core = Reflect::get(&tauri, &"core".into()).ok()?;
    (!core.is_undefined()).then_some(core)
}

pub(super) fn present() -> bool {
    // Off the web there is no window to ask: native tests are never in a host.
    cfg!(target_family = "wasm") && core().is_some()
}

/// Calls a command. A rejected promise is an `Err` with what the shell said.
async fn invoke(command: &str, arguments: &Object) -> Result<JsValue, CallError> {
    let call = || -> Result<Promise, JsValue> {
        let core = core().ok_or("the desktop shell is gone")?;
        let invoke: Function = Reflect::get(&core, &"invoke".into())?.dyn_into()?;
        invoke.call2(&core, &command.into(), arguments)?.dyn_into()
    };
    let unreachable = |e: JsValue| CallError::Unreachable(words(&e));
    JsFuture::from(call().map_err(unreachable)?).await.map_err(unreachable)
}

pub(super) fn connect(deliver: impl Fn(Delivery) + 'static) {
    spawn_local(async move {
        let deliver = std::rc::Rc::new(deliver);
        let mut attempt = 0;
        loop {
            match open_channel(&deliver).await {
                Ok(()) => return,
                Err(error) => {
                    let wait = BACKOFF_S[attempt.min(BACKOFF_S.len() - 1)] * 1_000;
                    attempt += 1;
                    deliver(Delivery::Link(Link::Lost {
                        attempt: attempt as u32,
                        retry_at_ms: now_ms() + i64::from(wait),
                        reason: error.to_string(),
                    }));
                    sleep(wait).await;
                }
            }
        }
    });
}

async fn open_channel<F: Fn(Delivery) + 'static>(
    deliver: &std::rc::Rc<F>,
) -> Result<(), CallError> {
    let deliver = std::rc::Rc::clone(deliver);
    let on_message = Closure::<dyn Fn(JsValue)>::new(move |value: JsValue| {
        if let Some(message) = parse(&value) {
            dispatch(message, &*deliver);
        }
    });
    let build = || -> Result<Object, JsValue> {
        let core = core().ok_or("the desktop shell is gone")?;
        let class: Function = Reflect::get(&core, &"Channel".into())?.dyn_into()?;
        let channel = Reflect::construct(&class, &Array::new())?;
        Reflect::set(&channel, &"onmessage".into(), on_message.as_ref())?;
        let arguments = Object::new();
        Reflect::set(&arguments, &"channel".into(), &channel)?;
        Ok(arguments)
    };
    let arguments = build().map_err(|e| CallError::Unreachable(words(&e)))?;
    invoke("connect", &arguments).await?;
    // The one channel lives as long as the page.
    on_message.forget();
    Ok(())
}

/// Through JSON text: the numbers are small, and the page needs serde_json anyway.
fn parse(value: &JsValue) -> Option<HostMessage> {
    let text = match value.as_string() {
        Some(text) => text,
        None => js_sys::JSON::stringify(value).ok()?.as_string()?,
    };
    incoming::message(&text)
}

fn dispatch(message: HostMessage, deliver: &dyn Fn(Delivery)) {
    match message {
        HostMessage::Chunk { stream, text } => STREAMS.with_borrow_mut(|streams| {
            let full = streams
                .open
                .get_mut(&stream)
                .is_some_and(|pieces| pieces.try_send(Ok(text)).is_err());
            if full {
                streams.open.remove(&stream);
            }
        }),
        HostMessage::End { stream, error } => STREAMS.with_borrow_mut(|streams| {
            if let (Some(mut pieces), Some(error)) = (streams.open.remove(&stream), error) {
                // A full queue ends the answer as well, only without the reason.
                let _ = pieces.try_send(Err(error));
            }
        }),
        HostMessage::Event { .. } | HostMessage::Navigate { .. } => {
            deliver(Delivery::Message(message))
        }
    }
}

async fn api(request: &HostRequest) -> Result<Reply, CallError> {
    let unreadable = |e: serde_json::Error| CallError::Unreadable(e.to_string());
    let text = serde_json::to_string(request).map_err(unreadable)?;
    let arguments = Object::new();
    js_sys::JSON::parse(&text)
        .and_then(|value| Reflect::set(&arguments, &"request".into(), &value))
        .map_err(|e| CallError::Unreadable(words(&e)))?;
    let answer = invoke("api", &arguments).await?;
    let text = js_sys::JSON::stringify(&answer).map_err(|e| CallError::Unreadable(words(&e)))?;
    let answer: HostResponse = incoming::answer(&String::from(text)).map_err(unreadable)?;
    Ok(Reply { status: answer.status, body: answer.body })
}

fn host_request(method: &str, path: &str, body: Option<&str>, stream: Option<u32>) -> HostRequest {
    HostRequest { method: method.into(), path: path.into(), body: body.map(Into::into), stream }
}

pub(super) async fn request(
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Reply, CallError> {
    api(&host_request(method, path, body, None)).await
}

pub(super) async fn restart_now() -> Result<(), CallError> {
    invoke("restart_now", &Object::new()).await.map(|_| ())
}

/// Cancels the stream in the shell when the page no longer wants it.
struct Open(u32);

impl Drop for Open {
    fn drop(&mut self) {
        let known = STREAMS.with_borrow_mut(|streams| streams.open.remove(&self.0).is_some());
        // One that ended by itself needs no cancelling.
        if known {
            let id = self.0;
            spawn_local(async move {
                let arguments = Object::new();
                if Reflect::set(&arguments, &"stream".into(), &id.into()).is_ok() {
                    // Nobody waits for the answer of a request that was given up.
                    let _ = invoke("cancel", &arguments).await;
                }
            });
        }
    }
}

pub(super) async fn stream(
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Opened, CallError> {
    let (pieces, received) = mpsc::channel(MAX_WAITING_PIECES);
    // Known before the request leaves: the first piece may come before the answer.
    let id = STREAMS.with_borrow_mut(|streams| {
        streams.next += 1;
        streams.open.insert(streams.next, pieces);
        streams.next
    });
    let guard = Open(id);
    let reply = api(&host_request(method, path, body, Some(id))).await?;
    if !(200..300).contains(&reply.status) {
        STREAMS.with_borrow_mut(|streams| streams.open.remove(&id));
        return Err(error_of(&reply));
    }
    let pieces: TextStream =
        Box::pin(stream::unfold((received, guard), |(mut received, guard)| async move {
            let piece = futures_util::StreamExt::next(&mut received).await?;
            Some((piece, (received, guard)))
        }));
    // The shell passes no headers on.
    Ok(Opened { pieces, served_by: None })
}
