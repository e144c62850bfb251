//! One task in flight: from its row to a node, and back with what became of it.

mod pieces;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_api::{
    NodeId, TaskId,
    tasks::{TaskEvent, TaskState},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    lease::{Begin, LeaseNews, Live, pump},
    news::News,
    outcome::{self, Seen, Taken},
};
use crate::{
    backoff::Backoff,
    clock::now_ms,
    storage::tasks::{AttemptRow, TaskRow},
    tasks::{
        job::{Job, Offer},
        known::Underway,
        lifecycle::{Effect, Input, Life, Step},
        placement::{NodeView, Placed, Wanted, estimate_tokens},
        reputation::Experience,
    },
};

/// A worker that is not renewed for this long forgets the task; `remote` renews three times as
/// often.
const LEASE: Duration = Duration::from_secs(30);
/// Transitions that nobody has to wait for are on disk after this long.
const FLUSH: Duration = Duration::from_millis(300);
/// News of leases that wait: one of each replica, and a little more.
const NEWS: usize = 16;
/// Orders to a flight: it has nothing better to do than to read them.
const CONTROLS: usize = 4;
/// Waits after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A guess for answers without a limit.
const ANSWER_TOKENS: u32 = 256;

/// What may be asked of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Cancel,
    /// It may have expired.
    Tick,
}

/// Text so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Partial(Arc<Mutex<String>>);

impl Partial {
    pub(super) fn lock(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of a flight.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) control: mpsc::Sender<Control>,
    pub(super) partial: Partial,
    /// Cancelled when it is over.
    pub(super) over: CancellationToken,
}

/// What becomes of a task that leaves its flight.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    Ended,
    /// No node can take it now: back to its lane, which waits too.
    Parked,
    /// Later again.
    Delay(Duration),
}

/// Carries one task as far as it goes now.
pub(super) async fn fly(inner: Arc<Inner>, id: TaskId, lane: Option<i64>) {
    let (control, controls) = mpsc::channel(CONTROLS);
    let flight = Flight { control, partial: Partial::default(), over: CancellationToken::new() };
    inner.book().board(&id, flight.clone());
    let mut place = None;
    let after = match Run::load(&inner, &id, controls, flight.partial).await {
        Ok(Some(mut run)) => {
            place = Some((run.row.need, run.row.task.priority));
            run.go().await
        }
        Ok(None) => After::Ended,
        Err(problem) => {
            tracing::warn!(task = id.fmt_short(), "a task has to wait: {problem}");
            tokio::time::sleep(PAUSE.0).await;
            After::Delay(PAUSE.0)
        }
    };
    inner.landed(&id, lane, place, after);
    flight.over.cancel();
}

#[derive(Debug)]
struct Run {
    inner: Arc<Inner>,
    row: TaskRow,
    job: Job,
    life: Life,
    /// Attempts of which something is not on disk yet, or that live.
    tries: BTreeMap<u64, AttemptRow>,
    changed: BTreeSet<u64>,
    /// Not on disk yet.
    events: Vec<TaskEvent>,
    flush_at: Option<Instant>,
    leases: HashMap<u64, Live>,
    results: HashMap<u64, (NodeId, Taken)>,
    /// Nodes that were asked in this flight and what they said.
    tried: Vec<(NodeId, String)>,
    /// Nodes that agree, of those that were compared.
    verdict: Option<(usize, usize)>,
    settled: Option<u64>,
    /// Nodes that said that it would fail anywhere, and why.
    gave_up: Vec<(NodeId, String)>,
    /// Text of nodes that were lost, which the next one goes on from, and its tokens.
    continued: (String, u32),
    partial: Partial,
    failed: bool,
    /// The row was ended by somebody else.
    gone: bool,
    news: mpsc::Sender<(u64, LeaseNews)>,
    inbox: mpsc::Receiver<(u64, LeaseNews)>,
    controls: mpsc::Receiver<Control>,
}

/// Whether nodes were found.
enum Placing {
    Enough,
    /// `able`: there are nodes that could, later.
    Nobody {
        reason: String,
        able: bool,
    },
    /// The database cannot be written.
    Broken,
}

