//! What the runner takes, and how it is shared between RAM and a GPU.
//!
//! The numbers of [`need`] are of the processes that run: resident memory (`Rss` in
//! `/proc/PID/smaps_rollup`) of the runner after it has read a prompt and written an answer.
//! `tests/it/fit.rs` compares them for models of many shapes and allows 10 %.

use agent_api::runner::reads_weights;

use crate::models::gguf::{GgufInfo, LayerCache};

/// Sequences that the runner decodes together at most (`MAX_SLOTS` in the runner's `model.rs`).
const MAX_SLOTS: u32 = 64;
/// Tokens that llama.cpp computes at once (`MICRO_BATCH` in the runner's `model.rs`).
const MICRO_BATCH: u64 = 512;
/// Tokens that the runner's second context, for embeddings, computes at once (`CHUNK` there).
const EMBED_CHUNK: u64 = 128;

/// The runner itself with its libraries, thread stacks and a small model's structures: measured,
/// 17 to 20 MiB in a debug build.
const PROGRAM: u64 = 19 << 20;
/// llama.cpp keeps each token's text with its attributes and finds it by a hash table: measured
/// with a vocabulary of 128,256, 155 bytes for short tokens.
const TOKEN: u64 = 160;
/// Each merge rule is an entry of another table: measured with 280,000 rules.
const MERGE: u64 = 105;
/// llama.cpp's list of which position each cell of the cache holds: measured, 150 to 200 bytes.
const CELL: u64 = 170;
/// Numbers of the graph are 32 bits wide, of the attention mask 16.
const NUMBER: u64 = 4;
const MASK_NUMBER: u64 = 2;
/// What a GPU's driver takes for a process that uses it. An allowance, not measured here.
const GPU_CONTEXT: u64 = 400 << 20;

/// Memory that a model takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    pub weights: u64,
    /// The KV cache of all slots.
    pub cache: u64,
    /// Buffers of the computation, the vocabulary, the runner program.
    pub overhead: u64,
}

impl Need {
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.overhead)
    }
}

/// What the runner takes on the processor with `slots` sequences of `context` tokens, both reduced
/// to what the model and the runner allow.
///
/// A second context for embeddings is counted for models that are made for them. Another model
/// that is asked for embeddings takes one slot's cache more.
pub fn need(info: &GgufInfo, context: u32, slots: u32) -> Need {
    Model::new(info).load(context, slots).need()
}

/// A model with what its layers take, worked out once.
#[derive(Debug)]
pub(super) struct Model<'a> {
    info: &'a GgufInfo,
    layers: Vec<Layer>,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    weights: u64,
    cache: LayerCache,
}

impl<'a> Model<'a> {
    pub(super) fn new(info: &'a GgufInfo) -> Self {
        // Of a file whose tensors are not known, each layer has the same share.
        let others = info.embedding_bytes.saturating_add(info.output_bytes);
        let all = info.weight_bytes.saturating_sub(others);
        let share = all.checked_div(info.layers.into()).unwrap_or(0);
        let known = info.layer_bytes.iter().copied().map(Some).chain(std::iter::repeat(None));
        let layers = (0..info.layers).zip(known).map(|(layer, weights)| Layer {
            weights: weights.unwrap_or(share),
            cache: info.layer_cache(layer),
        });
        Self { info, layers: layers.collect() }
    }

    /// Context and slots are reduced to what the model and the runner allow.
    pub(super) fn load(&'a self, context: u32, slots: u32) -> Load<'a> {
        let trained = self.info.context_train;
        let trained = if trained == 0 { u32::MAX } else { trained };
        Load { model: self, context: context.min(trained), slots: slots.clamp(1, MAX_SLOTS) }
    }
}

/// A model as it would be loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load<'a> {
    model: &'a Model<'a>,
    pub(super) context: u32,
    pub(super) slots: u32,
}

/// A load with its last layers on the GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Placement {
    pub(super) need: Need,
    /// The output matrix counts as one more layer, the last.
    pub(super) gpu_layers: u32,
    /// Of `need`, what is in the GPU's memory.
    pub(super) gpu_bytes: u64,
}

