//! The one door to a node: an axum router, used in process by the desktop and over HTTP by
//! everybody else.
//!
//! [`router`] has no guards: whoever holds it is the owner. [`serve`] puts it behind HTTP with the
//! checks of `api/guard.rs`. The product's own paths come from the table in `agent_api::endpoint`,
//! so their types cannot differ from what the UI expects.

mod error;
mod events;
mod follow;
mod generation;
mod guard;
mod ollama;
mod openai;
mod openapi;
mod own;
mod page;
mod pulls;
mod routed;
mod server;

use agent_api::endpoint::{
    GetActivity, GetCatalogue, GetCoordinators, GetDhtStats, GetHardware, GetHealth, GetLogs,
    GetMesh, GetMeshPeer, GetMeshPeers, GetMeshTopology, GetModelFit, GetModelShow, GetModelStatus,
    GetOrchestration, GetSettings, GetStatus, GetTask, GetTaskEvents, GetTaskOutput,
    GetTaskPlacement, ListModels, ListPulls, ListTasks, PatchSettings, PauseNode, PostCatalogue,
    PostConcurrency, PostDrain, PostMeshAdmit, PostMeshBlock, PostMeshCreate, PostMeshInvite,
    PostMeshJoin, PostMeshLeave, PostMeshRefresh, PostMeshTicket, PostMeshTrust, PostModelCopy,
    PostModelImport, PostModelLoad, PostModelOptions, PostModelPull, PostModelRemove,
    PostModelSwap, PostModelUnload, PostModelVerify, PostPullCancel, PostPullPause,
    PostPullPreview, PostPullResume, PostRegistryLogin, PostSubmit, PostSwapPreview, PostTask,
    PostTaskCancel, PostTaskRetry, ResumeNode,
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
        .merge(model_paths())
        .merge(mesh_paths())
        .merge(task_paths())
        .merge(own::schedules::paths())
        .route("/events", get(events::events))
        .route("/metrics", get(own::metrics))
        .route("/openapi.json", get(openapi::document))
        .nest("/v1", openai::router())
        .nest("/api", ollama::router())
        .method_not_allowed_fallback(error::method_not_allowed)
        .fallback_service(page::service(node))
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(node.clone(), own::count))
        .with_state(node.clone())
}

/// The table's rows about models, pulls, the catalogue and the machine.
fn model_paths() -> Router<Node> {
    use own::models;
    Router::new()
        .serve::<ListModels, _, _>(models::list)
        .serve::<GetModelStatus, _, _>(models::status)
        .serve::<PostModelSwap, _, _>(models::swap)
        .serve::<PostSwapPreview, _, _>(models::swap_preview)
        .serve::<GetModelShow, _, _>(models::show)
        .serve::<GetModelFit, _, _>(models::fit)
        .serve::<PostModelLoad, _, _>(models::load)
        .serve::<PostModelUnload, _, _>(models::unload)
        .serve::<PostModelOptions, _, _>(models::set_options)
        .serve::<PostModelRemove, _, _>(models::remove)
        .serve::<PostModelCopy, _, _>(models::copy)
        .serve::<PostModelImport, _, _>(models::import)
        .serve::<PostModelVerify, _, _>(models::verify)
        .serve::<PostModelPull, _, _>(models::start_pull)
        .serve::<PostPullPreview, _, _>(models::preview_pull)
        .serve::<ListPulls, _, _>(models::pulls)
        .serve::<PostPullPause, _, _>(models::pause_pull)
        .serve::<PostPullResume, _, _>(models::resume_pull)
        .serve::<PostPullCancel, _, _>(models::cancel_pull)
        .serve::<GetCatalogue, _, _>(models::catalogue)
        .serve::<PostCatalogue, _, _>(models::update_catalogue)
        .serve::<PostRegistryLogin, _, _>(models::registry_login)
        .serve::<GetHardware, _, _>(models::hardware)
        .route(pulls::PATH, get(pulls::stream))
}

/// The table's rows about the mesh.
fn mesh_paths() -> Router<Node> {
    use own::mesh;
    Router::new()
        .serve::<GetMesh, _, _>(mesh::mesh)
        .serve::<GetMeshPeers, _, _>(mesh::peers)
        .serve::<GetMeshTopology, _, _>(mesh::topology)
        .serve::<GetMeshPeer, _, _>(mesh::peer)
        .serve::<PostMeshInvite, _, _>(mesh::invite)
        .serve::<PostMeshTicket, _, _>(mesh::ticket)
        .serve::<PostMeshJoin, _, _>(mesh::join)
        .serve::<PostMeshLeave, _, _>(mesh::leave)
        .serve::<PostMeshCreate, _, _>(mesh::create)
        .serve::<PostMeshBlock, _, _>(mesh::block)
        .serve::<PostMeshTrust, _, _>(mesh::trust)
        .serve::<PostMeshAdmit, _, _>(mesh::admit)
        .serve::<PostMeshRefresh, _, _>(mesh::refresh)
        .serve::<GetCoordinators, _, _>(mesh::coordinators)
        .serve::<GetDhtStats, _, _>(mesh::dht_stats)
}

/// The table's rows about tasks.
fn task_paths() -> Router<Node> {
    use own::tasks;
    Router::new()
        .serve_with_headers::<PostTask, _, _>(tasks::submit)
        .serve_with_headers::<PostSubmit, _, _>(tasks::submit)
        .serve::<ListTasks, _, _>(tasks::list)
        .serve::<GetTask, _, _>(tasks::get)
        .serve::<GetTaskEvents, _, _>(tasks::events)
        .serve::<GetTaskOutput, _, _>(tasks::output)
        .serve::<GetTaskPlacement, _, _>(tasks::placement)
        .serve::<PostTaskCancel, _, _>(tasks::cancel)
        .serve::<PostTaskRetry, _, _>(tasks::retry)
        .serve::<GetOrchestration, _, _>(tasks::orchestration)
        .serve::<PostConcurrency, _, _>(tasks::concurrency)
        .serve::<PostDrain, _, _>(tasks::drain)
        .route(follow::PATH, get(follow::follow))
}

/// Serves the node's API on the port that it bound, until the node stops.
pub fn serve(node: &Node) {
    let Some(listener) = node.take_listener() else { return };
    let guarded = router(node)
        .layer(RequestBodyTimeoutLayer::new(limits::BODY_IDLE))
        .layer(middleware::from_fn_with_state(node.clone(), guard::guard));
    node.spawn_critical("api", server::run(listener, guarded, node.stop_token()));
}
