//! GETs with redirects followed by hand, and the answers to them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use agent_api::settings::Registry;
use bytes::{Bytes, BytesMut};
use reqwest::{Client, Response, StatusCode, Url, header};
use tokio::time::Instant;

use super::{
    Heard, MAX_ERROR_BYTES, RegistryError,
    place::{Place, authority, is_loopback},
};
use crate::{models::registry::ANSWER_TIMEOUT, tls::install_crypto};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Object stores need one or two.
const MAX_REDIRECTS: usize = 5;
/// One per certificate file and two; a file that was edited needs a new start.
const MAX_CLIENTS: usize = 16;
/// A certificate file with every authority there is has a quarter of it.
const MAX_CA_BYTES: u64 = 1 << 20;

/// Clients by what they trust.
#[derive(Debug, Default)]
pub(super) struct Http {
    clients: Mutex<HashMap<Trust, Client>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Trust {
    /// Plain HTTP on this computer: no certificates, no proxy.
    Loopback,
    /// Plain HTTP elsewhere.
    Plain,
    System,
    /// The system's and those of a file.
    File(String),
}

/// One GET.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub url: Url,
    pub accept: Option<&'static str>,
    pub authorization: Option<header::HeaderValue>,
    /// From, and up to without.
    pub range: Option<(u64, u64)>,
    pub if_range: Option<String>,
}

impl Ask {
    pub(super) fn new(url: Url) -> Self {
        Self { url, accept: None, authorization: None, range: None, if_range: None }
    }
}

/// `Content-Range: bytes start-last/total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    pub total: Option<u64>,
}

/// The head of an answer; its body follows.
#[derive(Debug)]
pub struct Answer {
    response: Response,
    url: Url,
    heard: Option<Heard>,
}

impl Http {
    /// Follows up to five redirects. Authorization is sent to the first host only, and nothing
    /// goes from TLS to plain text.
    pub(super) async fn get(
        &self,
        mut ask: Ask,
        registries: &[Registry],
        heard: Option<Heard>,
    ) -> Result<Answer, RegistryError> {
        for _ in 0..=MAX_REDIRECTS {
            let host = authority(&ask.url);
            let client = self.client(&ask.url, registries)?;
            let sent = request(&client, &ask).send().await;
            let response = sent.map_err(|e| RegistryError::from_reqwest(host.clone(), &e))?;
            tell(heard.as_ref());
            if !is_redirect(response.status()) {
                return Ok(Answer { response, url: ask.url, heard });
            }
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = check_redirect(&ask.url, location)?;
            if next.origin() != ask.url.origin() {
                ask.authorization = None;
            }
            ask.url = next;
        }
        let host = authority(&ask.url);
        Err(RegistryError::Redirect { to: host.clone(), host, why: "that was one too many" })
    }

    fn client(&self, url: &Url, registries: &[Registry]) -> Result<Client, RegistryError> {
        let trust = match (url.scheme(), is_loopback(url)) {
            ("http", true) => Trust::Loopback,
            ("http", false) => Trust::Plain,
            _ => ca_file(url, registries).map_or(Trust::System, Trust::File),
        };
        let known =
            self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&trust).cloned();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = build(&trust, is_loopback(url))?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(trust, client.clone());
        Ok(client)
    }
}

fn request(client: &Client, ask: &Ask) -> reqwest::RequestBuilder {
    // Compressed bytes have other offsets and other hashes.
    let mut request = client.get(ask.url.clone()).header(header::ACCEPT_ENCODING, "identity");
    if let Some(accept) = ask.accept {
        request = request.header(header::ACCEPT, accept);
    }
    if let Some(authorization) = &ask.authorization {
        request = request.header(header::AUTHORIZATION, authorization.clone());
    }
    if let Some((start, end)) = ask.range {
        request =
            request.header(header::RANGE, format!("bytes={start}-{}", end.max(start + 1) - 1));
    }
    if let Some(version) = &ask.if_range {
        request = request.header(header::IF_RANGE, version);
    }
    request
}

