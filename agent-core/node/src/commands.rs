//! `status`, `ask` and `logs`: what talks to a running node.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use agent_api::{
    Status as NodeStatus,
    endpoint::{GetLogs, GetMesh, GetStatus, Nothing},
    node::{LogLine, LogQuery, ServingState},
    openai::{ChatChunk, ErrorBody},
};
use anyhow::{Context as _, bail};
use eventsource_stream::Eventsource as _;
use futures_util::StreamExt as _;
use serde_json::json;

use crate::{
    args::{Ask, Logs, Status},
    client::Client,
    mesh::summary,
    terminal::{print_json, say},
};

/// How often `logs --follow` looks for new lines.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

pub(crate) async fn status(args: Status) -> anyhow::Result<()> {
    let client = Client::connect(args.data)?;
    let status = client.call::<GetStatus>(&Nothing {}).await?;
    if args.json {
        return print_json(&status);
    }
    let mesh = client.call::<GetMesh>(&Nothing {}).await?;
    say(&describe(&status, &summary(&mesh)))
}

fn describe(status: &NodeStatus, mesh: &str) -> String {
    let state = match status.serving.state {
        ServingState::Starting => "starting",
        ServingState::Idle => "ready",
        ServingState::Serving => "serving",
        ServingState::Paused => "paused",
        ServingState::Degraded => "needs attention",
        ServingState::Stopping => "stopping",
    };
    let node = &status.node;
    let model = match &status.model.active {
        Some(model) => format!("{} ({}). {}", model.name, model.id, status.model.reason),
        None => format!("none. {}", status.model.reason),
    };
    let requests = &status.requests;
    let requests = format!(
        "{} running, {} waiting; today {} done, {} failed, {} tokens",
        requests.running,
        requests.queued,
        requests.done_today,
        requests.failed_today,
        requests.tokens_today
    );
    let rows = [
        ("State", format!("{state}. {}", status.serving.reason)),
        ("Model", model),
        ("Requests", requests),
        ("Mesh", mesh.to_owned()),
        ("Speed", format!("{:.1} tokens/s", status.speed.tokens_per_s)),
        ("API", format!("{} (process {})", node.url, node.pid)),
        ("Data", node.data_dir.clone()),
    ];
    let notices = status.notices.iter().map(|notice| ("Notice", notice.message.clone()));
    let mut text =
        format!("{} ({}), EdgeCoder {}\n", node.name, node.node_id.fmt_short(), node.version);
    for (name, value) in rows.into_iter().chain(notices) {
        let name = format!("{name}:");
        text.push_str(&format!("  {name:<11}{value}\n"));
    }
    text
}

pub(crate) async fn ask(args: Ask) -> anyhow::Result<()> {
    let mut prompt = args.prompt;
    if prompt == "-" {
        prompt.clear();
        std::io::stdin()
            .read_to_string(&mut prompt)
            .context("cannot read the question from stdin")?;
    }
    let client = Client::connect(args.data)?;
    let mut body = json!({
        "messages": [{"role": "user", "content": prompt}],
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    for (name, value) in [
        ("model", args.model.map(|model| json!(model))),
        ("max_tokens", args.max_tokens.map(|n| json!(n))),
        ("temperature", args.temperature.map(|t| json!(t))),
        ("seed", args.seed.map(|seed| json!(seed))),
    ] {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    let asked = Instant::now();
    let response = client.post("/v1/chat/completions", &body).await?;
    let mut events = response.bytes_stream().eventsource();
    let mut out = std::io::stdout().lock();
    let mut first = None;
    let mut timings = None;
    let mut whole = false;
    while let Some(event) = events.next().await {
        let data = event.context("the answer broke off; is the node still running?")?.data;
        if data == "[DONE]" {
            whole = true;
            break;
        }
        if let Ok(ErrorBody { error }) = serde_json::from_str(&data) {
            bail!("{}", error.message);
        }
        let chunk: ChatChunk = serde_json::from_str(&data).context("the answer makes no sense")?;
        for text in chunk.choices.iter().filter_map(|choice| choice.delta.content.as_deref()) {
            if !text.is_empty() {
                first.get_or_insert_with(|| asked.elapsed());
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
        }
        timings = chunk.timings.or(timings);
    }
    writeln!(out)?;
    if !whole {
        bail!("the answer broke off; is the node still running?");
    }
    if let (Some(timings), false) = (timings, args.quiet) {
        let first = first.unwrap_or_default().as_millis();
        eprintln!(
            "[{} tokens, {:.1} tokens/s, first token after {first} ms]",
            timings.predicted_n, timings.predicted_per_second
        );
    }
    Ok(())
}

pub(crate) async fn logs(args: Logs) -> anyhow::Result<()> {
    let client = Client::connect(args.data)?;
    let mut query = LogQuery { after: None, limit: Some(args.lines) };
    loop {
        let answer = client.call::<GetLogs>(&query).await?;
        for line in &answer.lines {
            print_line(line)?;
            query.after = Some(line.seq);
        }
        if !args.follow {
            return Ok(());
        }
        query.limit = None;
        query.after = query.after.or(Some(0));
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

fn print_line(line: &LogLine) -> anyhow::Result<()> {
    let seconds = line.at_ms.div_euclid(1000).rem_euclid(24 * 60 * 60);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{hour:02}:{minute:02}:{second:02}Z {:5} {}: {}",
        line.level, line.target, line.message
    )?;
    Ok(())
}
