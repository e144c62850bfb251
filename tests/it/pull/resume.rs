//! Pulls that are interrupted: by kill -9, by their owner, by another node.

use agent_api::{
    models::ModelList,
    pull::{Pull, PullList, PullState},
};
use anyhow::Result;
use edgecoder_tests::{
    node::{Options, eventually},
    programs::demo_model,
    pulls::{self, HEAD, PART},
    registry::{Content, Registry},
};
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{Bench, installed_whole};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_a_pull_goes_on_by_itself_and_fetches_nothing_twice() -> Result<()> {
    let bench = Bench::new().await?;
    let node = Options::default().without_model().start()?;
    let half = bench.half_way(&node).await?;
    assert!(!half.state.is_settled(), "{}", half.reason);
    let here = pulls::here(&half, &bench.digest);
    // What is not synced yet may be fetched again: at most a second's worth.
    eventually("what is here is written down", || async {
        pulls::written_down(&node.options.data_dir(), &bench.digest).unwrap_or(0) >= here
    })
    .await?;
    let options = node.kill()?;

    bench.go_on();
    bench.proxy.forget();
    let node = options.start()?;
    let pulls = pulls::all(&node).await?;
    assert_eq!(pulls.len(), 1, "the pull is known: {pulls:#?}");
    assert_eq!(pulls[0].model, bench.model);
    pulls::done(&node, &pulls[0].id).await?;
    installed_whole(&node, &bench.model, &bench.digest).await?;
    let (rest, sent) = (bench.pushed.layers[0].size - here, bench.proxy.sent(&bench.digest));
    assert!(sent <= rest + HEAD, "{sent} bytes sent, {rest} were missing");
    for (first, _, bytes) in bench.proxy.ranges(&bench.digest) {
        assert!(first >= 2 * PART || bytes <= HEAD, "{bytes} bytes at {first} came again");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_paused_and_resumed_with_its_parts() -> Result<()> {
    let bench = Bench::new().await?;
    let node = Options::default().without_model().start()?;
    let half = bench.half_way(&node).await?;
    let id = json!({"id": half.id});
    node.http.post::<Pull>("/model/pull/pause", &id).await?;
    let paused = pulls::settled(&node, &half.id).await?;
    assert_eq!(paused.state, PullState::Paused);
    assert!(paused.done_bytes >= 2 * PART && !paused.reason.is_empty(), "{paused:?}");
    bench.go_on();

    // A pause outlives the node: it is the owner's word.
    let (_, options) = node.stop()?;
    bench.proxy.forget();
    let node = options.start()?;
    let still = pulls::settled(&node, &half.id).await?;
    assert_eq!(still.state, PullState::Paused);
    assert_eq!(bench.proxy.blob_bytes(), 0, "paused is paused");

    node.http.post::<Pull>("/model/pull/resume", &id).await?;
    pulls::when(&node, &half.id, "it is done", |pull| pull.state == PullState::Done).await?;
    installed_whole(&node, &bench.model, &bench.digest).await?;
    for (first, _, bytes) in bench.proxy.ranges(&bench.digest) {
        assert!(first >= 2 * PART || bytes <= HEAD, "{bytes} bytes at {first} came again");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_pull_leaves_nothing_behind() -> Result<()> {
    let bench = Bench::new().await?;
    let node = Options::default().without_model().start()?;
    let half = bench.half_way(&node).await?;
    let with_parts: ModelList = pulls::models(&node).await?;
    assert!(with_parts.disk.partial_bytes >= 2 * PART, "{:?}", with_parts.disk);
    let left: PullList = node.http.post("/model/pull/cancel", &json!({"id": half.id})).await?;
    assert!(left.pulls.is_empty(), "{left:#?}");
    let list = pulls::models(&node).await?;
    assert_eq!(list.disk.partial_bytes, 0);
    assert!(list.models.is_empty());
    let blobs = node.options.data_dir().join("models/blobs");
    let files: Vec<_> = std::fs::read_dir(blobs)?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".partial") || name.ends_with(".state"))
        .collect();
    assert!(files.is_empty(), "{files:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_with_one_folder_pull_the_same_model_at_the_same_time() -> Result<()> {
    let bench = Bench::new().await?;
    let shared = TempDir::new()?;
    let settings = json!({"version": 1, "models_dir": shared.path()}).to_string();
    let node =
        || Options::default().without_model().file("settings.json", settings.as_bytes()).start();
    let (one, two) = (node()?, node()?);
    let (first, second) =
        tokio::try_join!(pulls::start(&one, &bench.model), pulls::start(&two, &bench.model))?;
    pulls::done(&one, &first.id).await?;
    pulls::done(&two, &second.id).await?;
    for node in [&one, &two] {
        let model = installed_whole(node, &bench.model, &bench.digest).await?;
        assert!(model.path.starts_with(&shared.path().display().to_string()), "{}", model.path);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_removed_while_it_answers_breaks_nothing() -> Result<()> {
    let registry = Registry::start().await?;
    let layers = [("model", Content::File(demo_model()))];
    let pushed = registry.push_model("tiny", "latest", &layers).await?;
    let node = Options::default().start()?;
    let demo = node.model().await?;
    pulls::pull(&node, &pushed.model).await?;
    // Without the control tokens, so that the answer goes on until it is long enough.
    let bias: Map<String, Value> = (0..16).map(|id| (id.to_string(), json!(-100))).collect();
    let body = json!({
        "model": pushed.model,
        "messages": [{"role": "user", "content": "Return the length"}],
        "stream": true,
        "max_tokens": 400,
        "temperature": 0,
        "logit_bias": bias,
    });
    let mut answer = node.http.stream("/v1/chat/completions", &body).await?;
    answer.next().await.expect("a first piece")?;
    let (status, said) =
        node.http.try_post("/model/remove", &json!({"model": pushed.model})).await?;
    assert!(status == 200 || said["message"].is_string(), "{status}: {said}");
    let mut last = String::new();
    while let Some(piece) = answer.next().await {
        last = piece?;
    }
    let error = serde_json::from_str::<Value>(&last).ok().and_then(|v| v.get("error").cloned());
    assert!(last == "[DONE]" || error.is_some(), "the answer just stops: {last}");
    assert_eq!(pulls::has(&node, &pushed.model).await?, status != 200);
    let other = pulls::chat(&node, &demo).await?;
    assert!(other["choices"][0].is_object(), "{other}");
    assert_eq!(node.status().await?.model.runner_crashes, 0);
    Ok(())
}
