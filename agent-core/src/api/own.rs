//! The product's own paths: thin adapters from the endpoint table to the node. Here are the table's
//! adapter and the paths about the node itself; those about models are in `own/models.rs`, those
//! about the mesh in `own/mesh.rs`.

pub(super) mod mesh;
pub(super) mod models;
pub(super) mod schedules;
pub(super) mod tasks;

use std::future::Future;

use agent_api::{
    ErrorCode, Status,
    endpoint::{Endpoint, Method, Nothing, path_fields},
    node::{ActivityList, ActivityQuery, Health, LogLines, LogQuery, Pause, Serving},
    settings::{SettingsPatch, SettingsView},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{MatchedPath, Query, Request, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, Uri, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};

use serde_json::{Map, Value};

use super::error::Failure;
use crate::node::Node;

type Answer<T> = Result<T, Failure>;

/// Routes a row of the endpoint table to a function with exactly the row's types.
pub(super) trait Table {
    fn serve<E, F, Fut>(self, handler: F) -> Self
    where
        E: Endpoint + 'static,
        E::Request: Send,
        E::Response: Send,
        F: Fn(Node, E::Request) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<E::Response>> + Send;

    /// The same for a function that also reads the request's headers.
    fn serve_with_headers<E, F, Fut>(self, handler: F) -> Self
    where
        E: Endpoint + 'static,
        E::Request: Send,
        E::Response: Send,
        F: Fn(Node, HeaderMap, E::Request) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<E::Response>> + Send;
}

impl Table for Router<Node> {
    fn serve<E, F, Fut>(self, handler: F) -> Self
    where
        E: Endpoint + 'static,
        E::Request: Send,
        E::Response: Send,
        F: Fn(Node, E::Request) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<E::Response>> + Send,
    {
        self.serve_with_headers::<E, _, _>(move |node, _, request| handler(node, request))
    }

    fn serve_with_headers<E, F, Fut>(self, handler: F) -> Self
    where
        E: Endpoint + 'static,
        E::Request: Send,
        E::Response: Send,
        F: Fn(Node, HeaderMap, E::Request) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer<E::Response>> + Send,
    {
        let filter = match E::METHOD {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
            Method::Patch => MethodFilter::PATCH,
        };
        let adapter = move |State(node): State<Node>,
                            uri: Uri,
                            headers: HeaderMap,
                            body: Result<Bytes, BytesRejection>| {
            let handler = handler.clone();
            async move {
                let request = read_request::<E>(&uri, body)?;
                Ok::<_, Failure>(Json(handler(node, headers, request).await?))
            }
        };
        self.route(E::PATH, on(filter, adapter))
    }
}

fn read_request<E: Endpoint>(uri: &Uri, body: Result<Bytes, BytesRejection>) -> Answer<E::Request> {
    if E::METHOD == Method::Get {
        let uri = with_path_fields(E::PATH, uri);
        let query = Query::try_from_uri(&uri);
        return query.map(|Query(query)| query).map_err(|e| {
            Failure::new(
                ErrorCode::BadRequest,
                format!("The query is not valid: {}.", e.body_text()),
            )
        });
    }
    let body = body.map_err(|e| body_failure(&e))?;
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    if E::PATH.contains('{') {
        return read_with_path::<E>(uri, body);
    }
    // Says which field is wrong, which serde alone does not.
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(body)).map_err(|e| {
        Failure::new(ErrorCode::BadRequest, format!("The body is not what {} takes: {e}.", E::PATH))
    })
}

/// The fields that the path names join those of the body.
fn read_with_path<E: Endpoint>(uri: &Uri, body: &[u8]) -> Answer<E::Request> {
    let wrong = |e: &dyn std::fmt::Display| {
        let message = format!("The body is not what {} takes: {e}.", E::PATH);
        Failure::new(ErrorCode::BadRequest, message)
    };
    let mut body: Map<String, Value> = serde_json::from_slice(body).map_err(|e| wrong(&e))?;
    let fields: Query<Map<String, Value>> =
        Query::try_from_uri(&with_path_fields(E::PATH, uri)).map_err(|e| wrong(&e.body_text()))?;
    let named = path_fields(E::PATH, uri.path()).unwrap_or_default();
    for (name, value) in fields.0 {
        // What stands behind the question mark is no part of such a request.
        if named.iter().any(|(field, _)| *field == name) {
            body.insert(name, value);
        }
    }
    serde_path_to_error::deserialize(Value::Object(body)).map_err(|e| wrong(&e))
}

/// A path's own fields, as fields of the query.
fn with_path_fields(template: &str, uri: &Uri) -> Uri {
    let fields = path_fields(template, uri.path()).unwrap_or_default();
    if fields.is_empty() {
        return uri.clone();
    }
    let mut query = uri.query().unwrap_or_default().to_owned();
    for (name, value) in fields {
        // A query gives these a meaning of their own.
        let value = value.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
        query = format!("{name}={value}&{query}");
    }
    // What came in a URI goes into another one.
    format!("/?{query}").parse().unwrap_or_else(|_| uri.clone())
}

fn body_failure(rejection: &BytesRejection) -> Failure {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Failure::new(ErrorCode::TooLarge, too_large());
    }
    Failure::new(
        ErrorCode::BadRequest,
        format!("The body did not arrive: {}.", rejection.body_text()),
    )
}

pub(super) fn too_large() -> String {
    format!("The body is larger than {} MiB.", crate::config::limits::BODY_BYTES >> 20)
}

pub(super) async fn health(node: Node, _: Nothing) -> Answer<Health> {
    Ok(node.health())
}

pub(super) async fn status(node: Node, _: Nothing) -> Answer<Status> {
    Ok(node.status().await)
}

pub(super) async fn activity(node: Node, query: ActivityQuery) -> Answer<ActivityList> {
    let limit = query.limit.unwrap_or(50).clamp(1, 500);
    Ok(ActivityList { items: node.activity(limit, query.before).await? })
}

pub(super) async fn logs(node: Node, query: LogQuery) -> Answer<LogLines> {
    let limit = query.limit.unwrap_or(200).clamp(1, crate::config::limits::LOG_LINES);
    Ok(LogLines { lines: node.logs().lines(query.after, limit) })
}

pub(super) async fn settings(node: Node, _: Nothing) -> Answer<SettingsView> {
    Ok(node.settings_view())
}

pub(super) async fn patch_settings(node: Node, patch: SettingsPatch) -> Answer<SettingsView> {
    Ok(node.patch_settings(patch).await?)
}

pub(super) async fn pause(node: Node, pause: Pause) -> Answer<Serving> {
    Ok(node.pause(pause).await?)
}

pub(super) async fn resume(node: Node, _: Nothing) -> Answer<Serving> {
    Ok(node.resume().await?)
}

/// Prometheus' text format.
pub(super) async fn metrics(State(node): State<Node>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], node.render_metrics().await).into_response()
}

/// Counts requests by route pattern.
pub(super) async fn count(State(node): State<Node>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    node.metrics().http(route, response.status().as_u16());
    response
}
