//! Tasks that wait, in fair order, and places for those that run.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_api::{Settings, tasks::TaskKind};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

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
    /// By turns one and the other.
    Both,
}

impl Class {
    pub(super) fn of(kind: TaskKind) -> Self {
        match kind {
            TaskKind::Chat | TaskKind::Completion | TaskKind::Embedding => Self::Model,
            TaskKind::Wasm => Self::Core,
            TaskKind::Code => Self::Both,
        }
    }

    fn asks_model(self) -> bool {
        matches!(self, Self::Model | Self::Both)
    }

    fn takes_core(self) -> bool {
        matches!(self, Self::Core | Self::Both)
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

/// How many run, by node and by what they need.
type Running = HashMap<(NodeKey, Class), u32>;

#[derive(Default)]
struct State {
    queue: FairQueue<NodeKey, Waiting>,
    running: Running,
    /// Of each node, waiting and running.
    of_peer: HashMap<NodeKey, u32>,
}

struct Waiting {
    wish: Wish,
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
    wish: Wish,
    since: Instant,
    used: u64,
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
        let item = Waiting { wish, go };
        let Wish { peer, weight, cost, priority, .. } = wish;
        let changes = self.changes.subscribe();
        let ticket = self.lock().queue.push(peer, weight, cost, priority, item);
        self.call();
        Turn { line: Arc::clone(self), ticket, called, changes }
    }

    /// Calls those whose turn it is.
    pub(super) fn call(self: &Arc<Self>) {
        let limits = self.limits();
        loop {
            let mut state = self.lock();
            let Some(Waiting { wish, go }) = next(&mut state, limits) else { break };
            *state.running.entry((wish.peer, wish.class)).or_default() += 1;
            drop(state);
            // Whoever waited may be gone; its place is free again when it is dropped here.
            let line = Arc::clone(self);
            let place = Place { line, wish, since: Instant::now(), used: 0, left: false };
            if let Err(mut place) = go.send(place) {
                place.leave();
            }
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn limits(&self) -> Limits {
        let set = self.settings.borrow().tasks.concurrency;
        let slots = self.host.slots().max(1);
        let cores = std::thread::available_parallelism().map_or(1, |n| count(n.get() / 2)).max(1);
        match set {
            Some(set) => Limits { all: set.max(1), model: slots, core: u32::MAX },
            // One slot is left for the owner, who does not wait in this line.
            None => Limits { all: u32::MAX, model: (slots - 1).max(1), core: cores },
        }
    }

    pub(super) fn concurrency(&self) -> u32 {
        let Limits { all, model, core } = self.limits();
        all.min(model.saturating_add(core))
    }

    /// Running and waiting.
    pub(super) fn counts(&self) -> (u32, u32) {
        let state = self.lock();
        (sum(&state.running, |_, _| true), count(state.queue.len()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tasks at the same time: all together, those that ask a model, those that take a core.
#[derive(Clone, Copy, Debug)]
struct Limits {
    all: u32,
    model: u32,
    core: u32,
}

/// Takes the next one out of the line, if it may run.
fn next(state: &mut State, limits: Limits) -> Option<Waiting> {
    let State { queue, running, .. } = state;
    if sum(running, |_, _| true) >= limits.all {
        return None;
    }
    let model = sum(running, |_, class| class.asks_model()) < limits.model;
    let core = sum(running, |_, class| class.takes_core()) < limits.core;
    let room = |class: Class| (!class.asks_model() || model) && (!class.takes_core() || core);
    let share = |limit: u32| limit.min(limits.all).saturating_sub(1).max(1);
    let modest = |peer: NodeKey, class: Class| {
        let model = sum(running, |of, class| of == peer && class.asks_model());
        let core = sum(running, |of, class| of == peer && class.takes_core());
        (!class.asks_model() || model < share(limits.model))
            && (!class.takes_core() || core < share(limits.core))
    };
    // A node that has all places but one waits for others that could use the last one.
    let next = queue.pop(|peer, item| room(item.wish.class) && modest(*peer, item.wish.class));
    let next = next.or_else(|| queue.pop(|_, item| room(item.wish.class)));
    next.map(|(_, _, item)| item)
}

/// Tasks that run, of those that count.
fn sum(running: &Running, counts: impl Fn(NodeKey, Class) -> bool) -> u32 {
    let counted = running.iter().filter(|((peer, class), _)| counts(*peer, *class));
    counted.map(|(_, many)| *many).sum()
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
    /// Since when it runs.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// What it took in the end, in the unit of its cost.
    pub(super) fn used(&mut self, used: u64) {
        self.used = used;
    }

    /// Frees it without calling the next, for who is calling.
    fn leave(&mut self) {
        self.left = true;
        let Wish { peer, class, weight, cost, .. } = self.wish;
        let mut state = self.line.lock();
        if let Some(running) = state.running.get_mut(&(peer, class)) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                state.running.remove(&(peer, class));
            }
        }
        state.queue.charge(&peer, weight, self.used.saturating_sub(cost));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inference::{Answer, InferenceError, SubmitOptions, Work},
        storage::RequestKind,
        tasks::job::{BoxFuture, Host},
    };

    /// Has so many slots.
    #[derive(Debug)]
    struct Slots(u32);

    impl Host for Slots {
        fn infer(
            &self,
            _kind: RequestKind,
            _model: String,
            _work: Work,
            _options: SubmitOptions,
        ) -> BoxFuture<'_, Result<Answer, InferenceError>> {
            Box::pin(std::future::ready(Err(InferenceError::NoModel)))
        }

        fn model_here(&self, _name: String) -> BoxFuture<'_, Option<String>> {
            Box::pin(std::future::ready(None))
        }

        fn closed(&self) -> Option<String> {
            None
        }

        fn tell(&self, _text: String) {}

        fn slots(&self) -> u32 {
            self.0
        }
    }

    fn line(slots: u32, concurrency: Option<u32>) -> Arc<Line> {
        let mut settings = Settings::default();
        settings.tasks.concurrency = concurrency;
        let settings = watch::Sender::new(settings).subscribe();
        Arc::new(Line::new(Arc::new(Slots(slots)), settings))
    }

    fn wish(peer: u8, class: Class) -> Wish {
        Wish { peer: NodeKey([peer; 32]), class, weight: 10, cost: 100, priority: 5 }
    }

    fn run(turn: &mut Turn) -> Option<Place> {
        turn.called.try_recv().ok()
    }

    #[test]
    fn a_slot_is_left_for_the_owner_and_code_asks_the_model_too() {
        for (slots, set, many) in [(4, None, 3), (1, None, 1), (4, Some(9), 4), (4, Some(2), 2)] {
            let line = line(slots, set);
            let classes = [Class::Both, Class::Model].into_iter().cycle();
            let turns: Vec<Turn> =
                classes.take(12).map(|class| line.wait(wish(1, class))).collect();
            assert_eq!(line.counts(), (many, 12 - many), "{slots} slots, set {set:?}");
            drop(turns);
        }
    }

    #[test]
    fn a_node_that_holds_all_places_but_one_waits_for_others() {
        let line = line(3, Some(2));
        let mut first = line.wait(wish(1, Class::Model));
        let place = run(&mut first).expect("there is room");
        let mut again = line.wait(wish(1, Class::Model));
        let second = run(&mut again).expect("nobody else waits");
        let mut own = line.wait(wish(1, Class::Model));
        let mut other = line.wait(Wish { cost: 1 << 30, ..wish(2, Class::Model) });
        // By its debts the other one's turn would be later.
        line.lock().queue.charge(&NodeKey([2; 32]), 10, 1 << 30);
        drop(second);
        assert!(run(&mut own).is_none());
        let third = run(&mut other).expect("its turn");
        drop((place, third));
        run(&mut own).expect("its turn now");
    }

    #[test]
    fn who_used_more_than_was_said_pays_later() {
        let line = line(1, Some(1));
        let cheap = Wish { cost: 1, ..wish(1, Class::Core) };
        let mut place = run(&mut line.wait(cheap)).expect("there is room");
        let mut again = line.wait(cheap);
        let mut honest: Vec<Turn> = (0..5).map(|_| line.wait(wish(2, Class::Core))).collect();
        place.used(10_000);
        drop(place);
        for turn in &mut honest {
            drop(run(turn).expect("before the one that owes"));
        }
        run(&mut again).expect("the last");
    }
}
