//! What every HTTP request has to pass: `Host`, `Origin`, token or key.
//!
//! - **Host** (DNS rebinding): a web page can make its own name resolve to 127.0.0.1 and then read
//!   our answers as its own. Such a request carries the page's name in `Host`, so only loopback
//!   names, our own address and the owner's `allowed_hosts` pass.
//! - **Origin** (cross-site requests): a browser sends it with every cross-site POST. Only our own
//!   page and the owner's `allowed_origins` pass. Programs that are not browsers send none.
//! - **Token**: the control paths need it; what a seed tells everyone needs nothing. `/v1` and `/api` (the OpenAI and the Ollama API) are open
//!   on loopback; other computers need the API key, and are refused while the node is paused.

use std::net::IpAddr;

use agent_api::{
    ErrorCode, Settings,
    endpoint::{Access, find},
};
use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_REQUEST_HEADERS, AUTHORIZATION, CONTENT_LENGTH, HOST, ORIGIN, VARY,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq as _;

use super::{
    error::Failure, follow, ollama::OllamaError, openai::OpenAiError, own::too_large, pulls,
    routed::EXPOSED, server::Peer,
};
use crate::{config::limits, node::Node};

/// Why a request is turned away.
#[derive(Debug, PartialEq)]
struct Refusal {
    code: ErrorCode,
    message: String,
}

pub(super) async fn guard(State(node): State<Node>, request: Request, next: Next) -> Response {
    let settings = node.settings();
    // Said before the body arrives; what comes without a length is cut off while it is read.
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if length > limits::BODY_BYTES as u64 {
        let refusal = Refusal { code: ErrorCode::TooLarge, message: too_large() };
        return refuse(request.uri().path(), refusal);
    }
    // Only an origin the owner listed needs CORS headers; our own page is same-origin.
    let cors = Cors::of(request.headers(), &settings);
    let allowed = match check(&node, &settings, &request) {
        Ok(allowed) => allowed,
        Err(refusal) => {
            let path = request.uri().path();
            tracing::warn!("refused {} {path}: {}", request.method(), refusal.message);
            return with_cors(refuse(path, refusal), cors);
        }
    };
    if allowed == Allowed::ListedOrigin && request.method() == Method::OPTIONS {
        return with_cors(StatusCode::NO_CONTENT.into_response(), cors);
    }
    with_cors(next.run(request).await, cors)
}

/// What a listed web origin is told.
struct Cors {
    origin: HeaderValue,
    /// The headers it asked for: OpenAI's client for browsers sends a dozen of its own.
    headers: HeaderValue,
}

impl Cors {
    fn of(headers: &HeaderMap, settings: &Settings) -> Option<Self> {
        let origin = headers.get(ORIGIN)?.clone();
        let text = origin.to_str().ok()?;
        if !settings.allowed_origins.iter().any(|o| o.eq_ignore_ascii_case(text)) {
            return None;
        }
        let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let usual = || HeaderValue::from_static("authorization, content-type");
        Some(Self { origin, headers: asked.unwrap_or_else(usual) })
    }
}

fn refuse(path: &str, refusal: Refusal) -> Response {
    let Refusal { code, message } = refusal;
    match dialect(path) {
        Some(Dialect::OpenAi) => OpenAiError::refused(code, message).into_response(),
        Some(Dialect::Ollama) => OllamaError::refused(code, message).into_response(),
        None => Failure::new(code, message).into_response(),
    }
}

fn with_cors(mut response: Response, cors: Option<Cors>) -> Response {
    if let Some(Cors { origin, headers: allowed }) = cors {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(VARY, HeaderValue::from_static("origin"));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, PATCH, DELETE"),
        );
    }
    response
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    Plain,
    ListedOrigin,
}

