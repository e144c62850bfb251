//! Text to vectors, in a context of its own so that running answers keep theirs.
//!
//! The context hands out one vector per token and the pooling happens here: llama.cpp pools only
//! within one of its micro batches, so a long input would need buffers as large as itself.

use std::{collections::VecDeque, num::NonZeroU32, ops::Range, time::Instant};

use agent_api::runner::{FinishReason, Reply, Timings, Usage};
use llama_cpp_2::{
    context::{
        LlamaContext,
        params::{LlamaContextParams, LlamaPoolingType},
    },
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    token::LlamaToken,
};

use crate::{
    llama_log::LlamaErrors,
    model::{Model, Pooling, milliseconds},
};

/// Tokens per decode of a model that reads from left to right. The context has room for that many
/// rows of the vocabulary, so this stays small.
const CHUNK: u32 = 128;
/// Short inputs decoded together.
const TOGETHER: u32 = 16;

/// One request.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) inputs: VecDeque<Vec<LlamaToken>>,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) prompt_tokens: u32,
    pub(crate) arrived: Instant,
}

impl Job {
    pub(crate) fn cancelled(&self) -> Reply {
        let usage = Usage { prompt_tokens: self.prompt_tokens, ..Usage::default() };
        let timings = Timings { queue_ms: milliseconds(self.arrived), ..Timings::default() };
        Reply::Done { id: self.id, finish: FinishReason::Cancelled, usage, timings }
    }
}

/// The context for embeddings.
#[derive(Debug)]
pub(crate) struct Embedder<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    pooling: Pooling,
    limit: usize,
    /// How much of a long input has been decoded, and the sum of its vectors.
    progress: usize,
    sum: Vec<f32>,
}

impl<'m> Embedder<'m> {
    /// The error is a sentence for whoever sent the request.
    pub(crate) fn new(
        model: &'m Model,
        backend: &LlamaBackend,
        errors: &LlamaErrors,
    ) -> Result<Self, String> {
        // Where tokens also see what comes after them, an input cannot be cut.
        let limit = if model.causal { CHUNK.min(model.context) } else { model.context };
        let parameters = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(model.context))
            .with_n_seq_max(TOGETHER)
            .with_kv_unified(true)
            .with_n_batch(limit)
            .with_n_ubatch(limit)
            .with_n_threads(model.threads)
            .with_n_threads_batch(model.threads)
            .with_embeddings(true)
            .with_pooling_type(LlamaPoolingType::None);
        errors.clear();
        let context = model.llama.new_context(backend, parameters).map_err(|_| {
            let why = errors.first().unwrap_or_else(|| "there is not enough memory".into());
            format!("llama.cpp cannot make room for embeddings: {why}.")
        })?;
        let limit = limit as usize;
        let batch = LlamaBatch::new(limit, 1);
        let pooling = model.pooling;
        Ok(Self { context, batch, pooling, limit, progress: 0, sum: Vec::new() })
    }

    /// Decodes one batch of the job; the job is done when it has no inputs left. The error is a
    /// sentence for whoever sent the request.
    pub(crate) fn step(&mut self, job: &mut Job) -> Result<(), String> {
        let done = match job.inputs.front() {
            None => return Ok(()),
            Some(input) if self.progress > 0 || input.len() > self.limit => {
                let input = input.clone();
                self.long_step(&input)
            }
            Some(_) => self.short_step(&job.inputs),
        };
        let vectors = match done {
            Ok(vectors) => vectors,
            Err(error) => {
                self.abandon();
                return Err(error);
            }
        };
        if self.progress == 0 {
            self.context.clear_kv_cache();
        }
        job.inputs.drain(..vectors.len());
        job.vectors.extend(vectors);
        Ok(())
    }

    /// Forgets a job that ended early.
    pub(crate) fn abandon(&mut self) {
        self.progress = 0;
        self.sum.clear();
        self.context.clear_kv_cache();
    }

    /// As many whole inputs as fit together.
    fn short_step(&mut self, inputs: &VecDeque<Vec<LlamaToken>>) -> Result<Vec<Vec<f32>>, String> {
        self.batch.clear();
        let mut ranges = Vec::new();
        for (sequence, input) in (0..TOGETHER as i32).zip(inputs) {
            let from = self.batch.n_tokens();
            if from as usize + input.len() > self.limit {
                break;
            }
            self.add(input, 0, sequence)?;
            ranges.push(from..self.batch.n_tokens());
        }
        self.decode()?;
        ranges.into_iter().map(|range| self.pooled(range)).collect()
    }

    /// The next part of an input longer than a batch; its vector once the last part is through.
    fn long_step(&mut self, input: &[LlamaToken]) -> Result<Vec<Vec<f32>>, String> {
        let from = self.progress;
        let to = input.len().min(from + self.limit);
        self.batch.clear();
        self.add(&input[from..to], from, 0)?;
        self.decode()?;
        let range = 0..self.batch.n_tokens();
        let last = to == input.len();
        match self.pooling {
            Pooling::Mean | Pooling::Rank => {
                let mut sum = std::mem::take(&mut self.sum);
                self.add_up(range, &mut sum)?;
                self.sum = sum;
            }
            Pooling::First if from == 0 => self.sum = self.vector(0)?.to_vec(),
            Pooling::Last if last => self.sum = self.vector(range.end - 1)?.to_vec(),
            Pooling::First | Pooling::Last => {}
        }
        self.progress = if last { 0 } else { to };
        if last { Ok(vec![normalised(std::mem::take(&mut self.sum))?]) } else { Ok(Vec::new()) }
    }

    fn add(&mut self, tokens: &[LlamaToken], at: usize, sequence: i32) -> Result<(), String> {
        for (offset, &token) in tokens.iter().enumerate() {
            let position = i32::try_from(at + offset).map_err(|error| error.to_string())?;
            self.batch
                .add(token, position, &[sequence], true)
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn decode(&mut self) -> Result<(), String> {
        self.context
            .decode(&mut self.batch)
            .map_err(|error| format!("llama.cpp could not compute the embeddings: {error}."))
    }

    fn pooled(&self, range: Range<i32>) -> Result<Vec<f32>, String> {
        let vector = match self.pooling {
            Pooling::First => self.vector(range.start)?.to_vec(),
            Pooling::Last => self.vector(range.end - 1)?.to_vec(),
            Pooling::Mean | Pooling::Rank => {
                let mut sum = Vec::new();
                self.add_up(range, &mut sum)?;
                sum
            }
        };
        normalised(vector)
    }

    fn add_up(&self, range: Range<i32>, sum: &mut Vec<f32>) -> Result<(), String> {
        for index in range {
            let vector = self.vector(index)?;
            sum.resize(vector.len(), 0.0);
            sum.iter_mut().zip(vector).for_each(|(s, v)| *s += v);
        }
        Ok(())
    }

    fn vector(&self, index: i32) -> Result<&[f32], String> {
        let vector = self.context.embeddings_ith(index);
        vector.map_err(|_| "llama.cpp gave no embedding for a token of this model.".into())
    }
}

/// The same direction with length one; a sum and a mean become the same vector.
fn normalised(mut vector: Vec<f32>) -> Result<Vec<f32>, String> {
    let square: f64 = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    let length = square.sqrt();
    if !length.is_finite() {
        return Err("The model computed an embedding that is not a number.".into());
    }
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_get_length_one() {
        assert_eq!(normalised(vec![3.0, 4.0]), Ok(vec![0.6, 0.8]));
        assert_eq!(normalised(vec![0.0, 0.0]), Ok(vec![0.0, 0.0]));
        assert!(normalised(vec![f32::NAN]).is_err());
    }
}
