//! An HTTP proxy in front of a registry that breaks what a test tells it to, and remembers what it
//! was asked for.

mod body;

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HOST, LOCATION, RANGE},
        request::Parts,
    },
    response::{IntoResponse as _, Response},
};
use futures_util::StreamExt as _;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use self::body::{End, broken, cut_body, plain_body, slow_body};
use crate::{http, programs::PATIENCE};

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection breaks after this many bytes of the body.
    DropAfter(u64),
    /// The body stops after this many bytes and the connection stays open, until
    /// [`FaultProxy::release`].
    StallAfter(u64),
    /// One byte, at this place in the blob (not in the answer), is another one.
    FlipByte(u64),
    /// This status and no more; seconds for `Retry-After`.
    Status(u16, Option<u64>),
    /// The whole blob with status 200, whatever range was asked for.
    IgnoreRange,
    /// Bytes per second of each answer.
    Slow(u64),
    /// 307 to this address.
    Redirect(String),
    /// `Content-Range` of another part.
    WrongRange,
    /// `Content-Length` is larger than the body by this much.
    LongerLength(u64),
    /// These bytes instead of the registry's, with its content type.
    Body(Vec<u8>),
    /// 401 unless the token of [`FaultProxy::token`] is there; says where tokens are had.
    NeedsToken,
}

/// Which requests a fault is for.
#[derive(Clone, Debug)]
#[must_use]
pub struct Rule {
    path: String,
    method: Option<Method>,
    from_byte: u64,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// Every request whose path contains this.
    pub fn on(path: &str, fault: Fault) -> Self {
        let path = path.to_owned();
        Self { path, method: None, from_byte: 0, skip: 0, times: usize::MAX, fault }
    }

    /// Only `GET`, not `HEAD`.
    pub fn get(mut self) -> Self {
        self.method = Some(Method::GET);
        self
    }

    /// Only requests for ranges that begin there or later.
    pub fn from_byte(mut self, first: u64) -> Self {
        self.from_byte = first;
        self
    }

    /// Lets the first ones through.
    pub fn skip(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Then lets the rest through.
    pub fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    fn matches(&self, seen: &Seen) -> bool {
        let (first, last) = seen.range.unwrap_or((0, None));
        // A byte is flipped where it is sent, so that "once" means the first time it is.
        let is_sent = match self.fault {
            Fault::FlipByte(place) => first <= place && last.is_none_or(|last| place <= last),
            _ => true,
        };
        let method = self.method.as_ref().is_none_or(|method| method.as_str() == seen.method);
        is_sent && method && first >= self.from_byte && seen.path.contains(&self.path)
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// First and last byte asked for.
    pub range: Option<(u64, Option<u64>)>,
    pub authorization: Option<String>,
    /// Bytes of the body that were handed to the connection.
    pub sent: u64,
}

impl Seen {
    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    /// Of the blob asked for.
    pub fn digest(&self) -> Option<&str> {
        self.path.split_once("/blobs/").map(|(_, digest)| digest)
    }
}

/// Credentials that the proxy's own token service asks for, and the token it gives.
const TOKEN_PATH: &str = "/token";
const TOKEN: &str = "a-token-of-the-test";

struct Shared {
    upstream: String,
    /// `http://127.0.0.1:PORT`
    origin: String,
    client: reqwest::Client,
    rules: Mutex<Vec<(Rule, usize)>>,
    seen: Mutex<Vec<Seen>>,
    /// `Authorization` header that the token service wants.
    token_for: Mutex<Option<String>>,
    /// Counts up with everything seen or sent.
    changed: watch::Sender<u64>,
    /// Counts up with every release of stalled answers.
    released: watch::Sender<u64>,
}

/// Ends with its last answer when it is dropped.
pub struct FaultProxy {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    /// `127.0.0.1:PORT`, as in model names.
    pub host: String,
}

impl std::fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultProxy").field("host", &self.host).finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// `upstream`: `http://host:port`.
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let host = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            origin: format!("http://{host}"),
            client: http::client(),
            rules: Mutex::default(),
            seen: Mutex::default(),
            token_for: Mutex::default(),
            changed: watch::Sender::new(0),
            released: watch::Sender::new(0),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // An error ends the proxy, and the test notices.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { shared, server, host })
    }

