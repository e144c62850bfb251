//! Serves other nodes' tasks: admission, fair queue, limits, leases.
//!
//! Every stream is read in [`intake`]: one frame says what is wanted. What is taken becomes a
//! [`serving::Serving`] of its own, which waits in the [`line`], runs the job through
//! [`Here`](super::run::Here) and streams what comes. A durable task outlives its stream until its
//! lease runs out, so that an origin that was killed can attach to it again; its result outlives it
//! in [`kept`].
//!
//! Whoever asks may be hostile: what comes is checked here as if no origin had ([`check_job`]), is
//! counted before it is kept ([`held`]), and holds its place only as long as somebody reads.
//!
//! [`check_job`]: super::kinds::check_job

pub mod admission;
mod held;
mod intake;
pub mod kept;
mod line;
mod serving;
mod sink;
#[cfg(test)]
pub(in crate::tasks) mod tests;

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_api::{Settings, tasks::KindAbility};
use held::{Memory, OneEach};
use kept::{Kept, Key};
use line::Line;
use sink::Sink;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{board::Board, rows::Around, run::Here, wire};
use crate::mesh::{
    Mesh, NodeKey,
    net::{PeerStream, StreamHandler},
};

/// What a worker is made of.
#[derive(Clone, Debug)]
pub struct WorkerSetup {
    pub here: Here,
    /// Those in force.
    pub settings: watch::Receiver<Settings>,
    pub kept: Arc<dyn Kept>,
    pub board: Board,
    pub around: Arc<dyn Around>,
}

/// Other nodes' tasks on this node. Clones share it.
#[derive(Clone, Debug)]
pub struct Worker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setup: WorkerSetup,
    line: Arc<Line>,
    /// Durable tasks that wait or run, or whose result was not acknowledged yet: where a stream
    /// that attaches to one is given.
    served: Mutex<HashMap<Key, mpsc::Sender<Sink>>>,
    memory: Memory,
    /// Kept results that are being read.
    replays: OneEach,
    /// Models that are loaded for nothing but a question about them.
    loads: OneEach,
    abilities: tokio::sync::OnceCell<Vec<KindAbility>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Worker {
    /// Ready to serve; nothing comes before [`Worker::serve_on`].
    pub fn start(setup: WorkerSetup) -> Self {
        let line = Line::new(Arc::clone(&setup.here.host), setup.settings.clone());
        let inner = Arc::new(Inner {
            setup,
            line: Arc::new(line),
            served: Mutex::default(),
            memory: Memory::default(),
            replays: OneEach::default(),
            loads: OneEach::default(),
            abilities: tokio::sync::OnceCell::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        inner.tasks.spawn(follow_settings(Arc::clone(&inner)));
        Self { inner }
    }

    /// Takes the mesh's streams of tasks from now on.
    pub fn serve_on(&self, mesh: &Mesh) {
        mesh.serve_streams(wire::STREAM, Arc::new(self.clone()));
    }

    /// Other nodes' tasks that run and that wait here.
    pub fn counts(&self) -> (u32, u32) {
        self.inner.line.counts()
    }

    /// How many may run at the same time, as things stand.
    pub fn concurrency(&self) -> u32 {
        self.inner.line.concurrency()
    }

    /// Ends all tasks here; results of durable ones that nobody acknowledged are kept.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl StreamHandler for Worker {
    fn serve(&self, stream: PeerStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(intake::take(Arc::clone(&self.inner), stream))
    }
}

impl Inner {
    fn served(&self) -> MutexGuard<'_, HashMap<Key, mpsc::Sender<Sink>>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn abilities(&self) -> &[KindAbility] {
        self.abilities.get_or_init(|| self.setup.here.sandbox.abilities()).await
    }

    fn weight_of(&self, peer: NodeKey) -> u32 {
        /// Of nodes that the owner gave no share of their own.
        const USUAL: u32 = 10;
        let settings = self.setup.settings.borrow();
        let weight = settings.tasks.weights.get(&peer.to_id()).copied();
        weight.unwrap_or(USUAL).clamp(1, 100)
    }
}

/// More may run at once after a change.
async fn follow_settings(inner: Arc<Inner>) {
    let mut settings = inner.setup.settings.clone();
    loop {
        tokio::select! {
            changed = settings.changed() => if changed.is_err() { return },
            () = inner.stop.cancelled() => return,
        }
        inner.line.call();
    }
}
