//! The nodes that tasks go to, as the origin sees them: a trait, so that its tests run with nodes
//! that exist only in memory.

use std::fmt;

use agent_api::NodeId;

use crate::tasks::{
    job::{BoxFuture, JobError, JobStream, Offer},
    placement::{NodeView, Placed, Wanted},
    reputation::Experience,
};

/// This node and its peers.
pub trait Workers: fmt::Debug + Send + Sync + 'static {
    /// This node's id.
    fn me(&self) -> NodeId;

    fn name_of(&self, node: &NodeId) -> String;

    /// All nodes that are known, and which of them could do it.
    fn place(&self, wanted: &Wanted) -> (Vec<NodeView>, Placed);

    /// Offers a job to a node. `Err` before it took it: the next candidate may be asked. Dropping
    /// the stream after its result tells the node that the result is safe.
    fn offer(&self, node: NodeView, offer: Offer) -> BoxFuture<'_, Result<JobStream, JobError>>;

    /// Takes up a job again that this peer had under this fence when this node stopped.
    fn attach(&self, node: NodeId, offer: Offer) -> BoxFuture<'_, Result<JobStream, JobError>>;

    /// What happened with a peer.
    fn experience(&self, node: &NodeId, what: Experience);

    /// Whether the result of this peer is to be compared with another node's.
    fn must_compare(&self, node: &NodeId) -> bool;
}
