//! One request on its way through the queue and the runner.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use agent_api::runner::{
    Command as RunnerCommand, FinishReason, RunnerError, RunnerErrorKind, Usage,
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};

use super::super::{Finished, InferenceError, Piece, Work};
use crate::storage::{Outcome, RequestKind};

const CANCEL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(in crate::inference) struct Job {
    pub(super) id: u64,
    kind: RequestKind,
    pub(super) model: String,
    work: Option<Work>,
    /// Dropped when the client reads too slowly: the answer then ends with an error, not a hole.
    pieces: Option<mpsc::Sender<Piece>>,
    /// When it was accepted.
    pub(super) since: Instant,
    first_token: Option<Instant>,
    usage: Usage,
    cancel_sent: Option<Instant>,
    over: Option<(Outcome, Option<String>)>,
}

impl Job {
    pub(in crate::inference) fn new(
        id: u64,
        kind: RequestKind,
        model: String,
        work: Work,
        pieces: mpsc::Sender<Piece>,
    ) -> Self {
        Self {
            id,
            kind,
            model,
            work: Some(work),
            pieces: Some(pieces),
            since: Instant::now(),
            first_token: None,
            usage: Usage::default(),
            cancel_sent: None,
            over: None,
        }
    }

    /// The command for the runner; the work moves out, so that a prompt is in memory once.
    pub(super) fn command(&mut self) -> RunnerCommand {
        let id = self.id;
        match self.work.take() {
            Some(Work::Generate(request)) => RunnerCommand::Generate { id, request },
            Some(Work::Embed(inputs)) => RunnerCommand::Embed { id, inputs },
            None => RunnerCommand::Cancel { id },
        }
    }

    /// Passes a piece on and takes note of it. `false`: it was the last, or nobody listens.
    pub(super) fn deliver(&mut self, piece: Piece, tokens: &AtomicU64) -> bool {
        match &piece {
            Piece::Started { usage } => self.usage = *usage,
            Piece::Text { .. } => {
                self.first_token.get_or_insert_with(Instant::now);
                // One frame is one token, or a few when text was held back; the exact number
                // comes with the last piece.
                self.usage.completion_tokens += 1;
                tokens.fetch_add(1, Ordering::Relaxed);
            }
            Piece::Done { finish, usage, .. } => {
                let counted = self.usage.completion_tokens;
                tokens.fetch_add(
                    u64::from(usage.completion_tokens.saturating_sub(counted)),
                    Ordering::Relaxed,
                );
                self.usage = *usage;
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
    pub(super) fn is_abandoned(&self) -> bool {
        self.pieces.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// When a runner that has not acknowledged the cancel is taken for hung. Cancels are looked at
    /// after every decode step, and steps take fractions of a second.
    pub(super) fn cancel_deadline(&self) -> Option<Instant> {
        self.cancel_sent.map(|sent| sent + CANCEL_TIMEOUT)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// True the first time.
    pub(super) fn cancel_once(&mut self) -> bool {
        let first = self.cancel_sent.is_none();
        self.cancel_sent.get_or_insert_with(Instant::now);
        first
    }

    pub(super) fn cancelled(mut self) -> Finished {
        self.over = Some((Outcome::Cancelled, None));
        self.finished()
    }

    pub(super) fn finished(self) -> Finished {
        let (outcome, error) = self.over.unwrap_or((Outcome::Cancelled, None));
        let ms = |from: Instant| from.duration_since(self.since).as_secs_f64() * 1e3;
        Finished {
            kind: self.kind,
            model: self.model,
            outcome,
            usage: self.usage,
            first_token_ms: self.first_token.map(ms),
            total_ms: ms(Instant::now()),
            error,
        }
    }
}

pub(super) fn from_runner_error(error: RunnerError) -> InferenceError {
    let RunnerError { kind, message } = error;
    match kind {
        RunnerErrorKind::BadRequest => InferenceError::BadRequest(message),
        RunnerErrorKind::ContextOverflow => InferenceError::ContextOverflow(message),
        RunnerErrorKind::Busy => InferenceError::QueueFull,
        RunnerErrorKind::NoModel => InferenceError::RunnerLost,
        RunnerErrorKind::Engine => InferenceError::Engine(message),
    }
}
