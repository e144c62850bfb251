//! Reading the head of a GGUF file that nobody vouches for.
//!
//! Only the metadata and the tensor list are read, every length is checked before it is believed,
//! and the end of the tensor data is compared with the file, so that a file that is cut off is
//! known before llama.cpp maps it. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod cache;
mod details;
mod head;
mod metadata;
mod tensors;
mod types;

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use agent_api::models::Capability;
use serde::{Deserialize, Serialize};

pub(crate) use cache::LayerCache;
pub use details::{Details, read_details};
use head::Head;
use metadata::Metadata;
use tensors::Tensors;

const MAX_METADATA: u64 = 65_536;
/// Models of today have a few thousand.
const MAX_TENSORS: u64 = 262_144;

#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("it is not a GGUF file")]
    NotGguf,
    #[error("it is GGUF version {0}, and only versions 2 and 3 can be loaded")]
    Version(u32),
    #[error("it is cut off: it has {has} of at least {needs} bytes. Copy or download it again")]
    Truncated { has: u64, needs: u64 },
    /// Only from [`parse_prefix`]: the bytes given end before the metadata does.
    #[error(
        "its description is longer than what was read of it: at least {needs} bytes are needed"
    )]
    NeedsMore { needs: u64 },
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    /// Found out elsewhere: by the store, or when the head was read before a restart.
    #[error("{0}")]
    Known(String),
}

/// What the head says about the model. Numbers that the file does not give are 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GgufInfo {
    pub name: Option<String>,
    pub architecture: String,
    pub license: Option<String>,
    pub quantization: String,
    /// llama.cpp's number for the quantization (`llama_ftype`).
    pub file_type: Option<u32>,
    /// Sum of all tensor elements.
    pub parameters: u64,
    pub context_train: u32,
    pub layers: u32,
    pub embedding: u32,
    pub heads: u32,
    /// The most of any layer.
    pub heads_kv: u32,
    /// Where layers differ: 0 for those without attention.
    pub heads_kv_per_layer: Vec<u32>,
    /// Width of one key and one value head, where the file says; else `embedding / heads`.
    pub key_length: Option<u32>,
    pub value_length: Option<u32>,
    /// Keys and values are kept as one compressed vector (DeepSeek's MLA).
    pub latent_attention: bool,
    /// Number of tokens that exist.
    pub vocabulary: u32,
    /// Merge rules of the tokenizer.
    pub merges: u32,
    /// Width between the two matrices of a layer; the largest where layers differ.
    pub feed_forward: u32,
    pub feed_forward_per_layer: Vec<u32>,
    pub experts: u32,
    /// Experts that compute a token.
    pub experts_used: u32,
    pub expert_feed_forward: u32,
    /// Tokens that some layers look back on, where not all look back on everything.
    pub sliding_window: Option<u32>,
    /// One layer out of so many has full attention.
    pub sliding_pattern: Option<u32>,
    /// 1 for layers with a window, where the file lists them.
    pub sliding_per_layer: Vec<u32>,
    /// Layers at the end that use the cache of others (Gemma 4).
    pub shared_cache_layers: u32,
    /// One layer out of so many has attention, the others are recurrent (Qwen3-Next).
    pub full_attention_interval: Option<u32>,
    /// Shape of the state of recurrent layers: Mamba's convolution, inner width, state and groups.
    pub state_conv_kernel: u32,
    pub state_inner: u32,
    pub state_size: u32,
    pub state_groups: u32,
    /// RWKV's head width, and how many vectors a layer shifts.
    pub wkv_head: u32,
    pub token_shift: Option<u32>,
    /// Length of LFM2's short convolutions.
    pub short_conv: u32,
    /// How an embedding model makes one vector of many (`llama_pooling_type`).
    pub pooling: Option<u32>,
    /// Every token sees the whole text: no text can be generated.
    pub not_causal: bool,
    pub chat_template: bool,
    /// The template has a place for tools.
    pub tools_template: bool,
    /// The template knows of reasoning before the answer.
    pub thinking_template: bool,
    /// The vocabulary has control tokens for filling in the middle.
    pub fill_in_tokens: bool,
    /// Files that the model is split into.
    pub parts: u32,
    /// Bytes of all tensors.
    pub weight_bytes: u64,
    /// Bytes of the matrix that tokens are looked up in. It stays in RAM also with a GPU.
    pub embedding_bytes: u64,
    /// Bytes of the output matrix; 0 where it is the embedding matrix.
    pub output_bytes: u64,
    /// Bytes of each layer's tensors.
    pub layer_bytes: Vec<u64>,
    /// Bytes of all experts together.
    pub expert_bytes: u64,
    /// Bytes of weights that llama.cpp rearranges for this kind of processor.
    pub repacked_bytes: u64,
    /// Bytes of the second, rearranged copy of an embedding matrix that is also the output matrix.
    pub tied_copy_bytes: u64,
    pub file_bytes: u64,
    /// Not from a file: guessed from the number of weights.
    pub estimated: bool,
}

