//! All engines: who is asked, who is in memory, which one is active.
//!
//! One task owns everything. A command, a frame from one of the programs or a deadline changes the
//! state, then [`Pool::advance`] does what the new state calls for. Deciding about memory is
//! `residency`, which is pure; `pool/room.rs` feeds it and carries out what it says.

mod describe;
mod room;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    InferenceError, InferenceState, KeepAlive, LoadOptions, Notable, Policy, Preview, Target,
    admission::{Admission, Gpus},
    engine::{Choice, Engine, Job, LoadReply, Outlet, Program, Spare},
    link::{FromLink, Link},
};
use crate::config::limits;

/// Models that failed are remembered, so that the next request does not fail the same way for
/// seconds; the oldest is forgotten first.
const REMEMBERED_FAILURES: usize = 16;
/// A model that was loaded for a request that has not come yet stays this long whatever
/// keep-alive says, or it would be loaded twice.
const LOADED_GRACE: Duration = Duration::from_secs(5);
/// A program that was ended is gone by then. The kernel frees hundreds of gigabytes in less.
const GONE_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) enum Command {
    /// Settings changed: the policy, and the options of models that are in memory.
    Configure {
        policy: Policy,
        targets: Vec<Target>,
        reply: Done,
    },
    /// Makes a model the active one.
    Choose {
        target: Option<Box<Target>>,
        reply: Done,
    },
    /// What making it active would do.
    Preview {
        target: Box<Target>,
        reply: oneshot::Sender<Preview>,
    },
    /// Loads a model, or the active one; the reply comes once it is ready or has failed.
    Load {
        target: Option<Arc<Target>>,
        keep_alive: Option<KeepAlive>,
        reply: LoadReply,
    },
    /// Frees a model after its requests, or all of them.
    Unload {
        id: Option<String>,
        reply: Done,
    },
    /// Its file is gone: a model finishes what was accepted, and leaves.
    Remove {
        id: String,
        reply: Done,
    },
    Submit {
        job: Box<Job>,
        to: Option<Arc<Target>>,
        reply: Reply,
    },
    Cancel {
        id: u64,
    },
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}

/// Told once the state shows it.
type Done = oneshot::Sender<()>;
/// The id of the model that will answer.
type Reply = oneshot::Sender<Result<String, InferenceError>>;

/// A model that is in memory, on its way, waited for, or failed.
#[derive(Debug)]
struct Entry {
    engine: Engine,
    target: Arc<Target>,
    /// A request asked for a larger context than the options say.
    grown: Option<u32>,
    /// How long the last request wants it to stay.
    asked: Option<KeepAlive>,
    /// Places in the order of all requests.
    last_used: u64,
    wanted_since: u64,
    /// Leaves once it is idle: it was active before a swap.
    expendable: bool,
    /// Leaves once it is idle: the owner said so.
    unload: bool,
    /// Never loaded again: its file is gone.
    removed: bool,
}

/// A program that was ended and whose memory is not free yet.
#[derive(Debug)]
struct Leaving {
    id: String,
    admission: Admission,
    link: Link,
    until: Instant,
}

struct Pool {
    runner: Option<PathBuf>,
    policy: Policy,
    entries: Vec<Entry>,
    /// Id of the active model.
    active: Option<String>,
    leaving: Vec<Leaving>,
    spare: Option<Spare>,
    /// Set by a load that went well: then another program is worth starting ahead.
    want_spare: bool,
    gpus: Gpus,
    /// Counts requests and uses; larger is later.
    clock: u64,
    /// Crashes of engines that are forgotten.
    crashes: u32,
    /// Who is listened to first, in turn.
    turn: usize,
    stopping: Option<(oneshot::Sender<()>, Instant)>,
    /// Callers of the command at hand.
    done: Vec<Done>,
    outlet: Outlet,
    state: watch::Sender<InferenceState>,
}

