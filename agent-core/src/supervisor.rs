//! Keeps a node running: starts it, serves its API, and starts it again when it fails.
//!
//! The state machine is `Starting -> Running -> Restarting -> Starting ...`, with exponential
//! backoff between attempts; `Stopping -> Stopped` ends it. Hosts watch the state and show it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_api::{Event, host::HostState};
use axum::Router;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{api, backoff::Backoff, clock::now_ms, config::Config, node::Node, text::sentence};

/// A node that was up this long is trusted again: its next failure is waited for briefly.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);

/// Hosts one node. Clones share it.
#[derive(Clone, Debug)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: watch::Sender<HostState>,
    node: Mutex<Option<Node>>,
    restart: Notify,
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl Supervisor {
    /// Starts the node on `runtime`. Never fails: what goes wrong is in the state.
    pub fn start(config: Config, runtime: &tokio::runtime::Handle) -> Self {
        let supervisor = Self {
            inner: Arc::new(Inner {
                state: watch::Sender::new(HostState::Starting),
                node: Mutex::new(None),
                restart: Notify::new(),
                stop: CancellationToken::new(),
                stopped: CancellationToken::new(),
            }),
        };
        runtime.spawn(supervisor.clone().run(config));
        supervisor
    }

    pub fn state(&self) -> watch::Receiver<HostState> {
        self.inner.state.subscribe()
    }

    /// The running node.
    pub fn node(&self) -> Option<Node> {
        self.inner.node.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The router without HTTP's guards, for the host's own window. `None` while the node is down.
    pub fn router(&self) -> Option<Router> {
        self.node().map(|node| api::router(&node))
    }

    /// Ends the wait for the next attempt, or restarts a running node.
    pub fn restart_now(&self) {
        self.inner.restart.notify_one();
    }

    /// Stops the node and stays stopped. Returns when it is over, within
    /// [`limits::SHUTDOWN`](crate::config::limits::SHUTDOWN).
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.stopped.cancelled().await;
    }

    async fn run(self, config: Config) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        while !self.inner.stop.is_cancelled() {
            self.set(HostState::Starting);
            // A request to restart that came while the node was down is what happens now.
            let _ = self.inner.restart.notified().now_or_never();
            let started = Instant::now();
            let reason = match self.run_once(config.clone()).await {
                Ended::Stop => break,
                Ended::Restart => {
                    self.set(HostState::Starting);
                    self.take_down().await;
                    continue;
                }
                Ended::Failed(reason) => sentence(&reason),
            };
            if started.elapsed() >= TRUSTED_AFTER {
                backoff.reset();
            }
            let wait = backoff.next_wait();
            let attempt = backoff.attempt();
            tracing::error!("the node is down, attempt {attempt} in {wait:.1?}: {reason}");
            let retry_at_ms = now_ms() + i64::try_from(wait.as_millis()).unwrap_or(0);
            self.set(HostState::Restarting { attempt, retry_at_ms, reason });
            self.take_down().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.inner.restart.notified() => {}
                () = self.inner.stop.cancelled() => {}
            }
        }
        self.set(HostState::Stopping);
        self.take_down().await;
        self.set(HostState::Stopped);
        self.inner.stopped.cancel();
    }

    /// One life of a node: until it fails, or a restart or the end is asked for.
    async fn run_once(&self, config: Config) -> Ended {
        // Not cut short by a stop: a node half started has tasks that only its shutdown ends.
        let node = match Node::start(config).await {
            Ok(node) => node,
            Err(e) => return Ended::Failed(e.to_string()),
        };
        api::serve(&node);
        *self.inner.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.clone());
        self.set(HostState::Running);
        tokio::select! {
            reason = node.failed() => Ended::Failed(reason),
            () = self.inner.restart.notified() => Ended::Restart,
            () = self.inner.stop.cancelled() => Ended::Stop,
        }
    }

    async fn take_down(&self) {
        let node = self.inner.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(node) = node {
            node.shutdown().await;
        }
    }

    fn set(&self, state: HostState) {
        self.inner.state.send_replace(state);
    }

    /// Events across the node's lives: `Host` at every change of the supervisor, and from a
    /// running node a snapshot, then changes.
    pub fn subscribe(&self) -> impl Stream<Item = Event> + Send + use<> {
        let supervisor = self.clone();
        let mut states = self.state();
        async_stream::stream! {
            loop {
                let state = states.borrow_and_update().clone();
                let running = state == HostState::Running;
                let over = state == HostState::Stopped;
                yield Event::Host { state };
                if over {
                    return;
                }
                let events = if running { supervisor.node().and_then(|node| node.subscribe()) } else { None };
                let Some(events) = events else {
                    if states.changed().await.is_err() {
                        return;
                    }
                    continue;
                };
                let mut events = std::pin::pin!(events);
                loop {
                    tokio::select! {
                        event = events.next() => match event {
                            Some(event) => yield event,
                            None => {
                                // The node stopped; its successor is announced by the state.
                                if states.changed().await.is_err() {
                                    return;
                                }
                                break;
                            }
                        },
                        changed = states.changed() => {
                            if changed.is_err() {
                                return;
                            }
                            break;
                        }
                    }
                }
            }
        }
    }
}

enum Ended {
    Stop,
    Restart,
    Failed(String),
}