fn check(node: &Node, settings: &Settings, request: &Request) -> Result<Allowed, Refusal> {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    // A connection without a known peer does not exist; if it did, it would not be local.
    let local = peer.is_some_and(|ip| ip.to_canonical().is_loopback());
    let exposed = !node.listen().ip().is_loopback();
    if is_for_everyone(node, request.uri().path()) {
        return Ok(Allowed::Plain);
    }
    let host = check_host(request, settings, exposed)?;
    let allowed = check_origin(request.headers(), settings, &host)?;
    let preflight = request.method() == Method::OPTIONS && allowed == Allowed::ListedOrigin;
    if preflight {
        return Ok(allowed);
    }
    let path = request.uri().path();
    let secret = bearer(request.headers());
    let token = secret.is_some_and(|s| same(s, node.token()));
    match needed(path, local) {
        Needed::Nothing => {}
        Needed::Token if token => {}
        Needed::Token => {
            return Err(Refusal {
                code: ErrorCode::Unauthorized,
                message: format!(
                    "{path} needs the token of this node: send it as \"Authorization: Bearer TOKEN\". It is in the file {}.",
                    node.config().paths.token().display()
                ),
            });
        }
        Needed::Key => {
            let key = settings.api_key.as_deref();
            let known = secret.zip(key).is_some_and(|(secret, key)| same(secret, key));
            if !known && !token {
                return Err(Refusal {
                    code: ErrorCode::Unauthorized,
                    message: "Requests from other computers need the API key of this node: send it as \"Authorization: Bearer KEY\".".into(),
                });
            }
            if node.is_paused() {
                return Err(Refusal {
                    code: ErrorCode::Unavailable,
                    message: "The owner of this node paused it. Try again later.".into(),
                });
            }
        }
    }
    Ok(allowed)
}

/// What a seed tells anyone, whatever name it was asked by: the proxy in front of it has a name
/// that need not be in `allowed_hosts`, where it would open the rest of the API too. Other sites'
/// pages cannot read the answer, as it carries no CORS headers.
fn is_for_everyone(node: &Node, path: &str) -> bool {
    node.is_seed() && find(path).is_some_and(|row| row.access == Access::Public)
}

/// Ollama's paths that change what is on this computer. The key is for asking models, not for
/// removing them.
const OWNERS: [&str; 3] = ["/api/pull", "/api/delete", "/api/copy"];

#[derive(Debug, PartialEq)]
enum Needed {
    Nothing,
    Token,
    Key,
}

fn needed(path: &str, local: bool) -> Needed {
    if dialect(path).is_some() {
        return match local {
            true => Needed::Nothing,
            false if OWNERS.contains(&path) => Needed::Token,
            false => Needed::Key,
        };
    }
    if matches!(path, "/events" | "/metrics" | pulls::PATH) || follow::is_follow(path) {
        return Needed::Token;
    }
    match find(path).map(|row| row.access) {
        Some(Access::Token) => Needed::Token,
        // "Anyone on this computer"; others learn nothing about the node without its key.
        Some(Access::Open | Access::Public) if !local => Needed::Key,
        None if path == "/openapi.json" && !local => Needed::Key,
        // The page's files hold no secret.
        Some(Access::Open | Access::Public) | None => Needed::Nothing,
    }
}

/// Whose API a path belongs to, where it is not our own: who may call it, and how its errors look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    OpenAi,
    Ollama,
}

fn dialect(path: &str) -> Option<Dialect> {
    let first = path.strip_prefix('/')?.split('/').next()?;
    match first {
        "v1" => Some(Dialect::OpenAi),
        "api" => Some(Dialect::Ollama),
        _ => None,
    }
}

/// The `Host` of the request, if it is one of ours.
fn check_host(request: &Request, settings: &Settings, exposed: bool) -> Result<String, Refusal> {
    let refusal = |message| Refusal { code: ErrorCode::Forbidden, message };
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    // HTTP/1.1 has it in the header; an absolute request target overrides it.
    let host = request.uri().authority().map(|a| a.as_str()).or(host);
    let Some(host) = host else {
        return Err(refusal(
            "The request does not say which host it is for (no Host header).".into(),
        ));
    };
    let host = host.to_ascii_lowercase();
    let name = host_name(&host);
    let ok = match name.parse::<IpAddr>() {
        // An address cannot be rebound. Elsewhere than on loopback we cannot know all our own.
        Ok(ip) => exposed || ip.to_canonical().is_loopback(),
        Err(_) => {
            name == "localhost"
                || settings.allowed_hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
        }
    };
    if ok {
        return Ok(host);
    }
    Err(refusal(format!(
        "The host {name:?} is not this node. If it should be, add it to allowed_hosts in the settings."
    )))
}

