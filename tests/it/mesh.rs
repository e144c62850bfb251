//! The mesh between real processes on this computer, and between networks with NATs.
//!
//! Tier 1 (`together`, `tickets`, `identity`, `seed`, `files`, `hostile`) runs nodes on loopback. Tier 2 (`lan`,
//! `nat`, `moves`) runs them in a lab of network namespaces; `lab` holds the lab itself to its word.

mod files;
mod hostile;
mod identity;
mod seed;
mod tickets;
mod together;

#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
mod lan;
#[cfg(target_os = "linux")]
mod moves;
#[cfg(target_os = "linux")]
mod nat;
