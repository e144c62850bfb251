//! Server-sent events of an OpenAI stream.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::Response,
};
use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream::SelectAll};
use serde::Serialize;

use super::error::OpenAiError;
use crate::inference::{Answer, InferenceError, Piece};

/// A `text/event-stream` response from frames made by [`data`].
pub(super) fn response(frames: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(frames.map(Ok::<_, Infallible>));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// One event.
pub(super) fn data<T: Serialize>(value: &T) -> Bytes {
    let mut frame = b"data: ".to_vec();
    if serde_json::to_writer(&mut frame, value).is_err() {
        frame.truncate(6);
    }
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// The last event of a stream that went well.
pub(super) fn done() -> Bytes {
    Bytes::from_static(b"data: [DONE]\n\n")
}

/// The last event of a stream that broke.
pub(super) fn failed(error: &OpenAiError) -> Bytes {
    Bytes::from(format!("data: {}\n\n", error.to_json()))
}

/// One of several answers, which is asked for when somebody waits for it. All of them are read at
/// the same time: one that is not read would stop the node that writes it.
pub(super) type Asking = BoxFuture<'static, Result<Answer, InferenceError>>;

/// The pieces of several answers as they come, each with its choice's index. The first of all is
/// waited for here, so that a request that fails at once gets a proper status.
pub(super) async fn merge(
    answers: Vec<Asking>,
) -> Result<impl Stream<Item = (u32, Piece)> + Send, OpenAiError> {
    let mut pieces = SelectAll::new();
    for (index, asking) in (0..).zip(answers) {
        pieces.push(Box::pin(async_stream::stream! {
            let mut answer = match asking.await {
                Ok(answer) => answer,
                Err(error) => {
                    yield (index, Piece::Failed(error));
                    return;
                }
            };
            while let Some(piece) = answer.next().await {
                yield (index, piece);
            }
        }));
    }
    match pieces.next().await {
        Some((_, Piece::Failed(error))) => Err(error.into()),
        first => Ok(futures_util::stream::iter(first).chain(pieces)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::mpsc, time::timeout};
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// An answer and where its pieces go; there is room for one.
    fn answer() -> (mpsc::Sender<Piece>, Asking) {
        let (out, receiver) = mpsc::channel(1);
        let guard = CancellationToken::new().drop_guard();
        let answer = Answer::from_elsewhere("m".to_owned(), receiver, guard);
        (out, Box::pin(std::future::ready(Ok(answer))))
    }

    fn text(text: &str) -> Piece {
        Piece::Text { text: text.to_owned(), logprobs: Vec::new() }
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_the_one_before() {
        let ((_silent, first), (out, second)) = (answer(), answer());
        let speaking = tokio::spawn(async move {
            for word in ["a", "b", "c"] {
                out.send(text(word)).await.expect("is read");
            }
        });
        let mut pieces = Box::pin(merge(vec![first, second]).await.expect("one speaks"));
        for _ in 0..3 {
            let next = timeout(Duration::from_secs(60), pieces.next()).await.expect("in time");
            assert!(matches!(next, Some((1, Piece::Text { .. }))), "{next:?}");
        }
        speaking.await.expect("everything was taken");
    }

    #[tokio::test]
    async fn a_request_that_fails_at_once_is_an_error() {
        let refused: Asking = Box::pin(std::future::ready(Err(InferenceError::QueueFull)));
        let (_silent, first) = answer();
        let error = merge(vec![first, refused]).await.err().expect("is refused");
        assert!(error.to_json().contains("queue_full"), "{}", error.to_json());
    }
}
