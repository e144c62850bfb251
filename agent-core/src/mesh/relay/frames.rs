//! The relay's messages over one WebSocket, at the client's pace.
//!
//! A message is one binary frame or several. Whatever else a client may send by RFC 6455 ends the
//! stream: iroh's clients send none of it (their pings are binary messages), and the socket would
//! queue an answer to every ping, however many there are.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use iroh_relay::{ExportKeyingMaterial, MAX_PACKET_SIZE, protos::streams::StreamError};
use n0_future::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_websockets::{Limits, Message, Payload, ServerBuilder, WebSocketStream};

use super::pace::{HANDSHAKE_BYTES, Pace, Paced};
use crate::mesh::NodeKey;

/// Longest message of a client: the packet that iroh-relay takes, and its type.
const MESSAGE_BYTES: usize = MAX_PACKET_SIZE + 1;

/// A stream and sink of messages.
#[derive(Debug)]
pub(super) struct Frames<T> {
    socket: WebSocketStream<Paced<T>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Frames<T> {
    /// Over a connection whose HTTP request was answered.
    pub(super) fn new(connection: T, pace: Pace) -> Self {
        let paced = Paced::new(connection, pace);
        Self { socket: ServerBuilder::new().limits(limit(HANDSHAKE_BYTES)).serve(paced) }
    }

    /// The client proved who it is: its messages may be long, and come at its own pace.
    pub(super) fn is_of(&mut self, key: NodeKey) {
        *self.socket.limits_mut() = limit(MESSAGE_BYTES);
        self.socket.get_mut().pace.is_of(key);
    }
}

fn limit(bytes: usize) -> Limits {
    Limits::default().max_payload_len(Some(bytes))
}

impl<T> ExportKeyingMaterial for Frames<T> {
    /// There is no TLS here: clients sign a challenge instead.
    fn export_keying_material<B: AsMut<[u8]>>(
        &self,
        _output: B,
        _label: &[u8],
        _context: Option<&[u8]>,
    ) -> Option<B> {
        None
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for Frames<T> {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(StreamError::from_std(error)))),
            Some(Ok(message)) => message,
        };
        let message = message.is_binary().then(|| Ok(message.into_payload().into()));
        Poll::Ready(message)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Sink<Bytes> for Frames<T> {
    type Error = StreamError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.socket).poll_ready(cx).map_err(StreamError::from_std)
    }

    fn start_send(mut self: Pin<&mut Self>, bytes: Bytes) -> Result<(), Self::Error> {
        let message = Message::binary(Payload::from(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(StreamError::from_std)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(StreamError::from_std)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(StreamError::from_std)
    }
}

#[cfg(test)]
mod tests;
