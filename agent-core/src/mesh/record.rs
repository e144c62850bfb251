//! What a node says of itself, signed: the only thing that counts about a node.
//!
//! On the wire a record is the postcard form of its body followed by 64 bytes of signature
//! (Ed25519, RFC 8032) over [`DOMAIN`] and the body. The bytes are kept and passed on as they came,
//! so that a field that this version does not use stays signed.

use std::{fmt, sync::Arc};

use agent_api::{
    mesh::{Announcement, Power},
    tasks::TaskKind,
};
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::{
    Addresses, MeshId, NodeKey,
    addr::{Loopback, is_relay_url},
};

/// Put before the signed bytes, so that a signature for another purpose never fits here.
pub const DOMAIN: &[u8] = b"edgecoder/announce/v1\0";
/// Longest record: 32 models with names of 60 bytes fit.
pub const RECORD_BYTES: usize = 3 << 10;
const VERSION: u8 = 3;
const SIGNATURE_BYTES: usize = 64;
/// Bounds of what a node may say; see [`Announcement`].
const NAME_BYTES: usize = 64;
const MODELS: usize = 32;
const MODEL_NAME_BYTES: usize = 256;
pub const LINKS: usize = 16;
/// Kinds of tasks, each once.
const ACCEPTS: usize = TaskKind::ALL.len();
/// Seconds between two announcements that others believe: faster floods, slower never fades.
const EVERY_S: std::ops::RangeInclusive<u32> = 5..=600;

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record is longer than {RECORD_BYTES} bytes")]
    TooLarge,
    #[error("the record is damaged, or its sender speaks another version")]
    Malformed,
    #[error("the record is not signed by the node that it is about")]
    BadSignature,
}

/// What is signed. The order of the fields is the wire format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Body {
    version: u8,
    pub mesh: MeshId,
    pub author: NodeKey,
    /// Random, new at each start of the node.
    pub instance: u64,
    /// Random, new in each record.
    pub nonce: u64,
    /// The author leaves.
    pub goodbye: bool,
    pub addresses: Addresses,
    pub announcement: Announcement,
}

impl Body {
    pub fn new(mesh: MeshId, author: NodeKey, instance: u64, nonce: u64, about: About) -> Self {
        let About { goodbye, addresses, announcement } = about;
        Self { version: VERSION, mesh, author, instance, nonce, goodbye, addresses, announcement }
    }
}

/// The part of a record that is not bookkeeping.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    pub goodbye: bool,
    pub addresses: Addresses,
    pub announcement: Announcement,
}

/// A record that its author signed.
#[derive(Debug, PartialEq)]
pub struct Record {
    pub body: Body,
    /// As signed; passed on verbatim.
    pub bytes: Bytes,
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
}

impl Record {
    pub fn author(&self) -> NodeKey {
        self.body.author
    }

    /// Later is newer; milliseconds by the author's clock.
    pub fn at_ms(&self) -> i64 {
        self.body.announcement.at_ms
    }

    pub fn every_ms(&self) -> i64 {
        i64::from(self.body.announcement.every_s) * 1000
    }
}

/// Signs records and opens those of others. A seam for the simulator, which opens millions.
pub trait Crypto: fmt::Debug + Send {
    fn key(&self) -> NodeKey;
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES];
    fn verify(&self, author: &NodeKey, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool;

    /// Checks everything that can be checked without knowing the mesh: size, form, signature.
    fn open(&self, bytes: &[u8]) -> Result<Arc<Record>, RecordError> {
        open(self, bytes)
    }
}

/// The real thing.
#[derive(Clone)]
pub struct Ed25519(SigningKey);

impl Ed25519 {
    pub fn new(key: SigningKey) -> Self {
        Self(key)
    }
}

impl fmt::Debug for Ed25519 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ed25519").field(&self.key()).finish()
    }
}

