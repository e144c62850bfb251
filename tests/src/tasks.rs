//! Tasks as a person submits them, and what becomes of them.

use std::time::Instant;

use agent_api::{
    TaskId,
    mesh::{AnnouncedServing, Peer},
    tasks::{Submitted, Task, TaskDetails, TaskKind, TaskList, TaskOutput, TaskState},
};
use anyhow::{Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, member},
    http::Http,
    node::{Options, POLL},
    programs::{PATIENCE, example_module},
    scripted_model::ScriptedModel,
};

/// How a member is started that has the model that ships.
pub fn with_demo(name: &str) -> Options {
    member(name, json!({})).with_model()
}

/// How a member is started whose model is scripted.
pub fn with_scripted(name: &str, model: &ScriptedModel) -> Options {
    let settings = json!({
        "version": 1,
        "node_name": name,
        "mesh": { "lan": false, "port_mapping": false },
        "ollama_url": model.url,
        "active_model": model.name,
    });
    member(name, json!({})).file("settings.json", settings.to_string().as_bytes())
}

/// `wasm`, the RSI example over these bars.
pub fn rsi_task(bars: &str) -> Result<Value> {
    let module = STANDARD.encode(std::fs::read(example_module("rsi"))?);
    Ok(json!({
        "kind": "wasm",
        "input": {"module": module, "name": "rsi 1.0", "input_text": bars},
    }))
}

/// Bars whose closes go up and down by a pattern that `seed` decides, newest last.
pub fn bars(seed: u64, count: u32) -> String {
    let mut text = String::new();
    let mut close = 100.0 + f64::from(u32::try_from(seed % 50).unwrap_or(0));
    for n in 0..count {
        let step =
            (seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(n) * 7_919) >> 33)
                % 200;
        let open = close;
        close += (f64::from(u32::try_from(step).unwrap_or(0)) - 100.0) / 50.0;
        let (high, low) = (open.max(close) + 0.5, open.min(close) - 0.5);
        text += &format!("{n},{open:.2},{high:.2},{low:.2},{close:.2},1000\n");
    }
    text
}

pub async fn submit(http: &Http, body: &Value) -> Result<TaskId> {
    let submitted: Submitted = http.post("/tasks", body).await?;
    Ok(submitted.id)
}

pub async fn details(http: &Http, id: &TaskId) -> Result<TaskDetails> {
    http.get(&format!("/tasks/{id}")).await
}

pub async fn output(http: &Http, id: &TaskId) -> Result<TaskOutput> {
    http.get(&format!("/tasks/{id}/output")).await
}

/// Waits until it holds of a task.
pub async fn until(
    http: &Http,
    id: &TaskId,
    what: &str,
    holds: impl Fn(&Task) -> bool,
) -> Result<Task> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let known = details(http, id).await?;
        if holds(&known.task) {
            return Ok(known.task);
        }
        if Instant::now() > deadline || known.task.state.is_final() {
            bail!("waited in vain: {what}. It is {known:#?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until it is done.
pub async fn done(http: &Http, id: &TaskId) -> Result<Task> {
    until(http, id, "it is done", |task| task.state == TaskState::Done).await
}

/// All tasks of a node that it asked for, newest first, over all pages.
pub async fn all(http: &Http) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    let mut path = "/tasks?role=asked&limit=500".to_owned();
    loop {
        let page: TaskList = http.get(&path).await?;
        tasks.extend(page.tasks);
        let Some(next) = page.next else { return Ok(tasks) };
        path = format!("/tasks?role=asked&limit=500&before={next}");
    }
}

/// Waits until a node knows that all its peers, which are so many, take tasks of this kind.
pub async fn peers_take(cluster: &Cluster, at: usize, kind: TaskKind, peers: usize) -> Result<()> {
    let takes =
        |peer: &Peer| peer.announcement.as_ref().is_some_and(|said| said.accepts.contains(&kind));
    let what = "the others announce that they take such tasks";
    cluster.until(at, what, |view| view.peers.iter().filter(|p| takes(p)).count() == peers).await?;
    Ok(())
}

/// The newest of a node's tasks, once there is one: what somebody waited for is written behind.
pub async fn newest(http: &Http, query: &str, what: impl Fn(&Task) -> bool) -> Result<Task> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page: TaskList = http.get(&format!("/tasks{query}")).await?;
        if let Some(task) = page.tasks.into_iter().next().filter(&what) {
            return Ok(task);
        }
        if Instant::now() > deadline {
            bail!("there is no such task in /tasks{query}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a node knows that another one has a model for it, ready to answer.
pub async fn sees_model(cluster: &Cluster, at: usize, of: usize, model: &str) -> Result<()> {
    let id = cluster.id(of);
    cluster
        .until(at, "the other's model is announced", |view| {
            let said = view.peer(&id).and_then(|peer| peer.announcement.as_ref());
            said.is_some_and(|said| {
                said.serving == AnnouncedServing::Ready
                    && said.models.iter().any(|known| known.id == model)
            })
        })
        .await?;
    Ok(())
}
