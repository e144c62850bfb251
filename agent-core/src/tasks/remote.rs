//! The requester's end of a job on a peer.

use agent_api::tasks::TaskPath;

use super::{
    job::{JobError, JobStream, Offer},
    modules::Modules,
};
use crate::mesh::{Mesh, NodeKey};

/// What it takes to ask peers.
#[derive(Clone, Debug)]
pub struct Remote {
    pub mesh: Mesh,
    pub modules: Modules,
}

impl Remote {
    /// Offers a job to a peer. `Err` before the peer took it: the next candidate may be asked.
    pub async fn offer(
        &self,
        _peer: NodeKey,
        _path: TaskPath,
        _offer: Offer,
    ) -> Result<JobStream, JobError> {
        Err(JobError::Cancelled)
    }

    /// Takes up a job again that the peer had under this fence when this node stopped.
    pub async fn attach(
        &self,
        _peer: NodeKey,
        _path: TaskPath,
        _offer: Offer,
    ) -> Result<JobStream, JobError> {
        Err(JobError::Cancelled)
    }
}
