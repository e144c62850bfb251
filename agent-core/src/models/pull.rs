//! Pulls.

mod disk;
mod extent;
mod limit;
mod plan;
mod progress;
mod rate;
mod record;
mod transfer;
mod writer;
