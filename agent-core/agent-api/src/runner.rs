//! The protocol between the node and its runner process.
//!
//! Each frame on the runner's stdin and stdout is a little-endian `u32` length and that many
//! bytes of JSON: one [`Command`] in, one [`Reply`] out. The runner's stderr is its log. The
//! runner exits when its stdin ends, so it never outlives its parent.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Raised when a frame changes meaning; the node refuses a runner of another version.
pub const PROTOCOL: u32 = 2;

/// Largest frame, 32 MiB: a batch of embeddings is the largest legitimate one (2,048 vectors of
/// 1,024 numbers); prompts are limited to far less by the API.
pub const MAX_FRAME_BYTES: u32 = 32 << 20;

/// Node to runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Command {
    /// Replace the model in memory. Answered by `Loaded` or `LoadFailed`.
    Load(LoadModel),
    /// Free the model. Requests in flight fail. Answered by `Unloaded`.
    Unload,
    /// Answered by `Started`, `Text`..., and one `Done` or `Failed`.
    Generate { id: u64, request: Box<Generate> },
    /// Answered by `Embedded` or `Failed`.
    Embed { id: u64, inputs: Vec<TextInput> },
    /// End a request. Answered by `Done` with [`FinishReason::Cancelled`], unless it ended already.
    Cancel { id: u64 },
}

/// Runner to node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The first frame, once.
    Hello {
        protocol: u32,
        engine: String,
        /// GPUs that this build can put layers on; empty for a build for processors only.
        devices: Vec<Device>,
    },
    Loaded(Loaded),
    LoadFailed {
        message: String,
    },
    Unloaded,
    /// The prompt has been processed; tokens follow.
    Started {
        id: u64,
        prompt_tokens: u32,
        cached_tokens: u32,
    },
    /// Newly generated text. Whole UTF-8 characters only; never a part of a stop string.
    Text {
        id: u64,
        text: String,
        /// One entry per token of `text`, when asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    Done {
        id: u64,
        finish: FinishReason,
        usage: Usage,
        timings: Timings,
    },
    Embedded {
        id: u64,
        vectors: Vec<Vec<f32>>,
        prompt_tokens: u32,
    },
    Failed {
        id: u64,
        error: RunnerError,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadModel {
    pub path: String,
    /// Tokens per sequence; reduced to what the model was trained for.
    pub context: u32,
    /// Sequences decoded together.
    pub slots: u32,
    /// `None`: one per physical core.
    pub threads: Option<u32>,
    /// Layers to put on the GPU; ignored where the build has no GPU.
    pub gpu_layers: u32,
}

/// Whether the runner reads a model of this `general.file_type` (`llama_ftype`) into memory of its
/// own instead of mapping the file, when the processor computes.
///
/// llama.cpp rearranges the weights of these types for the processor's vector units (`CPU_REPACK`,
/// ggml's `repack.cpp`) and then needs the file's pages no more, but a mapping keeps them: the
/// model would take its size twice. The node's memory estimate depends on this being the rule.
pub fn reads_weights(file_type: Option<u32>) -> bool {
    match file_type {
        // Q4_0, Q4_K_S, Q4_K_M, IQ4_NL, MXFP4.
        Some(2 | 14 | 15 | 25 | 38) => true,
        // Q2_K, Q2_K_S, Q5_K_S, Q5_K_M, Q6_K, Q8_0: on ARM processors.
        Some(7 | 10 | 16..=18 | 21) => cfg!(target_arch = "aarch64"),
        _ => false,
    }
}

/// A GPU as llama.cpp sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub description: String,
    pub memory_bytes: u64,
    pub free_bytes: u64,
}

