//! One model: its queue, the program that computes for it, and what happens when that fails.
//!
//! An engine is a state machine without a task of its own: the pool tells it what came over its
//! line, which deadline has passed and whether there is room for its model, then calls
//! [`Engine::advance`], which does whatever the new state calls for. Engines share nothing, so a
//! crash costs the requests of one model only.

mod describe;
mod job;
mod queue;

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use agent_api::{
    models::Backend,
    runner::{Command as RunnerCommand, Device, Loaded},
};
pub(super) use job::Job;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    InferenceError, LoadOptions, Notable, Ready,
    admission::Admission,
    link::{FromLink, Link, LoadFailure},
    ollama, runner,
    tools::ToolFormat,
};
use crate::{backoff::Backoff, clock::now_ms, config::limits, models::ModelFile};

/// A runner that was up this long is trusted again: its next crash is waited for briefly.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);
/// A model that takes the runner down this often while loading is given up until the owner
/// chooses again.
const LOAD_CRASHES: u32 = 3;
/// Callers that wait for one model to be loaded; each also holds an HTTP connection.
const LOADERS: usize = 256;

/// What an engine computes with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Program {
    /// The runner, if it was found.
    Runner(Option<PathBuf>),
    Ollama(ollama::Endpoint),
}

impl Program {
    pub(super) fn backend(&self) -> Backend {
        match self {
            Self::Runner(_) => Backend::Runner,
            Self::Ollama(_) => Backend::Ollama,
        }
    }
}

/// A model and how it is loaded.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) model: ModelFile,
    pub(super) options: LoadOptions,
    pub(super) program: Program,
}

impl Choice {
    fn same(&self, other: &Self) -> bool {
        self.model.path == other.model.path
            && self.model.modified == other.model.modified
            && self.options == other.options
            && self.program == other.program
    }
}

/// How far the program got.
#[derive(Debug)]
enum Phase {
    Off,
    Backoff {
        until: Instant,
        retry_at_ms: i64,
    },
    /// Started, has not said hello.
    Greeting {
        link: Link,
        deadline: Instant,
    },
    /// Waits for room. `held` is what an earlier load of this model, with other options, still
    /// holds; the next load replaces it.
    Greeted {
        link: Link,
        held: Option<Admission>,
    },
    Loading {
        link: Link,
        deadline: Instant,
        load: Choice,
        admission: Admission,
    },
    Ready {
        link: Link,
        since: Instant,
        holds: Holds,
    },
}

/// The model in the program's memory.
#[derive(Debug)]
struct Holds {
    choice: Choice,
    loaded: Loaded,
    tools: Option<ToolFormat>,
    admission: Admission,
}

/// Why a model is left alone.
#[derive(Debug)]
struct Refused {
    reason: String,
    /// Memory comes and goes: the next request tries again.
    passing: bool,
}

/// A caller that waits until the model is ready.
#[derive(Debug)]
struct Loader {
    reply: LoadReply,
    since: Instant,
}

pub(super) type LoadReply = oneshot::Sender<Result<Ready, InferenceError>>;

/// A program that was started ahead and has no model yet.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) link: Link,
    /// What it said hello with.
    pub(super) devices: Option<Vec<Device>>,
}

/// Where facts go, shared by all engines.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub(super) notable: mpsc::Sender<Notable>,
    pub(super) tokens: Arc<AtomicU64>,
}

impl Outlet {
    pub(super) fn tell(&self, notable: Notable) {
        if self.notable.try_send(notable).is_err() {
            tracing::warn!("the activity feed cannot keep up; a line is missing");
        }
    }
}

#[derive(Debug)]
pub(super) struct Engine {
    choice: Choice,
    phase: Phase,
    /// The model is to be in memory. Requests that wait want it too.
    pub(super) wanted: bool,
    /// There is room for it; the load begins as soon as the program has said hello.
    admitted: Option<Admission>,
    /// Why it is not tried (again).
    refused: Option<Refused>,
    /// Only requests with a smaller ticket are begun: the model makes room for another then.
    pub(super) drain_before: Option<u64>,
    /// Why the program was lost the last time.
    last_loss: String,
    load_crashes: u32,
    pub(super) crashes: u32,
    came_back: bool,
    backoff: Backoff,
    waiting: VecDeque<Job>,
    running: HashMap<u64, Job>,
    /// Ended, and not told yet.
    failed: Vec<(Job, InferenceError)>,
    loaders: Vec<Loader>,
    /// Loaded for somebody whose request has not come yet.
    pub(super) unused: bool,
    outlet: Outlet,
    /// When a request last came, began or ended.
    pub(super) last_work: Instant,
}

