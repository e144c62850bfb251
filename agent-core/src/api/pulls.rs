//! `GET /model/pull/stream?id=`: one pull's progress as server-sent events, until nothing more
//! happens unless the owner acts.

use std::convert::Infallible;

use agent_api::{
    ErrorCode,
    pull::{Pull, PullId},
};
use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::StreamExt as _;

use super::{error::Failure, events::KEEP_ALIVE};
use crate::node::Node;

/// Where it is; not a row of the endpoint table, whose answers are single documents.
pub(super) const PATH: &str = "/model/pull/stream";

/// The pull as it is now, then after every change. Watching does not keep a pull going and leaving
/// does not stop it.
pub(super) async fn stream(
    State(node): State<Node>,
    query: Result<Query<PullId>, QueryRejection>,
) -> Response {
    let id = match query {
        Ok(Query(PullId { id })) => id,
        Err(e) => {
            let message = format!("The query is not valid: {}. Use ?id=PULL.", e.body_text());
            return Failure::new(ErrorCode::BadRequest, message).into_response();
        }
    };
    let Some(pulls) = node.watch_pull(&id) else {
        let message = format!("There is no pull {id:?}. GET /model/pulls lists what there is.");
        return Failure::new(ErrorCode::NotFound, message).into_response();
    };
    let frames = pulls.map(|pull| Ok::<_, Infallible>(frame(&pull)));
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn frame(pull: &Pull) -> sse::Event {
    // A `Pull` is numbers, texts and lists: it can always be written.
    let data = serde_json::to_string(pull).unwrap_or_default();
    sse::Event::default().event("pull").data(data)
}
