//! A model that says what a test tells it to: a server that speaks Ollama's API, for a node to use
//! as its daemon. It can be held in the middle of an answer.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{AbortHandle, spawn},
};

/// More pieces than any test lets pass: not held.
const FREE: usize = 1 << 20;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct ScriptedModel {
    /// For the setting `ollama_url`.
    pub url: String,
    /// The model's name.
    pub name: String,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    name: String,
    script: Mutex<VecDeque<Vec<String>>>,
    asked: Mutex<Vec<Value>>,
    /// One permit per piece of text.
    pieces: Semaphore,
}

impl ScriptedModel {
    pub async fn start(name: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            script: Mutex::default(),
            asked: Mutex::default(),
            pieces: Semaphore::new(FREE),
        });
        let app = Router::new()
            .route("/api/tags", get(tags))
            .route("/api/show", post(show))
            .route("/api/generate", post(generate))
            .route("/api/chat", post(chat))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Ok(Self { url, name: name.to_owned(), shared, task })
    }

    /// The pieces of the next answer that has none yet. Without any it says `ok`.
    pub fn say(&self, pieces: &[&str]) {
        let pieces = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        lock(&self.shared.script).push_back(pieces);
    }

    /// From now on only as many pieces pass as [`ScriptedModel::release`] lets.
    pub fn hold(&self) {
        self.shared.pieces.forget_permits(FREE);
    }

    pub fn release(&self, pieces: usize) {
        self.shared.pieces.add_permits(pieces);
    }

    /// Bodies of the requests for text so far.
    pub fn asked(&self) -> Vec<Value> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn tags(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let model = json!({"name": shared.name, "size": 1_000, "digest": "", "details": {}});
    Json(json!({ "models": [model] }))
}

async fn show() -> Json<Value> {
    let info = json!({
        "general.architecture": "llama",
        "general.parameter_count": 1_000_000,
        "llama.context_length": 8_192,
    });
    Json(json!({"capabilities": ["completion"], "model_info": info}))
}

/// Loading, which is a generation without a prompt, or one with it.
async fn generate(State(shared): State<Arc<Shared>>, Json(body): Json<Value>) -> Response {
    if body["prompt"].as_str().is_none_or(str::is_empty) {
        return Json(json!({"done": true, "done_reason": "load"})).into_response();
    }
    answer(shared, body, |text| json!({"response": text, "done": false}))
}

async fn chat(State(shared): State<Arc<Shared>>, Json(body): Json<Value>) -> Response {
    if body["messages"].as_array().is_none_or(Vec::is_empty) {
        return Json(json!({"done": true, "done_reason": "load"})).into_response();
    }
    answer(
        shared,
        body,
        |text| json!({"message": {"role": "assistant", "content": text}, "done": false}),
    )
}

fn answer(shared: Arc<Shared>, body: Value, line: fn(&str) -> Value) -> Response {
    lock(&shared.asked).push(body);
    let pieces = lock(&shared.script).pop_front().unwrap_or_else(|| vec!["ok".into()]);
    let count = pieces.len();
    let said = stream::iter(pieces).then(move |piece| {
        let shared = Arc::clone(&shared);
        async move {
            if let Ok(permit) = shared.pieces.acquire().await {
                permit.forget();
            }
            line(&piece)
        }
    });
    let end = json!({
        "message": {"role": "assistant", "content": ""}, "response": "",
        "done": true, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": count,
        "prompt_eval_duration": 1_000_000, "eval_duration": 1_000_000,
    });
    let lines = said.chain(stream::iter([end]));
    Body::from_stream(lines.map(|line| Ok::<_, std::convert::Infallible>(format!("{line}\n"))))
        .into_response()
}