impl Crypto for Ed25519 {
    fn key(&self) -> NodeKey {
        NodeKey(self.0.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }

    /// Strict: refuses weak keys, with which one signature could fit several messages.
    fn verify(&self, author: &NodeKey, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        VerifyingKey::from_bytes(&author.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

/// Signs. `None`: it would be longer than [`RECORD_BYTES`].
pub fn seal(crypto: &(impl Crypto + ?Sized), body: Body) -> Option<Arc<Record>> {
    let mut bytes = postcard::to_stdvec(&body).ok()?;
    let signature = crypto.sign(&signed(&bytes));
    bytes.extend_from_slice(&signature);
    if bytes.len() > RECORD_BYTES {
        return None;
    }
    let hash = *blake3::hash(&bytes).as_bytes();
    Some(Arc::new(Record { body, bytes: bytes.into(), hash }))
}

/// The default of [`Crypto::open`].
pub fn open(crypto: &(impl Crypto + ?Sized), bytes: &[u8]) -> Result<Arc<Record>, RecordError> {
    if bytes.len() > RECORD_BYTES {
        return Err(RecordError::TooLarge);
    }
    let (plain, signature) =
        bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(RecordError::Malformed)?;
    let (body, rest) =
        postcard::take_from_bytes::<Body>(plain).map_err(|_| RecordError::Malformed)?;
    if body.version != VERSION || !rest.is_empty() || !within_bounds(&body) {
        return Err(RecordError::Malformed);
    }
    if !crypto.verify(&body.author, &signed(plain), signature) {
        return Err(RecordError::BadSignature);
    }
    let hash = *blake3::hash(bytes).as_bytes();
    Ok(Arc::new(Record { body, bytes: Bytes::copy_from_slice(bytes), hash }))
}

fn signed(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

fn within_bounds(body: &Body) -> bool {
    let says = &body.announcement;
    let short = |text: &str| text.len() <= NAME_BYTES && !text.chars().any(char::is_control);
    let rate = |rate: Option<f32>| rate.is_none_or(|rate| rate.is_finite() && rate >= 0.0);
    let cleaned = body.addresses.cleaned(Loopback::Allowed);
    short(&says.name)
        && short(&says.version)
        && says.region.as_deref().is_none_or(short)
        && says.relay.as_deref().is_none_or(is_relay_url)
        && says.models.len() <= MODELS
        && says.models.iter().all(|model| {
            model.id.len() <= MODEL_NAME_BYTES
                && !model.id.chars().any(char::is_control)
                && rate(model.tokens_per_s)
        })
        && says.links.len() <= LINKS
        && says.accepts.len() <= ACCEPTS
        && rate(says.tokens_per_s)
        && !matches!(says.power, Some(Power::Battery { percent: 101.. }))
        && EVERY_S.contains(&says.every_s)
        && says.at_ms >= 0
        && cleaned.direct.len() <= Addresses::MAX_DIRECT
        && body.addresses.direct.len() <= 4 * Addresses::MAX_DIRECT
        && body.addresses.relays.len() <= 4 * Addresses::MAX_RELAYS
}

/// Makes what the owner's settings and models gave fit the bounds, so that others believe it.
pub fn fit(announcement: &mut Announcement) {
    cut(&mut announcement.name, NAME_BYTES);
    cut(&mut announcement.version, NAME_BYTES);
    if let Some(region) = &mut announcement.region {
        cut(region, NAME_BYTES);
    }
    announcement.relay.take_if(|url| !is_relay_url(url));
    announcement.models.truncate(MODELS);
    announcement.models.retain(|model| {
        model.id.len() <= MODEL_NAME_BYTES && !model.id.chars().any(char::is_control)
    });
    announcement.links.truncate(LINKS);
    announcement.accepts.truncate(ACCEPTS);
    let usable = |rate: &mut f32| !rate.is_finite() || *rate < 0.0;
    announcement.tokens_per_s.take_if(usable);
    for model in &mut announcement.models {
        model.tokens_per_s.take_if(usable);
    }
}

fn cut(text: &mut String, bytes: usize) {
    text.retain(|c| !c.is_control());
    text.truncate(text.floor_char_boundary(bytes));
}
