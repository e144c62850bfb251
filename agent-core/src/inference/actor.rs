//! The actor that owns the runner: choosing, loading, queueing, failing, coming back.
//!
//! Everything happens in one loop: a command, a frame from the runner or a deadline changes the
//! state, then [`Actor::advance`] does whatever the new state calls for.

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
    models::ModelState,
    runner::{self, Command as RunnerCommand, Loaded, Reply},
};
pub(super) use job::Job;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    EngineState, InferenceError, LoadOptions, Notable,
    admission::admit,
    process::{FromRunner, Process},
};
use crate::{backoff::Backoff, clock::now_ms, config::limits, machine, models::ModelFile};

/// A runner that was up this long is trusted again: its next crash is waited for briefly.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);
/// A model that takes the runner down this often while loading is given up until the owner
/// chooses again.
const LOAD_CRASHES: u32 = 3;

#[derive(Debug)]
pub(super) enum Command {
    Choose { model: Option<Box<ModelFile>>, options: LoadOptions },
    Load,
    Unload,
    Submit { job: Box<Job>, reply: oneshot::Sender<Result<(), InferenceError>> },
    Cancel { id: u64 },
    Shutdown { reply: oneshot::Sender<()> },
}

/// The runner process, as far as it got.
#[derive(Debug)]
enum Phase {
    Off,
    Backoff {
        until: Instant,
        retry_at_ms: i64,
    },
    /// Started, has not said hello.
    Greeting {
        process: Process,
        deadline: Instant,
    },
    Loading {
        process: Process,
        deadline: Instant,
        needs: u64,
        load: Choice,
    },
    Ready {
        process: Process,
        since: Instant,
        holds: Holds,
    },
}

/// The model in the runner's memory.
#[derive(Debug)]
struct Holds {
    choice: Choice,
    loaded: Loaded,
    needs: u64,
}

#[derive(Clone, Debug)]
struct Choice {
    model: ModelFile,
    options: LoadOptions,
}

impl Choice {
    fn same(&self, other: &Self) -> bool {
        self.model.path == other.model.path
            && self.model.modified == other.model.modified
            && self.options == other.options
    }
}

/// Why a model is left alone.
#[derive(Debug)]
struct Refused {
    reason: String,
    /// Memory comes and goes: the next request tries again.
    for_memory: bool,
}

struct Actor {
    program: Option<PathBuf>,
    phase: Phase,
    chosen: Option<Choice>,
    /// False after an unload, until the next request.
    wanted: bool,
    /// Why the chosen model is not tried (again).
    refused: Option<Refused>,
    /// Why the runner was lost the last time.
    last_loss: String,
    load_crashes: u32,
    crashes: u32,
    came_back: bool,
    backoff: Backoff,
    waiting: VecDeque<Job>,
    running: HashMap<u64, Job>,
    stopping: Option<(oneshot::Sender<()>, Instant)>,
    notable: mpsc::Sender<Notable>,
    state: watch::Sender<EngineState>,
    tokens: Arc<AtomicU64>,
}

