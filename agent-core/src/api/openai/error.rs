//! Errors in OpenAI's shape.

use agent_api::{
    ErrorCode,
    openai::{ErrorBody, ErrorObject},
};
use axum::{
    Json,
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::super::{error::inference_code, own::too_large};
use crate::{api::routed::WrongPrivacy, inference::InferenceError};

#[derive(Clone, Debug)]
pub(in crate::api) struct OpenAiError {
    status: u16,
    error: ErrorObject,
}

impl OpenAiError {
    fn new(status: u16, kind: &str, code: Option<&str>, message: impl Into<String>) -> Self {
        let error = ErrorObject {
            message: message.into(),
            kind: kind.into(),
            param: None,
            code: code.map(str::to_owned),
        };
        Self { status, error }
    }

    /// A request that cannot be served as it is; `param` names the field.
    pub(super) fn invalid(param: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(400, "invalid_request_error", Some("invalid_value"), message);
        error.error.param = Some(param.to_owned());
        error
    }

    pub(super) fn no_such_model(wanted: &str, active: Option<&str>) -> Self {
        let advice = match active {
            Some(active) => format!("Use {active:?}, or make another model active first."),
            None => "No model is active; choose one in the Models panel.".into(),
        };
        let message = format!("The model {wanted:?} is not active on this node. {advice}");
        Self::new(404, "invalid_request_error", Some("model_not_found"), message)
    }

    /// Turned away at the door.
    pub(in crate::api) fn refused(code: ErrorCode, message: String) -> Self {
        let (kind, word) = match code {
            ErrorCode::Unauthorized => ("authentication_error", "invalid_api_key"),
            ErrorCode::Unavailable => ("server_error", "node_paused"),
            ErrorCode::TooLarge => ("invalid_request_error", "too_large"),
            _ => ("permission_error", "forbidden"),
        };
        Self::new(code.status(), kind, Some(word), message)
    }

    /// The HTTP status.
    pub(in crate::api) fn status(&self) -> u16 {
        self.status
    }

    /// What happened, for whoever sent the request.
    pub(in crate::api) fn message(&self) -> &str {
        &self.error.message
    }

    /// The body of an error inside a stream, after the headers went out.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(&ErrorBody { error: self.error.clone() }).unwrap_or_default()
    }
}

impl From<InferenceError> for OpenAiError {
    fn from(error: InferenceError) -> Self {
        let status = inference_code(&error).status();
        let (kind, code) = match &error {
            InferenceError::NotActive { .. }
            | InferenceError::NoSuchModel(_)
            | InferenceError::OnlyElsewhere { .. }
            | InferenceError::NotThere(_) => ("invalid_request_error", "model_not_found"),
            InferenceError::BadRequest(_) => ("invalid_request_error", "invalid_value"),
            InferenceError::ContextOverflow(_) => {
                ("invalid_request_error", "context_length_exceeded")
            }
            InferenceError::QueueFull => ("rate_limit_error", "queue_full"),
            InferenceError::NoModel => ("server_error", "no_model"),
            InferenceError::RunnerLost => ("server_error", "runner_lost"),
            InferenceError::Unavailable(_) => ("server_error", "model_unavailable"),
            InferenceError::ShuttingDown => ("server_error", "shutting_down"),
            InferenceError::Stopped => ("server_error", "stopped"),
            InferenceError::Engine(_) => ("server_error", "engine_error"),
            InferenceError::SlowClient => ("server_error", "slow_client"),
        };
        Self::new(status, kind, Some(code), error.to_string())
    }
}

impl From<WrongPrivacy> for OpenAiError {
    fn from(wrong: WrongPrivacy) -> Self {
        Self::new(400, "invalid_request_error", Some("invalid_header"), wrong.to_string())
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(ErrorBody { error: self.error })).into_response();
        if matches!(self.status, 429 | 503) {
            // Clients with a retry policy wait this many seconds.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

/// Parses a body, with errors in OpenAI's shape.
pub(in crate::api) fn parse<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, OpenAiError> {
    let body = body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return OpenAiError::new(413, "invalid_request_error", Some("too_large"), too_large());
        }
        let message = format!("The body did not arrive: {}.", rejection.body_text());
        OpenAiError::new(400, "invalid_request_error", None, message)
    })?;
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&body)).map_err(
        |e| {
            let message = format!("The body is not valid: {e}.");
            OpenAiError::new(400, "invalid_request_error", Some("invalid_json"), message)
        },
    )
}

pub(super) async fn no_such_path() -> OpenAiError {
    let message =
        "This node serves /v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings.";
    OpenAiError::new(404, "invalid_request_error", Some("unknown_url"), message)
}

pub(super) async fn method_not_allowed() -> OpenAiError {
    let message = "This path exists, but not with this method.";
    OpenAiError::new(405, "invalid_request_error", Some("method_not_allowed"), message)
}
