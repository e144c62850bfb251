//! What comes from a task's leases.

use std::time::Duration;

use agent_api::{
    NodeId,
    tasks::{AttemptOutcome, TaskEvent, TaskState},
};
use tokio::time::Instant;

use super::{Run, rows::IT_FAILS};
use crate::{
    clock::now_ms,
    tasks::{
        job::{Job, JobError, JobPiece, JobResult},
        lifecycle::Input,
        origin::{
            lease::LeaseNews,
            news::News,
            outcome::{self, TEXT_BYTES},
        },
        reputation::Experience,
    },
};

/// Lines for people of one lease. A `code` job has three in each of its ten rounds; each is a row.
const NOTES: u32 = 64;

impl Run {
    pub(super) async fn on_news(&mut self, fence: u64, news: LeaseNews) {
        // Of a lease that is over: what it says is not taken.
        if !self.leases.contains_key(&fence) {
            return;
        }
        match news {
            LeaseNews::Taken(path) => {
                if let Some(live) = self.leases.get_mut(&fence) {
                    live.attaching = false;
                    live.taken = true;
                }
                self.note_try(fence, |row| row.path = Some(path));
                self.row.task.path = Some(path);
            }
            LeaseNews::Piece(piece) => self.on_piece(fence, piece).await,
            LeaseNews::Over(error) => self.on_error(fence, error).await,
            LeaseNews::Overdue(why) => {
                let runs = self.is_running(fence);
                let live = self.leases.get_mut(&fence).filter(|live| !live.attaching && !runs);
                if let Some(live) = live {
                    // It can be reached and did nothing yet: that is held against it, but a long
                    // wait is no try of the task.
                    live.taken = false;
                    let held = Experience::Failed(why.clone());
                    self.inner.workers.experience(&live.node, held);
                }
                self.on_error(fence, JobError::Lost(why)).await;
            }
        }
    }

    async fn on_piece(&mut self, fence: u64, piece: JobPiece) {
        match piece {
            JobPiece::Waiting { position, reason } => {
                self.row.task.queue_position = Some(position);
                let name = self.leases.get(&fence).map_or("", |live| &live.name);
                let reason = format!("Waits at {name}, place {position}. {reason}");
                self.feed(Input::Leased { fence, reason: reason.trim().to_owned() });
                self.show();
            }
            JobPiece::Running | JobPiece::Started { .. } => self.runs(fence),
            JobPiece::Text { text, .. } => self.on_text(fence, text).await,
            JobPiece::Note { text } => {
                if let Some(live) = self.leases.get_mut(&fence) {
                    live.notes += 1;
                    if live.notes > NOTES {
                        let problem = format!("it sent more than {NOTES} notes");
                        return self.on_error(fence, JobError::Misbehaved(problem)).await;
                    }
                }
                let live = self.leases.get(&fence);
                let event = TaskEvent {
                    at_ms: now_ms(),
                    state: TaskState::Running,
                    attempt: self.life.attempts,
                    node: live.map(|live| live.node.clone()),
                    node_name: live.map(|live| live.name.clone()),
                    text,
                };
                self.tell(event);
            }
            JobPiece::Result(result) => self.on_result(fence, *result).await,
        }
    }

    fn is_running(&self, fence: u64) -> bool {
        let mut leases = self.life.leases.iter();
        leases.any(|lease| lease.fence == fence && lease.state == TaskState::Running)
    }

    fn runs(&mut self, fence: u64) {
        if self.is_running(fence) {
            return;
        }
        self.row.task.started_ms = Some(now_ms());
        self.row.task.queue_position = None;
        if let Some(live) = self.leases.get(&fence) {
            self.inner.book().took(&live.node, self.row.need, Instant::now());
        }
        self.feed(Input::Running { fence });
    }

    async fn on_text(&mut self, fence: u64, text: String) {
        let Some(live) = self.leases.get_mut(&fence) else { return };
        if live.seen.text.len() + text.len() > TEXT_BYTES {
            let problem = JobError::Misbehaved("it wrote more than 1 MiB of text".to_owned());
            return self.on_error(fence, problem).await;
        }
        live.first_text.get_or_insert_with(Instant::now);
        let at = live.seen.text.len();
        live.seen.text.push_str(&text);
        live.seen.pieces += 1;
        self.partial.lock().push_str(&text);
        if self.row.task.first_token_ms.is_none() {
            let ms = now_ms().saturating_sub(self.row.task.created_ms);
            self.row.task.first_token_ms = Some(ms as f64);
            self.show();
        }
        self.inner.listeners.tell(&self.row.task.id, || News::Text { at, text });
    }

