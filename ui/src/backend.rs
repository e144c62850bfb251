//! The one seam to the node. Nothing else in this crate talks to JavaScript hosts or the network.
//!
//! The page runs in one of two hosts: the desktop shell, whose commands pass requests to the node
//! in the same process, or a browser, which was served this page by a node over HTTP.

mod browser;
mod desktop;
mod incoming;
mod tree;

use std::{fmt, future::ready, pin::Pin};

use agent_api::{
    ApiError, Endpoint, ErrorCode, Method, endpoint::fill_path, host::HostMessage,
    openai::ErrorBody,
};
use futures_util::Stream;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wasm_bindgen::{JsCast, JsValue};

pub(crate) use self::incoming::answer;
use crate::state::Link;

/// Seconds between attempts to reach a node that does not answer; the last one repeats.
pub const BACKOFF_S: [u32; 6] = [1, 2, 4, 8, 16, 30];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Desktop,
    Browser,
}

/// Where the page runs.
pub fn host() -> Host {
    if desktop::present() { Host::Desktop } else { Host::Browser }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum CallError {
    /// The node answered with an error.
    Api(ApiError),
    /// The token is missing or wrong.
    Denied,
    /// Nothing answered.
    Unreachable(String),
    /// The answer is not what this page expects.
    Unreadable(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(error) => f.write_str(&error.message),
            Self::Denied => f.write_str("The node does not accept this page's token. Open the address that edgecoder-node run printed."),
            Self::Unreachable(why) => write!(f, "The node did not answer ({why}). It is tried again by itself; wait a moment and repeat."),
            Self::Unreadable(why) => write!(f, "The node's answer could not be read ({why}). Page and node may be of different versions; reload the page."),
        }
    }
}

/// What the node answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Pieces of a streamed answer, in order; an `Err` is the last item of one that broke off.
/// Dropping it cancels the request.
pub type TextStream = Pin<Box<dyn Stream<Item = Result<String, String>>>>;

/// An answer that has begun.
pub struct Opened {
    pub pieces: TextStream,
    pub served_by: Option<ServedBy>,
}

/// The node that answers, as the headers of the answer say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedBy {
    pub name: String,
    /// `local`, `lan`, `direct` or `relay`.
    pub path: String,
}

/// What comes from the host without being asked for.
#[derive(Debug)]
pub enum Delivery {
    Message(HostMessage),
    Link(Link),
}

/// Starts listening to the node, for as long as the page lives.
pub fn connect(deliver: impl Fn(Delivery) + 'static) {
    match host() {
        Host::Desktop => desktop::connect(deliver),
        Host::Browser => browser::connect(deliver),
    }
}

/// Asks a typed path of the node.
pub async fn call<E: Endpoint>(_: E, request: &E::Request) -> Result<E::Response, CallError> {
    read(raw::<E>(request).await)
}

/// An answer that is not read yet.
pub(crate) type Raw = Pin<Box<dyn Future<Output = Result<Value, CallError>>>>;

/// Asks a typed path of the node and leaves the answer as it comes.
pub(crate) fn raw<E: Endpoint>(request: &E::Request) -> Raw {
    match serde_json::to_value(request) {
        Ok(request) => exchange(E::METHOD, E::PATH, request),
        Err(error) => Box::pin(ready(Err(CallError::Unreadable(error.to_string())))),
    }
}

/// Reads an answer of [`raw`].
pub(crate) fn read<T: DeserializeOwned>(answer: Result<Value, CallError>) -> Result<T, CallError> {
    tree::read(answer?).map_err(|e| CallError::Unreadable(e.to_string()))
}

/// The same for every path, and boxed, so that it is compiled once and not into every caller.
fn exchange(method: Method, path: &'static str, request: Value) -> Raw {
    Box::pin(async move {
        let (path, request) = fill_path(path, request);
        let (path, body) = match method {
            Method::Get => (format!("{path}{}", query(&request)), None),
            Method::Post | Method::Patch => (path, Some(request.to_string())),
        };
        let reply = match host() {
            Host::Desktop => desktop::request(method.as_str(), &path, body.as_deref()).await?,
            Host::Browser => browser::request(method.as_str(), &path, body.as_deref()).await?,
        };
        check(&reply)?;
        answer(&reply.body).map_err(|e| CallError::Unreadable(e.to_string()))
    })
}

