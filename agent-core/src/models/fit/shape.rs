//! Fit of a model whose file is not here: from a catalogue entry or a registry's manifest.

use agent_api::fit::Fit;
use serde::{Deserialize, Serialize};

use super::{Capacity, fit};
use crate::models::gguf::GgufInfo;

/// What is known about a model's shape without its file. What is `None` is estimated from the
/// number of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    pub layers: Option<u32>,
    pub width: Option<u32>,
    pub heads: Option<u32>,
    pub kv_heads: Option<u32>,
    pub key_length: Option<u32>,
    pub value_length: Option<u32>,
    pub feed_forward: Option<u32>,
    pub vocabulary: Option<u32>,
    pub sliding_window: Option<u32>,
    /// Layers without the window.
    pub full_attention_layers: Option<u32>,
}

impl Shape {
    /// Whether the size of the cache follows from it.
    fn tells_cache(&self) -> bool {
        let head = self.width.is_some() && self.heads.is_some();
        let widths = head || (self.key_length.is_some() && self.value_length.is_some());
        self.layers.is_some() && self.kv_heads.is_some() && widths
    }
}

/// Weights per layer and square of the width, of the usual ones: 4 in the attention, 8 beside it.
const WEIGHTS_PER_SQUARE: f64 = 12.0;
/// Width of usual models per layer.
const WIDTH_PER_LAYER: f64 = 128.0;
/// Width of one head of usual models.
const HEAD: u32 = 128;
/// Heads that share keys and values in usual models.
const HEADS_PER_KV: u32 = 4;
/// A usual vocabulary.
const VOCABULARY: u32 = 128_256;
/// Merge rules per token of usual vocabularies.
const MERGES_PER_TOKEN: u32 = 2;
/// More layers than any model has.
const MAX_LAYERS: u32 = 1024;

/// Fit of a model with this many weights in a file of this size. `exact` is false unless the shape
/// tells the size of the cache.
pub fn fit_shape(
    parameters: u64,
    file_bytes: u64,
    shape: Option<&Shape>,
    context: u32,
    parallel: u32,
    capacity: &Capacity,
) -> Fit {
    let shape = shape.copied().unwrap_or_default();
    fit(&estimated(parameters, file_bytes, &shape), context, parallel, None, capacity)
}

fn estimated(parameters: u64, file_bytes: u64, shape: &Shape) -> GgufInfo {
    // Weights = 12 x layers x width², width = 128 x layers.
    let cube = parameters as f64 / (WEIGHTS_PER_SQUARE * WIDTH_PER_LAYER * WIDTH_PER_LAYER);
    let layers = shape.layers.unwrap_or(cube.cbrt().ceil() as u32).clamp(1, MAX_LAYERS);
    let square = parameters as f64 / (WEIGHTS_PER_SQUARE * f64::from(layers));
    let width = shape.width.unwrap_or((square.sqrt().ceil() as u32).next_multiple_of(HEAD));
    let heads = shape.heads.unwrap_or(width.div_ceil(HEAD)).max(1);
    let vocabulary = shape.vocabulary.unwrap_or(VOCABULARY);
    let per_weight = file_bytes as f64 / (parameters as f64).max(1.0);
    let matrix = f64::from(vocabulary) * f64::from(width) * per_weight;
    let sliding = shape.full_attention_layers.map_or(0, |full| layers.saturating_sub(full));
    GgufInfo {
        parameters,
        layers,
        embedding: width,
        heads,
        heads_kv: shape.kv_heads.unwrap_or(heads.div_ceil(HEADS_PER_KV)),
        key_length: shape.key_length,
        value_length: shape.value_length.or(shape.key_length),
        vocabulary,
        merges: vocabulary.saturating_mul(MERGES_PER_TOKEN),
        feed_forward: shape.feed_forward.unwrap_or(width.saturating_mul(7) / 2),
        sliding_window: shape.sliding_window,
        sliding_per_layer: (0..layers).map(|layer| u32::from(layer < sliding)).collect(),
        weight_bytes: file_bytes,
        embedding_bytes: (matrix as u64).min(file_bytes / 2),
        file_bytes,
        estimated: !shape.tells_cache(),
        ..GgufInfo::default()
    }
}
