//! What the node did, newest first on the Dashboard.

use serde::{Deserialize, Serialize};

/// One line of the activity feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Activity {
    /// Grows by one per line; a key for lists.
    pub id: i64,
    pub at_ms: i64,
    pub kind: ActivityKind,
    /// One short sentence without a full stop.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    NodeStarted,
    ModelLoaded,
    ModelUnloaded,
    ModelFailed,
    /// A pull or an import is complete.
    ModelInstalled,
    ModelRemoved,
    PullStarted,
    PullPaused,
    PullFailed,
    RequestDone,
    RequestFailed,
    RequestCancelled,
    RunnerCrashed,
    RunnerBack,
    Paused,
    Resumed,
    SettingsChanged,
    PeerJoined,
    PeerLeft,
    /// A peer is reached in another way than before: relay, direct, LAN.
    PeerPath,
    /// This node joined, made or left a mesh.
    MeshChanged,
    Warning,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_snake_case_on_the_wire() {
        let json = serde_json::to_string(&ActivityKind::RunnerCrashed).expect("serializes");
        assert_eq!(json, "\"runner_crashed\"");
    }
}
