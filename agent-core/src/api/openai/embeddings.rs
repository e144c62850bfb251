//! `POST /v1/embeddings`.

use agent_api::openai::{Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, Vector};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    error::{OpenAiError, parse},
    parameters::inputs,
};
use crate::{
    api::routed,
    config::limits,
    inference::{InferenceError, Piece, Work},
    node::Node,
    storage::RequestKind,
};

pub(super) async fn embeddings(
    State(node): State<Node>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OpenAiError> {
    let options = routed::options(&headers)?;
    let request: EmbeddingRequest = parse(body)?;
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        // What OpenAI's own client asks for.
        Some("base64") => true,
        Some(other) => {
            let message = format!("encoding_format is \"float\" or \"base64\", not {other:?}.");
            return Err(OpenAiError::invalid("encoding_format", message));
        }
    };
    if request.dimensions.is_some() {
        let message = "dimensions is not supported: the model's own width is returned.";
        return Err(OpenAiError::invalid("dimensions", message));
    }
    let inputs = inputs("input", &request.input, limits::EMBEDDING_INPUTS)?;
    let work = Work::Embed(inputs);
    let kind = RequestKind::Embedding;
    let mut answer = node.submit_with(kind, &request.model, work, options).await?;
    let (vectors, prompt_tokens) = loop {
        match answer.next().await {
            Some(Piece::Embedded { vectors, prompt_tokens }) => break (vectors, prompt_tokens),
            Some(Piece::Failed(error)) => return Err(error.into()),
            Some(_) => {}
            None => return Err(InferenceError::RunnerLost.into()),
        }
    };
    let data = (0..).zip(vectors).map(|(index, vector)| Embedding {
        object: "embedding".into(),
        index,
        embedding: if base64 { to_base64(&vector) } else { Vector::Floats(vector) },
    });
    let response = EmbeddingResponse {
        object: "list".into(),
        data: data.collect(),
        model: answer.model().to_owned(),
        usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
    };
    Ok(routed::tell(Json(response).into_response(), Some(&answer.shared_route())))
}

fn to_base64(vector: &[f32]) -> Vector {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    Vector::Base64(STANDARD.encode(bytes))
}
