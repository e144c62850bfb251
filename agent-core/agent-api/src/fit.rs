//! Whether a model will run here, and how: computed before anything is downloaded or loaded.

use serde::{Deserialize, Serialize};

/// Where a model would run, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All layers, the cache and the buffers go into GPU memory.
    FitsGpu,
    /// Some layers go to the GPU, the rest stays in RAM.
    Splits,
    /// Everything in RAM, the processor computes.
    FitsRam,
    WontFit,
}

/// Memory a model takes at a context length and number of parallel requests, against what this
/// computer has minus what its owner keeps. Formulas: `agent-core/src/models/fit.rs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fit {
    pub verdict: Verdict,
    /// A sentence: `12.6 GB at 32k, up to 60 tok/s`, or `needs 66 GB, you have 54 GB`.
    pub reason: String,
    /// Tokens per request that this was computed for.
    pub context: u32,
    /// Requests at the same time that this was computed for.
    pub parallel: u32,
    pub weights_bytes: u64,
    /// The KV cache of all slots.
    pub cache_bytes: u64,
    /// Compute buffers, vocabulary, the runner program itself.
    pub overhead_bytes: u64,
    /// Sum of the three.
    pub total_bytes: u64,
    /// Of `total_bytes`, what goes into GPU memory.
    pub gpu_bytes: u64,
    /// Layers that go to the GPU.
    pub gpu_layers: u32,
    /// GPU memory that models may take: all of it minus the owner's reserve.
    pub gpu_limit_bytes: u64,
    /// RAM that models may take: all of it minus the owner's reserve.
    pub ram_limit_bytes: u64,
    /// The most one answer can reach: memory bandwidth over bytes read per token. `None` where the
    /// bandwidth is not known.
    pub tokens_per_s: Option<f64>,
    /// False when the model's shape is not known and the cache was estimated from its size.
    pub exact: bool,
}
