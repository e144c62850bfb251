//! What the page may call. No logic: requests go through the door, everything else to its owner.

use agent_api::{
    ApiError,
    host::{HostMessage, HostRequest, HostResponse},
};
use axum::{body::Body, http::Response};
use tauri::{State, WebviewWindow, ipc::Channel};

use crate::{app::Shell, door};

/// Opens the channel for events and streamed answers. A page calls it once, when it starts.
#[tauri::command]
pub(crate) fn connect(
    channel: Channel<HostMessage>,
    window: WebviewWindow,
    shell: State<'_, Shell>,
) {
    let supervisor = shell.supervisor.clone();
    shell.page.connect(channel, window, move || supervisor.subscribe());
}

/// One request to the node. Errors come as answers, as they would over HTTP.
#[tauri::command]
pub(crate) async fn api(
    request: HostRequest,
    shell: State<'_, Shell>,
) -> Result<HostResponse, String> {
    Ok(answer(&shell, request).await.unwrap_or_else(|error| door::refusal(&error)))
}

async fn answer(shell: &Shell, request: HostRequest) -> Result<HostResponse, ApiError> {
    let Some(id) = request.stream else {
        return door::collect(door::dispatch(&shell.supervisor, &request).await?).await;
    };
    let (stream, outlet) = shell.page.open_stream(id)?;
    let response = tokio::select! {
        // Cancelled before the answer began: an empty one, which ends at once.
        () = stream.cancelled() => Response::new(Body::empty()),
        response = door::dispatch(&shell.supervisor, &request) => response?,
    };
    if !response.status().is_success() {
        return door::collect(response).await;
    }
    let status = response.status().as_u16();
    tauri::async_runtime::spawn(stream.pump(response.into_body(), outlet));
    Ok(HostResponse { status, body: String::new() })
}

/// Stops a streamed answer; the node stops working on it.
#[tauri::command]
pub(crate) fn cancel(stream: u32, shell: State<'_, Shell>) {
    shell.page.cancel_stream(stream);
}

/// Starts the node again without waiting for the countdown.
#[tauri::command]
pub(crate) fn restart_now(shell: State<'_, Shell>) {
    shell.supervisor.restart_now();
}