impl Engine {
    pub(super) fn new(choice: Choice, outlet: Outlet) -> Self {
        Self {
            choice,
            phase: Phase::Off,
            wanted: false,
            admitted: None,
            refused: None,
            drain_before: None,
            last_loss: String::new(),
            load_crashes: 0,
            crashes: 0,
            came_back: false,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            waiting: VecDeque::new(),
            running: HashMap::new(),
            failed: Vec::new(),
            loaders: Vec::new(),
            unused: false,
            outlet,
            last_work: Instant::now(),
        }
    }

    /// Changes how the model is loaded; a loaded one is loaded again after its requests.
    pub(super) fn set_choice(&mut self, choice: Choice) {
        if !self.choice.same(&choice) {
            self.refused = None;
            self.load_crashes = 0;
            self.admitted = None;
        }
        self.choice = choice;
    }

    /// The owner asks for it (again): what failed before is tried once more.
    pub(super) fn choose(&mut self) {
        self.wanted = true;
        self.refused = None;
        self.load_crashes = 0;
    }

    /// Its file is gone: what is in memory, or on its way there, finishes what was accepted.
    pub(super) fn orphan(&mut self, name: String) {
        match &self.phase {
            Phase::Ready { holds, .. } => self.choice = holds.choice.clone(),
            Phase::Loading { load, .. } => self.choice = load.clone(),
            _ => {}
        }
        self.choice.model.id = name;
        self.wanted = false;
        self.drain_before = None;
    }

    /// Answers `reply` once the model is ready or has failed.
    pub(super) fn load(&mut self, reply: LoadReply) {
        self.forget_passing_refusal();
        self.last_work = Instant::now();
        if let Some(Refused { reason, .. }) = &self.refused {
            let _ = reply.send(Err(InferenceError::Unavailable(reason.clone())));
        } else if self.loaders.len() >= LOADERS {
            let _ = reply.send(Err(InferenceError::QueueFull));
        } else {
            self.wanted = true;
            self.loaders.push(Loader { reply, since: Instant::now() });
            self.answer_loaders_if_ready();
        }
    }

    pub(super) fn forget_passing_refusal(&mut self) {
        self.refused = self.refused.take().filter(|refused| !refused.passing);
    }

