//! What the Models panel waits for: the list, the fit estimate, and a swap between two models whose
//! files are in the page cache.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use agent_api::models::{ModelList, ModelState, ModelStatus};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    gguf::{Shape, write_random_model},
    node::{Options, TestNode},
    programs::demo_model,
    registry::{self, CONFIG_JSON, Layer, digest_of, digest_of_file},
};
use serde_json::{Value, json};

use super::{Row, percentile};

/// 0.5 GB.
const HALF_GB: Shape = Shape {
    layers: 10,
    width: 2048,
    feed_forward: 5632,
    heads: 16,
    kv_heads: 4,
    context: 1024,
    ..Shape::LLAMA
};
const MODELS: usize = 1_000;
/// Until a model of 0.5 GB is loaded.
const PATIENCE: Duration = Duration::from_secs(120);
/// How exactly the end of a swap is seen.
const POLL: Duration = Duration::from_millis(2);

pub(super) async fn measure(quick: bool) -> Result<Vec<Row>> {
    let mut rows = many_models(if quick { 20 } else { 200 }).await?;
    rows.push(swaps(quick).await?);
    Ok(rows)
}

async fn many_models(rounds: usize) -> Result<Vec<Row>> {
    let options = Options::default().without_model();
    fill_store(&options.data_dir().join("models"))?;
    let node = options.start()?;
    let list: ModelList = node.http.get("/model/list").await?;
    anyhow::ensure!(list.models.len() == MODELS, "{} models are listed", list.models.len());
    let fit = format!("/model/fit?model={}", list.models[MODELS / 2].id);
    let lists = times(&node, "/model/list", rounds).await?;
    let fits = times(&node, &fit, rounds).await?;
    Ok(vec![
        row(format!("list of {MODELS} models"), &lists, 20.0, "p50 under 20 ms"),
        row("fit estimate of an installed model".into(), &fits, 5.0, "p50 under 5 ms"),
    ])
}

fn row(what: String, sorted: &[f64], most: f64, bound: &'static str) -> Row {
    let (p50, p99) = (percentile(sorted, 0.5), percentile(sorted, 0.99));
    let measured = format!("p50 {p50:.2} ms, p99 {p99:.2} ms of {}", sorted.len());
    Row { what: format!("{what}, over HTTP"), measured, bound, met: Some(p50 < most) }
}

/// Sorted milliseconds for whole answers.
async fn times(node: &TestNode, path: &str, rounds: usize) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for round in 0..rounds + 5 {
        let begun = Instant::now();
        let response = node.http.request("GET", path).send().await?.error_for_status()?;
        response.bytes().await?;
        // The first ones open the connection and fill caches.
        if round >= 5 {
            all.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// Manifests with different names over one model file.
fn fill_store(root: &Path) -> Result<()> {
    let blobs = root.join("blobs");
    std::fs::create_dir_all(&blobs)?;
    let file_of = |digest: &str| blobs.join(digest.replace(':', "-"));
    let model = Layer {
        digest: digest_of_file(&demo_model())?,
        size: std::fs::metadata(demo_model())?.len(),
    };
    std::fs::copy(demo_model(), file_of(&model.digest))?;
    let config =
        Layer { digest: digest_of(CONFIG_JSON.as_bytes()), size: CONFIG_JSON.len() as u64 };
    std::fs::write(file_of(&config.digest), CONFIG_JSON)?;
    let manifest = registry::manifest(&config, &["model"], &[model])?;
    for number in 0..MODELS {
        let folder = root.join(format!("manifests/registry.ollama.ai/library/model-{number:04}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("latest"), &manifest)?;
    }
    Ok(())
}

async fn swaps(quick: bool) -> Result<Row> {
    let rounds = if quick { 2 } else { 8 };
    let shape = if quick { Shape { layers: 1, ..HALF_GB } } else { HALF_GB };
    let options = Options::default().without_model();
    let folder = options.data_dir().join("models");
    std::fs::create_dir_all(&folder)?;
    for name in ["first", "second"] {
        write_random_model(&folder.join(format!("{name}.gguf")), shape)?;
    }
    let node = options.start()?;
    let list: ModelList = node.http.get("/model/list").await?;
    let id = |name: &str| {
        let found = list.models.iter().find(|model| model.path.ends_with(&format!("{name}.gguf")));
        found.map(|model| model.id.clone()).with_context(|| format!("{name} is not listed"))
    };
    let ids = [id("first")?, id("second")?];
    let mut ratios = Vec::new();
    let mut loads = Vec::new();
    // The first swap to each model brings its file into the page cache.
    for round in 0..rounds + 2 {
        let (to, from) = (&ids[round % 2], &ids[(round + 1) % 2]);
        let (waited, load) = swap(&node, to).await?;
        if round >= 2 {
            ratios.push(waited / load);
            loads.push(load);
        }
        // Else the next swap would find it in memory.
        node.http.try_post("/model/unload", &json!({"model": from})).await?;
        until(&node, |status| status.resident.iter().all(|r| r.id != *from)).await?;
    }
    ratios.sort_by(f64::total_cmp);
    loads.sort_by(f64::total_cmp);
    let ratio = percentile(&ratios, 0.5);
    Ok(Row {
        what: "swap to a model of 0.5 GB in the page cache, until it answers : the runner's own load time".into(),
        measured: format!(
            "{ratio:.2} ({:.2} to {:.2}, {rounds} swaps; load {:.0} ms)",
            ratios[0],
            percentile(&ratios, 1.0),
            percentile(&loads, 0.5)
        ),
        bound: "under 1.2",
        met: Some(ratio < 1.2),
    })
}

/// Milliseconds until the model is ready, and what the runner says it took to load.
async fn swap(node: &TestNode, model: &str) -> Result<(f64, f64)> {
    let begun = Instant::now();
    node.http.post::<Value>("/model/swap", &json!({"model": model})).await?;
    let status = until(node, |status| {
        status.state == ModelState::Failed
            || status.state == ModelState::Ready
                && status.loaded.as_ref().is_some_and(|loaded| loaded.id == model)
    })
    .await?;
    let waited = begun.elapsed().as_secs_f64() * 1e3;
    let loaded = status.loaded.with_context(|| status.reason.clone())?;
    Ok((waited, loaded.load_ms))
}

async fn until(node: &TestNode, holds: impl Fn(&ModelStatus) -> bool) -> Result<ModelStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status: ModelStatus = node.http.get("/model/status").await?;
        if holds(&status) {
            return Ok(status);
        }
        anyhow::ensure!(Instant::now() < deadline, "waited in vain. Last: {status:#?}");
        tokio::time::sleep(POLL).await;
    }
}
