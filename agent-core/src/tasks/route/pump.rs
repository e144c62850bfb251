//! Carries an answer from the node that speaks to the client, and goes on elsewhere when that node
//! is lost.

use std::{task::Poll, time::Duration};

use agent_api::{
    runner::{FinishReason, Timings, Usage},
    tasks::TaskState,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    Attempt, Chosen, Request, Router,
    tries::{BUSY_WAIT, Tries, to_client},
};
use crate::{
    inference::{InferenceError, Piece, SharedRoute, Work},
    tasks::{
        job::{JobError, JobPiece, JobResult},
        reputation::Experience,
        rows::Row,
        verify::{self, Claim},
    },
};

/// A node is late that has not spoken for so long, or for four times the estimate if that is more
/// (but not for ever: the estimate is made of what the node says of itself). Then another one is
/// asked too, and after as long the next: all of them work, and all but one for nothing.
const LATE: Duration = Duration::from_secs(10);
const LATE_FACTOR: f64 = 4.0;
const LATE_AT_MOST: Duration = Duration::from_secs(5 * 60);
/// Until its first word a node may load the model and read a prompt that fills the context; it is
/// lost after this, or four times as long as it takes to be late.
const FIRST_WORD: Duration = Duration::from_secs(10 * 60);
/// A node that has begun to speak is lost when it writes nothing for so long.
const SILENT: Duration = Duration::from_secs(60);
/// A client that takes nothing for so long is given up: sooner than the node that writes gives up,
/// which would look as if it had failed.
const UNREAD: Duration = Duration::from_secs(20);
/// The second node may take so long to say that it takes it.
const HEDGE_WAIT: Duration = Duration::from_secs(5);
/// Nodes that may be lost over one answer.
const FAILOVERS: u32 = 5;

/// What became of a piece of an attempt.
type Next = Result<JobPiece, JobError>;

/// One answer.
pub(super) struct Pump {
    router: Router,
    request: Request,
    tries: Tries,
    row: Row,
    out: mpsc::Sender<Piece>,
    route: SharedRoute,
    /// Text that the client has.
    delivered: String,
    /// Tokens of nodes that were lost.
    tokens_before: u32,
    /// The client knows that its prompt was read.
    started: bool,
    failovers: u32,
    speaks: Speaks,
}

/// What was seen of the node that speaks now.
#[derive(Debug, Default)]
struct Speaks {
    pieces: u32,
    bytes: usize,
    since: Option<std::time::Instant>,
}

/// Why there is nothing more to do.
enum Stop {
    /// The client is gone.
    Unread,
    /// The client does not read.
    Slow,
    Failed(InferenceError),
}

impl Pump {
    pub(super) fn new(
        router: Router,
        request: Request,
        tries: Tries,
        row: Row,
        out: mpsc::Sender<Piece>,
        route: SharedRoute,
    ) -> Self {
        Self {
            router,
            request,
            tries,
            row,
            out,
            route,
            delivered: String::new(),
            tokens_before: 0,
            started: false,
            failovers: 0,
            speaks: Speaks::default(),
        }
    }

    pub(super) async fn run(mut self, first: Attempt) {
        match self.carry(first).await {
            // Dropping the row says that nobody wants it any more.
            Ok(()) | Err(Stop::Unread) => {}
            // An answer that ends without a last word tells the same to whoever reads on.
            Err(Stop::Slow) => {
                self.row.end(TaskState::Failed, &InferenceError::SlowClient.to_string());
            }
            Err(Stop::Failed(error)) => {
                self.row.end(TaskState::Failed, &error.to_string());
                let _ = self.out.send(Piece::Failed(error)).await;
            }
        }
    }

    async fn carry(&mut self, first: Attempt) -> Result<(), Stop> {
        let (mut current, mut next) = self.first_word(first).await?;
        loop {
            match next {
                Ok(JobPiece::Text { text, logprobs }) => {
                    self.row.speaks();
                    self.speaks.pieces += 1;
                    self.speaks.bytes += text.len();
                    self.speaks.since.get_or_insert_with(std::time::Instant::now);
                    self.delivered.push_str(&text);
                    self.send(Piece::Text { text, logprobs }).await?;
                }
                Ok(JobPiece::Result(result)) => return self.finish(&current, *result).await,
                Ok(_) => {}
                Err(error) => {
                    let instead = self.replace(&current.node, error).await?;
                    // What the lost one still holds is not waited for.
                    drop(current);
                    (current, next) = self.first_word(instead).await?;
                    continue;
                }
            }
            next = match timeout(SILENT, current.stream.pieces.recv()).await {
                Ok(piece) => received(piece),
                Err(_) => Err(silent(SILENT)),
            };
        }
    }

