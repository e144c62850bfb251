//! Frames of the control stream: a length (`u32`, little endian) and that many bytes.

use bytes::Bytes;
use iroh::endpoint::{ReadExactError, RecvStream, SendStream, WriteError};

use crate::mesh::membership::io::FRAME_BYTES;

/// Why reading frames ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes was announced; {FRAME_BYTES} are allowed")]
    TooLarge(usize),
    #[error("an empty frame")]
    Empty,
    /// The stream or its connection is over; the connection itself says why.
    #[error("the control stream ended: {0}")]
    Ended(#[from] ReadExactError),
}

/// The next frame. Not safe to cancel: whoever stops in the middle loses its place.
pub(super) async fn read_frame(stream: &mut RecvStream) -> Result<Bytes, FrameError> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES {
        return Err(FrameError::TooLarge(length));
    }
    if length == 0 {
        return Err(FrameError::Empty);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

pub(super) async fn write_frame(stream: &mut SendStream, frame: &Bytes) -> Result<(), WriteError> {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let head = Bytes::copy_from_slice(&length.to_le_bytes());
    stream.write_all_chunks(&mut [head, frame.clone()]).await
}
