//! Frames of a task's stream between two nodes.
//!
//! A frame is its length (`u32`, little endian) and that many bytes of JSON. The length is checked
//! against what may come in this state before anything is kept, and memory grows only with bytes
//! that arrived. Frames that are not read fill QUIC's window: that is the back-pressure.
//!
//! ```text
//!  origin                                   worker
//!  Offer | Attach | Describe ──────────────►
//!                     ◄── Refused | NeedJob, NeedModule | Described
//!  Job, Module ────────────────────────────►
//!                     ◄── Refused | Waiting … | Running
//!  Renew … ────────────────────────────────►
//!                     ◄── Started, Text …, Note …, Alive …, then Result | Failed
//!  Ack ────────────────────────────────────►
//! ```
//!
//! An offer has no words in it: who refuses it never sees the prompt. Either side cancels by ending or resetting its half of the stream.

#[cfg(test)]
mod tests;
mod weight;

use std::time::Duration;

use agent_api::{
    TaskId,
    runner::{FinishReason, Timings, TokenLogprob, Usage},
    tasks::{CodeOutput, TaskKind},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _};
pub use weight::Weight;

use super::job::{Job, JobError, JobResult, Offer};
use crate::inference::tools::ToolFormat;

/// The kind of mesh stream that carries one attempt.
pub const STREAM: &str = "edgecoder/task/1";
/// Version of the frames. A worker refuses a higher one and says so.
pub const VERSION: u32 = 2;

/// A job: a prompt may fill the longest context, a `wasm` input is 1 MiB in base64.
pub const JOB_BYTES: usize = 12 << 20;
/// A module of 5 MiB in base64.
pub const MODULE_BYTES: usize = 7 << 20;
/// Everything else that an origin sends.
pub const SMALL_BYTES: usize = 4 << 10;
/// What a worker sends before it has a result: a piece of text, with logprobs.
pub const PIECE_BYTES: usize = 256 << 10;
/// A result: 2,048 vectors of 1,536 numbers in base64 are 16 MiB.
pub const RESULT_BYTES: usize = 18 << 20;
/// Text of one frame when text that was kept is sent again.
pub const TEXT_BYTES: usize = 64 << 10;
/// Sentences from another node, in bytes: they are shown to people and kept in rows.
pub const REASON_BYTES: usize = 500;
/// Memory is taken in steps of this while a frame arrives.
const STEP: usize = 64 << 10;

/// Why a frame cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the other node ended the stream")]
    Ended,
    #[error("the connection broke off: {0}")]
    Cut(std::io::Error),
    #[error("a frame of {bytes} bytes came where {limit} are the most")]
    TooLarge { bytes: usize, limit: usize },
    #[error(
        "a frame of too many values came: {} of lists and objects and {} numbers are the most",
        weight::STRUCTURE,
        weight::NUMBERS
    )]
    TooIntricate,
    #[error("a frame that cannot be understood came: {0}")]
    NotUnderstood(String),
    #[error("a frame cannot be written: {0}")]
    NotWritten(String),
}

/// What an origin sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromOrigin {
    Offer(Box<OfferFrame>),
    /// Once more after the stream was lost: the task that this worker has, or had, from this node.
    Attach {
        version: u32,
        task: TaskId,
        fence: u64,
    },
    /// How a model of this worker writes tool calls; a stream of its own.
    Describe {
        version: u32,
        model: String,
    },
    /// What is to be done: the answer to [`Said::NeedJob`].
    Job {
        job: Box<Job>,
    },
    /// Base64 of the module that was asked for.
    Module {
        bytes: String,
    },
    /// The origin still wants it: the lease begins anew.
    Renew,
    /// The result is written down there; it may be forgotten here.
    Ack,
}

/// What a worker decides by whether it takes an [`Offer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfferFrame {
    pub version: u32,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: u64,
    pub kind: TaskKind,
    /// That the job needs, if any.
    pub model: Option<String>,
    pub priority: u8,
    pub lease_ms: u64,
}

