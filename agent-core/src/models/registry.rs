//! Registries: where the layers of models come from over HTTP.
//!
//! The protocol is OCI distribution (`/v2/<name>/manifests/<tag>`, `/v2/<name>/blobs/<digest>`),
//! which Ollama's registry, Hugging Face and every container registry speak. Redirects are followed
//! here, by hand: what may follow where is a matter of the owner's credentials.

pub mod credentials;
mod error;
mod http;
mod place;
mod token;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_api::settings::Settings;
use bytes::Bytes;
use credentials::{Credentials, Login};
pub use error::RegistryError;
pub use http::{Answer, ContentRange};
use http::{Ask, Http};
pub use place::{FileSource, Source};
use place::{Place, authority};
use reqwest::{StatusCode, Url, header};
use token::Tokens;
use tokio::{sync::watch, time::Instant};

use super::{
    manifest::{Digest, MAX_MANIFEST_BYTES, Manifest},
    name::ModelRef,
};
pub use crate::tls::install_crypto;

/// Time for everything but a blob's body: a manifest, a token, the head of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Docker's type, which Ollama's registry uses, and the same by its OCI name: registries hide what
/// was pushed under one from who only accepts the other.
const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";
/// Error texts are read up to here.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// A client for all registries. Clones share connections, tokens and credentials.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    inner: Arc<Inner>,
    heard: Option<Heard>,
}

/// When a server last said something: with the head of an answer, and with each part of its body.
pub type Heard = watch::Sender<Instant>;

#[derive(Debug)]
struct Inner {
    settings: watch::Receiver<Settings>,
    credentials: Credentials,
    http: Http,
    tokens: Tokens,
}

/// One blob at its source, and the address that a redirect led to.
#[derive(Debug)]
pub struct RemoteBlob {
    client: RegistryClient,
    what: What,
    /// Object stores hand out signed addresses: they are used for all ranges until they expire.
    direct: tokio::sync::Mutex<Option<Url>>,
    /// `ETag` that ranges must still have; for files without a digest.
    if_range: Mutex<Option<String>>,
}

#[derive(Clone, Debug)]
enum What {
    Layer { name: ModelRef, digest: Digest },
    File(Url),
}

/// What a server says about a file without fetching it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHead {
    pub size: u64,
    /// `ETag`, or `Last-Modified` where there is none; changes with the file.
    pub version: Option<String>,
}

impl RegistryClient {
    pub fn new(settings: watch::Receiver<Settings>, credentials: Credentials) -> Self {
        let inner =
            Inner { settings, credentials, http: Http::default(), tokens: Tokens::default() };
        Self { inner: Arc::new(inner), heard: None }
    }

    /// The same, which says there whenever a server is heard.
    pub fn heard_by(&self, heard: Heard) -> Self {
        Self { inner: Arc::clone(&self.inner), heard: Some(heard) }
    }

    /// Fetches and checks a manifest.
    pub async fn manifest(&self, name: &ModelRef) -> Result<Manifest, RegistryError> {
        let place = self.place(&name.host)?;
        let url = place.join(&["v2", &name.namespace, &name.model, "manifests", &name.tag])?;
        let ask = Ask { accept: Some(MANIFEST_TYPES), ..Ask::new(url) };
        let what = name.to_string();
        let answer = self.registry_get(&place, name, ask, &what).await?;
        let host = place.host;
        let claimed = answer.header("docker-content-digest").and_then(|text| Digest::parse(&text));
        let bytes = answer.bytes(MAX_MANIFEST_BYTES, &host).await?;
        let manifest = Manifest::parse(bytes.to_vec())
            .map_err(|source| RegistryError::Manifest { host: host.clone(), source })?;
        match claimed {
            Some(claimed) if claimed != manifest.digest => {
                Err(RegistryError::ManifestDigest { host, claimed, found: manifest.digest })
            }
            _ => Ok(manifest),
        }
    }

    /// A layer of a model, to be opened in ranges.
    pub fn layer(&self, name: &ModelRef, digest: Digest) -> RemoteBlob {
        self.blob(What::Layer { name: name.clone(), digest })
    }

    /// A plain file, to be opened in ranges.
    pub fn file(&self, url: &Url) -> RemoteBlob {
        self.blob(What::File(url.clone()))
    }

    fn blob(&self, what: What) -> RemoteBlob {
        RemoteBlob {
            client: self.clone(),
            what,
            direct: tokio::sync::Mutex::default(),
            if_range: Mutex::default(),
        }
    }

    fn place(&self, host: &str) -> Result<Place, RegistryError> {
        Place::of(host, &self.inner.settings.borrow().registries)
    }

    /// A GET at a registry: with what is known for it, then once more with what it asks for.
    async fn registry_get(
        &self,
        place: &Place,
        name: &ModelRef,
        ask: Ask,
        what: &str,
    ) -> Result<Answer, RegistryError> {
        let repository = format!("{}/{}", name.namespace, name.model);
        let known = self.known_authorization(place, &repository)?;
        let ask = Ask { authorization: known, ..ask };
        let answer = self.follow(ask.clone()).await?;
        let challenged = answer.status() == StatusCode::UNAUTHORIZED
            && authority(answer.url()) == authority(&place.base);
        if !challenged {
            return answer.accepted(&place.host, what).await;
        }
        let challenge = answer.headers(&header::WWW_AUTHENTICATE);
        let found = self.inner.tokens.answer(self, place, &repository, &challenge).await?;
        let Some(authorization) = found else {
            return answer.accepted(&place.host, what).await;
        };
        let again = self.follow(Ask { authorization: Some(authorization), ..ask }).await?;
        again.accepted(&place.host, what).await
    }

