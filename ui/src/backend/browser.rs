//! A browser: `fetch` to the node that served this page, with the token of its address.
//!
//! `EventSource` cannot send the token, so `/events` is read with `fetch` as well.

use std::{cell::RefCell, rc::Rc};

use agent_api::host::HostMessage;
use futures_util::{
    StreamExt,
    future::{Either, select},
    stream::unfold,
};
use js_sys::{Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    AbortController, Headers, ReadableStreamDefaultReader, RequestInit, Response,
    TextDecodeOptions, TextDecoder,
};

use super::{
    BACKOFF_S, CallError, Delivery, Opened, Reply, ServedBy, TextStream, error_of, incoming,
    now_ms, words,
};
use crate::{sse, state::Link, storage};

/// A node says something every second, or at least a comment; after this long the connection is
/// dead even if the system has not noticed.
const SILENCE_MS: u32 = 30_000;

const TOKEN: &str = "edgecoder-token";

thread_local! {
    /// Ends the wait for the next attempt.
    static WAKE: RefCell<Option<Function>> = const { RefCell::new(None) };
}

pub(super) fn set_token(token: &str) {
    storage::set(TOKEN, token);
    retry_now();
}

pub(super) fn retry_now() {
    if let Some(wake) = WAKE.take() {
        // A promise that is resolved already ignores it.
        let _ = wake.call0(&JsValue::NULL);
    }
}

/// A promise that `setTimeout` resolves, and its resolving function.
fn timer(ms: u32) -> (Promise, Option<Function>) {
    let mut wake = None;
    let promise = Promise::new(&mut |resolve, _| {
        if let Some(window) = web_sys::window() {
            let ms = i32::try_from(ms).unwrap_or(i32::MAX);
            // Fails only for a bad argument.
            let _ = window.set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, ms);
        }
        wake = Some(resolve);
    });
    (promise, wake)
}

pub(super) async fn sleep(ms: u32) {
    // A timer does not reject.
    let _ = JsFuture::from(timer(ms).0).await;
}

/// Waits, unless [`retry_now`] or a new token ends it.
async fn wait_for_next_attempt(ms: u32) {
    let (promise, wake) = timer(ms);
    WAKE.set(wake);
    let _ = JsFuture::from(promise).await;
    WAKE.set(None);
}