    async fn on_result(&mut self, fence: u64, result: JobResult) {
        let Some(live) = self.leases.get_mut(&fence) else { return };
        if let Some(first) = live.first_text {
            live.seen.took = first.elapsed();
        }
        let taken = match outcome::take(&self.job, &result, &live.seen) {
            Ok(taken) => taken,
            Err(problem) => {
                let problem = format!("{} sent a wrong result: {problem}", live.name);
                return self.on_error(fence, JobError::Misbehaved(problem)).await;
            }
        };
        let (node, here, took) = (live.node.clone(), live.here, live.seen.took);
        if let (Some(tokens), true) = (taken.completion_tokens, took.as_millis() > 0) {
            self.row.task.tokens_per_s = Some((f64::from(tokens) / took.as_secs_f64()) as f32);
        }
        if !here {
            let what = match &taken.implausible {
                Some(why) => Experience::Misbehaved(why.clone()),
                None => Experience::Done,
            };
            self.inner.workers.experience(&node, what);
        }
        for (node, why) in std::mem::take(&mut self.gave_up) {
            self.inner.workers.experience(&node, Experience::Failed(why));
        }
        let compared = matches!(self.job, Job::Wasm(_)) && !here && self.row.node.is_none();
        if compared && self.life.wanted == 1 && self.inner.workers.must_compare(&node) {
            self.feed(Input::Compare);
        }
        let digest = taken.digest;
        self.results.insert(fence, (node.clone(), taken));
        self.finish_try(fence, None, "Its result is here.");
        if self.life.wanted > 1 {
            let json = serde_json::to_string(&result).ok();
            self.note_try(fence, |row| row.result = json);
        }
        self.feed(Input::Finished { fence, digest });
        if self.life.state.is_final() || !self.leases.is_empty() {
            self.persist().await;
        }
        // Where a comparison is to follow the next step writes it, with the next offer.
        if self.life.openings() > 0 {
            self.persist().await;
        }
        self.leases.remove(&fence);
        self.inner.slot_free(&node, self.row.need);
    }

    async fn on_error(&mut self, fence: u64, error: JobError) {
        let Some(live) = self.leases.remove(&fence) else { return };
        let (node, name) = (live.node.clone(), live.name.clone());
        if live.attaching {
            let reason = format!("{name} does not have it any more.");
            self.finish_try(fence, Some(AttemptOutcome::Lost), &reason);
            self.feed(Input::Interrupted { fence });
            self.persist().await;
            return;
        }
        let text = error.to_string();
        let (outcome, experience) = match &error {
            JobError::Refused { retry_after, .. } => {
                let has = self.inner.in_flight.count_for(&node);
                self.leave_alone(&node, (*retry_after, has));
                (AttemptOutcome::Refused, None)
            }
            // It never had it. A network that is cut is no try, and no node's fault.
            JobError::Lost(_) if !live.taken => {
                self.leave_alone(&node, (None, 0));
                (AttemptOutcome::Lost, None)
            }
            JobError::Lost(_) | JobError::Cancelled => {
                (AttemptOutcome::Lost, Some(Experience::Failed(text.clone())))
            }
            JobError::Failed(_) | JobError::TooLong(_) => (AttemptOutcome::Failed, None),
            JobError::Broke(_) => (AttemptOutcome::Failed, Some(Experience::Failed(text.clone()))),
            JobError::Misbehaved(_) => {
                (AttemptOutcome::Failed, Some(Experience::Misbehaved(text.clone())))
            }
        };
        if let Some(experience) = experience.filter(|_| !live.here) {
            self.inner.workers.experience(&node, experience);
        }
        if live.taken {
            self.go_on_from(&error, &live);
        }
        self.finish_try(fence, Some(outcome), &text);
        self.tried.push((node, text.clone()));
        let reason = format!("{name}: {text}");
        let input = match error {
            JobError::Refused { .. } => Input::Refused { fence, reason },
            JobError::Lost(_) if !live.taken => Input::Refused { fence, reason },
            JobError::Failed(_) => {
                let again = self.gives_up(fence, &live, text);
                self.failed |= again;
                Input::Failed { fence, reason, again }
            }
            _ => {
                self.failed = true;
                Input::Failed { fence, reason, again: true }
            }
        };
        drop(live);
        self.feed(input);
        self.persist().await;
    }

    fn leave_alone(&self, node: &NodeId, said: (Option<Duration>, u32)) {
        let mut book = self.inner.book();
        book.refused(node.clone(), self.row.need, said, Instant::now());
    }

    /// A node says that it would fail anywhere; whether it is tried elsewhere all the same. One
    /// stranger's word is not enough to end a task: modules are compared, of others a second node
    /// has to say so too.
    fn gives_up(&mut self, fence: u64, live: &super::Live, why: String) -> bool {
        if live.here || self.row.node.is_some() {
            return false;
        }
        if matches!(self.job, Job::Wasm(_)) || self.life.wanted > 1 {
            self.feed(Input::Compare);
            self.finish_try(fence, None, &why);
            self.note_try(fence, |row| row.result = Some(IT_FAILS.to_owned()));
            return false;
        }
        let seconded = self.gave_up.iter().any(|(node, _)| *node != live.node);
        self.note_try(fence, |row| row.result = Some(IT_FAILS.to_owned()));
        self.gave_up.push((live.node.clone(), why));
        !seconded
    }

    /// The next node goes on from the text that is here; not from that of one that misbehaved.
    fn go_on_from(&mut self, error: &JobError, live: &super::Live) {
        match error {
            JobError::Lost(_) | JobError::Broke(_) | JobError::Cancelled => {
                self.continued =
                    (live.seen.text.clone(), live.seen.tokens_before + live.seen.pieces);
            }
            JobError::Misbehaved(_) => {
                self.continued = Default::default();
                self.partial.lock().clear();
                self.inner.listeners.tell(&self.row.task.id, || News::Restart);
            }
            JobError::Refused { .. } | JobError::Failed(_) | JobError::TooLong(_) => {}
        }
    }
}
