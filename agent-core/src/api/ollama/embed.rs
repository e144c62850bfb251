//! `POST /api/embed` and its older form, `POST /api/embeddings`.

use std::time::Instant;

use agent_api::runner::TextInput;
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    body::{find, keep_alive, parse},
    error::OllamaError,
    nanoseconds,
};
use crate::{
    api::{generation::Options, openai::parameters::inputs},
    config::limits,
    inference::{InferenceError, Piece, SubmitOptions, Work},
    node::Node,
    storage::RequestKind,
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    model: Option<String>,
    /// Of `embed`: a text or a list of texts.
    input: Option<Value>,
    /// Of `embeddings`.
    prompt: Option<String>,
    /// Keep only this many numbers of each vector.
    dimensions: Option<i64>,
    options: Option<Map<String, Value>>,
    keep_alive: Option<Value>,
}

pub(super) async fn embed(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, OllamaError> {
    let asked = Instant::now();
    let request: Request = parse(body)?;
    let keep = dimensions(request.dimensions)?;
    let texts = match &request.input {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) if items.is_empty() => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(input) => inputs("input", input, limits::EMBEDDING_INPUTS)?,
    };
    let (mut vectors, prompt_tokens) = vectors(&node, &request, texts).await?;
    if let Some(keep) = keep {
        vectors.iter_mut().for_each(|vector| shorten(vector, keep));
    }
    Ok(Json(json!({
        "model": request.model,
        "embeddings": vectors,
        "total_duration": nanoseconds(asked.elapsed()),
        "prompt_eval_count": prompt_tokens,
    })))
}

pub(super) async fn embeddings(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, OllamaError> {
    let request: Request = parse(body)?;
    let text = request.prompt.clone().filter(|text| !text.is_empty());
    let texts = text.into_iter().map(|text| TextInput::Text { text }).collect();
    let (vectors, _) = vectors(&node, &request, texts).await?;
    Ok(Json(json!({"embedding": vectors.into_iter().next().unwrap_or_default()})))
}

/// One vector a text, and the tokens of all of them.
async fn vectors(
    node: &Node,
    request: &Request,
    texts: Vec<TextInput>,
) -> Result<(Vec<Vec<f32>>, u32), OllamaError> {
    let name = request.model.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| OllamaError::invalid("model is required"))?;
    let options = Options::read(request.options.as_ref().unwrap_or(&Map::new()))?;
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let id = match find(node, name).await {
        Err(_) if node.is_elsewhere(name) => name.to_owned(),
        found => found?.id,
    };
    if texts.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let submit = SubmitOptions { keep_alive, context: options.num_ctx, privacy: None };
    let work = Work::Embed(texts);
    let mut answer = node.submit_with(RequestKind::Embedding, &id, work, submit).await?;
    loop {
        match answer.next().await {
            Some(Piece::Embedded { vectors, prompt_tokens }) => {
                return Ok((vectors, prompt_tokens));
            }
            Some(Piece::Failed(error)) => return Err(error.into()),
            Some(_) => {}
            None => return Err(InferenceError::RunnerLost.into()),
        }
    }
}

fn dimensions(given: Option<i64>) -> Result<Option<usize>, OllamaError> {
    let wrong = || OllamaError::invalid("dimensions is 1 or more, or left out for all of them.");
    // The daemon takes 0 for "not said".
    let Some(given) = given.filter(|&n| n != 0) else { return Ok(None) };
    usize::try_from(given).map(Some).map_err(|_| wrong())
}

/// Cuts a vector and makes its length 1 again, as the daemon does.
fn shorten(vector: &mut Vec<f32>, keep: usize) {
    if keep >= vector.len() {
        return;
    }
    vector.truncate(keep);
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|number| *number /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_vector_has_length_one() {
        let mut vector = vec![3.0, 4.0, 12.0];
        shorten(&mut vector, 2);
        assert_eq!(vector, [0.6, 0.8]);
        shorten(&mut vector, 5);
        assert_eq!(vector.len(), 2, "never longer");
        assert!(dimensions(Some(-1)).is_err());
        assert_eq!(dimensions(Some(0)), Ok(None));
    }
}