    /// Waits until a node speaks. Until then others take its place without the client's noticing.
    async fn first_word(&mut self, first: Attempt) -> Result<(Attempt, Next), Stop> {
        self.place(&first);
        let mut hedge_at = first.is_late_at();
        let mut attempts = vec![first];
        loop {
            let (index, next) = tokio::select! {
                next = next_of(&mut attempts) => next,
                () = sleep_until(hedge_at) => {
                    let second = self.hedge().await;
                    hedge_at = second.as_ref().map_or(Instant::now() + LATE, Attempt::is_late_at);
                    attempts.extend(second);
                    continue;
                }
            };
            match next {
                Ok(JobPiece::Text { .. } | JobPiece::Result(_)) => {
                    let winner = attempts.swap_remove(index);
                    self.won(&winner, &attempts).await?;
                    return Ok((winner, next));
                }
                Ok(JobPiece::Started { usage }) => {
                    self.row.runs("It is being answered");
                    // The client hears of it once it is certain which node answers.
                    if let Some(attempt) = attempts.get_mut(index) {
                        attempt.prompt.get_or_insert(usage);
                    }
                }
                Ok(JobPiece::Waiting { position, reason }) => {
                    self.row.waits(Some(position), &reason);
                }
                Ok(JobPiece::Running) => self.row.runs("It is being answered"),
                Ok(JobPiece::Note { .. }) => {}
                Err(error) => {
                    let lost = attempts.swap_remove(index);
                    if attempts.is_empty() {
                        let instead = self.replace(&lost.node, error).await?;
                        self.place(&instead);
                        hedge_at = instead.is_late_at();
                        attempts.push(instead);
                    } else {
                        self.router.blame(&lost.node, &error);
                        self.tries.said(&lost.node.id, &error);
                    }
                }
            }
        }
    }

    /// A node speaks; those that were asked before and are late by now did not.
    async fn won(&mut self, winner: &Attempt, others: &[Attempt]) -> Result<(), Stop> {
        let now = Instant::now();
        for other in others.iter().filter(|other| other.is_late_at() <= now) {
            self.router.blame(&other.node, &silent(now - other.taken));
        }
        self.place(winner);
        self.route.set(winner.route.clone());
        match winner.prompt {
            Some(usage) if !std::mem::replace(&mut self.started, true) => {
                self.send(Piece::Started { usage }).await
            }
            _ => Ok(()),
        }
    }

    /// A second node, if one is free.
    async fn hedge(&mut self) -> Option<Attempt> {
        let (nodes, _) = self.router.candidates(&self.request, &self.tries.asked);
        nodes.first().filter(|node| node.is_free)?;
        let (request, delivered) = (&self.request, &self.delivered);
        let begin = self.router.begin(request, delivered, &mut self.tries, Duration::ZERO);
        timeout(HEDGE_WAIT, begin).await.ok()?.ok()
    }

    /// Another node goes on where this one stopped.
    async fn replace(&mut self, lost: &Chosen, error: JobError) -> Result<Attempt, Stop> {
        self.router.blame(lost, &error);
        let told = to_client(&lost.name, &error);
        self.failovers += 1;
        self.tries.said(&lost.id, &error);
        let fails = match &error {
            JobError::Failed(reason) => self.tries.fails_anywhere(lost, reason),
            _ => false,
        };
        if fails || self.failovers > FAILOVERS {
            return Err(Stop::Failed(told));
        }
        let speaks = std::mem::take(&mut self.speaks);
        self.tokens_before = self.tokens_before.saturating_add(speaks.pieces);
        let (request, delivered) = (&self.request, &self.delivered);
        let next = self.router.begin(request, delivered, &mut self.tries, BUSY_WAIT).await;
        let next = next.map_err(|other| Stop::Failed(other.unwrap_or(told)))?;
        let attempts = self.failovers + 1;
        let reason = format!("{} was lost; {} goes on", lost.name, next.node.name);
        self.row.update(|task| {
            task.attempts = attempts;
            task.reason = reason;
        });
        self.place(&next);
        Ok(next)
    }

    fn place(&self, attempt: &Attempt) {
        let node = &attempt.node;
        self.row.at(node.id.clone(), node.name.clone(), node.path);
        self.row.placed(attempt.placement.clone());
    }

