//! What this node's own experience says of others. Decays; never a ban. Pure.

use agent_api::tasks::Worker;
use serde::{Deserialize, Serialize};

/// What happened with a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Experience {
    Done,
    /// It broke off or failed by its own fault.
    Failed(String),
    Agreed,
    Disagreed,
    /// It broke the protocol, or claimed what cannot be.
    Misbehaved(String),
}

/// Kept per node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reputation {
    pub good: f64,
    pub bad: f64,
    pub at_ms: i64,
    pub done: u64,
    pub failed: u64,
    pub agreed: u64,
    pub disagreed: u64,
    pub agreed_in_a_row: u32,
    pub problem: Option<String>,
}

impl Reputation {
    /// 0 to 1; 0.5 … for a node that nothing is known of.
    pub fn score(&self, _now_ms: i64) -> f64 {
        0.5
    }

    pub fn add(&mut self, _experience: &Experience, _now_ms: i64) {}

    pub fn view(&self, node: agent_api::NodeId, name: String, now_ms: i64) -> Worker {
        Worker {
            node,
            name,
            reputation: self.score(now_ms),
            done: self.done,
            failed: self.failed,
            agreed: self.agreed,
            disagreed: self.disagreed,
            agreed_in_a_row: self.agreed_in_a_row,
            problem: self.problem.clone(),
        }
    }
}
