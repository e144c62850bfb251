//! Requests: taking them in, giving them to free slots, passing their pieces on, ending them.

use agent_api::runner::Command as RunnerCommand;
use tokio::time::Instant;

use super::{
    super::{Finished, InferenceError, Notable, Piece},
    Engine, Job, Phase, Refused,
};

impl Engine {
    /// Queues a request. Its ticket was given by the pool.
    pub(in crate::inference) fn accept(&mut self, job: Job) -> Result<(), InferenceError> {
        self.forget_passing_refusal();
        if let Some(Refused { reason, .. }) = &self.refused {
            return Err(InferenceError::Unavailable(reason.clone()));
        }
        self.wanted = true;
        self.last_work = Instant::now();
        self.waiting.push_back(job);
        Ok(())
    }

    /// Forgets requests in the queue that nobody waits for any more.
    pub(in crate::inference) fn forget_abandoned(&mut self) {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (gone, kept): (Vec<Job>, Vec<Job>) = waiting.partition(Job::is_abandoned);
        self.waiting = kept.into();
        for job in gone {
            self.finish(job.cancelled());
        }
    }

    /// Cancels a request, if it is this engine's.
    pub(in crate::inference) fn cancel(&mut self, id: u64) -> bool {
        if let Some(job) = self.running.get_mut(&id) {
            if job.cancel_once() {
                self.tell_program(RunnerCommand::Cancel { id });
            }
            true
        } else if let Some(at) = self.waiting.iter().position(|job| job.id == id)
            && let Some(job) = self.waiting.remove(at)
        {
            self.finish(job.cancelled());
            true
        } else {
            false
        }
    }

    pub(super) fn piece(&mut self, id: u64, piece: Piece) {
        let Some(job) = self.running.get_mut(&id) else { return };
        if job.deliver(piece, &self.outlet.tokens) {
            return;
        }
        // Nobody listens, or it was the last piece.
        if job.is_over() {
            if let Some(job) = self.running.remove(&id) {
                self.finish(job.finished());
            }
        } else if job.cancel_once() {
            self.tell_program(RunnerCommand::Cancel { id });
        }
    }

    /// Fills free slots from the queue.
    pub(super) fn dispatch(&mut self) {
        let Phase::Ready { holds, link, .. } = &self.phase else { return };
        let slots = holds.loaded.slots as usize;
        let mut broken = None;
        let mut gone = Vec::new();
        while self.running.len() < slots {
            let due = self.waiting.pop_front_if(|job| is_due(job, self.drain_before));
            let Some(mut job) = due else { break };
            if job.is_abandoned() {
                gone.push(job);
                continue;
            }
            let sent = link.send(job.command());
            self.running.insert(job.id, job);
            if let Err(reason) = sent {
                broken = Some(reason);
                break;
            }
        }
        for job in gone {
            self.finish(job.cancelled());
        }
        if let Some(reason) = broken {
            self.crashed(&reason);
        }
    }

    /// Ends a request. Its client hears of it once the state shows why.
    pub(super) fn fail(&mut self, job: Job, error: InferenceError) {
        self.failed.push((job, error));
    }

    /// Tells clients what failed since the last time.
    pub(in crate::inference) fn tell_failures(&mut self) {
        for (mut job, error) in std::mem::take(&mut self.failed) {
            job.deliver(Piece::Failed(error), &self.outlet.tokens);
            self.finish(job.finished());
        }
    }

    pub(in crate::inference) fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    pub(super) fn finish(&mut self, finished: Finished) {
        self.last_work = Instant::now();
        self.unused = false;
        self.tell(Notable::Finished(finished));
    }

    /// Has requests that it finishes before it makes room for another model.
    pub(in crate::inference) fn is_busy(&self) -> bool {
        !self.running.is_empty()
            || !self.loaders.is_empty()
            || self.waiting.iter().any(|job| is_due(job, self.drain_before))
    }

    pub(in crate::inference) fn running(&self) -> usize {
        self.running.len()
    }

    pub(in crate::inference) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(in crate::inference) fn oldest_waiting_since(&self) -> Option<Instant> {
        self.waiting.front().map(|job| job.since)
    }
}

/// Whether a request was accepted before the model was asked to make room.
fn is_due(job: &Job, drain_before: Option<u64>) -> bool {
    drain_before.is_none_or(|before| job.ticket < before)
}
