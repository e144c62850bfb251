//! `/v1`: the OpenAI API, so that editors and scripts find the node's model where they look.
//!
//! Checked against OpenAI's API reference and its official Python client (`tests/`).

mod chat;
mod chat_stream;
mod completions;
mod embeddings;
pub(super) mod error;
pub(super) mod parameters;
mod stream;

use agent_api::openai::{ModelObject, ModelObjects, Timings, Usage};
use agent_api::runner;
use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
pub(super) use chat::chat_logprob;
pub(super) use error::OpenAiError;

use crate::{clock::now_ms, models::ModelFile, node::Node};

pub(super) fn router() -> Router<Node> {
    Router::new()
        .route("/models", get(models))
        .route("/models/{*id}", get(model))
        .route("/chat/completions", post(chat::chat))
        .route("/completions", post(completions::completions))
        .route("/embeddings", post(embeddings::embeddings))
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback(error::no_such_path)
}

/// The models that answer to their names: the active one first, and, if the owner lets requests load
/// models, all that can be loaded; then those of other nodes, as `model@node`.
async fn models(State(node): State<Node>) -> Json<ModelObjects> {
    let mut data: Vec<ModelObject> =
        node.answering_models().await.into_iter().map(describe).collect();
    data.extend(elsewhere(&node));
    Json(ModelObjects { object: "list".into(), data })
}

async fn model(State(node): State<Node>, Path(id): Path<String>) -> Response {
    match node.answering_models().await.into_iter().find(|model| model.id == id) {
        Some(model) => Json(describe(model)).into_response(),
        None => match elsewhere(&node).find(|model| model.id == id) {
            Some(model) => Json(model).into_response(),
            None => OpenAiError::no_such_model(&id, node.active_model().as_deref()).into_response(),
        },
    }
}

/// Models of other nodes, as they are asked for.
fn elsewhere(node: &Node) -> impl Iterator<Item = ModelObject> {
    node.models_elsewhere().into_iter().map(|known| ModelObject {
        id: format!("{}@{}", known.model, known.node),
        object: "model".into(),
        created: 0,
        owned_by: known.node,
    })
}

fn describe(file: ModelFile) -> ModelObject {
    let since = file.modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    ModelObject {
        id: file.id,
        object: "model".into(),
        created: i64::try_from(since.as_secs()).unwrap_or(0),
        owned_by: if file.demo { "edgecoder" } else { "owner" }.into(),
    }
}

/// Ids sort by time, which helps whoever reads logs.
fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::now_v7().simple())
}

fn now_s() -> i64 {
    now_ms() / 1000
}

/// Several choices of one prompt count the prompt once.
fn add_usage(sum: &mut Usage, usage: &runner::Usage, new_prompt: bool) {
    if new_prompt {
        sum.prompt_tokens += usage.prompt_tokens;
        sum.prompt_tokens_details.cached_tokens += usage.cached_tokens;
    }
    sum.completion_tokens += usage.completion_tokens;
    sum.total_tokens = sum.prompt_tokens + sum.completion_tokens;
}

fn timings_of(usage: &runner::Usage, timings: &runner::Timings) -> Timings {
    let per_second = |count: u32, ms: f64| if ms > 0.0 { f64::from(count) * 1e3 / ms } else { 0.0 };
    let evaluated = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    Timings {
        queue_ms: timings.queue_ms,
        prompt_ms: timings.prompt_ms,
        prompt_per_second: per_second(evaluated, timings.prompt_ms),
        predicted_n: usage.completion_tokens,
        predicted_ms: timings.generate_ms,
        predicted_per_second: per_second(usage.completion_tokens, timings.generate_ms),
    }
}

fn finish_text(finish: runner::FinishReason) -> &'static str {
    match finish {
        runner::FinishReason::Stop | runner::FinishReason::Cancelled => "stop",
        runner::FinishReason::Length => "length",
    }
}
