//! The runner dies, or the model file is bad: the node never falls, and says what happened.

use std::{fs::File, io::Write as _};

use agent_api::models::ModelState;
use anyhow::Result;
use edgecoder_tests::{
    node::{Options, eventually, signal},
    programs, skipped,
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

#[tokio::test]
async fn killing_the_runner_ends_requests_clearly_and_it_comes_back() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    // Stopped, so that the request is surely in flight when the runner dies.
    signal(runner, "STOP")?;
    let body = json!({"model": model, "prompt": "def ", "max_tokens": 50});
    let request = {
        let http = node.http.clone();
        let body = body.clone();
        tokio::spawn(async move { http.try_post("/v1/completions", &body).await })
    };
    node.status_when("the request runs", |status| status.requests.running == 1).await?;
    signal(runner, "KILL")?;
    let (status, error) = request.await??;
    assert_eq!(status, 503);
    assert_eq!(error["error"]["code"], "runner_lost", "{error}");
    assert!(
        error["error"]["message"].as_str().is_some_and(|m| m.contains("send the request again"))
    );

    let back = node
        .status_when("the runner is back", |status| status.model.state == ModelState::Ready)
        .await?;
    assert_ne!(back.model.runner_pid, Some(runner));
    assert_eq!(back.model.runner_crashes, 1);
    node.http.post::<Value>("/v1/completions", &body).await?;
    Ok(())
}

#[tokio::test]
async fn a_stream_that_loses_its_runner_ends_with_an_error_event() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "go"}], "max_tokens": 900, "temperature": 1.9});
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    // The demo model ends by itself quickly; some try catches an answer half-way.
    for _ in 0..50 {
        let mut events = node.http.stream("/v1/chat/completions", &body).await?;
        events.next().await.expect("a first chunk")?;
        signal(runner, "STOP")?;
        if node.status().await?.requests.running == 0 {
            signal(runner, "CONT")?;
            continue;
        }
        signal(runner, "KILL")?;
        let mut last = String::new();
        while let Some(data) = events.next().await {
            last = data?;
        }
        assert!(last.contains("runner_lost"), "{last}");
        return Ok(());
    }
    panic!("no answer was caught half-way")
}

#[tokio::test]
async fn requests_wait_for_a_runner_that_is_coming_back() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    signal(runner, "KILL")?;
    node.status_when("the loss was noticed", |status| status.model.runner_crashes == 1).await?;
    let body = json!({"model": model, "prompt": "def ", "max_tokens": 3});
    node.http.post::<Value>("/v1/completions", &body).await?;
    Ok(())
}

/// Starts a node with this file as the owner's only model; gives the reason of the refusal.
async fn refusal(bytes: &[u8], sparse_size: Option<u64>) -> Result<String> {
    let options = Options::default().without_model().file("models/bad.gguf", bytes);
    if let Some(size) = sparse_size {
        let path = options.data_dir().join("models/bad.gguf");
        File::options().write(true).open(path)?.set_len(size)?;
    }
    let node = options.start()?;
    let list: agent_api::models::ModelList = node.http.get("/model/list").await?;
    if let Some(problem) = &list.models[0].problem {
        let (status, body) = node.http.try_post("/model/swap", &json!({"model": "bad"})).await?;
        assert_eq!(status, 400, "{body}");
        assert_eq!(node.status().await?.model.runner_crashes, 0);
        return Ok(problem.clone());
    }
    let status = node
        .status_when("the model was refused", |status| status.model.state == ModelState::Failed)
        .await?;
    assert_eq!(status.model.runner_crashes, 0, "nothing crashed");
    let (code, body) = node.http.try_post("/v1/completions", &json!({"prompt": "x"})).await?;
    assert_eq!(code, 503, "{body}");
    Ok(status.model.reason)
}

#[tokio::test]
async fn bad_model_files_are_refused_with_the_reason() -> Result<()> {
    let demo = std::fs::read(programs::demo_model())?;
    let truncated = refusal(&demo[..demo.len() / 2], None).await?;
    assert!(truncated.contains("cut off"), "{truncated}");
    let other = refusal(b"PK\x03\x04 this is a zip file, not a model", None).await?;
    assert!(other.contains("not a GGUF"), "{other}");
    let empty = refusal(b"", None).await?;
    assert!(empty.contains("not a GGUF"), "{empty}");
    Ok(())
}