impl Run {
    async fn go(&mut self) -> After {
        self.inner.board.begin(self.row.task.clone());
        self.take_up().await;
        loop {
            if self.gone || self.life.state.is_final() {
                return self.ended();
            }
            match self.place().await {
                Placing::Broken => return self.leave(After::Delay(PAUSE.0)),
                Placing::Nobody { reason, able } if self.leases.is_empty() => {
                    if !able {
                        self.alone(&reason);
                    }
                    if self.life.state.is_final() {
                        self.persist().await;
                        continue;
                    }
                    // Many look and find nobody: only news are written.
                    if self.row.task.reason != reason || !self.events.is_empty() {
                        self.row.task.reason = reason;
                        self.persist().await;
                    }
                    return self.wait_again();
                }
                Placing::Nobody { .. } | Placing::Enough => {}
            }
            if self.gone || self.life.state.is_final() {
                continue;
            }
            self.listen().await;
        }
    }

    /// One thing that happens.
    async fn listen(&mut self) {
        let flush = self.flush_at;
        let flushing = async {
            match flush {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = self.inbox.recv() => if let Some((fence, news)) = news {
                self.on_news(fence, news).await;
            },
            control = self.controls.recv() => match control {
                Some(Control::Cancel) => {
                    self.feed(Input::Cancel);
                    self.persist().await;
                }
                Some(Control::Tick) => {
                    self.tick();
                    if self.life.state.is_final() {
                        self.persist().await;
                    }
                }
                None => {}
            },
            () = flushing => {
                self.persist().await;
            }
            // What runs goes on elsewhere and is taken up at the next start.
            () = self.inner.stop.cancelled() => {
                self.gone = true;
                self.hold();
            }
        }
    }

    /// Nobody could do it, now or later.
    fn alone(&mut self, reason: &str) {
        let (results, failures) = (!self.life.results.is_empty(), self.life.failures);
        let trusted = if results {
            let (nodes, _) = self.inner.workers.place(&self.wanted());
            let trusted = nodes.into_iter().filter(|node| node.here || node.mine || node.trusted);
            trusted.map(|node| node.id).collect()
        } else {
            Vec::new()
        };
        self.feed(Input::NoCandidate { reason: reason.to_owned(), trusted });
        self.failed |= self.life.failures > failures;
    }

    /// It may have expired. A peer that had it for most of its time is to blame.
    fn tick(&mut self) {
        let given = self.life.expires_ms.saturating_sub(self.row.task.created_ms);
        let most = Duration::from_millis(given.max(0).unsigned_abs() / 2);
        let slow = self.leases.values().filter(|l| l.taken && !l.here && l.begun.elapsed() >= most);
        let slow: Vec<NodeId> = slow.map(|live| live.node.clone()).collect();
        self.feed(Input::Tick);
        if self.life.state == TaskState::Expired {
            for node in slow {
                let why = "a task ran out of its time there".to_owned();
                self.inner.workers.experience(&node, Experience::Failed(why));
            }
        }
    }

    /// Nothing more is written: what peers have stays there until this node is back.
    fn hold(&mut self) {
        self.leases.values_mut().for_each(|live| live.hold = true);
    }

    /// Leases that were alive when the process ended: on peers they are looked for, what ran here
    /// is gone.
    async fn take_up(&mut self) {
        for lease in self.life.leases.clone() {
            if lease.node == self.inner.me {
                self.finish_try(lease.fence, None, "EdgeCoder was stopped meanwhile.");
                self.feed(Input::Interrupted { fence: lease.fence });
                continue;
            }
            let name = self.inner.workers.name_of(&lease.node);
            let offer = self.offer(lease.fence, None);
            let stop = CancellationToken::new();
            let live = Live {
                node: lease.node.clone(),
                name,
                here: false,
                attaching: true,
                taken: false,
                begun: Instant::now(),
                notes: 0,
                seen: self.new_seen(None, false),
                first_text: None,
                stop: stop.clone(),
                hold: false,
                _counted: self.inner.in_flight.begin_for(&lease.node),
            };
            self.leases.insert(lease.fence, live);
            self.start(Begin::Attach(lease.node), offer, stop);
        }
        if !self.events.is_empty() {
            self.persist().await;
        }
    }

    /// Finds nodes for all that is open.
    async fn place(&mut self) -> Placing {
        while self.life.openings() > 0 {
            if self.inner.is_draining() {
                let reason = "No task is started: the node is draining.".to_owned();
                return Placing::Nobody { reason, able: true };
            }
            let (nodes, placed) = self.inner.workers.place(&self.wanted());
            let Some((node, model)) = self.choose(&nodes, &placed) else {
                let able = !placed.explanation.candidates.is_empty();
                return Placing::Nobody { reason: placed.explanation.summary, able };
            };
            let placement = placed.chosen(&node.id);
            let counted = self.inner.in_flight.begin_for(&node.id);
            let input = Input::Placed { node: node.id.clone(), name: node.name.clone() };
            let step = self.life.apply(input, now_ms());
            let Some(fence) = step.effects.iter().find_map(offered) else {
                let reason = "It is with every node that can do it.".to_owned();
                return Placing::Nobody { reason, able: true };
            };
            self.new_try(fence, &node, placement);
            self.absorb(step);
            // The fence is on disk before anybody hears of it.
            if !self.persist().await {
                return Placing::Broken;
            }
            self.begin(fence, node, model, counted);
        }
        Placing::Enough
    }

    fn wanted(&self) -> Wanted {
        let answer = match &self.job {
            Job::Chat(job) | Job::Completion(job) => {
                job.generate.max_tokens.unwrap_or(ANSWER_TOKENS)
            }
            Job::Code(_) => ANSWER_TOKENS * 4,
            Job::Embedding { .. } | Job::Wasm(_) => 0,
        };
        Wanted {
            kind: Some(self.job.kind()),
            model: self.job.model().map(ToOwned::to_owned),
            node: self.row.node.clone(),
            privacy: self.row.task.privacy,
            prompt_tokens: estimate_tokens(outcome::prompt_bytes(&self.job)),
            answer_tokens: answer,
            tried: self.tried.clone(),
            not: self.life.not(),
        }
    }

    fn choose(&self, nodes: &[NodeView], placed: &Placed) -> Option<(NodeView, Option<String>)> {
        let book = self.inner.book();
        let (not, now) = (self.life.not(), Instant::now());
        let mut free = placed.ranked.iter().enumerate().filter_map(|(rank, index)| {
            let node = nodes.get(*index)?;
            let tried = self.tried.iter().any(|(id, _)| *id == node.id);
            let has = self.inner.in_flight.count_for(&node.id);
            let busy = book.is_busy(&node.id, self.row.need, has, now);
            let free = !tried && !busy && !not.contains(&node.id);
            free.then_some((rank, node))
        });
        let second = self.life.wanted > 1 && !self.life.replicas && !not.is_empty();
        let (rank, node) = if second || !self.gave_up.is_empty() {
            free.min_by_key(|(rank, node)| (self.standing(node, second), *rank))?
        } else {
            free.next()?
        };
        Some((node.clone(), placed.models.get(rank).cloned().flatten()))
    }

    /// Who is asked first after another's word is not enough: a node that did not give up, and to
    /// compare results one whose result means something.
    fn standing(&self, node: &NodeView, second: bool) -> (bool, u8) {
        let gave_up = self.gave_up.iter().any(|(id, _)| *id == node.id);
        let stranger = match (node.mine, node.trusted) {
            _ if !second || node.here => 0,
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 3,
        };
        (gave_up, stranger)
    }

    fn begin(&mut self, fence: u64, node: NodeView, model: Option<String>, counted: Underway) {
        let wanted = self.job.model().map(ToOwned::to_owned);
        let here = node.here;
        let bytes = model
            .as_ref()
            .or(wanted.as_ref())
            .and_then(|name| node.models.iter().find(|m| m.id == *name).map(|m| m.size_bytes));
        let stop = CancellationToken::new();
        let live = Live {
            node: node.id.clone(),
            name: node.name.clone(),
            here,
            attaching: false,
            taken: false,
            begun: Instant::now(),
            notes: 0,
            seen: self.new_seen(bytes, here),
            first_text: None,
            stop: stop.clone(),
            hold: false,
            _counted: counted,
        };
        *self.partial.lock() = self.continued.0.clone();
        let offer = self.offer(fence, model);
        self.leases.insert(fence, live);
        self.start(Begin::Offer(Box::new(node)), offer, stop);
    }

    fn new_seen(&self, model_bytes: Option<u64>, here: bool) -> Seen {
        Seen {
            text: self.continued.0.clone(),
            pieces: 0,
            prompt_bytes: outcome::prompt_bytes(&self.job),
            took: Duration::ZERO,
            model_bytes,
            tokens_before: self.continued.1,
            here,
        }
    }

    fn offer(&self, fence: u64, model: Option<String>) -> Offer {
        let mut job = self.job.clone();
        match (&mut job, model) {
            (Job::Chat(job) | Job::Completion(job), model) => {
                job.generate.continue_from = self.continued.0.clone();
                job.model = model.unwrap_or_else(|| job.model.clone());
            }
            (Job::Embedding { model: name, .. }, Some(model)) => *name = model,
            (Job::Code(input), Some(model)) => input.model = model,
            (_, _) => {}
        }
        Offer {
            task: self.row.task.id.clone(),
            attempt: self.life.attempts,
            fence,
            job,
            priority: self.row.task.priority,
            lease: LEASE,
        }
    }

    fn start(&self, begin: Begin, offer: Offer, stop: CancellationToken) {
        let (workers, news) = (Arc::clone(&self.inner.workers), self.news.clone());
        // Not waited for at the end: what peers have is held until the process is gone.
        tokio::spawn(pump(workers, begin, offer, stop, news));
    }

    /// Gives the life an input and takes over what comes of it.
    fn feed(&mut self, input: Input) {
        let step = self.life.apply(input, now_ms());
        self.absorb(step);
    }

    /// A task's end says what is special about its result.
    fn remark(&self, step: &mut Step) {
        let settled = step.effects.iter().find_map(|effect| match effect {
            Effect::Settle { fence } => self.results.get(fence),
            _ => None,
        });
        let Some(remark) = settled.and_then(|(_, taken)| taken.remark.clone()) else { return };
        for change in step.changes.iter_mut().filter(|change| change.state == TaskState::Done) {
            change.text.clone_from(&remark);
        }
    }

    fn absorb(&mut self, mut step: Step) {
        self.remark(&mut step);
        for effect in step.effects {
            match effect {
                Effect::Stop { fence } => {
                    let outcome = agent_api::tasks::AttemptOutcome::Cancelled;
                    self.finish_try(fence, Some(outcome), "It was not needed any more.");
                    self.leases.remove(&fence);
                }
                Effect::Settle { fence } => self.settle(fence),
                Effect::Judge { agreed, disagreed } => self.judge(&agreed, &disagreed),
                Effect::RefuseLate { fence } => {
                    tracing::debug!(fence, "a late result was refused");
                }
                // The loop looks for nodes by itself.
                Effect::Offer { .. } | Effect::Place { .. } => {}
            }
        }
        self.sync();
        let now = now_ms();
        for change in step.changes {
            change.text.clone_into(&mut self.row.task.reason);
            let name = change.node.as_ref().map(|node| self.inner.workers.name_of(node));
            self.tell(TaskEvent {
                at_ms: now,
                state: change.state,
                attempt: change.attempt,
                node: change.node,
                node_name: name,
                text: change.text,
            });
        }
        self.show();
    }

    fn tell(&mut self, event: TaskEvent) {
        // An end is told once it is on disk.
        if !event.state.is_final() {
            self.inner.listeners.tell(&self.row.task.id, || News::Event(event.clone()));
        }
        self.events.push(event);
        self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH);
    }

