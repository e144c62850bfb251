//! Deliveries to a server of the test that fails, hangs and refuses.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use agent_api::TaskId;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use sqlx::sqlite::SqliteConnection;
use tokio::sync::mpsc;

use super::*;
use crate::storage::{NewDelivery, Write, enqueue};

/// A receiver: answers by what it was told, the last answer for ever.
struct Receiver {
    url: String,
    got: mpsc::Receiver<(HeaderMap, String)>,
}

#[derive(Clone)]
struct Script {
    answers: Arc<Vec<u16>>,
    next: Arc<AtomicUsize>,
    got: mpsc::Sender<(HeaderMap, String)>,
}

/// More than any test sends.
const REQUESTS: usize = 16;
/// Never answers.
const SILENT: u16 = 0;

async fn receiver(answers: &[u16]) -> Receiver {
    let (sender, got) = mpsc::channel(REQUESTS);
    let script = Script { answers: Arc::new(answers.to_vec()), next: Arc::default(), got: sender };
    async fn take(State(script): State<Script>, headers: HeaderMap, body: String) -> StatusCode {
        let place = script.next.fetch_add(1, Ordering::SeqCst).min(script.answers.len() - 1);
        script.got.send((headers, body)).await.expect("the test listens");
        match script.answers[place] {
            SILENT => std::future::pending().await,
            status => StatusCode::from_u16(status).expect("a status"),
        }
    }
    let router = Router::new().route("/hook", post(take)).with_state(script);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    Receiver { url, got }
}

/// Stands for the transaction that ends a task.
struct End {
    task: &'static str,
    webhook: Webhook,
}

impl Write for End {
    type Output = ();
    async fn run(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let task = TaskId(self.task.to_owned());
        let body = format!("{{\"task\":\"{}\"}}", self.task);
        let (webhook, body) = (&self.webhook, body.as_str());
        enqueue(connection, NewDelivery { task: &task, webhook, body, now_ms: now_ms() }).await
    }
}

async fn open(dir: &Path) -> (Storage, Outbox) {
    let storage = Storage::open(&dir.join("edgecoder.db")).await.expect("opens").storage;
    let outbox = Outbox::new(storage.clone());
    (storage, outbox)
}

fn end(task: &'static str, url: &str) -> End {
    End { task, webhook: Webhook { url: url.to_owned(), secret: Some("hush".to_owned()) } }
}

/// The only delivery.
async fn only(outbox: &Outbox) -> Delivery {
    let mut all = outbox.list(None).await.expect("reads");
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

async fn until(outbox: &Outbox, state: DeliveryState) {
    let mut changes = outbox.changes();
    while only(outbox).await.state != state {
        changes.changed().await.expect("the outbox lives");
    }
}

#[tokio::test]
async fn a_receiver_that_fails_at_first_gets_it_in_the_end() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (storage, outbox) = open(dir.path()).await;
    let mut receiver = receiver(&[500, 503, 200]).await;
    storage.write(end("t_1", &receiver.url)).await.expect("writes");
    for attempts in 1..=2 {
        let id = only(&outbox).await.id;
        let before = now_ms();
        outbox.attempt(&id).await.expect("attempted");
        let waits = only(&outbox).await;
        assert_eq!((waits.state, waits.attempts), (DeliveryState::Waiting, attempts));
        assert!(waits.next_ms.is_some_and(|next| next > before), "it waits: {waits:?}");
        assert!(waits.problem.expect("a reason").contains("50"));
    }
    let id = only(&outbox).await.id;
    outbox.attempt(&id).await.expect("attempted");
    let done = only(&outbox).await;
    assert_eq!((done.state, done.problem), (DeliveryState::Delivered, None));
    for _ in 0..3 {
        let (headers, body) = receiver.got.recv().await.expect("it came");
        assert_eq!(headers["idempotency-key"], id.as_str(), "the same every time");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["x-edgecoder-signature"].len(), "sha256=".len() + 64);
        assert_eq!(body, "{\"task\":\"t_1\"}");
    }
    let error = outbox.retry(&id).await.expect_err("nothing left");
    assert!(matches!(error, OutboxError::AlreadyDelivered(_)), "{error}");
    let listed = serde_json::to_string(&outbox.list(None).await.expect("reads")).expect("json");
    assert!(!listed.contains("hush"), "{listed}");
}

#[tokio::test]
async fn a_receiver_that_wants_no_more_gets_no_more_until_the_owner_says_so() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (storage, outbox) = open(dir.path()).await;
    let receiver = receiver(&[410, 204]).await;
    let stop = CancellationToken::new();
    let driver = tokio::spawn(outbox.clone().drive(stop.clone()));
    storage.write(end("t_1", &receiver.url)).await.expect("writes");
    outbox.wake();
    until(&outbox, DeliveryState::Dead).await;
    let dead = only(&outbox).await;
    assert!(dead.attempts == 1 && dead.problem.expect("a reason").contains("410"));
    outbox.retry(&dead.id).await.expect("retried");
    until(&outbox, DeliveryState::Delivered).await;
    outbox.remove(&dead.id).await.expect("removed");
    assert!(matches!(outbox.remove(&dead.id).await, Err(OutboxError::NoSuchDelivery(_))));
    stop.cancel();
    driver.await.expect("it ends");
}