    /// What may be sent without being asked: a token from before, or one that the owner gave for
    /// this host.
    fn known_authorization(
        &self,
        place: &Place,
        repository: &str,
    ) -> Result<Option<header::HeaderValue>, RegistryError> {
        if let Some(token) = self.inner.tokens.cached(&place.base, repository) {
            return Ok(Some(token));
        }
        let login = self.login(place)?;
        Ok(login.filter(|login| login.username.is_empty()).and_then(|login| login.bearer()))
    }

    /// The login for a registry. Its mirror stands for it by the owner's word, so it hears the same,
    /// unless the owner has only a login for the mirror itself.
    fn login(&self, place: &Place) -> Result<Option<Login>, RegistryError> {
        let credentials = &self.inner.credentials;
        match credentials.get(&place.host)? {
            Some(login) => Ok(Some(login)),
            None => credentials.get(&authority(&place.base)),
        }
    }

    async fn follow(&self, ask: Ask) -> Result<Answer, RegistryError> {
        let registries = self.inner.settings.borrow().registries.clone();
        let answer = self.inner.http.get(ask.clone(), &registries, self.heard.clone());
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| {
            Err(RegistryError::Silent {
                host: authority(&ask.url),
                seconds: ANSWER_TIMEOUT.as_secs(),
            })
        })
    }
}

impl RemoteBlob {
    /// The same, which says there whenever a server is heard.
    pub fn heard_by(mut self, heard: Heard) -> Self {
        self.client = self.client.heard_by(heard);
        self
    }

    /// The host, for messages.
    pub fn host(&self) -> String {
        match &self.what {
            What::Layer { name, .. } => name.host.clone(),
            What::File(url) => authority(url),
        }
    }

    /// Ranges are only taken from the version of the file that has this `ETag`.
    pub fn only_version(&self, version: Option<String>) {
        *self.if_range.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Asks for the bytes from `start` up to and without `end`; `None`: for all. The answer may be
    /// the whole blob anyway (status 200): the caller looks.
    pub async fn open(&self, range: Option<(u64, u64)>) -> Result<Answer, RegistryError> {
        let mut direct = self.direct.lock().await;
        if let Some(url) = direct.clone() {
            drop(direct);
            let answer = self.client.follow(self.ask(url.clone(), range)).await?;
            if !has_expired(answer.status()) {
                return answer.accepted(&self.host(), "this file").await;
            }
            direct = self.direct.lock().await;
            // Another connection may have found the new address meanwhile.
            if direct.as_ref() == Some(&url) {
                *direct = None;
            }
        }
        let answer = self.ask_source(range).await?;
        if authority(answer.url()) != authority(&self.source_url()?) {
            *direct = Some(answer.url().clone());
        }
        Ok(answer)
    }

    async fn ask_source(&self, range: Option<(u64, u64)>) -> Result<Answer, RegistryError> {
        let ask = self.ask(self.source_url()?, range);
        match &self.what {
            What::Layer { name, digest } => {
                let place = self.client.place(&name.host)?;
                let what = format!("the layer {} of {name}", digest.short());
                self.client.registry_get(&place, name, ask, &what).await
            }
            What::File(url) => {
                let login = self.client.inner.credentials.get(&authority(url))?;
                let authorization = login.and_then(|login| login.header());
                let answer = self.client.follow(Ask { authorization, ..ask }).await?;
                answer.accepted(&self.host(), url.path()).await
            }
        }
    }

    fn source_url(&self) -> Result<Url, RegistryError> {
        match &self.what {
            What::Layer { name, digest } => {
                let place = self.client.place(&name.host)?;
                place.join(&["v2", &name.namespace, &name.model, "blobs", &digest.to_string()])
            }
            What::File(url) => Ok(url.clone()),
        }
    }

    fn ask(&self, url: Url, range: Option<(u64, u64)>) -> Ask {
        let if_range = self.if_range.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ask { range, if_range: if_range.filter(|_| range.is_some()), ..Ask::new(url) }
    }

    /// Size and version, from a ranged GET of one byte: unlike HEAD, signed addresses allow it.
    pub async fn head(&self) -> Result<FileHead, RegistryError> {
        let answer = self.open(Some((0, 1))).await?;
        let size = match answer.status() {
            StatusCode::PARTIAL_CONTENT => answer.content_range().and_then(|range| range.total),
            _ => answer.content_length(),
        };
        let size = size.ok_or_else(|| RegistryError::NoSize { host: self.host() })?;
        Ok(FileHead { size, version: answer.version() })
    }

    /// Reads a blob of a bounded size into memory.
    pub async fn whole(&self, limit: usize) -> Result<Bytes, RegistryError> {
        self.open(None).await?.bytes(limit, &self.host()).await
    }

    /// Reads up to `limit` first bytes into memory.
    pub async fn first_bytes(&self, limit: usize) -> Result<Bytes, RegistryError> {
        let answer = self.open(Some((0, limit as u64))).await?;
        answer.first_bytes(limit, &self.host()).await
    }
}

/// Statuses of a signed address that is over.
fn has_expired(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE
    )
}
