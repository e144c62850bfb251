//! Against a daemon made for the test: the same handle, queue and pieces as with a runner.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_api::{
    models::{Capability, ModelSource},
    runner::{Constraint, FinishReason, Generate, Prompt, Sampling, TextInput},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::OllamaDaemon;
use crate::{
    inference::{
        Answer, Inference, InferenceError, KeepAlive, LoadOptions, Notable, Piece, Policy,
        SubmitOptions, Target, Work,
        tools::{Part, ToolFormat, ToolReader},
    },
    storage::RequestKind,
};

/// What the daemon answers at a path, and what it was asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<BTreeMap<&'static str, Scripted>>>,
    asked: Arc<Mutex<Vec<(&'static str, Value)>>>,
}

#[derive(Clone)]
enum Scripted {
    Lines(Vec<String>),
    /// Lines, then silence with the connection open.
    Stall(Vec<String>),
    Status(u16, Value),
}

impl Script {
    fn answer(&self, path: &'static str, scripted: Scripted) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(path, scripted);
    }

    fn lines(&self, path: &'static str, lines: &[Value]) {
        self.answer(path, Scripted::Lines(lines.iter().map(Value::to_string).collect()));
    }

    fn asked(&self, path: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|(at, _)| *at == path).map(|(_, body)| body.clone()).collect()
    }

    fn reply(&self, path: &'static str, body: &Bytes) -> Response {
        let value = serde_json::from_slice(body).unwrap_or(Value::Null);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push((path, value));
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let body = |lines: Vec<String>| {
            stream::iter(lines).map(|line| Ok::<_, Infallible>(Bytes::from(line + "\n")))
        };
        match answers.get(path).cloned() {
            Some(Scripted::Lines(lines)) => Body::from_stream(body(lines)).into_response(),
            Some(Scripted::Stall(lines)) => {
                Body::from_stream(body(lines).chain(stream::pending())).into_response()
            }
            Some(Scripted::Status(status, value)) => {
                let status = StatusCode::from_u16(status).expect("a status");
                (status, Json(value)).into_response()
            }
            None => (StatusCode::NOT_FOUND, Json(json!({"error": "not scripted"}))).into_response(),
        }
    }
}

