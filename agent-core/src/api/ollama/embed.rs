//! `POST /api/embed` and its older form, `POST /api/embeddings`.

use std::time::Instant;

use agent_api::runner::TextInput;
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    body::{find, keep_alive, parse},
    error::OllamaError,
    nanoseconds,
};
use crate::{
    api::{openai::parameters::inputs, routed},
    config::limits,
    inference::{InferenceError, Piece, SharedRoute, SubmitOptions, Work, options::Options},
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
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OllamaError> {
    let asked = Instant::now();
    let routing = routed::options(&headers)?;
    let request: Request = parse(body)?;
    let keep = dimensions(request.dimensions)?;
    let texts = match &request.input {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) if items.is_empty() => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(input) => inputs("input", input, limits::EMBEDDING_INPUTS)?,
    };
    let Embedded { mut vectors, prompt_tokens, route } =
        vectors(&node, &request, texts, routing).await?;
    if let Some(keep) = keep {
        vectors.iter_mut().for_each(|vector| shorten(vector, keep));
    }
    let answer = Json(json!({
        "model": request.model,
        "embeddings": vectors,
        "total_duration": nanoseconds(asked.elapsed()),
        "prompt_eval_count": prompt_tokens,
    }));
    Ok(routed::tell(answer.into_response(), Some(&route)))
}

pub(super) async fn embeddings(
    State(node): State<Node>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OllamaError> {
    let routing = routed::options(&headers)?;
    let request: Request = parse(body)?;
    let text = request.prompt.clone().filter(|text| !text.is_empty());
    let texts = text.into_iter().map(|text| TextInput::Text { text }).collect();
    let Embedded { vectors, route, .. } = vectors(&node, &request, texts, routing).await?;
    let answer = Json(json!({"embedding": vectors.into_iter().next().unwrap_or_default()}));
    Ok(routed::tell(answer.into_response(), Some(&route)))
}

/// One vector a text.
#[derive(Debug, Default)]
struct Embedded {
    vectors: Vec<Vec<f32>>,
    /// Of all texts.
    prompt_tokens: u32,
    route: SharedRoute,
}

async fn vectors(
    node: &Node,
    request: &Request,
    texts: Vec<TextInput>,
    routing: SubmitOptions,
) -> Result<Embedded, OllamaError> {
    let name = request.model.as_deref().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| OllamaError::invalid("model is required"))?;
    let options = Options::read(request.options.as_ref().unwrap_or(&Map::new()))?;
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let id = match find(node, name).await {
        Err(_) if node.is_elsewhere(name) => name.to_owned(),
        found => found?.id,
    };
    if texts.is_empty() {
        return Ok(Embedded::default());
    }
    let submit = SubmitOptions { keep_alive, context: options.num_ctx, ..routing };
    let work = Work::Embed(texts);
    let mut answer = node.submit_with(RequestKind::Embedding, &id, work, submit).await?;
    loop {
        match answer.next().await {
            Some(Piece::Embedded { vectors, prompt_tokens }) => {
                return Ok(Embedded { vectors, prompt_tokens, route: answer.shared_route() });
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
    use agent_api::{Settings, mesh::MeshSettings};
    use axum::http;
    use tower::ServiceExt as _;

    use super::*;
    use crate::config::{Config, save_settings};

    #[tokio::test]
    async fn who_may_see_the_text_is_said_by_a_header() {
        let home = tempfile::tempdir().expect("temp dir");
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::resolve(Some(home.path().to_path_buf()), Some(listen))
            .expect("a configuration");
        config.runner = None;
        let settings = Settings {
            ollama_dir: Some(String::new()),
            ollama_url: String::new(),
            mesh: MeshSettings { enabled: false, lan: false, ..MeshSettings::default() },
            ..Settings::default()
        };
        save_settings(&config.paths.settings(), &settings).expect("saves");
        let node = Node::start(config).await.expect("starts");
        for path in ["/api/embed", "/api/embeddings"] {
            for (privacy, expected) in [("nobody", 400), ("this_node", 404)] {
                let request = http::Request::post(path).header("x-edgecoder-privacy", privacy);
                let body = r#"{"model": "m", "input": "hi", "prompt": "hi"}"#;
                let request = request.body(axum::body::Body::from(body)).expect("a request");
                let response = crate::api::router(&node).oneshot(request).await.expect("answers");
                assert_eq!(response.status().as_u16(), expected, "{path} {privacy}");
            }
        }
        node.shutdown().await;
    }

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
