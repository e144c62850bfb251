//! The one door to a node: an axum router, used in process by the desktop and over HTTP by
//! everybody else.
//!
//! [`router`] has no guards: whoever holds it is the owner. [`serve`] puts it behind HTTP with the
//! checks of `api/guard.rs`. The product's own paths come from the table in `agent_api::endpoint`,
//! so their types cannot differ from what the UI expects.

mod error;
mod events;
mod guard;
mod openai;
mod openapi;
mod own;
mod page;
mod server;

use agent_api::endpoint::{
    GetActivity, GetHealth, GetLogs, GetModelStatus, GetSettings, GetStatus, ListModels,
    PatchSettings, PauseNode, PostModelSwap, ResumeNode,
};
use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};
use own::Table as _;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};

use crate::{config::limits, node::Node};

/// All paths, without HTTP's guards.
pub fn router(node: &Node) -> Router {
    Router::new()
        .serve::<GetHealth, _, _>(own::health)
        .serve::<GetStatus, _, _>(own::status)
        .serve::<GetActivity, _, _>(own::activity)
        .serve::<GetLogs, _, _>(own::logs)
        .serve::<GetSettings, _, _>(own::settings)
        .serve::<PatchSettings, _, _>(own::patch_settings)
        .serve::<PauseNode, _, _>(own::pause)
        .serve::<ResumeNode, _, _>(own::resume)
        .serve::<ListModels, _, _>(own::list_models)
        .serve::<GetModelStatus, _, _>(own::model_status)
        .serve::<PostModelSwap, _, _>(own::swap_model)
        .route("/events", get(events::events))
        .route("/metrics", get(own::metrics))
        .route("/openapi.json", get(openapi::document))
        .nest("/v1", openai::router())
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback_service(page::service(node))
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(node.clone(), own::count))
        .with_state(node.clone())
}

/// Serves the node's API on the port that it bound, until the node stops.
pub fn serve(node: &Node) {
    let Some(listener) = node.take_listener() else { return };
    let guarded = router(node)
        .layer(RequestBodyTimeoutLayer::new(limits::BODY_IDLE))
        .layer(middleware::from_fn_with_state(node.clone(), guard::guard));
    node.spawn_critical("api", server::run(listener, guarded, node.stop_token()));
}