#[tokio::test]
async fn what_waited_when_the_node_was_killed_is_posted_after_the_next_start() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut receiver = receiver(&[SILENT, 200]).await;
    let (storage, outbox) = open(dir.path()).await;
    storage.write(end("t_1", &receiver.url)).await.expect("writes");
    let driver = tokio::spawn(outbox.clone().drive(CancellationToken::new()));
    let (first, _) = receiver.got.recv().await.expect("it came");
    // The receiver has it and the node does not know.
    driver.abort();
    assert!(driver.await.expect_err("cut off").is_cancelled());
    storage.close().await;
    drop(outbox);

    let (_storage, outbox) = open(dir.path()).await;
    assert_eq!(only(&outbox).await.state, DeliveryState::Waiting);
    let stop = CancellationToken::new();
    let driver = tokio::spawn(outbox.clone().drive(stop.clone()));
    until(&outbox, DeliveryState::Delivered).await;
    let (second, _) = receiver.got.recv().await.expect("it came again");
    assert_eq!(first["idempotency-key"], second["idempotency-key"]);
    stop.cancel();
    driver.await.expect("it ends");
}

#[tokio::test]
async fn one_silent_receiver_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (storage, outbox) = open(dir.path()).await;
    let mut silent = receiver(&[SILENT]).await;
    let mut other = receiver(&[200]).await;
    storage.write(end("t_1", &silent.url)).await.expect("writes");
    for task in ["t_2", "t_3", "t_4", "t_5", "t_6", "t_7"] {
        storage.write(end(task, &other.url)).await.expect("writes");
    }
    let stop = CancellationToken::new();
    let driver = tokio::spawn(outbox.clone().drive(stop.clone()));
    silent.got.recv().await.expect("it came");
    for _ in 0..6 {
        other.got.recv().await.expect("it came");
    }
    stop.cancel();
    driver.await.expect("it ends");
}

#[tokio::test]
async fn an_unencrypted_address_is_looked_at_again_when_it_is_used() {
    // RFC 5737: nobody's. The answer is ours, before anything is sent.
    let webhook = Webhook { url: "http://203.0.113.7:9/x".to_owned(), secret: None };
    let outcome = Post::default().deliver(&webhook, "id", "{}").await;
    let Outcome::Failed(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("not encrypted"), "{why}");
}

#[tokio::test]
async fn a_closed_port_is_a_failure_in_words_without_the_path() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/key-123", listener.local_addr().expect("an address"));
    drop(listener);
    let outcome = Post::default().deliver(&Webhook { url, secret: None }, "id", "{}").await;
    let Outcome::Failed(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("cannot be reached") && !why.contains("key-123"), "{why}");
}

#[test]
fn ten_attempts_spread_over_about_a_day_and_then_it_is_given_up() {
    let failed = || Outcome::Failed("No.".to_owned());
    let mut total = 0;
    for attempts in 1..ATTEMPTS {
        match judge(failed(), attempts, 0, 0.5) {
            Attempted::Again { next_ms, .. } => total += next_ms,
            other => panic!("{other:?}"),
        }
    }
    let hours = total / 3_600_000;
    assert!((20..26).contains(&hours), "{hours} hours");
    assert!(matches!(judge(failed(), ATTEMPTS, 0, 0.5), Attempted::GivenUp { .. }));
    let (low, high) = (wait_after(1, 0.0), wait_after(1, 1.0));
    assert!(low < FIRST_WAIT && FIRST_WAIT < high);
    assert!(high < wait_after(2, 0.0), "waits grow whatever the dice say");
}

#[test]
fn a_very_long_output_is_left_out() {
    let task: Task = serde_json::from_value(serde_json::json!({
        "id": "t_1", "kind": "chat", "state": "done", "reason": "", "role": "asked",
        "interactive": false, "label": null, "subject": null, "privacy": "mesh", "priority": 5,
        "origin": "ab", "origin_name": "n", "worker": null, "worker_name": null, "path": null,
        "created_ms": 1, "started_ms": null, "ended_ms": null, "attempts": 1,
        "queue_position": null, "prompt_tokens": null, "completion_tokens": null,
        "tokens_per_s": null, "first_token_ms": null, "schedule": null
    }))
    .expect("a task");
    let read = |output: Value| {
        serde_json::from_str::<Delivered>(&body(&task, Some(&output))).expect("json").output
    };
    assert_eq!(read(Value::from("short")), Some(Value::from("short")));
    assert_eq!(read(Value::from("x".repeat(OUTPUT_BYTES))), None);
}
