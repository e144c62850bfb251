//! Models: what is installed, and what the runner holds.

use serde::{Deserialize, Serialize};

/// A model file that this node can load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstalledModel {
    /// The name that requests use, for example `edgecoder-demo-4m`.
    pub id: String,
    /// The name for people, from the file's metadata.
    pub name: String,
    pub path: String,
    pub size_bytes: u64,
    pub architecture: String,
    /// Number of weights, where the file says.
    pub parameters: Option<u64>,
    /// For example `Q8_0`.
    pub quantization: String,
    /// Tokens the model was trained to look back on.
    pub context_train: u32,
    pub license: Option<String>,
    /// True for the tiny model that ships so that a fresh node answers offline.
    pub demo: bool,
    pub active: bool,
    /// Why the file cannot be loaded, if it cannot.
    pub problem: Option<String>,
}

/// Answer of `GET /model/list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelList {
    pub models: Vec<InstalledModel>,
    /// Where the owner may put GGUF files.
    pub folder: String,
}

/// Body of `POST /model/swap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SwapModel {
    pub model: String,
}

/// The active model and what the runner is doing with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelStatus {
    pub state: ModelState,
    /// What a person should know about the state: the reason, and what happens next.
    pub reason: String,
    /// The chosen model, loaded or not.
    pub active: Option<InstalledModel>,
    /// Present while a model is in the runner.
    pub loaded: Option<LoadedModel>,
    /// When the runner will be started again, in `ModelState::Restarting`.
    pub retry_at_ms: Option<i64>,
    /// How often the runner ended unexpectedly since the node started.
    pub runner_crashes: u32,
    /// The runner's process id while it runs.
    pub runner_pid: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// No model is installed or chosen.
    None,
    Loading,
    Ready,
    /// Chosen but not in memory; the next request loads it.
    Unloaded,
    /// The runner ended and is being started again.
    Restarting,
    /// The model cannot be loaded; `reason` says why.
    Failed,
}

/// Facts the runner reported about the model in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoadedModel {
    pub id: String,
    /// Tokens per request: prompt and answer together.
    pub context: u32,
    /// Requests served at the same time.
    pub slots: u32,
    pub load_ms: f64,
    pub supports_tools: bool,
    pub has_chat_template: bool,
}
