//! A stand-in for a node with many tasks: serves the built page and generated tasks, so that the
//! Tasks panel can be driven and looked at with a hundred thousand of them and no mesh.

mod details;
mod generate;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_api::{
    Event, Settings,
    mesh::PeerList,
    settings::SettingsView,
    tasks::{
        Delivery, Outbox, Schedule, ScheduleList, SubmitTask, Submitted, Task, TaskCounts, TaskId,
        TaskList, TaskQuery, TaskState,
    },
};
use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::mesh_page::{
    TOKEN, file, frame, json_of, now_ms,
    peers::{generate as some_peers, mesh},
    read, refused, status,
};

/// Between two events.
const BEAT: Duration = Duration::from_millis(500);
/// Peers whose models are offered.
const PEERS: usize = 13;

#[derive(Debug)]
struct World {
    /// Newest first.
    tasks: Vec<Task>,
    schedules: Vec<Schedule>,
    dead: Vec<Delivery>,
    settings: Settings,
    /// By idempotency key.
    submitted: BTreeMap<String, TaskId>,
    /// Not told yet.
    changed: Vec<TaskId>,
    next: u64,
}

type Shared = Arc<Mutex<World>>;

/// The server; it ends when this is dropped.
#[derive(Debug)]
pub struct TasksPage {
    pub url: String,
    world: Shared,
    task: JoinHandle<()>,
}

impl Drop for TasksPage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TasksPage {
    /// Serves `count` ended tasks, and a few that run and wait, at `listen`.
    pub async fn start(listen: &str, count: usize) -> Result<Self> {
        let tasks = generate::tasks(count);
        let next = count as u64 + 1_000;
        let world = World {
            tasks,
            schedules: if count == 0 { Vec::new() } else { generate::schedules() },
            dead: if count == 0 { Vec::new() } else { generate::dead() },
            settings: Settings::default(),
            submitted: BTreeMap::new(),
            changed: Vec::new(),
            next,
        };
        let world = Arc::new(Mutex::new(world));
        let router = Router::new()
            .route("/events", get(events))
            .route("/tasks", get(list).post(submit))
            .fallback(answer)
            .with_state(Arc::clone(&world));
        let listener = TcpListener::bind(listen).await.context("listening for the page")?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            // It ends with the test.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { url, world, task })
    }

    /// The address with the token.
    pub fn address(&self) -> String {
        format!("{}/#token={TOKEN}", self.url)
    }

    /// Tasks that were submitted through the page.
    pub fn submitted(&self) -> usize {
        lock(&self.world).submitted.len()
    }

    pub fn settings(&self) -> Settings {
        lock(&self.world).settings.clone()
    }
}

fn ended_today(task: &Task) -> bool {
    let day = 86_400_000;
    task.ended_ms.is_some_and(|at| at / day == now_ms() / day)
}

impl World {
    fn counts(&self) -> TaskCounts {
        let mut counts = TaskCounts::default();
        for task in &self.tasks {
            let today = u32::from(ended_today(task));
            match task.state {
                TaskState::Queued => counts.queued += 1,
                TaskState::Done => {
                    counts.done += 1;
                    counts.done_today += today;
                }
                TaskState::Failed | TaskState::Expired => {
                    counts.failed += 1;
                    counts.failed_today += today;
                }
                TaskState::Cancelled => counts.cancelled += 1,
                _ => counts.active += 1,
            }
        }
        counts
    }

