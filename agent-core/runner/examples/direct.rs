//! llama.cpp driven directly, in one process: what the runner's speed is compared with.
//!
//! Same file, threads, batch and context as the runner uses. Prompts are fixed token ids, answers
//! are greedy and of fixed length (the end of generation is ignored). Prints one line of JSON per
//! number of streams.

// A command-line program: its output is its purpose.
#![allow(clippy::print_stdout)]

use std::{num::NonZeroU32, path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use clap::Parser;
use llama_cpp_2::{
    LogOptions,
    context::{LlamaContext, params::LlamaContextParams},
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    send_logs_to_tracing,
    token::LlamaToken,
};

const BATCH: u32 = 2048;
const MICRO_BATCH: u32 = 512;

#[derive(Debug, Parser)]
struct Arguments {
    model: PathBuf,
    threads: i32,
    /// Tokens per prompt.
    prompt: usize,
    /// Tokens per answer.
    generate: usize,
    /// Numbers of streams to measure.
    #[arg(default_values_t = [1, 8])]
    streams: Vec<usize>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.prompt == 0 || arguments.generate == 0 {
        bail!("a prompt and an answer have at least one token");
    }
    send_logs_to_tracing(LogOptions::default().with_logs_enabled(false));
    let backend = LlamaBackend::init()?;
    let parameters = LlamaModelParams::default();
    let model = LlamaModel::load_from_file(&backend, &arguments.model, &parameters)?;
    for &streams in &arguments.streams {
        measure(&backend, &model, &arguments, streams)?;
    }
    Ok(())
}

fn measure(
    backend: &LlamaBackend,
    model: &LlamaModel,
    arguments: &Arguments,
    streams: usize,
) -> Result<()> {
    // The runner, too, makes the context as large as the model allows at most.
    let per_stream = u32::try_from(arguments.prompt + arguments.generate)?;
    let slots = u32::try_from(streams)?;
    let parameters = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(per_stream * slots))
        .with_n_seq_max(slots)
        .with_n_batch(BATCH)
        .with_n_ubatch(MICRO_BATCH)
        .with_n_threads(arguments.threads)
        .with_n_threads_batch(arguments.threads);
    let mut context = model.new_context(backend, parameters)?;
    let mut batch = LlamaBatch::new(BATCH as usize, 1);
    let vocabulary = model.n_vocab();

    // Reads the weights and starts the threads.
    for at in 0..4 {
        batch.clear();
        batch.add(LlamaToken(at), at, &[0], true)?;
        context.decode(&mut batch)?;
    }
    context.clear_kv_cache();

    let started = Instant::now();
    let mut next = read_prompts(&mut context, &mut batch, arguments.prompt, streams, vocabulary)?;
    let prompt_seconds = started.elapsed().as_secs_f64();

    let started = Instant::now();
    for step in 1..arguments.generate {
        batch.clear();
        let at = i32::try_from(arguments.prompt + step - 1)?;
        for (stream, &token) in (0..).zip(&next) {
            batch.add(token, at, &[stream], true)?;
        }
        context.decode(&mut batch)?;
        for (index, token) in (0..).zip(&mut next) {
            *token = most_probable(context.get_logits_ith(index));
        }
    }
    let generate_seconds = started.elapsed().as_secs_f64();

    let rate = |tokens: usize, seconds: f64| (tokens * streams) as f64 / seconds.max(1e-9);
    let line = serde_json::json!({
        "streams": streams,
        "prompt_tokens_per_s": rate(arguments.prompt, prompt_seconds),
        "generate_tokens_per_s": rate(arguments.generate - 1, generate_seconds),
    });
    println!("{line}");
    Ok(())
}

/// Decodes all prompts in full batches; returns the first token of each answer.
fn read_prompts(
    context: &mut LlamaContext<'_>,
    batch: &mut LlamaBatch<'_>,
    length: usize,
    streams: usize,
    vocabulary: i32,
) -> Result<Vec<LlamaToken>> {
    let mut next = vec![LlamaToken(0); streams];
    let mut outputs = Vec::new();
    batch.clear();
    for (stream, sequence) in (0..streams).zip(0..) {
        for at in 0..length {
            let last = at + 1 == length;
            if last {
                outputs.push((stream, batch.n_tokens()));
            }
            let token = prompt_token(stream, at, vocabulary);
            batch.add(token, i32::try_from(at)?, &[sequence], last)?;
            let end = last && stream + 1 == streams;
            if end || batch.n_tokens() == BATCH as i32 {
                context.decode(batch)?;
                for (stream, index) in outputs.drain(..) {
                    next[stream] = most_probable(context.get_logits_ith(index));
                }
                batch.clear();
            }
        }
    }
    Ok(next)
}

/// The same ids in every run, others in every stream, none of the control tokens at the beginning.
fn prompt_token(stream: usize, at: usize, vocabulary: i32) -> LlamaToken {
    let id = (at * 7 + stream * 13 + 300) % (vocabulary as usize);
    LlamaToken(id as i32)
}

fn most_probable(logits: &[f32]) -> LlamaToken {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    LlamaToken(best as i32)
}