    /// The next moment at which [`Engine::overdue`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Backoff { until, .. } => Some(*until),
            Phase::Greeting { deadline, .. } | Phase::Loading { deadline, .. } => Some(*deadline),
            Phase::Off | Phase::Greeted { .. } | Phase::Ready { .. } => None,
        };
        let patience = match &self.phase {
            Phase::Backoff { .. } => {
                let jobs = self.waiting.front().map(|job| job.since);
                let loaders = self.loaders.first().map(|loader| loader.since);
                jobs.into_iter().chain(loaders).min().map(|since| since + limits::RUNNER_WAIT)
            }
            _ => None,
        };
        let cancels = self.running.values().filter_map(Job::cancel_deadline).min();
        [phase, patience, cancels].into_iter().flatten().min()
    }

    pub(super) fn hear(&mut self, said: FromLink) {
        match said {
            FromLink::Piece { id, piece } => self.piece(id, piece),
            FromLink::Hello { engine, .. } => self.greeted(&engine),
            FromLink::Unusable(reason) => {
                self.off();
                self.refuse(reason, false);
            }
            FromLink::Loaded { loaded, tools } => self.loaded(*loaded, tools),
            FromLink::LoadFailed(LoadFailure { message, passing }) => {
                let phase = self.off();
                // Other options may have been chosen meanwhile; those are not to blame.
                if matches!(&phase, Phase::Loading { load, .. } if self.choice.same(load)) {
                    self.refuse(message, passing);
                }
            }
            FromLink::Gone(reason) => self.crashed(&reason),
        }
    }

    fn off(&mut self) -> Phase {
        self.admitted = None;
        std::mem::replace(&mut self.phase, Phase::Off)
    }

    fn greeted(&mut self, engine: &str) {
        tracing::info!(model = self.choice.model.id, "{engine} is up");
        self.back_again();
        match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Greeting { link, .. } => self.phase = Phase::Greeted { link, held: None },
            other => self.phase = other,
        }
    }

    fn back_again(&mut self) {
        if std::mem::take(&mut self.came_back) {
            self.tell(Notable::RunnerBack);
        }
    }

    fn loaded(&mut self, loaded: Loaded, tools: Option<ToolFormat>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Off);
        let Phase::Loading { link, load, admission, .. } = phase else { return };
        self.load_crashes = 0;
        self.last_work = Instant::now();
        self.tell(Notable::ModelLoaded {
            id: load.model.id.clone(),
            name: load.model.name(),
            load_ms: loaded.load_ms,
        });
        let holds = Holds { choice: load, loaded, tools, admission };
        self.phase = Phase::Ready { link, since: Instant::now(), holds };
    }

    fn answer_loaders_if_ready(&mut self) {
        let Phase::Ready { holds, .. } = &self.phase else { return };
        if self.loaders.is_empty() || !holds.choice.same(&self.choice) {
            return;
        }
        let ready = Ready {
            chat_template: holds.loaded.chat_template.as_deref().map(Arc::from),
            tools: holds.tools,
        };
        for loader in std::mem::take(&mut self.loaders) {
            let _ = loader.reply.send(Ok(ready.clone()));
        }
        self.last_work = Instant::now();
        self.unused = true;
    }

    fn crashed(&mut self, reason: &str) {
        let phase = self.off();
        self.lost(reason);
        for (_, job) in std::mem::take(&mut self.running) {
            self.fail(job, InferenceError::RunnerLost);
        }
        match phase {
            Phase::Ready { since, .. } if since.elapsed() >= TRUSTED_AFTER => self.backoff.reset(),
            Phase::Loading { load, .. } if self.choice.same(&load) => {
                self.load_crashes += 1;
                if self.load_crashes >= LOAD_CRASHES {
                    let reason = format!(
                        "{} took the runner down {LOAD_CRASHES} times while loading ({reason}). Choose another model, or choose it again to try once more.",
                        load.model.id
                    );
                    self.refuse(reason, false);
                    return;
                }
            }
            _ => {}
        }
        self.back_off();
    }

    /// Takes note that the program is not there. The feed hears of it once, not at every attempt.
    fn lost(&mut self, reason: &str) {
        tracing::error!(model = self.choice.model.id, "the runner is gone: {reason}");
        self.crashes += 1;
        if !self.came_back || self.last_loss != reason {
            self.tell(Notable::RunnerCrashed { reason: reason.to_owned() });
        }
        self.came_back = true;
        reason.clone_into(&mut self.last_loss);
    }

    fn back_off(&mut self) {
        let wait = self.backoff.next_wait();
        let retry_at_ms = now_ms() + i64::try_from(wait.as_millis()).unwrap_or(0);
        self.phase = Phase::Backoff { until: Instant::now() + wait, retry_at_ms };
    }

    /// Gives up on the model: until the next request if the reason may pass, else until the owner
    /// chooses it again.
    pub(super) fn refuse(&mut self, reason: String, passing: bool) {
        tracing::warn!("model refused: {reason}");
        self.tell(Notable::ModelFailed { reason: reason.clone() });
        self.admitted = None;
        // A program without a model is not worth keeping.
        if matches!(self.phase, Phase::Greeting { .. } | Phase::Greeted { .. }) {
            self.phase = Phase::Off;
        }
        while let Some(job) = self.waiting.pop_front() {
            self.fail(job, InferenceError::Unavailable(reason.clone()));
        }
        self.fail_loaders(&InferenceError::Unavailable(reason.clone()));
        self.refused = Some(Refused { reason, passing });
    }

    fn fail_loaders(&mut self, error: &InferenceError) {
        for loader in std::mem::take(&mut self.loaders) {
            let _ = loader.reply.send(Err(error.clone()));
        }
    }

    pub(super) fn overdue(&mut self, now: Instant) {
        let unanswered = |job: &Job| job.cancel_deadline().is_some_and(|until| until <= now);
        if self.running.values().any(unanswered) {
            self.crashed("it does not answer any more");
            return;
        }
        match &self.phase {
            Phase::Backoff { until, .. } if *until <= now => self.phase = Phase::Off,
            Phase::Backoff { .. } => self.fail_the_impatient(now),
            Phase::Greeting { deadline, .. } if *deadline <= now => {
                self.crashed("it did not say hello in time");
            }
            Phase::Loading { deadline, .. } if *deadline <= now => {
                self.crashed("it did not load the model in time");
            }
            _ => {}
        }
    }

    fn fail_the_impatient(&mut self, now: Instant) {
        let (_, why) = self.describe();
        let error = InferenceError::Unavailable(format!("{why} Try again in a moment."));
        while self.waiting.front().is_some_and(|job| job.since + limits::RUNNER_WAIT <= now) {
            if let Some(job) = self.waiting.pop_front() {
                self.fail(job, error.clone());
            }
        }
        let impatient = |loader: &mut Loader| loader.since + limits::RUNNER_WAIT <= now;
        for loader in self.loaders.extract_if(.., impatient) {
            let _ = loader.reply.send(Err(error.clone()));
        }
    }

    /// Does what the state calls for.
    pub(super) fn advance(&mut self, spare: &mut Option<Spare>) {
        if self.refused.is_some() {
            return;
        }
        match &self.phase {
            Phase::Off if self.is_wanted() => self.start(spare),
            Phase::Ready { holds, .. } if holds.choice.same(&self.choice) => {
                self.answer_loaders_if_ready();
                self.dispatch();
            }
            // Other options were chosen: requests in flight finish first.
            Phase::Ready { .. } if self.running.is_empty() && self.is_wanted() => {
                let phase = std::mem::replace(&mut self.phase, Phase::Off);
                if let Phase::Ready { link, holds, .. } = phase
                    && holds.choice.program == self.choice.program
                {
                    self.phase = Phase::Greeted { link, held: Some(holds.admission) };
                }
            }
            _ => {}
        }
        self.begin_loading();
    }

    fn start(&mut self, spare: &mut Option<Spare>) {
        let deadline = Instant::now() + limits::HELLO_TIMEOUT;
        let spawned = match &self.choice.program {
            Program::Runner(None) => {
                self.refuse("The program edgecoder-runner was not found next to EdgeCoder. Install EdgeCoder again.".into(), false);
                return;
            }
            Program::Runner(Some(program)) => match spare.take() {
                Some(Spare { link, devices: Some(_) }) => {
                    self.back_again();
                    self.phase = Phase::Greeted { link, held: None };
                    return;
                }
                Some(Spare { link, devices: None }) => Ok(link),
                None => runner::spawn(program)
                    .map_err(|e| format!("{} cannot be started: {e}", program.display())),
            },
            Program::Ollama(endpoint) => Ok(ollama::connect(endpoint.clone())),
        };
        match spawned {
            Ok(link) => self.phase = Phase::Greeting { link, deadline },
            Err(reason) => {
                self.lost(&reason);
                self.back_off();
                self.fail_loaders(&InferenceError::Unavailable(reason));
            }
        }
    }

    /// Sends the model to the program, once both are ready for it.
    fn begin_loading(&mut self) {
        if !matches!(self.phase, Phase::Greeted { .. }) {
            return;
        }
        let Some(admission) = self.admitted.take() else { return };
        let phase = std::mem::replace(&mut self.phase, Phase::Off);
        let Phase::Greeted { link, .. } = phase else { return };
        if let Err(reason) = link.send(RunnerCommand::Load(admission.load.clone())) {
            self.crashed(&reason);
            return;
        }
        let deadline = Instant::now() + limits::LOAD_TIMEOUT;
        self.phase = Phase::Loading { link, deadline, load: self.choice.clone(), admission };
    }

    /// Takes the program away to end it. Requests that wait want the model back.
    pub(super) fn leave(&mut self) -> Option<(Link, Admission)> {
        self.wanted = false;
        self.drain_before = None;
        let (link, admission) = match self.off() {
            Phase::Ready { link, holds, .. } => {
                self.tell(Notable::ModelUnloaded { name: holds.choice.model.name() });
                (link, holds.admission)
            }
            Phase::Loading { link, admission, .. } => (link, admission),
            Phase::Greeted { link, held: Some(admission) } => (link, admission),
            // Nothing is in its memory: dropping it is enough.
            Phase::Greeted { .. } | Phase::Greeting { .. } => return None,
            Phase::Backoff { .. } | Phase::Off => return None,
        };
        Some((link, admission))
    }

    /// Fails everything that waits; what runs may finish.
    pub(super) fn shut_the_door(&mut self) {
        while let Some(job) = self.waiting.pop_front() {
            self.fail(job, InferenceError::ShuttingDown);
        }
        self.fail_loaders(&InferenceError::ShuttingDown);
        self.wanted = false;
    }

    /// Fails what still runs, because time is up.
    pub(super) fn cut_off(&mut self) {
        for (_, job) in std::mem::take(&mut self.running) {
            self.fail(job, InferenceError::ShuttingDown);
        }
    }

    fn tell_program(&mut self, command: RunnerCommand) {
        if let Phase::Ready { link, .. } = &self.phase
            && let Err(reason) = link.send(command)
        {
            self.crashed(&reason);
        }
    }

    fn tell(&self, notable: Notable) {
        self.outlet.tell(notable);
    }
}