    fn page(&self, query: &TaskQuery) -> TaskList {
        let limit = query.limit.unwrap_or(50).clamp(1, 500) as usize;
        let wanted = query.search.clone().unwrap_or_default().to_lowercase();
        let fits = |task: &&Task| {
            let word = query.state.as_deref();
            let active = !task.state.is_final() && task.state != TaskState::Queued;
            let texts = [&task.label, &task.subject, &task.worker_name];
            let mut texts = texts.into_iter().flatten().chain([&task.id.0, &task.origin_name]);
            word.is_none_or(|w| match w {
                "active" => active,
                "ended" => task.state.is_final(),
                word => task.state.as_str() == word,
            }) && query.kind.is_none_or(|k| k == task.kind)
                && query.role.is_none_or(|r| r == task.role)
                && query.before.as_ref().is_none_or(|b| task.id < *b)
                && (wanted.is_empty() || texts.any(|t| t.to_lowercase().contains(&wanted)))
        };
        let mut tasks: Vec<Task> =
            self.tasks.iter().filter(fits).take(limit + 1).cloned().collect();
        let more = tasks.len() > limit;
        tasks.truncate(limit);
        let next = tasks.last().filter(|_| more).map(|t| t.id.clone());
        TaskList { tasks, next, counts: self.counts() }
    }

    fn find(&mut self, id: &str) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|t| t.id.0 == id)
    }

    /// What runs writes on; what changed by hand is told.
    fn beat(&mut self) -> Event {
        let told = std::mem::take(&mut self.changed);
        let now = now_ms();
        for task in self.tasks.iter_mut().filter(|t| t.state == TaskState::Running) {
            let since = now - task.started_ms.unwrap_or(now);
            let rate = f64::from(task.tokens_per_s.unwrap_or(30.0));
            task.completion_tokens = Some((rate * since as f64 / 1_000.0) as u32);
        }
        let news = |t: &&Task| t.state == TaskState::Running || told.contains(&t.id);
        let changed = self.tasks.iter().filter(news).cloned().collect();
        Event::Tasks { changed, counts: self.counts(), more: false }
    }

    fn add(&mut self, body: &SubmitTask) -> TaskId {
        self.next += 1;
        let task = generate::submitted(self.next, body);
        let id = task.id.clone();
        self.tasks.insert(0, task);
        self.changed.push(id.clone());
        id
    }

    fn cancel(&mut self, id: &str) -> Response {
        let Some(task) = self.find(id) else { return gone() };
        task.state = TaskState::Cancelled;
        task.reason = "You cancelled it.".into();
        task.ended_ms = Some(now_ms());
        task.queue_position = None;
        let answer = task.clone();
        self.changed.push(answer.id.clone());
        json_of(&answer)
    }

    fn retry(&mut self, id: &str) -> Response {
        let Some(task) = self.find(id) else { return gone() };
        let body = SubmitTask {
            kind: task.kind,
            input: json!({}),
            privacy: None,
            priority: None,
            node: None,
            idempotency_key: None,
            expires_in_s: None,
            max_attempts: None,
            replicas: None,
            label: task.label.clone(),
            webhook: None,
        };
        let id = self.add(&body);
        json_of(&Submitted { id, state: TaskState::Queued, repeated: false })
    }

    fn schedules(&mut self, id: &str, act: &str, body: &[u8]) -> Response {
        if act == "remove" {
            self.schedules.retain(|s| s.id.0 != id);
        } else if let Some(schedule) = self.schedules.iter_mut().find(|s| s.id.0 == id) {
            match act {
                "pause" => {
                    let body: Value = read(body).unwrap_or_default();
                    schedule.paused = body["paused"] == true;
                }
                _ => {
                    let task = schedule.task.clone();
                    let id = self.add(&task);
                    return json_of(&Submitted { id, state: TaskState::Queued, repeated: false });
                }
            }
        }
        json_of(&ScheduleList { schedules: self.schedules.clone() })
    }

    fn patch(&mut self, body: &[u8]) -> Response {
        let patch: Value = read(body).unwrap_or_default();
        let mut settings = json!(self.settings);
        for (name, value) in patch["tasks"].as_object().into_iter().flatten() {
            settings["tasks"][name] = value.clone();
        }
        if let Ok(settings) = serde_json::from_value(settings) {
            self.settings = settings;
        }
        json_of(&self.view())
    }

    fn view(&self) -> SettingsView {
        SettingsView {
            settings: self.settings.clone(),
            api_key_set: false,
            path: "/data/settings.toml".into(),
            after_restart: Vec::new(),
        }
    }
}

