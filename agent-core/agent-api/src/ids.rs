//! Identifiers, as newtypes so that one cannot be passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A node's identity: its Ed25519 public key as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct NodeId(pub String);

impl NodeId {
    /// The first ten digits: enough for a person to tell nodes apart in a log or a list.
    pub fn fmt_short(&self) -> &str {
        self.0.get(..10).unwrap_or(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