pub(super) fn spawn(
    runner: Option<PathBuf>,
    policy: Policy,
    inbox: mpsc::Receiver<Command>,
    notable: mpsc::Sender<Notable>,
    tokens: Arc<AtomicU64>,
) -> watch::Receiver<InferenceState> {
    let (state, receiver) = watch::channel(InferenceState::default());
    let pool = Pool {
        runner,
        policy,
        entries: Vec::new(),
        active: None,
        leaving: Vec::new(),
        spare: None,
        want_spare: false,
        gpus: Gpus::default(),
        clock: 0,
        crashes: 0,
        turn: 0,
        stopping: None,
        done: Vec::new(),
        outlet: Outlet { notable, tokens },
        state,
    };
    tokio::spawn(pool.run(inbox));
    receiver
}

/// Something came over a line, or the line ended.
#[derive(Debug)]
struct Heard {
    from: Source,
    said: Option<FromLink>,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Entry(usize),
    Leaving(usize),
    Spare,
}

impl Pool {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                heard = std::future::poll_fn(|cx| self.poll_hear(cx)) => {
                    if self.hear(heard).is_quiet() {
                        continue;
                    }
                }
                () = sleep_until(deadline) => self.overdue(),
            }
            self.advance();
            self.publish();
            // Whoever hears of it may look at the state next.
            for done in self.done.drain(..) {
                let _ = done.send(());
            }
            for entry in &mut self.entries {
                entry.engine.tell_failures();
            }
            if self.stopping.is_some() && self.entries.iter().all(|e| e.engine.running() == 0) {
                // Dropping the links ends the programs.
                self.entries.clear();
                self.spare = None;
                if let Some((reply, _)) = self.stopping.take() {
                    let _ = reply.send(());
                }
                return;
            }
        }
    }

    /// The next thing that any program says. One that talks much does not silence the others.
    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        for (n, leaving) in self.leaving.iter_mut().enumerate() {
            if let Poll::Ready(said) = leaving.link.inbox.poll_recv(cx) {
                return Poll::Ready(Heard { from: Source::Leaving(n), said });
            }
        }
        if let Some(spare) = &mut self.spare
            && let Poll::Ready(said) = spare.link.inbox.poll_recv(cx)
        {
            return Poll::Ready(Heard { from: Source::Spare, said });
        }
        let count = self.entries.len();
        for step in 1..=count {
            let n = (self.turn + step) % count;
            if let Some(link) = self.entries[n].engine.link_mut()
                && let Poll::Ready(said) = link.inbox.poll_recv(cx)
            {
                self.turn = n;
                return Poll::Ready(Heard { from: Source::Entry(n), said });
            }
        }
        Poll::Pending
    }

    fn hear(&mut self, heard: Heard) -> Loudness {
        let Heard { from, said } = heard;
        match (from, said) {
            (Source::Leaving(n), None) => {
                self.leaving.swap_remove(n);
            }
            (Source::Leaving(_), Some(_)) => return Loudness::Quiet,
            (Source::Spare, Some(FromLink::Hello { devices, .. })) => {
                self.gpus.seen(&devices, self.held_on_gpus());
                if let Some(spare) = &mut self.spare {
                    spare.devices = Some(devices);
                }
            }
            (Source::Spare, _) => self.spare = None,
            (Source::Entry(n), said) => {
                let ours = self.held_on_gpus();
                let said = said.unwrap_or_else(|| FromLink::Gone("its pipes closed".into()));
                match &said {
                    FromLink::Hello { devices, .. } if !devices.is_empty() => {
                        self.gpus.seen(devices, ours);
                    }
                    FromLink::Loaded { .. } => self.want_spare = true,
                    _ => {}
                }
                let loudness = Loudness::of(&said);
                let has_gpus =
                    matches!(&said, FromLink::Hello { devices, .. } if !devices.is_empty());
                let engine = &mut self.entries[n].engine;
                let crashes = engine.crashes;
                engine.hear(said);
                if has_gpus {
                    // Room was promised before its GPUs were known.
                    engine.give_room_back();
                }
                // Cancelling an answer that nobody reads may find the program gone.
                return if engine.crashes == crashes { loudness } else { Loudness::Loud };
            }
        }
        Loudness::Loud
    }

    fn deadline(&self) -> Option<Instant> {
        let engines = self.entries.iter().filter_map(|entry| entry.engine.deadline());
        // A node that stops lets nothing go any more: it all ends together.
        let lasting = self.entries.iter().filter(|_| self.stopping.is_none());
        let expiries = lasting.filter_map(|entry| self.expires(entry));
        let gone = self.leaving.iter().map(|leaving| leaving.until);
        let stop = self.stopping.iter().map(|(_, until)| *until);
        engines.chain(expiries).chain(gone).chain(stop).min()
    }

    fn overdue(&mut self) {
        let now = Instant::now();
        let stop = self.stopping.as_ref().is_some_and(|(_, until)| *until <= now);
        for entry in &mut self.entries {
            if stop {
                entry.engine.cut_off();
            } else {
                entry.engine.overdue(now);
            }
        }
        self.leaving.retain(|leaving| leaving.until > now);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Configure { policy, targets, reply } => {
                self.done.push(reply);
                self.policy = policy;
                for target in targets {
                    if let Some(n) = self.find(&target.model.id)
                        && !self.entries[n].removed
                    {
                        self.retarget(n, Arc::new(target));
                    }
                }
            }
            Command::Choose { target, reply } => {
                self.done.push(reply);
                self.choose(target.map(|target| *target));
            }
            Command::Preview { target, reply } => {
                let _ = reply.send(self.preview(&target));
            }
            Command::Load { target, keep_alive, reply } => self.load(target, keep_alive, reply),
            Command::Unload { id, reply } => {
                self.done.push(reply);
                self.unload(id.as_deref());
            }
            Command::Remove { id, reply } => {
                self.done.push(reply);
                self.remove(&id);
            }
            Command::Submit { job, to, reply } => {
                let accepted = self.accept(*job, to);
                let _ = reply.send(accepted);
            }
            Command::Cancel { id } => {
                let _ = self.entries.iter_mut().any(|entry| entry.engine.cancel(id));
            }
            Command::Shutdown { reply } => {
                for entry in &mut self.entries {
                    entry.engine.shut_the_door();
                }
                self.stopping = Some((reply, Instant::now() + limits::DRAIN));
            }
        }
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry.engine.id() == id)
    }

    /// The entry of a model, made if there is none.
    fn entry(&mut self, target: Arc<Target>) -> usize {
        if let Some(n) = self.find(&target.model.id) {
            return n;
        }
        let choice = self.choice_of(&target, None);
        self.entries.push(Entry {
            engine: Engine::new(choice, self.outlet.clone()),
            target,
            grown: None,
            asked: None,
            last_used: self.clock,
            wanted_since: self.clock,
            expendable: false,
            unload: false,
            removed: false,
        });
        self.entries.len() - 1
    }

    fn choice_of(&self, target: &Target, grown: Option<u32>) -> Choice {
        let context = target.options.context.max(grown.unwrap_or(0));
        let program = match &target.ollama {
            Some(endpoint) => Program::Ollama(endpoint.clone()),
            None => Program::Runner(self.runner.clone()),
        };
        let options = LoadOptions { context, ..target.options };
        Choice { model: target.model.clone(), options, program }
    }

    fn retarget(&mut self, n: usize, target: Arc<Target>) {
        if self.entries[n].target.options != target.options {
            self.entries[n].grown = None;
        }
        let choice = self.choice_of(&target, self.entries[n].grown);
        let entry = &mut self.entries[n];
        entry.target = target;
        entry.engine.set_choice(choice);
    }

    /// Requests that were accepted for the old model finish there; it leaves once it is idle.
    fn choose(&mut self, target: Option<Target>) {
        let id = target.as_ref().map(|target| target.model.id.clone());
        if self.active != id
            && let Some(old) = self.active.take()
            && let Some(n) = self.find(&old)
        {
            let entry = &mut self.entries[n];
            entry.expendable = !entry.target.pinned;
            if entry.engine.is_off() {
                entry.engine.wanted = false;
            }
        }
        self.active = id;
        let Some(target) = target.map(Arc::new) else { return };
        let n = self.entry(Arc::clone(&target));
        self.retarget(n, target);
        self.touch(n);
        self.entries[n].engine.choose();
    }

    fn load(
        &mut self,
        target: Option<Arc<Target>>,
        keep_alive: Option<KeepAlive>,
        reply: LoadReply,
    ) {
        if self.stopping.is_some() {
            let _ = reply.send(Err(InferenceError::ShuttingDown));
            return;
        }
        match self.resolve(target) {
            Ok(n) => {
                self.touch(n);
                self.entries[n].asked = keep_alive.or(self.entries[n].asked);
                self.entries[n].engine.load(reply);
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// A model that was named, or the active one.
    fn resolve(&mut self, target: Option<Arc<Target>>) -> Result<usize, InferenceError> {
        match target {
            Some(target) => {
                let n = self.entry(Arc::clone(&target));
                if !self.entries[n].engine.is_underway() {
                    // Its file or its options may be others than when it was last tried.
                    let grown = self.entries[n].grown;
                    self.entries[n].grown = grown.filter(|_| !self.entries[n].engine.is_refused());
                    self.retarget(n, target);
                }
                Ok(n)
            }
            None => {
                let active = self.active.as_deref().and_then(|id| self.find(id));
                active.ok_or(InferenceError::NoModel)
            }
        }
    }

    /// Takes note of a use.
    fn touch(&mut self, n: usize) {
        self.clock += 1;
        let entry = &mut self.entries[n];
        entry.last_used = self.clock;
        if !entry.engine.is_wanted() {
            entry.wanted_since = self.clock;
        }
        entry.expendable = false;
        entry.unload = false;
    }

    fn unload(&mut self, id: Option<&str>) {
        for entry in &mut self.entries {
            if id.is_none_or(|id| entry.engine.id() == id) {
                entry.unload = true;
                entry.engine.wanted = entry.engine.is_busy();
            }
        }
        if id.is_none() {
            self.spare = None;
        }
    }

    /// What was accepted finishes with what is in memory. The entry gets a name that no request
    /// means, so that a model of the same name may come meanwhile.
    fn remove(&mut self, id: &str) {
        if self.active.as_deref() == Some(id) {
            self.active = None;
        }
        let Some(n) = self.find(id) else { return };
        self.clock += 1;
        let name = format!("{id} (removed {})", self.clock);
        let entry = &mut self.entries[n];
        entry.removed = true;
        entry.unload = true;
        let mut target = Target { pinned: false, preload: false, ..(*entry.target).clone() };
        target.model.id.clone_from(&name);
        entry.target = Arc::new(target);
        entry.engine.orphan(name);
    }

    fn accept(&mut self, mut job: Job, to: Option<Arc<Target>>) -> Result<String, InferenceError> {
        if self.stopping.is_some() {
            return Err(InferenceError::ShuttingDown);
        }
        let n = self.resolve(to)?;
        for entry in &mut self.entries {
            entry.engine.forget_abandoned();
        }
        let waiting: usize = self.entries.iter().map(|entry| entry.engine.waiting()).sum();
        if waiting >= limits::WAITING_REQUESTS {
            return Err(InferenceError::QueueFull);
        }
        self.touch(n);
        let wanted = job.options.context;
        let entry = &mut self.entries[n];
        entry.asked = job.keep_alive();
        let id = entry.engine.id().to_owned();
        job.model.clone_from(&id);
        job.ticket = self.clock;
        entry.engine.accept(job)?;
        if let Some(context) = wanted {
            self.grow(n, context);
        }
        Ok(id)
    }
}

/// Whether what was said changes anything but the answer it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loudness {
    Quiet,
    Loud,
}

impl Loudness {
    fn of(said: &FromLink) -> Self {
        match said {
            FromLink::Piece { piece: super::Piece::Text { .. }, .. } => Self::Quiet,
            _ => Self::Loud,
        }
    }

    fn is_quiet(self) -> bool {
        self == Self::Quiet
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
