//! Counters for Prometheus. Names and labels are few and fixed: never a prompt, a path with an
//! id, or a client's address.

use std::sync::atomic::{AtomicU64, Ordering};

use agent_api::{
    mesh::{PeerCounts, Refused},
    tasks::{Task, TaskCounts},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{inference::Finished, mesh::net::FrameCounts};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HttpLabels {
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TaskLabels {
    kind: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusedLabels {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FrameLabels {
    direction: &'static str,
}

/// What changes between two readings, set when somebody reads.
#[derive(Clone, Debug)]
pub struct Gauges {
    pub running: u32,
    pub queued: u32,
    pub tokens_per_s: f64,
    pub uptime_s: f64,
    pub model_ready: bool,
    pub runner_crashes: u32,
    pub node_memory_bytes: u64,
    pub runner_memory_bytes: u64,
    pub pulls: PullBytes,
    pub peers: PeerCounts,
    /// Messages of the mesh that were refused since the start, by reason.
    pub refused: Vec<Refused>,
    pub frames: FrameCounts,
    pub tasks: TaskCounts,
    /// Own tasks that are with nodes.
    pub tasks_in_flight: usize,
    /// Other nodes' tasks here: running and waiting.
    pub served: (u32, u32),
}

/// What all pulls since the start did; see `models::pull::Counters`.
#[derive(Clone, Copy, Debug)]
pub struct PullBytes {
    pub received: u64,
    pub hashed: u64,
    pub read_back: u64,
}

/// The node's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    first_token: Histogram,
    duration: Histogram,
    http: Family<HttpLabels, Counter>,
    running: Gauge,
    queued: Gauge,
    speed: Gauge<f64, AtomicU64>,
    uptime: Gauge<f64, AtomicU64>,
    model_ready: Gauge,
    runner_crashes: Gauge,
    node_memory: Gauge,
    runner_memory: Gauge,
    pull_received: Counter,
    pull_hashed: Counter,
    pull_read_back: Counter,
    peers_connected: Gauge,
    peers_known: Gauge,
    peers_relayed: Gauge,
    mesh_refused: Family<RefusedLabels, Counter>,
    mesh_frames: Family<FrameLabels, Counter>,
    mesh_frame_bytes: Family<FrameLabels, Counter>,
    tasks: Family<TaskLabels, Counter>,
    tasks_queued: Gauge,
    tasks_active: Gauge,
    tasks_in_flight: Gauge,
    served_running: Gauge,
    served_waiting: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("edgecoder");
        // 5 ms to 2 min, doubling-ish: from a cached prompt to a long answer on a slow machine.
        let seconds = || {
            Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30., 60., 120.,
            ])
        };
        let metrics = Self {
            requests: Family::default(),
            tokens: Family::default(),
            first_token: seconds(),
            duration: seconds(),
            http: Family::default(),
            running: Gauge::default(),
            queued: Gauge::default(),
            speed: Gauge::default(),
            uptime: Gauge::default(),
            model_ready: Gauge::default(),
            runner_crashes: Gauge::default(),
            node_memory: Gauge::default(),
            runner_memory: Gauge::default(),
            pull_received: Counter::default(),
            pull_hashed: Counter::default(),
            pull_read_back: Counter::default(),
            peers_connected: Gauge::default(),
            peers_known: Gauge::default(),
            peers_relayed: Gauge::default(),
            mesh_refused: Family::default(),
            mesh_frames: Family::default(),
            mesh_frame_bytes: Family::default(),
            tasks: Family::default(),
            tasks_queued: Gauge::default(),
            tasks_active: Gauge::default(),
            tasks_in_flight: Gauge::default(),
            served_running: Gauge::default(),
            served_waiting: Gauge::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("requests", "Inference requests that ended", m.requests.clone());
        registry.register("tokens", "Tokens of requests that ended", m.tokens.clone());
        registry.register_with_unit(
            "first_token",
            "From acceptance to the first token",
            Unit::Seconds,
            m.first_token.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From acceptance to the end",
            Unit::Seconds,
            m.duration.clone(),
        );
        registry.register("http_requests", "HTTP requests by route and status", m.http.clone());
        registry.register("requests_running", "Requests in the runner", m.running.clone());
        registry.register("requests_queued", "Requests waiting for a slot", m.queued.clone());
        registry.register("tokens_per_second", "Generation speed, last 2 s", m.speed.clone());
        registry.register_with_unit("uptime", "Since the start", Unit::Seconds, m.uptime.clone());
        registry.register("model_ready", "1 while a model is loaded", m.model_ready.clone());
        registry.register(
            "runner_crashes",
            "Unexpected ends of the runner since the start",
            m.runner_crashes.clone(),
        );
        registry.register_with_unit(
            "node_memory",
            "Resident memory of the node",
            Unit::Bytes,
            m.node_memory.clone(),
        );
        registry.register_with_unit(
            "runner_memory",
            "Resident memory of the runner",
            Unit::Bytes,
            m.runner_memory.clone(),
        );
        for (name, help, counter) in [
            ("pull_received", "Of layers, over the network", &m.pull_received),
            ("pull_hashed", "Of pulls that went into a hash", &m.pull_hashed),
            (
                "pull_read_back",
                "Of these, read from disk because they came ahead of their turn",
                &m.pull_read_back,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
        metrics.register_mesh(&mut registry);
        metrics.register_tasks(&mut registry);
        Self { registry, ..metrics }
    }
}

impl Metrics {
    fn register_mesh(&self, registry: &mut Registry) {
        registry.register("mesh_peers_connected", "Connected peers", self.peers_connected.clone());
        registry.register("mesh_peers_known", "Peers with a recent word", self.peers_known.clone());
        registry.register(
            "mesh_peers_relayed",
            "Connected peers that are reached through a relay",
            self.peers_relayed.clone(),
        );
        registry.register(
            "mesh_refused",
            "Messages of the mesh that were refused, by reason",
            self.mesh_refused.clone(),
        );
        registry.register(
            "mesh_frames",
            "Control frames of the mesh, by direction",
            self.mesh_frames.clone(),
        );
        registry.register_with_unit(
            "mesh_frame",
            "In control frames of the mesh, by direction",
            Unit::Bytes,
            self.mesh_frame_bytes.clone(),
        );
    }

    fn register_tasks(&self, registry: &mut Registry) {
        registry.register("tasks", "Own tasks that ended, by kind and state", self.tasks.clone());
        for (name, help, gauge) in [
            ("tasks_queued", "Tasks that wait for a node", &self.tasks_queued),
            ("tasks_active", "Tasks that a node has", &self.tasks_active),
            ("tasks_in_flight", "Own tasks that are being carried", &self.tasks_in_flight),
            ("tasks_served_running", "Other nodes' tasks that run here", &self.served_running),
            ("tasks_served_waiting", "Other nodes' tasks that wait here", &self.served_waiting),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    /// Counts an own task that ended.
    pub(super) fn task_ended(&self, task: &Task) {
        let labels = TaskLabels { kind: task.kind.as_str(), state: task.state.as_str() };
        self.tasks.get_or_create(&labels).inc();
    }

    pub(super) fn finished(&self, finished: &Finished) {
        let Finished { kind, outcome, usage, first_token_ms, total_ms, .. } = finished;
        let labels = RequestLabels { kind: kind.as_str(), outcome: outcome.as_str() };
        self.requests.get_or_create(&labels).inc();
        let tokens = |direction, count: u32| {
            self.tokens.get_or_create(&TokenLabels { direction }).inc_by(count.into());
        };
        tokens("prompt", usage.prompt_tokens);
        tokens("prompt_cached", usage.cached_tokens);
        tokens("completion", usage.completion_tokens);
        if let Some(ms) = first_token_ms {
            self.first_token.observe(ms / 1e3);
        }
        self.duration.observe(total_ms / 1e3);
    }

    /// Counts an HTTP request. `route` is a pattern of the router, so that labels stay few.
    pub fn http(&self, route: &str, status: u16) {
        let labels = HttpLabels { route: route.to_owned(), status };
        self.http.get_or_create(&labels).inc();
    }

    /// The text format that Prometheus reads.
    pub fn render(&self, gauges: &Gauges) -> String {
        self.running.set(gauges.running.into());
        self.queued.set(gauges.queued.into());
        self.speed.set(gauges.tokens_per_s);
        self.uptime.set(gauges.uptime_s);
        self.model_ready.set(gauges.model_ready.into());
        self.runner_crashes.set(gauges.runner_crashes.into());
        self.node_memory.set(i64::try_from(gauges.node_memory_bytes).unwrap_or(i64::MAX));
        self.runner_memory.set(i64::try_from(gauges.runner_memory_bytes).unwrap_or(i64::MAX));
        let PullBytes { received, hashed, read_back } = gauges.pulls;
        for (counter, total) in [
            (&self.pull_received, received),
            (&self.pull_hashed, hashed),
            (&self.pull_read_back, read_back),
        ] {
            // Counted elsewhere, and only ever up.
            counter.inner().store(total, Ordering::Relaxed);
        }
        self.peers_connected.set(gauges.peers.connected.into());
        self.peers_known.set(gauges.peers.known.into());
        self.peers_relayed.set(gauges.peers.relay.into());
        for Refused { reason, count } in &gauges.refused {
            let labels = RefusedLabels { reason: reason.clone() };
            // The mesh counts; a counter here only says what it counted.
            self.mesh_refused.get_or_create(&labels).inner().store(*count, Ordering::Relaxed);
        }
        let FrameCounts { sent, received } = gauges.frames;
        for (direction, count) in [("out", sent), ("in", received)] {
            let labels = FrameLabels { direction };
            let counters = [
                (self.mesh_frames.get_or_create(&labels), count.frames),
                (self.mesh_frame_bytes.get_or_create(&labels), count.bytes),
            ];
            for (counter, total) in counters {
                counter.inner().store(total, Ordering::Relaxed);
            }
        }
        self.tasks_queued.set(gauges.tasks.queued.into());
        self.tasks_active.set(gauges.tasks.active.into());
        self.tasks_in_flight.set(i64::try_from(gauges.tasks_in_flight).unwrap_or(i64::MAX));
        self.served_running.set(gauges.served.0.into());
        self.served_waiting.set(gauges.served.1.into());
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::net::FrameCount;

    #[test]
    fn the_mesh_is_among_the_metrics_and_counts_do_not_add_up_twice() {
        let metrics = Metrics::default();
        let gauges = |count| Gauges {
            running: 0,
            queued: 0,
            tokens_per_s: 0.0,
            uptime_s: 1.0,
            model_ready: false,
            runner_crashes: 0,
            node_memory_bytes: 0,
            runner_memory_bytes: 0,
            pulls: PullBytes { received: 0, hashed: 0, read_back: 0 },
            peers: PeerCounts { connected: 3, known: 5, ..PeerCounts::default() },
            refused: vec![Refused { reason: "bad_signature".into(), count }],
            frames: FrameCounts {
                sent: FrameCount { frames: count, bytes: 100 * count },
                received: FrameCount { frames: 1, bytes: 5 },
            },
            tasks: TaskCounts { queued: 4, ..TaskCounts::default() },
            tasks_in_flight: 1,
            served: (2, 0),
        };
        metrics.render(&gauges(7));
        let text = metrics.render(&gauges(9));
        for line in [
            "edgecoder_mesh_peers_connected 3",
            "edgecoder_mesh_peers_known 5",
            "edgecoder_tasks_queued 4",
            "edgecoder_mesh_refused_total{reason=\"bad_signature\"} 9",
            "edgecoder_mesh_frames_total{direction=\"out\"} 9",
            "edgecoder_mesh_frame_bytes_total{direction=\"out\"} 900",
            "edgecoder_mesh_frames_total{direction=\"in\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
    }
}
