//! Answers that reach the page piece by piece: each has a number that the page chose, and can be
//! cancelled, which hangs up on the node and so ends the work there.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_api::{ApiError, ErrorCode, host::HostMessage};
use axum::body::{Body, Bytes};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::events::Outlet;

/// Streams of one page at the same time. The page opens one per question; a page that opens more
/// than this has lost count.
const OPEN_STREAMS: usize = 32;

/// Pieces that are ready are sent together, up to this many bytes, so that a slow page gets fewer
/// and larger messages.
const CHUNK_BYTES: usize = 64 << 10;

/// The streams of the page that is loaded now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    open: Arc<Mutex<HashMap<u32, CancellationToken>>>,
}

impl Streams {
    /// Takes a number. It is free again when the returned stream is dropped.
    pub(crate) fn open(&self, id: u32) -> Result<OpenStream, ApiError> {
        let mut open = self.lock();
        if open.len() >= OPEN_STREAMS {
            let what =
                format!("{OPEN_STREAMS} answers are still coming in. Stop one of them first.");
            return Err(ApiError::new(ErrorCode::Busy, what));
        }
        let cancelled = CancellationToken::new();
        match open.entry(id) {
            Entry::Occupied(_) => {
                let what = format!("Stream {id} is in use. Choose another number.");
                Err(ApiError::new(ErrorCode::Conflict, what))
            }
            Entry::Vacant(free) => {
                free.insert(cancelled.clone());
                Ok(OpenStream { id, cancelled, streams: self.clone() })
            }
        }
    }

    /// Ends a stream. One that has ended already is no error: the two may cross.
    pub(crate) fn cancel(&self, id: u32) {
        if let Some(cancelled) = self.lock().get(&id) {
            cancelled.cancel();
        }
    }

    /// Ends all: the page that asked is gone.
    pub(crate) fn cancel_all(&self) {
        self.lock().values().for_each(CancellationToken::cancel);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, CancellationToken>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One answer on its way to the page.
#[derive(Debug)]
pub(crate) struct OpenStream {
    id: u32,
    cancelled: CancellationToken,
    streams: Streams,
}

impl OpenStream {
    /// Resolves when the page wants no more of it.
    pub(crate) async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Sends the body as `Chunk`s and one `End`.
    pub(crate) async fn pump(self, body: Body, outlet: impl Outlet) {
        let mut pieces = body.into_data_stream();
        let error = tokio::select! {
            () = self.cancelled.cancelled() => None,
            sent = send_chunks(self.id, &mut pieces, &outlet) => sent.err(),
        };
        // Hangs up on the node, which ends the work there.
        drop(pieces);
        let error = error.map(|error| format!("The answer broke off: {error}."));
        let stream = self.id;
        // The number is free before the page hears of the end, so that it can use it again at once.
        drop(self);
        outlet.send(HostMessage::End { stream, error });
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.id);
    }
}

async fn send_chunks<E>(
    stream: u32,
    pieces: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    outlet: &impl Outlet,
) -> Result<(), E> {
    let mut text = Utf8Pieces::default();
    loop {
        let mut chunk = String::new();
        let mut next = Some(pieces.next().await);
        let ended = loop {
            match next {
                // Nothing more is ready, or enough for one message.
                None => break None,
                Some(None) => {
                    text.finish(&mut chunk);
                    break Some(Ok(()));
                }
                Some(Some(Err(error))) => break Some(Err(error)),
                Some(Some(Ok(piece))) => text.push(&piece, &mut chunk),
            }
            let more = chunk.len() < CHUNK_BYTES;
            next = if more { pieces.next().now_or_never() } else { None };
        };
        if !chunk.is_empty() {
            outlet.send(HostMessage::Chunk { stream, text: chunk });
            outlet.drained().await;
        }
        if let Some(ended) = ended {
            return ended;
        }
    }
}

/// Text from bytes that may be cut inside a character.
#[derive(Default)]
struct Utf8Pieces {
    /// The beginning of a character, at most three bytes.
    cut: Vec<u8>,
}

impl Utf8Pieces {
    fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.cut.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.cut);
        let mut rest = bytes.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => return out.push_str(text),
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            out.push_str(&String::from_utf8_lossy(valid));
            let Some(wrong) = error.error_len() else {
                self.cut = after.to_vec();
                return;
            };
            out.push(char::REPLACEMENT_CHARACTER);
            rest = &after[wrong..];
        }
    }

    fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.cut).is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io};

    use futures_util::stream;

    use super::*;
    use crate::events::tests::Recorder;

    fn text_of(messages: &[HostMessage]) -> String {
        let text = |message: &HostMessage| match message {
            HostMessage::Chunk { text, .. } => text.clone(),
            _ => String::new(),
        };
        messages.iter().map(text).collect()
    }

    #[tokio::test]
    async fn an_answer_arrives_whole_even_if_cut_inside_characters() {
        let bytes = "data: é🦀 done\n\n".as_bytes();
        for cut in 0..bytes.len() {
            let pieces = [&bytes[..cut], &bytes[cut..]].map(Bytes::copy_from_slice);
            let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)));
            let page = Recorder::default();
            let open = Streams::default().open(7).expect("free");
            open.pump(body, page.clone()).await;
            let got = page.messages();
            assert_eq!(text_of(&got), "data: é🦀 done\n\n");
            assert_eq!(got.last(), Some(&HostMessage::End { stream: 7, error: None }));
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_are_shown_as_such() {
        let page = Recorder::default();
        let open = Streams::default().open(1).expect("free");
        open.pump(Body::from(&b"a\xffb\xf0\x9f"[..]), page.clone()).await;
        assert_eq!(text_of(&page.messages()), "a\u{fffd}b\u{fffd}");
    }

    #[tokio::test]
    async fn a_broken_answer_ends_with_the_error() {
        let pieces = [Ok(Bytes::from_static(b"half")), Err(io::Error::other("runner ended"))];
        let page = Recorder::default();
        let open = Streams::default().open(1).expect("free");
        open.pump(Body::from_stream(stream::iter(pieces)), page.clone()).await;
        let got = page.messages();
        let Some(HostMessage::End { error: Some(error), .. }) = got.last() else {
            panic!("no error in {got:?}");
        };
        assert!(error.contains("runner ended"), "{error}");
    }

    #[tokio::test]
    async fn cancelling_hangs_up_and_frees_the_number() {
        let streams = Streams::default();
        let open = streams.open(3).expect("free");
        let node_side = CancellationToken::new();
        let guard = node_side.clone().drop_guard();
        let endless = stream::pending::<Result<Bytes, Infallible>>().inspect(move |_| {
            let _held_by_the_stream = &guard;
        });
        let page = Recorder::default();
        let pump = tokio::spawn(open.pump(Body::from_stream(endless), page.clone()));
        streams.cancel(3);
        pump.await.expect("no panic");
        assert!(node_side.is_cancelled(), "the body was dropped");
        assert_eq!(page.messages(), [HostMessage::End { stream: 3, error: None }]);
        assert!(streams.open(3).is_ok(), "the number is free again");
    }

    #[test]
    fn numbers_are_unique_and_bounded() {
        let streams = Streams::default();
        let held: Vec<_> = (0..31).map(|id| streams.open(id).expect("free")).collect();
        assert_eq!(streams.open(5).expect_err("in use").code, ErrorCode::Conflict);
        let last = streams.open(31).expect("free");
        assert_eq!(streams.open(32).expect_err("full").code, ErrorCode::Busy);
        drop((held, last));
        assert!(streams.open(32).is_ok());
    }
}
