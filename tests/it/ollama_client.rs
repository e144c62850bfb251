//! Ollama's official Python client against a running node (`ollama_client.py`), and what no client
//! of theirs would send.

use anyhow::Result;
use edgecoder_tests::{
    http::client,
    node::{Options, signal},
    programs,
    registry::{Content, Registry},
};
use serde_json::{Value, json};

use crate::python_client::{add_demo_with_template, run};

#[tokio::test]
async fn the_official_ollama_client_works() -> Result<()> {
    let registry = Registry::start().await?;
    let layers = [
        ("model", Content::File(programs::demo_model())),
        ("params", Content::Bytes(br#"{"temperature": 0.1}"#.to_vec())),
        ("license", Content::Bytes(b"Apache-2.0".to_vec())),
    ];
    let pushed = registry.push_model("demo", "4m", &layers).await?;
    let node = Options::default().start()?;
    let model = node.model().await?;
    run("ollama_client.py", &[&node.http.url, &model, &pushed.model])
}

#[tokio::test]
async fn the_official_ollama_client_calls_tools() -> Result<()> {
    let Some(python) = programs::python() else { return run("ollama_tools.py", &[]) };
    let options = Options::default().without_model();
    add_demo_with_template(&python, &options, "tools_template_llama.jinja")?;
    let node = options.start()?;
    let model = node.model().await?;
    run("ollama_tools.py", &[&node.http.url, &model])
}

#[tokio::test]
async fn ollama_errors_have_their_own_shape() -> Result<()> {
    let node = Options::default().without_model().start()?;
    for (method, path, body, expected, words) in [
        ("POST", "/api/chat", "", 400, "missing request body"),
        ("POST", "/api/chat", "{}", 400, "model is required"),
        ("POST", "/api/chat", "{\"model\": 5}", 400, "model"),
        ("POST", "/api/generate", "{\"model\": \"a\"", 400, "not valid"),
        ("POST", "/api/generate", "{\"name\": \"a\"}", 404, "model 'a' not found"),
        ("POST", "/api/show", "{\"name\": \"a\"}", 404, "model 'a' not found"),
        ("DELETE", "/api/delete", "{\"model\": \"a\"}", 404, "model 'a' not found"),
        ("POST", "/api/pull", "{}", 400, "model is required"),
        ("POST", "/api/push", "{}", 501, "does not make or upload"),
        ("POST", "/api/blobs/sha256:00", "x", 501, "does not make or upload"),
        ("GET", "/api/chat", "", 405, "not with this method"),
        ("GET", "/api/nothing", "", 404, "no such path"),
    ] {
        let response = node.http.request(method, path).body(body).send().await?;
        assert_eq!(response.status(), expected, "{method} {path} {body}");
        let answer: Value = response.json().await?;
        let message = answer["error"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{method} {path} {body}: {answer}");
    }
    let head = node.http.request("HEAD", "/api/blobs/sha256:00").send().await?;
    assert_eq!(head.status(), 501);
    Ok(())
}

#[tokio::test]
async fn an_ollama_stream_that_loses_its_runner_ends_with_an_error_line() -> Result<()> {
    let node = Options::default().start()?;
    let model = node.model().await?;
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "go"}],
        "options": {"num_predict": 900, "temperature": 1.9},
    });
    let runner = node.status().await?.model.runner_pid.expect("a runner");
    // The demo model ends by itself quickly; some try catches an answer half-way.
    for _ in 0..50 {
        let mut answer = node.http.request("POST", "/api/chat").json(&body).send().await?;
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        let mut text = answer.chunk().await?.expect("a first line").to_vec();
        signal(runner, "STOP")?;
        if node.status().await?.requests.running == 0 {
            signal(runner, "CONT")?;
            continue;
        }
        signal(runner, "KILL")?;
        while let Some(more) = answer.chunk().await? {
            text.extend_from_slice(&more);
        }
        let text = String::from_utf8(text)?;
        let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
        let error = last["error"].as_str().unwrap_or_default();
        assert!(error.contains("send the request again"), "{text}");
        return Ok(());
    }
    panic!("no answer was caught half-way")
}

#[tokio::test]
async fn other_web_pages_may_not_use_the_ollama_api() -> Result<()> {
    let node = Options::default().without_model().start()?;
    let client = client();
    let tags = format!("{}/api/tags", node.http.url);
    assert_eq!(client.get(&tags).send().await?.status(), 200, "no token on this computer");
    let foreign = client.get(&tags).header("Origin", "https://evil.example").send().await?;
    assert_eq!(foreign.status(), 403);
    let answer: Value = foreign.json().await?;
    assert!(answer["error"].as_str().is_some_and(|e| e.contains("allowed_origins")), "{answer}");
    Ok(())
}

#[tokio::test]
async fn every_ollama_path_of_the_document_is_served() -> Result<()> {
    let node = Options::default().without_model().start()?;
    let document: Value = node.http.get("/openapi.json").await?;
    let paths = document["paths"].as_object().expect("paths");
    let of_ollama: Vec<_> = paths.iter().filter(|(path, _)| path.starts_with("/api/")).collect();
    assert!(of_ollama.len() > 10);
    for (path, methods) in of_ollama {
        for method in methods.as_object().expect("methods").keys() {
            let request = node.http.request(&method.to_uppercase(), path).json(&json!({}));
            let response = request.send().await?;
            assert!(matches!(response.status().as_u16(), 200 | 400), "{method} {path}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_stream_of_a_pull_needs_a_pull() -> Result<()> {
    let node = Options::default().without_model().start()?;
    for (path, expected) in [("/model/pull/stream", 400), ("/model/pull/stream?id=none", 404)] {
        let response = node.http.request("GET", path).send().await?;
        assert_eq!(response.status(), expected, "{path}");
        let error: Value = response.json().await?;
        assert!(error["message"].is_string(), "{error}");
    }
    Ok(())
}
