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
use futures_util::{Stream, StreamExt as _, stream::SelectAll};
use serde::Serialize;

use super::error::OpenAiError;
use crate::inference::{Answer, Piece};

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

/// The pieces of several answers as they come, each with its choice's index. The first piece of
/// the first answer is waited for here, so that a request that fails at once gets a proper status.
pub(super) async fn merge(
    answers: Vec<Answer>,
) -> Result<impl Stream<Item = (u32, Piece)> + Send, OpenAiError> {
    let mut streams = SelectAll::new();
    for (index, mut answer) in (0..).zip(answers) {
        let first = if index == 0 {
            match answer.next().await {
                Some(Piece::Failed(error)) => return Err(error.into()),
                first => first,
            }
        } else {
            None
        };
        streams.push(Box::pin(async_stream::stream! {
            if let Some(piece) = first {
                yield (index, piece);
            }
            while let Some(piece) = answer.next().await {
                yield (index, piece);
            }
        }));
    }
    Ok(streams)
}