impl From<&Offer> for OfferFrame {
    fn from(offer: &Offer) -> Self {
        Self {
            version: VERSION,
            task: offer.task.clone(),
            attempt: offer.attempt,
            fence: offer.fence,
            kind: offer.job.kind(),
            model: offer.job.model().map(str::to_owned),
            priority: offer.priority,
            lease_ms: u64::try_from(offer.lease.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What a worker sends. Every frame names the task and the fence that it was offered under.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromWorker {
    pub task: TaskId,
    pub fence: u64,
    pub said: Said,
}

/// The content of a worker's frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Said {
    /// Before it began. Another node may take it.
    Refused {
        reason: String,
        retry_after_ms: Option<u64>,
    },
    /// It would take the task: now it has to see it.
    NeedJob,
    NeedModule {
        sha256: String,
    },
    /// It was taken and waits; 1 is next.
    Waiting {
        position: u32,
        reason: String,
    },
    Running,
    Started {
        usage: Usage,
    },
    Text {
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    Note {
        text: String,
    },
    /// Nothing new; the worker is there.
    Alive,
    Result(Box<Outcome>),
    Failed {
        how: Failure,
        reason: String,
    },
    /// Answer to `Describe`.
    Described {
        tools: Option<ToolFormat>,
    },
}

/// A [`JobResult`] as it travels: vectors as bytes, which keeps every bit of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    Text {
        finish: FinishReason,
        usage: Usage,
        timings: Timings,
    },
    /// `vectors` is base64 of `f32`s, little endian, one vector of `width` numbers after the other.
    Embedded {
        width: u32,
        vectors: String,
        prompt_tokens: u32,
    },
    Wasm {
        output: String,
        fuel_used: u64,
    },
    Code {
        output: CodeOutput,
    },
}

/// Whether it may work elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It would fail elsewhere too.
    Failed,
    /// It does not fit into the context there; elsewhere it may.
    TooLong,
    /// It may work elsewhere.
    Broke,
}

impl From<JobResult> for Outcome {
    fn from(result: JobResult) -> Self {
        match result {
            JobResult::Text { finish, usage, timings } => Self::Text { finish, usage, timings },
            JobResult::Embedded { vectors, prompt_tokens } => {
                let width = vectors.first().map_or(0, Vec::len);
                let numbers = vectors.iter().flatten();
                let bytes: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
                Self::Embedded {
                    width: u32::try_from(width).unwrap_or(u32::MAX),
                    vectors: STANDARD.encode(bytes),
                    prompt_tokens,
                }
            }
            JobResult::Wasm { output, fuel_used } => Self::Wasm { output, fuel_used },
            JobResult::Code { output } => Self::Code { output },
        }
    }
}

impl Outcome {
    /// The error says what is wrong with it, for people.
    pub fn read(self) -> Result<JobResult, String> {
        Ok(match self {
            Self::Text { finish, usage, timings } => JobResult::Text { finish, usage, timings },
            Self::Embedded { width, vectors, prompt_tokens } => {
                JobResult::Embedded { vectors: read_vectors(width, &vectors)?, prompt_tokens }
            }
            Self::Wasm { output, fuel_used } => JobResult::Wasm { output, fuel_used },
            Self::Code { output } => JobResult::Code { output },
        })
    }
}

/// Numbers of the widest vector: no model has a fifth of it.
const MAX_WIDTH: usize = 64 << 10;

fn read_vectors(width: u32, text: &str) -> Result<Vec<Vec<f32>>, String> {
    let width = usize::try_from(width).unwrap_or(usize::MAX);
    if width == 0 || width > MAX_WIDTH {
        return Err(format!("vectors of {width} numbers"));
    }
    let bytes = STANDARD.decode(text).map_err(|_| "vectors that are not base64".to_owned())?;
    if !bytes.len().is_multiple_of(width * 4) {
        return Err("vectors of different widths".to_owned());
    }
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|four| f32::from_le_bytes(*four)).collect();
    if numbers.iter().any(|number| !number.is_finite()) {
        return Err("vectors with numbers that are not finite".to_owned());
    }
    Ok(numbers.chunks(width).map(<[f32]>::to_vec).collect())
}

