//! The keys of the metadata that a [`GgufInfo`] is made of.

use super::{
    GgufError, GgufInfo,
    head::{Array, MAX_LAYERS, Value},
    tensors::Tensors,
    types,
};

/// Longest key that is kept; ours are shorter.
const MAX_KEY_BYTES: usize = 128;
/// Keys of the architecture that are kept, in case a file repeats them without end.
const MAX_KEPT: usize = 256;
/// Longest name, architecture and licence that is kept.
const MAX_TEXT_CHARS: usize = 1_000;

/// Keys `<architecture>.<rest>` that are numbers, or one number per layer.
const WANTED: [&str; 27] = [
    "context_length",
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_count",
    "expert_used_count",
    "vocab_size",
    "pooling_type",
    "full_attention_interval",
    "token_shift_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.shared_kv_layers",
    "attention.causal",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.group_count",
    "wkv.head_size",
    "shortconv.l_cache",
];

#[derive(Debug)]
enum Kept {
    Number(u64),
    PerLayer(Vec<u64>),
}

#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) alignment: u32,
    name: Option<String>,
    architecture: Option<String>,
    license: Option<String>,
    file_type: Option<u32>,
    tokens: u64,
    merges: u64,
    template: Template,
    fill_in: bool,
    parts: Option<u64>,
    /// `<architecture>.<rest>`; the architecture may come after them.
    kept: Vec<(String, Kept)>,
}

/// What a chat template can do.
#[derive(Clone, Copy, Debug, Default)]
struct Template {
    present: bool,
    tools: bool,
    thinking: bool,
}

impl Template {
    fn read(source: &str) -> Self {
        const THINKING: [&str; 5] =
            ["<think>", "reasoning_content", "enable_thinking", "<|channel|>", "[THINK]"];
        Self {
            present: true,
            tools: source.contains("tools"),
            thinking: THINKING.iter().any(|mark| source.contains(mark)),
        }
    }
}

impl Metadata {
    pub(super) fn new() -> Self {
        Self { alignment: 32, ..Self::default() }
    }

    pub(super) fn take(&mut self, key: &str, value: Value) {
        match (key, value) {
            ("general.name", Value::Text(text)) => self.name = Some(shortened(text)),
            ("general.architecture", Value::Text(text)) => {
                self.architecture = Some(shortened(text));
            }
            ("general.license", Value::Text(text)) => self.license = Some(shortened(text)),
            ("general.file_type", Value::Number(n)) => self.file_type = u32::try_from(n).ok(),
            ("general.alignment", Value::Number(n)) => {
                self.alignment = u32::try_from(n).unwrap_or(0);
            }
            ("split.count", Value::Number(n)) => self.parts = Some(n),
            ("tokenizer.chat_template", Value::Text(text)) => {
                self.template = Template::read(&text);
            }
            ("tokenizer.ggml.tokens", Value::Array(array)) => {
                self.tokens = array.length;
                self.fill_in |= array.fill_in_token;
            }
            ("tokenizer.ggml.merges", Value::Array(array)) => self.merges = array.length,
            ("tokenizer.ggml.fim_pre_token_id" | "tokenizer.ggml.prefix_token_id", _) => {
                self.fill_in = true;
            }
            (key, Value::Number(n)) => self.keep(key, Kept::Number(n)),
            (key, Value::Bool(b)) => self.keep(key, Kept::Number(u64::from(b))),
            (key, Value::Array(Array { numbers, .. })) if !numbers.is_empty() => {
                self.keep(key, Kept::PerLayer(numbers));
            }
            _ => {}
        }
    }

    fn keep(&mut self, key: &str, value: Kept) {
        let wanted = |rest: &str| key.strip_suffix(rest).is_some_and(|a| a.ends_with('.'));
        if key.len() <= MAX_KEY_BYTES
            && self.kept.len() < MAX_KEPT
            && WANTED.iter().any(|rest| wanted(rest))
        {
            self.kept.push((key.to_owned(), value));
        }
    }