/// Starts the daemon; gives its url.
async fn daemon(script: &Script) -> String {
    let at = |path: &'static str| {
        move |State(script): State<Script>, body: Bytes| async move { script.reply(path, &body) }
    };
    let show = json!({
        "capabilities": ["completion", "tools", "thinking"],
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": 1_000_000,
            "llama.context_length": 8192,
        },
    });
    script.lines("/api/show", &[show]);
    script.lines("/api/generate", &[json!({"done": true, "done_reason": "load"})]);
    let app = Router::new()
        .route("/api/tags", get(at("/api/tags")))
        .route("/api/show", post(at("/api/show")))
        .route("/api/generate", post(at("/api/generate")))
        .route("/api/chat", post(at("/api/chat")))
        .route("/api/embed", post(at("/api/embed")))
        .with_state(script.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

const POLICY: Policy =
    Policy { keep_alive: KeepAlive::Forever, max_loaded: 3, ram_reserve: 0, gpu_reserve: 0 };

fn target(url: &str) -> Target {
    let tag = serde_json::from_value(json!({"name": "llama3.2:1b"})).expect("a tag");
    Target {
        model: super::daemon::file(&tag, None),
        options: LoadOptions { context: 2048, slots: 2, threads: None, gpu_layers: None },
        keep_alive: None,
        pinned: false,
        preload: false,
        ollama: Some(OllamaDaemon::default().endpoint(url, "llama3.2:1b")),
    }
}

async fn inference(url: &str) -> (Inference, tokio::sync::mpsc::Receiver<Notable>) {
    let (inference, notables) = Inference::start(None, POLICY);
    inference.choose(Some(target(url))).await;
    (inference, notables)
}

fn chat() -> Generate {
    Generate {
        prompt: Prompt::Chat {
            messages: vec![json!({"role": "user", "content": "hello"})],
            tools: Vec::new(),
        },
        max_tokens: Some(7),
        sampling: Sampling { seed: Some(3), ..Sampling::default() },
        stop: vec!["END".into()],
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    }
}

async fn submit(inference: &Inference, work: Work) -> Answer {
    let options = SubmitOptions::default();
    inference.submit(RequestKind::Chat, None, work, options).await.expect("accepted")
}

async fn ask(inference: &Inference, request: Generate) -> (String, Piece) {
    let mut answer = submit(inference, Work::Generate(Box::new(request))).await;
    let mut said = String::new();
    loop {
        match answer.next().await.expect("a last piece") {
            Piece::Text { text, .. } => said.push_str(&text),
            Piece::Started { .. } => {}
            last => return (said, last),
        }
    }
}

fn content(text: &str) -> Value {
    json!({"message": {"role": "assistant", "content": text}, "done": false})
}

fn done() -> Value {
    json!({
        "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "length",
        "prompt_eval_count": 11, "eval_count": 7,
        "prompt_eval_duration": 2_000_000, "eval_duration": 70_000_000,
    })
}

#[tokio::test]
async fn an_answer_streams_with_its_usage_and_the_daemon_gets_every_option() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/chat", &[content("Hel"), content("lo"), done()]);
    let (inference, _notables) = inference(&url).await;
    let (said, last) = ask(&inference, chat()).await;
    assert_eq!(said, "Hello");
    let Piece::Done { finish, usage, timings } = last else { panic!("{last:?}") };
    assert_eq!(
        (finish, usage.prompt_tokens, usage.completion_tokens),
        (FinishReason::Length, 11, 7)
    );
    assert!((timings.generate_ms - 70.0).abs() < 1e-9);
    let asked = &script.asked("/api/chat")[0];
    assert_eq!(asked["model"], "llama3.2:1b");
    assert_eq!(asked["options"]["num_predict"], 7);
    assert_eq!(asked["options"]["num_ctx"], 2048);
    assert_eq!(asked["options"]["seed"], 3);
    assert_eq!(asked["options"]["stop"], json!(["END"]));
    assert_eq!(asked["truncate"], false, "a prompt is never cut silently");
    let state = inference.state().borrow().clone();
    assert!(state.loaded().is_some_and(|loaded| loaded.supports_tools));
    assert_eq!(state.residents[0].residency.needs_bytes, 0, "the daemon finds the memory");
}

#[tokio::test]
async fn thoughts_and_calls_come_as_this_nodes_own_runner_writes_them() {
    let script = Script::default();
    let url = daemon(&script).await;
    let call = json!({"function": {"name": "ls", "arguments": {"path": "/"}}});
    let lines = [
        json!({"message": {"thinking": "Which "}}),
        json!({"message": {"thinking": "folder?"}}),
        content("Looking."),
        json!({"message": {"tool_calls": [call]}}),
        done(),
    ];
    script.lines("/api/chat", &lines);
    let (inference, _notables) = inference(&url).await;
    let tool = json!({"type": "function", "function": {"name": "ls"}});
    let messages = vec![
        json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}),
        json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "pwd", "arguments": "{\"x\": 1}"}}]}),
        json!({"role": "tool", "tool_call_id": "c1", "content": "/root"}),
    ];
    let request =
        Generate { prompt: Prompt::Chat { messages, tools: vec![tool.clone()] }, ..chat() };
    let (said, _) = ask(&inference, request).await;
    let text = said.strip_prefix("<think>Which folder?</think>\n").expect("thoughts first");
    let mut reader = ToolReader::new(ToolFormat::Hermes);
    let mut parts = reader.push(text);
    parts.extend(reader.finish());
    let call = Part::Call { name: "ls".into(), arguments: r#"{"path":"/"}"#.into() };
    assert_eq!(parts[..2], [Part::Text("Looking.".into()), call]);

    let asked = &script.asked("/api/chat")[0];
    assert_eq!(asked["tools"], json!([tool]));
    assert_eq!(asked["messages"][0], json!({"role": "user", "content": "a", "images": ["AAAA"]}));
    assert_eq!(asked["messages"][1]["tool_calls"][0]["function"]["arguments"]["x"], 1);
    assert_eq!(asked["messages"][2]["tool_name"], "pwd");
}

