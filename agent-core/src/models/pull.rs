//! Pulls: models on their way from a registry into the store.
//!
//! [`Pulls`] is the one handle. Behind it an actor keeps the list and what the owner wants of each
//! (`queue`); an attempt carries out one pull (`fetch`); a `plan` without IO says which bytes
//! to ask for; a `writer` thread writes, hashes and syncs. Everything survives kill -9: what a
//! `record` claims is on disk, and resuming fetches and hashes nothing again that it claims.

mod actor;
mod claims;
mod disk;
mod entry;
mod extent;
mod fetch;
mod limit;
mod plan;
mod preview;
mod progress;
mod queue;
mod rate;
mod record;
mod transfer;
mod writer;

pub use fetch::{Tuning, Usage};
pub use preview::PreviewFacts;
pub use progress::Counters;
pub use queue::{PullError, PullFacts, PullNotable, Pulls, PullsConfig};

#[cfg(test)]
mod tests;
