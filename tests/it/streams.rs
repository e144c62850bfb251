//! `/events`, `/metrics`, pause and the counters: what the panels and monitoring live on.

use agent_api::{
    Event,
    node::{ActivityList, ServingState},
};
use anyhow::Result;
use edgecoder_tests::node::{Options, eventually};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

#[tokio::test]
async fn events_begin_with_a_snapshot_and_then_tell_what_happens() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let mut events = node.http.events().await?;
    let first = events.next().await.expect("an event")?;
    let Event::Snapshot { status, activity, settings, .. } = first else { panic!("{first:?}") };
    assert_eq!(status.node.node_id.0, node.node_id);
    assert!(!activity.is_empty() && settings.api_key.is_none());

    let ask = json!({"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5});
    node.http.post::<Value>("/v1/chat/completions", &ask).await?;
    loop {
        match events.next().await.expect("an event")? {
            Event::Activity { item } if item.text.starts_with("Chat done") => break,
            _ => {}
        }
    }
    loop {
        if let Event::Status { status } = events.next().await.expect("an event")?
            && status.requests.done_today == 1
        {
            assert_eq!(status.requests.tokens_today, 5);
            break;
        }
    }
    node.http.patch::<Value>("/settings", &json!({"node_name": "renamed"})).await?;
    loop {
        if let Event::Settings { settings } = events.next().await.expect("an event")? {
            assert_eq!(settings.node_name, "renamed");
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_stream_ends_when_the_node_stops() -> Result<()> {
    let mut node = Options::default().without_model().start()?;
    let mut events = node.http.events().await?;
    assert!(matches!(events.next().await, Some(Ok(Event::Snapshot { .. }))));
    node.terminate()?;
    while events.next().await.is_some_and(|event| event.is_ok()) {}
    assert_eq!(node.wait()?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn metrics_count_what_was_done() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let ask = json!({"model": model, "prompt": "fn main", "max_tokens": 7, "temperature": 0});
    let answer: Value = node.http.post("/v1/completions", &ask).await?;
    let tokens = answer["usage"]["completion_tokens"].as_u64().expect("usage");
    node.status_when("the request is counted", |status| status.requests.done_today == 1).await?;
    let text = node.http.request("GET", "/metrics").send().await?.text().await?;
    for line in [
        "edgecoder_requests_total{kind=\"completion\",outcome=\"done\"} 1".to_owned(),
        format!("edgecoder_tokens_total{{direction=\"completion\"}} {tokens}"),
        "edgecoder_model_ready 1".to_owned(),
        "edgecoder_http_requests_total{route=\"/v1/completions\",status=\"200\"} 1".to_owned(),
        "# EOF".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("fn main"), "never a prompt");
    Ok(())
}

#[tokio::test]
async fn pausing_frees_the_model_and_own_requests_still_work() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let serving: agent_api::node::Serving =
        node.http.post("/orchestration/pause", &json!({"for_s": 3600})).await?;
    assert_eq!(serving.state, ServingState::Paused);
    assert!(serving.until_ms.is_some());
    node.status_when("the model is freed", |status| status.model.loaded.is_none()).await?;

    let ask = json!({"model": model, "prompt": "x", "max_tokens": 2});
    node.http.post::<Value>("/v1/completions", &ask).await?;
    let status = node.status().await?;
    assert_eq!(status.serving.state, ServingState::Paused, "asking does not resume");

    node.http.post::<Value>("/orchestration/resume", &json!({})).await?;
    node.status_when("idle again", |status| status.serving.state == ServingState::Idle).await?;
    Ok(())
}

#[tokio::test]
async fn a_short_pause_ends_by_itself() -> Result<()> {
    let node = Options::default().without_model().start()?;
    node.http.post::<Value>("/orchestration/pause", &json!({"for_s": 1})).await?;
    node.status_when("resumed", |status| status.serving.state != ServingState::Paused).await?;
    eventually("the feed says so", || async {
        let activity: Result<ActivityList> = node.http.get("/activity?limit=5").await;
        activity.is_ok_and(|activity| activity.items.iter().any(|line| line.text == "Resumed"))
    })
    .await
}
