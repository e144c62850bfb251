//! Pulls as the integration tests and the benchmark start and watch them.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_api::{
    models::ModelList,
    pull::{Pull, PullList, PullState},
};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    gguf::{Shape, write_random_model},
    node::TestNode,
    programs::PATIENCE,
};

const POLL: Duration = Duration::from_millis(20);

/// Bytes that one request of a pull asks for: `PART_BYTES` in `agent-core/src/models/pull`.
pub const PART: u64 = 8 << 20;
/// A pull reads the head of the model before the rest, to say whether it will fit. Shorter than this.
pub const HEAD: u64 = 4 << 20;

/// About 26 MB: four parts.
const MEDIUM: Shape = Shape {
    layers: 8,
    width: 512,
    feed_forward: 1408,
    heads: 8,
    kv_heads: 2,
    context: 512,
    ..Shape::LLAMA
};

/// A model that takes several parts to fetch.
pub fn medium_model(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("medium.gguf");
    write_random_model(&path, MEDIUM)?;
    Ok(path)
}

pub async fn start(node: &TestNode, model: &str) -> Result<Pull> {
    node.http.post("/model/pull", &json!({"model": model})).await
}

pub async fn all(node: &TestNode) -> Result<Vec<Pull>> {
    Ok(node.http.get::<PullList>("/model/pulls").await?.pulls)
}

/// Waits for a state of a pull; the error shows the last one.
pub async fn when(
    node: &TestNode,
    id: &str,
    what: &str,
    holds: impl Fn(&Pull) -> bool,
) -> Result<Pull> {
    when_within(node, id, what, PATIENCE, holds).await
}

pub async fn when_within(
    node: &TestNode,
    id: &str,
    what: &str,
    patience: Duration,
    holds: impl Fn(&Pull) -> bool,
) -> Result<Pull> {
    let deadline = Instant::now() + patience;
    loop {
        let pulls = all(node).await?;
        let pull = pulls.into_iter().find(|pull| pull.id == id);
        let pull = pull.with_context(|| format!("there is no pull {id}: {what}"))?;
        if holds(&pull) {
            return Ok(pull);
        }
        if Instant::now() > deadline {
            bail!("waited in vain: {what}. Last: {pull:#?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

pub async fn settled(node: &TestNode, id: &str) -> Result<Pull> {
    when(node, id, "the pull is settled", |pull| pull.state.is_settled()).await
}

/// Waits until a pull is done; anything else is an error with the node's reason.
pub async fn done(node: &TestNode, id: &str) -> Result<Pull> {
    let pull = settled(node, id).await?;
    anyhow::ensure!(pull.state == PullState::Done, "{:?}: {}", pull.state, pull.reason);
    Ok(pull)
}

/// Bytes of one layer that are here.
pub fn here(pull: &Pull, digest: &str) -> u64 {
    let layer = pull.layers.iter().find(|layer| layer.digest == digest);
    layer.map_or(0, |layer| layer.done_bytes)
}

/// Bytes that the record of a layer on its way claims.
pub fn written_down(data_dir: &Path, digest: &str) -> Option<u64> {
    let name = format!("models/blobs/{}.state", digest.replace(':', "-"));
    let text = std::fs::read_to_string(data_dir.join(name)).ok()?;
    let record: Value = serde_json::from_str(text.lines().nth(1)?).ok()?;
    let hashed = record["hashed"].as_u64()?;
    let parts = record["parts"].as_array()?.iter();
    let beyond = parts.filter_map(|part| {
        let start = part[0].as_u64()? * PART;
        (start + part[1].as_u64()?).checked_sub(start.max(hashed))
    });
    Some(hashed + beyond.sum::<u64>())
}

/// Pulls a model to the end.
pub async fn pull(node: &TestNode, model: &str) -> Result<Pull> {
    let begun = start(node, model).await?;
    done(node, &begun.id).await
}

/// Pulls what cannot be pulled; gives what the node says about it, whether it refuses at once or
/// later.
pub async fn refused(node: &TestNode, model: &str) -> Result<String> {
    let (status, body) = node.http.try_post("/model/pull", &json!({"model": model})).await?;
    if status != 200 {
        anyhow::ensure!((400..500).contains(&status), "{status}: {body}");
        return Ok(body["message"].as_str().context("a message")?.to_owned());
    }
    let id = body["id"].as_str().context("an id")?;
    let pull = settled(node, id).await?;
    anyhow::ensure!(pull.state != PullState::Done, "{model} was pulled");
    Ok(pull.reason)
}

pub async fn models(node: &TestNode) -> Result<ModelList> {
    node.http.get("/model/list").await
}

/// Whether a model is installed.
pub async fn has(node: &TestNode, model: &str) -> Result<bool> {
    Ok(models(node).await?.models.iter().any(|installed| installed.id == model))
}

/// A short answer of a model.
pub async fn chat(node: &TestNode, model: &str) -> Result<Value> {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "Return the length"}],
        "max_tokens": 4,
    });
    node.http.post("/v1/chat/completions", &body).await
}
