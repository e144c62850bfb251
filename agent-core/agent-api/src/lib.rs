//! The types that cross a boundary of an EdgeCoder node: to the user interface, over HTTP, and to
//! the runner process.
//!
//! Only serde types live here, so that the wasm user interface, the node, its runner and the
//! tests can all use them. Core types are not these types: `agent-core` converts at its edge.
//!
//! Numbers: times are Unix milliseconds (`i64`), sizes are bytes (`u64`), rates are per second
//! (`f64`). All integers stay below 2^53, because the webview reads them as JavaScript numbers.

pub mod activity;
pub mod catalogue;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod fit;
pub mod hardware;
pub mod host;
pub mod ids;
pub mod machine;
pub mod mesh;
pub mod models;
pub mod node;
pub mod openai;
pub mod pull;
pub mod runner;
pub mod sandbox;
pub mod settings;
pub mod tasks;

pub use activity::{Activity, ActivityKind};
pub use endpoint::{Endpoint, Method};
pub use error::{ApiError, ErrorCode};
pub use event::Event;
pub use ids::NodeId;
pub use node::Status;
pub use settings::Settings;
pub use tasks::TaskId;
