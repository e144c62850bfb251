//! Models: what is installed, how each is to run, and what is in memory.

use serde::{Deserialize, Serialize};

use crate::fit::Fit;

/// A model that this node can load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstalledModel {
    /// The name that requests use: `edgecoder-demo-4m`, `llama3.2:1b`.
    pub id: String,
    /// The name for people, from the file's metadata.
    pub name: String,
    /// The model file; empty for models that another program holds.
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
    pub source: ModelSource,
    /// Digest of the manifest, `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
    pub modified_at_ms: Option<i64>,
    pub capabilities: Vec<Capability>,
    /// How the owner wants it to run; what is not set follows the settings.
    pub options: ModelOptions,
    /// Present while it is in memory or on its way there.
    pub residency: Option<Residency>,
    /// With its own options; `None` for models that another program runs.
    pub fit: Option<Fit>,
    /// Measured here over its last requests.
    pub tokens_per_s: Option<f64>,
    pub last_used_ms: Option<i64>,
    /// Bytes that removing it would free: layers that others use stay. `None`: it is not ours to
    /// remove.
    pub removable_bytes: Option<u64>,
}

/// Where a model comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// Ships with EdgeCoder.
    Demo,
    /// A GGUF file that the owner put into the models folder.
    File,
    /// Pulled or imported into this node's store.
    Store,
    /// Read in place from an Ollama model folder.
    OllamaFolder,
    /// Run by an Ollama daemon.
    OllamaDaemon,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    Completion,
    Tools,
    /// Fill in the middle.
    Insert,
    Vision,
    Embedding,
    Thinking,
}

/// Which program runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The built-in runner, llama.cpp.
    #[default]
    Runner,
    /// A running Ollama daemon.
    Ollama,
}

/// How one model is to run. What is `None` follows the settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ModelOptions {
    /// Tokens per request, prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// Requests at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// Layers on the GPU; `None`: as many as fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<u32>,
    /// Seconds in memory after its last request; -1: until something needs the memory or you
    /// unload it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_s: Option<i64>,
    /// Never evicted for another model.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Loaded when the node starts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub preload: bool,
    /// Which program runs it, where there is a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
}

/// Body of `POST /model/options`: replaces the model's options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SetModelOptions {
    pub model: String,
    pub options: ModelOptions,
}

/// Answer of `GET /model/list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelList {
    pub models: Vec<InstalledModel>,
    /// Where the owner may put GGUF files.
    pub folder: String,
    pub disk: DiskUse,
}

/// Space that models take, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DiskUse {
    /// Installed in this node's folder; shared layers count once.
    pub installed_bytes: u64,
    /// Parts of pulls that are not complete.
    pub partial_bytes: u64,
    /// The owner's limit for both; `None`: no limit.
    pub budget_bytes: Option<u64>,
    /// Free on the file system that holds the folder.
    pub free_bytes: Option<u64>,
}

/// Body of `POST /model/swap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SwapModel {
    pub model: String,
}

/// Answer of `POST /model/swap/preview`: what a swap would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SwapPreview {
    pub model: InstalledModel,
    /// Models that leave memory, the active one first.
    pub evicts: Vec<String>,
    /// Requests that finish on the old model before it leaves.
    pub running: u32,
    /// Memory of all models now and after, estimated.
    pub now_bytes: u64,
    pub after_bytes: u64,
    pub limit_bytes: u64,
    /// How long it took to load the last time.
    pub load_ms: Option<f64>,
    /// Why it cannot be loaded now.
    pub problem: Option<String>,
}

/// Answer of `POST /model/remove`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Removed {
    pub model: String,
    pub freed_bytes: u64,
}

/// Body of `POST /model/import`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImportModel {
    /// A GGUF file on this computer.
    pub path: String,
    /// Its name here; the file's name if absent.
    #[serde(default)]
    pub name: Option<String>,
}

/// Body of `POST /model/copy`: a second name for the same layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CopyModel {
    pub source: String,
    pub destination: String,
}

/// Query of `GET /model/show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShowModel {
    pub model: String,
}

/// Everything known about one installed model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelDetails {
    pub model: InstalledModel,
    pub layers: Vec<ModelLayer>,
    /// The chat template from the file.
    pub template: Option<String>,
    /// The system prompt that comes with it.
    pub system: Option<String>,
    /// The sampling options that come with it.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    pub license_text: Option<String>,
    /// Scalars of the GGUF's metadata.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelLayer {
    pub digest: String,
    pub kind: String,
    pub size_bytes: u64,
}

/// Query of `GET /model/fit`: an installed model, a catalogue entry's `pull` name, or a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FitQuery {
    pub model: String,
    #[serde(default)]
    pub context: Option<u32>,
    #[serde(default)]
    pub parallel: Option<u32>,
    #[serde(default)]
    pub gpu_layers: Option<u32>,
}

/// Answer of `POST /model/verify`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verified {
    pub model: String,
    pub bytes: u64,
    /// Layers whose bytes are not what their digest says, or that are missing.
    pub damaged: Vec<String>,
}

/// The active model, what the runner is doing with it, and everything in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelStatus {
    pub state: ModelState,
    /// What a person should know about the state: the reason, and what happens next.
    pub reason: String,
    /// The chosen model, loaded or not.
    pub active: Option<InstalledModel>,
    /// Present while the active model is in the runner.
    pub loaded: Option<LoadedModel>,
    /// When the runner will be started again, in `ModelState::Restarting`.
    pub retry_at_ms: Option<i64>,
    /// How often a runner ended unexpectedly since the node started.
    pub runner_crashes: u32,
    /// The active model's runner process while it runs.
    pub runner_pid: Option<u32>,
    /// Every model in memory or on its way, the active one first.
    pub resident: Vec<Residency>,
}

/// A model in memory or on its way there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Residency {
    pub id: String,
    pub state: ModelState,
    pub backend: Backend,
    pub reason: String,
    pub loaded: Option<LoadedModel>,
    /// Estimated for admission; 0 for models that another program holds.
    pub needs_bytes: u64,
    /// Of the runner process.
    pub pid: Option<u32>,
    pub running: u32,
    pub queued: u32,
    pub pinned: bool,
    /// Finishes its requests and then leaves.
    pub leaving: bool,
    /// When it leaves if no request comes; `None`: it stays.
    pub expires_at_ms: Option<i64>,
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
    /// Layers on the GPU.
    pub gpu_layers: u32,
}
