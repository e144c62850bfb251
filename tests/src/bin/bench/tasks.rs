//! Tasks between real processes: what a peer's model costs over one's own, how many small tasks go
//! through, whether shares are fair, and whether a long queue is slower than a short one.

use std::time::{Duration, Instant};

use agent_api::tasks::TaskList;
use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use edgecoder_tests::{
    cluster::Cluster,
    http::Http,
    programs::example_module,
    tasks::{sees_model, submit, with_demo},
};
use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use serde_json::{Value, json};

use super::{Row, percentile};

/// Requests of one submitter under way at the same time.
const AT_ONCE: usize = 32;
/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// How exactly a moment is seen.
const POLL: Duration = Duration::from_millis(10);

pub(super) async fn measure(quick: bool) -> Result<Vec<Row>> {
    let mut rows = routing(if quick { 20 } else { 300 }).await?;
    rows.push(throughput(if quick { 100 } else { 2_000 }).await?);
    rows.extend(fairness(if quick { 60 } else { 400 }).await?);
    rows.extend(queue(if quick { 2_000 } else { 100_000 }).await?);
    Ok(rows)
}

/// One answer: seconds until its first words, and until its end.
async fn answer(http: &Http, model: &str, tokens: u32) -> Result<(f64, f64)> {
    let body = json!({
        "model": model, "temperature": 0, "max_tokens": tokens, "stream": true,
        "messages": [{"role": "user", "content": "Write a function that sorts a list"}],
    });
    let begun = Instant::now();
    let mut stream = http.stream("/v1/chat/completions", &body).await?;
    let mut first = None;
    while let Some(data) = stream.next().await {
        let data = data?;
        ensure!(!data.contains("\"error\""), "{data}");
        let chunk: Value = serde_json::from_str(&data).unwrap_or_default();
        let text = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        if !text.is_empty() {
            first.get_or_insert_with(|| begun.elapsed().as_secs_f64());
        }
    }
    Ok((first.context("no text came")?, begun.elapsed().as_secs_f64()))
}

/// The same requests to the node that has the model and to one that has not, in turn.
async fn routing(rounds: usize) -> Result<Vec<Row>> {
    let cluster = Cluster::started(2, |n, options| match n {
        0 => options,
        _ => with_demo("worker"),
    })
    .await?;
    cluster.form().await?;
    let model = cluster.node(1).model().await?;
    sees_model(&cluster, 0, 1, &model).await?;
    let (routed, direct) = (cluster.http(0), cluster.http(1));
    for http in [routed, direct] {
        answer(http, &model, 8).await?;
    }
    let mut firsts = Vec::new();
    for round in 0..rounds {
        // Who goes first is slower or faster for reasons of its own.
        let (a, b) = if round % 2 == 0 { (routed, direct) } else { (direct, routed) };
        let (x, y) = (answer(a, &model, 1).await?.0, answer(b, &model, 1).await?.0);
        let (routed, direct) = if round % 2 == 0 { (x, y) } else { (y, x) };
        firsts.push((routed - direct) * 1_000.0);
    }
    firsts.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&firsts, 0.5), percentile(&firsts, 0.99));
    let mut per_token = Vec::new();
    for _ in 0..(rounds / 10).max(5) {
        let (first, end) = answer(routed, &model, 256).await?;
        let (own_first, own_end) = answer(direct, &model, 256).await?;
        per_token.push((end - first) / (own_end - own_first));
    }
    per_token.sort_by(f64::total_cmp);
    let ratio = percentile(&per_token, 0.5);
    Ok(vec![
        Row {
            what: format!(
                "first token through a peer, over the same request to that peer, {rounds} pairs"
            ),
            measured: format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
            bound: "p50 under 5 ms, p99 under 20 ms",
            met: Some(p50 < 5.0 && p99 < 20.0),
        },
        Row {
            what: format!(
                "256 tokens through a peer over the peer itself, median of {}",
                per_token.len()
            ),
            measured: format!("{ratio:.3}"),
            bound: "under 1.02",
            met: Some(ratio < 1.02),
        },
    ])
}

fn wasm(module: &[u8]) -> Value {
    let module = STANDARD.encode(module);
    json!({"kind": "wasm", "input": {"module": module, "input_text": "x"}})
}

fn noop() -> Result<Value> {
    Ok(wasm(&std::fs::read(example_module("noop"))?))
}

/// Counts to three million: some milliseconds, so that a worker that does one at a time is what its
/// submitters wait for.
const COUNTING: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64) (local $left i32)
    (local.set $left (i32.const 3000000))
    (loop $on
      (br_if $on (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.const 0)))"#;