pub(super) fn spawn(
    program: Option<PathBuf>,
    inbox: mpsc::Receiver<Command>,
    notable: mpsc::Sender<Notable>,
    tokens: Arc<AtomicU64>,
) -> watch::Receiver<EngineState> {
    let (state, receiver) = watch::channel(EngineState {
        state: ModelState::None,
        reason: InferenceError::NoModel.to_string(),
        active: None,
        loaded: None,
        chat_template: None,
        retry_at_ms: None,
        runner_crashes: 0,
        runner_pid: None,
        running: 0,
        queued: 0,
        oldest_waiting_since: None,
    });
    let actor = Actor {
        program,
        phase: Phase::Off,
        chosen: None,
        wanted: true,
        refused: None,
        last_loss: String::new(),
        load_crashes: 0,
        crashes: 0,
        came_back: false,
        backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
        waiting: VecDeque::new(),
        running: HashMap::new(),
        stopping: None,
        notable,
        state,
        tokens,
    };
    tokio::spawn(actor.run(inbox));
    receiver
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                from = receive(&mut self.phase) => self.hear(from),
                () = sleep_until(deadline) => self.overdue(),
            }
            self.advance().await;
            self.publish();
            if self.stopping.is_some() && self.running.is_empty() {
                self.phase = Phase::Off;
                if let Some((reply, _)) = self.stopping.take() {
                    let _ = reply.send(());
                }
                return;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Backoff { until, .. } => Some(*until),
            Phase::Greeting { deadline, .. } | Phase::Loading { deadline, .. } => Some(*deadline),
            Phase::Off | Phase::Ready { .. } => None,
        };
        let patience = match &self.phase {
            Phase::Backoff { .. } => {
                self.waiting.front().map(|job| job.since + limits::RUNNER_WAIT)
            }
            _ => None,
        };
        let cancels = self.running.values().filter_map(Job::cancel_deadline).min();
        let stop = self.stopping.as_ref().map(|(_, until)| *until);
        [phase, patience, cancels, stop].into_iter().flatten().min()
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Choose { model, options } => {
                self.chosen = model.map(|model| Choice { model: *model, options });
                self.wanted = true;
                self.refused = None;
                self.load_crashes = 0;
                self.fail_those_for_another_model();
            }
            Command::Load => {
                self.wanted = true;
                self.forget_refusal_for_memory();
            }
            Command::Unload => self.wanted = false,
            Command::Submit { job, reply } => {
                let accepted = self.accept(*job);
                let _ = reply.send(accepted);
            }
            Command::Cancel { id } => {
                if let Some(job) = self.running.get_mut(&id) {
                    if job.cancel_once() {
                        self.tell_runner(&RunnerCommand::Cancel { id });
                    }
                } else if let Some(at) = self.waiting.iter().position(|job| job.id == id)
                    && let Some(job) = self.waiting.remove(at)
                {
                    self.finish(job.cancelled());
                }
            }
            Command::Shutdown { reply } => {
                while let Some(job) = self.waiting.pop_front() {
                    self.fail(job, InferenceError::ShuttingDown);
                }
                self.stopping = Some((reply, Instant::now() + limits::DRAIN));
            }
        }
    }

    fn hear(&mut self, from: FromRunner) {
        match from {
            FromRunner::Reply(reply) => self.reply(reply),
            FromRunner::Gone(reason) => self.crashed(&reason),
        }
    }

    fn reply(&mut self, reply: Reply) {
        match reply {
            Reply::Hello { protocol, engine, .. } => {
                if protocol != runner::PROTOCOL {
                    self.phase = Phase::Off;
                    self.refuse(format!(
                        "The program edgecoder-runner is of another version (protocol {protocol}, needed {}). Install EdgeCoder again.",
                        runner::PROTOCOL
                    ));
                    return;
                }
                tracing::info!("runner is up: {engine}");
                if self.came_back {
                    self.came_back = false;
                    self.tell(Notable::RunnerBack);
                }
                if let Phase::Greeting { deadline, .. } = &mut self.phase {
                    // Hello was said; `advance` loads the model.
                    *deadline = Instant::now() + limits::LOAD_TIMEOUT;
                    self.start_loading();
                }
            }
            Reply::Loaded(loaded) => self.loaded(loaded),
            Reply::LoadFailed { message } => {
                let phase = std::mem::replace(&mut self.phase, Phase::Off);
                // Another choice may have been made meanwhile; that one is not to blame.
                if matches!(&phase, Phase::Loading { load, .. } if self.is_chosen(load)) {
                    self.refuse(message);
                }
            }
            Reply::Unloaded => {}
            reply => self.job_reply(reply),
        }
    }

    fn is_chosen(&self, choice: &Choice) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| chosen.same(choice))
    }

    fn loaded(&mut self, loaded: Loaded) {
        let phase = std::mem::replace(&mut self.phase, Phase::Off);
        let Phase::Loading { process, load, needs, .. } = phase else { return };
        self.load_crashes = 0;
        let name = load.model.name();
        self.tell(Notable::ModelLoaded { name, load_ms: loaded.load_ms });
        let holds = Holds { choice: load, loaded, needs };
        self.phase = Phase::Ready { process, since: Instant::now(), holds };
    }

    fn crashed(&mut self, reason: &str) {
        let phase = std::mem::replace(&mut self.phase, Phase::Off);
        self.lost(reason);
        for (_, job) in std::mem::take(&mut self.running) {
            self.fail(job, InferenceError::RunnerLost);
        }
        match phase {
            Phase::Ready { since, .. } if since.elapsed() >= TRUSTED_AFTER => self.backoff.reset(),
            Phase::Loading { load, .. } if self.is_chosen(&load) => {
                self.load_crashes += 1;
                if self.load_crashes >= LOAD_CRASHES {
                    self.refuse(format!(
                        "{} took the runner down {LOAD_CRASHES} times while loading ({reason}). Choose another model, or choose it again to try once more.",
                        load.model.id
                    ));
                    return;
                }
            }
            _ => {}
        }
        self.back_off();
    }

    /// Takes note that the runner is not there. The feed hears of it once, not at every attempt.
    fn lost(&mut self, reason: &str) {
        tracing::error!("the runner is gone: {reason}");
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

    /// Gives up on the chosen model until the owner chooses again.
    fn refuse(&mut self, reason: String) {
        self.refuse_with(reason, false);
    }

    fn refuse_with(&mut self, reason: String, for_memory: bool) {
        tracing::warn!("model refused: {reason}");
        self.tell(Notable::ModelFailed { reason: reason.clone() });
        while let Some(job) = self.waiting.pop_front() {
            self.fail(job, InferenceError::Unavailable(reason.clone()));
        }
        self.refused = Some(Refused { reason, for_memory });
    }

    fn overdue(&mut self) {
        let now = Instant::now();
        if self.stopping.as_ref().is_some_and(|(_, until)| *until <= now) {
            for (_, job) in std::mem::take(&mut self.running) {
                self.fail(job, InferenceError::ShuttingDown);
            }
            return;
        }
        let unanswered = |job: &Job| job.cancel_deadline().is_some_and(|until| until <= now);
        if self.running.values().any(unanswered) {
            self.crashed("it does not answer any more");
            return;
        }
        match &self.phase {
            Phase::Backoff { until, .. } if *until <= now => self.phase = Phase::Off,
            Phase::Backoff { .. } => {
                while self.waiting.front().is_some_and(|job| job.since + limits::RUNNER_WAIT <= now)
                {
                    if let Some(job) = self.waiting.pop_front() {
                        let (_, why) = self.describe();
                        self.fail(
                            job,
                            InferenceError::Unavailable(format!("{why} Try again in a moment.")),
                        );
                    }
                }
            }
            Phase::Greeting { deadline, .. } if *deadline <= now => {
                self.crashed("it did not say hello in time");
            }
            Phase::Loading { deadline, .. } if *deadline <= now => {
                self.crashed("it did not load the model in time");
            }
            _ => {}
        }
    }

    /// Does what the state calls for.
    async fn advance(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let Some(chosen) = self.chosen.clone() else {
            if self.running.is_empty() {
                self.drop_process();
            }
            return;
        };
        // What was accepted before an unload is still answered.
        if !self.wanted && self.waiting.is_empty() {
            if self.running.is_empty() {
                self.drop_process();
            }
            return;
        }
        if self.refused.is_some() {
            return;
        }
        match &self.phase {
            Phase::Off => self.start_runner(),
            Phase::Ready { holds, .. } if holds.choice.same(&chosen) => self.dispatch(),
            // Another model or other options were chosen: requests in flight finish first.
            Phase::Ready { .. } if self.running.is_empty() => self.start_loading(),
            _ => {}
        }
        tokio::task::consume_budget().await;
    }

    fn start_runner(&mut self) {
        let Some(program) = &self.program else {
            self.refuse("The program edgecoder-runner was not found next to EdgeCoder. Install EdgeCoder again.".into());
            return;
        };
        match Process::spawn(program) {
            Ok(process) => {
                let deadline = Instant::now() + limits::HELLO_TIMEOUT;
                self.phase = Phase::Greeting { process, deadline };
            }
            Err(e) => {
                let reason = format!("{} cannot be started: {e}", program.display());
                self.lost(&reason);
                self.back_off();
            }
        }
    }

    /// Sends the chosen model to the runner, if it is admitted.
    fn start_loading(&mut self) {
        let Some(load) = self.chosen.clone() else { return };
        let given_back = match &self.phase {
            Phase::Ready { holds, .. } => holds.needs,
            _ => 0,
        };
        let available = machine::available_memory().unwrap_or(u64::MAX).saturating_add(given_back);
        let (command, needs) = match admit(&load.model, load.options, available) {
            Ok(admitted) => admitted,
            Err(reason) => {
                self.phase = Phase::Off;
                self.refuse_with(reason, true);
                return;
            }
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Off);
        let (Phase::Greeting { process, .. } | Phase::Ready { process, .. }) = phase else {
            self.phase = phase;
            return;
        };
        if let Err(reason) = process.send(&RunnerCommand::Load(command)) {
            self.crashed(&reason);
            return;
        }
        let deadline = Instant::now() + limits::LOAD_TIMEOUT;
        self.phase = Phase::Loading { process, deadline, needs, load };
    }

    fn drop_process(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Off);
        if let Phase::Ready { holds, .. } = phase {
            self.tell(Notable::ModelUnloaded { name: holds.choice.model.name() });
        }
    }

    fn tell_runner(&mut self, command: &RunnerCommand) {
        if let Phase::Ready { process, .. } = &self.phase
            && let Err(reason) = process.send(command)
        {
            self.crashed(&reason);
        }
    }

    fn tell(&mut self, notable: Notable) {
        if self.notable.try_send(notable).is_err() {
            tracing::warn!("the activity feed cannot keep up; a line is missing");
        }
    }
}

async fn receive(phase: &mut Phase) -> FromRunner {
    match phase {
        Phase::Greeting { process, .. }
        | Phase::Loading { process, .. }
        | Phase::Ready { process, .. } => match process.inbox.recv().await {
            Some(from) => from,
            None => FromRunner::Gone("its pipes closed".into()),
        },
        Phase::Off | Phase::Backoff { .. } => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
