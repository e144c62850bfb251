//! Pulls from a real registry, through the node's own paths.

mod disk;
mod faults;
mod resume;

use agent_api::{
    models::{InstalledModel, ModelDetails, Removed},
    pull::{Pull, PullPreview, PullState},
    settings::SettingsView,
};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    fault_proxy::{Fault, FaultProxy, Rule},
    node::{Options, TestNode},
    programs::demo_model,
    pulls::{self, HEAD, PART},
    registry::{self, Content, Pushed, Registry, RegistryOptions, digest_of_file},
};
use eventsource_stream::Eventsource as _;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A registry with a model of four parts, a proxy in front of it, and a node.
struct Bench {
    registry: Registry,
    proxy: FaultProxy,
    pushed: Pushed,
    /// The model as the node is to pull it: through the proxy.
    model: String,
    /// Digest of the model layer.
    digest: String,
    folder: TempDir,
}

impl Bench {
    async fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let file = pulls::medium_model(folder.path())?;
        let registry = Registry::start().await?;
        let layers = [("model", Content::File(file)), ("license", Content::text("MIT"))];
        let pushed = registry.push_model("medium", "latest", &layers).await?;
        let proxy = FaultProxy::start(&registry.origin()).await?;
        let model = pushed.at(&proxy.host);
        let digest = pushed.layers[0].digest.clone();
        Ok(Self { registry, proxy, pushed, model, digest, folder })
    }

    /// From now on everything from this byte of a blob on never comes.
    fn stall_from(&self, byte: u64) {
        self.proxy.rule(Rule::on("/blobs/", Fault::StallAfter(0)).get().from_byte(byte));
    }

    /// Starts a pull and waits until the first two parts are here and the others are stalled.
    async fn half_way(&self, node: &TestNode) -> Result<Pull> {
        self.stall_from(2 * PART);
        let begun = pulls::start(node, &self.model).await?;
        pulls::when(node, &begun.id, "half of it is here", |pull| {
            pulls::here(pull, &self.digest) >= 2 * PART || pull.state.is_settled()
        })
        .await
    }

    /// What is stalled goes on, and nothing is stalled any more.
    fn go_on(&self) {
        self.proxy.clear_rules();
        self.proxy.release();
    }
}

