//! Errors in Ollama's shape: `{"error": "a sentence"}`.

use agent_api::ErrorCode;
use axum::{
    Json,
    body::Bytes,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    api::{
        error::{Failure, inference_code},
        openai::OpenAiError,
        routed::WrongPrivacy,
    },
    inference::{InferenceError, options::WrongOption},
    node::NodeError,
};

#[derive(Clone, Debug, PartialEq)]
pub(in crate::api) struct OllamaError {
    status: u16,
    message: String,
}

impl OllamaError {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        // The daemon's word for "too many requests" is 503.
        let status = if status == ErrorCode::Busy.status() { 503 } else { status };
        Self { status, message: message.into() }
    }

    /// A request that cannot be served as it is; the message names the field.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// In the daemon's words, which clients look for before they offer to pull.
    pub(super) fn no_such_model(name: &str) -> Self {
        Self::new(404, format!("model '{name}' not found"))
    }

    /// Turned away at the door.
    pub(in crate::api) fn refused(code: ErrorCode, message: String) -> Self {
        Self::new(code.status(), message)
    }

    /// The message in its shape.
    pub(super) fn to_json(&self) -> Value {
        json!({"error": self.message})
    }

    /// The last line of a stream that broke after the headers went out.
    pub(super) fn line(&self) -> Bytes {
        format!("{}\n", self.to_json()).into()
    }
}

impl From<NodeError> for OllamaError {
    fn from(error: NodeError) -> Self {
        if let NodeError::NoSuchModel(name) = &error {
            return Self::no_such_model(name);
        }
        let Failure(error) = error.into();
        Self::new(error.code.status(), error.message)
    }
}

impl From<WrongPrivacy> for OllamaError {
    fn from(wrong: WrongPrivacy) -> Self {
        Self::invalid(wrong.to_string())
    }
}

impl From<InferenceError> for OllamaError {
    fn from(error: InferenceError) -> Self {
        Self::new(inference_code(&error).status(), error.to_string())
    }
}

/// Checks that both APIs share report in OpenAI's shape.
impl From<OpenAiError> for OllamaError {
    fn from(error: OpenAiError) -> Self {
        Self::new(error.status(), error.message())
    }
}

impl From<WrongOption> for OllamaError {
    fn from(error: WrongOption) -> Self {
        Self::invalid(error.to_string())
    }
}

impl IntoResponse for OllamaError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.to_json())).into_response();
        if self.status == 503 {
            // Clients with a retry policy wait this many seconds.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

pub(super) async fn no_creating() -> OllamaError {
    let message = "This node does not make or upload models. Pull one from a registry, or import a GGUF file in the Models panel.";
    OllamaError::new(501, message)
}

pub(super) async fn no_such_path() -> OllamaError {
    OllamaError::new(404, "There is no such path under /api. /openapi.json lists what there is.")
}

pub(super) async fn method_not_allowed() -> OllamaError {
    OllamaError::new(405, "This path exists, but not with this method.")
}