    pub fn origin(&self) -> &str {
        &self.shared.origin
    }

    /// The first rule that matches a request counts.
    pub fn rule(&self, rule: Rule) {
        lock(&self.shared.rules).push((rule, 0));
    }

    /// From now on everything is passed through. Stalled answers stay as they are.
    pub fn clear_rules(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Lets all stalled answers go on to their end.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// Who gets a token for [`Fault::NeedsToken`].
    pub fn token_for(&self, username: &str, password: &str) {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        let credentials = BASE64_STANDARD.encode(format!("{username}:{password}"));
        *lock(&self.shared.token_for) = Some(format!("Basic {credentials}"));
    }

    /// The token that [`Fault::NeedsToken`] asks for.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Forgets what was seen.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Waits until what was seen is enough.
    pub async fn wait_until(&self, what: &str, enough: impl Fn(&[Seen]) -> bool) -> Result<()> {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            while !enough(&lock(&self.shared.seen)) {
                changed.changed().await?;
            }
            anyhow::Ok(())
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.with_context(|| format!("waited in vain: {what}. Seen: {:#?}", self.seen()))?
    }

    /// Bytes of blobs that were sent.
    pub fn blob_bytes(&self) -> u64 {
        self.seen().iter().filter(|seen| seen.is_blob()).map(|seen| seen.sent).sum()
    }

    /// Bytes of one blob that were sent.
    pub fn sent(&self, digest: &str) -> u64 {
        let all = self.seen();
        all.iter().filter(|seen| seen.digest() == Some(digest)).map(|seen| seen.sent).sum()
    }

    /// First byte, last byte asked for, and bytes sent, of every `GET` of a blob.
    pub fn ranges(&self, digest: &str) -> Vec<(u64, Option<u64>, u64)> {
        let all = self.seen();
        let of_blob =
            all.iter().filter(|seen| seen.method == "GET" && seen.digest() == Some(digest));
        of_blob
            .map(|seen| {
                let (first, last) = seen.range.unwrap_or((0, None));
                (first, last, seen.sent)
            })
            .collect()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.release();
        self.server.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn note(&self, seen: Seen) -> usize {
        let mut all = lock(&self.seen);
        all.push(seen);
        let at = all.len() - 1;
        drop(all);
        self.changed.send_modify(|count| *count += 1);
        at
    }

    fn note_sent(&self, at: usize, bytes: u64) {
        // Forgotten in the meantime: nobody wants to know.
        if let Some(seen) = lock(&self.seen).get_mut(at) {
            seen.sent += bytes;
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn fault_for(&self, seen: &Seen) -> Option<Fault> {
        for (rule, matched) in lock(&self.rules).iter_mut().filter(|(rule, _)| rule.matches(seen)) {
            *matched += 1;
            if *matched > rule.skip && *matched - rule.skip <= rule.times {
                return Some(rule.fault.clone());
            }
        }
        None
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Infallible> {
    // Only pulls go through here, so the body does not matter.
    let (request, _) = request.into_parts();
    let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    let seen = Seen {
        method: request.method.to_string(),
        path: request.uri.path().to_owned(),
        range: header(RANGE).and_then(parse_range),
        authorization: header(AUTHORIZATION).map(str::to_owned),
        sent: 0,
    };
    let at = shared.note(seen.clone());
    let authorization = seen.authorization.as_deref();
    if seen.path == TOKEN_PATH {
        return Ok(give_token(&shared, authorization));
    }
    // Before the rules are looked at: else a release after they are cleared could be missed.
    let released = shared.released.subscribe();
    let fault = shared.fault_for(&seen);
    if let Some(early) = fault.as_ref().and_then(|f| without_upstream(&shared, f, authorization)) {
        return Ok(early);
    }
    let passed = pass_on(&shared, &request, fault.as_ref()).await;
    let Ok(upstream) = passed else { return Ok(StatusCode::BAD_GATEWAY.into_response()) };
    Ok(with_fault(&shared, at, upstream, fault, released))
}

/// Answers that need nothing from the registry.
fn without_upstream(
    shared: &Shared,
    fault: &Fault,
    authorization: Option<&str>,
) -> Option<Response> {
    match fault {
        Fault::Status(code, retry_after) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::BAD_GATEWAY);
            let mut response = status.into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", HeaderValue::from(*seconds));
            }
            Some(response)
        }
        Fault::Redirect(to) => {
            let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
            let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
            response.headers_mut().insert(LOCATION, to);
            Some(response)
        }
        Fault::NeedsToken if authorization != Some(&format!("Bearer {TOKEN}")) => {
            let mut response = StatusCode::UNAUTHORIZED.into_response();
            let challenge = format!(
                r#"Bearer realm="{}{TOKEN_PATH}",service="test",scope="pull""#,
                shared.origin
            );
            if let Ok(value) = HeaderValue::from_str(&challenge) {
                response.headers_mut().insert("www-authenticate", value);
            }
            Some(response)
        }
        _ => None,
    }
}

fn give_token(shared: &Shared, authorization: Option<&str>) -> Response {
    let wanted = lock(&shared.token_for).clone();
    if wanted.is_some() && wanted.as_deref() == authorization {
        axum::Json(serde_json::json!({"token": TOKEN, "expires_in": 300})).into_response()
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

async fn pass_on(
    shared: &Shared,
    request: &Parts,
    fault: Option<&Fault>,
) -> reqwest::Result<reqwest::Response> {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers: HeaderMap = request.headers.clone();
    headers.remove(HOST);
    if matches!(fault, Some(Fault::IgnoreRange)) {
        headers.remove(RANGE);
    }
    if matches!(fault, Some(Fault::NeedsToken)) {
        // Ours, not the registry's.
        headers.remove(AUTHORIZATION);
    }
    let url = format!("{}{path}", shared.upstream);
    shared.client.request(request.method.clone(), url).headers(headers).send().await
}

/// The registry's answer with what is to go wrong.
fn with_fault(
    shared: &Arc<Shared>,
    at: usize,
    upstream: reqwest::Response,
    fault: Option<Fault>,
    released: watch::Receiver<u64>,
) -> Response {
    let mut headers = upstream.headers().clone();
    let status = upstream.status();
    let begins = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).map_or(0, range_start);
    let body = match fault {
        Some(Fault::Body(bytes)) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            // Else the lie would be told apart by what the registry says about the truth.
            headers.remove("docker-content-digest");
            headers.remove("etag");
            shared.note_sent(at, bytes.len() as u64);
            Body::from(bytes)
        }
        Some(Fault::WrongRange) => {
            if let Some(lie) = headers.get(CONTENT_RANGE).and_then(moved_range) {
                headers.insert(CONTENT_RANGE, lie);
            }
            plain_body(shared, at, upstream, None)
        }
        Some(Fault::LongerLength(more)) => {
            let length = upstream.content_length().unwrap_or_default() + more;
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            let body = plain_body(shared, at, upstream, None).into_data_stream();
            let end = futures_util::stream::once(broken());
            Body::from_stream(body.map(|piece| piece.map_err(io::Error::other)).chain(end))
        }
        Some(Fault::FlipByte(place)) => plain_body(shared, at, upstream, place.checked_sub(begins)),
        Some(Fault::DropAfter(bytes)) => cut_body(shared, at, upstream, bytes, End::Drop, released),
        Some(Fault::StallAfter(bytes)) => {
            cut_body(shared, at, upstream, bytes, End::Stall, released)
        }
        Some(Fault::Slow(rate)) => slow_body(shared, at, upstream, rate),
        Some(Fault::Status(..) | Fault::Redirect(_) | Fault::IgnoreRange | Fault::NeedsToken)
        | None => plain_body(shared, at, upstream, None),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    headers.remove("connection");
    headers.remove("transfer-encoding");
    *response.headers_mut() = headers;
    response
}

/// `bytes=FIRST-LAST` or `bytes=FIRST-`.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

/// First byte in `bytes FIRST-LAST/TOTAL`.
fn range_start(text: &str) -> u64 {
    let first = text.strip_prefix("bytes ").and_then(|rest| rest.split('-').next());
    first.and_then(|first| first.parse().ok()).unwrap_or(0)
}

fn moved_range(value: &HeaderValue) -> Option<HeaderValue> {
    let text = value.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    HeaderValue::from_str(&format!("bytes {}-{}/{total}", first + 1, last + 1)).ok()
}
