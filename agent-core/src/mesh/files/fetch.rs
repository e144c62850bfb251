//! Asking peers, and reading what they send.

use std::{
    io,
    ops::Range,
    time::{Duration, Instant},
};

use bao_tree::{ChunkNum, ChunkRanges, io::BaoContentItem};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use iroh::endpoint::{ReadError, RecvStream};
use iroh_blobs::{
    Hash,
    get::fsm::{
        AtBlobContent, AtBlobHeaderNextError, AtConnected, BlobContentNext, ConnectedNext,
        DecodeError, RequestCounters,
    },
    protocol::{ERR_LIMIT, GetRequest},
};

use super::{Answer, BiStream, MAX_ANSWER_BYTES, Offer, Question};

/// Leaves are 16 KiB: handed on in larger pieces, unless they come slowly.
const PIECE_BYTES: usize = 256 << 10;
const PIECE_WAIT: Duration = Duration::from_millis(250);
/// Requests begin at a group, because smaller parts cost more hashes than bytes.
const GROUP_BYTES: u64 = 16 << 10;
const CHUNK_BYTES: u64 = 1 << 10;

/// Why a peer did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("it does not have it any more")]
    NotHere,
    #[error("its owner shares no models")]
    NotShared,
    #[error("it is still reading the file; it will answer soon")]
    NotYet,
    #[error("it has enough to do with others")]
    Busy,
    /// Its bytes do not fit the hash that it gave itself.
    #[error("it sent wrong bytes: {0}")]
    Lied(String),
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// Asks for the blob with this SHA-256. Waits as long as the peer does.
pub async fn ask_offer(stream: BiStream, sha256: [u8; 32]) -> Result<Offer, FetchError> {
    match ask(stream, &Question::Blob(sha256)).await? {
        Answer::Blob(offer) => Ok(offer),
        other => Err(refusal(other)),
    }
}

/// Asks for the manifest of a model by its complete name.
pub async fn ask_manifest(stream: BiStream, name: &str) -> Result<Vec<u8>, FetchError> {
    match ask(stream, &Question::Manifest(name.to_owned())).await? {
        Answer::Manifest(bytes) => Ok(bytes),
        other => Err(refusal(other)),
    }
}

fn refusal(answer: Answer) -> FetchError {
    match answer {
        Answer::NotHere => FetchError::NotHere,
        Answer::NotShared => FetchError::NotShared,
        Answer::NotYet => FetchError::NotYet,
        Answer::Busy => FetchError::Busy,
        Answer::Blob(_) | Answer::Manifest(_) => {
            FetchError::Lied("it answered another question".to_owned())
        }
    }
}

async fn ask(mut stream: BiStream, question: &Question) -> Result<Answer, FetchError> {
    let broken = |e: &dyn std::error::Error| FetchError::Broken(e.to_string());
    let bytes = postcard::to_stdvec(question).map_err(|e| broken(&e))?;
    stream.send.write_all(&bytes).await.map_err(|e| broken(&e))?;
    stream.send.finish().map_err(|e| broken(&e))?;
    let answer = stream.recv.read_to_end(MAX_ANSWER_BYTES).await.map_err(|e| broken(&e))?;
    Answer::decode(&answer).ok_or_else(|| FetchError::Lied("its answer makes no sense".into()))
}

