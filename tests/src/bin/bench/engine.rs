//! Prompt processing and generation through the runner, against llama.cpp in one process with the
//! same file, threads, batch and token ids. Runs alternate, and the median of the ratios counts,
//! so that what else the machine does hits both.

use std::{path::PathBuf, process::Command, time::Instant};

use agent_api::runner::{
    Command as ToRunner, Generate, LoadModel, Prompt, Reply, Sampling, TextInput,
};
use anyhow::{Context as _, Result, bail};
use edgecoder_tests::{
    gguf::{Shape, write_random_model},
    programs,
};
use serde::Deserialize;

use super::{Row, percentile, runner::Runner};

const PROMPT: usize = 128;
const GENERATE: usize = 128;

/// 0.2 B parameters: large enough that arithmetic, not bookkeeping, takes the time.
const MEDIUM: Shape = Shape {
    layers: 16,
    width: 1024,
    feed_forward: 2816,
    heads: 16,
    kv_heads: 4,
    context: 1024,
    ..Shape::LLAMA
};

#[derive(Debug, Deserialize)]
struct Direct {
    prompt_tokens_per_s: f64,
    generate_tokens_per_s: f64,
}

/// A model, and the threads that the runner would choose for it on two cores.
struct Subject {
    name: &'static str,
    path: PathBuf,
    threads: u32,
}

pub(super) fn measure(quick: bool) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let medium = dir.path().join("medium.gguf");
    write_random_model(&medium, MEDIUM)?;
    let rounds = if quick { 1 } else { 9 };
    let subjects = [
        Subject { name: "0.2 B, Q8_0, random weights, 2 threads", path: medium, threads: 2 },
        Subject { name: "the 4 M demo model, 1 thread", path: programs::demo_model(), threads: 1 },
    ];
    let mut rows = Vec::new();
    for subject in &subjects {
        rows.extend(one_stream(subject, rounds)?);
        rows.push(eight_streams(subject, rounds)?);
    }
    Ok(rows)
}

fn one_stream(subject: &Subject, rounds: usize) -> Result<[Row; 2]> {
    let (mut prompt, mut generate) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let direct = direct(subject, 1)?;
        let through = through_runner(subject, 1, round)?;
        prompt.push(through.prompt_tokens_per_s / direct.prompt_tokens_per_s);
        generate.push(through.generate_tokens_per_s / direct.generate_tokens_per_s);
        report(subject, 1, &direct, &through);
    }
    let what = |part| format!("{part}, one stream, runner : llama.cpp directly, {}", subject.name);
    Ok([
        row(what("prompt"), prompt, 0.97, "at least 0.97"),
        row(what("generation"), generate, 0.97, "at least 0.97"),
    ])
}

/// The runner answers early prompts while it reads late ones; llama.cpp driven directly reads all
/// prompts, then answers. So the time for all of it is what can be compared.
fn eight_streams(subject: &Subject, rounds: usize) -> Result<Row> {
    let mut whole = Vec::new();
    for round in 0..rounds {
        let direct = direct(subject, 8)?;
        let through = through_runner(subject, 8, round)?;
        whole.push(direct.seconds(8) / through.seconds(8));
        report(subject, 8, &direct, &through);
    }
    let what = format!(
        "prompt and generation together, eight streams, runner : llama.cpp directly, {}",
        subject.name
    );
    Ok(row(what, whole, 0.95, "at least 0.95"))
}

fn report(subject: &Subject, streams: usize, direct: &Direct, through: &Direct) {
    eprintln!(
        "  {}, {streams} streams: prompt {:.0} of {:.0}, generation {:.0} of {:.0} tokens/s",
        subject.name,
        through.prompt_tokens_per_s,
        direct.prompt_tokens_per_s,
        through.generate_tokens_per_s,
        direct.generate_tokens_per_s
    );
}

