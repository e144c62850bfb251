//! Tasks that wait, in fair order, and places for those that run.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_api::{Settings, tasks::TaskKind};
use tokio::sync::{oneshot, watch};

use crate::{
    mesh::NodeKey,
    tasks::{
        fair::{FairQueue, Ticket},
        job::SharedHost,
    },
};

/// What a task needs while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// A slot of a model.
    Model,
    /// A core.
    Core,
}

impl Class {
    pub(super) fn of(kind: TaskKind) -> Self {
        match kind {
            TaskKind::Chat | TaskKind::Completion | TaskKind::Embedding => Self::Model,
            TaskKind::Wasm | TaskKind::Code => Self::Core,
        }
    }
}

/// The queue of a worker.
pub(super) struct Line {
    host: SharedHost,
    settings: watch::Receiver<Settings>,
    state: Mutex<State>,
    /// Counts changes of the order.
    changes: watch::Sender<u64>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    queue: FairQueue<NodeKey, Waiting>,
    running: HashMap<Class, u32>,
    /// Of each node, waiting and running.
    of_peer: HashMap<NodeKey, u32>,
}

struct Waiting {
    class: Class,
    go: oneshot::Sender<Place>,
}

/// A task is counted for its node while this lives.
#[derive(Debug)]
pub(super) struct Seat {
    line: Arc<Line>,
    peer: NodeKey,
}

/// A task runs while this lives.
#[derive(Debug)]
pub(super) struct Place {
    line: Arc<Line>,
    class: Class,
    left: bool,
}

/// A task that waits; dropping it takes it out of the line.
#[derive(Debug)]
pub(super) struct Turn {
    line: Arc<Line>,
    ticket: Ticket,
    pub(super) called: oneshot::Receiver<Place>,
    pub(super) changes: watch::Receiver<u64>,
}

/// Whose turn is to come, and how much it weighs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) peer: NodeKey,
    pub(super) class: Class,
    pub(super) weight: u32,
    pub(super) cost: u64,
    pub(super) priority: u8,
}

impl Line {
    pub(super) fn new(host: SharedHost, settings: watch::Receiver<Settings>) -> Self {
        Self { host, settings, state: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// Counts a task for its node. The closure says whether it may come, given how many of that
    /// node are here and how many of all nodes wait; nothing changes in between.
    pub(super) fn seat<E>(
        self: &Arc<Self>,
        peer: NodeKey,
        may: impl FnOnce(u32, u32) -> Result<(), E>,
    ) -> Result<Seat, E> {
        let mut state = self.lock();
        let of_peer = state.of_peer.get(&peer).copied().unwrap_or(0);
        may(of_peer, count(state.queue.len()))?;
        state.of_peer.insert(peer, of_peer + 1);
        drop(state);
        Ok(Seat { line: Arc::clone(self), peer })
    }

    pub(super) fn wait(self: &Arc<Self>, wish: Wish) -> Turn {
        let (go, called) = oneshot::channel();
        let item = Waiting { class: wish.class, go };
        let Wish { peer, weight, cost, priority, .. } = wish;
        let changes = self.changes.subscribe();
        let ticket = self.lock().queue.push(peer, weight, cost, priority, item);
        self.call();
        Turn { line: Arc::clone(self), ticket, called, changes }
    }

    /// Calls those whose turn it is.
    pub(super) fn call(self: &Arc<Self>) {
        let (total, of_class) = self.limits();
        loop {
            let mut state = self.lock();
            let State { queue, running, .. } = &mut *state;
            let all: u32 = running.values().sum();
            let room = |class: Class| running.get(&class).copied().unwrap_or(0) < of_class(class);
            let next = if all < total { queue.pop(|_, item| room(item.class)) } else { None };
            let Some((_, _, item)) = next else { break };
            *running.entry(item.class).or_default() += 1;
            drop(state);
            // Whoever waited may be gone; its place is free again when it is dropped here.
            let place = Place { line: Arc::clone(self), class: item.class, left: false };
            if let Err(mut place) = item.go.send(place) {
                place.leave();
            }
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// All together, and of each class.
    fn limits(&self) -> (u32, impl Fn(Class) -> u32 + use<>) {
        let set = self.settings.borrow().tasks.concurrency;
        let slots = self.host.slots().max(1);
        let cores = std::thread::available_parallelism().map_or(1, |n| count(n.get() / 2)).max(1);
        let of_class = move |class| match class {
            _ if set.is_some() => u32::MAX,
            Class::Model => slots,
            Class::Core => cores,
        };
        (set.map_or(u32::MAX, |set| set.max(1)), of_class)
    }

    pub(super) fn concurrency(&self) -> u32 {
        let (total, of_class) = self.limits();
        total.min(of_class(Class::Model).saturating_add(of_class(Class::Core)))
    }

    /// Running and waiting.
    pub(super) fn counts(&self) -> (u32, u32) {
        let state = self.lock();
        (state.running.values().sum(), count(state.queue.len()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Turn {
    /// 1 is next.
    pub(super) fn position(&self) -> Option<u32> {
        self.line.lock().queue.position(self.ticket)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let removed = self.line.lock().queue.remove(self.ticket);
        if removed.is_some() {
            self.line.changes.send_modify(|changes| *changes += 1);
        }
    }
}

impl Place {
    /// Frees it without calling the next, for who is calling.
    fn leave(&mut self) {
        self.left = true;
        let mut state = self.line.lock();
        if let Some(running) = state.running.get_mut(&self.class) {
            *running = running.saturating_sub(1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.left {
            self.leave();
            self.line.call();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.line.lock();
        if let Some(here) = state.of_peer.get_mut(&self.peer) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                state.of_peer.remove(&self.peer);
            }
        }
    }
}
