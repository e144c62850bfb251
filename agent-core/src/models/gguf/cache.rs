//! How much memory a model's cache takes: one key and one value per token, layer and KV head, or
//! a state of fixed size where layers are recurrent.
//!
//! Formulas follow llama.cpp (`llama-kv-cache.cpp`, `llama-memory-recurrent.cpp`,
//! `llama-hparams.cpp`, and `create_memory` in `llama-model.cpp`) as the runner uses it: 16 bits
//! per number, every slot with a cache of its own, sliding-window layers with a cache as long as
//! the others' (the runner continues from prefixes, which a shorter one has forgotten).

use super::GgufInfo;

/// llama.cpp rounds the context of a sequence up to this many tokens.
const CONTEXT_STEP: u64 = 256;
/// Bytes of one number of a key or value (f16) and of a recurrent state (f32).
const CACHE_NUMBER: u64 = 2;
const STATE_NUMBER: u64 = 4;

/// Architectures without a cache: encoders, and models that write by diffusion.
const NO_CACHE: [&str; 16] = [
    "bert",
    "clef",
    "dream",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llada",
    "llada-moe",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "rnd1",
    "t5encoder",
    "wavtokenizer-dec",
];
/// Architectures in which every layer is recurrent.
const RECURRENT: [&str; 6] = ["arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"];
/// Architectures in which the layers without KV heads are recurrent.
const HYBRID: [&str; 11] = [
    "bailingmoe3",
    "glm5-next",
    "granitehybrid",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "lfm2",
    "lfm2moe",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
];
/// Architectures in which every n-th layer has full attention and the others are recurrent.
const INTERVAL: [&str; 5] = ["minimax-01", "qwen35", "qwen35moe", "qwen3next", "qwen4exp"];
/// Architectures whose caches have more parts (indexers, compressed blocks) or other widths per
/// layer. For them the plain formula with all layers' keys and values is an upper bound.
const UPPER_BOUND: [&str; 13] = [
    "bailingmoe3",
    "deepseek32",
    "deepseek4",
    "dots3note",
    "gemma4",
    "glm-dsa",
    "glm5-next",
    "hy_v4",
    "kimi-k3",
    "kimi-linear",
    "minimax-01",
    "minimax-m3",
    "qwen4exp",
];
/// How often a layer with full attention comes, where files leave that to llama.cpp.
const SLIDING_PATTERNS: [(&str, u32); 8] = [
    ("cohere2", 4),
    ("exaone4", 4),
    ("gemma2", 2),
    ("gemma3", 6),
    ("gemma3n", 5),
    ("gpt-oss", 2),
    ("llama4", 4),
    ("olmo2", 4),
];

/// What one layer keeps for one slot, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerCache {
    per_token: u64,
    fixed: u64,
    /// Tokens that are looked back on, where not all are.
    window: Option<u32>,
}

impl LayerCache {
    /// With room for this many tokens.
    pub(crate) fn bytes(&self, context: u32) -> u64 {
        let cells = u64::from(context).next_multiple_of(CONTEXT_STEP);
        cells.saturating_mul(self.per_token).saturating_add(self.fixed)
    }

    /// Of it, what the next token is computed from after this many.
    pub(crate) fn attended(&self, tokens: u32) -> u64 {
        let seen = self.window.map_or(tokens, |window| tokens.min(window));
        u64::from(seen).saturating_mul(self.per_token).saturating_add(self.fixed)
    }
}

impl GgufInfo {
    /// Bytes of the cache of all slots.
    pub fn kv_bytes(&self, context: u32, slots: u32) -> u64 {
        let layers = (0..self.layers).map(|layer| self.layer_cache(layer).bytes(context));
        layers.fold(0, u64::saturating_add).saturating_mul(slots.into())
    }

    /// False where [`kv_bytes`](Self::kv_bytes) is an upper bound.
    pub fn cache_is_exact(&self) -> bool {
        !self.is_one_of(&UPPER_BOUND) && !self.estimated
    }

    /// Whether text cannot be generated with it: it reads a text as a whole, or only compares.
    pub fn is_encoder(&self) -> bool {
        self.not_causal || self.is_one_of(&NO_CACHE)
    }

    /// What one layer keeps for one slot.
    pub(crate) fn layer_cache(&self, layer: u32) -> LayerCache {
        LayerCache {
            per_token: self.layer_token_bytes(layer),
            fixed: if self.is_recurrent(layer) { self.state_bytes() } else { 0 },
            window: self.sliding_window.filter(|_| self.slides(layer)),
        }
    }

