//! Paths about tasks.

use agent_api::{
    ErrorCode,
    endpoint::Nothing,
    tasks::{
        Drain, Orchestration, Placement, SetConcurrency, SubmitTask, Submitted, Task, TaskDetails,
        TaskEvents, TaskList, TaskOutput, TaskPathId, TaskQuery,
    },
};
use axum::http::HeaderMap;

use super::{Answer, Failure};
use crate::node::Node;

/// Name of the header that may stand in for the field.
const KEY: &str = "idempotency-key";

pub(in crate::api) async fn submit(
    node: Node,
    headers: HeaderMap,
    mut task: SubmitTask,
) -> Answer<Submitted> {
    if let Some(key) = headers.get(KEY) {
        let refuse = |why: &str| Failure::new(ErrorCode::BadRequest, why);
        let key = key.to_str().map_err(|_| refuse("The header Idempotency-Key is not text."))?;
        match &task.idempotency_key {
            Some(field) if field != key => {
                return Err(refuse(
                    "The header Idempotency-Key and the field idempotency_key differ. Send one of them.",
                ));
            }
            _ => task.idempotency_key = Some(key.to_owned()),
        }
    }
    Ok(node.tasks().submit(task).await?)
}

pub(in crate::api) async fn list(node: Node, query: TaskQuery) -> Answer<TaskList> {
    Ok(node.tasks().list(query).await?)
}

pub(in crate::api) async fn get(node: Node, path: TaskPathId) -> Answer<TaskDetails> {
    Ok(node.tasks().get(&path.id).await?)
}

pub(in crate::api) async fn events(node: Node, path: TaskPathId) -> Answer<TaskEvents> {
    Ok(node.tasks().events(&path.id).await?)
}

pub(in crate::api) async fn output(node: Node, path: TaskPathId) -> Answer<TaskOutput> {
    Ok(node.tasks().output(&path.id).await?)
}

pub(in crate::api) async fn placement(node: Node, path: TaskPathId) -> Answer<Placement> {
    Ok(node.tasks().placement(&path.id).await?)
}

pub(in crate::api) async fn cancel(node: Node, path: TaskPathId) -> Answer<Task> {
    Ok(node.tasks().cancel(&path.id).await?)
}

pub(in crate::api) async fn retry(node: Node, path: TaskPathId) -> Answer<Submitted> {
    Ok(node.tasks().retry(&path.id).await?)
}

pub(in crate::api) async fn orchestration(node: Node, _: Nothing) -> Answer<Orchestration> {
    Ok(node.tasks().orchestration().await?)
}

pub(in crate::api) async fn concurrency(node: Node, set: SetConcurrency) -> Answer<Orchestration> {
    Ok(node.set_concurrency(set).await?)
}

pub(in crate::api) async fn drain(node: Node, drain: Drain) -> Answer<Orchestration> {
    Ok(node.drain(drain.on).await?)
}