/// The head of a model with one tensor of `elements` numbers: honest, in a file that holds nothing
/// of it.
pub(crate) fn head_of(elements: u64) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(b"GGUF\x03\0\0\0");
    head.extend_from_slice(&1_u64.to_le_bytes());
    head.extend_from_slice(&1_u64.to_le_bytes());
    let text = |head: &mut Vec<u8>, text: &str| {
        head.extend_from_slice(&(text.len() as u64).to_le_bytes());
        let _ = head.write_all(text.as_bytes());
    };
    text(&mut head, "general.architecture");
    head.extend_from_slice(&8_u32.to_le_bytes());
    text(&mut head, "llama");
    text(&mut head, "token_embd.weight");
    head.extend_from_slice(&1_u32.to_le_bytes());
    head.extend_from_slice(&elements.to_le_bytes());
    // F16, at the start of the data.
    head.extend_from_slice(&1_u32.to_le_bytes());
    head.extend_from_slice(&0_u64.to_le_bytes());
    head
}

#[tokio::test]
async fn a_model_larger_than_memory_is_refused_before_it_is_read() -> Result<()> {
    // A tensor of 16 TB in a sparse file: the head is honest, the disk holds nothing of it.
    let elements: u64 = 1 << 43;
    let reason = match refusal(&head_of(elements), Some(elements * 2 + 4096)).await {
        Err(e) if e.to_string().contains("File too large") => {
            skipped("this file system has no sparse files of 16 TB");
            return Ok(());
        }
        reason => reason?,
    };
    assert!(reason.contains("memory") && reason.contains("smaller model"), "{reason}");
    Ok(())
}

#[tokio::test]
async fn a_missing_or_broken_runner_leaves_a_node_that_says_so() -> Result<()> {
    let node = Options::default().runner("/nonexistent/edgecoder-runner".into()).start()?;
    let down = |status: &agent_api::Status| {
        matches!(status.model.state, ModelState::Failed | ModelState::Restarting)
    };
    let status = node.status_when("the runner is missed", down).await?;
    let reason = &status.model.reason;
    assert!(reason.contains("/nonexistent/edgecoder-runner"), "{reason}");
    let health: agent_api::node::Health = node.http.get("/health/runtime").await?;
    assert_eq!(health.serving.state, agent_api::node::ServingState::Degraded);

    // A program that ends at once, again and again.
    let node = Options::default().runner("/bin/false".into()).start()?;
    let again = |status: &agent_api::Status| {
        status.model.runner_crashes >= 2 && status.model.retry_at_ms.is_some()
    };
    node.status_when("it was tried again and will be once more", again).await?;
    Ok(())
}

#[tokio::test]
async fn requests_queued_before_a_pause_are_still_answered() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    signal(runner, "STOP")?;
    let body = json!({"model": model, "prompt": "def ", "max_tokens": 4});
    let requests: Vec<_> = (0..7)
        .map(|_| {
            let (http, body) = (node.http.clone(), body.clone());
            tokio::spawn(async move { http.try_post("/v1/completions", &body).await })
        })
        .collect();
    node.status_when("four run and three wait", |status| status.requests.queued == 3).await?;
    node.http.post::<Value>("/orchestration/pause", &json!({})).await?;
    signal(runner, "CONT")?;
    for request in requests {
        let (status, body) = request.await??;
        assert_eq!(status, 200, "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_the_request_in_flight_finish() -> Result<()> {
    let mut node = Options::default().start()?;
    let model = node.model().await?;
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    signal(runner, "STOP")?;
    let body = json!({"model": model, "prompt": "def ", "max_tokens": 4});
    let http = node.http.clone();
    let request = tokio::spawn(async move { http.try_post("/v1/completions", &body).await });
    node.status_when("the request runs", |status| status.requests.running == 1).await?;
    node.terminate()?;
    let draining = |status: &agent_api::Status| {
        status.serving.state == agent_api::node::ServingState::Stopping
    };
    node.status_when("the node drains", draining).await?;
    let (status, body) = node.http.try_post("/v1/completions", &json!({"prompt": "x"})).await?;
    assert_eq!(status, 503, "new work is refused: {body}");
    signal(runner, "CONT")?;
    let (status, body) = request.await??;
    assert_eq!(status, 200, "{body}");
    assert_eq!(node.wait()?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_is_cancelled_in_the_queue_and_in_the_runner() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    signal(runner, "STOP")?;
    let body = json!({"model": model, "prompt": "def ", "max_tokens": 900, "temperature": 1.9});
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (http, body) = (node.http.clone(), body.clone());
            tokio::spawn(async move { http.try_post("/v1/completions", &body).await })
        })
        .collect();
    node.status_when("four run and two wait", |status| status.requests.queued == 2).await?;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    node.status_when("nobody waits any more", |status| status.requests.queued == 0).await?;
    signal(runner, "CONT")?;
    node.status_when("nothing runs", |status| status.requests.running == 0).await?;
    eventually("all six are cancelled, none ran to its end", || async {
        let activity: Result<agent_api::node::ActivityList> = node.http.get("/activity").await;
        let Ok(activity) = activity else { return false };
        activity.items.iter().filter(|line| line.text == "Completion stopped").count() == 6
    })
    .await
}
