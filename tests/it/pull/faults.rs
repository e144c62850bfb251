//! A network and a registry that misbehave.

use agent_api::pull::PullState;
use anyhow::Result;
use edgecoder_tests::{
    fault_proxy::{Fault, Rule},
    node::Options,
    pulls::{self, HEAD, PART},
    registry::Content,
};
use serde_json::Value;

use super::{Bench, installed_whole};

/// Pulls through a proxy with these faults; the model has to arrive whole. Gives the bytes of the
/// model layer that were sent for it.
async fn survives(rules: Vec<Rule>) -> Result<u64> {
    let bench = Bench::new().await?;
    rules.into_iter().for_each(|rule| bench.proxy.rule(rule));
    let node = Options::default().without_model().start()?;
    pulls::pull(&node, &bench.model).await?;
    installed_whole(&node, &bench.model, &bench.digest).await?;
    Ok(bench.proxy.sent(&bench.digest))
}

/// Pulls what cannot arrive; the node has to say which host is to blame, keep nothing that looks
/// like a model, and go on.
async fn gives_up(rules: Vec<Rule>) -> Result<String> {
    let bench = Bench::new().await?;
    rules.into_iter().for_each(|rule| bench.proxy.rule(rule));
    let node = Options::default().without_model().start()?;
    let why = pulls::refused(&node, &bench.model).await?;
    assert!(why.contains(&bench.proxy.host), "the host is not named: {why}");
    assert!(!pulls::has(&node, &bench.model).await?);
    node.status().await?;
    Ok(why)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_drop_cost_only_what_was_on_its_way() -> Result<()> {
    let cut = 1 << 20;
    let dropped = Rule::on("/blobs/", Fault::DropAfter(cut)).get().from_byte(PART).times(3);
    let sent = survives(vec![dropped]).await?;
    let bench = Bench::new().await?;
    // What was on its way when a connection broke is at most what the proxy had handed out.
    let most = bench.pushed.layers[0].size + HEAD + 3 * cut;
    assert!(sent <= most, "{sent} of at most {most} bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_busy_or_broken_for_a_while_is_asked_again() -> Result<()> {
    survives(vec![
        Rule::on("/manifests/", Fault::Status(503, None)).times(1),
        Rule::on("/blobs/", Fault::Status(429, Some(1))).get().times(1),
        Rule::on("/blobs/", Fault::Status(500, None)).get().times(1),
        Rule::on("/blobs/", Fault::Status(503, None)).get().times(1),
    ])
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_stands_still_is_replaced() -> Result<()> {
    let stalled = Rule::on("/blobs/", Fault::StallAfter(100_000)).get().from_byte(PART).times(1);
    survives(vec![stalled]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_ranges_serves_as_well() -> Result<()> {
    survives(vec![Rule::on("/blobs/", Fault::IgnoreRange)]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_answer_with_wrong_headers_is_not_believed() -> Result<()> {
    survives(vec![Rule::on("/blobs/", Fault::WrongRange).get().from_byte(PART).times(1)]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_shorter_than_its_length_is_completed() -> Result<()> {
    let short = Rule::on("/blobs/", Fault::LongerLength(1_000)).get().from_byte(PART).times(1);
    survives(vec![short]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_is_noticed_and_fetched_again() -> Result<()> {
    survives(vec![Rule::on("/blobs/", Fault::FlipByte(PART + 12_345)).get().times(1)]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_stay_wrong_end_the_pull_and_name_the_host() -> Result<()> {
    gives_up(vec![Rule::on("/blobs/", Fault::FlipByte(PART + 12_345)).get()]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_away_from_http_is_refused() -> Result<()> {
    for target in ["file:///etc/passwd", "ftp://127.0.0.1/x"] {
        let redirect = Rule::on("/blobs/", Fault::Redirect(target.to_owned()));
        gives_up(vec![redirect]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forbidden_or_not_there_is_not_asked_for_for_ever() -> Result<()> {
    for status in [403, 404] {
        gives_up(vec![Rule::on("/manifests/", Fault::Status(status, None))]).await?;
    }
    Ok(())
}

/// The pushed manifest with its model layer changed.
fn with_layer(manifest: &[u8], change: impl Fn(&mut Value)) -> Result<Vec<u8>> {
    let mut manifest: Value = serde_json::from_slice(manifest)?;
    change(&mut manifest["layers"][0]);
    Ok(serde_json::to_vec(&manifest)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_lies_is_found_out() -> Result<()> {
    let bench = Bench::new().await?;
    let node = Options::default().without_model().start()?;
    let size = bench.pushed.layers[0].size;
    let hundred_tb = 100_000_000_000_000_u64;
    let lies: [(&str, Value, Value); 7] = [
        ("an empty model", bench.digest.clone().into(), 0.into()),
        ("too small", bench.digest.clone().into(), (size - 1).into()),
        ("too large", bench.digest.clone().into(), (size + 1).into()),
        ("100 TB", bench.digest.clone().into(), hundred_tb.into()),
        ("less than nothing", bench.digest.clone().into(), (-1).into()),
        ("another's digest", format!("sha256:{}", "0".repeat(64)).into(), size.into()),
        ("a path as digest", "sha256:../../../../etc/passwd".into(), size.into()),
    ];
    for (lie, digest, size) in lies {
        let manifest = with_layer(&bench.pushed.manifest, |layer| {
            layer["digest"] = digest.clone();
            layer["size"] = size.clone();
        })?;
        bench.proxy.clear_rules();
        bench.proxy.rule(Rule::on("/manifests/", Fault::Body(manifest)));
        let why = pulls::refused(&node, &bench.model).await?;
        assert!(why.len() > 10, "{lie}: {why:?}");
        assert!(!pulls::has(&node, &bench.model).await?, "{lie}");
        // Each lie is a pull of its own, not the one before that goes on.
        for pull in pulls::all(&node).await? {
            let id = serde_json::json!({"id": pull.id});
            node.http.post::<Value>("/model/pull/cancel", &id).await?;
        }
    }
    bench.proxy.clear_rules();
    bench.proxy.rule(Rule::on("/manifests/", Fault::Body(b"<html>not a manifest</html>".to_vec())));
    pulls::refused(&node, &bench.model).await?;
    bench.proxy.clear_rules();
    pulls::pull(&node, &bench.model).await?;
    installed_whole(&node, &bench.model, &bench.digest).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_is_not_gguf_never_becomes_a_model() -> Result<()> {
    let bench = Bench::new().await?;
    let text = Content::Bytes(b"#!/bin/sh\necho not a model\n".repeat(50_000));
    let pushed = bench.registry.push_model("script", "latest", &[("model", text)]).await?;
    let node = Options::default().without_model().start()?;
    let why = pulls::refused(&node, &pushed.model).await?;
    assert!(why.contains("GGUF"), "{why}");
    assert!(!pulls::has(&node, &pushed.model).await?);
    let id = pulls::all(&node).await?.pop().map(|pull| pull.id);
    let id = serde_json::json!({"id": id});
    node.http.post::<Value>("/model/pull/cancel", &id).await?;
    let disk = pulls::models(&node).await?.disk;
    assert_eq!((disk.installed_bytes, disk.partial_bytes), (0, 0), "{disk:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_away_is_waited_for() -> Result<()> {
    let bench = Bench::new().await?;
    bench.proxy.rule(Rule::on("/v2/", Fault::Status(503, None)));
    let node = Options::default().without_model().start()?;
    let begun = pulls::start(&node, &bench.model).await?;
    let waiting = pulls::when(&node, &begun.id, "it waits", |pull| {
        pull.state == PullState::Retrying || pull.state.is_settled()
    })
    .await?;
    assert_eq!(waiting.state, PullState::Retrying, "{}", waiting.reason);
    assert!(waiting.retry_at_ms.is_some() && waiting.reason.contains(&bench.proxy.host));
    bench.proxy.clear_rules();
    pulls::done(&node, &begun.id).await?;
    Ok(())
}
