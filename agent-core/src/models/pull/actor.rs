//! The one task that knows all pulls: starts attempts, hears how they end, and writes down what
//! the owner wants.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use agent_api::pull::{Pull, PullState};
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{
    entry::Entry,
    fetch::{Attempt, Context, Outcome, Report, file_key, survey},
    queue::{Command, MAX_PULLS, PullError, PullNotable, Reply},
};
use crate::{
    models::{
        manifest::{Digest, Manifest},
        registry::Source,
        store::Store,
    },
    storage::{RemovePull, SavePull, Storage, list_pulls},
};

/// Pulls that fetch at the same time: enough that a small one does not wait for a large one.
const ACTIVE: usize = 2;
/// Pulls that are done stay in the list for a while, so that nobody misses it.
const DONE_KEPT: Duration = Duration::from_secs(10 * 60);
const MAX_DONE: usize = 20;
/// The list is shown anew so often while bytes arrive.
const REFRESH: Duration = Duration::from_millis(250);
/// Reports of two attempts; each sends a handful.
const REPORTS: usize = 32;
/// When nothing else happens; entries that are done leave the list.
const IDLE: Duration = Duration::from_secs(60);

pub(super) struct Actor {
    context: Arc<Context>,
    storage: Storage,
    entries: Vec<Entry>,
    /// Cancelled while an attempt was running: cleaned up when that has ended.
    leaving: HashMap<String, Leaving>,
    tasks: JoinSet<Ended>,
    /// The pull of each task that is an attempt, in case it ends without a word.
    attempts: HashMap<task::Id, String>,
    hold: Option<String>,
    report: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    snapshot: watch::Sender<Arc<Vec<Pull>>>,
    notables: mpsc::Sender<PullNotable>,
    started: Instant,
    shown_at: Instant,
    /// A state changed, or the list: shown at once.
    changed: bool,
}

struct Leaving {
    entry: Entry,
    reply: Reply<()>,
}

enum Ended {
    Attempt(String, Outcome),
    Cleaned,
}