impl Load<'_> {
    pub(super) fn with_context(self, context: u32) -> Self {
        Self { context, ..self }
    }

    pub(super) fn all_layers(&self) -> u32 {
        self.model.info.layers.saturating_add(1)
    }

    fn need(&self) -> Need {
        let info = self.model.info;
        // A mapped file stays in memory beside what llama.cpp rearranged of it.
        let twice = if reads_weights(info.file_type) { 0 } else { info.repacked_bytes };
        let weights = info.weight_bytes.saturating_add(info.tied_copy_bytes).saturating_add(twice);
        let embeds = info.is_encoder() || info.pooling.is_some_and(|kind| kind > 0);
        let layers = self.model.layers.iter().map(|layer| layer.cache.bytes(self.context));
        let one = layers.fold(0, u64::saturating_add);
        let cache = one.saturating_mul(u64::from(self.slots) + u64::from(embeds));
        Need { weights, cache, overhead: self.overhead(embeds) }
    }

    fn overhead(&self, embeds: bool) -> u64 {
        let info = self.model.info;
        let (context, slots) = (u64::from(self.context), u64::from(self.slots));
        let vocabulary = u64::from(info.vocabulary);
        let texts = vocabulary * TOKEN + u64::from(info.merges) * MERGE;
        // Two rows of probabilities per slot (computed and handed out), and the sampler's list.
        let rows = vocabulary.saturating_mul(NUMBER * 2 * slots + 24);
        let cells = context.saturating_mul(slots * CELL);
        let embedding = match (embeds, info.is_encoder()) {
            (false, _) => 0,
            // An input is computed as a whole.
            (true, true) => self.graph(context),
            (true, false) => {
                let rows = EMBED_CHUNK.saturating_mul(vocabulary).saturating_mul(NUMBER);
                self.graph(EMBED_CHUNK).saturating_add(rows)
            }
        };
        [PROGRAM, texts, rows, cells, self.graph(MICRO_BATCH), embedding]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// What is touched of the buffers for intermediate results of so many tokens: the widest
    /// part of a layer beside its input and output, and the mask of who sees whom.
    fn graph(&self, tokens: u64) -> u64 {
        let info = self.model.info;
        let [width, heads, heads_kv, wide] =
            [info.embedding, info.heads, info.heads_kv, info.feed_forward].map(u64::from);
        let [used, expert_wide] = [info.experts_used, info.expert_feed_forward].map(u64::from);
        let head = info.embedding.checked_div(info.heads).unwrap_or(0);
        let key = u64::from(info.key_length.unwrap_or(head));
        let attention = key.saturating_mul(2 * (heads.saturating_add(heads_kv)));
        let experts = used.saturating_mul(3 * expert_wide + width);
        let widest = attention.max(3 * wide).max(experts);
        let per_token = widest.saturating_add(2 * width).saturating_mul(NUMBER);
        // Layers with a window have a mask of their own.
        let masks = if info.sliding_layers() > 0 { 2 } else { 1 };
        let mask = u64::from(self.context) * MASK_NUMBER * masks;
        tokens.saturating_mul(per_token.saturating_add(mask))
    }

    /// This load with its last `gpu_layers` on the GPU.
    ///
    /// As llama.cpp shares it out: the last layers first, each with its cache; the embedding
    /// matrix stays in RAM; a tied output matrix is copied. The buffers are an estimate, as
    /// allocated by llama.cpp for a full batch.
    pub(super) fn placed(&self, gpu_layers: u32) -> Placement {
        let mut need = self.need();
        let gpu_layers = gpu_layers.min(self.all_layers());
        if gpu_layers == 0 {
            return Placement { need, gpu_layers, gpu_bytes: 0 };
        }
        let info = self.model.info;
        // Files for a GPU are mapped, and nothing is rearranged for the processor.
        need.weights = info.weight_bytes;
        let mut gpu_bytes = 0_u64;
        if gpu_layers > info.layers {
            let output = if info.output_bytes > 0 { 0 } else { info.embedding_bytes };
            need.weights = need.weights.saturating_add(output);
            gpu_bytes = output.max(info.output_bytes);
        }
        for layer in self.model.layers.iter().rev().take(gpu_layers as usize) {
            let cache = layer.cache.bytes(self.context).saturating_mul(self.slots.into());
            gpu_bytes = gpu_bytes.saturating_add(layer.weights).saturating_add(cache);
        }
        let logits = u64::from(info.vocabulary).saturating_mul(MICRO_BATCH * NUMBER);
        let buffers = self.graph(MICRO_BATCH).max(logits).saturating_add(GPU_CONTEXT);
        need.overhead = need.overhead.saturating_add(buffers);
        let gpu_bytes = gpu_bytes.saturating_add(buffers).min(need.total());
        Placement { need, gpu_layers, gpu_bytes }
    }

    /// Bytes that are fetched from RAM and from GPU memory to compute a token in the middle of
    /// the context.
    pub(super) fn bytes_per_token(&self, gpu_layers: u32) -> (u64, u64) {
        let info = self.model.info;
        let (mut ram, mut gpu) = (0_u64, 0_u64);
        let in_ram = self.model.layers.len().saturating_sub(gpu_layers as usize);
        let experts = info.expert_bytes.checked_div(info.layers.into()).unwrap_or(0);
        for (index, layer) in self.model.layers.iter().enumerate() {
            let idle = resting(experts.min(layer.weights), info.experts, info.experts_used);
            let attended = layer.cache.attended(self.context / 2);
            let side = if index >= in_ram { &mut gpu } else { &mut ram };
            *side = side.saturating_add(layer.weights - idle).saturating_add(attended);
        }
        let output = if info.output_bytes > 0 { info.output_bytes } else { info.embedding_bytes };
        let side = if gpu_layers > info.layers { &mut gpu } else { &mut ram };
        *side = side.saturating_add(output);
        (ram, gpu)
    }
}

/// Of the bytes of all experts, those of the experts that do not compute a token.
fn resting(bytes: u64, experts: u32, used: u32) -> u64 {
    let idle = u128::from(bytes) * u128::from(experts.saturating_sub(used));
    u64::try_from(idle.checked_div(experts.into()).unwrap_or(0)).unwrap_or(bytes)
}
