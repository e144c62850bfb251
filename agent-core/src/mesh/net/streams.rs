//! Streams besides the control stream: one per request, named by a kind in their first bytes.
//!
//! Whoever offers a kind (files, tasks) registers a [`StreamHandler`]. Streams are given to it only
//! from peers of this mesh whose handshake is done; an unknown kind is refused.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
};

use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use serde::{Deserialize, Serialize};

use super::{link::reason_of, peers::InUse};
use crate::mesh::NodeKey;

/// Longest name of a kind, in bytes.
pub const KIND_BYTES: usize = 64;
/// Bytes of the header: the name, its length, and room for fields of later versions.
const HEADER_BYTES: usize = 256;

/// Codes with which a stream is stopped.
pub(super) mod code {
    use super::VarInt;

    pub(in super::super) const UNKNOWN_KIND: VarInt = VarInt::from_u32(1);
    pub(in super::super) const MALFORMED: VarInt = VarInt::from_u32(2);
    pub(in super::super) const NOT_A_MEMBER: VarInt = VarInt::from_u32(3);
}

/// First bytes of a stream: `u16` length, little endian, then this as postcard.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    kind: String,
}

/// A stream in both directions, after its header.
pub struct PeerStream {
    pub peer: NodeKey,
    pub send: SendStream,
    pub recv: RecvStream,
    /// To be kept as long as the stream is: the connection is not closed as one too many.
    pub in_use: InUse,
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Serves the streams of one kind.
pub trait StreamHandler: fmt::Debug + Send + Sync + 'static {
    /// Runs as a task of its own and ends with the stream. It is dropped when the mesh stops. Per
    /// connection 64 streams are open at most; what else the handler
    /// bounds is its own matter.
    fn serve(&self, stream: PeerStream) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The kinds of streams that this node serves. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::mesh) struct Offers {
    kinds: Arc<RwLock<HashMap<String, Arc<dyn StreamHandler>>>>,
}

impl Offers {
    /// Streams of this kind go to the handler from now on; it takes the place of an earlier one.
    pub(in crate::mesh) fn add(&self, kind: &str, handler: Arc<dyn StreamHandler>) {
        debug_assert!(kind.len() <= KIND_BYTES, "the kind's name is too long for a header");
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.insert(kind.to_owned(), handler);
    }

    pub(super) fn handler(&self, kind: &str) -> Option<Arc<dyn StreamHandler>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(kind).cloned()
    }
}

/// `None`: not a header. The stream's kind otherwise.
pub(super) async fn read_header(stream: &mut RecvStream) -> Option<String> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    let length = usize::from(u16::from_le_bytes(head));
    if length > HEADER_BYTES {
        return None;
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    read_kind(&bytes)
}

/// From what follows the length.
fn read_kind(header: &[u8]) -> Option<String> {
    let header: Header = postcard::from_bytes(header).ok()?;
    (header.kind.len() <= KIND_BYTES).then_some(header.kind)
}

/// Opens a stream and says of which kind it is. The error is a reason for people.
pub(in crate::mesh) async fn open_stream(
    connection: &Connection,
    kind: &str,
    in_use: InUse,
) -> Result<PeerStream, String> {
    let in_use = in_use.over(connection);
    let (mut send, recv) = connection.open_bi().await.map_err(|error| reason_of(&error))?;
    let header = header(kind).ok_or_else(|| format!("{kind} is no kind of stream"))?;
    send.write_all(&header).await.map_err(|error| error.to_string())?;
    Ok(PeerStream { peer: NodeKey(*connection.remote_id().as_bytes()), send, recv, in_use })
}

/// `None`: the name is too long.
fn header(kind: &str) -> Option<Vec<u8>> {
    let kind = kind.to_owned();
    let body = (kind.len() <= KIND_BYTES).then(|| postcard::to_stdvec(&Header { kind }).ok())??;
    let length = u16::try_from(body.len()).ok()?;
    Some([&length.to_le_bytes()[..], &body].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_kind_comes_back_and_one_that_is_too_long_is_none() {
        let bytes = header("files/1").expect("short");
        assert_eq!(usize::from(bytes[0]) + 2, bytes.len());
        assert_eq!(read_kind(&bytes[2..]).as_deref(), Some("files/1"));
        assert_eq!(header(&"k".repeat(KIND_BYTES + 1)), None);
        let kind = "k".repeat(KIND_BYTES + 1);
        let long = postcard::to_stdvec(&Header { kind }).expect("serializes");
        assert_eq!(read_kind(&long), None);
    }

    proptest! {
        #[test]
        fn random_headers_are_no_kind_or_a_short_one(
            bytes in proptest::collection::vec(any::<u8>(), 0..HEADER_BYTES),
        ) {
            prop_assert!(read_kind(&bytes).is_none_or(|kind| kind.len() <= KIND_BYTES));
        }

        #[test]
        fn a_changed_header_never_panics(at in any::<usize>(), byte in any::<u8>(), cut in 0..10_usize) {
            let mut bytes = header("observed/1").expect("short").split_off(2);
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
            prop_assert!(read_kind(&bytes).is_none_or(|kind| kind.len() <= KIND_BYTES));
        }
    }
}