/// Without the port, and without the brackets of an IPv6 address.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn check_origin(headers: &HeaderMap, settings: &Settings, host: &str) -> Result<Allowed, Refusal> {
    let Some(origin) = headers.get(ORIGIN) else {
        // Browsers leave Origin out of simple GETs but say where those come from.
        let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
        let mode = headers.get("sec-fetch-mode").and_then(|mode| mode.to_str().ok());
        if site == Some("cross-site") && mode != Some("navigate") {
            return Err(Refusal {
                code: ErrorCode::Forbidden,
                message: "Other web pages may not call this node.".into(),
            });
        }
        return Ok(Allowed::Plain);
    };
    let origin = origin.to_str().unwrap_or_default();
    if origin.strip_prefix("http://").is_some_and(|own| own.eq_ignore_ascii_case(host)) {
        return Ok(Allowed::Plain);
    }
    if settings.allowed_origins.iter().any(|o| o.eq_ignore_ascii_case(origin)) {
        return Ok(Allowed::ListedOrigin);
    }
    Err(Refusal {
        code: ErrorCode::Forbidden,
        message: format!(
            "The web page {origin:?} may not call this node. If it should, add it to allowed_origins in the settings."
        ),
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
}

/// In constant time for equal lengths; the lengths are no secret.
fn same(given: &str, known: &str) -> bool {
    given.as_bytes().ct_eq(known.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::builder().uri("/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).expect("a request")
    }

    fn host(name: &str, exposed: bool) -> bool {
        let settings =
            Settings { allowed_hosts: vec!["workbench.lan".into()], ..Settings::default() };
        check_host(&request(&[("host", name)]), &settings, exposed).is_ok()
    }

    #[test]
    fn only_our_own_names_pass() {
        for name in
            ["127.0.0.1:4301", "localhost:4301", "LOCALHOST", "[::1]:4301", "workbench.lan:4301"]
        {
            assert!(host(name, false), "{name}");
        }
        for name in
            ["evil.example", "evil.example:4301", "127.0.0.1.evil.example", "192.168.1.5:4301", ""]
        {
            assert!(!host(name, false), "{name}");
        }
        assert!(host("192.168.1.5:4301", true), "an exposed node answers to its addresses");
        assert!(!host("evil.example", true));
        assert!(check_host(&request(&[]), &Settings::default(), false).is_err());
    }

    fn origin(headers: &[(&str, &str)]) -> Option<Allowed> {
        let settings =
            Settings { allowed_origins: vec!["https://ok.example".into()], ..Settings::default() };
        check_origin(request(headers).headers(), &settings, "127.0.0.1:4301").ok()
    }

    #[test]
    fn only_our_page_and_listed_origins_pass() {
        assert_eq!(origin(&[]), Some(Allowed::Plain));
        assert_eq!(origin(&[("origin", "http://127.0.0.1:4301")]), Some(Allowed::Plain));
        assert_eq!(origin(&[("origin", "https://ok.example")]), Some(Allowed::ListedOrigin));
        for bad in
            ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:4301"]
        {
            assert_eq!(origin(&[("origin", bad)]), None, "{bad}");
        }
        let cross = ("sec-fetch-site", "cross-site");
        assert_eq!(origin(&[cross, ("sec-fetch-mode", "no-cors")]), None);
        assert_eq!(origin(&[cross, ("sec-fetch-mode", "navigate")]), Some(Allowed::Plain));
    }

    #[test]
    fn control_paths_need_the_token_everywhere_and_inference_a_key_from_afar() {
        for path in OWNERS {
            assert_eq!(needed(path, true), Needed::Nothing);
            assert_eq!(needed(path, false), Needed::Token);
        }
        assert_eq!(needed("/status", true), Needed::Token);
        assert_eq!(needed("/events", true), Needed::Token);
        assert_eq!(needed("/metrics", true), Needed::Token);
        assert_eq!(needed("/health/runtime", true), Needed::Nothing);
        assert_eq!(needed("/health/runtime", false), Needed::Key);
        assert_eq!(needed("/mesh", true), Needed::Token);
        assert_eq!(needed("/agent-mesh/peers/abc", true), Needed::Token);
        assert_eq!(needed("/network/coordinators", true), Needed::Nothing);
        assert_eq!(needed("/network/coordinators", false), Needed::Key);
        assert_eq!(needed("/v1/models", true), Needed::Nothing);
        assert_eq!(needed("/v1/models", false), Needed::Key);
        for path in ["/api", "/api/chat", "/api/tags"] {
            assert_eq!(needed(path, true), Needed::Nothing, "{path}");
            assert_eq!(needed(path, false), Needed::Key, "{path}");
        }
        assert_eq!(needed("/apiary", true), Needed::Nothing);
        assert_eq!(dialect("/apiary"), None);
        assert_eq!(needed("/model/pull/stream", true), Needed::Token);
        assert_eq!(needed("/", true), Needed::Nothing);
    }
}
