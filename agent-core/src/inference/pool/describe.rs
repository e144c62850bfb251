//! What the pool tells others about itself.

use agent_api::models::ModelState;
use tokio::time::Instant;

use super::{
    super::{EngineState, InferenceState, Preview, Target, admission, residency::Decision},
    Entry, Pool,
};
use crate::clock::now_ms;

impl Pool {
    pub(super) fn publish(&self) {
        let mut active = None;
        let mut residents = Vec::new();
        for entry in &self.entries {
            let state = self.describe(entry);
            let is_active = self.is_active(entry);
            if is_active {
                active = Some(state.clone());
            }
            let present = matches!(
                state.residency.state,
                ModelState::Loading | ModelState::Ready | ModelState::Restarting
            );
            match (present, is_active) {
                (false, _) => {}
                (true, true) => residents.insert(0, state),
                (true, false) => residents.push(state),
            }
        }
        let sum = |count: fn(&Entry) -> usize| {
            u32::try_from(self.entries.iter().map(count).sum::<usize>()).unwrap_or(u32::MAX)
        };
        let engines = self.entries.iter().map(|entry| entry.engine.crashes);
        let oldest = self.entries.iter().filter_map(|entry| entry.engine.oldest_waiting_since());
        self.state.send_replace(InferenceState {
            active,
            residents,
            devices: self.gpus.devices.clone(),
            runner_crashes: engines.fold(self.crashes, u32::saturating_add),
            running: sum(|entry| entry.engine.running()),
            queued: sum(|entry| entry.engine.waiting()),
            oldest_waiting_since: oldest.min().map(Instant::into_std),
        });
    }

    fn describe(&self, entry: &Entry) -> EngineState {
        let mut state = entry.engine.state(std::sync::Arc::clone(&entry.target));
        state.residency.pinned = entry.target.pinned;
        let told = entry.unload || (entry.expendable && !entry.target.pinned);
        state.residency.leaving |= told && !entry.engine.is_off();
        state.residency.expires_at_ms = self.expires(entry).map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            now_ms().saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX))
        });
        state
    }

    /// What making a model active would do, without doing it.
    pub(super) fn preview(&self, target: &Target) -> Preview {
        let id = &target.model.id;
        let old = self.active.as_deref().filter(|old| old != id);
        let running = old.and_then(|old| self.find(old)).map_or(0, |n| {
            let engine = &self.entries[n].engine;
            engine.running() + engine.waiting()
        });
        let taken = |entry: &Entry| entry.engine.taken().map_or(0, |(_, taken)| taken.needs);
        let now_bytes: u64 = self.entries.iter().map(taken).sum();
        let own = self.find(id).map(|n| &self.entries[n]);
        let memory = self.memory(own.map(|entry| &entry.engine));
        let mut preview = Preview {
            evicts: Vec::new(),
            running: u32::try_from(running).unwrap_or(u32::MAX),
            now_bytes,
            after_bytes: now_bytes,
            limit_bytes: memory.limit,
            problem: None,
        };
        // It leaves in any case once it is idle.
        let leaves = old.and_then(|old| self.find(old)).filter(|&n| {
            !self.entries[n].target.pinned && self.entries[n].engine.taken().is_some()
        });
        preview.evicts.extend(leaves.map(|n| self.entries[n].engine.id().to_owned()));
        let mut comes = 0;
        if !own.is_some_and(|entry| entry.engine.is_ready()) && target.ollama.is_none() {
            let gpus = self.gpus_beside(id);
            match admission::plan(&target.model, target.options, &gpus) {
                Ok(admission) => {
                    comes = admission.needs.saturating_sub(own.map_or(0, taken));
                    let residents = self.residents(id, Some(id));
                    let max = self.policy.max_loaded;
                    let decision =
                        super::super::residency::decide(admission.needs, &residents, memory, max);
                    match decision {
                        Decision::Load => {}
                        Decision::Wait { evict, drain } => {
                            for id in evict.into_iter().chain(drain) {
                                if !preview.evicts.contains(&id) {
                                    preview.evicts.push(id);
                                }
                            }
                        }
                        refused => preview.problem = Some(self.refusal(id, &admission, &refused)),
                    }
                }
                Err(problem) => preview.problem = Some(problem),
            }
        }
        let out = preview.evicts.iter().filter_map(|id| self.find(id));
        let out: u64 = out.map(|n| taken(&self.entries[n])).sum();
        preview.after_bytes = now_bytes.saturating_sub(out).saturating_add(comes);
        preview
    }
}
