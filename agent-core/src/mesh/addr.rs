//! Where a node may be reached.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Hints, never trusted: whoever answers has to prove that it holds the node's key. Bounded by
/// [`Addresses::MAX_DIRECT`] and [`Addresses::MAX_RELAYS`]; cleaned when they come from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// UDP.
    pub direct: Vec<SocketAddr>,
    /// Relay URLs.
    pub relays: Vec<String>,
}

impl Addresses {
    /// A machine with several networks, IPv4 and IPv6, and a public address.
    pub const MAX_DIRECT: usize = 12;
    pub const MAX_RELAYS: usize = 2;
    /// Longest relay URL.
    pub const MAX_URL: usize = 128;
}