#[tokio::test]
async fn schemas_are_passed_on_and_what_the_daemon_cannot_do_is_refused() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/chat", &[content("{}"), done()]);
    let (inference, _notables) = inference(&url).await;
    let schema = json!({"type": "object"});
    let forced = Constraint::JsonSchema {
        schema: schema.clone(),
        before: "<tool_call>".into(),
        after: "</tool_call>".into(),
    };
    let (said, _) = ask(&inference, Generate { constraint: Some(forced), ..chat() }).await;
    assert_eq!(said, "<tool_call>{}</tool_call>");
    assert_eq!(script.asked("/api/chat")[0]["format"], schema);

    let gbnf = Constraint::Grammar { gbnf: "root ::= \"a\"".into() };
    let tokens = Prompt::Text(TextInput::Tokens { tokens: vec![1] });
    for (request, word) in [
        (Generate { constraint: Some(gbnf), ..chat() }, "grammar"),
        (Generate { logprobs: Some(2), ..chat() }, "logprobs"),
        (Generate { prompt: tokens, ..chat() }, "token ids"),
    ] {
        let (_, last) = ask(&inference, request).await;
        let Piece::Failed(InferenceError::BadRequest(why)) = last else { panic!("{last:?}") };
        assert!(why.contains(word), "{why}");
    }
}

#[tokio::test]
async fn errors_before_and_inside_a_stream_end_the_request_with_the_daemons_words() {
    let script = Script::default();
    let url = daemon(&script).await;
    let (inference, _notables) = inference(&url).await;
    script.lines("/api/chat", &[content("Hel"), json!({"error": "out of memory"})]);
    let (said, last) = ask(&inference, chat()).await;
    assert_eq!(said, "Hel");
    let Piece::Failed(InferenceError::Unavailable(why)) = last else { panic!("{last:?}") };
    assert!(why.contains("out of memory"), "{why}");

    let refused = json!({"error": "the input length exceeds the context length"});
    script.answer("/api/chat", Scripted::Status(400, refused));
    let (_, last) = ask(&inference, chat()).await;
    assert!(matches!(last, Piece::Failed(InferenceError::ContextOverflow(_))), "{last:?}");

    script.lines("/api/chat", &[content("Hel")]);
    let (_, last) = ask(&inference, chat()).await;
    let Piece::Failed(InferenceError::Unavailable(why)) = last else { panic!("{last:?}") };
    assert!(why.contains("broke off"), "{why}");
}

#[tokio::test]
async fn a_line_without_an_end_does_not_fill_the_memory() {
    let script = Script::default();
    let url = daemon(&script).await;
    let (inference, _notables) = inference(&url).await;
    let huge = "x".repeat(3 << 20);
    script.lines("/api/chat", &[content(&huge), done()]);
    let (_, last) = ask(&inference, chat()).await;
    let Piece::Failed(InferenceError::Unavailable(why)) = last else { panic!("{last:?}") };
    assert!(why.contains("1 MiB"), "{why}");
}

#[tokio::test]
async fn dropping_an_answer_that_stalls_frees_its_slot() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.answer("/api/chat", Scripted::Stall(vec![content("Hel").to_string()]));
    let (inference, mut notables) = inference(&url).await;
    let mut answer = submit(&inference, Work::Generate(Box::new(chat()))).await;
    while !matches!(answer.next().await, Some(Piece::Text { .. })) {}
    assert_eq!(inference.state().borrow().running, 1);
    drop(answer);
    let finished = loop {
        if let Notable::Finished(finished) = notables.recv().await.expect("a notable") {
            break finished;
        }
    };
    assert_eq!(finished.outcome.as_str(), "cancelled");
    assert_eq!(finished.usage.completion_tokens, 1);
}