impl WireError {
    /// The connection is gone, which says nothing about what the other node wants.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Cut(e) if e.kind() == std::io::ErrorKind::NotConnected)
    }
}

impl Said {
    /// How an error is told to the origin.
    pub fn error(error: &JobError) -> Self {
        let failed = |how| Self::Failed { how, reason: cut(&error.to_string()) };
        match error {
            JobError::Refused { reason, retry_after } => {
                Self::Refused { reason: cut(reason), retry_after_ms: retry_after.map(duration_ms) }
            }
            JobError::Failed(_) => failed(Failure::Failed),
            JobError::TooLong(_) => failed(Failure::TooLong),
            JobError::Broke(_)
            | JobError::Lost(_)
            | JobError::Misbehaved(_)
            | JobError::Cancelled => failed(Failure::Broke),
        }
    }
}

fn duration_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A sentence as it may come from anywhere: one line, not longer than [`REASON_BYTES`].
pub fn cut(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(REASON_BYTES)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Length and JSON, ready to be sent.
pub fn encode<T: Serialize>(frame: &T, limit: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame).map_err(|e| WireError::NotWritten(e.to_string()))?;
    let length = bytes.len() - 4;
    let too_large = WireError::TooLarge { bytes: length, limit };
    let head = u32::try_from(length).ok().filter(|_| length <= limit).ok_or(too_large)?;
    bytes[..4].copy_from_slice(&head.to_le_bytes());
    Ok(bytes)
}

/// Reads one frame of at most `limit` bytes. Not cancel-safe.
pub async fn read<T, R>(from: &mut R, limit: usize) -> Result<T, WireError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin + Send,
{
    let length = read_length(from).await?;
    read_body(from, length, limit).await
}

/// The length of the next frame, as the other node states it. [`WireError::Ended`] where the stream
/// ends between two frames.
pub async fn read_length<R: AsyncRead + Unpin + Send>(from: &mut R) -> Result<usize, WireError> {
    let mut head = [0; 4];
    if from.read(&mut head[..1]).await.map_err(WireError::Cut)? == 0 {
        return Err(WireError::Ended);
    }
    from.read_exact(&mut head[1..]).await.map_err(WireError::Cut)?;
    Ok(usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX))
}

/// The frame whose length was read.
pub async fn read_body<T, R>(from: &mut R, length: usize, limit: usize) -> Result<T, WireError>
where
    T: DeserializeOwned,
    R: AsyncRead + Unpin + Send,
{
    understand(&read_bytes(from, length, limit).await?)
}

/// The bytes of the frame whose length was read.
pub async fn read_bytes<R>(from: &mut R, length: usize, limit: usize) -> Result<Vec<u8>, WireError>
where
    R: AsyncRead + Unpin + Send,
{
    if length > limit {
        return Err(WireError::TooLarge { bytes: length, limit });
    }
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let at = bytes.len();
        bytes.resize(length.min(at + STEP), 0);
        let step = from.read_exact(&mut bytes[at..]).await;
        step.map_err(WireError::Cut)?;
    }
    Ok(bytes)
}

/// What a frame says. One that would take far more memory than its bytes is not even tried.
pub fn understand<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    if !Weight::of(bytes).is_fair() {
        return Err(WireError::TooIntricate);
    }
    serde_json::from_slice(bytes).map_err(|e| WireError::NotUnderstood(e.to_string()))
}

/// Text in parts of at most [`TEXT_BYTES`], cut between characters.
pub fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (part, rest) = text.split_at(text.floor_char_boundary(TEXT_BYTES));
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}