/// Aborts the fetch when it is dropped.
struct Abort(AbortController);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn fetch(
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<(Response, Abort), CallError> {
    let token = storage::get(TOKEN).ok_or(CallError::Denied)?;
    let call = || -> Result<(Promise, Abort), JsValue> {
        let headers = Headers::new()?;
        headers.set("authorization", &format!("Bearer {token}"))?;
        let abort = Abort(AbortController::new()?);
        let init = RequestInit::new();
        init.set_method(method);
        if let Some(body) = body {
            headers.set("content-type", "application/json")?;
            init.set_body(&body.into());
        }
        init.set_headers(&headers);
        init.set_signal(Some(&abort.0.signal()));
        let window = web_sys::window().ok_or("no window")?;
        Ok((window.fetch_with_str_and_init(path, &init), abort))
    };
    let unreachable = |e: JsValue| CallError::Unreachable(words(&e));
    let (promise, abort) = call().map_err(unreachable)?;
    let response: Response =
        JsFuture::from(promise).await.and_then(JsCast::dyn_into).map_err(unreachable)?;
    Ok((response, abort))
}

async fn text_of(response: &Response) -> Result<String, JsValue> {
    let text = JsFuture::from(response.text()?).await?;
    Ok(text.as_string().unwrap_or_default())
}

pub(super) async fn request(
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Reply, CallError> {
    let (response, _abort) = fetch(method, path, body).await?;
    let body = text_of(&response).await.map_err(|e| CallError::Unreachable(words(&e)))?;
    Ok(Reply { status: response.status(), body })
}

/// Who answers; a node of an older version does not say.
fn served_by(response: &Response) -> Option<ServedBy> {
    let header = |name: &str| response.headers().get(name).ok().flatten();
    Some(ServedBy { name: header("x-edgecoder-node-name")?, path: header("x-edgecoder-path")? })
}

pub(super) async fn stream(
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Opened, CallError> {
    let (response, abort) = fetch(method, path, body).await?;
    let unreachable = |e: JsValue| CallError::Unreachable(words(&e));
    if !response.ok() {
        let body = text_of(&response).await.map_err(unreachable)?;
        return Err(error_of(&Reply { status: response.status(), body }));
    }
    let served_by = served_by(&response);
    let body = response.body().ok_or_else(|| CallError::Unreadable("no body".into()))?;
    let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
    let decoder = TextDecoder::new().map_err(unreachable)?;
    let state = Some((reader, decoder, abort));
    let pieces: TextStream = Box::pin(unfold(state, |state| async move {
        let (reader, decoder, abort) = state?;
        match read(&reader, &decoder).await {
            Ok(Some(text)) => Some((Ok(text), Some((reader, decoder, abort)))),
            Ok(None) => None,
            Err(error) => Some((Err(words(&error)), None)),
        }
    }));
    Ok(Opened { pieces, served_by })
}

/// The next piece as text; characters that are cut in two wait for the next piece.
async fn read(
    reader: &ReadableStreamDefaultReader,
    decoder: &TextDecoder,
) -> Result<Option<String>, JsValue> {
    let item = JsFuture::from(reader.read()).await?;
    if Reflect::get(&item, &"done".into())?.is_truthy() {
        return Ok(None);
    }
    let bytes: Uint8Array = Reflect::get(&item, &"value".into())?.dyn_into()?;
    let options = TextDecodeOptions::new();
    options.set_stream(true);
    decoder.decode_with_js_u8_array_and_options(&bytes, &options).map(Some)
}

pub(super) fn connect(deliver: impl Fn(Delivery) + 'static) {
    let deliver: Rc<dyn Fn(Delivery)> = Rc::new(deliver);
    spawn_local(async move {
        let mut failures = 0;
        loop {
            let had_token = storage::get(TOKEN).is_some();
            let (heard, reason) = listen(&*deliver).await;
            if heard {
                failures = 0;
            }
            let Some(reason) = reason else {
                deliver(Delivery::Link(Link::Denied { had_token }));
                // Only another token helps; it ends the wait.
                wait_for_next_attempt(u32::MAX).await;
                deliver(Delivery::Link(Link::Connecting));
                continue;
            };
            let wait = BACKOFF_S[failures.min(BACKOFF_S.len() - 1)] * 1_000;
            failures += 1;
            deliver(Delivery::Link(Link::Lost {
                attempt: failures as u32,
                retry_at_ms: now_ms() + i64::from(wait),
                reason,
            }));
            wait_for_next_attempt(wait).await;
        }
    });
}

/// Reads events until the connection ends. Whether there were any, and why it ended: `None` for a
/// token that is not accepted.
async fn listen(deliver: &dyn Fn(Delivery)) -> (bool, Option<String>) {
    let mut events = match stream("GET", "/events", None).await {
        Ok(opened) => opened.pieces,
        Err(CallError::Denied) => return (false, None),
        Err(CallError::Unreachable(_)) => {
            return (false, Some("Nothing answers at this address.".into()));
        }
        Err(error) => return (false, Some(error.to_string())),
    };
    let mut parser = sse::Parser::default();
    let mut heard = false;
    loop {
        let (silence, _) = timer(SILENCE_MS);
        let text = match select(events.next(), JsFuture::from(silence)).await {
            Either::Left((Some(Ok(text)), _)) => text,
            Either::Left((Some(Err(_)) | None, _)) => {
                return (heard, Some("The node closed the connection.".into()));
            }
            Either::Right(_) => return (heard, Some("The node has been silent for 30 s.".into())),
        };
        for frame in parser.push(&text) {
            if let Some(event) = incoming::event(&frame.data) {
                heard = true;
                deliver(Delivery::Message(HostMessage::Event { event }));
            }
        }
    }
}
