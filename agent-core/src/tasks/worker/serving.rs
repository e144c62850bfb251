//! One task of another node, from its place in the line to its acknowledged result.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use agent_api::{
    runner::Usage,
    tasks::{Role, TaskState},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inner, admission,
    held::Held,
    intake::ALIVE,
    kept::{KEPT_FOR, Key},
    line::{Place, Seat, Turn, Wish},
    sink::{Heard, Sink, frame},
};
use crate::tasks::{
    job::{Job, JobError, JobPiece, JobResult, JobStream},
    rows::{Row, STOPPED, new_row},
    wire::{self, Outcome, Said},
};

/// Text of one answer that a worker keeps, and that a requester takes: far more than the longest
/// context.
pub(in crate::tasks) const ANSWER_BYTES: usize = 8 << 20;
/// A requester that lets its task wait for so long in all, because it does not read, is given up:
/// the task holds a place meanwhile. A line of 100 kB/s carries all words that a model writes.
const UNREAD: Duration = Duration::from_secs(60);
/// Positions in the line are told at most so often.
const POSITIONS: Duration = Duration::from_millis(500);

/// A task that was taken.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) key: Key,
    pub(super) job: Job,
    pub(super) lease: Duration,
    /// Until its end.
    pub(super) seat: Seat,
    /// Until it begins.
    pub(super) held: Held,
}

/// What was said so far, for a stream that attaches later.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Transcript {
    running: bool,
    started: Option<Usage>,
    text: String,
    end: Option<Outcome>,
}

impl Transcript {
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The same again.
    pub(super) fn into_replay(self) -> VecDeque<Said> {
        let mut said = VecDeque::new();
        if !self.running && self.end.is_none() {
            said.push_back(Said::Waiting { position: 1, reason: "It waits here".to_owned() });
            return said;
        }
        said.push_back(Said::Running);
        said.extend(self.started.map(|usage| Said::Started { usage }));
        let text = |text: &str| Said::Text { text: text.to_owned(), logprobs: Vec::new() };
        said.extend(wire::parts(&self.text).map(text));
        said.extend(self.end.map(|end| Said::Result(Box::new(end))));
        said
    }

    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        let end = match &self.end {
            Some(Outcome::Embedded { vectors, .. }) => vectors.len(),
            Some(Outcome::Wasm { output, .. }) => output.len(),
            Some(Outcome::Code { output }) => {
                let rounds = output.iterations.iter();
                let texts = rounds.map(|one| one.code.len() + one.stdout.len() + one.stderr.len());
                output.code.len() + texts.sum::<usize>()
            }
            Some(Outcome::Text { .. }) | None => 0,
        };
        self.text.len() + end
    }
}

/// Why nothing more is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Acknowledged,
    /// The origin does not want it.
    Cancelled,
    /// The origin does not read.
    Stalled,
    /// Its result cannot wait in memory for the acknowledgement.
    Crowded,
    /// Nothing was heard of the origin for the whole lease.
    Expired,
    /// The owner of this node does not want it here.
    Stopped,
    Stopping,
}

/// What happened beside the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    /// Another stream is there; what is to be said to it waits.
    Attached,
    Over(Over),
}

/// The task of one task.
#[derive(Debug)]
pub(super) struct Serving {
    inner: Arc<Inner>,
    key: Key,
    lease: Duration,
    renewed: Instant,
    /// `None`: the connection is gone and may come back.
    sink: Option<Sink>,
    attached: mpsc::Receiver<Sink>,
    to_say: VecDeque<Said>,
    /// How long it may still wait for its reader.
    patience: Duration,
    /// Tokens so far, and milliseconds of tests: what it costs.
    counted: u64,
    transcript: Transcript,
    alive: Interval,
    row: Row,
}

