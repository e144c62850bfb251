//! The one door to the node: its router, called in process. No port and no token are involved.
//!
//! The page's requests, the tray and the window all come through here, so that a node that is
//! down answers all of them the same way.

use std::time::Duration;

use agent_api::{
    ApiError, Endpoint, ErrorCode, Method,
    endpoint::Nothing,
    host::{HostRequest, HostResponse, HostState},
};
use agent_core::supervisor::Supervisor;
use axum::{
    Router,
    body::Body,
    http::{Request, Response, header},
};
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;

/// Largest answer that is collected in one piece. The largest legitimate one is `/logs` with
/// 2,000 lines of 2 KiB; longer answers are streamed.
const ANSWER_BYTES: usize = 8 << 20;

/// How long the shell's own questions wait. They are answered from memory; a node that needs
/// longer is in trouble, and the tray says so.
const OWN_QUESTION: Duration = Duration::from_secs(2);

/// Sends one request to the running node.
pub(crate) async fn dispatch(
    supervisor: &Supervisor,
    request: &HostRequest,
) -> Result<Response<Body>, ApiError> {
    let Some(router) = supervisor.router() else {
        return Err(node_down(&supervisor.state().borrow()));
    };
    call(router, request).await
}

async fn call(router: Router, request: &HostRequest) -> Result<Response<Body>, ApiError> {
    let mut http = Request::builder().method(request.method.as_str()).uri(&request.path);
    if request.body.is_some() {
        http = http.header(header::CONTENT_TYPE, "application/json");
    }
    let http = http.body(request.body.clone().map_or_else(Body::empty, Body::from));
    let http = http.map_err(|error| {
        let what = format!("{} {} is not a request: {error}.", request.method, request.path);
        ApiError::new(ErrorCode::BadRequest, what)
    })?;
    match router.oneshot(http).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// The whole answer, refused when it is longer than [`ANSWER_BYTES`].
pub(crate) async fn collect(response: Response<Body>) -> Result<HostResponse, ApiError> {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| {
        let what = "The node's answer broke off or is too long for the window.";
        ApiError { detail: Some(error.to_string()), ..ApiError::new(ErrorCode::Internal, what) }
    })?;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Ok(HostResponse { status, body })
}

/// Asks for something that takes no parameters.
pub(crate) async fn get<E>(supervisor: &Supervisor) -> Result<E::Response, ApiError>
where
    E: Endpoint<Request = Nothing>,
{
    ask(supervisor, E::METHOD, E::PATH, None).await
}

/// Sends a command.
pub(crate) async fn post<E: Endpoint>(
    supervisor: &Supervisor,
    request: &E::Request,
) -> Result<E::Response, ApiError> {
    let body = serde_json::to_string(request).map_err(defect)?;
    ask(supervisor, E::METHOD, E::PATH, Some(body)).await
}

async fn ask<T: DeserializeOwned>(
    supervisor: &Supervisor,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<T, ApiError> {
    let request = HostRequest {
        method: method.as_str().to_owned(),
        path: path.to_owned(),
        body,
        stream: None,
    };
    let answer = tokio::time::timeout(OWN_QUESTION, async {
        collect(dispatch(supervisor, &request).await?).await
    });
    let answer = answer.await.map_err(|_| {
        let what = "The node does not answer; it is busy or stuck.";
        ApiError::new(ErrorCode::Unavailable, what)
    })??;
    if answer.status == 200 {
        return serde_json::from_str(&answer.body).map_err(defect);
    }
    Err(serde_json::from_str(&answer.body).unwrap_or_else(|_| {
        let what = format!("{path} answered with status {}.", answer.status);
        ApiError::new(ErrorCode::Internal, what)
    }))
}

fn defect(error: serde_json::Error) -> ApiError {
    let what =
        "The shell and the node do not understand each other. This is a defect of EdgeCoder.";
    ApiError { detail: Some(error.to_string()), ..ApiError::new(ErrorCode::Internal, what) }
}

/// What a request hears while no node runs.
fn node_down(host: &HostState) -> ApiError {
    let what = match host {
        HostState::Starting | HostState::Running => "The node is starting. Try again in a moment.",
        HostState::Restarting { .. } => {
            "The node ended and is started again by itself. Try again in a moment, or restart it now."
        }
        HostState::Stopping | HostState::Stopped => "The node is stopped. Start EdgeCoder again.",
    };
    let detail = match host {
        HostState::Restarting { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    ApiError { detail, ..ApiError::new(ErrorCode::Unavailable, what) }
}

/// An error in the shape in which the page gets every answer.
pub(crate) fn refusal(error: &ApiError) -> HostResponse {
    let body = serde_json::to_string(error).expect("an error of strings serializes");
    HostResponse { status: error.code.status(), body }
}

#[cfg(test)]
mod tests {
    use axum::{
        Json,
        routing::{get, post},
    };
    use serde_json::{Value, json};

    use super::*;

    fn request(method: &str, path: &str, body: Option<&str>) -> HostRequest {
        let body = body.map(str::to_owned);
        HostRequest { method: method.into(), path: path.into(), body, stream: None }
    }

    async fn answer(router: Router, request: HostRequest) -> HostResponse {
        match call(router, &request).await {
            Ok(response) => match collect(response).await {
                Ok(answer) => answer,
                Err(error) => refusal(&error),
            },
            Err(error) => refusal(&error),
        }
    }

    #[tokio::test]
    async fn a_json_body_reaches_the_router_and_its_status_comes_back() {
        let echo = |Json(body): Json<Value>| async move { Json(json!({ "got": body })) };
        let router = Router::new().route("/echo", post(echo));
        let sent = request("POST", "/echo", Some(r#"{"a":1}"#));
        let got = answer(router.clone(), sent).await;
        assert_eq!((got.status, got.body.as_str()), (200, r#"{"got":{"a":1}}"#));
        assert_eq!(answer(router, request("GET", "/nothing", None)).await.status, 404);
    }

    #[tokio::test]
    async fn a_malformed_request_is_a_bad_request() {
        for bad in [request("GE T", "/", None), request("GET", "/ a b", None)] {
            let got = answer(Router::new(), bad).await;
            let error: ApiError = serde_json::from_str(&got.body).expect("an ApiError");
            assert_eq!((got.status, error.code), (400, ErrorCode::BadRequest));
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_refused() {
        let huge = || async { "x".repeat(ANSWER_BYTES + 1) };
        let router = Router::new().route("/huge", get(huge));
        assert_eq!(answer(router, request("GET", "/huge", None)).await.status, 500);
    }

    #[test]
    fn a_node_that_is_down_says_why() {
        let reason = "port 4301 is in use".to_owned();
        let host = HostState::Restarting { attempt: 2, retry_at_ms: 0, reason: reason.clone() };
        let error = node_down(&host);
        assert_eq!((error.code.status(), error.detail), (503, Some(reason)));
    }
}