    /// Bytes that one layer keeps per token.
    fn layer_token_bytes(&self, layer: u32) -> u64 {
        if !self.has_cache(layer) {
            return 0;
        }
        let head = self.embedding.checked_div(self.heads).unwrap_or(0);
        let key = u64::from(self.key_length.unwrap_or(head));
        // Latent attention keeps one compressed vector for both.
        let latent = self.latent_attention && self.cache_is_exact();
        let value = if latent { 0 } else { u64::from(self.value_length.unwrap_or(head)) };
        (key + value).saturating_mul(u64::from(self.layer_heads_kv(layer)) * CACHE_NUMBER)
    }

    fn layer_heads_kv(&self, layer: u32) -> u32 {
        per_layer(&self.heads_kv_per_layer, layer).unwrap_or(self.heads_kv)
    }

    fn has_cache(&self, layer: u32) -> bool {
        if self.is_one_of(&NO_CACHE) || self.is_one_of(&RECURRENT) {
            return false;
        }
        if self.is_one_of(&INTERVAL) {
            return !self.is_recurrent(layer);
        }
        match self.architecture.as_str() {
            "gemma3n" => layer < 20,
            "gemma4" => layer < self.layers.saturating_sub(self.shared_cache_layers),
            _ => true,
        }
    }

    fn is_recurrent(&self, layer: u32) -> bool {
        if self.architecture == "falcon-h1" || self.is_one_of(&RECURRENT) {
            return true;
        }
        if self.is_one_of(&INTERVAL) {
            let usual = if self.architecture == "minimax-01" { 8 } else { 4 };
            let interval = self.full_attention_interval.unwrap_or(usual).max(1);
            return !(layer + 1).is_multiple_of(interval);
        }
        // Nemotron also has layers that only feed forward.
        self.is_one_of(&HYBRID)
            && self.layer_heads_kv(layer) == 0
            && (!self.architecture.starts_with("nemotron_h")
                || per_layer(&self.feed_forward_per_layer, layer).unwrap_or(0) == 0)
    }

    /// Bytes of the state of one recurrent layer and slot (`n_embd_r` and `n_embd_s`).
    fn state_bytes(&self) -> u64 {
        let [width, wkv] = [self.embedding, self.wkv_head].map(u64::from);
        let [kernel, inner, size, groups] =
            [self.state_conv_kernel, self.state_inner, self.state_size, self.state_groups]
                .map(u64::from);
        let numbers = if wkv > 0 {
            width.saturating_mul(u64::from(self.token_shift.unwrap_or(2)) + wkv)
        } else if self.short_conv > 0 {
            width.saturating_mul(u64::from(self.short_conv) - 1)
        } else if inner > 0 {
            let rows = inner.saturating_add(groups.saturating_mul(size).saturating_mul(2));
            kernel.saturating_sub(1).saturating_mul(rows).saturating_add(size.saturating_mul(inner))
        } else {
            // Linear attention: one square matrix per head.
            let head = self.key_length.or(self.embedding.checked_div(self.heads)).unwrap_or(0);
            width.saturating_mul(head.into())
        };
        numbers.saturating_mul(STATE_NUMBER)
    }

    /// Whether a layer looks back only as far as its window.
    fn slides(&self, layer: u32) -> bool {
        if let Some(sliding) = per_layer(&self.sliding_per_layer, layer) {
            return sliding != 0;
        }
        let known = SLIDING_PATTERNS.iter().find(|(name, _)| *name == self.architecture);
        let pattern = known.map(|(_, pattern)| self.sliding_pattern.unwrap_or(*pattern));
        pattern.is_some_and(|pattern| pattern == 0 || layer % pattern < pattern - 1)
    }

    /// Layers that look back only as far as their window.
    pub fn sliding_layers(&self) -> u32 {
        if self.sliding_window.is_none() {
            return 0;
        }
        u32::try_from((0..self.layers).filter(|&layer| self.slides(layer)).count()).unwrap_or(0)
    }

    fn is_one_of(&self, architectures: &[&str]) -> bool {
        architectures.contains(&self.architecture.as_str())
    }
}

/// The layer's value where the file has one per layer.
fn per_layer(values: &[u32], layer: u32) -> Option<u32> {
    values.get(usize::try_from(layer).ok()?).copied()
}
