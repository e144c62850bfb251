//! Runs a job on this node, for its owner or for a peer.

use super::{
    job::{Job, JobError, JobStream, SharedHost},
    modules::Modules,
    sandbox::Sandbox,
};

/// What jobs run with.
#[derive(Clone, Debug)]
pub struct Here {
    pub host: SharedHost,
    pub sandbox: Sandbox,
    pub modules: Modules,
}

impl Here {
    /// Begins at once; inference queues by itself.
    pub async fn run(&self, _job: Job) -> Result<JobStream, JobError> {
        Err(JobError::Cancelled)
    }
}
