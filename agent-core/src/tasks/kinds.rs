//! The contract of each kind: from the input as it was submitted to a [`Job`], or the list of what
//! is wrong with it. Pure.

use agent_api::tasks::{SubmitTask, TaskKind};
use serde_json::Value;

use super::job::Job;

/// Everything that is wrong with a submission; each line names the field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("The task is not valid: {}.", .0.join("; "))]
pub struct Problems(pub Vec<String>);

/// An input that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    pub job: Job,
    /// From `model@node`.
    pub node: Option<String>,
    /// Bytes of a module that came along; the job names it by its SHA-256.
    pub module: Option<Vec<u8>>,
}

/// Checks the whole submission, not only the input.
pub fn check(task: &SubmitTask) -> Result<Checked, Problems> {
    check_input(task.kind, &task.input)
}

fn check_input(_kind: TaskKind, _input: &Value) -> Result<Checked, Problems> {
    Err(Problems(Vec::new()))
}
