//! Between the desktop shell and its webview, and the state of the supervisor that hosts a node.

use serde::{Deserialize, Serialize};

use crate::Event;

/// What the supervisor around a node is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HostState {
    Starting,
    Running,
    /// The node ended or did not start; it is started again at `retry_at_ms`.
    Restarting {
        attempt: u32,
        retry_at_ms: i64,
        reason: String,
    },
    /// The node is being stopped on purpose.
    Stopping,
    Stopped,
}

/// Argument of the desktop's `api` command: one request for the router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostRequest {
    /// `GET`, `POST`, `PATCH`, ...
    pub method: String,
    /// Path and query, for example `/activity?limit=50`.
    pub path: String,
    /// A JSON text.
    #[serde(default)]
    pub body: Option<String>,
    /// When set, the body of a successful answer is sent piece by piece over the channel as
    /// `HostMessage::Chunk` with this id, and the command answers with an empty body at once.
    #[serde(default)]
    pub stream: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostResponse {
    pub status: u16,
    pub body: String,
}

/// What comes over the one channel from the shell to the webview.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HostMessage {
    Event {
        event: Event,
    },
    /// A piece of a streamed answer, in order.
    Chunk {
        stream: u32,
        text: String,
    },
    /// The streamed answer is over; `error` if it broke off.
    End {
        stream: u32,
        error: Option<String>,
    },
    /// The window should go to a panel, by its path (`/settings`): from the tray or a second start.
    Navigate {
        path: String,
    },
}
