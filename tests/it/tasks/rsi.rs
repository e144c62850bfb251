//! The worked example: an indicator over market bars, computed by three nodes that have to agree,
//! every five minutes, once per bar, delivered to a webhook that is down at first.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use agent_api::tasks::{Outbox, Schedule, Submitted, WasmOutput};
use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use edgecoder_tests::{
    cluster::Cluster,
    tasks::{bars, details, done, output, rsi_task},
};
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct Receiver {
    calls: Arc<AtomicU32>,
    got: Arc<Mutex<Vec<(String, Value)>>>,
}

/// Fails the first time, as webhooks do.
async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> StatusCode {
    if receiver.calls.fetch_add(1, Ordering::Relaxed) == 0 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let header =
        |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    assert!(header("x-edgecoder-signature").starts_with("sha256="));
    receiver.got.lock().expect("unpoisoned").push((header("idempotency-key"), body));
    StatusCode::OK
}

#[tokio::test]
async fn an_indicator_is_agreed_by_three_nodes_and_delivered_once_per_bar() -> Result<()> {
    let receiver = Receiver::default();
    let app = Router::new().route("/signal", post(receive)).with_state(receiver.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/signal", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let cluster = Cluster::of(4).await?;
    let http = cluster.http(0);
    let mut task = rsi_task(&bars(7, 60))?;
    task["replicas"] = json!(3);
    task["label"] = json!("RSI of bar {{time}}");
    task["webhook"] = json!({"url": url, "secret": "a secret of ours"});
    let schedule: Schedule = http
        .post(
            "/schedules",
            &json!({"name": "RSI", "cron": "*/5 * * * *", "zone": "UTC", "task": task}),
        )
        .await?;
    let next = schedule.next_ms.context("a next run")?;
    assert_eq!(next % 300_000, 0, "on the five minutes");
    assert!(!schedule.words.is_empty());

    // The owner does not wait for the clock.
    let run = format!("/schedules/{}/run", schedule.id);
    let first: Submitted = http.post(&run, &json!({})).await?;
    let task = done(http, &first.id).await?;
    assert!(task.label.is_some_and(|label| label.contains("20") && !label.contains("{{")));
    let said = output(http, &first.id).await?.output.context("an output")?;
    let said: WasmOutput = serde_json::from_value(said)?;
    assert_eq!((said.compared, said.agreed), (3, 3));
    let signal: Value = serde_json::from_str(said.output_text.as_deref().unwrap_or_default())?;
    assert!(["BUY", "SELL", "NEUTRAL"].contains(&signal["signal"].as_str().unwrap_or_default()));
    assert!(signal["confidence"].as_f64().is_some_and(|c| (0.0..=1.0).contains(&c)));
    let known = details(http, &first.id).await?;
    let nodes: std::collections::BTreeSet<_> = known.attempts.iter().map(|a| &a.node).collect();
    assert_eq!(nodes.len(), 3, "three different nodes: {:#?}", known.attempts);

    // It was refused once, and comes all the same; `retry` saves the wait for the backoff.
    let outbox: Outbox = http.get("/outbox").await?;
    let delivery = outbox.deliveries.first().context("a delivery")?.id.clone();
    let arrived = async || {
        if receiver.calls.load(Ordering::Relaxed) == 0 {
            return Ok(false);
        }
        let got = receiver.got.lock().expect("unpoisoned").len();
        if got == 0 {
            let _ = http.try_post(&format!("/outbox/{delivery}/retry"), &json!({})).await?;
        }
        Ok(got > 0)
    };
    cluster.eventually("the result is delivered", arrived).await?;
    let got = receiver.got.lock().expect("unpoisoned").clone();
    assert_eq!(got[0].0, delivery);
    assert_eq!(got[0].1["task"]["id"], json!(first.id));
    assert_eq!(got[0].1["output"]["output_text"], json!(said.output_text));
    Ok(())
}