    fn show(&self) {
        let task = &self.row.task;
        if task.state.is_final() {
            return;
        }
        self.inner.board.update(&task.id, |shown| task.clone_into(shown));
        self.inner.listeners.tell(&task.id, || News::Task(Box::new(task.clone())));
    }

    fn ended(&mut self) -> After {
        self.leases.clear();
        let task = self.row.task.clone();
        if !task.state.is_final() {
            // Ended by somebody else, or the node stops: the row says it better.
            self.inner.board.drop_silently(&task.id);
            return After::Ended;
        }
        self.inner.board.end(&task.id, |shown| task.clone_into(shown));
        self.inner.listeners.tell(&task.id, || News::Task(Box::new(task.clone())));
        self.inner.listeners.tell(&task.id, || News::End);
        self.inner.told_end(&self.row);
        After::Ended
    }

    fn wait_again(&mut self) -> After {
        if !self.failed && self.life.state == TaskState::Verifying {
            // One that waits for another node's result is in no lane. It waits as long again as it
            // has waited.
            let since = self.tries.values().filter_map(|row| row.ended_ms).max();
            let waited = since.map_or(0, |since| now_ms().saturating_sub(since)).max(0);
            let wait = Duration::from_millis(waited.unsigned_abs()).clamp(PAUSE.0, PAUSE.1);
            return self.leave(After::Delay(wait));
        }
        if self.failed {
            let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
            let waits = (0..self.life.failures.max(1)).map(|_| backoff.next_wait());
            let wait = waits.last().unwrap_or(PAUSE.0);
            return self.leave(After::Delay(wait));
        }
        self.leave(After::Parked)
    }

    fn leave(&mut self, after: After) -> After {
        let task = self.row.task.clone();
        self.inner.board.end(&task.id, |shown| task.clone_into(shown));
        after
    }
}

fn offered(effect: &Effect) -> Option<u64> {
    match effect {
        Effect::Offer { fence, .. } => Some(*fence),
        _ => None,
    }
}
