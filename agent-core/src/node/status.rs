//! Readings of a node: status, health, serving state.

use std::{
    sync::PoisonError,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use agent_api::{
    machine::Machine,
    models::{ModelState, ModelStatus},
    node::{Health, NodeInfo, Requests, Serving, ServingState, Speed, Status},
};

use super::{
    Node,
    metrics::{Gauges, PullBytes},
};
use crate::{clock::now_ms, inference::InferenceState, machine::Meters};

/// A reading is good for this long: shares of a processor need some time between readings.
const READING_AGE: Duration = Duration::from_millis(700);

/// The meters and their last reading.
#[derive(Debug)]
pub(super) struct Machines {
    meters: Meters,
    last: Option<(Instant, Machine)>,
}

pub(super) async fn status(node: &Node) -> Status {
    let engine = node.engine();
    let machine = node.machine(engine.runner_pid()).await;
    Status {
        at_ms: now_ms(),
        node: node.info(),
        serving: node.serving_with(&engine),
        model: node.model_status(),
        speed: node.speed(),
        requests: node.requests(&engine),
        machine,
        notices: node.inner.notices.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    }
}

impl Node {
    fn engine(&self) -> InferenceState {
        self.inner.inference.state().borrow().clone()
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            node_id: self.inner.node_id.clone(),
            name: self
                .inner
                .settings
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .node_name
                .clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            data_dir: self.inner.config.paths.data_dir.display().to_string(),
            pid: std::process::id(),
            started_at_ms: self.inner.started_at_ms,
            url: self.url(),
            exposed: !self.inner.listen.ip().is_loopback(),
        }
    }

    /// Reads the meters, at most about once a second.
    async fn machine(&self, runner_pid: Option<u32>) -> Machine {
        let node = self.clone();
        let read = move || {
            let mut machines = node.inner.meters.lock().unwrap_or_else(PoisonError::into_inner);
            // Made at the first reading: looking for GPUs can take a while, and a start should not.
            let machines = machines.get_or_insert_with(|| Machines {
                meters: Meters::new(node.inner.config.paths.data_dir.clone()),
                last: None,
            });
            match &machines.last {
                Some((at, machine)) if at.elapsed() < READING_AGE => machine.clone(),
                _ => {
                    let machine = machines.meters.read(runner_pid);
                    machines.last = Some((Instant::now(), machine.clone()));
                    machine
                }
            }
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    fn speed(&self) -> Speed {
        self.inner.speed.lock().unwrap_or_else(PoisonError::into_inner).speed()
    }

    fn requests(&self, engine: &InferenceState) -> Requests {
        let counts = {
            let mut today = self.inner.today.lock().unwrap_or_else(PoisonError::into_inner);
            today.roll(now_ms());
            today.counts
        };
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        Requests {
            running: engine.running,
            queued: engine.queued,
            oldest_wait_ms: engine
                .oldest_waiting_since
                .map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)),
            slots: engine.slots(),
            done_today: count(counts.done),
            failed_today: count(counts.failed),
            tokens_today: count(counts.tokens),
        }
    }

    pub fn model_status(&self) -> ModelStatus {
        let engine = self.engine();
        let active = engine.active.as_ref();
        ModelStatus {
            state: engine.model_state(),
            reason: engine.reason(),
            active: active.map(|active| active.target.model.describe(true)),
            loaded: engine.loaded().cloned(),
            retry_at_ms: active.and_then(|active| active.retry_at_ms),
            runner_crashes: engine.runner_crashes,
            runner_pid: engine.runner_pid(),
            resident: engine.residents.iter().map(|state| state.residency.clone()).collect(),
        }
    }

    pub fn serving(&self) -> Serving {
        self.serving_with(&self.engine())
    }

    pub(super) fn serving_with(&self, engine: &InferenceState) -> Serving {
        let pause = *self.inner.pause.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, reason) = if self.is_stopping() {
            (ServingState::Stopping, "The node is shutting down.".into())
        } else if pause.is_some() {
            let reason = "Paused by you. Requests from this computer still work and load the model again while they need it.";
            (ServingState::Paused, reason.into())
        } else {
            let (state, reason) = describe(engine, &self.url());
            match self.tasks().shared().is_draining() {
                true => (state, format!("It drains: no tasks are started. {reason}")),
                false => (state, reason),
            }
        };
        Serving { state, reason, until_ms: pause.and_then(|pause| pause.until_ms) }
    }

    /// What the tray polls.
    pub fn health(&self) -> Health {
        let engine = self.engine();
        Health {
            ok: !self.is_stopping(),
            node_id: self.inner.node_id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            serving: self.serving_with(&engine),
            model: engine.active.map(|active| active.residency.id),
            running: engine.running,
            queued: engine.queued,
            tokens_per_s: self.speed().tokens_per_s,
            uptime_ms: self.uptime_ms(),
        }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The metrics in Prometheus' text format.
    pub async fn render_metrics(&self) -> String {
        let engine = self.engine();
        let machine = self.machine(engine.runner_pid()).await;
        let pulls = self.inner.pulls.counters();
        let mesh = self.mesh();
        self.inner.metrics.render(&Gauges {
            running: engine.running,
            queued: engine.queued,
            tokens_per_s: self.speed().tokens_per_s,
            uptime_s: self.inner.started.elapsed().as_secs_f64(),
            model_ready: engine.model_state() == ModelState::Ready,
            runner_crashes: engine.runner_crashes,
            node_memory_bytes: machine.node_memory_bytes,
            runner_memory_bytes: machine.runner_memory_bytes.unwrap_or(0),
            pulls: PullBytes {
                received: pulls.received.load(Ordering::Relaxed),
                hashed: pulls.hashed.load(Ordering::Relaxed),
                read_back: pulls.read_back.load(Ordering::Relaxed),
            },
            peers: mesh.counts,
            refused: mesh.refused,
            frames: self.inner.mesh.frames(),
            tasks: self.tasks().counts().await.unwrap_or_default(),
            tasks_in_flight: self.tasks().in_flight(),
            served: self.tasks().shared().served(),
        })
    }
}

fn describe(engine: &InferenceState, url: &str) -> (ServingState, String) {
    match engine.model_state() {
        ModelState::Ready | ModelState::Unloaded if engine.running > 0 => {
            let queued = match engine.queued {
                0 => String::new(),
                n => format!(", {n} waiting"),
            };
            let reason = format!("{} of {} slots busy{queued}.", engine.running, engine.slots());
            (ServingState::Serving, reason)
        }
        ModelState::Ready | ModelState::Unloaded => {
            (ServingState::Idle, format!("Editors and scripts reach this node at {url}/v1."))
        }
        ModelState::Loading => (ServingState::Starting, engine.reason()),
        ModelState::None | ModelState::Restarting | ModelState::Failed => {
            (ServingState::Degraded, engine.reason())
        }
    }
}
