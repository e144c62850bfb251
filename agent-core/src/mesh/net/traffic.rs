//! Control frames and their bytes, counted for the metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Frames of all control streams since the start of the node, without streams of files and without
/// what QUIC adds. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::mesh) struct Traffic {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sent: Count,
    received: Count,
}

#[derive(Debug, Default)]
struct Count {
    frames: AtomicU64,
    bytes: AtomicU64,
}

/// What [`Traffic`] counted in one direction. Bytes are those of the frames, without their lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCount {
    pub frames: u64,
    pub bytes: u64,
}

/// Control frames of the mesh since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Handed to QUIC.
    pub sent: FrameCount,
    /// Complete, whether they made sense or not.
    pub received: FrameCount,
}

impl Traffic {
    pub(super) fn sent(&self, bytes: usize) {
        self.inner.sent.add(bytes);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.inner.received.add(bytes);
    }

    pub(in crate::mesh) fn counts(&self) -> FrameCounts {
        FrameCounts { sent: self.inner.sent.read(), received: self.inner.received.read() }
    }
}

impl Count {
    fn add(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> FrameCount {
        FrameCount {
            frames: self.frames.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
