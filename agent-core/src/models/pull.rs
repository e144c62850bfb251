//! Pulls: models on their way from a registry into the store.
//!
//! [`Pulls`] is the one handle. Behind it an actor keeps the list and what the owner wants of each
//! (`queue`); an attempt carries out one pull (`fetch`); a `plan` without IO says which bytes
//! to ask for; a `writer` thread writes, hashes and syncs. Everything survives kill -9: what a
//! `record` claims is on disk, and resuming fetches and hashes nothing again that it claims.
//! Bytes come from the registry and from peers that have them (`peers`); what is wanted is always
//! named by SHA-256, so that it does not matter who sent it.

mod actor;
mod claims;
mod disk;
mod entry;
mod extent;
mod fetch;
mod peers;
mod plan;
mod preview;
mod progress;
mod queue;
mod rate;
mod record;
mod resolve;
mod sources;
mod transfer;
mod writer;

pub use fetch::{Tuning, Usage};
pub use peers::{Chunks, Holder, OtherPlaces, PeerManifest, PlaceError, Wanted};
pub use preview::PreviewFacts;
pub use progress::Counters;
pub use queue::{PullError, PullFacts, PullNotable, Pulls, PullsConfig};

#[cfg(test)]
mod tests;
