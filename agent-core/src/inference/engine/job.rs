//! One request on its way through the queue and the engine.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use agent_api::runner::{Command as RunnerCommand, FinishReason, Timings, Usage};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};

use super::super::{Finished, KeepAlive, Piece, SubmitOptions, Work};
use crate::storage::{Outcome, RequestKind};

const CANCEL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(in crate::inference) struct Job {
    pub(in crate::inference) id: u64,
    kind: RequestKind,
    /// Id of the model that answers.
    pub(in crate::inference) model: String,
    pub(in crate::inference) options: SubmitOptions,
    /// Its place among all requests of the node, given when it was accepted.
    pub(in crate::inference) ticket: u64,
    work: Option<Work>,
    /// Dropped when the client reads too slowly: the answer then ends with an error, not a hole.
    pieces: Option<mpsc::Sender<Piece>>,
    /// When it was accepted.
    pub(in crate::inference) since: Instant,
    first_token: Option<Instant>,
    usage: Usage,
    timings: Timings,
    cancel_sent: Option<Instant>,
    over: Option<(Outcome, Option<String>)>,
}

impl Job {
    pub(in crate::inference) fn new(
        id: u64,
        kind: RequestKind,
        options: SubmitOptions,
        work: Work,
        pieces: mpsc::Sender<Piece>,
    ) -> Self {
        Self {
            id,
            kind,
            model: String::new(),
            options,
            ticket: 0,
            work: Some(work),
            pieces: Some(pieces),
            since: Instant::now(),
            first_token: None,
            usage: Usage::default(),
            timings: Timings::default(),
            cancel_sent: None,
            over: None,
        }
    }

    /// How long it wants its model to stay.
    pub(in crate::inference) fn keep_alive(&self) -> Option<KeepAlive> {
        self.options.keep_alive
    }

    /// The command for the runner; the work moves out, so that a prompt is in memory once.
    pub(in crate::inference) fn command(&mut self) -> RunnerCommand {
        let id = self.id;
        match self.work.take() {
            Some(Work::Generate(request)) => RunnerCommand::Generate { id, request },
            Some(Work::Embed(inputs)) => RunnerCommand::Embed { id, inputs },
            None => RunnerCommand::Cancel { id },
        }
    }

    /// Passes a piece on and takes note of it. `false`: it was the last, or nobody listens.
    pub(in crate::inference) fn deliver(&mut self, piece: Piece, tokens: &AtomicU64) -> bool {
        match &piece {
            Piece::Started { usage } => self.usage = *usage,
            Piece::Text { .. } => {
                self.first_token.get_or_insert_with(Instant::now);
                // One frame is one token, or a few when text was held back; the exact number
                // comes with the last piece.
                self.usage.completion_tokens += 1;
                tokens.fetch_add(1, Ordering::Relaxed);
            }
            Piece::Done { finish, usage, timings } => {
                let counted = self.usage.completion_tokens;
                tokens.fetch_add(
                    u64::from(usage.completion_tokens.saturating_sub(counted)),
                    Ordering::Relaxed,
                );
                self.usage = *usage;
                self.timings = *timings;
                let outcome = match finish {
                    FinishReason::Cancelled => Outcome::Cancelled,
                    _ => Outcome::Done,
                };
                self.over = Some((outcome, None));
            }
            Piece::Embedded { prompt_tokens, .. } => {
                self.usage.prompt_tokens = *prompt_tokens;
                self.over = Some((Outcome::Done, None));
            }
            Piece::Failed(error) => self.over = Some((Outcome::Failed, Some(error.to_string()))),
        }
        match self.pieces.as_ref().map(|pieces| pieces.try_send(piece)) {
            Some(Ok(())) => self.over.is_none(),
            Some(Err(TrySendError::Full(_) | TrySendError::Closed(_))) | None => {
                self.pieces = None;
                false
            }
        }
    }

    /// Nobody waits for the answer any more.
    pub(in crate::inference) fn is_abandoned(&self) -> bool {
        self.pieces.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// When a runner that has not acknowledged the cancel is taken for hung. Cancels are looked at
    /// after every decode step, and steps take fractions of a second.
    pub(in crate::inference) fn cancel_deadline(&self) -> Option<Instant> {
        self.cancel_sent.map(|sent| sent + CANCEL_TIMEOUT)
    }

    pub(in crate::inference) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// True the first time.
    pub(in crate::inference) fn cancel_once(&mut self) -> bool {
        let first = self.cancel_sent.is_none();
        self.cancel_sent.get_or_insert_with(Instant::now);
        first
    }

    pub(in crate::inference) fn cancelled(mut self) -> Finished {
        self.over = Some((Outcome::Cancelled, None));
        self.finished()
    }

    pub(in crate::inference) fn finished(self) -> Finished {
        let (outcome, error) = self.over.unwrap_or((Outcome::Cancelled, None));
        let ms = |from: Instant| from.duration_since(self.since).as_secs_f64() * 1e3;
        Finished {
            kind: self.kind,
            model: self.model,
            outcome,
            usage: self.usage,
            first_token_ms: self.first_token.map(ms),
            total_ms: ms(Instant::now()),
            generate_ms: self.timings.generate_ms,
            error,
        }
    }
}