fn gone() -> Response {
    refused(
        StatusCode::NOT_FOUND,
        "There is no task with this id. Ended tasks are kept for 7 days.",
    )
}

async fn list(State(world): State<Shared>, Query(query): Query<TaskQuery>) -> Response {
    json_of(&lock(&world).page(&query))
}

async fn submit(State(world): State<Shared>, body: Bytes) -> Response {
    let Some(body) = read::<SubmitTask>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "The body is not a task.");
    };
    if body.input.to_string().contains("refuse me") {
        let why = "The model mistral:7b is not on any node of the mesh. Pull it first.\nThe webhook has to begin with https://.";
        return refused(StatusCode::BAD_REQUEST, why);
    }
    // As long as a real node's disk, so that a second click falls into it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut world = lock(&world);
    let key = body.idempotency_key.clone().unwrap_or_default();
    let known = world.submitted.get(&key).cloned();
    let repeated = known.is_some();
    let id = known.unwrap_or_else(|| world.add(&body));
    world.submitted.insert(key, id.clone());
    json_of(&Submitted { id, state: TaskState::Queued, repeated })
}

async fn events(State(world): State<Shared>) -> Response {
    let snapshot = Event::Snapshot {
        status: Box::new(status()),
        activity: Vec::new(),
        settings: Box::new(lock(&world).settings.clone()),
        pulls: Vec::new(),
        mesh: Box::new(mesh(&some_peers(PEERS))),
    };
    let first = Some(frame(&snapshot));
    let later = stream::unfold((world, first), |(world, first)| async move {
        let bytes = match first {
            Some(first) => first,
            None => {
                tokio::time::sleep(BEAT).await;
                frame(&lock(&world).beat())
            }
        };
        Some((Ok::<_, Infallible>(bytes), (world, None)))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(later)).into_response()
}

/// The product's paths that the panel uses, and the files of the page.
async fn answer(State(world): State<Shared>, method: Method, uri: Uri, body: Bytes) -> Response {
    let mut world = lock(&world);
    let parts: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        (_, ["status"]) => json_of(&status()),
        ("GET", ["settings"]) => json_of(&world.view()),
        ("PATCH", ["settings"]) => world.patch(&body),
        ("GET", ["mesh", "peers"]) => {
            let peers = some_peers(PEERS);
            json_of(&PeerList { total: peers.len() as u32, peers })
        }
        ("POST", ["tasks", id, "cancel"]) => world.cancel(id),
        ("POST", ["tasks", id, "retry"]) => world.retry(id),
        ("GET", ["tasks", id, rest @ ..]) => match world.find(id) {
            None => gone(),
            Some(task) => match rest {
                [] => json_of(&details::of(task)),
                ["output"] => json_of(&details::output(task)),
                ["follow"] => details::follow(task.clone()),
                _ => gone(),
            },
        },
        ("GET", ["schedules"]) => json_of(&ScheduleList { schedules: world.schedules.clone() }),
        ("POST", ["schedules"]) => {
            let new = read(&body).map(|new| generate::schedule(9, new));
            world.schedules.extend(new.clone());
            new.map_or_else(gone, |new| json_of(&new))
        }
        ("POST", ["schedules", id, act]) => world.schedules(id, act, &body),
        ("GET", ["outbox"]) => json_of(&Outbox { deliveries: world.dead.clone() }),
        ("POST", ["outbox", id, _]) => {
            world.dead.retain(|d| d.id != *id);
            json_of(&Outbox { deliveries: world.dead.clone() })
        }
        ("GET", ["activity"]) => json_of(&json!({"items": [], "next": null})),
        ("GET", ["model", "pulls"]) => json_of(&json!({"pulls": []})),
        ("GET", ["mesh"]) => json_of(&mesh(&some_peers(PEERS))),
        (_, [name]) if !name.contains('.') && !name.is_empty() => gone(),
        _ => file(uri.path()),
    }
}
