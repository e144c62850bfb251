//! Requests: taking them in, giving them to free slots, passing their pieces on, ending them.

use agent_api::runner::{self, Command as RunnerCommand, Reply};

use super::{
    super::{Finished, InferenceError, Notable, Piece},
    Actor, Job, Phase, Refused, job,
};
use crate::config::limits;

impl Actor {
    pub(super) fn accept(&mut self, job: Job) -> Result<(), InferenceError> {
        if self.stopping.is_some() {
            return Err(InferenceError::ShuttingDown);
        }
        let Some(chosen) = &self.chosen else { return Err(InferenceError::NoModel) };
        if job.model != chosen.model.id {
            return Err(InferenceError::NotActive {
                wanted: job.model,
                active: chosen.model.id.clone(),
            });
        }
        self.forget_refusal_for_memory();
        if let Some(Refused { reason, .. }) = &self.refused {
            return Err(InferenceError::Unavailable(reason.clone()));
        }
        self.waiting.retain(|job| !job.is_abandoned());
        if self.waiting.len() >= limits::WAITING_REQUESTS {
            return Err(InferenceError::QueueFull);
        }
        self.wanted = true;
        self.waiting.push_back(job);
        Ok(())
    }

    pub(super) fn forget_refusal_for_memory(&mut self) {
        self.refused = self.refused.take().filter(|refused| !refused.for_memory);
    }

    /// A request is answered by the model it named, or not at all.
    pub(super) fn fail_those_for_another_model(&mut self) {
        let active = self.chosen.as_ref().map(|choice| choice.model.id.clone());
        for job in std::mem::take(&mut self.waiting) {
            match &active {
                Some(active) if job.model == *active => self.waiting.push_back(job),
                Some(active) => {
                    let (wanted, active) = (job.model.clone(), active.clone());
                    self.fail(job, InferenceError::NotActive { wanted, active });
                }
                None => self.fail(job, InferenceError::NoModel),
            }
        }
    }

    pub(super) fn job_reply(&mut self, reply: Reply) {
        let (id, piece) = match reply {
            Reply::Started { id, prompt_tokens, cached_tokens } => {
                let usage = runner::Usage { prompt_tokens, cached_tokens, completion_tokens: 0 };
                (id, Piece::Started { usage })
            }
            Reply::Text { id, text, logprobs } => (id, Piece::Text { text, logprobs }),
            Reply::Done { id, finish, usage, timings } => {
                (id, Piece::Done { finish, usage, timings })
            }
            Reply::Embedded { id, vectors, prompt_tokens } => {
                (id, Piece::Embedded { vectors, prompt_tokens })
            }
            Reply::Failed { id, error } => (id, Piece::Failed(job::from_runner_error(error))),
            _ => return,
        };
        let Some(job) = self.running.get_mut(&id) else { return };
        if job.deliver(piece, &self.tokens) {
            return;
        }
        // Nobody listens, or it was the last piece.
        if job.is_over() {
            if let Some(job) = self.running.remove(&id) {
                self.finish(job.finished());
            }
        } else if job.cancel_once() {
            self.tell_runner(&RunnerCommand::Cancel { id });
        }
    }

    /// Fills free slots from the queue.
    pub(super) fn dispatch(&mut self) {
        let Phase::Ready { holds, process, .. } = &self.phase else { return };
        let slots = holds.loaded.slots as usize;
        let mut broken = None;
        let mut gone = Vec::new();
        while self.running.len() < slots {
            let Some(mut job) = self.waiting.pop_front() else { break };
            if job.is_abandoned() {
                gone.push(job);
                continue;
            }
            let sent = process.send(&job.command());
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

    pub(super) fn fail(&mut self, mut job: Job, error: InferenceError) {
        job.deliver(Piece::Failed(error), &self.tokens);
        self.finish(job.finished());
    }

    pub(super) fn finish(&mut self, finished: Finished) {
        self.tell(Notable::Finished(finished));
    }
}