impl Serving {
    pub(super) fn new(
        inner: Arc<Inner>,
        task: &Task,
        sink: Sink,
        attached: mpsc::Receiver<Sink>,
    ) -> Self {
        let around = &inner.setup.around;
        let origin = task.key.origin.to_id();
        let name = around.name_of(&origin);
        let mut row = new_row(task.key.task.clone(), task.job.kind(), Role::Served, (origin, name));
        row.subject = task.job.subject().map(|subject| wire::cut(&subject));
        row.interactive = task.key.fence == 0;
        let row = Row::begin(inner.setup.board.clone(), Arc::clone(around), row);
        let (id, name) = around.me();
        row.at(id, name, around.path_to(&task.key.origin.to_id()));
        let mut alive = interval(ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            key: task.key.clone(),
            lease: task.lease,
            renewed: Instant::now(),
            sink: Some(sink),
            attached,
            to_say: VecDeque::new(),
            patience: UNREAD,
            counted: 0,
            transcript: Transcript::default(),
            alive,
            row,
            inner,
        }
    }

    pub(super) async fn run(mut self, task: Task, wish: Wish) {
        let Task { key, job, seat, held, .. } = task;
        let over = match self.work(job, wish, held).await {
            Err(over) => over,
            // It is counted for its node until the acknowledgement: its result takes memory.
            Ok(end) => self.end(end).await,
        };
        match over {
            Over::Acknowledged | Over::Cancelled | Over::Crowded => {}
            Over::Stalled => {
                self.row.end(TaskState::Cancelled, "Its node does not read the answer")
            }
            Over::Expired => self.row.end(TaskState::Expired, "Its node was not heard of any more"),
            Over::Stopped => {
                self.row.end(TaskState::Cancelled, STOPPED);
                let why = JobError::Broke("the owner of the node stopped it there".to_owned());
                // Whoever cannot be told now hears of it when it attaches again.
                let _ = self.say(Said::error(&why)).await;
            }
            Over::Stopping => self.row.end(TaskState::Cancelled, "This node was stopped"),
        }
        self.keep(over).await;
        self.inner.served().remove(&key);
        drop(seat);
    }

    /// Waits for its turn and does it. `Err`: nobody wants it any more.
    async fn work(
        &mut self,
        job: Job,
        wish: Wish,
        held: Held,
    ) -> Result<Result<JobResult, JobError>, Over> {
        let line = Arc::clone(&self.inner.line);
        let mut place = self.wait(line.wait(wish)).await?;
        let kind = job.kind();
        let done = self.perform(job, held).await;
        place.used(admission::used(kind, self.counted, place.since().elapsed()));
        done
    }

    async fn perform(&mut self, job: Job, held: Held) -> Result<Result<JobResult, JobError>, Over> {
        let here = self.inner.setup.here.clone();
        let begun = {
            let begin = here.run(job);
            tokio::pin!(begin);
            loop {
                tokio::select! {
                    begun = &mut begin => break begun,
                    beside = self.beside() => self.go_on(beside).await?,
                }
            }
        };
        drop(held);
        match begun {
            Ok(stream) => self.stream(stream).await,
            Err(error) => Ok(Err(error)),
        }
    }

    async fn wait(&mut self, mut turn: Turn) -> Result<Place, Over> {
        let mut told = None;
        loop {
            if let Ok(place) = turn.called.try_recv() {
                return Ok(place);
            }
            turn.changes.borrow_and_update();
            let position = turn.position();
            if position != told {
                told = position;
                let reason = "Other work is being done there first".to_owned();
                self.row.waits(position, &reason);
                let position = position.unwrap_or(1);
                self.say(Said::Waiting { position, reason }).await?;
            }
            let not_before = Instant::now() + POSITIONS;
            loop {
                tokio::select! {
                    place = &mut turn.called => match place {
                        Ok(place) => return Ok(place),
                        // The line is only gone with the worker.
                        Err(_) => return Err(Over::Stopping),
                    },
                    () = async {
                        sleep_until(not_before).await;
                        let _ = turn.changes.changed().await;
                    } => break,
                    beside = self.beside() => self.go_on(beside).await?,
                }
            }
        }
    }

