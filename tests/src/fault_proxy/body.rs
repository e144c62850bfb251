//! Bodies of the proxy's answers: as they are, cut, slow, or with a byte that is wrong.

use std::{io, sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::watch;

use super::Shared;

/// Pieces of a body that is slowed down: small enough that a rate is a rate.
const PIECE: usize = 16 << 10;

pub(super) type Piece = io::Result<Bytes>;

fn pieces(upstream: reqwest::Response) -> impl Stream<Item = Piece> + Send + 'static {
    upstream.bytes_stream().map(|piece| piece.map_err(io::Error::other))
}

/// The body as it is; `flip`: place of a byte to change, in this answer.
pub(super) fn plain_body(
    shared: &Arc<Shared>,
    at: usize,
    upstream: reqwest::Response,
    flip: Option<u64>,
) -> Body {
    let shared = Arc::clone(shared);
    let mut before = 0_u64;
    Body::from_stream(pieces(upstream).map(move |piece| {
        let mut piece = piece?;
        let inside = flip.and_then(|place| place.checked_sub(before));
        before += piece.len() as u64;
        if let Some(place) =
            inside.and_then(|p| usize::try_from(p).ok()).filter(|p| *p < piece.len())
        {
            let mut bytes = piece.to_vec();
            bytes[place] ^= 0xff;
            piece = bytes.into();
        }
        shared.note_sent(at, piece.len() as u64);
        Ok::<_, io::Error>(piece)
    }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Drop,
    Stall,
}

/// A body that is cut, as far as it has come.
struct Cut<S> {
    pieces: S,
    shared: Arc<Shared>,
    at: usize,
    end: End,
    released: watch::Receiver<u64>,
    /// Bytes before the cut; `None` after it.
    left: Option<u64>,
    /// What came in one piece with the last byte before the cut.
    held: Option<Bytes>,
}

pub(super) fn cut_body(
    shared: &Arc<Shared>,
    at: usize,
    upstream: reqwest::Response,
    bytes: u64,
    end: End,
    released: watch::Receiver<u64>,
) -> Body {
    let cut = Cut {
        pieces: Box::pin(pieces(upstream)),
        shared: Arc::clone(shared),
        at,
        end,
        released,
        left: Some(bytes),
        held: None,
    };
    Body::from_stream(futures_util::stream::unfold(cut, |mut cut| async move {
        let piece = cut.next().await?;
        Some((piece, cut))
    }))
}

impl<S: Stream<Item = Piece> + Unpin> Cut<S> {
    async fn next(&mut self) -> Option<Piece> {
        if self.left == Some(0) {
            match self.end {
                End::Drop => return Some(broken().await),
                // An error means that the proxy is gone.
                End::Stall => self.released.changed().await.ok()?,
            }
            self.left = None;
        }
        let mut piece = match self.held.take() {
            Some(piece) => piece,
            None => match self.pieces.next().await? {
                Ok(piece) => piece,
                Err(error) => return Some(Err(error)),
            },
        };
        if let Some(left) = self.left {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            if piece.len() > most {
                self.held = Some(piece.split_off(most));
            }
            self.left = Some(left - piece.len() as u64);
        }
        self.shared.note_sent(self.at, piece.len() as u64);
        Some(Ok(piece))
    }
}

/// An error in a body makes the server break the connection.
pub(super) async fn broken() -> Piece {
    // Lets the server send what it has before.
    tokio::task::yield_now().await;
    Err(io::Error::other("dropped by the test"))
}

pub(super) fn slow_body(
    shared: &Arc<Shared>,
    at: usize,
    upstream: reqwest::Response,
    rate: u64,
) -> Body {
    let shared = Arc::clone(shared);
    let small = pieces(upstream).flat_map(|piece| {
        let small: Vec<Piece> = match piece {
            Ok(piece) => (0..piece.len())
                .step_by(PIECE)
                .map(|from| Ok(piece.slice(from..piece.len().min(from + PIECE))))
                .collect(),
            Err(error) => vec![Err(error)],
        };
        futures_util::stream::iter(small)
    });
    Body::from_stream(small.then(move |piece| {
        let shared = Arc::clone(&shared);
        async move {
            let piece = piece?;
            #[allow(clippy::cast_precision_loss, reason = "a wait")]
            let wait = Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64);
            // This is the slow link itself, not a wait for something.
            tokio::time::sleep(wait).await;
            shared.note_sent(at, piece.len() as u64);
            Ok::<_, io::Error>(piece)
        }
    }))
}
