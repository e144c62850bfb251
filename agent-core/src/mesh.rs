//! The mesh: nodes that know each other by their keys, wherever they are.
//!
//! ```text
//!  node ──► Mesh (handle) ──commands──► net (iroh: connections, paths, streams)
//!                 ▲                        │ frames, found peers, timers      ▲
//!                 └──── views, events ◄────┤                                  │
//!                                          ▼                                  │
//!                                   membership (no IO) ── dial, send, close ──┘
//!        sources (saved, seeds, LAN, DHT) ──found──► net
//! ```
//!
//! [`membership`] decides everything and does no IO, so that one simulator runs thousands of nodes.
//! [`net`] carries it out over iroh. What a node says of itself is a signed [`record`]; nothing that
//! a peer says about another node counts unless that node signed it.

pub mod addr;
pub mod coordinators;
pub mod files;
pub mod handle;
pub mod key;
pub mod membership;
pub mod net;
pub mod record;
pub mod relay;
pub mod sources;
pub mod state_file;
pub mod ticket;

pub use addr::Addresses;
pub use handle::{Mesh, MeshError, MeshSetup, PeerLook, SeedSetup};
pub use key::{MeshCard, MeshId, NodeKey};
