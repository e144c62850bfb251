//! A stand-in for a node in a large mesh: serves the built page and generated peers, so that the
//! Mesh panel can be driven and looked at with thousands of peers and no network.

pub(crate) mod peers;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_api::{
    Event, NodeId, Settings, Status,
    endpoint::ENDPOINTS,
    machine::Machine,
    mesh::{
        AdmitNode, Attempt, BlockedNode, CreateMesh, Invite, MarkNode, Mesh, MeshState, Peer,
        PeerDetails, PeerList, PeerPath, TicketInfo,
    },
    models::{ModelState, ModelStatus},
    node::{NodeInfo, Requests, Serving, ServingState, Speed},
    settings::SettingsView,
};
use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::stream;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

pub use self::peers::{nearby, now_ms};
use crate::programs;

/// Any token is accepted; this one is in the address.
pub const TOKEN: &str = "fixture";
/// Between two events.
const BEAT: Duration = Duration::from_millis(500);
/// Peers whose figures change with each event.
const CHANGES: usize = 60;

#[derive(Debug)]
struct World {
    mesh: Mesh,
    peers: Vec<Peer>,
    beat: u64,
}

type Shared = Arc<Mutex<World>>;

/// The server; it ends when this is dropped.
#[derive(Debug)]
pub struct MeshPage {
    pub url: String,
    world: Shared,
    task: JoinHandle<()>,
}

impl Drop for MeshPage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MeshPage {
    /// Serves `count` peers at `listen`.
    pub async fn start(listen: &str, count: usize) -> Result<Self> {
        let peers = peers::generate(count);
        let mesh = peers::mesh(&peers);
        let world = Arc::new(Mutex::new(World { mesh, peers, beat: 0 }));
        let router = Router::new()
            .route("/events", get(events))
            .route("/agent-mesh/peers/{id}", get(details))
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

    /// Changes the mesh; the page hears of it with the next event.
    pub fn change(&self, change: impl FnOnce(&mut Mesh)) {
        change(&mut lock(&self.world).mesh);
    }

    pub fn mesh(&self) -> Mesh {
        lock(&self.world).mesh.clone()
    }
}

pub(crate) fn status() -> Status {
    Status {
        at_ms: now_ms(),
        node: NodeInfo {
            node_id: peers::id(0),
            name: "workbench".into(),
            version: "0.1.0".into(),
            data_dir: "/data".into(),
            pid: 1,
            started_at_ms: now_ms() - 3_600_000,
            url: "http://127.0.0.1:4301".into(),
            exposed: false,
        },
        serving: Serving { state: ServingState::Idle, reason: "Ready.".into(), until_ms: None },
        model: ModelStatus {
            state: ModelState::None,
            reason: String::new(),
            active: None,
            loaded: None,
            retry_at_ms: None,
            runner_crashes: 0,
            runner_pid: None,
            resident: Vec::new(),
        },
        speed: Speed::default(),
        requests: Requests::default(),
        machine: Machine::default(),
        notices: Vec::new(),
    }
}

impl World {
    fn snapshot(&self) -> Event {
        Event::Snapshot {
            status: Box::new(status()),
            activity: Vec::new(),
            settings: Box::new(Settings::default()),
            pulls: Vec::new(),
            mesh: Box::new(self.mesh.clone()),
        }
    }

    /// The next event: figures of some peers, or the mesh, or the status.
    fn next(&mut self) -> Event {
        self.beat += 1;
        match self.beat % 4 {
            0 => Event::Mesh { mesh: Box::new(self.mesh.clone()) },
            2 => Event::Status { status: Box::new(status()) },
            _ => Event::Peers { changed: self.changed(), gone: Vec::new() },
        }
    }

