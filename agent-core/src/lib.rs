//! The EdgeCoder node as a library: no window, no user interface.
//!
//! A host (the desktop shell, the headless program, a test) makes a [`config::Config`], starts a
//! [`node::Node`] or a [`supervisor::Supervisor`] around one, and talks to it through one door:
//! the axum router of [`api`].
//!
//! Modules in reading order; each may use only those above it (a test in `tests/` checks):
//!
//! 1. `clock`, `text`, `backoff`, `config`, `identity`, `events`, `limit`, `logging`, `tls`
//! 2. `storage`
//! 3. `models`, `machine`, `mesh`
//! 4. `inference`
//! 5. `tasks`
//! 6. `node`
//! 7. `api`
//! 8. `supervisor`

pub mod api;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod events;
pub mod identity;
pub mod inference;
mod limit;
pub mod logging;
pub mod machine;
pub mod mesh;
pub mod models;
pub mod node;
pub mod storage;
pub mod supervisor;
pub mod tasks;
pub mod text;
pub mod tls;

pub use agent_api;