impl GgufInfo {
    /// What requests the model can answer, as far as its file tells: images need a second file.
    pub fn capabilities(&self) -> Vec<Capability> {
        /// `LLAMA_POOLING_TYPE_RANK`: it scores pairs of texts and makes no vectors.
        const RANK: u32 = 4;
        if self.pooling == Some(RANK) {
            return Vec::new();
        }
        if self.is_encoder() || self.pooling.is_some_and(|kind| kind > 0) {
            return vec![Capability::Embedding];
        }
        let optional = [
            (self.tools_template, Capability::Tools),
            (self.fill_in_tokens, Capability::Insert),
            (self.thinking_template, Capability::Thinking),
        ];
        let optional = optional.into_iter().filter(|(has, _)| *has).map(|(_, what)| what);
        std::iter::once(Capability::Completion).chain(optional).collect()
    }
}

/// Reads and checks the head of the file.
pub fn read_gguf(path: &Path) -> Result<GgufInfo, GgufError> {
    let file = File::open(path).map_err(GgufError::Io)?;
    let size = file.metadata().map_err(GgufError::Io)?.len();
    parse(BufReader::with_capacity(1 << 16, file), size)
}

/// Parses a head from any source; `file_bytes` is the length of the whole file.
pub fn parse(input: impl Read, file_bytes: u64) -> Result<GgufInfo, GgufError> {
    let mut head = Head::new(input, file_bytes, false);
    let counts = begin(&mut head, file_bytes)?;
    let metadata = read_metadata(&mut head, counts.metadata)?;
    let mut tensors = Tensors::default();
    for _ in 0..counts.tensors {
        tensors.read_one(&mut head)?;
    }
    check_end(&metadata, &tensors, head.position, counts.tensors, file_bytes)?;
    metadata.into_info(tensors, file_bytes)
}

/// Parses the first bytes of a file that is not here yet; `file_bytes` is the length it will have.
///
/// The metadata has to be complete: [`GgufError::NeedsMore`] says that it is not, and how many
/// bytes are the next to ask for. Of the tensor list, what is there is used; sizes per layer are
/// known, and the number of weights is, only if it is complete. `weight_bytes` is then all of the
/// file but its head.
pub fn parse_prefix(bytes: &[u8], file_bytes: u64) -> Result<GgufInfo, GgufError> {
    let bytes = &bytes[..bytes.len().min(usize::try_from(file_bytes).unwrap_or(usize::MAX))];
    let mut head = Head::new(bytes, file_bytes, true);
    let counts = begin(&mut head, file_bytes)?;
    let metadata = read_metadata(&mut head, counts.metadata)?;
    let start = head.position;
    let mut tensors = Tensors::default();
    for _ in 0..counts.tensors {
        match tensors.read_one(&mut head) {
            Ok(()) => {}
            Err(GgufError::NeedsMore { .. }) => {
                let weight_bytes = file_bytes.saturating_sub(start);
                return metadata.into_info(tensors.of_cut_list(weight_bytes), file_bytes);
            }
            Err(error) => return Err(error),
        }
    }
    check_end(&metadata, &tensors, head.position, counts.tensors, file_bytes)?;
    metadata.into_info(tensors, file_bytes)
}

/// How many of each follow.
struct Counts {
    tensors: u64,
    metadata: u64,
}

/// The first 24 bytes.
fn begin<R: Read>(head: &mut Head<R>, file_bytes: u64) -> Result<Counts, GgufError> {
    let mut magic = [0; 4];
    if file_bytes < 24 {
        return Err(GgufError::NotGguf);
    }
    match head.fill(&mut magic) {
        Ok(()) if &magic == b"GGUF" => {}
        Err(more @ GgufError::NeedsMore { .. }) => return Err(more),
        _ => return Err(GgufError::NotGguf),
    }
    let version = head.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let counts = Counts { tensors: head.u64()?, metadata: head.u64()? };
    if counts.tensors > MAX_TENSORS || counts.metadata > MAX_METADATA {
        return Err(GgufError::Damaged("it claims an absurd number of tensors or keys"));
    }
    Ok(counts)
}

fn read_metadata<R: Read>(head: &mut Head<R>, count: u64) -> Result<Metadata, GgufError> {
    let mut metadata = Metadata::new();
    for _ in 0..count {
        let key = head.name()?;
        let value = head.value()?;
        metadata.take(&key, value);
    }
    Ok(metadata)
}

fn check_end(
    metadata: &Metadata,
    tensors: &Tensors,
    head_bytes: u64,
    n_tensors: u64,
    file_bytes: u64,
) -> Result<(), GgufError> {
    if !metadata.alignment.is_power_of_two() {
        return Err(GgufError::Damaged("its alignment is not a power of two"));
    }
    let data_start = head_bytes.next_multiple_of(metadata.alignment.into());
    let needs = data_start.saturating_add(tensors.end);
    if n_tensors > 0 && needs > file_bytes {
        return Err(GgufError::Truncated { has: file_bytes, needs });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
