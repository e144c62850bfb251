//! Many small tasks over several nodes, which come and go meanwhile.

use std::collections::BTreeMap;

use agent_api::tasks::{TaskEvents, TaskKind, TaskState, WasmOutput};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::Cluster,
    tasks::{all, bars, done, output, peers_take, rsi_task, submit},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

#[path = "../../examples/rsi/indicator.rs"]
#[allow(
    dead_code,
    clippy::std_instead_of_core,
    unreachable_pub,
    reason = "an example's own source"
)]
mod indicator;

/// Submitted at the same time.
const AT_ONCE: usize = 16;

#[tokio::test]
async fn work_is_spread_and_every_task_is_done_once_while_nodes_come_and_go() -> Result<()> {
    const TASKS: u64 = 150;
    let mut cluster = Cluster::of(5).await?;
    let http = cluster.http(0).clone();
    peers_take(&cluster, 0, TaskKind::Wasm, 4).await?;
    // All of it waits before any of it begins: more than one node can do at once.
    let drain =
        async |on: bool| http.post::<Value>("/orchestration/drain", &json!({"on": on})).await;
    drain(true).await?;
    let submitting = stream::iter(0..TASKS).map(|n| {
        let http = http.clone();
        async move { submit(&http, &rsi_task(&bars(n, 40))?).await }
    });
    let ids: Vec<_> = submitting.buffered(AT_ONCE).try_collect().await?;
    drain(false).await?;
    // One dies with what it was working on, one says goodbye, one joins.
    cluster.kill(1)?;
    cluster.add_with_ticket(0).await?;
    cluster.stop(2)?;

    let mut workers = BTreeMap::new();
    for (n, id) in ids.iter().enumerate() {
        let task = done(&http, id).await.with_context(|| format!("task {n}"))?;
        *workers.entry(task.worker_name.unwrap_or_default()).or_insert(0) += 1;
        let said = output(&http, id).await?.output.context("an output")?;
        let said: WasmOutput = serde_json::from_value(said)?;
        let mut expected = String::new();
        indicator::answer(&bars(n as u64, 40), &mut expected)?;
        assert_eq!(said.output_text.as_deref(), Some(expected.as_str()), "task {n}");
        let events: TaskEvents = http.get(&format!("/tasks/{id}/events")).await?;
        let settled = events.events.iter().filter(|event| event.state == TaskState::Done).count();
        assert_eq!(settled, 1, "task {n} settles once: {events:#?}");
    }
    assert_eq!(all(&http).await?.len() as u64, TASKS);
    assert!(workers.len() >= 3, "the work is spread: {workers:?}");
    Ok(())
}
