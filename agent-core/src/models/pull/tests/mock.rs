//! A registry in this process that misbehaves on demand.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse as _,
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use crate::models::manifest::{Digest, Manifest};

/// A request for bytes that came in.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub path: String,
    pub range: Option<(u64, u64)>,
    pub authorization: Option<String>,
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Serve,
    Status(u16, Vec<(&'static str, String)>),
    /// Break the connection after so many bytes of the body.
    Cut(usize),
    /// Send nothing more after so many bytes of the body.
    Stall(usize),
    /// One bit is wrong.
    Flip,
    /// Ignore the range.
    Whole,
    /// Call it another range than it is.
    LieRange,
    /// One byte more than asked for, under another name.
    TooMuch,
    Redirect(String),
}

type Script = Box<dyn FnMut(&Seen) -> Act + Send>;

#[derive(Default)]
struct Held {
    blobs: HashMap<String, Bytes>,
    manifests: HashMap<String, Vec<u8>>,
    script: Option<Script>,
    seen: Vec<Seen>,
    etag: String,
}

/// The registry; ends with the test's runtime.
#[derive(Clone)]
pub(super) struct Mock {
    pub address: SocketAddr,
    held: Arc<Mutex<Held>>,
}

impl Mock {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let mock = Self { address, held: Arc::default() };
        mock.held().etag = "\"one\"".into();
        let router = Router::new()
            .route("/token", get(|| async { r#"{"token":"t0ken","expires_in":300}"# }))
            .fallback(serve)
            .with_state(mock.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        mock
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().expect("no test panics with it")
    }

    /// A name for a model here.
    pub(super) fn name(&self, model: &str) -> String {
        format!("{}/library/{model}:latest", self.address)
    }

    /// Holds a model of layers by their kind.
    pub(super) fn add(&self, model: &str, layers: &[(&str, &Bytes)]) -> Manifest {
        let layers: Vec<String> = layers
            .iter()
            .map(|(kind, bytes)| {
                let digest = Digest::of(bytes);
                self.held().blobs.insert(digest.to_string(), (*bytes).clone());
                layer_json(kind, &digest.to_string(), bytes.len() as u64)
            })
            .collect();
        let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
        self.add_manifest(model, &text);
        Manifest::parse(text.into_bytes()).expect("a manifest")
    }

    pub(super) fn add_manifest(&self, model: &str, text: &str) {
        self.held().manifests.insert(format!("library/{model}/latest"), text.into());
    }

    pub(super) fn add_file(&self, path: &str, bytes: &Bytes) {
        self.held().blobs.insert(path.to_owned(), bytes.clone());
    }

    pub(super) fn set_etag(&self, etag: &str) {
        self.held().etag = etag.to_owned();
    }

    /// Decides about every request for bytes from now on.
    pub(super) fn script(&self, script: impl FnMut(&Seen) -> Act + Send + 'static) {
        self.held().script = Some(Box::new(script));
    }

    pub(super) fn behave(&self) {
        self.held().script = None;
    }

    /// Requests for bytes since the last call.
    pub(super) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.held().seen)
    }
}

pub(super) fn layer_json(kind: &str, digest: &str, size: u64) -> String {
    format!(
        r#"{{"mediaType":"application/vnd.ollama.image.{kind}","digest":"{digest}","size":{size}}}"#
    )
}

async fn serve(State(mock): State<Mock>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    if let ["", "v2", namespace, model, "manifests", tag] = parts.as_slice() {
        let key = format!("{namespace}/{model}/{tag}");
        let seen = seen(&path, request.headers());
        let act = mock.held().script.as_mut().map_or(Act::Serve, |script| script(&seen));
        if let Act::Status(..) = act {
            return status(act);
        }
        let found = mock.held().manifests.get(&key).cloned();
        return match found {
            Some(text) => text.into_response(),
            None => (
                StatusCode::NOT_FOUND,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            )
                .into_response(),
        };
    }
    let key = match parts.as_slice() {
        ["", "v2", _, _, "blobs", digest] => (*digest).to_owned(),
        _ => path.clone(),
    };
    let seen = seen(&path, request.headers());
    let (act, blob, etag) = {
        let mut held = mock.held();
        held.seen.push(seen.clone());
        let act = held.script.as_mut().map_or(Act::Serve, |script| script(&seen));
        (act, held.blobs.get(&key).cloned(), held.etag.clone())
    };
    let if_range = request.headers().get(header::IF_RANGE).and_then(|v| v.to_str().ok());
    let same = if_range.is_none_or(|version| version == etag);
    match blob {
        Some(blob) => answer(blob, seen.range.filter(|_| same), act, &etag),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn seen(path: &str, headers: &HeaderMap) -> Seen {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let range = text(header::RANGE).and_then(|range| {
        let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, last.parse::<u64>().ok()? + 1))
    });
    Seen { path: path.to_owned(), range, authorization: text(header::AUTHORIZATION) }
}

fn status(act: Act) -> Response<Body> {
    let Act::Status(code, headers) = act else { panic!("a status") };
    let mut answer = Response::builder().status(code);
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    answer.body(Body::empty()).expect("an answer")
}

fn answer(blob: Bytes, range: Option<(u64, u64)>, act: Act, etag: &str) -> Response<Body> {
    let total = blob.len() as u64;
    let range = range.filter(|_| !matches!(act, Act::Whole));
    let (start, end) = range.map_or((0, total), |(start, end)| (start, end.min(total)));
    let mut bytes = blob.slice(start as usize..end as usize);
    let mut answer = Response::builder();
    if !etag.is_empty() {
        answer = answer.header("etag", etag);
    }
    if range.is_some() {
        let named = if matches!(act, Act::LieRange) { start + 1 } else { start };
        let range = format!("bytes {named}-{}/{total}", end - 1);
        answer = answer.status(206).header("content-range", range);
    }
    let body = match act {
        Act::Status(..) => return status(act),
        Act::Redirect(to) => {
            return Response::builder()
                .status(307)
                .header("location", to)
                .body(Body::empty())
                .expect("an answer");
        }
        Act::Flip => {
            let mut copy = bytes.to_vec();
            let middle = copy.len() / 2;
            copy[middle] ^= 1;
            Body::from(copy)
        }
        Act::TooMuch => {
            let mut copy = bytes.to_vec();
            copy.push(0);
            // Without a length, so that nobody sees it coming.
            return answer
                .body(Body::from_stream(stream::iter([Ok::<_, std::io::Error>(copy)])))
                .expect("an answer");
        }
        Act::Cut(at) => {
            bytes.truncate(at);
            let cut = stream::iter([Ok(bytes), Err(std::io::Error::other("cut"))]);
            Body::from_stream(cut)
        }
        Act::Stall(at) => {
            bytes.truncate(at);
            let first = stream::iter([Ok::<_, std::io::Error>(bytes)]);
            Body::from_stream(first.chain(stream::pending()))
        }
        _ => Body::from(bytes),
    };
    let length = (end - start).to_string();
    answer.header(header::CONTENT_LENGTH, length).body(body).expect("an answer")
}
