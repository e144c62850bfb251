//! What the actor tells others about itself.

use std::sync::Arc;

use agent_api::models::{LoadedModel, ModelState};

use super::{
    super::{EngineState, InferenceError, tools::ToolFormat},
    Actor, Holds, Phase, Refused,
};

impl Actor {
    pub(super) fn publish(&self) {
        let (state, reason) = self.describe();
        let retry_at_ms = match &self.phase {
            Phase::Backoff { retry_at_ms, .. } => Some(*retry_at_ms),
            _ => None,
        };
        let process = match &self.phase {
            Phase::Greeting { process, .. }
            | Phase::Loading { process, .. }
            | Phase::Ready { process, .. } => Some(process),
            Phase::Off | Phase::Backoff { .. } => None,
        };
        let holds = match &self.phase {
            Phase::Ready { holds, .. } => Some(holds),
            _ => None,
        };
        self.state.send_replace(EngineState {
            state,
            reason,
            active: self.chosen.as_ref().map(|choice| choice.model.clone()),
            loaded: holds.map(describe_loaded),
            chat_template: holds.and_then(|h| h.loaded.chat_template.as_deref().map(Arc::from)),
            retry_at_ms,
            runner_crashes: self.crashes,
            runner_pid: process.and_then(|process| process.pid),
            running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
            queued: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            oldest_waiting_since: self.waiting.front().map(|job| job.since.into_std()),
        });
    }

    pub(super) fn describe(&self) -> (ModelState, String) {
        let Some(chosen) = &self.chosen else {
            return (ModelState::None, InferenceError::NoModel.to_string());
        };
        let id = &chosen.model.id;
        if let Some(Refused { reason, .. }) = &self.refused {
            return (ModelState::Failed, reason.clone());
        }
        match &self.phase {
            Phase::Off if !self.wanted => {
                (ModelState::Unloaded, format!("{id} is not in memory; the next request loads it."))
            }
            Phase::Backoff { .. } => (
                ModelState::Restarting,
                format!("The inference runner is being started again: {}.", self.last_loss),
            ),
            Phase::Ready { .. } => (ModelState::Ready, format!("{id} is loaded.")),
            _ => (ModelState::Loading, format!("Loading {id}.")),
        }
    }
}

fn describe_loaded(holds: &Holds) -> LoadedModel {
    let template = holds.loaded.chat_template.as_deref();
    LoadedModel {
        id: holds.choice.model.id.clone(),
        context: holds.loaded.context,
        slots: holds.loaded.slots,
        load_ms: holds.loaded.load_ms,
        gpu_layers: holds.loaded.gpu_layers,
        supports_tools: template.is_some_and(|t| ToolFormat::of(t).is_some()),
        has_chat_template: template.is_some(),
    }
}
