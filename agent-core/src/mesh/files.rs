//! Model files between peers: who has a blob, and its bytes, each 16 KiB of them checked on arrival.
//!
//! Two kinds of streams on the connection that two members of a mesh have anyway:
//!
//! - [`QUESTIONS`]: one [`Question`], one [`Answer`], both postcard, each ended by the end of its
//!   side of the stream. Blobs are asked for by SHA-256, which is what registries name; the answer
//!   names the BLAKE3 root of the same bytes.
//! - [`BLOBS`]: exactly one exchange of iroh-blobs (`/iroh-bytes/4`): a get request for ranges of one
//!   blob, and the ranges with the hashes that prove them.
//!
//! iroh-blobs' own store is not used: it would keep every model a second time. Models lie where
//! pulls put them, and `node` connects the two sides ([`Shelf`]).
//!
//! A root is only a peer's word that these bytes have that SHA-256; whoever fetches still hashes the
//! whole.

mod fetch;
#[cfg(test)]
pub(crate) mod loopback;
mod over_mesh;
mod provide;
#[cfg(test)]
mod tests;

use std::{fmt, fs::File, io};

use agent_api::mesh::Peer;
pub use fetch::{FetchError, ask_manifest, ask_offer, fetch};
use futures_util::future::BoxFuture;
use iroh::endpoint::{RecvStream, SendStream};
pub use provide::{Counters, Provider};
use serde::{Deserialize, Serialize};

use super::NodeKey;

/// Stream kind of questions.
pub const QUESTIONS: &str = "files/1";
/// Stream kind of blobs.
pub const BLOBS: &str = "blobs/1";

/// A name of a model is at most some hundred bytes.
const MAX_QUESTION_BYTES: usize = 2 << 10;
/// Manifests are a few kilobytes; larger ones are not handed out.
const MAX_MANIFEST_BYTES: usize = 256 << 10;
/// A manifest and what is around it.
const MAX_ANSWER_BYTES: usize = MAX_MANIFEST_BYTES + 64;

/// The order of the variants is the wire format: add at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::mesh::files) enum Question {
    /// The blob with this SHA-256.
    Blob([u8; 32]),
    /// The manifest of the model with this complete name, `registry.example/library/demo:latest`.
    Manifest(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::mesh::files) enum Answer {
    NotHere,
    /// Its owner shares no models.
    NotShared,
    /// Its hash tree is being made; worth asking again in some seconds.
    NotYet,
    /// Too many questions at the same time.
    Busy,
    Blob(Offer),
    Manifest(Vec<u8>),
}

impl Question {
    /// `None`: it is none.
    fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

impl Answer {
    /// `None`: it is none.
    fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// A blob that a peer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offer {
    pub size: u64,
    /// BLAKE3 of its bytes, says the peer.
    pub root: [u8; 32],
}

/// A blob of this node, open.
#[derive(Debug)]
pub struct OpenBlob {
    pub data: File,
    pub offer: Offer,
    /// Hash pairs of groups of 16 chunks, in post order.
    pub outboard: File,
}

/// What this node has of a blob.
#[derive(Debug)]
pub enum OnShelf {
    NotHere,
    /// [`Shelf::prepare`] has to come first.
    NotReady,
    Ready(OpenBlob),
}

/// What this node shares; the node connects it with the model store. All calls touch the disk and
/// are made off the async threads.
pub trait Shelf: Send + Sync + fmt::Debug {
    /// Opens a blob; quick.
    fn find(&self, sha256: [u8; 32]) -> io::Result<OnShelf>;

    /// Makes the hash tree of a blob, which reads all of it. `stop` is asked now and then.
    fn prepare(&self, sha256: [u8; 32], stop: &dyn Fn() -> bool) -> io::Result<()>;

    /// The manifest of an installed model by its complete name.
    fn manifest(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
}

/// A stream in both directions, after the header that names its kind.
#[derive(Debug)]
pub struct BiStream {
    pub send: SendStream,
    pub recv: RecvStream,
    /// What the mesh wants to have kept as long as the stream is: the connection is not closed as
    /// one too many meanwhile.
    pub in_use: Option<InUse>,
}

/// Dropped with the stream.
pub type InUse = Box<dyn fmt::Debug + Send + Sync>;

/// The mesh as those see it who fetch files.
pub trait Neighbours: Send + Sync + fmt::Debug {
    /// All that are known.
    fn peers(&self) -> Vec<Peer>;

    /// The mesh has a secret: all members were let in.
    fn is_private(&self) -> bool;

    /// Opens a stream of this kind, connecting first if need be.
    fn open(&self, peer: NodeKey, kind: &'static str) -> BoxFuture<'_, io::Result<BiStream>>;
}
