//! The mesh over iroh: sockets, connections, frames, paths. It carries out what `membership`
//! decides and tells it what happens; it decides nothing about the mesh itself.
//!
//! One task, the driver, holds the membership. Connections have small tasks of their own that only
//! move bytes, through bounded queues: a peer that does not read or floods holds up nobody else.

use std::time::Duration;

mod applied;
mod dial;
mod driver;
mod endpoint;
mod frames;
mod gate;
mod link;
mod lookup;
mod network;
mod observed;
pub(in crate::mesh) mod peers;
pub(in crate::mesh) mod session;
pub(in crate::mesh) mod snapshot;
mod streams;
pub(in crate::mesh) mod traffic;

pub use peers::InUse;
pub use streams::{KIND_BYTES, PeerStream, StreamHandler};
pub(in crate::mesh) use streams::{Offers, open_stream};
pub use traffic::{FrameCount, FrameCounts};

/// The protocol's name in the TLS handshake, with its version.
pub const ALPN: &[u8] = b"edgecoder/mesh/1";
/// Label of the bytes that both ends export from TLS (RFC 8446, section 7.5).
const BINDING: &[u8] = b"edgecoder/mesh/1";
/// Opening a connection and its control stream, in either direction.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What was sent before a close gets so long to be delivered.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Longest reason of a close, in bytes, that is sent or shown.
const REASON_BYTES: usize = 200;

/// Codes with which connections are closed; the reason that goes with them is for people.
mod close {
    use iroh::endpoint::VarInt;

    /// Membership's decision; also a plain end.
    pub(super) const DONE: VarInt = VarInt::from_u32(0);
    pub(super) const BLOCKED: VarInt = VarInt::from_u32(1);
    pub(super) const MALFORMED: VarInt = VarInt::from_u32(2);
    pub(super) const TOO_SLOW: VarInt = VarInt::from_u32(3);
    pub(super) const FULL: VarInt = VarInt::from_u32(4);
    pub(super) const STOPPING: VarInt = VarInt::from_u32(5);
}
