//! `GET /tasks/{id}/follow`: a task as it happens, as newline-delimited JSON, until it ends.

use std::convert::Infallible;

use agent_api::{TaskId, endpoint::path_fields, tasks::TaskNews};
use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt as _;

use super::error::Failure;
use crate::node::Node;

/// Where it is; not a row of the endpoint table, whose answers are single documents.
pub(super) const PATH: &str = "/tasks/{id}/follow";

/// Whether a path is one of these.
pub(super) fn is_follow(path: &str) -> bool {
    path_fields(PATH, path).is_some()
}

/// Leaving does not stop the task.
pub(super) async fn follow(State(node): State<Node>, Path(id): Path<String>) -> Response {
    match node.tasks().follow(TaskId(id)).await {
        Ok(news) => {
            let lines = news.map(|news| Ok::<_, Infallible>(line(&news)));
            let headers = [(CONTENT_TYPE, "application/x-ndjson"), (CACHE_CONTROL, "no-store")];
            (headers, Body::from_stream(lines)).into_response()
        }
        Err(error) => Failure::from(error).into_response(),
    }
}

fn line(news: &TaskNews) -> Bytes {
    // Numbers, texts and lists: it can always be written.
    let mut json = serde_json::to_vec(news).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tasks_own_path_is_followed() {
        assert!(is_follow("/tasks/t_1/follow"));
        assert!(!is_follow("/tasks//follow") && !is_follow("/tasks/t_1") && !is_follow("/follow"));
    }
}
