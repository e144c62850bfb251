//! One POST to a webhook.

use std::{
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

use agent_api::tasks::Webhook;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Client, ClientBuilder, StatusCode, Url, header, redirect::Policy};
use sha2::Sha256;

use super::OutboxError;
use crate::tls::install_crypto;

/// From the first byte sent to the head of the answer, name and connection included.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Redirects within the same place: one for a slash, one for luck.
const REDIRECTS: usize = 2;
/// Longest address; what browsers take.
const URL_BYTES: usize = 2_048;
/// Longest secret: SHA-256 hashes a longer key first, to no gain.
const SECRET_BYTES: usize = 256;
/// What is kept of a client's own words about a failure, in characters.
const PROBLEM_CHARS: usize = 200;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    /// To be tried again; a sentence.
    Failed(String),
    /// Not to be tried again; a sentence.
    Refused(String),
}

/// Checks a webhook as far as that goes without asking for its host's address: that is checked
/// again at every attempt.
///
/// # Errors
/// What is wrong with its address or its secret.
pub fn check(webhook: &Webhook) -> Result<(), OutboxError> {
    let url = parse(&webhook.url)?;
    if webhook.secret.as_ref().is_some_and(|secret| secret.len() > SECRET_BYTES) {
        return Err(OutboxError::Secret(SECRET_BYTES));
    }
    let literal = host(&url).parse::<IpAddr>();
    match (url.scheme(), literal) {
        ("http", Ok(ip)) if !is_near(ip) => Err(OutboxError::Plain(shown(&url))),
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Result<Url, OutboxError> {
    let wrong = |why: &str| OutboxError::Url(why.to_owned());
    if text.len() > URL_BYTES {
        return Err(wrong("it is longer than 2,048 bytes"));
    }
    let url = Url::parse(text).map_err(|e| wrong(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("it begins neither with https:// nor with http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it has a user name in it; use the secret instead"));
    }
    Ok(url)
}

/// Without the brackets of an IPv6 address.
fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// Scheme, host and port: a path or query may hold a key.
fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// This computer, or a network that is nobody else's: what is sent there unencrypted stays there.
fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // 100.64.0.0/10 (RFC 6598) is what overlay networks use.
            let [first, second, ..] = ip.octets();
            let shared = first == 100 && (64..128).contains(&second);
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// What posts. Made once; the client for HTTPS reads the system's certificates on first use.
#[derive(Debug, Default)]
pub(super) struct Post {
    https: OnceLock<Client>,
}

impl Post {
    pub(super) async fn deliver(&self, webhook: &Webhook, id: &str, body: &str) -> Outcome {
        let mut url = match parse(&webhook.url) {
            Ok(url) => url,
            Err(e) => return Outcome::Refused(crate::text::sentence(&e.to_string())),
        };
        let signature = webhook.secret.as_deref().map(|secret| sign(secret, body));
        let all = async {
            for _ in 0..=REDIRECTS {
                match self.post(&url, id, body, signature.as_deref()).await {
                    Ok(Answer::Outcome(outcome)) => return outcome,
                    Ok(Answer::Redirect(next)) => url = next,
                    Err(problem) => return Outcome::Failed(problem),
                }
            }
            Outcome::Failed("It was redirected too often.".to_owned())
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, all).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(format!(
                "There was no answer within {} seconds.",
                ANSWER_TIMEOUT.as_secs()
            )),
        }
    }

    async fn post(
        &self,
        url: &Url,
        id: &str,
        body: &str,
        signature: Option<&str>,
    ) -> Result<Answer, String> {
        let client = self.client(url).await?;
        let mut request = client
            .post(url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", id)
            .body(body.to_owned());
        if let Some(signature) = signature {
            request = request.header("X-EdgeCoder-Signature", signature);
        }
        let response = request.send().await.map_err(|e| failure(&e))?;
        // The status says it all: the body is not read, however long it is.
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        Ok(answered(url, response.status(), location))
    }

    /// Plain HTTP goes only to addresses that were looked at, whatever the name says a moment later.
    async fn client(&self, url: &Url) -> Result<Client, String> {
        if url.scheme() == "https" {
            if let Some(client) = self.https.get() {
                return Ok(client.clone());
            }
            let client = build(Client::builder())?;
            return Ok(self.https.get_or_init(|| client).clone());
        }
        let name = host(url).to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let found = tokio::net::lookup_host((name.as_str(), port)).await;
        let found = found.map_err(|e| format!("The host {name} was not found: {e}."))?;
        let near: Vec<SocketAddr> = found.filter(|address| is_near(address.ip())).collect();
        if near.is_empty() {
            let e = OutboxError::Plain(shown(url));
            return Err(crate::text::sentence(&e.to_string()));
        }
        // No certificates and no proxy: it is next to us.
        build(Client::builder().no_proxy().tls_certs_only([]).resolve_to_addrs(&name, &near))
    }
}

fn build(builder: ClientBuilder) -> Result<Client, String> {
    install_crypto();
    builder
        .redirect(Policy::none())
        .timeout(ANSWER_TIMEOUT)
        .user_agent(concat!("EdgeCoder/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| format!("The client for HTTP cannot be made: {e}."))
}

enum Answer {
    Outcome(Outcome),
    /// The same request, there.
    Redirect(Url),
}

fn answered(url: &Url, status: StatusCode, location: Option<&str>) -> Answer {
    if status.is_success() {
        return Answer::Outcome(Outcome::Delivered);
    }
    let failed = |problem: String| Answer::Outcome(Outcome::Failed(problem));
    match status {
        StatusCode::GONE => Answer::Outcome(Outcome::Refused(
            "The receiver answered 410 Gone: it wants no more of these.".to_owned(),
        )),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
            match location.and_then(|to| url.join(to).ok()) {
                Some(next) if next.origin() == url.origin() => Answer::Redirect(next),
                Some(next) => failed(format!(
                    "It was redirected to {}, another place. Use that address if it is meant.",
                    shown(&next)
                )),
                None => failed("It was redirected to nowhere.".to_owned()),
            }
        }
        _ if status.is_redirection() => {
            failed(format!("The receiver answered {status}, which a POST cannot follow."))
        }
        _ => failed(format!("The receiver answered {status}.")),
    }
}

/// A client's error without the address, whose path may hold a key.
fn failure(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("There was no answer within {} seconds.", ANSWER_TIMEOUT.as_secs());
    }
    let mut why: &dyn std::error::Error = error;
    while let Some(source) = why.source() {
        why = source;
    }
    let why: String = why.to_string().chars().take(PROBLEM_CHARS).collect();
    let what = if error.is_connect() { "The receiver cannot be reached" } else { "It broke off" };
    crate::text::sentence(&format!("{what}: {why}"))
}

/// `sha256=` and the HMAC-SHA-256 (RFC 2104) of the body in hexadecimal.
fn sign(secret: &str, body: &str) -> String {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return String::new();
    };
    mac.update(body.as_bytes());
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(url: &str) -> Webhook {
        Webhook { url: url.to_owned(), secret: None }
    }

    #[test]
    fn plain_text_goes_to_this_computer_and_its_network_only() {
        for near in [
            "https://hooks.example/x?key=1",
            "http://127.0.0.1:8080/x",
            "http://[::1]/x",
            "http://192.168.1.5/x",
            "http://[fd00::1]:81/",
            "http://100.100.1.1/",
            // By its address at the time of the attempt.
            "http://nas.local/x",
        ] {
            assert!(check(&webhook(near)).is_ok(), "{near}");
        }
        for (far, why) in [
            ("http://203.0.113.7/x", "encrypted"),
            ("http://[::ffff:203.0.113.7]/x", "encrypted"),
            ("http://0x08080808/", "encrypted"),
            ("ftp://x.example/", "https://"),
            ("nonsense", "https://"),
            ("https://user:secret@x.example/", "user name"),
        ] {
            let error = check(&webhook(far)).expect_err(far).to_string();
            assert!(error.contains(why), "{far}: {error}");
        }
        let secret = Some("x".repeat(SECRET_BYTES + 1));
        assert!(check(&Webhook { secret, ..webhook("https://x.example/") }).is_err());
    }

    #[test]
    fn the_signature_is_the_one_of_the_standard() {
        // RFC 4231, test case 2.
        assert_eq!(
            sign("Jefe", "what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_redirect_stays_in_its_place() {
        let url = Url::parse("https://x.example/hook").expect("a url");
        let to = |location| answered(&url, StatusCode::PERMANENT_REDIRECT, Some(location));
        assert!(matches!(to("/hook/"), Answer::Redirect(next) if next.path() == "/hook/"));
        for other in ["https://y.example/hook", "http://x.example/hook", "https://x.example:8443/"]
        {
            assert!(matches!(to(other), Answer::Outcome(Outcome::Failed(_))), "{other}");
        }
        let found = answered(&url, StatusCode::FOUND, Some("/hook/"));
        assert!(matches!(found, Answer::Outcome(Outcome::Failed(_))), "a POST would become a GET");
    }
}
