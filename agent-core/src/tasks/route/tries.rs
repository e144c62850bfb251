//! Nodes are offered a request until one takes it, and what each says is remembered.

use std::time::Duration;

use agent_api::NodeId;
use tokio::time::{Instant, sleep_until};

use super::{Attempt, Chosen, Request, Router};
use crate::{
    inference::{InferenceError, Route},
    tasks::{job::JobError, placement::Placed, reputation::Experience},
};

/// Nodes that are asked for one answer at most.
const TRIES: usize = 8;
/// So long nodes that are all full are asked again: this computer's own line is as patient with a
/// request of several answers.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(120);
/// Who says that it may have room after so long is waited for, and no shorter than this. Longer
/// means that its owner closed it.
const FULL_FOR: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);

/// Who was asked for one answer, and what they said.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Not to be asked again, each with its words.
    pub(super) asked: Vec<(NodeId, String)>,
    offers: u32,
    /// Those of them that were full, until they may have room.
    full: Vec<(NodeId, Instant)>,
    /// Said that it would fail anywhere, and nobody else did yet.
    doubted: Option<(Chosen, String)>,
}

impl Tries {
    /// Takes note of what a node said that does not answer.
    pub(super) fn said(&mut self, node: &NodeId, error: &JobError) {
        if let Some(asked) = self.asked.iter_mut().find(|(id, _)| id == node) {
            asked.1 = error.to_string();
        }
        if let JobError::Refused { retry_after: Some(after), .. } = error
            && *after <= FULL_FOR
        {
            self.full.push((node.clone(), Instant::now() + (*after).max(PAUSE)));
        }
    }

    /// Whether what a node says would fail anywhere does: nobody's word alone ends a request.
    pub(super) fn fails_anywhere(&mut self, node: &Chosen, reason: &str) -> bool {
        let first = self.doubted.get_or_insert_with(|| (node.clone(), reason.to_owned()));
        first.0.id != node.id
    }

    /// When the first of those that were full may have room.
    fn room_at(&self) -> Option<Instant> {
        self.full.iter().map(|(_, until)| *until).min()
    }

    fn ask_again(&mut self, now: Instant) {
        let Self { asked, full, .. } = self;
        full.retain(|(node, until)| {
            let still = *until > now;
            if !still {
                asked.retain(|(id, _)| id != node);
            }
            still
        });
    }
}

impl Router {
    /// Offers it to one node after the other, and after so long again to those that were full.
    /// `Err(None)`: there is none that was not tried.
    pub(super) async fn begin(
        &self,
        request: &Request,
        delivered: &str,
        tries: &mut Tries,
        patience: Duration,
    ) -> Result<Attempt, Option<InferenceError>> {
        let mut last = None;
        let until = Instant::now() + patience;
        loop {
            let next = match tries.asked.len() < TRIES {
                true => {
                    let (nodes, placed) = self.candidates(request, &tries.asked);
                    nodes.into_iter().next().map(|node| (node, placed))
                }
                false => None,
            };
            let Some((node, placed)) = next else {
                let Some(room_at) = tries.room_at().filter(|at| *at <= until) else { break };
                sleep_until(room_at).await;
                tries.ask_again(room_at);
                continue;
            };
            let error = match self.ask(request, (node.clone(), placed), delivered, tries).await {
                Ok(attempt) => return Ok(attempt),
                Err(error) => error,
            };
            self.blame(&node, &error);
            tries.said(&node.id, &error);
            let told = to_client(&node.name, &error);
            if let JobError::Failed(reason) = &error
                && tries.fails_anywhere(&node, reason)
            {
                return Err(Some(told));
            }
            last = Some(told);
        }
        // With nobody else to ask, the only word there is.
        let doubted = tries.doubted.as_ref().filter(|_| delivered.is_empty());
        let doubted = doubted.map(|(_, reason)| InferenceError::BadRequest(reason.clone()));
        Err(doubted.or(last))
    }

    async fn ask(
        &self,
        request: &Request,
        (node, placed): (Chosen, Placed),
        delivered: &str,
        tries: &mut Tries,
    ) -> Result<Attempt, JobError> {
        let overhead_ms = request.arrived.elapsed().as_secs_f64() * 1e3;
        tries.offers = tries.offers.saturating_add(1);
        // Before it answers: who gives up waiting for it does not ask it again.
        tries.asked.push((node.id.clone(), String::new()));
        let counted = self.setup.in_flight.begin(node.key);
        let offer = request.offer(&node.model, delivered, tries.offers);
        let stream = self.setup.elsewhere.offer(node.key, node.path, offer).await?;
        let (id, name) = (node.id.clone(), node.name.clone());
        let route = Route { node: id, name, path: node.path, overhead_ms };
        Ok(Attempt {
            placement: placed.chosen(&node.id),
            node,
            stream,
            route,
            taken: Instant::now(),
            prompt: None,
            continues: delivered.len(),
            _counted: counted,
        })
    }

    /// What an error says about a node.
    pub(super) fn blame(&self, node: &Chosen, error: &JobError) {
        let experience = match error {
            JobError::Misbehaved(reason) => Experience::Misbehaved(reason.clone()),
            JobError::Lost(reason) | JobError::Broke(reason) => Experience::Failed(reason.clone()),
            JobError::Refused { .. }
            | JobError::Failed(_)
            | JobError::TooLong(_)
            | JobError::Cancelled => return,
        };
        self.setup.around.experience(node.key, experience);
    }

    /// It was answered: who said that nobody could was wrong.
    pub(super) fn answered(&self, tries: &mut Tries) {
        if let Some((node, reason)) = tries.doubted.take() {
            let reason = format!("it refused what another node answered: {reason}");
            self.setup.around.experience(node.key, Experience::Failed(reason));
        }
    }
}

/// An error of another node, for the client.
pub(super) fn to_client(node: &str, error: &JobError) -> InferenceError {
    match error {
        JobError::Failed(reason) => InferenceError::BadRequest(reason.clone()),
        JobError::TooLong(reason) => InferenceError::ContextOverflow(reason.clone()),
        JobError::Refused { reason, .. } => {
            InferenceError::Unavailable(format!("The node {node} did not take it: {reason}."))
        }
        other => InferenceError::Unavailable(format!("The node {node} did not answer: {other}.")),
    }
}