impl Actor {
    pub(super) fn new(
        context: Arc<Context>,
        storage: Storage,
        hold: Option<String>,
        snapshot: watch::Sender<Arc<Vec<Pull>>>,
        notables: mpsc::Sender<PullNotable>,
    ) -> Self {
        let (report, reports) = mpsc::channel(REPORTS);
        Self {
            context,
            storage,
            entries: Vec::new(),
            leaving: HashMap::new(),
            tasks: JoinSet::new(),
            attempts: HashMap::new(),
            hold,
            report,
            reports,
            snapshot,
            notables,
            started: Instant::now(),
            shown_at: Instant::now(),
            changed: true,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.load().await;
        let mut settings = self.context.settings.clone();
        let mut settings_live = true;
        let done = loop {
            self.start_due();
            self.show_if_due();
            let wake = self.next_wake();
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => self.hear(report).await,
                Some(joined) = self.tasks.join_next_with_id() => self.joined(joined).await,
                command = commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.obey(command).await,
                },
                changed = settings.changed(), if settings_live => {
                    settings_live = changed.is_ok();
                    let limit = settings.borrow_and_update().download_limit;
                    self.context.limiter.set(limit);
                }
                () = sleep_until(wake) => self.forget_done(),
            }
        };
        self.stop_all().await;
        if let Some(reply) = done {
            let _ = reply.send(());
        }
    }

    /// Pulls of an earlier run: what was running goes on.
    async fn load(&mut self) {
        let rows = match list_pulls(self.storage.readers()).await {
            Ok(rows) => rows,
            Err(e) => {
                tracing::error!("pulls of the last run are not known: {e}");
                return;
            }
        };
        let written_down: HashSet<String> = rows.iter().map(|row| row.id.clone()).collect();
        for row in rows.into_iter().take(MAX_PULLS) {
            // Complete names: the default host does not matter.
            match Source::parse(&row.source, crate::models::name::OLLAMA_REGISTRY) {
                Ok(source) => {
                    let mut entry = Entry::restore(row, source, &self.context.tuning);
                    // Not written down: without the reason, at the next start, it goes on.
                    if let Some(why) = self.hold.as_ref().filter(|_| !entry.pull.state.is_settled())
                    {
                        entry.set(PullState::Paused, why.clone());
                    }
                    self.entries.push(entry);
                }
                Err(e) => tracing::error!("a pull of the last run is left alone: {e}"),
            }
        }
        let known = self.entries.iter().filter_map(|entry| {
            Some((Arc::clone(entry.manifest.as_ref()?), Arc::clone(&entry.progress)))
        });
        let known: Vec<_> = known.collect();
        let store = self.context.store.clone();
        let prefix = self.context.reservation("");
        let surveyed = task::spawn_blocking(move || {
            // Of pulls that ended while the process was killed, or whose database is gone.
            let released = store.lock().and_then(|guard| {
                store.release_others(&guard, &prefix, |id| written_down.contains(id))
            });
            if let Err(e) = released {
                tracing::warn!("reservations of earlier pulls are still there: {e}");
            }
            for (manifest, progress) in known {
                survey(&store, &manifest, &progress);
            }
        });
        let _ = surveyed.await;
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        loop {
            let running = self.entries.iter().filter(|entry| entry.attempt.is_some()).count();
            if running + self.leaving.len() >= ACTIVE {
                return;
            }
            let Some(entry) = self.entries.iter_mut().find(|entry| entry.is_due(now)) else {
                return;
            };
            let attempt = Attempt {
                id: entry.pull.id.clone(),
                source: entry.source.clone(),
                pinned: entry.manifest.clone(),
                context: Arc::clone(&self.context),
                progress: Arc::clone(&entry.progress),
                stop: entry.begin(),
                reports: self.report.clone(),
            };
            let started = (!std::mem::replace(&mut entry.announced, true)).then(|| {
                let model = entry.source.name().clone();
                PullNotable::Started { id: entry.pull.id.clone(), model }
            });
            let id = attempt.id.clone();
            let task = self.tasks.spawn({
                let id = id.clone();
                async move { Ended::Attempt(id, attempt.run().await) }
            });
            self.attempts.insert(task.id(), id);
            self.changed = true;
            if let Some(started) = started {
                self.tell(started);
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let running = self.entries.iter().any(|entry| entry.attempt.is_some());
        let refresh = if running { self.shown_at + REFRESH } else { now + IDLE };
        let retries = self.entries.iter().filter_map(|entry| entry.retry_at);
        // A retry that is due waits for one of the others to end, which wakes us anyway.
        retries.filter(|at| *at > now).fold(refresh, Instant::min)
    }

    fn show_if_due(&mut self) {
        let due = self.shown_at.elapsed() >= REFRESH;
        if due {
            let since_start = self.started.elapsed();
            self.entries.iter_mut().for_each(|entry| entry.sample(since_start));
        }
        if due {
            self.shown_at = Instant::now();
        }
        if due || self.changed {
            self.show();
        }
    }

    /// Answers follow this, so that whoever asked for a change sees it in the list.
    fn show(&mut self) {
        self.changed = false;
        let shown: Vec<Pull> = self.entries.iter().map(Entry::show).collect();
        self.snapshot.send_if_modified(|snapshot| {
            let differs = **snapshot != shown;
            *snapshot = Arc::new(shown);
            differs
        });
    }

    fn forget_done(&mut self) {
        let done = |entry: &Entry| entry.done_at.is_some();
        let mut surplus = self.entries.iter().filter(|e| done(e)).count().saturating_sub(MAX_DONE);
        let before = self.entries.len();
        self.entries.retain(|entry| {
            let old = entry.done_at.is_some_and(|at| at.elapsed() >= DONE_KEPT);
            let crowded = surplus > 0 && done(entry);
            surplus -= usize::from(crowded);
            !(old || crowded)
        });
        self.changed |= self.entries.len() != before;
    }

    fn tell(&self, notable: PullNotable) {
        if self.notables.try_send(notable).is_err() {
            tracing::warn!("nobody hears what pulls have to tell");
        }
    }

    fn find(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.pull.id == id)
    }

    async fn obey(&mut self, command: Command) {
        self.changed = true;
        match command {
            Command::Add { source, swap_when_done, reply } => {
                let added = self.add(*source, swap_when_done).await;
                self.show();
                let _ = reply.send(added);
            }
            Command::Pause { id, reply } => {
                let paused = self.pause(&id).await;
                self.show();
                let _ = reply.send(paused);
            }
            Command::Resume { id, reply } => {
                let resumed = self.resume(&id).await;
                self.show();
                let _ = reply.send(resumed);
            }
            Command::Cancel { id, reply } => self.cancel(&id, reply).await,
            Command::Facts { id, reply } => {
                let _ = reply.send(self.find(&id).and_then(|entry| entry.facts()));
            }
            // Ends the loop before it comes here.
            Command::Shutdown { .. } => {}
        }
    }

    async fn add(&mut self, source: Source, swap_when_done: bool) -> Result<Pull, PullError> {
        let same = self.entries.iter_mut().find(|e| e.source == source && e.done_at.is_none());
        if let Some(entry) = same {
            entry.pull.swap_when_done |= swap_when_done;
            let id = entry.pull.id.clone();
            return self.resume(&id).await;
        }
        self.entries.retain(|entry| entry.source != source);
        if self.entries.iter().filter(|entry| entry.done_at.is_none()).count() >= MAX_PULLS {
            return Err(PullError::TooMany);
        }
        let id = Uuid::now_v7().to_string();
        let entry = Entry::new(id, source, swap_when_done, &self.context.tuning);
        self.storage.write(SavePull(entry.row())).await?;
        let shown = entry.show();
        self.entries.push(entry);
        Ok(shown)
    }

    async fn pause(&mut self, id: &str) -> Result<Pull, PullError> {
        let entry = self.find(id).ok_or_else(|| PullError::NoSuchPull(id.to_owned()))?;
        if !entry.pull.state.is_settled() {
            entry.set(PullState::Paused, "You paused it.");
            entry.stop();
        }
        self.kept(id).await
    }

    async fn resume(&mut self, id: &str) -> Result<Pull, PullError> {
        let entry = self.find(id).ok_or_else(|| PullError::NoSuchPull(id.to_owned()))?;
        let waits =
            matches!(entry.pull.state, PullState::Paused | PullState::Failed | PullState::Retrying);
        if waits {
            if entry.pull.state == PullState::Failed {
                // What failed may have been replaced at the registry. Layers that stayed the same
                // keep their parts.
                entry.manifest = None;
            }
            entry.encourage();
            entry.set(PullState::Queued, "");
        }
        self.kept(id).await
    }

    /// Writes a pull down and shows it.
    async fn kept(&mut self, id: &str) -> Result<Pull, PullError> {
        let entry = self.find(id).ok_or_else(|| PullError::NoSuchPull(id.to_owned()))?;
        let (row, shown) = (entry.row(), entry.show());
        if entry.done_at.is_none() {
            self.storage.write(SavePull(row)).await?;
        }
        Ok(shown)
    }

    async fn cancel(&mut self, id: &str, reply: Reply<()>) {
        let Some(at) = self.entries.iter().position(|entry| entry.pull.id == id) else {
            let _ = reply.send(Err(PullError::NoSuchPull(id.to_owned())));
            return;
        };
        if let Err(e) = self.storage.write(RemovePull(id.to_owned())).await {
            let _ = reply.send(Err(e.into()));
            return;
        }
        let entry = self.entries.remove(at);
        entry.stop();
        self.show();
        let leaving = Leaving { entry, reply };
        if leaving.entry.attempt.is_some() {
            self.leaving.insert(id.to_owned(), leaving);
        } else {
            self.clean(leaving);
        }
    }

    /// Deletes what a cancelled pull left, off the async threads.
    fn clean(&mut self, leaving: Leaving) {
        let Leaving { entry, reply } = leaving;
        let store = self.context.store.clone();
        let reservation = self.context.reservation(&entry.pull.id);
        self.tasks.spawn(async move {
            let cleaned = task::spawn_blocking(move || {
                let key = matches!(entry.source, Source::File(_)).then(|| file_key(&entry.source));
                clean(&store, &reservation, entry.manifest.as_deref(), key)
            });
            if let Ok(Err(e)) = cleaned.await {
                tracing::warn!("parts of a cancelled pull are still there: {e}");
            }
            let _ = reply.send(Ok(()));
            Ended::Cleaned
        });
    }

    async fn hear(&mut self, report: Report) {
        self.changed = true;
        match report {
            Report::Resolved { id, manifest } => {
                if let Some(leaving) = self.leaving.get_mut(&id) {
                    leaving.entry.resolved(manifest);
                    return;
                }
                let Some(entry) = self.find(&id) else { return };
                entry.resolved(manifest);
                self.keep(&id).await;
            }
            Report::State { id, state } => {
                let Some(entry) = self.find(&id) else { return };
                // What the owner said meanwhile counts more.
                let running = matches!(
                    entry.pull.state,
                    PullState::Resolving | PullState::Downloading | PullState::Verifying
                );
                if running && entry.pull.state != state {
                    entry.set(state, "");
                }
            }
        }
    }

    /// Writes a pull down; a failure is logged, and the pull goes on.
    async fn keep(&mut self, id: &str) {
        let Some(row) = self.find(id).map(|entry| entry.row()) else { return };
        if let Err(e) = self.storage.write(SavePull(row)).await {
            tracing::warn!("a pull is not written down: {e}");
        }
    }

    async fn joined(&mut self, joined: Result<(task::Id, Ended), JoinError>) {
        // What it reported before it ended comes first.
        while let Ok(report) = self.reports.try_recv() {
            self.hear(report).await;
        }
        self.changed = true;
        match joined {
            Ok((task, Ended::Attempt(id, outcome))) => {
                self.attempts.remove(&task);
                self.attempt_ended(&id, outcome).await;
            }
            Ok((_, Ended::Cleaned)) => {}
            Err(e) => self.broke_down(&e).await,
        }
    }

    /// A task panicked: a mistake of ours. Its pull must not look as if it still ran.
    async fn broke_down(&mut self, error: &JoinError) {
        tracing::error!("a task of a pull broke down: {error}");
        let Some(id) = self.attempts.remove(&error.id()) else { return };
        self.context.claims.release(&id);
        let reason = "The pull broke down by a mistake of EdgeCoder; its log says more. What is here is kept: resume it.";
        self.attempt_ended(&id, Outcome::Failed(reason.to_owned())).await;
    }

    async fn attempt_ended(&mut self, id: &str, outcome: Outcome) {
        if let Some(leaving) = self.leaving.remove(id) {
            return self.clean(leaving);
        }
        let Some(entry) = self.find(id) else { return };
        entry.ended();
        let model = entry.source.name().clone();
        let owner_waits = matches!(entry.pull.state, PullState::Paused | PullState::Queued);
        let notable = match outcome {
            Outcome::Done => return self.done(id).await,
            Outcome::Failed(reason) => {
                entry.set(PullState::Failed, reason.clone());
                Some(PullNotable::Failed { id: id.to_owned(), model, reason })
            }
            // Paused, or paused and resumed, while it was ending.
            _ if owner_waits => None,
            Outcome::Paused(reason) => {
                entry.set(PullState::Paused, reason.clone());
                Some(PullNotable::Paused { id: id.to_owned(), model, reason })
            }
            Outcome::Retry { reason, wait } => {
                entry.retry(reason, wait);
                None
            }
            Outcome::Stopped => {
                entry.set(PullState::Queued, "");
                None
            }
        };
        self.keep(id).await;
        if let Some(notable) = notable {
            self.tell(notable);
        }
    }

    async fn done(&mut self, id: &str) {
        let Some(entry) = self.find(id) else { return };
        entry.set(PullState::Done, "");
        entry.done_at = Some(Instant::now());
        let notable = PullNotable::Done {
            id: id.to_owned(),
            model: entry.source.name().clone(),
            bytes: entry.received(),
            seconds: entry.seconds(),
            swap_when_done: entry.pull.swap_when_done,
        };
        if let Err(e) = self.storage.write(RemovePull(id.to_owned())).await {
            // It will be found complete at the next start.
            tracing::warn!("a pull that is done is still written down: {e}");
        }
        self.tell(notable);
        self.forget_done();
    }

    /// Stops everything; what was running stays written down as running.
    async fn stop_all(&mut self) {
        for entry in &self.entries {
            entry.stop();
        }
        // Attempts must not wait for room for their reports.
        self.reports.close();
        while let Some(joined) = self.tasks.join_next_with_id().await {
            let (id, outcome) = match joined {
                Ok((_, Ended::Attempt(id, outcome))) => (id, outcome),
                Ok((_, Ended::Cleaned)) => continue,
                Err(e) => match self.attempts.remove(&e.id()) {
                    Some(id) => (id, Outcome::Stopped),
                    None => continue,
                },
            };
            match (self.leaving.remove(&id), outcome) {
                (Some(leaving), _) => self.clean(leaving),
                (None, Outcome::Done) => self.done(&id).await,
                _ => {}
            }
        }
    }
}

/// Deletes the parts of a cancelled pull that no other pull, of this process or another, needs.
fn clean(
    store: &Store,
    reservation: &str,
    manifest: Option<&Manifest>,
    key: Option<Digest>,
) -> std::io::Result<()> {
    let guard = store.lock()?;
    store.release(&guard, reservation)?;
    let others = store.reserved(&guard)?;
    let layers = manifest.into_iter().flat_map(|manifest| &manifest.layers);
    for digest in layers.map(|layer| layer.digest).chain(key) {
        let needed = others.iter().any(|other| other.layers.iter().any(|l| l.digest == digest));
        if needed {
            continue;
        }
        // Somebody who holds the lock is fetching it right now.
        if let Some(lock) = store.lock_blob(digest)? {
            store.discard_partial(lock)?;
        }
    }
    Ok(())
}