#[tokio::test]
async fn a_daemon_that_is_gone_is_said_in_a_sentence_and_tried_again_by_the_next_request() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/chat", &[content("hi"), done()]);
    // Nothing listens on port 9 of this computer.
    let (inference, _notables) = inference("http://127.0.0.1:9").await;
    for _ in 0..2 {
        let mut failed = None;
        let work = Work::Generate(Box::new(chat()));
        let options = SubmitOptions::default();
        match inference.submit(RequestKind::Chat, None, work, options).await {
            Ok(mut answer) => {
                while let Some(piece) = answer.next().await {
                    if let Piece::Failed(error) = piece {
                        failed = Some(error);
                    }
                }
            }
            Err(error) => failed = Some(error),
        }
        let why = failed.expect("it fails").to_string();
        assert!(why.contains("does not answer") && why.contains("Start it"), "{why}");
    }
    inference.configure(POLICY, vec![target(&url)]).await;
    let (said, _) = ask(&inference, chat()).await;
    assert_eq!(said, "hi");
}

#[tokio::test]
async fn vectors_come_from_the_daemon_and_leaving_tells_it_to_free_the_model() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/embed", &[json!({"embeddings": [[0.5, 1.0]], "prompt_eval_count": 4})]);
    let (inference, _notables) = inference(&url).await;
    let inputs = vec![TextInput::Text { text: "a".into() }];
    let mut answer = submit(&inference, Work::Embed(inputs)).await;
    let Some(Piece::Embedded { vectors, prompt_tokens }) = answer.next().await else {
        panic!("vectors");
    };
    assert_eq!((vectors, prompt_tokens), (vec![vec![0.5, 1.0]], 4));
    inference.unload(None).await;
    let told = async {
        while !script.asked("/api/generate").iter().any(|body| body["keep_alive"] == 0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("it is told");
}

#[tokio::test]
async fn the_models_of_a_daemon_are_listed_with_what_it_knows_about_them() {
    let script = Script::default();
    let url = daemon(&script).await;
    let tags = json!({"models": [{
        "name": "llama3.2:1b", "size": 1_300_000_000_u64, "digest": "abc",
        "modified_at": "2026-01-02T03:04:05.678+01:00",
        "details": {"family": "llama", "quantization_level": "Q8_0"},
    }]});
    script.lines("/api/tags", &[tags]);
    let daemon = OllamaDaemon::default();
    let models = daemon.models(&url).await;
    assert_eq!(models.len(), 1);
    let described = models[0].describe(false);
    assert_eq!(
        (described.id.as_str(), described.source),
        ("llama3.2:1b", ModelSource::OllamaDaemon)
    );
    assert_eq!((described.context_train, described.path.as_str()), (8192, ""));
    assert_eq!(described.quantization, "Q8_0");
    let head = models[0].head.as_ref().expect("a head");
    let able = [Capability::Completion, Capability::Tools, Capability::Thinking];
    assert_eq!(head.capabilities(), able, "what its clients may ask of it");
    assert!(described.problem.is_none());
    daemon.models(&url).await;
    assert_eq!(script.asked("/api/tags").len(), 1, "a list is good for some seconds");
    assert!(OllamaDaemon::default().models("http://127.0.0.1:9").await.is_empty());
    assert!(daemon.models("").await.is_empty(), "no daemon is wanted");
}

/// A second model of the same daemon.
fn another(url: &str, keep_alive: Option<KeepAlive>) -> Arc<Target> {
    let mut target = target(url);
    target.model.id = "other:latest".into();
    target.keep_alive = keep_alive;
    Arc::new(target)
}

async fn submit_to(inference: &Inference, to: &Arc<Target>, options: SubmitOptions) {
    let work = Work::Generate(Box::new(chat()));
    let to = Some(Arc::clone(to));
    let mut answer =
        inference.submit(RequestKind::Chat, to, work, options).await.expect("accepted");
    assert_eq!(answer.model(), "other:latest");
    while let Some(piece) = answer.next().await {
        assert!(!matches!(piece, Piece::Failed(_)), "{piece:?}");
    }
}

fn is_resident(inference: &Inference) -> bool {
    inference.state().borrow().find("other:latest").is_some()
}

#[tokio::test]
async fn the_owners_keep_alive_counts_before_the_requests_and_that_before_the_settings() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/chat", &[content("hi"), done()]);
    let (inference, _notables) = inference(&url).await;
    let now = KeepAlive::For(Duration::ZERO);
    let leave_now = SubmitOptions { keep_alive: Some(now), ..SubmitOptions::default() };

    submit_to(&inference, &another(&url, None), SubmitOptions::default()).await;
    assert!(is_resident(&inference), "the settings keep it");
    submit_to(&inference, &another(&url, None), leave_now).await;
    let mut state = inference.state();
    let gone = state.wait_for(|state| state.find("other:latest").is_none());
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("in time").expect("a state");
    submit_to(&inference, &another(&url, Some(KeepAlive::Forever)), leave_now).await;
    // A later answer proves that the pool had its turn to let it go.
    ask(&inference, chat()).await;
    assert!(is_resident(&inference), "the owner keeps it");
}