fn row(what: String, mut ratios: Vec<f64>, least: f64, bound: &'static str) -> Row {
    ratios.sort_by(f64::total_cmp);
    let median = percentile(&ratios, 0.5);
    let (low, high) = (ratios[0], ratios[ratios.len() - 1]);
    let measured = format!("{median:.3} ({low:.3} to {high:.3}, {} rounds)", ratios.len());
    Row { what, measured, bound, met: Some(median >= least) }
}

impl Direct {
    /// For all prompts and answers.
    fn seconds(&self, streams: usize) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let count = |tokens: usize| (tokens * streams) as f64;
        count(PROMPT) / self.prompt_tokens_per_s + count(GENERATE) / self.generate_tokens_per_s
    }
}

fn direct(subject: &Subject, streams: usize) -> Result<Direct> {
    let program = std::env::var_os("EDGECODER_DIRECT_BIN").map(PathBuf::from);
    let program = program.context("EDGECODER_DIRECT_BIN; run this through cargo xtask bench")?;
    let output = Command::new(program)
        .arg(&subject.path)
        .args([
            subject.threads.to_string(),
            PROMPT.to_string(),
            GENERATE.to_string(),
            streams.to_string(),
        ])
        .output()?;
    if !output.status.success() {
        bail!("direct: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.trim()).with_context(|| format!("direct said {text:?}"))
}

/// The runner with the same work. The prompt phase ends when every stream has started, and the
/// generation phase when every stream is done: with several streams the early ones generate
/// while the late ones' prompts are processed, so both phases together are what is compared.
fn through_runner(subject: &Subject, streams: usize, round: usize) -> Result<Direct> {
    let slots = u32::try_from(streams)?;
    let context = u32::try_from(PROMPT + GENERATE + 8)?;
    let path = subject.path.display().to_string();
    let threads = Some(subject.threads);
    let mut runner = Runner::start(LoadModel { path, context, slots, threads, gpu_layers: 0 })?;
    // As the direct program: one run to warm up.
    one_run(&mut runner, 1, 8, 1_000)?;
    let (prompt_s, generate_s) = one_run(&mut runner, streams, GENERATE, round)?;
    #[allow(clippy::cast_precision_loss, reason = "small counts")]
    let count = |tokens: usize| (tokens * streams) as f64;
    Ok(Direct {
        prompt_tokens_per_s: count(PROMPT) / prompt_s,
        generate_tokens_per_s: count(GENERATE) / generate_s,
    })
}

fn one_run(
    runner: &mut Runner,
    streams: usize,
    generate: usize,
    salt: usize,
) -> Result<(f64, f64)> {
    let begun = Instant::now();
    for stream in 0..streams {
        runner.send(&ToRunner::Generate {
            id: stream as u64,
            request: Box::new(request(stream, generate, salt)),
        })?;
    }
    let (mut started, mut done, mut all_started) = (0, 0, begun.elapsed());
    while done < streams {
        match runner.receive()? {
            Reply::Started { .. } => {
                started += 1;
                if started == streams {
                    all_started = begun.elapsed();
                }
            }
            Reply::Done { usage, .. } => {
                anyhow::ensure!(
                    usage.completion_tokens as usize == generate,
                    "an answer of {} tokens",
                    usage.completion_tokens
                );
                done += 1;
            }
            Reply::Failed { error, .. } => bail!("{}", error.message),
            _ => {}
        }
    }
    let generating = begun.elapsed() - all_started;
    Ok((all_started.as_secs_f64(), generating.as_secs_f64()))
}

fn request(stream: usize, generate: usize, salt: usize) -> Generate {
    // The direct program's token ids, moved by the round so that no prefix is known.
    let tokens = (0..PROMPT)
        .map(|i| i32::try_from((i * 7 + stream * 13 + salt * 31 + 300) % 4000).unwrap_or(300));
    Generate {
        prompt: Prompt::Text(TextInput::Tokens { tokens: tokens.collect() }),
        max_tokens: u32::try_from(generate).ok(),
        sampling: Sampling {
            temperature: 0.0,
            // The control tokens of the demo vocabulary end an answer; the direct program does not look.
            logit_bias: (0..16).map(|id| (id, -100.0)).collect(),
            ..Sampling::default()
        },
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    }
}