/// The certificate file of the registry that an address belongs to.
fn ca_file(url: &Url, registries: &[Registry]) -> Option<String> {
    let wanted = authority(url);
    let theirs = |entry: &&Registry| {
        entry.host.eq_ignore_ascii_case(&wanted)
            || Place::of(&entry.host, std::slice::from_ref(*entry))
                .is_ok_and(|place| authority(&place.base) == wanted)
    };
    registries.iter().find(theirs).and_then(|entry| entry.ca_file.clone())
}

fn build(trust: &Trust, loopback: bool) -> Result<Client, RegistryError> {
    install_crypto();
    let mut builder = Client::builder()
        .user_agent(concat!("EdgeCoder/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    if loopback {
        builder = builder.no_proxy();
    }
    match trust {
        Trust::System => {}
        // Reading the system's certificates would be for nothing, and fails where there are none.
        Trust::Loopback => {
            let config = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder = builder.tls_backend_preconfigured(config);
        }
        // The proxy may be one that is reached over TLS.
        Trust::Plain => {}
        Trust::File(path) => builder = builder.tls_certs_merge(read_ca(path)?),
    }
    builder.build().map_err(|e| RegistryError::Setup(e.to_string()))
}

fn read_ca(path: &str) -> Result<Vec<reqwest::Certificate>, RegistryError> {
    let bad = |why: String| RegistryError::File { path: path.to_owned(), why };
    let meta = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?;
    if meta.len() > MAX_CA_BYTES {
        return Err(bad("it is too large for a certificate file".into()));
    }
    let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))?;
    if found.is_empty() {
        return Err(bad("there is no certificate in it; it has to be in PEM form".into()));
    }
    Ok(found)
}

