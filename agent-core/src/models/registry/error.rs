//! What can go wrong between this node and a registry, in words for the owner.

use std::{error::Error, io, time::Duration};

use reqwest::StatusCode;

use super::super::{
    manifest::{Digest, ManifestError},
    name::NameError,
};

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{host} is not an address that models can be fetched from: {why}")]
    Place { host: String, why: String },
    #[error("{host} has no {what}. Check the name and the tag")]
    NotFound { host: String, what: String },
    #[error(
        "{host} wants a login for {what}: it is private, or there is no such model. Log in to {host} with an account that may read it"
    )]
    Login { host: String, what: String },
    #[error(
        "{host} does not let you read {what}. Log in to {host} with an account that may, and accept the model's licence there if it asks for that"
    )]
    Forbidden { host: String, what: String },
    #[error("{host} asks for fewer requests")]
    Busy { host: String, retry_after: Option<Duration> },
    #[error("{host} is in trouble: it answered {status}{message}")]
    Server { host: String, status: StatusCode, message: String },
    #[error("{host} refused: it answered {status}{message}")]
    Refused { host: String, status: StatusCode, message: String },
    #[error(
        "the certificate of {host} is not trusted: {why}. If the registry is yours, set ca_file for it"
    )]
    Certificate { host: String, why: String },
    #[error(
        "{host} does not speak TLS as it should: {why}. If the registry is yours and speaks plain HTTP, set plain_http for it"
    )]
    Tls { host: String, why: String },
    #[error(
        "the host {host} could not be found: its name has no address. Check the spelling, the internet connection, and the DNS and proxy settings of this computer"
    )]
    UnknownHost { host: String },
    #[error("cannot reach {host}: {why}")]
    Unreachable { host: String, why: String },
    #[error("the connection to {host} broke: {why}")]
    Broken { host: String, why: String },
    #[error("{host} did not answer for {seconds} seconds")]
    Silent { host: String, seconds: u64 },
    #[error("{host} sends us to {to}, and that is not followed: {why}")]
    Redirect { host: String, to: String, why: &'static str },
    #[error("the manifest from {host} is refused: {source}")]
    Manifest { host: String, source: ManifestError },
    #[error("{host} calls the manifest {claimed}, but its bytes are {found}")]
    ManifestDigest { host: String, claimed: Digest, found: Digest },
    #[error("{host} sent more than {limit} bytes where that is the most there can be")]
    TooLarge { host: String, limit: usize },
    #[error("{host} does not say how large the file is, so it cannot be pulled")]
    NoSize { host: String },
    #[error("{host} asks for a login in a way that is not understood: {why}")]
    Challenge { host: String, why: String },
    #[error("{path} cannot be used: {why}")]
    File { path: String, why: String },
    #[error("cannot set up connections: {0}")]
    Setup(String),
}

impl RegistryError {
    /// Whether trying again later may help without anybody doing something.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Server { .. }
                | Self::UnknownHost { .. }
                | Self::Unreachable { .. }
                | Self::Broken { .. }
                | Self::Silent { .. }
        )
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// From a request that got no answer, or whose body broke off.
    pub(super) fn from_reqwest(host: String, error: &reqwest::Error) -> Self {
        match tls_cause(error) {
            Some(tls @ rustls::Error::InvalidCertificate(_)) => {
                return Self::Certificate { host, why: tls.to_string() };
            }
            Some(tls) => return Self::Tls { host, why: tls.to_string() },
            None => {}
        }
        let why = root_cause(error);
        if error.is_builder() {
            return Self::Setup(why);
        }
        if error.is_connect() {
            if is_name_lookup(error) {
                return Self::UnknownHost { host };
            }
            let timed_out = error.is_timeout();
            let why = if timed_out { "it did not answer in time".to_owned() } else { why };
            return Self::Unreachable { host, why };
        }
        Self::Broken { host, why }
    }

    /// From an answer that is not a success; `message` is what the body said.
    pub(super) fn from_status(
        host: String,
        what: String,
        status: StatusCode,
        message: String,
        retry_after: Option<Duration>,
    ) -> Self {
        let message = if message.is_empty() { message } else { format!(": {message}") };
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Self::NotFound { host, what },
            StatusCode::UNAUTHORIZED => Self::Login { host, what },
            StatusCode::FORBIDDEN => Self::Forbidden { host, what },
            StatusCode::TOO_MANY_REQUESTS => Self::Busy { host, retry_after },
            StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => {
                Self::Busy { host, retry_after }
            }
            StatusCode::REQUEST_TIMEOUT => Self::Server { host, status, message },
            status if status.is_server_error() => Self::Server { host, status, message },
            _ => Self::Refused { host, status, message },
        }
    }
}

/// A failed handshake hides inside an `io::Error`, whose own error is not a `source`.
fn tls_cause<'a>(error: &'a reqwest::Error) -> Option<&'a rustls::Error> {
    let mut next: Option<&'a (dyn Error + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

/// Whether a name could not be resolved. The connector's error for that is not a public type; its
/// text and that of the standard library's resolver are what there is to go by.
fn is_name_lookup(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if text == "dns error" || text.starts_with("failed to lookup address information") {
            return true;
        }
        next = cause.source();
    }
    false
}

/// The innermost reason; the outer ones only say that something failed.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_without_an_address_is_named_with_what_to_check() {
        crate::models::registry::install_crypto();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        // Reserved never to exist (RFC 6761, 6.4).
        let sent = client.get("http://registry.invalid/v2/").send().await;
        let error = sent.expect_err("there is no such host");
        let error = RegistryError::from_reqwest("registry.invalid".into(), &error);
        assert!(matches!(error, RegistryError::UnknownHost { .. }), "{error}");
        assert!(error.is_transient(), "a computer that is offline finds it later");
        let text = error.to_string();
        assert!(text.contains("registry.invalid could not be found"), "{text}");
        assert!(text.contains("Check the spelling"), "{text}");
    }
}
