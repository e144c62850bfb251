//! What the HTTP API adds to the time until the first byte of a streamed answer.

use std::time::Instant;

use agent_api::runner::{Command as ToRunner, Generate, LoadModel, Prompt, Reply, Sampling};
use anyhow::{Context as _, Result, bail};
use edgecoder_tests::{node::Options, programs};
use serde_json::{Value, json};

use super::{Row, percentile, runner::Runner};

fn messages() -> Value {
    json!([{"role": "user", "content": "Return the number of elements in the vector"}])
}

pub(super) async fn measure(quick: bool) -> Result<Vec<Row>> {
    let rounds = if quick { 20 } else { 400 };
    let path = programs::demo_model().display().to_string();
    let load = LoadModel { path, context: 1024, slots: 4, threads: None, gpu_layers: 0 };
    let mut runner = Runner::start(load)?;
    let node = Options::default().start()?;
    let model = node.model().await?;
    let body = json!({"model": model, "messages": messages(), "stream": true, "max_tokens": 1, "temperature": 0});
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for round in 0..rounds + 10 {
        let d = direct_ms(&mut runner, round)?;
        let begun = Instant::now();
        let mut response =
            node.http.request("POST", "/v1/chat/completions").json(&body).send().await?;
        response.chunk().await?.context("a first byte")?;
        let t = begun.elapsed().as_secs_f64() * 1e3;
        while response.chunk().await?.is_some() {}
        // The first ones open connections and fill caches.
        if round >= 10 {
            direct.push(d);
            through.push(t);
        }
    }
    direct.sort_by(f64::total_cmp);
    through.sort_by(f64::total_cmp);
    let rows = [(0.5, "p50", 1.0, "under 1 ms"), (0.99, "p99", 5.0, "under 5 ms")].map(
        |(share, name, most, bound)| {
            let (d, t) = (percentile(&direct, share), percentile(&through, share));
            Row {
                what: format!("first byte, API minus runner directly, {name} of {rounds}"),
                measured: format!("{:.2} ms ({t:.2} − {d:.2}; ratio {:.2})", t - d, t / d),
                bound,
                met: Some(t - d < most),
            }
        },
    );
    Ok(rows.into())
}

fn direct_ms(runner: &mut Runner, id: u64) -> Result<f64> {
    let messages = messages().as_array().cloned().unwrap_or_default();
    let request = Generate {
        prompt: Prompt::Chat { messages, tools: Vec::new() },
        max_tokens: Some(1),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    };
    let begun = Instant::now();
    runner.send(&ToRunner::Generate { id, request: Box::new(request) })?;
    let mut first = None;
    loop {
        match runner.receive()? {
            Reply::Started { .. } => {
                first.get_or_insert_with(|| begun.elapsed().as_secs_f64() * 1e3);
            }
            Reply::Done { .. } => return first.context("a start"),
            Reply::Failed { error, .. } => bail!("{}", error.message),
            _ => {}
        }
    }
}
