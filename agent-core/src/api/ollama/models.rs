//! `GET /api/tags`, `GET /api/ps`, `POST /api/show`, `POST /api/copy`, `DELETE /api/delete`.

use agent_api::models::{CopyModel, InstalledModel, ModelState, Residency};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    body::{Named, find, parse},
    error::OllamaError,
    modelfile, time,
};
use crate::{node::Node, tasks::route::ModelElsewhere};

/// The official command line writes "Forever" for a model that leaves in more than twenty years.
const STAYS: &str = "2999-12-31T00:00:00Z";

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Details {
    parent_model: String,
    format: &'static str,
    family: String,
    families: Vec<String>,
    parameter_size: String,
    quantization_level: String,
}

impl Details {
    fn of(model: &InstalledModel) -> Self {
        Self {
            parent_model: String::new(),
            format: "gguf",
            family: model.architecture.clone(),
            families: vec![model.architecture.clone()],
            parameter_size: model.parameters.map(parameter_size).unwrap_or_default(),
            quantization_level: model.quantization.clone(),
        }
    }
}

/// A number of weights as the API writes it: `7.6B`, `494.03M`, `23M`, `12K`.
fn parameter_size(weights: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two decimals at most")]
    let scaled = |unit: u64, decimals: usize, letter: char| {
        let decimals = if weights.is_multiple_of(unit) { 0 } else { decimals };
        format!("{:.decimals$}{letter}", weights as f64 / unit as f64)
    };
    match weights {
        1_000_000_000.. => scaled(1_000_000_000, 1, 'B'),
        1_000_000.. => scaled(1_000_000, 2, 'M'),
        1_000.. => scaled(1_000, 0, 'K'),
        _ => weights.to_string(),
    }
}

/// 64 hexadecimal digits, without `sha256:` in front.
fn digest(model: &InstalledModel) -> String {
    match model.digest.as_deref() {
        Some(digest) => digest.strip_prefix("sha256:").unwrap_or(digest).to_owned(),
        None => stand_in(&model.id),
    }
}

/// Of a model without a manifest. Ollama's own clients cut twelve digits off without looking.
fn stand_in(name: &str) -> String {
    hex::encode(Sha256::digest(name))
}

/// Adds the fields that are left out when they are not known.
fn with_time(mut object: Value, name: &str, at_ms: Option<i64>) -> Value {
    if let Some(time) = at_ms.and_then(time) {
        object[name] = time.into();
    }
    object
}

/// The models of this node, then those of other nodes, as `/v1/models` lists them.
pub(super) async fn tags(State(node): State<Node>) -> Json<Value> {
    let models = node.list_models().await.models;
    let mut models: Vec<Value> = models.iter().map(tag).collect();
    let elsewhere = node.models_elsewhere();
    models.extend(elsewhere.iter().map(tag_elsewhere));
    Json(json!({ "models": models }))
}

/// What is known of another node's model: clients look into `details` without asking.
fn tag_elsewhere(known: &ModelElsewhere) -> Value {
    let name = format!("{}@{}", known.model, known.node);
    let digest = known.digest.map_or_else(|| stand_in(&name), |digest| hex::encode(digest.0));
    let details = Details { format: "gguf", ..Details::default() };
    json!({ "name": name, "model": name, "digest": digest, "details": details })
}

fn tag(model: &InstalledModel) -> Value {
    let object = json!({
        "name": model.id,
        "model": model.id,
        "size": model.size_bytes,
        "digest": digest(model),
        "details": Details::of(model),
    });
    with_time(object, "modified_at", model.modified_at_ms)
}

/// Models in memory that take requests; one that is leaving is gone for whoever asks.
pub(super) async fn ps(State(node): State<Node>) -> Json<Value> {
    let installed = node.list_models().await.models;
    let resident = node.model_status().resident;
    let ready = resident.iter().filter(|r| r.state == ModelState::Ready && !r.leaving);
    let models = ready.filter_map(|resident| {
        let model = installed.iter().find(|model| model.id == resident.id)?;
        Some(process(model, resident))
    });
    let models: Vec<Value> = models.collect();
    Json(json!({ "models": models }))
}

fn process(model: &InstalledModel, resident: &Residency) -> Value {
    let on_gpu = resident.loaded.as_ref().is_some_and(|loaded| loaded.gpu_layers > 0);
    let gpu_bytes = model.fit.as_ref().map_or(0, |fit| fit.gpu_bytes.min(resident.needs_bytes));
    json!({
        "name": model.id,
        "model": model.id,
        "size": resident.needs_bytes,
        "digest": digest(model),
        "details": Details::of(model),
        "expires_at": resident.expires_at_ms.and_then(time).unwrap_or_else(|| STAYS.to_owned()),
        "size_vram": if on_gpu { gpu_bytes } else { 0 },
        "context_length": resident.loaded.as_ref().map_or(0, |loaded| loaded.context),
    })
}

pub(super) async fn show(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, OllamaError> {
    let named: Named = parse(body)?;
    let name = named.model()?;
    let model = find(&node, name).await?;
    let details = node.show_model(&model.id).await?;
    let modelfile = modelfile::text(name, &details);
    let mut info = details.metadata;
    // It is long, and it is in `template`.
    info.remove("tokenizer.chat_template");
    let license = details.license_text.or(details.model.license.clone());
    let object = json!({
        "license": license.unwrap_or_default(),
        "modelfile": modelfile,
        "parameters": modelfile::parameters(&details.parameters),
        "template": details.template.unwrap_or_default(),
        "system": details.system.unwrap_or_default(),
        "details": Details::of(&details.model),
        "model_info": info,
        "capabilities": details.model.capabilities,
    });
    Ok(Json(with_time(object, "modified_at", details.model.modified_at_ms)))
}

#[derive(Debug, Deserialize)]
struct Copy {
    source: String,
    destination: String,
}

pub(super) async fn copy(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, OllamaError> {
    let Copy { source, destination } = parse(body)?;
    let model = find(&node, &source).await?;
    node.copy_model(CopyModel { source: model.id, destination }).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn delete(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, OllamaError> {
    let named: Named = parse(body)?;
    let model = find(&node, named.model()?).await?;
    node.remove_model(&model.id).await?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_ollama_writes_them() {
        for (weights, text) in [
            (7_615_616_512, "7.6B"),
            (8_000_000_000, "8B"),
            (494_032_768, "494.03M"),
            (23_000_000, "23M"),
            (12_400, "12K"),
            (999, "999"),
        ] {
            assert_eq!(parameter_size(weights), text);
        }
    }
}
