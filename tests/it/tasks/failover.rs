//! A worker that dies in the middle of an answer is not noticed by whoever reads it.

use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::Cluster,
    tasks::{sees_model, with_demo},
};
use futures_util::{StreamExt as _, future::try_join_all};
use serde_json::{Value, json};

const TOKENS: u32 = 120;

fn story(model: &str) -> Value {
    json!({
        "model": model, "temperature": 0, "max_tokens": TOKENS, "stream": true,
        "messages": [{"role": "user", "content": "Write a function that sorts a list"}],
    })
}

fn text_of(data: &str) -> String {
    let chunk: Value = serde_json::from_str(data).unwrap_or_default();
    chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
}

/// Reads an answer; after `pieces` pieces of it, `then` is done.
async fn read(
    cluster: &mut Cluster,
    model: &str,
    pieces: usize,
    then: impl FnOnce(&mut Cluster, &str) -> Result<()>,
) -> Result<String> {
    let request = cluster.http(0).request("POST", "/v1/chat/completions").json(&story(model));
    let response = request.send().await?.error_for_status()?;
    let worker = response.headers().get("x-edgecoder-node").context("a node")?.to_str()?.to_owned();
    let mut then = Some(then);
    let mut events = {
        use eventsource_stream::Eventsource as _;
        response.bytes_stream().eventsource()
    };
    let (mut text, mut seen) = (String::new(), 0);
    let mut finished = false;
    while let Some(event) = events.next().await {
        let data = event?.data;
        finished |= data == "[DONE]";
        anyhow::ensure!(!data.contains("\"error\""), "after {seen} pieces: {data}");
        let more = text_of(&data);
        seen += usize::from(!more.is_empty());
        text += &more;
        if seen >= pieces
            && let Some(then) = then.take()
        {
            then(cluster, &worker)?;
        }
    }
    anyhow::ensure!(finished, "the stream was cut after {seen} pieces");
    Ok(text)
}

async fn kill_workers(times: usize) -> Result<()> {
    let mut cluster = Cluster::started(3, |n, options| match n {
        0 => options,
        _ => with_demo(&format!("node-{n}")),
    })
    .await?;
    cluster.form().await?;
    let model = cluster.node(1).model().await?;
    cluster.node(2).model().await?;
    for of in [1, 2] {
        sees_model(&cluster, 0, of, &model).await?;
    }
    let whole = read(&mut cluster, &model, usize::MAX, |_, _| Ok(())).await?;
    for round in 0..times {
        let mut killed = 0;
        let text = read(&mut cluster, &model, 3 + round % 20, |cluster, worker| {
            killed = if cluster.id(1).0 == worker { 1 } else { 2 };
            cluster.kill(killed)
        })
        .await
        .with_context(|| format!("round {round}"))?;
        assert_eq!(text, whole, "round {round}: the answer goes on where it was cut");
        assert_ne!(killed, 0, "a worker was killed");
        cluster.restart(killed).await?;
        cluster.node(killed).model().await?;
        cluster.until_whole().await?;
        sees_model(&cluster, 0, killed, &model).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_goes_on_when_its_worker_is_killed() -> Result<()> {
    kill_workers(2).await
}

/// Most of the time is waiting for a mesh to be whole again: several go through it side by side.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a hundred restarts take minutes: cargo xtask test --long"]
async fn a_hundred_killed_workers_leave_a_hundred_whole_answers() -> Result<()> {
    try_join_all((0..5).map(|_| kill_workers(20))).await?;
    Ok(())
}