/// Asks for an answer that comes piece by piece.
pub async fn stream(method: &str, path: &str, body: Option<&str>) -> Result<Opened, CallError> {
    match host() {
        Host::Desktop => desktop::stream(method, path, body).await,
        Host::Browser => browser::stream(method, path, body).await,
    }
}

/// Does not wait for the next attempt: tries now.
pub async fn retry_now() -> Result<(), CallError> {
    match host() {
        Host::Desktop => desktop::restart_now().await,
        Host::Browser => {
            browser::retry_now();
            Ok(())
        }
    }
}

/// Takes a token that was pasted, or found in the address.
pub fn set_token(token: &str) {
    browser::set_token(token);
}

fn check(reply: &Reply) -> Result<(), CallError> {
    if (200..300).contains(&reply.status) {
        return Ok(());
    }
    Err(error_of(reply))
}

/// Both error shapes of the node: its own and OpenAI's.
fn error_of(reply: &Reply) -> CallError {
    if reply.status == 401 {
        return CallError::Denied;
    }
    if let Ok(error) = answer::<ApiError>(&reply.body) {
        return CallError::Api(error);
    }
    if let Ok(body) = answer::<ErrorBody>(&reply.body) {
        return CallError::Api(ApiError::new(ErrorCode::Internal, body.error.message));
    }
    CallError::Unreadable(format!("status {}", reply.status))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A flat object as a query string, without what is null.
fn query(value: &Value) -> String {
    let mut out = String::new();
    for (name, value) in value.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        out.push_str(&escaped(&text_of(value)));
    }
    out
}

/// A picture's text as an address for `<img>`, where no script in it can run.
pub(crate) fn svg_address(svg: &str) -> String {
    format!("data:image/svg+xml,{}", escaped(svg))
}

/// Milliseconds of the page's clock.
pub fn now_ms() -> i64 {
    js_sys::Date::now() as i64
}

/// What to add to UTC to get local time.
pub fn local_offset_ms() -> i64 {
    -(js_sys::Date::new_0().get_timezone_offset() as i64) * 60_000
}

/// A clock that never jumps, for measuring.
pub(crate) fn monotonic_ms() -> f64 {
    let performance = js_sys::Reflect::get(&js_sys::global(), &"performance".into()).ok();
    performance
        .and_then(|p| {
            let now: js_sys::Function =
                js_sys::Reflect::get(&p, &"now".into()).ok()?.dyn_into().ok()?;
            now.call0(&p).ok()?.as_f64()
        })
        .unwrap_or_else(js_sys::Date::now)
}

/// What a JavaScript error says.
fn words(error: &JsValue) -> String {
    let text = error
        .as_string()
        .or_else(|| js_sys::Reflect::get(error, &"message".into()).ok()?.as_string())
        .or_else(|| js_sys::JSON::stringify(error).ok()?.as_string());
    text.unwrap_or_else(|| "no reason given".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_skip_nulls_and_escape() {
        assert_eq!(query(&serde_json::json!({})), "");
        assert_eq!(query(&serde_json::json!({"limit": 50, "before": null})), "?limit=50");
        assert_eq!(
            query(&serde_json::json!({"a": "x y&ü", "b": true})),
            "?a=x%20y%26%C3%BC&b=true"
        );
    }

    #[test]
    fn a_picture_stays_a_picture() {
        let address = svg_address("<svg onload=\"alert(1)\"/>");
        assert!(!address.contains('<') && !address.contains('"'), "{address}");
    }

    #[test]
    fn errors_keep_the_words_of_the_node() {
        let reply = |status, body: &str| Reply { status, body: body.into() };
        let own = reply(409, r#"{"code":"conflict","message":"The model is missing."}"#);
        assert_eq!(error_of(&own).to_string(), "The model is missing.");
        let openai =
            reply(503, r#"{"error":{"message":"No model.","type":"x","param":null,"code":null}}"#);
        assert_eq!(error_of(&openai).to_string(), "No model.");
        assert_eq!(error_of(&reply(401, "")), CallError::Denied);
        assert_eq!(error_of(&reply(502, "<html>")), CallError::Unreadable("status 502".into()));
        assert!(check(&reply(204, "")).is_ok());
    }
}