async fn submit_many(http: &Http, task: &Value, count: usize) -> Result<()> {
    stream::iter(0..count)
        .map(|_| submit(http, task))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn ended(http: &Http) -> Result<u32> {
    let list: TaskList = http.get("/tasks?role=asked&limit=1").await?;
    ensure!(list.counts.failed == 0, "{:?}", list.counts);
    Ok(list.counts.done)
}

async fn until_ended(http: &Http, count: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while ended(http).await? < count {
        ensure!(Instant::now() < deadline, "{count} tasks are not done in time");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Every node submits, every node works.
async fn throughput(each: usize) -> Result<Row> {
    let cluster = Cluster::of(5).await?;
    let task = noop()?;
    // The first ones of each pair of nodes are checked against another node.
    try_join_all((0..5).map(|n| submit_many(cluster.http(n), &task, 60))).await?;
    for n in 0..5 {
        until_ended(cluster.http(n), 60).await?;
    }
    let begun = Instant::now();
    try_join_all((0..5).map(|n| submit_many(cluster.http(n), &task, each))).await?;
    let total = u32::try_from(each + 60)?;
    for n in 0..5 {
        until_ended(cluster.http(n), total).await?;
    }
    let rate = (5 * each) as f64 / begun.elapsed().as_secs_f64();
    Ok(Row {
        what: format!(
            "{} no-op wasm tasks over 5 processes, submitted over HTTP, durable, to the end",
            5 * each
        ),
        measured: format!("{rate:.0} tasks/s"),
        bound: "1,000 tasks/s or more",
        met: Some(rate >= 1_000.0),
    })
}

async fn drain(nodes: [&Http; 2], on: bool) -> Result<()> {
    let ask = json!({ "on": on });
    try_join_all(nodes.map(|http| http.post::<Value>("/orchestration/drain", &ask))).await?;
    Ok(())
}

/// Two nodes submit more than a third one can do.
async fn fairness(each: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (weight, name) in [(10_u32, "1:1"), (30, "3:1")] {
        let cluster = Cluster::of(3).await?;
        let worker = cluster.id(2);
        let weights = json!({cluster.id(0).0: weight, cluster.id(1).0: 10});
        let settings = json!({"tasks": {"concurrency": 1, "waiting": 1_000, "per_peer": 500, "weights": weights}});
        cluster.http(2).patch::<Value>("/settings", &settings).await?;
        let mut task = wasm(&wat::parse_str(COUNTING)?);
        task["node"] = json!(worker.0);
        // Both begin at the same moment, with everything submitted.
        let submitters = [cluster.http(0), cluster.http(1)];
        drain(submitters, true).await?;
        try_join_all(submitters.map(|http| submit_many(http, &task, each))).await?;
        drain(submitters, false).await?;
        // From when both are served until the first is nearly through: one begins some time before
        // the other, and while both wait, what they get are their shares.
        for http in submitters {
            until_ended(http, u32::try_from(each / 10)?).await?;
        }
        let before = (ended(submitters[0]).await?, ended(submitters[1]).await?);
        until_ended(submitters[0], u32::try_from(each * 3 / 4)?).await?;
        let a = ended(submitters[0]).await? - before.0;
        let b = ended(submitters[1]).await? - before.1;
        let ratio = f64::from(a) / f64::from(b.max(1));
        let wanted = f64::from(weight) / 10.0;
        rows.push(Row {
            what: format!(
                "two submitters with weights {name} saturate one worker: {a} and {b} tasks done"
            ),
            measured: format!("{ratio:.2}"),
            bound: "within 10 %",
            met: Some((ratio / wanted - 1.0).abs() < 0.1),
        });
    }
    Ok(rows)
}

/// The same work with a thousand tasks waiting and with a hundred times as many.
async fn queue(long: usize) -> Result<Vec<Row>> {
    const SHORT: usize = 1_000;
    const MEASURED: usize = 1_000;
    let cluster = Cluster::started(1, |_, options| options).await?;
    let http = cluster.http(0);
    let task = noop()?;
    let (mut submits, mut claims) = (Vec::new(), Vec::new());
    let mut before = 0;
    for waiting in [SHORT, long] {
        http.post::<Value>("/orchestration/drain", &json!({"on": true})).await?;
        submit_many(http, &task, waiting).await?;
        let begun = Instant::now();
        submit_many(http, &task, MEASURED).await?;
        submits.push(begun.elapsed().as_secs_f64());
        http.post::<Value>("/orchestration/drain", &json!({"on": false})).await?;
        let begun = Instant::now();
        until_ended(http, u32::try_from(before + MEASURED)?).await?;
        claims.push(begun.elapsed().as_secs_f64());
        before += waiting + MEASURED;
        if waiting == SHORT {
            until_ended(http, u32::try_from(before)?).await?;
        }
    }
    let row = |what: &str, times: &[f64]| {
        let ratio = times[1] / times[0];
        Row {
            what: format!("{what} {MEASURED} tasks with {long} waiting over the same with {SHORT}"),
            measured: format!("{ratio:.2} ({:.2} s, {:.2} s)", times[1], times[0]),
            bound: "under 1.5",
            met: Some(ratio < 1.5),
        }
    };
    Ok(vec![row("submitting", &submits), row("claiming and doing", &claims)])
}
