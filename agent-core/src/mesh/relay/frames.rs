//! The relay's messages over one WebSocket, at the client's pace.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use iroh_relay::{ExportKeyingMaterial, protos::streams::StreamError};
use n0_future::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_websockets::{Limits, Message, Payload, ServerBuilder, WebSocketStream};

use super::pace::Pace;

/// Longest message of a client: iroh-relay's own bound.
const MESSAGE_BYTES: usize = 1 << 20;

/// A stream and sink of messages; what the client sends is taken at its pace, so that it is slowed
/// down by TCP.
#[derive(Debug)]
pub(super) struct Frames<T> {
    socket: WebSocketStream<T>,
    pub(super) pace: Pace,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Frames<T> {
    /// Over a connection whose HTTP request was answered.
    pub(super) fn new(connection: T, pace: Pace) -> Self {
        let limits = Limits::default().max_payload_len(Some(MESSAGE_BYTES));
        Self { socket: ServerBuilder::new().limits(limits).serve(connection), pace }
    }
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
        loop {
            ready!(self.pace.poll_ready(cx));
            let message = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(StreamError::from_std(error)))),
                Some(Ok(message)) => message,
            };
            self.pace.took(message.as_payload().len());
            if message.is_close() {
                return Poll::Ready(None);
            }
            // Pings are answered by the socket; nothing else is part of the protocol.
            if message.is_binary() {
                return Poll::Ready(Some(Ok(message.into_payload().into())));
            }
        }
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
