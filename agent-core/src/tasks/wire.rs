//! Frames of a task's stream between two nodes.

/// The kind of mesh stream that carries one attempt.
pub const STREAM: &str = "edgecoder/task/1";
