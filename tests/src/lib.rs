//! What the integration tests share, as a library so that the benchmark uses it too: starting real
//! nodes, talking to them, waiting for what they do.

// A test's log is its terminal.
#![allow(clippy::print_stderr)]

pub mod cluster;
pub mod fault_proxy;
pub mod gguf;
pub mod http;
pub mod mesh_page;
#[cfg(target_os = "linux")]
pub mod netlab;
pub mod node;
pub mod programs;
pub mod pulls;
pub mod registry;
pub mod scripted_model;
mod skipped;
pub mod tasks;
pub mod tasks_page;

pub use skipped::skipped;
