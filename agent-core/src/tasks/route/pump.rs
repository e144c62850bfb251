//! Carries an answer from the node that speaks to the client, and goes on elsewhere when that node
//! is lost.

use std::{
    task::Poll,
    time::{Duration, Instant},
};

use agent_api::{
    NodeId,
    runner::{FinishReason, Timings, Usage},
    tasks::TaskState,
};
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::{Attempt, Chosen, Request, Router, to_client};
use crate::{
    inference::{InferenceError, Piece, SharedRoute, Work},
    tasks::{
        job::{JobError, JobPiece, JobResult},
        reputation::Experience,
        rows::Row,
        verify::{self, Claim},
    },
};

/// A second node is asked when the first has not spoken for so long, or for four times the
/// estimate if that is more: both then work, and one of them for nothing.
const HEDGE_AFTER: Duration = Duration::from_secs(10);
const HEDGE_FACTOR: f64 = 4.0;
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
    tried: Vec<(NodeId, String)>,
    row: Row,
    out: mpsc::Sender<Piece>,
    route: SharedRoute,
    /// Text that the client has.
    delivered: String,
    /// Tokens of nodes that were lost.
    tokens_before: u32,
    /// Of the first node that spoke.
    prompt: Option<Usage>,
    failovers: u32,
    speaks: Speaks,
}

/// What was seen of the node that speaks now.
#[derive(Debug, Default)]
struct Speaks {
    pieces: u32,
    bytes: usize,
    since: Option<Instant>,
}

/// Why there is nothing more to do.
enum Stop {
    /// The client is gone.
    Unread,
    Failed(InferenceError),
}

impl Pump {
    pub(super) fn new(
        router: Router,
        request: Request,
        tried: Vec<(NodeId, String)>,
        row: Row,
        out: mpsc::Sender<Piece>,
        route: SharedRoute,
    ) -> Self {
        Self {
            router,
            request,
            tried,
            row,
            out,
            route,
            delivered: String::new(),
            tokens_before: 0,
            prompt: None,
            failovers: 0,
            speaks: Speaks::default(),
        }
    }

    pub(super) async fn run(mut self, first: Attempt) {
        match self.carry(first).await {
            // Dropping the row says that nobody wants it any more.
            Ok(()) | Err(Stop::Unread) => {}
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
                    self.speaks.since.get_or_insert_with(Instant::now);
                    self.delivered.push_str(&text);
                    self.send(Piece::Text { text, logprobs }).await?;
                }
                Ok(JobPiece::Result(result)) => return self.finish(&current.node, *result).await,
                Ok(_) => {}
                Err(error) => {
                    current = self.replace(&current.node, error).await?;
                    self.route.set(current.route.clone());
                }
            }
            next = received(current.stream.pieces.recv().await);
        }
    }

    /// Waits until a node speaks. Until then others take its place without the client's noticing.
    async fn first_word(&mut self, first: Attempt) -> Result<(Attempt, Next), Stop> {
        let estimate = Duration::try_from_secs_f64(first.node.estimate_ms * HEDGE_FACTOR / 1e3);
        let wait = estimate.unwrap_or_default().max(HEDGE_AFTER);
        let hedge_at = tokio::time::Instant::now() + wait;
        self.place(&first);
        let (mut attempts, mut hedged) = (vec![first], false);
        loop {
            let (index, next) = tokio::select! {
                next = next_of(&mut attempts) => next,
                () = sleep_until(hedge_at), if !hedged => {
                    hedged = true;
                    attempts.extend(self.hedge().await);
                    continue;
                }
            };
            match next {
                Ok(JobPiece::Text { .. } | JobPiece::Result(_)) => {
                    let winner = attempts.swap_remove(index);
                    self.place(&winner);
                    self.route.set(winner.route.clone());
                    if let Some(usage) = self.prompt {
                        self.send(Piece::Started { usage }).await?;
                    }
                    return Ok((winner, next));
                }
                Ok(JobPiece::Started { usage }) => {
                    self.row.runs("It is being answered");
                    // The client hears of it once it is certain which node answers.
                    self.prompt.get_or_insert(usage);
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
                        attempts.push(instead);
                    } else {
                        self.router.blame(&lost.node, &error);
                    }
                }
            }
        }
    }

    /// A second node, if one is free.
    async fn hedge(&mut self) -> Option<Attempt> {
        let (nodes, _) = self.router.candidates(&self.request, &self.tried);
        nodes.first().filter(|node| node.is_free)?;
        let begin = self.router.begin(&self.request, "", &mut self.tried);
        timeout(HEDGE_WAIT, begin).await.ok()?.ok()
    }

    /// Another node goes on where this one stopped.
    async fn replace(&mut self, lost: &Chosen, error: JobError) -> Result<Attempt, Stop> {
        self.router.blame(lost, &error);
        let told = to_client(&lost.name, &error);
        self.failovers += 1;
        if matches!(error, JobError::Failed(_)) || self.failovers > FAILOVERS {
            return Err(Stop::Failed(told));
        }
        if let Some(tried) = self.tried.iter_mut().find(|(id, _)| *id == lost.id) {
            tried.1 = error.to_string();
        }
        let speaks = std::mem::take(&mut self.speaks);
        self.tokens_before = self.tokens_before.saturating_add(speaks.pieces);
        let next = self.router.begin(&self.request, &self.delivered, &mut self.tried).await;
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
    }

    async fn finish(&mut self, node: &Chosen, result: JobResult) -> Result<(), Stop> {
        let last = match result {
            JobResult::Text { finish, usage, timings } => {
                self.text_end(node, finish, usage, timings)
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
        self.row.end(TaskState::Done, "Answered");
        self.send(last).await
    }

    /// Counts what came; the worker's word is only a claim.
    fn text_end(
        &mut self,
        node: &Chosen,
        finish: FinishReason,
        usage: Usage,
        timings: Timings,
    ) -> Piece {
        let prompt = self.prompt.unwrap_or(usage);
        let counted = verify::count(&Claim {
            prompt_tokens: prompt.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            prompt_bytes: self.request.bytes,
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

    async fn send(&self, piece: Piece) -> Result<(), Stop> {
        self.out.send(piece).await.map_err(|_| Stop::Unread)
    }
}

fn received(piece: Option<Next>) -> Next {
    piece.unwrap_or_else(|| Err(JobError::Lost("the node stopped without a last word".to_owned())))
}

/// The next piece of any of them.
async fn next_of(attempts: &mut [Attempt]) -> (usize, Next) {
    std::future::poll_fn(|context| {
        for (index, attempt) in attempts.iter_mut().enumerate() {
            if let Poll::Ready(piece) = attempt.stream.pieces.poll_recv(context) {
                return Poll::Ready((index, received(piece)));
            }
        }
        Poll::Pending
    })
    .await
}