    pub(super) fn into_info(
        self,
        tensors: Tensors,
        file_bytes: u64,
    ) -> Result<GgufInfo, GgufError> {
        let Some(architecture) = &self.architecture else {
            return Err(GgufError::Damaged("it does not name an architecture"));
        };
        let shape = self.shape(architecture);
        if shape.layers as usize > MAX_LAYERS {
            return Err(GgufError::Damaged("it claims more than 1,024 layers"));
        }
        let quantization = self
            .file_type
            .and_then(types::file_type_name)
            .or_else(|| tensors.main_type().map(types::tensor_type_name))
            .unwrap_or("unknown");
        let rows = tensors.embedding_rows.unwrap_or(0);
        let vocabulary = [self.tokens, rows, u64::from(shape.vocabulary)];
        Ok(GgufInfo {
            architecture: architecture.clone(),
            quantization: quantization.to_owned(),
            file_type: self.file_type,
            parameters: tensors.elements,
            vocabulary: narrowed(vocabulary.into_iter().find(|&n| n > 0).unwrap_or(0)),
            merges: narrowed(self.merges),
            chat_template: self.template.present,
            tools_template: self.template.tools,
            thinking_template: self.template.thinking,
            fill_in_tokens: self.fill_in,
            parts: self.parts.map_or(1, |n| narrowed(n).max(1)),
            weight_bytes: tensors.bytes,
            embedding_bytes: tensors.embedding,
            output_bytes: tensors.output,
            expert_bytes: tensors.experts,
            repacked_bytes: tensors.repacked,
            tied_copy_bytes: tensors.tied_copy(),
            file_bytes,
            layer_bytes: tensors.layers,
            name: self.name,
            license: self.license,
            ..shape
        })
    }

    /// What the keys of the architecture say.
    fn shape(&self, architecture: &str) -> GgufInfo {
        let number = |rest: &str| self.number(architecture, rest);
        let per_layer = |rest: &str| self.per_layer(architecture, rest);
        let heads = number("attention.head_count").unwrap_or(0);
        let pattern = "attention.sliding_window_pattern";
        GgufInfo {
            context_train: number("context_length").unwrap_or(0),
            layers: number("block_count").unwrap_or(0),
            embedding: number("embedding_length").unwrap_or(0),
            heads,
            heads_kv: number("attention.head_count_kv").unwrap_or(heads),
            heads_kv_per_layer: per_layer("attention.head_count_kv"),
            key_length: number("attention.key_length"),
            value_length: number("attention.value_length"),
            latent_attention: number("attention.key_length_mla").is_some_and(|n| n > 0)
                && number("attention.value_length_mla").is_some_and(|n| n > 0),
            vocabulary: number("vocab_size").unwrap_or(0),
            feed_forward: number("feed_forward_length").unwrap_or(0),
            feed_forward_per_layer: per_layer("feed_forward_length"),
            experts: number("expert_count").unwrap_or(0),
            experts_used: number("expert_used_count").unwrap_or(0),
            expert_feed_forward: number("expert_feed_forward_length").unwrap_or(0),
            sliding_window: number("attention.sliding_window").filter(|&n| n > 0),
            sliding_pattern: number(pattern).filter(|_| per_layer(pattern).is_empty()),
            sliding_per_layer: per_layer(pattern),
            shared_cache_layers: number("attention.shared_kv_layers").unwrap_or(0),
            full_attention_interval: number("full_attention_interval"),
            state_conv_kernel: number("ssm.conv_kernel").unwrap_or(0),
            state_inner: number("ssm.inner_size").unwrap_or(0),
            state_size: number("ssm.state_size").unwrap_or(0),
            state_groups: number("ssm.group_count").unwrap_or(0),
            wkv_head: number("wkv.head_size").unwrap_or(0),
            token_shift: number("token_shift_count"),
            short_conv: number("shortconv.l_cache").unwrap_or(0),
            pooling: number("pooling_type"),
            not_causal: number("attention.causal") == Some(0),
            ..GgufInfo::default()
        }
    }

    fn find(&self, architecture: &str, rest: &str) -> Option<&Kept> {
        let matches = |key: &str| {
            key.strip_prefix(architecture).and_then(|key| key.strip_prefix('.')) == Some(rest)
        };
        self.kept.iter().find(|(key, _)| matches(key)).map(|(_, value)| value)
    }

    /// The largest where there is one value per layer: what buffers are made for.
    fn number(&self, architecture: &str, rest: &str) -> Option<u32> {
        match self.find(architecture, rest)? {
            Kept::Number(n) => u32::try_from(*n).ok(),
            Kept::PerLayer(all) => all.iter().max().and_then(|&n| u32::try_from(n).ok()),
        }
    }

    fn per_layer(&self, architecture: &str, rest: &str) -> Vec<u32> {
        match self.find(architecture, rest) {
            Some(Kept::PerLayer(all)) => all.iter().map(|&n| narrowed(n)).collect(),
            _ => Vec::new(),
        }
    }
}

fn narrowed(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}