    fn changed(&mut self) -> Vec<Peer> {
        let total = self.peers.len().max(1);
        let first = self.beat as usize * CHANGES;
        let mut changed = Vec::new();
        for n in first..first + CHANGES.min(total) {
            if let Some(peer) = self.peers.get_mut(n % total) {
                peer.last_seen_ms = Some(now_ms());
                if let Some(rtt) = &mut peer.rtt_ms {
                    *rtt = (*rtt * if n % 2 == 0 { 1.05 } else { 0.96 }).max(0.3);
                }
                changed.push(peer.clone());
            }
        }
        changed
    }
}

pub(crate) fn frame(event: &Event) -> Bytes {
    let data = serde_json::to_string(event).unwrap_or_default();
    Bytes::from(format!("event: {}\ndata: {data}\n\n", event.name()))
}

async fn events(State(world): State<Shared>) -> Response {
    let first = frame(&lock(&world).snapshot());
    let later = stream::unfold((world, Some(first)), |(world, first)| async move {
        let bytes = match first {
            Some(first) => first,
            None => {
                tokio::time::sleep(BEAT).await;
                frame(&lock(&world).next())
            }
        };
        Some((Ok::<_, Infallible>(bytes), (world, None)))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(later)).into_response()
}

pub(crate) fn json_of(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).unwrap_or_default();
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

pub(crate) fn refused(status: StatusCode, message: &str) -> Response {
    let code = if status == StatusCode::NOT_FOUND { "not_found" } else { "bad_request" };
    let body = json!({"code": code, "message": message}).to_string();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn details(State(world): State<Shared>, Path(id): Path<String>) -> Response {
    let world = lock(&world);
    let Some(peer) = world.peers.iter().find(|p| p.node_id.0 == id) else {
        return refused(StatusCode::NOT_FOUND, "No node with this id is known. It may have left.");
    };
    let paths = peer.path.zip(peer.rtt_ms).map(|(kind, rtt_ms)| PeerPath {
        kind,
        address: peer.address.clone().unwrap_or_default(),
        rtt_ms,
        in_use: true,
    });
    let rtt = peer.rtt_ms.unwrap_or(0.0);
    let wave = |n: i32| rtt * (1.0 + 0.12 * (f64::from(n) * 0.7).sin());
    let attempt = |n: i64, ok: bool, text: &str| Attempt {
        at_ms: now_ms() - n * 61_000,
        ok,
        text: text.into(),
    };
    json_of(&PeerDetails {
        peer: peer.clone(),
        addresses: vec!["203.0.113.7:4302".into(), "[2001:db8::7]:4302".into()],
        paths: paths.into_iter().collect(),
        rtt_history: if rtt > 0.0 { (0..48).map(wave).collect() } else { Vec::new() },
        bytes_sent: 1_204_000,
        bytes_received: 8_400_000,
        attempts: vec![
            attempt(1, true, "Connected straight to 203.0.113.7:4302"),
            attempt(2, false, "No answer from [2001:db8::7]:4302 within 5 s"),
        ],
    })
}

/// The product's paths that the panel uses, and the files of the page.
async fn answer(State(world): State<Shared>, uri: Uri, body: Bytes) -> Response {
    let mut world = lock(&world);
    let path = uri.path();
    match path {
        "/status" => json_of(&status()),
        "/orchestration/status" => json_of(&peers::orchestration(&world.peers)),
        "/mesh/peers" => {
            let total = world.peers.len() as u32;
            json_of(&PeerList { peers: world.peers.clone(), total })
        }
        "/mesh/invite" => json_of(&invite(&world.mesh)),
        "/mesh/ticket" => match ticket(&body) {
            Some(info) => json_of(&info),
            None => {
                refused(StatusCode::BAD_REQUEST, "The ticket is damaged. Copy it again, whole.")
            }
        },
        "/settings" => json_of(&SettingsView {
            settings: Settings::default(),
            api_key_set: false,
            path: "/data/settings.toml".into(),
            after_restart: Vec::new(),
        }),
        "/activity" => json_of(&json!({"items": [], "next": null})),
        "/model/pulls" => json_of(&json!({"pulls": []})),
        "/mesh" => json_of(&world.mesh),
        _ if path.starts_with("/mesh/") => world.act(path, &body),
        _ if ENDPOINTS.iter().any(|e| e.path == path) => {
            refused(StatusCode::NOT_FOUND, "The stand-in does not answer this.")
        }
        _ => file(path),
    }
}

pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

impl World {
    fn act(&mut self, path: &str, body: &[u8]) -> Response {
        match path {
            "/mesh/block" => {
                if let Some(mark) = read::<MarkNode>(body) {
                    self.block(&mark);
                }
            }
            "/mesh/trust" => {
                if let Some(mark) = read::<MarkNode>(body)
                    && let Some(peer) = self.peers.iter_mut().find(|p| p.node_id == mark.node_id)
                {
                    peer.trusted = mark.on;
                    peer.own = mark.on && mark.own;
                }
            }
            "/mesh/admit" => {
                if let Some(answer) = read::<AdmitNode>(body) {
                    self.mesh.nearby.retain(|n| n.node_id != answer.node_id);
                }
            }
            "/mesh/create" => {
                if let Some(create) = read::<CreateMesh>(body) {
                    (self.mesh.name, self.mesh.private) = (create.name, create.private);
                }
            }
            "/mesh/join" => self.mesh.name = "hafen-lab".into(),
            "/mesh/leave" => {
                (self.mesh.name, self.mesh.state) = ("home".into(), MeshState::Alone);
            }
            _ => {}
        }
        json_of(&self.mesh)
    }

    fn block(&mut self, mark: &MarkNode) {
        let name = self.peers.iter().find(|p| p.node_id == mark.node_id).map(|p| p.name.clone());
        self.mesh.blocked.retain(|b| b.node_id != mark.node_id);
        if mark.on {
            let node_id = mark.node_id.clone();
            let name = name.unwrap_or_default();
            self.mesh.blocked.push(BlockedNode { node_id, name, since_ms: now_ms() });
        }
    }
}

fn invite(mesh: &Mesh) -> Invite {
    let ticket = format!("ec1{}", "k7v9hn3tz2c4m5rw2xepd4ysf6au".repeat(9));
    // Not a code that leads anywhere: squares, so that the page has a picture to show.
    let squares: String = (0..37 * 37)
        .filter(|n| (n * n / 7 + n / 3) % 5 < 2)
        .map(|n| format!("M{} {}h1v1h-1z", n % 37, n / 37))
        .collect();
    let qr_svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-1 -1 39 39\"><path d=\"{squares}\"/></svg>"
    );
    let expires_at_ms = now_ms() + 7 * 86_400_000;
    Invite { ticket, expires_at_ms, qr_svg, mesh: info(&mesh.name, mesh.private, expires_at_ms) }
}

fn info(name: &str, private: bool, expires_at_ms: i64) -> TicketInfo {
    TicketInfo {
        mesh_id: "cd".repeat(32),
        name: name.into(),
        private,
        inviter: NodeId("0a".repeat(32)),
        inviter_name: "kanal".into(),
        expires_at_ms,
        joined: false,
        addresses: vec!["203.0.113.7:4302".into()],
    }
}

fn ticket(body: &[u8]) -> Option<TicketInfo> {
    let text: serde_json::Value = read(body)?;
    let good = text["ticket"].as_str()?.starts_with("ec1");
    good.then(|| info("hafen-lab", true, now_ms() + 86_400_000))
}

pub(crate) fn file(path: &str) -> Response {
    let name = path.trim_start_matches('/');
    let name = if name.is_empty() { "index.html" } else { name };
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    };
    // Names of the page's own files only.
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match std::fs::read(programs::ui().join(name)) {
        Ok(bytes) if plain => ([(CONTENT_TYPE, kind)], bytes).into_response(),
        _ => refused(StatusCode::NOT_FOUND, "There is no such file."),
    }
}
