//! Every module's error to `{code, message, detail?}`, in one place.

use std::any::Any;

use agent_api::{ApiError, ErrorCode};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    config::SettingsError,
    inference::InferenceError,
    mesh::MeshError,
    models::{
        catalogue::CatalogueError, pull::PullError, registry::RegistryError, store::StoreError,
    },
    node::NodeError,
    tasks::{handle::TaskError, modules::ModuleError},
    text::sentence,
};

/// An [`ApiError`] as a response.
#[derive(Debug)]
pub(super) struct Failure(pub(super) ApiError);

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ApiError::new(code, message))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status());
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(self.0)).into_response()
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let code = match &error {
            // Begins with the name of a field, which stays as it is written.
            NodeError::Settings(SettingsError::Refused(why)) => {
                return Self::new(ErrorCode::BadRequest, format!("{why}."));
            }
            NodeError::BadRequest(_) => ErrorCode::BadRequest,
            NodeError::Settings(_) | NodeError::Storage(_) => ErrorCode::Unavailable,
            NodeError::NoSuchModel(_) => ErrorCode::NotFound,
            NodeError::Pull(e) => pull_code(e),
            NodeError::Registry(_) => ErrorCode::Unavailable,
            NodeError::Store(e) => store_code(e),
            NodeError::Catalogue(CatalogueError::Io { .. }) => ErrorCode::Unavailable,
            NodeError::Catalogue(CatalogueError::NotNewer { .. }) => ErrorCode::Conflict,
            NodeError::Catalogue(_) => ErrorCode::BadRequest,
            NodeError::Mesh(e) => mesh_code(e),
            NodeError::Tasks(e) => task_code(e),
            NodeError::Inference(e) => return Self::new(inference_code(e), error.to_string()),
        };
        Self::new(code, sentence(&error.to_string()))
    }
}

fn pull_code(error: &PullError) -> ErrorCode {
    match error {
        PullError::Name(_) => ErrorCode::BadRequest,
        PullError::Registry(RegistryError::Name(_) | RegistryError::Place { .. }) => {
            ErrorCode::BadRequest
        }
        PullError::Registry(RegistryError::NotFound { .. }) | PullError::NoSuchPull(_) => {
            ErrorCode::NotFound
        }
        PullError::TooMany => ErrorCode::Busy,
        _ => ErrorCode::Unavailable,
    }
}

fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::NotFound(_) => ErrorCode::NotFound,
        StoreError::Exists(_) | StoreError::Busy(_) | StoreError::Unclear { .. } => {
            ErrorCode::Conflict
        }
        StoreError::Name(_) | StoreError::NotLoadable { .. } | StoreError::Refused(_) => {
            ErrorCode::BadRequest
        }
        StoreError::NoRoom { .. } | StoreError::OverBudget { .. } => ErrorCode::Conflict,
        StoreError::Stopped | StoreError::Io { .. } => ErrorCode::Unavailable,
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        Self::new(task_code(&error), sentence(&error.to_string()))
    }
}

fn task_code(error: &TaskError) -> ErrorCode {
    match error {
        TaskError::Invalid(_) => ErrorCode::BadRequest,
        TaskError::Module(ModuleError::TooLarge(_)) => ErrorCode::TooLarge,
        TaskError::Module(ModuleError::NotWasm(_)) => ErrorCode::BadRequest,
        TaskError::NotFound(_) => ErrorCode::NotFound,
        TaskError::Conflict(_) | TaskError::NotOver(..) | TaskError::NoWords(_) => {
            ErrorCode::Conflict
        }
        TaskError::QueueFull | TaskError::TooManyFollowers => ErrorCode::Busy,
        TaskError::Module(_) | TaskError::Storage(_) => ErrorCode::Unavailable,
    }
}

fn mesh_code(error: &MeshError) -> ErrorCode {
    match error {
        MeshError::Off | MeshError::Broken(_) => ErrorCode::Conflict,
        MeshError::NoSuchPeer(_) => ErrorCode::NotFound,
        MeshError::Ticket(_) | MeshError::BadRequest(_) => ErrorCode::BadRequest,
        // The disk or the network: it may work in a moment.
        _ => ErrorCode::Unavailable,
    }
}

pub(super) fn inference_code(error: &InferenceError) -> ErrorCode {
    match error {
        InferenceError::NotActive { .. }
        | InferenceError::NoSuchModel(_)
        | InferenceError::OnlyElsewhere { .. }
        | InferenceError::NotThere(_) => ErrorCode::NotFound,
        InferenceError::QueueFull => ErrorCode::Busy,
        InferenceError::BadRequest(_) | InferenceError::ContextOverflow(_) => ErrorCode::BadRequest,
        InferenceError::Engine(_) | InferenceError::SlowClient => ErrorCode::Internal,
        InferenceError::NoModel
        | InferenceError::RunnerLost
        | InferenceError::Unavailable(_)
        | InferenceError::Stopped
        | InferenceError::ShuttingDown => ErrorCode::Unavailable,
    }
}

pub(super) async fn method_not_allowed() -> Response {
    let error = ApiError::new(
        ErrorCode::BadRequest,
        "This path exists, but not with this method. /openapi.json lists the methods.",
    );
    (StatusCode::METHOD_NOT_ALLOWED, Json(error)).into_response()
}

/// A panic in a handler is our defect; it costs one answer.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!("a request handler panicked: {what}");
    let message =
        "A defect in EdgeCoder broke this request. The log says more: edgecoder-node logs.";
    Failure::new(ErrorCode::Internal, message).into_response()
}