/// Bytes of a blob in order; every one fits the offer's root. The peer learns that nothing more is
/// wanted when the stream is dropped.
pub fn fetch(
    mut stream: BiStream,
    offer: Offer,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, FetchError>> + Send {
    async_stream::try_stream! {
        if range.end > offer.size || range.is_empty() {
            return;
        }
        let _in_use = stream.in_use.take();
        let mut reading = Reading { position: range.start, range, pending: BytesMut::new() };
        let mut content = begin(stream, offer, &reading.range).await?;
        let mut since = Instant::now();
        loop {
            let (next, item) = match content.next().await {
                BlobContentNext::More((next, item)) => (next, item),
                BlobContentNext::Done(_) => break,
            };
            content = next;
            if let BaoContentItem::Leaf(leaf) = item.map_err(decode_error)? {
                reading.leaf(leaf.offset, &leaf.data)?;
            }
            if reading.pending.len() >= PIECE_BYTES
                || (!reading.pending.is_empty() && since.elapsed() >= PIECE_WAIT)
            {
                yield reading.pending.split().freeze();
                since = Instant::now();
            }
        }
        if !reading.pending.is_empty() {
            yield reading.pending.split().freeze();
        }
    }
}

/// What was asked for, and how far it is here.
struct Reading {
    range: Range<u64>,
    position: u64,
    pending: BytesMut,
}

impl Reading {
    /// Keeps what was asked for; groups at the ends may have more.
    fn leaf(&mut self, offset: u64, data: &Bytes) -> Result<(), FetchError> {
        let end = offset.saturating_add(data.len() as u64);
        let (from, to) = (offset.max(self.position), end.min(self.range.end));
        if from >= to {
            return Ok(());
        }
        if from != self.position {
            return Err(FetchError::Lied("it left bytes out".to_owned()));
        }
        let inside = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
        let kept = data.get(inside(from)..inside(to)).unwrap_or_default();
        self.pending.extend_from_slice(kept);
        self.position = to;
        Ok(())
    }
}

async fn begin(
    stream: BiStream,
    offer: Offer,
    range: &Range<u64>,
) -> Result<AtBlobContent<RecvStream>, FetchError> {
    let start = ChunkNum(range.start / GROUP_BYTES * GROUP_BYTES / CHUNK_BYTES);
    let end = ChunkNum(range.end.div_ceil(CHUNK_BYTES));
    let request = GetRequest::blob_ranges(Hash::from(offer.root), ChunkRanges::from(start..end));
    let BiStream { send, recv, .. } = stream;
    let connected = AtConnected::new(
        n0_future::time::Instant::now(),
        recv,
        send,
        request,
        RequestCounters::default(),
    );
    let broken = |e: &dyn std::error::Error| FetchError::Broken(e.to_string());
    let root = match connected.next().await.map_err(|e| broken(&e))? {
        ConnectedNext::StartRoot(root) => root,
        ConnectedNext::StartChild(_) | ConnectedNext::Closing(_) => {
            return Err(FetchError::Broken("nothing was asked for".to_owned()));
        }
    };
    let (content, size) = root.next().next().await.map_err(|e| match e {
        AtBlobHeaderNextError::Read { source, .. } => read_error(&source),
        AtBlobHeaderNextError::NotFound { .. } => FetchError::NotHere,
    })?;
    if size == offer.size {
        Ok(content)
    } else {
        Err(FetchError::Lied(format!("{size} bytes instead of {}", offer.size)))
    }
}

fn decode_error(error: DecodeError) -> FetchError {
    match error {
        DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. } => {
            FetchError::Lied("they do not fit their hash".to_owned())
        }
        DecodeError::Read { source, .. } => read_error(&source),
        other => FetchError::Broken(other.to_string()),
    }
}

fn read_error(error: &io::Error) -> FetchError {
    let quic = error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>());
    match quic {
        Some(ReadError::Reset(code)) if *code == ERR_LIMIT => FetchError::Busy,
        _ => FetchError::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_or_sent_too_much_is_noticed() {
        let mut reading = Reading { range: 100..300, position: 100, pending: BytesMut::new() };
        let ones = |length| Bytes::from(vec![1; length]);
        reading.leaf(0, &ones(150)).expect("its end is wanted");
        assert!(reading.leaf(200, &ones(50)).is_err(), "150 to 200 is missing");
        reading.leaf(150, &ones(1_000)).expect("its beginning is wanted");
        assert_eq!(reading.pending.len(), 200);
        reading.leaf(0, &ones(100)).expect("nothing of it is wanted");
        assert_eq!(reading.pending.len(), 200);
    }
}