#[tokio::test]
async fn a_model_that_was_refused_is_tried_again_once_it_is_to_be_held_otherwise() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/chat", &[content("hi"), done()]);
    let (inference, _notables) = inference(&url).await;
    // There is no runner in this test.
    let by_runner = Arc::new(Target { ollama: None, ..(*another(&url, None)).clone() });
    for _ in 0..2 {
        let error = inference.load(Some(Arc::clone(&by_runner)), None).await.expect_err("refused");
        assert!(error.to_string().contains("not found"), "{error}");
    }
    submit_to(&inference, &another(&url, None), SubmitOptions::default()).await;
}

#[tokio::test]
async fn a_removed_model_finishes_its_requests_and_a_new_one_of_its_name_is_another() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.answer("/api/chat", Scripted::Stall(vec![content("Hel").to_string()]));
    let (inference, _notables) = inference(&url).await;
    let mut first = submit(&inference, Work::Generate(Box::new(chat()))).await;
    while !matches!(first.next().await, Some(Piece::Text { .. })) {}
    inference.remove("llama3.2:1b".into()).await;
    let state = inference.state().borrow().clone();
    assert!(state.active.is_none() && state.find("llama3.2:1b").is_none());
    assert_eq!(state.running, 1, "its request goes on");

    script.lines("/api/chat", &[content("new"), done()]);
    inference.choose(Some(target(&url))).await;
    let (said, _) = ask(&inference, chat()).await;
    assert_eq!(said, "new");
    assert_eq!(inference.state().borrow().residents.len(), 2);
    drop(first);
    let mut state = inference.state();
    let gone = state.wait_for(|state| state.residents.len() == 1);
    let state = tokio::time::timeout(Duration::from_secs(60), gone).await;
    let state = state.expect("in time").expect("a state");
    assert_eq!(state.residents[0].residency.id, "llama3.2:1b");
}

#[tokio::test]
async fn a_time_that_no_clock_can_count_keeps_the_model_and_the_pool() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/chat", &[content("hi"), done()]);
    let (inference, _notables) = inference(&url).await;
    let keep_alive = Some(KeepAlive::For(Duration::MAX));
    for _ in 0..2 {
        let options = SubmitOptions { keep_alive, ..SubmitOptions::default() };
        submit_to(&inference, &another(&url, None), options).await;
        assert!(is_resident(&inference));
    }
}

#[tokio::test]
async fn a_request_for_a_larger_context_loads_the_model_with_it_and_a_smaller_one_does_not() {
    let script = Script::default();
    let url = daemon(&script).await;
    script.lines("/api/chat", &[content("hi"), done()]);
    let (inference, _notables) = inference(&url).await;
    let other = another(&url, None);
    for (wanted, loaded) in [(None, 2048), (Some(4096), 4096), (Some(512), 4096)] {
        let options = SubmitOptions { context: wanted, ..SubmitOptions::default() };
        submit_to(&inference, &other, options).await;
        let asked = script.asked("/api/chat");
        let last = asked.last().expect("a request");
        assert_eq!(last["options"]["num_ctx"], loaded, "asked for {wanted:?}");
    }
}
