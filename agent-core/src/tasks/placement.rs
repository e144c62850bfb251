//! Which node does a task: a pure function with its explanation.

use agent_api::{
    NodeId,
    mesh::AnnouncedServing,
    tasks::{Placement, Privacy, TaskKind, TaskPath},
};

/// What is asked of a node.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub kind: Option<TaskKind>,
    /// As the request names it, without `@node`.
    pub model: Option<String>,
    /// Id or name of the only node that may do it.
    pub node: Option<String>,
    pub privacy: Privacy,
    /// Estimates; see [`estimate_tokens`].
    pub prompt_tokens: u32,
    pub answer_tokens: u32,
    /// Nodes that were tried, with what they said.
    pub tried: Vec<(NodeId, String)>,
    /// Nodes that must not do it: they did it already, for comparison.
    pub not: Vec<NodeId>,
}

/// A node as it is known at this moment: announced, measured, remembered.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: NodeId,
    pub name: String,
    /// This node itself.
    pub here: bool,
    pub mine: bool,
    pub trusted: bool,
    /// Overdue or unreachable: why.
    pub problem: Option<String>,
    pub path: Option<TaskPath>,
    pub rtt_ms: Option<f64>,
    pub region: Option<String>,
    pub serving: AnnouncedServing,
    pub accepts: Vec<TaskKind>,
    pub models: Vec<ModelView>,
    pub slots: u32,
    pub slots_free: u32,
    pub queue: u32,
    /// Placed there by this node and not yet in its announcement.
    pub in_flight: u32,
    /// Micro-credits per 1,000 tokens.
    pub price: Option<u64>,
    /// 0 to 1.
    pub reputation: f64,
}

#[derive(Clone, Debug)]
pub struct ModelView {
    pub id: String,
    pub resident: bool,
    pub context: u32,
    pub size_bytes: u64,
    pub tokens_per_s: Option<f32>,
}

/// The outcome.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// Indices into the nodes, best first.
    pub ranked: Vec<usize>,
    /// The node's own id of the model, per entry of `ranked`.
    pub models: Vec<Option<String>>,
    pub explanation: Placement,
}

/// Ranks the nodes.
pub fn place(_wanted: &Wanted, _nodes: &[NodeView], _now_ms: i64) -> Placed {
    Placed::default()
}

/// `model@node` taken apart. A digest (`name@sha256:…`) is part of the name.
pub fn split_model(name: &str) -> (&str, Option<&str>) {
    (name, None)
}

/// Whether two names mean the same model: the tag `latest` and the default host may be left out.
pub fn same_model(asked: &str, has: &str) -> bool {
    asked == has
}

/// A guess before anything is counted: four bytes of text per token.
pub fn estimate_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}