/// A server said something.
fn tell(heard: Option<&Heard>) {
    if let Some(heard) = heard {
        heard.send_replace(Instant::now());
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn check_redirect(from: &Url, location: &str) -> Result<Url, RegistryError> {
    let refuse = |why| RegistryError::Redirect {
        host: authority(from),
        to: location.chars().take(80).collect(),
        why,
    };
    let to = from.join(location).map_err(|_| refuse("it is not an address"))?;
    match (from.scheme(), to.scheme()) {
        ("https", "http") => Err(refuse("it is not encrypted, and what came before was")),
        (_, "http" | "https") if is_loopback(&to) && !is_loopback(from) => {
            Err(refuse("it is this computer"))
        }
        (_, "http" | "https") if !to.username().is_empty() || to.password().is_some() => {
            Err(refuse("it has a password in it"))
        }
        (_, "http" | "https") => Ok(to),
        _ => Err(refuse("only http and https are spoken")),
    }
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Where it came from in the end.
    pub fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn headers(&self, name: &header::HeaderName) -> Vec<String> {
        let values = self.response.headers().get_all(name).iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.response.headers().get(name)?.to_str().ok().map(str::to_owned)
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    pub fn content_range(&self) -> Option<ContentRange> {
        parse_content_range(&self.header("content-range")?)
    }

    /// What changes with the file. Only strong `ETag`s may be used for ranges (RFC 9110, 13.1.5).
    pub fn version(&self) -> Option<String> {
        let etag = self.header("etag").filter(|etag| !etag.starts_with("W/"));
        etag.or_else(|| self.header("last-modified"))
    }

    /// The next bytes of the body, `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let host = authority(&self.url);
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|e| RegistryError::from_reqwest(host, &e))?;
        tell(self.heard.as_ref());
        Ok(chunk)
    }

    /// Passes a success on; anything else becomes an error with the server's own words.
    pub(super) async fn accepted(self, host: &str, what: &str) -> Result<Self, RegistryError> {
        let status = self.status();
        if status.is_success() {
            return Ok(self);
        }
        let retry_after = self.header("retry-after").and_then(|text| parse_retry_after(&text));
        let message = self.error_message().await;
        Err(RegistryError::from_status(
            host.to_owned(),
            what.to_owned(),
            status,
            message,
            retry_after,
        ))
    }

    /// Whole body of a bounded size.
    pub(super) async fn bytes(self, limit: usize, host: &str) -> Result<Bytes, RegistryError> {
        let too_large = || RegistryError::TooLarge { host: host.to_owned(), limit };
        if self.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let bytes = self.first_bytes(limit + 1, host).await?;
        if bytes.len() > limit { Err(too_large()) } else { Ok(bytes) }
    }

    /// The body's first bytes, at most `limit`.
    pub(super) async fn first_bytes(
        mut self,
        limit: usize,
        host: &str,
    ) -> Result<Bytes, RegistryError> {
        let reading = async {
            let mut all = BytesMut::new();
            while all.len() < limit {
                let Some(chunk) = self.chunk().await? else { break };
                let fits = chunk.len().min(limit - all.len());
                all.extend_from_slice(&chunk[..fits]);
            }
            Ok(all.freeze())
        };
        tokio::time::timeout(ANSWER_TIMEOUT, reading).await.unwrap_or_else(|_| {
            Err(RegistryError::Silent { host: host.to_owned(), seconds: ANSWER_TIMEOUT.as_secs() })
        })
    }

    async fn error_message(self) -> String {
        let Ok(body) = self.first_bytes(MAX_ERROR_BYTES, "").await else { return String::new() };
        error_message(&body)
    }
}

/// `{"errors":[{"code","message"}]}` of OCI, `{"error"}` of others; else nothing, HTML helps nobody.
fn error_message(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return String::new() };
    let first = json.pointer("/errors/0");
    let text = first
        .and_then(|error| error.get("message").or_else(|| error.get("code")))
        .or_else(|| json.get("error"))
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (start.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let end = last.checked_add(1)?;
    (start < end).then_some(ContentRange { start, end, total })
}

/// Longest wait that a server may ask for; what it asks beyond is asked again.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// Seconds, or a date (RFC 9110, 10.2.3).
fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let millis = date.timestamp().as_millisecond() - crate::clock::now_ms();
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_and_nonsense_is_not() {
        let range = |start, end, total| Some(ContentRange { start, end, total });
        assert_eq!(parse_content_range("bytes 0-9/100"), range(0, 10, Some(100)));
        assert_eq!(parse_content_range("bytes 5-5/*"), range(5, 6, None));
        for bad in ["", "bytes */100", "bytes 9-0/100", "0-9/100", "bytes 0-18446744073709551615/1"]
        {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        assert_eq!(parse_retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(
            parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::from_secs(0))
        );
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn redirects_only_go_where_they_may() {
        let https = Url::parse("https://r.example/v2/x").expect("an address");
        let here = Url::parse("http://127.0.0.1:5000/v2/x").expect("an address");
        for (from, to, why) in [
            (&https, "http://cdn.example/x", "not encrypted"),
            (&https, "file:///etc/passwd", "only http and https"),
            (&https, "ftp://cdn.example/x", "only http and https"),
            (&https, "https://127.0.0.1/x", "this computer"),
            (&https, "https://a:b@cdn.example/x", "password"),
            (&here, "data:text/plain,x", "only http and https"),
        ] {
            let error = check_redirect(from, to).expect_err(to).to_string();
            assert!(error.contains(why), "{to}: {error}");
        }
        let moved = check_redirect(&https, "/blobs/x?sig=1").expect("may");
        assert_eq!(moved.as_str(), "https://r.example/blobs/x?sig=1");
        assert!(check_redirect(&here, "https://cdn.example/x").is_ok());
    }

    #[test]
    fn what_a_server_says_is_passed_on_and_its_html_is_not() {
        let oci = br#"{"errors":[{"code":"DENIED","message":"no\u0007 access"}]}"#;
        assert_eq!(error_message(oci), "no access");
        assert_eq!(error_message(br#"{"error":"gone fishing"}"#), "gone fishing");
        assert_eq!(error_message(b"<html>502</html>"), "");
    }
}
