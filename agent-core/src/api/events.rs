//! `GET /events`: a snapshot, then changes, as server-sent events.

use std::{convert::Infallible, time::Duration};

use agent_api::{ErrorCode, Event};
use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::StreamExt as _;

use super::error::Failure;
use crate::node::Node;

/// A comment line this often tells both sides that the other is there.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn events(State(node): State<Node>) -> Response {
    let Some(events) = node.subscribe() else {
        let message = "Too many listeners on this node. Close some windows or scripts.";
        return Failure::new(ErrorCode::Busy, message).into_response();
    };
    let frames = events.map(|event| Ok::<_, Infallible>(frame(&event)));
    Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn frame(event: &Event) -> sse::Event {
    let frame = sse::Event::default().event(event.name());
    match serde_json::to_string(event) {
        Ok(data) => frame.data(data),
        Err(e) => {
            tracing::error!("an event cannot be written as JSON: {e}");
            sse::Event::default().event(Event::Resync.name()).data(r#"{"type":"resync"}"#)
        }
    }
}