    /// Sends what the job brings until its last word.
    async fn stream(&mut self, mut stream: JobStream) -> Result<Result<JobResult, JobError>, Over> {
        loop {
            let piece = tokio::select! {
                piece = stream.pieces.recv() => piece,
                beside = self.beside() => {
                    self.go_on(beside).await?;
                    continue;
                }
            };
            let broke = || JobError::Broke("the job ended without a last word".to_owned());
            match piece.unwrap_or_else(|| Err(broke())) {
                Err(error) => return Ok(Err(error)),
                Ok(JobPiece::Result(result)) => {
                    self.counted = self.counted.max(counted(&result));
                    return Ok(Ok(*result));
                }
                Ok(piece) => self.tell(piece).await?,
            }
            if self.transcript.text.len() > ANSWER_BYTES {
                let reason = format!("the answer is longer than {} MiB", ANSWER_BYTES >> 20);
                return Ok(Err(JobError::Failed(reason)));
            }
        }
    }

    async fn tell(&mut self, piece: JobPiece) -> Result<(), Over> {
        let said = match piece {
            JobPiece::Waiting { position, reason } => Said::Waiting { position, reason },
            JobPiece::Running => {
                self.transcript.running = true;
                self.row.runs("It is being done for another node");
                Said::Running
            }
            JobPiece::Started { usage } => {
                self.transcript.started = Some(usage);
                self.counted += u64::from(usage.prompt_tokens);
                Said::Started { usage }
            }
            JobPiece::Text { text, logprobs } => {
                self.row.speaks();
                // With the result they are known exactly; there may be none.
                self.counted += logprobs.len().max(1) as u64;
                if self.key.fence != 0 {
                    self.transcript.text.push_str(&text);
                }
                Said::Text { text, logprobs }
            }
            JobPiece::Note { text } => Said::Note { text: wire::cut(&text) },
            // `stream` has taken it out.
            JobPiece::Result(_) => return Ok(()),
        };
        self.say(said).await
    }

    /// The last word, and the wait for its acknowledgement.
    async fn end(&mut self, end: Result<JobResult, JobError>) -> Over {
        let last = match end {
            Ok(result) => {
                match &result {
                    JobResult::Text { usage, .. } => {
                        self.row.counted(usage.prompt_tokens, usage.completion_tokens);
                    }
                    JobResult::Embedded { prompt_tokens, .. } => {
                        self.row.counted(*prompt_tokens, 0)
                    }
                    JobResult::Wasm { .. } | JobResult::Code { .. } => {}
                }
                self.row.end(TaskState::Done, "Done");
                let outcome = Outcome::from(result);
                self.transcript.end = Some(outcome.clone());
                Said::Result(Box::new(outcome))
            }
            Err(error) => {
                self.row.end(TaskState::Failed, &wire::cut(&error.to_string()));
                match error {
                    // Too late to say no: it has read the prompt.
                    JobError::Refused { reason, .. } if self.transcript.started.is_some() => {
                        Said::error(&JobError::Broke(reason))
                    }
                    error => Said::error(&error),
                }
            }
        };
        if let Err(over) = self.say(last).await {
            return over;
        }
        if self.key.fence == 0 || self.transcript.end.is_none() {
            return Over::Acknowledged;
        }
        let size = self.transcript.bytes();
        let Some(_held) = self.inner.memory.hold(self.key.origin, size) else {
            return Over::Crowded;
        };
        let until = Instant::now() + KEPT_FOR;
        loop {
            let beside = tokio::select! {
                beside = self.beside() => beside,
                () = sleep_until(until) => return Over::Cancelled,
            };
            if let Err(over) = self.go_on(beside).await {
                return over;
            }
        }
    }

    /// Keeps the result of a durable task that nobody said he has.
    async fn keep(&mut self, over: Over) {
        let wanted = !matches!(over, Over::Acknowledged | Over::Cancelled);
        if !wanted || self.key.fence == 0 || self.transcript.end.is_none() {
            return;
        }
        let Ok(bytes) = serde_json::to_vec(&self.transcript) else { return };
        if let Err(why) = self.inner.setup.kept.save(self.key.clone(), bytes).await {
            tracing::warn!("the result of {} is not kept: {why}", self.key.task);
        }
    }

