//! Pulls: models on their way from a registry to this node.

use serde::{Deserialize, Serialize};

use crate::{NodeId, fit::Fit};

/// Body of `POST /model/pull`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// `llama3.2:1b`, `registry.example:5000/team/model:tag`, `hf.co/ORG/REPO:QUANT`, or the
    /// address of a GGUF file.
    pub model: String,
    /// Make it the active model once it is here.
    #[serde(default)]
    pub swap_when_done: bool,
}

/// Body of the calls that name one pull.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PullId {
    pub id: String,
}

/// Body of `POST /model/pull/preview`, and of others that name one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelName {
    pub model: String,
}

/// What a pull would do; nothing but the manifest (and the head of the model) has been fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PullPreview {
    /// The name it will have here.
    pub model: String,
    /// Host that it comes from.
    pub source: String,
    /// All layers.
    pub size_bytes: u64,
    /// Of these, what must still be fetched: layers already here are shared, parts are kept.
    pub download_bytes: u64,
    pub files: u32,
    pub fit: Option<Fit>,
    pub license: Option<String>,
    pub disk_free_bytes: Option<u64>,
    /// Bytes of models on disk once it is here, and the owner's budget.
    pub disk_after_bytes: u64,
    pub disk_budget_bytes: Option<u64>,
    /// Why a pull would be refused now.
    pub problem: Option<String>,
    pub already_installed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PullState {
    /// Waits for its turn.
    Queued,
    /// The manifest is being fetched.
    Resolving,
    Downloading,
    /// The connection failed; it goes on by itself at `retry_at_ms`.
    Retrying,
    /// Stopped, by the owner or because something is missing (`reason`); parts are kept.
    Paused,
    /// All bytes are here; the last of them are being hashed.
    Verifying,
    Done,
    /// Ended; `reason` says why. Resuming tries again with the parts that are good.
    Failed,
}

impl PullState {
    /// Nothing will happen any more unless the owner acts.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Paused | Self::Done | Self::Failed)
    }
}

/// One pull. Kept on disk until it is done or cancelled, so that it survives a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pull {
    pub id: String,
    /// The name it will have here.
    pub model: String,
    /// Host that it comes from.
    pub source: String,
    pub state: PullState,
    /// What a person should know: why it waits, paused, failed, and what to do.
    pub reason: String,
    /// All layers; `None` until the manifest is known.
    pub size_bytes: Option<u64>,
    pub done_bytes: u64,
    /// Over the last seconds, while downloading.
    pub bytes_per_s: Option<f64>,
    /// `None` until the rate has been stable for five seconds.
    pub eta_s: Option<u64>,
    pub retry_at_ms: Option<i64>,
    pub layers: Vec<PullLayer>,
    /// Where its bytes came from in this run of the node, those with the most first; empty before
    /// the first byte.
    #[serde(default)]
    pub sources: Vec<PullSource>,
    pub fit: Option<Fit>,
    pub swap_when_done: bool,
    pub created_at_ms: i64,
    pub changed_at_ms: i64,
}

/// A place that a pull's bytes came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PullSource {
    pub kind: PullSourceKind,
    /// Host of the registry, or what the peer calls itself.
    pub name: String,
    /// The peer; `None` for a registry.
    pub node_id: Option<NodeId>,
    /// On this network: the internet connection is not used.
    pub lan: bool,
    /// Bytes that were kept.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PullSourceKind {
    Registry,
    Peer,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PullLayer {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// `model`, `template`, `system`, `params`, `license`, `projector`, `config`.
    pub kind: String,
    pub size_bytes: u64,
    pub done_bytes: u64,
}

/// Answer of `GET /model/pulls`, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PullList {
    pub pulls: Vec<Pull>,
}