/// What the model in memory is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    pub name: String,
    pub architecture: String,
    pub parameters: u64,
    pub size_bytes: u64,
    /// Tokens per sequence, after reduction.
    pub context: u32,
    pub context_train: u32,
    pub slots: u32,
    pub embedding_width: u32,
    pub load_ms: f64,
    /// Layers on the GPU.
    pub gpu_layers: u32,
    pub chat_template: Option<String>,
    pub bos: String,
    pub eos: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Prompt {
    /// Rendered with the model's own chat template. Messages and tools are OpenAI-shaped.
    Chat {
        messages: Vec<Value>,
        tools: Vec<Value>,
    },
    Text(TextInput),
    /// Fill in the middle, where the model has the control tokens for it.
    Infill {
        prefix: String,
        suffix: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TextInput {
    Text { text: String },
    Tokens { tokens: Vec<i32> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    pub prompt: Prompt,
    /// `None`: until the model stops or the context is full.
    pub max_tokens: Option<u32>,
    pub sampling: Sampling,
    /// Text that ends the answer and is not part of it.
    pub stop: Vec<String>,
    pub constraint: Option<Constraint>,
    /// How many alternatives to report per token; `None`: no logprobs at all.
    pub logprobs: Option<u32>,
    /// Text of this answer that was delivered already, by another node that is gone. It goes on
    /// after it; neither it nor its tokens are reported again, but `max_tokens` counts them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub continue_from: String,
}

/// Sampling parameters, as llama.cpp and the OpenAI API define them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: i32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub repeat_penalty: f32,
    pub frequency_penalty: f32,
    pub presence_penalty: f32,
    /// The same seed, prompt and settings give the same text on the same machine.
    pub seed: Option<u32>,
    pub logit_bias: Vec<(i32, f32)>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }
}

/// What the generated text must look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema accepts, with fixed text around it (both empty for plain JSON).
    JsonSchema { schema: Value, before: String, after: String },
    /// A grammar in llama.cpp's GBNF.
    Grammar { gbnf: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub token: String,
    pub bytes: Vec<u8>,
    /// Natural logarithm of the token's probability before sampling filters.
    pub logprob: f32,
    pub top: Vec<TopLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    pub token: String,
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended, or a stop string came.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    Cancelled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// How many of them were taken from the prefix cache.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
}

/// Where the time went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting for a slot inside the runner.
    pub queue_ms: f64,
    pub prompt_ms: f64,
    pub generate_ms: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunnerError {
    pub kind: RunnerErrorKind,
    /// A sentence for whoever sent the request.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerErrorKind {
    /// The request cannot be served as it is: bad grammar, no chat template, no such ability.
    BadRequest,
    /// The prompt does not fit the context.
    ContextOverflow,
    /// Too many requests wait.
    Busy,
    /// No model is loaded.
    NoModel,
    /// llama.cpp reported an error.
    Engine,
}

/// Writes one frame. Does not flush.
pub fn write_frame<T: Serialize>(out: &mut impl Write, value: &T) -> io::Result<()> {
    let bytes = encode_frame(value)?;
    out.write_all(&bytes)
}

/// A frame as bytes, length first.
pub fn encode_frame<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|&n| n <= MAX_FRAME_BYTES);
    let Some(length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame larger than 32 MiB"));
    };
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Reads one frame; `None` at a clean end of input.
pub fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < 4 {
        match input.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let length = u32::from_le_bytes(length);
    check_frame_length(length)?;
    // `take` and `read_to_end` grow the buffer as bytes arrive: a length alone allocates nothing.
    let mut bytes = Vec::new();
    input.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Refuses a length above [`MAX_FRAME_BYTES`].
pub fn check_frame_length(length: u32) -> io::Result<()> {
    if length > MAX_FRAME_BYTES {
        let why = format!("frame of {length} bytes is larger than 32 MiB");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_round_trip() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Command::Cancel { id: 7 }).expect("writes");
        write_frame(&mut bytes, &Command::Unload).expect("writes");
        let mut input = bytes.as_slice();
        assert_eq!(read_frame(&mut input).expect("reads"), Some(Command::Cancel { id: 7 }));
        assert_eq!(read_frame(&mut input).expect("reads"), Some(Command::Unload));
        assert_eq!(read_frame::<Command>(&mut input).expect("reads"), None);
    }

    #[test]
    fn a_cut_or_huge_frame_is_an_error() {
        let bytes = encode_frame(&Command::Unload).expect("encodes");
        assert!(read_frame::<Command>(&mut &bytes[..bytes.len() - 1]).is_err());
        assert!(read_frame::<Command>(&mut &bytes[..2]).is_err());
        assert!(read_frame::<Command>(&mut &u32::MAX.to_le_bytes()[..]).is_err());
    }
}