    /// Says one more thing. It waits while the other end does not read.
    async fn say(&mut self, said: Said) -> Result<(), Over> {
        self.to_say.push_back(said);
        self.flush().await
    }

    async fn go_on(&mut self, beside: Beside) -> Result<(), Over> {
        match beside {
            Beside::Over(over) => Err(over),
            Beside::Attached => self.flush().await,
        }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        while !self.to_say.is_empty() {
            let Some(frames) = self.sink.as_ref().map(|sink| sink.frames.clone()) else {
                // It is in the transcript, for whoever attaches.
                self.to_say.clear();
                break;
            };
            let since = Instant::now();
            let patience = self.patience;
            let permit = tokio::select! {
                biased;
                permit = frames.reserve_owned() => Ok(permit),
                beside = self.beside() => Err(beside),
                () = sleep_until(since + patience) => return Err(Over::Stalled),
            };
            self.patience = patience.saturating_sub(since.elapsed());
            let permit = match permit {
                Ok(permit) => permit,
                Err(Beside::Attached) => continue,
                Err(Beside::Over(over)) => return Err(over),
            };
            match (permit, self.to_say.pop_front()) {
                (Ok(permit), Some(said)) => {
                    permit.send(frame(&self.key.task, self.key.fence, said));
                }
                // Its writer ended and says why through the other channel.
                _ => match self.beside().await {
                    Beside::Attached => {}
                    Beside::Over(over) => return Err(over),
                },
            }
        }
        Ok(())
    }

    /// Minds the stream: renewals, its end, the lease, signs of life, a stream that comes in its
    /// place. Cancel-safe. Returns when there is something to decide.
    async fn beside(&mut self) -> Beside {
        // It is said once: the last word still goes out.
        let stop = match self.row.has_ended() {
            true => CancellationToken::new(),
            false => self.row.stop().clone(),
        };
        loop {
            let expires = self.renewed + self.lease;
            tokio::select! {
                heard = heard(&mut self.sink) => match heard {
                    Heard::Renew => self.renewed = Instant::now(),
                    Heard::Ack => return Beside::Over(Over::Acknowledged),
                    Heard::Lost if self.key.fence != 0 => {
                        self.sink = None;
                        return Beside::Attached;
                    }
                    Heard::Lost | Heard::Ended => return Beside::Over(Over::Cancelled),
                    Heard::Stalled => return Beside::Over(Over::Stalled),
                },
                Some(sink) = self.attached.recv() => {
                    if let Some(old) = self.sink.replace(sink) {
                        old.abandon();
                    }
                    self.renewed = Instant::now();
                    self.to_say = self.transcript.clone().into_replay();
                    return Beside::Attached;
                }
                _ = self.alive.tick() => {
                    if let Some(sink) = &self.sink {
                        let alive = frame(&self.key.task, self.key.fence, Said::Alive);
                        // A full channel shows life by itself.
                        let _ = sink.frames.try_send(alive);
                    }
                }
                () = sleep_until(expires) => return Beside::Over(Over::Expired),
                () = self.inner.stop.cancelled() => return Beside::Over(Over::Stopping),
                () = stop.cancelled() => return Beside::Over(Over::Stopped),
            }
        }
    }
}

/// What a result cost, as its model and the sandbox counted.
fn counted(result: &JobResult) -> u64 {
    match result {
        JobResult::Text { usage, .. } => {
            u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens)
        }
        JobResult::Embedded { prompt_tokens, .. } => (*prompt_tokens).into(),
        // The time that it took counts.
        JobResult::Wasm { .. } => 0,
        JobResult::Code { output } => {
            let tokens = u64::from(output.prompt_tokens) + u64::from(output.completion_tokens);
            let runs = output.iterations.iter().map(|one| one.run_ms);
            runs.fold(tokens, u64::saturating_add)
        }
    }
}

/// Waits for ever where there is no stream.
async fn heard(sink: &mut Option<Sink>) -> Heard {
    match sink {
        Some(sink) => sink.heard.recv().await.unwrap_or(Heard::Lost),
        None => std::future::pending().await,
    }
}