/// The installed model, whose file has to be what was pushed.
async fn installed_whole(node: &TestNode, model: &str, digest: &str) -> Result<InstalledModel> {
    let list = pulls::models(node).await?;
    let found = list.models.into_iter().find(|installed| installed.id == model);
    let found = found.with_context(|| format!("{model} is not installed"))?;
    assert_eq!(digest_of_file(found.path.as_ref())?, digest, "the bytes that were pushed");
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_pulled_listed_asked_and_removed() -> Result<()> {
    let registry = Registry::start().await?;
    let layers = [
        ("model", Content::File(demo_model())),
        ("system", Content::text("You are terse.")),
        ("params", Content::text(r#"{"temperature": 0.1}"#)),
        ("license", Content::text("MIT License\n\nPermission is hereby granted...")),
    ];
    let pushed = registry.push_model("tiny", "v1", &layers).await?;
    let node = Options::default().start()?;
    node.model().await?;

    let pull = pulls::pull(&node, &pushed.model).await?;
    assert_eq!(pull.model, pushed.model);
    assert_eq!(pull.source, registry.host);
    assert_eq!((pull.size_bytes, pull.done_bytes), (Some(pushed.size()), pushed.size()));

    let digest = &pushed.layers[0].digest;
    let installed = installed_whole(&node, &pushed.model, digest).await?;
    assert_eq!(installed.digest.as_deref(), Some(pushed.digest.as_str()));
    assert!(!installed.active && installed.problem.is_none(), "{installed:?}");
    assert!(installed.fit.is_some(), "a fit is shown for what is installed");
    let show = node.http.request("GET", "/model/show").query(&[("model", &pushed.model)]);
    let details: ModelDetails = show.send().await?.error_for_status()?.json().await?;
    assert_eq!(details.system.as_deref(), Some("You are terse."));
    assert_eq!(details.parameters.get("temperature"), Some(&json!(0.1)));
    assert!(details.license_text.is_some_and(|text| text.starts_with("MIT License")));

    let answer = pulls::chat(&node, &pushed.model).await?;
    assert_eq!(answer["model"], json!(pushed.model));
    assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");

    let removed: Removed = node.http.post("/model/remove", &json!({"model": pushed.model})).await?;
    assert_eq!(Some(removed.freed_bytes), installed.removable_bytes);
    assert!(removed.freed_bytes >= pushed.size(), "{} of {}", removed.freed_bytes, pushed.size());
    assert!(!std::path::Path::new(&installed.path).exists(), "the file is gone");
    assert!(!pulls::has(&node, &pushed.model).await?);
    let body = json!({"model": pushed.model, "messages": [{"role": "user", "content": "x"}]});
    let (status, _) = node.http.try_post("/v1/chat/completions", &body).await?;
    assert_eq!(status, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn size_and_fit_are_known_before_the_model_is_fetched() -> Result<()> {
    let bench = Bench::new().await?;
    let node = Options::default().without_model().start()?;
    let preview: PullPreview =
        node.http.post("/model/pull/preview", &json!({"model": bench.model})).await?;
    assert_eq!(preview.model, bench.model);
    assert_eq!(preview.source, bench.proxy.host);
    assert_eq!(preview.size_bytes, bench.pushed.size());
    assert_eq!(preview.download_bytes, bench.pushed.size());
    assert!(preview.problem.is_none() && !preview.already_installed, "{preview:?}");
    assert!(preview.fit.is_some_and(|fit| fit.total_bytes > bench.pushed.layers[0].size));
    assert!(preview.disk_after_bytes >= bench.pushed.size());
    let fetched = bench.proxy.blob_bytes();
    assert!(fetched <= HEAD, "{fetched} bytes of blobs for a preview");
    assert!(pulls::all(&node).await?.is_empty(), "a preview starts nothing");

    pulls::pull(&node, &bench.model).await?;
    let preview: PullPreview =
        node.http.post("/model/pull/preview", &json!({"model": bench.model})).await?;
    assert!(preview.already_installed && preview.download_bytes == 0, "{preview:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_can_be_watched_to_its_end() -> Result<()> {
    let bench = Bench::new().await?;
    let node = Options::default().without_model().start()?;
    let pull = bench.half_way(&node).await?;
    let path = format!("/model/pull/stream?id={}", pull.id);
    let response = node.http.request("GET", &path).send().await?.error_for_status()?;
    let mut events = response.bytes_stream().eventsource();
    let first: Pull = serde_json::from_str(&events.next().await.context("an event")??.data)?;
    assert_eq!((&first.id, first.size_bytes), (&pull.id, Some(bench.pushed.size())));
    bench.go_on();
    let mut last = first;
    while let Some(event) = events.next().await {
        let now: Pull = serde_json::from_str(&event?.data)?;
        assert!(now.done_bytes >= last.done_bytes, "progress does not go back");
        last = now;
    }
    assert_eq!(last.state, PullState::Done, "the stream ends when the pull is settled");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_two_models_share_is_fetched_once_and_stays_until_both_are_gone() -> Result<()>
{
    let bench = Bench::new().await?;
    let file = bench.folder.path().join("medium.gguf");
    let layers = [("model", Content::File(file)), ("system", Content::text("Be brief."))];
    let second = bench.registry.push_model("other", "latest", &layers).await?;
    let second = second.at(&bench.proxy.host);
    let node = Options::default().without_model().start()?;
    let (one, two) =
        tokio::try_join!(pulls::start(&node, &bench.model), pulls::start(&node, &second))?;
    pulls::done(&node, &one.id).await?;
    pulls::done(&node, &two.id).await?;
    let (size, sent) = (bench.pushed.layers[0].size, bench.proxy.sent(&bench.digest));
    assert!(sent <= size + 2 * HEAD, "{sent} bytes sent of a layer of {size}");

    let removed: Removed = node.http.post("/model/remove", &json!({"model": bench.model})).await?;
    assert!(removed.freed_bytes < size, "the shared layer stays: {}", removed.freed_bytes);
    installed_whole(&node, &second, &bench.digest).await?;
    let removed: Removed = node.http.post("/model/remove", &json!({"model": second})).await?;
    assert!(removed.freed_bytes >= size, "{}", removed.freed_bytes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_registry_wants_a_login_and_the_secret_is_never_shown() -> Result<()> {
    let registry = Registry::start_with(RegistryOptions { auth: true }).await?;
    let layers = [("model", Content::File(demo_model()))];
    let pushed = registry.push_model("private", "latest", &layers).await?;
    let node = Options::default().without_model().start()?;
    let why = pulls::refused(&node, &pushed.model).await?;
    assert!(why.contains(&registry.host), "names the host: {why}");

    let login =
        |secret: &str| json!({"host": registry.host, "username": registry::USER, "secret": secret});
    node.http.post::<SettingsView>("/model/registry/login", &login("wrong")).await?;
    let why = pulls::refused(&node, &pushed.model).await?;
    assert!(why.contains(&registry.host), "names the host: {why}");

    let view: Value = node.http.post("/model/registry/login", &login(registry::PASSWORD)).await?;
    assert!(!view.to_string().contains(registry::PASSWORD));
    pulls::pull(&node, &pushed.model).await?;
    let settings: Value = node.http.get("/settings").await?;
    assert!(!settings.to_string().contains(registry::PASSWORD));
    assert!(!node.log().contains(registry::PASSWORD));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_fetched_where_the_registry_says_and_not_sent_elsewhere() -> Result<()> {
    let bench = Bench::new().await?;
    // As object storage: another host, which is told nothing about who asks.
    let storage = FaultProxy::start(&bench.registry.origin()).await?;
    let blob = bench.registry.blob_url("medium", &bench.digest);
    let elsewhere = blob.replace(&bench.registry.host, &storage.host);
    bench.proxy.rule(Rule::on(&bench.digest, Fault::Redirect(elsewhere)));
    bench.proxy.rule(Rule::on("/v2/", Fault::NeedsToken));
    bench.proxy.token_for(registry::USER, registry::PASSWORD);
    let node = Options::default().without_model().start()?;
    let login =
        json!({"host": bench.proxy.host, "username": registry::USER, "secret": registry::PASSWORD});
    node.http.post::<SettingsView>("/model/registry/login", &login).await?;
    pulls::pull(&node, &bench.model).await?;
    installed_whole(&node, &bench.model, &bench.digest).await?;
    let bearer = format!("Bearer {}", bench.proxy.token());
    let seen = bench.proxy.seen();
    assert!(seen.iter().any(|seen| seen.authorization.as_deref() == Some(&bearer)), "{seen:#?}");
    let told = storage.seen();
    assert!(!told.is_empty() && told.iter().all(|seen| seen.authorization.is_none()), "{told:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_tricks_are_refused_before_anything_happens() -> Result<()> {
    let node = Options::default().without_model().start()?;
    let long = "x".repeat(500);
    for name in [
        "",
        "../../etc/passwd",
        "a/../b",
        "host.example/../model",
        "tiny:../../x",
        "a//b",
        "modèle",
        "lla\u{202e}ma",
        "llama\u{0}",
        "tiny:latest\nHost: evil",
        "file:///etc/passwd",
        &long,
    ] {
        for path in ["/model/pull", "/model/pull/preview"] {
            let (status, body) = node.http.try_post(path, &json!({"model": name})).await?;
            assert_eq!(status, 400, "{path} {name:?}: {body}");
            assert_eq!(body["code"], json!("bad_request"), "{name:?}");
            assert!(body["message"].as_str().is_some_and(|text| text.len() > 10), "{body}");
        }
    }
    assert!(pulls::all(&node).await?.is_empty());
    Ok(())
}