    async fn finish(&mut self, attempt: &Attempt, result: JobResult) -> Result<(), Stop> {
        let node = &attempt.node;
        let last = match result {
            JobResult::Text { finish, usage, timings } => {
                self.text_end(attempt, finish, usage, timings)
            }
            JobResult::Embedded { vectors, prompt_tokens } => {
                let most = u32::try_from(self.request.bytes).unwrap_or(u32::MAX);
                let prompt_tokens = prompt_tokens.min(most);
                self.row.counted(prompt_tokens, 0);
                self.router.setup.around.experience(node.key, Experience::Done);
                Piece::Embedded { vectors, prompt_tokens }
            }
            // Frames of these are refused where they come in.
            JobResult::Wasm { .. } | JobResult::Code { .. } => {
                let error = JobError::Misbehaved("another kind of result".to_owned());
                return Err(Stop::Failed(to_client(&node.name, &error)));
            }
        };
        self.router.answered(&mut self.tries);
        self.row.end(TaskState::Done, "Answered");
        self.send(last).await
    }

    /// Counts what came; the worker's word is only a claim.
    fn text_end(
        &mut self,
        attempt: &Attempt,
        finish: FinishReason,
        usage: Usage,
        timings: Timings,
    ) -> Piece {
        let node = &attempt.node;
        let prompt = attempt.prompt.unwrap_or(usage);
        let counted = verify::count(&Claim {
            prompt_tokens: prompt.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            prompt_bytes: self.request.bytes + attempt.continues,
            text_bytes: self.speaks.bytes,
            pieces: self.speaks.pieces,
            took: self.speaks.since.map_or(Duration::ZERO, |since| since.elapsed()),
            model_bytes: node.model_bytes,
        });
        let experience = match counted.implausible {
            Some(reason) => Experience::Misbehaved(reason),
            None => Experience::Done,
        };
        self.router.setup.around.experience(node.key, experience);
        let asked = match &self.request.work {
            Work::Generate(generate) => generate.max_tokens,
            Work::Embed(_) => None,
        };
        let completion = self.tokens_before.saturating_add(counted.completion_tokens);
        let usage = Usage {
            prompt_tokens: counted.prompt_tokens,
            cached_tokens: prompt.cached_tokens.min(counted.prompt_tokens),
            completion_tokens: completion.min(asked.unwrap_or(u32::MAX)),
        };
        self.row.counted(usage.prompt_tokens, usage.completion_tokens);
        Piece::Done { finish, usage, timings }
    }

    /// The node that speaks is not to blame for a client that does not read: it is let go before it
    /// notices.
    async fn send(&self, piece: Piece) -> Result<(), Stop> {
        match timeout(UNREAD, self.out.send(piece)).await {
            Ok(sent) => sent.map_err(|_| Stop::Unread),
            Err(_) => Err(Stop::Slow),
        }
    }
}

fn received(piece: Option<Next>) -> Next {
    piece.unwrap_or_else(|| Err(JobError::Lost("the node stopped without a last word".to_owned())))
}

fn silent(time: Duration) -> JobError {
    JobError::Lost(format!("the node wrote nothing for {} s", time.as_secs()))
}

impl Attempt {
    /// When another node is asked too.
    fn is_late_at(&self) -> Instant {
        self.taken + self.may_take()
    }

    fn may_take(&self) -> Duration {
        let estimate = Duration::try_from_secs_f64(self.node.estimate_ms * LATE_FACTOR / 1e3);
        estimate.unwrap_or_default().clamp(LATE, LATE_AT_MOST)
    }

    /// When it is lost that has not spoken.
    fn is_lost_at(&self) -> Instant {
        self.taken + FIRST_WORD.max(self.may_take() * 4)
    }
}

/// The next piece of any of them; the one that was silent for too long is lost.
async fn next_of(attempts: &mut [Attempt]) -> (usize, Next) {
    let lost_at = attempts.iter().map(Attempt::is_lost_at).enumerate().min_by_key(|(_, at)| *at);
    let said = std::future::poll_fn(|context| {
        for (index, attempt) in attempts.iter_mut().enumerate() {
            if let Poll::Ready(piece) = attempt.stream.pieces.poll_recv(context) {
                return Poll::Ready((index, received(piece)));
            }
        }
        Poll::Pending
    });
    let Some((index, lost_at)) = lost_at else { return said.await };
    let late = || (index, Err(silent(FIRST_WORD)));
    timeout_at(lost_at, said).await.unwrap_or_else(|_| late())
}
