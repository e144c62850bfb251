//! `/api`: the Ollama API, so that programs made for Ollama's daemon find this node's models.
//!
//! Shapes and behaviour follow the daemon's API documentation (`docs/api.md` in ollama/ollama) and
//! are checked with its official Python client (`tests/it/ollama_client.py`). Where it differs:
//!
//! - A pull goes on when its client goes away: it is the node's, shown in the Models panel, and is
//!   stopped there. The daemon's ends with its last client.
//! - The chat template is always the model's own, in Jinja; Ollama's templates are not read.
//! - `context` (token ids of an earlier answer) is neither returned nor taken: chat instead.
//! - A text to embed that is longer than the context is an error, never cut.
//! - `create`, `push` and blobs are refused: models come by pulling and importing.

mod answer;
mod body;
mod chat;
mod embed;
mod error;
mod generate;
mod modelfile;
mod models;
mod prepare;
mod pull;
mod reader;

use axum::{
    Json, Router,
    routing::{MethodFilter, delete, get, on, post},
};
pub(super) use error::OllamaError;
use serde_json::{Value, json};

use crate::node::Node;

/// What there is, by method and path below `/api`; for `/openapi.json`.
pub(super) const PATHS: [(&str, &str); 11] = [
    ("get", "/version"),
    ("get", "/tags"),
    ("get", "/ps"),
    ("post", "/show"),
    ("post", "/pull"),
    ("post", "/copy"),
    ("delete", "/delete"),
    ("post", "/chat"),
    ("post", "/generate"),
    ("post", "/embed"),
    ("post", "/embeddings"),
];

pub(super) fn router() -> Router<Node> {
    let blobs = MethodFilter::HEAD.or(MethodFilter::POST);
    Router::new()
        .route("/version", get(version))
        .route("/tags", get(models::tags))
        .route("/ps", get(models::ps))
        .route("/show", post(models::show))
        .route("/pull", post(pull::pull))
        .route("/copy", post(models::copy))
        .route("/delete", delete(models::delete))
        .route("/chat", post(chat::chat))
        .route("/generate", post(generate::generate))
        .route("/embed", post(embed::embed))
        .route("/embeddings", post(embed::embeddings))
        .route("/create", post(error::no_creating))
        .route("/push", post(error::no_creating))
        .route("/blobs/{digest}", on(blobs, error::no_creating))
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback(error::no_such_path)
}

/// This node's version, not one of Ollama's.
async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// A time as the API writes it: RFC 3339, in UTC. `None` for what no calendar has.
fn time(at_ms: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(at_ms).ok().map(|time| time.to_string())
}

/// Nanoseconds, as the API counts durations.
fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
