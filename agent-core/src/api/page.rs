//! The user interface for browsers: the built page's files, with headers that keep them apart from
//! other sites. Everything else that nobody serves is a 404 that says so.

use agent_api::ErrorCode;
use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tower::ServiceExt as _;
use tower_http::{services::ServeDir, set_header::SetResponseHeaderLayer};

use super::error::Failure;
use crate::node::Node;

/// Scripts only from us, no inline ones; styles may be set by the page's own code.
const CSP: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
    object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves the page's folder, or says how to build it.
pub(super) fn service(node: &Node) -> Router {
    let Some(dir) = node.ui_dir() else {
        return Router::new().route("/", get(no_page)).fallback(not_found);
    };
    let files = ServeDir::new(dir).append_index_html_on_directories(true).precompressed_gzip();
    let header =
        |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    let serve = move |request: Request| {
        let files = files.clone();
        async move {
            match files.oneshot(request).await {
                Ok(response) if response.status().is_success() => response.map(Body::new),
                Ok(response) if response.status().is_redirection() => response.map(Body::new),
                Ok(_) => not_found().await,
                Err(never) => match never {},
            }
        }
    };
    Router::new()
        .fallback(serve)
        .layer(header(header::CONTENT_SECURITY_POLICY, CSP))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::REFERRER_POLICY, "no-referrer"))
        .layer(header(header::CACHE_CONTROL, "no-cache"))
}

async fn not_found() -> Response {
    let message = "There is nothing at this path. /openapi.json lists what there is.";
    Failure::new(ErrorCode::NotFound, message).into_response()
}

async fn no_page() -> Response {
    "This EdgeCoder node is running, but its page was not built. In a checkout: cargo xtask ui\n"
        .into_response()
}
