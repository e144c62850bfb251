//! Who and which mesh.

use std::fmt;

use agent_api::NodeId;
use serde::{Deserialize, Serialize};

/// A node's Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeKey(pub [u8; 32]);

impl NodeKey {
    pub fn to_id(self) -> NodeId {
        NodeId(hex::encode(self.0))
    }

    /// `None`: not 64 hexadecimal digits.
    pub fn from_id(id: &NodeId) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&id.0, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The first four bytes, as announcements name links.
    pub fn short(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", hex::encode(&self.0[..5]))
    }
}

/// A mesh's id: 32 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MeshId(pub [u8; 32]);

impl fmt::Debug for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", hex::encode(&self.0[..5]))
    }
}

/// What a node needs to be in a mesh. It is kept in the database and travels in tickets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshCard {
    pub id: MeshId,
    /// For people, at most 40 characters.
    pub name: String,
    /// Present: private. A connection proves that both ends know it, without showing it.
    pub secret: Option<[u8; 32]>,
    /// Somebody was invited, or it was joined or made on purpose: this node does not leave it by
    /// itself for another one on its network.
    pub settled: bool,
}

impl fmt::Debug for MeshCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshCard")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("private", &self.secret.is_some())
            .field("settled", &self.settled)
            .finish()
    }
}
