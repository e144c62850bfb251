//! What an engine tells the pool about itself.

use std::sync::Arc;

use agent_api::models::{LoadedModel, ModelState, Residency};

use super::{
    super::{EngineState, Target, admission::Admission, link::Link, residency::Stage},
    Choice, Engine, Holds, Phase, Refused,
};

impl Engine {
    pub(in crate::inference) fn choice(&self) -> &Choice {
        &self.choice
    }

    pub(in crate::inference) fn id(&self) -> &str {
        &self.choice.model.id
    }

    pub(in crate::inference) fn is_wanted(&self) -> bool {
        self.wanted || !self.waiting.is_empty() || !self.loaders.is_empty()
    }

    /// Ready with the options that are in force.
    pub(in crate::inference) fn is_ready(&self) -> bool {
        matches!(&self.phase, Phase::Ready { holds, .. } if holds.choice.same(&self.choice))
    }

    pub(in crate::inference) fn is_off(&self) -> bool {
        matches!(self.phase, Phase::Off)
    }

    /// In memory, on its way there, or waiting for room.
    pub(in crate::inference) fn is_underway(&self) -> bool {
        match self.phase {
            Phase::Off => self.refused.is_none() && self.is_wanted(),
            Phase::Backoff { .. } => false,
            _ => self.refused.is_none(),
        }
    }

    pub(in crate::inference) fn is_backing_off(&self) -> bool {
        matches!(self.phase, Phase::Backoff { .. })
    }

    pub(in crate::inference) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether the pool has to find room for it.
    pub(in crate::inference) fn wants_room(&self) -> bool {
        self.admitted.is_none()
            && self.refused.is_none()
            && self.is_wanted()
            && matches!(self.phase, Phase::Off | Phase::Greeting { .. } | Phase::Greeted { .. })
    }

    /// Promises room.
    pub(in crate::inference) fn admit(&mut self, admission: Admission) {
        self.admitted = Some(admission);
    }

    /// What was promised is to be decided once more.
    pub(in crate::inference) fn give_room_back(&mut self) {
        self.admitted = None;
    }

    /// The memory it takes or was promised.
    pub(in crate::inference) fn taken(&self) -> Option<(Stage, &Admission)> {
        match &self.phase {
            Phase::Ready { holds, .. } => Some((Stage::Loaded, &holds.admission)),
            Phase::Loading { admission, .. } => Some((Stage::Loading, admission)),
            Phase::Greeted { held: Some(held), .. } if self.admitted.is_none() => {
                Some((Stage::Loaded, held))
            }
            _ => self.admitted.as_ref().map(|admission| (Stage::Loading, admission)),
        }
    }

    /// The memory it takes already.
    pub(in crate::inference) fn held(&self) -> Option<(Stage, &Admission)> {
        match &self.phase {
            Phase::Ready { holds, .. } => Some((Stage::Loaded, &holds.admission)),
            Phase::Loading { admission, .. } => Some((Stage::Loading, admission)),
            Phase::Greeted { held, .. } => held.as_ref().map(|held| (Stage::Loaded, held)),
            _ => None,
        }
    }

    /// The link to listen to.
    pub(in crate::inference) fn link_mut(&mut self) -> Option<&mut Link> {
        match &mut self.phase {
            Phase::Greeting { link, .. }
            | Phase::Greeted { link, .. }
            | Phase::Loading { link, .. }
            | Phase::Ready { link, .. } => Some(link),
            Phase::Off | Phase::Backoff { .. } => None,
        }
    }

    fn pid(&self) -> Option<u32> {
        match &self.phase {
            Phase::Greeting { link, .. }
            | Phase::Greeted { link, .. }
            | Phase::Loading { link, .. }
            | Phase::Ready { link, .. } => link.pid,
            Phase::Off | Phase::Backoff { .. } => None,
        }
    }

    /// What the owner and the API see. Residency's own part is filled by the pool.
    pub(in crate::inference) fn state(&self, target: Arc<Target>) -> EngineState {
        let (state, reason) = self.describe();
        let retry_at_ms = match &self.phase {
            Phase::Backoff { retry_at_ms, .. } => Some(*retry_at_ms),
            _ => None,
        };
        let holds = match &self.phase {
            Phase::Ready { holds, .. } => Some(holds),
            _ => None,
        };
        EngineState {
            target,
            residency: Residency {
                id: self.choice.model.id.clone(),
                state,
                backend: self.choice.program.backend(),
                reason,
                loaded: holds.map(describe_loaded),
                needs_bytes: self.taken().map_or(0, |(_, admission)| {
                    admission.needs.saturating_add(admission.gpu_bytes)
                }),
                pid: self.pid(),
                running: u32::try_from(self.running.len()).unwrap_or(u32::MAX),
                queued: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
                pinned: false,
                leaving: self.drain_before.is_some(),
                expires_at_ms: None,
            },
            retry_at_ms,
        }
    }

    pub(super) fn describe(&self) -> (ModelState, String) {
        let id = &self.choice.model.id;
        if let Some(Refused { reason, .. }) = &self.refused {
            return (ModelState::Failed, reason.clone());
        }
        match &self.phase {
            Phase::Off if !self.is_wanted() => {
                (ModelState::Unloaded, format!("{id} is not in memory; the next request loads it."))
            }
            Phase::Backoff { .. } => (
                ModelState::Restarting,
                format!("The inference runner is being started again: {}.", self.last_loss),
            ),
            Phase::Ready { .. } => (ModelState::Ready, format!("{id} is loaded.")),
            Phase::Loading { .. } => (ModelState::Loading, format!("Loading {id}.")),
            _ if self.admitted.is_none() => {
                (ModelState::Loading, format!("{id} waits until there is room for it in memory."))
            }
            _ => (ModelState::Loading, format!("Loading {id}.")),
        }
    }
}

fn describe_loaded(holds: &Holds) -> LoadedModel {
    LoadedModel {
        id: holds.choice.model.id.clone(),
        context: holds.loaded.context,
        slots: holds.loaded.slots,
        load_ms: holds.loaded.load_ms,
        gpu_layers: holds.loaded.gpu_layers,
        supports_tools: holds.tools.is_some(),
        has_chat_template: holds.loaded.chat_template.is_some(),
    }
}
