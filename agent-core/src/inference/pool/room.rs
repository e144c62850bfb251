//! Who comes into memory and who leaves: carries out what `residency` decides.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;

use super::{
    super::{
        KeepAlive, Target,
        admission::{self, Admission, Gpus},
        engine::{Engine, Program, Spare},
        residency::{self, Decision, Memory, Resident, Stage},
        runner,
    },
    Entry, GONE_AFTER, LOADED_GRACE, Leaving, Pool, REMEMBERED_FAILURES,
};
use crate::machine;

impl Pool {
    /// Does what the state calls for.
    pub(super) fn advance(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.let_idle_ones_go();
        self.find_room();
        self.advance_engines();
        // Changed options gave up what they held and want room again.
        if self.entries.iter().any(|entry| entry.engine.wants_room()) {
            self.find_room();
            self.advance_engines();
        }
        self.forget_unused();
        self.start_spare();
    }

    fn advance_engines(&mut self) {
        for entry in &mut self.entries {
            entry.engine.advance(&mut self.spare);
        }
    }

    /// When a model leaves if no request comes.
    pub(super) fn expires(&self, entry: &Entry) -> Option<Instant> {
        let engine = &entry.engine;
        if self.is_active(entry) || !engine.is_ready() || engine.is_busy() {
            return None;
        }
        match self.keep_alive(entry) {
            KeepAlive::Forever => None,
            // What the clock cannot count never comes.
            KeepAlive::For(time) if engine.unused => {
                engine.last_work.checked_add(time.max(LOADED_GRACE))
            }
            KeepAlive::For(time) => engine.last_work.checked_add(time),
        }
    }

    /// The owner's word for this model counts first, then the last request's, then the settings.
    fn keep_alive(&self, entry: &Entry) -> KeepAlive {
        let target = &entry.target;
        if target.pinned {
            return KeepAlive::Forever;
        }
        // What is loaded at the start is meant to be there.
        let preload = target.preload.then_some(KeepAlive::Forever);
        let own = target.keep_alive.or(preload);
        own.or(entry.asked).unwrap_or(self.policy.keep_alive)
    }

    pub(super) fn is_active(&self, entry: &Entry) -> bool {
        self.active.as_deref() == Some(entry.engine.id())
    }

    fn let_idle_ones_go(&mut self) {
        let now = Instant::now();
        for n in 0..self.entries.len() {
            let entry = &self.entries[n];
            let told = entry.unload || (entry.expendable && !entry.target.pinned);
            let expired = self.expires(entry).is_some_and(|at| at <= now);
            // Nobody waits for it: bringing it back is left to the next request.
            let lost = entry.engine.is_backing_off()
                && !(self.is_active(entry) || entry.target.pinned || entry.target.preload);
            if (told || expired || lost) && !entry.engine.is_busy() && !entry.engine.is_off() {
                self.evict(n);
            }
        }
    }

    /// Ends a model's program. Requests that wait for it want it back, after those who waited
    /// before them.
    fn evict(&mut self, n: usize) {
        let entry = &mut self.entries[n];
        entry.grown = None;
        self.clock += 1;
        entry.wanted_since = self.clock;
        let id = entry.engine.id().to_owned();
        if let Some((mut link, admission)) = entry.engine.leave() {
            link.end();
            self.leaving.push(Leaving { id, admission, link, until: Instant::now() + GONE_AFTER });
        }
        let target = Arc::clone(&self.entries[n].target);
        self.retarget(n, target);
    }

    /// Lets those load for which there is room, the active model first, then in order of asking;
    /// and makes room for the first for which there is none yet.
    fn find_room(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.removed) {
            if entry.engine.wants_room() {
                let reason = "The model was removed before it answered this request.";
                entry.engine.refuse(reason.into(), false);
            }
        }
        let mut wanting: Vec<(bool, u64, String)> = self
            .entries
            .iter()
            .filter(|entry| entry.engine.wants_room())
            .map(|entry| (!self.is_active(entry), entry.wanted_since, entry.engine.id().to_owned()))
            .collect();
        wanting.sort();
        let mut draining = BTreeSet::new();
        let mut first = true;
        for (_, _, id) in wanting {
            let Some(n) = self.find(&id) else { continue };
            let engine = &self.entries[n].engine;
            let admission = match self.admission(engine) {
                Ok(admission) => admission,
                Err(reason) => {
                    self.entries[n].engine.refuse(reason, true);
                    continue;
                }
            };
            if matches!(engine.choice().program, Program::Ollama(_)) {
                self.entries[n].engine.admit(admission);
                continue;
            }
            // Whoever waits for room is not overtaken, or a large model might wait for ever.
            if !first {
                continue;
            }
            // What is on its way out frees the GPU in a moment: layers are planned with it then.
            let leaves_gpu = |leaving: &Leaving| leaving.admission.gpu_bytes > 0;
            if self.leaving.iter().any(leaves_gpu) {
                first = false;
                continue;
            }
            match self.decide(n, &admission) {
                Decision::Load => self.entries[n].engine.admit(admission),
                Decision::Wait { evict, drain } => {
                    first = false;
                    draining.extend(drain);
                    for id in evict {
                        if let Some(n) = self.find(&id) {
                            self.evict(n);
                        }
                    }
                }
                refusal => {
                    let reason = self.refusal(&id, &admission, &refusal);
                    self.entries[n].engine.refuse(reason, true);
                }
            }
        }
        self.clock += 1;
        for entry in &mut self.entries {
            let engine = &mut entry.engine;
            engine.drain_before = match draining.contains(engine.id()) {
                true => engine.drain_before.or(Some(self.clock)),
                false => None,
            };
        }
    }

    fn admission(&self, engine: &Engine) -> Result<Admission, String> {
        let choice = engine.choice();
        let plan = admission::plan(&choice.model, choice.options, &self.gpus_beside(engine.id()))?;
        Ok(match choice.program {
            Program::Runner(_) => plan,
            Program::Ollama(_) => plan.elsewhere(),
        })
    }

    /// Bytes of GPU memory that models of this node hold, at least and at most: one that comes or
    /// goes holds a part of its bytes.
    pub(super) fn held_on_gpus(&self) -> (u64, u64) {
        let (mut least, mut most) = (0, 0_u64);
        for (stage, admission) in self.entries.iter().filter_map(|entry| entry.engine.held()) {
            most = most.saturating_add(admission.gpu_bytes);
            if stage == Stage::Loaded {
                least += admission.gpu_bytes;
            }
        }
        let leaving: u64 = self.leaving.iter().map(|leaving| leaving.admission.gpu_bytes).sum();
        (least, most.saturating_add(leaving))
    }

    /// GPUs, and what models other than this take there.
    pub(super) fn gpus_beside(&self, id: &str) -> Gpus {
        let others = self.entries.iter().filter(|entry| entry.engine.id() != id);
        let taken = others.filter_map(|entry| entry.engine.taken());
        Gpus {
            devices: self.gpus.devices.clone(),
            foreign: self.gpus.foreign,
            taken: taken.map(|(_, admission)| admission.gpu_bytes).sum(),
            reserve: self.policy.gpu_reserve,
        }
    }

    fn decide(&self, n: usize, admission: &Admission) -> Decision {
        let memory = self.memory(Some(&self.entries[n].engine));
        let residents = self.residents(self.entries[n].engine.id(), self.active.as_deref());
        residency::decide(admission.needs, &residents, memory, self.policy.max_loaded)
    }

    pub(super) fn refusal(&self, id: &str, admission: &Admission, decision: &Decision) -> String {
        match decision {
            Decision::NoRoom { has } => admission.no_room(id, *has),
            _ => format!(
                "{id} cannot be loaded: {} models may be in memory (“Models at once”, max_loaded_models), and those that are there are pinned or active. Unpin one, unload one, or raise the number in the settings.",
                self.policy.max_loaded
            ),
        }
    }

    /// Memory now. What `own` holds from an earlier load comes back with its next one.
    pub(super) fn memory(&self, own: Option<&Engine>) -> Memory {
        let held = own.and_then(Engine::taken).filter(|(stage, _)| *stage == Stage::Loaded);
        let back = held.map_or(0, |(_, held)| held.needs.saturating_sub(held.mapped));
        Memory {
            available: machine::available_memory().unwrap_or(u64::MAX).saturating_add(back),
            limit: machine::total_memory()
                .map_or(u64::MAX, |total| total.saturating_sub(self.policy.ram_reserve)),
        }
    }

    /// Everything in memory but `id`, as it would be if `active` were active.
    pub(super) fn residents(&self, id: &str, active: Option<&str>) -> Vec<Resident> {
        let entries = self.entries.iter().filter(|entry| entry.engine.id() != id);
        let here = entries.filter_map(|entry| {
            let engine = &entry.engine;
            if matches!(engine.choice().program, Program::Ollama(_)) {
                return None;
            }
            let (stage, admission) = engine.taken()?;
            let is_active = active == Some(engine.id());
            Some(Resident {
                id: engine.id().to_owned(),
                stage,
                needs: admission.needs,
                weights: admission.mapped,
                stays: is_active || entry.target.pinned,
                expendable: !is_active && (entry.expendable || self.is_active(entry)),
                busy: engine.is_busy(),
                last_used: entry.last_used,
            })
        });
        let leaving = self.leaving.iter().map(|leaving| Resident {
            id: leaving.id.clone(),
            stage: Stage::Leaving,
            needs: leaving.admission.needs,
            weights: leaving.admission.mapped,
            stays: false,
            expendable: false,
            busy: false,
            last_used: 0,
        });
        here.chain(leaving).collect()
    }

    /// A request asked for a larger context: the model is loaded with it, as far as it was trained
    /// for and memory allows. It never shrinks by a request.
    pub(super) fn grow(&mut self, n: usize, wanted: u32) {
        let engine = &self.entries[n].engine;
        let options = engine.choice().options;
        if wanted <= options.context {
            return;
        }
        let context = match engine.choice().program {
            Program::Ollama(_) => Some(wanted),
            Program::Runner(_) => {
                let residents = self.residents(engine.id(), self.active.as_deref());
                let room = residency::room(&residents, self.memory(Some(engine)), &|r| {
                    r.stage == Stage::Leaving || !(r.stays || r.busy)
                });
                let gpus = self.gpus_beside(engine.id());
                let range = (options.context, wanted);
                admission::largest_context(&engine.choice().model, options, &gpus, range, room)
            }
        };
        if let Some(context) = context {
            self.entries[n].grown = Some(context);
            let target: Arc<Target> = Arc::clone(&self.entries[n].target);
            self.retarget(n, target);
        }
    }

    fn forget_unused(&mut self) {
        let active = self.active.clone();
        let mut gone = 0;
        self.entries.retain(|entry| {
            let engine = &entry.engine;
            let keep = active.as_deref() == Some(engine.id())
                || engine.is_wanted()
                || (engine.is_refused() && !entry.removed)
                || engine.has_failures()
                || engine.taken().is_some();
            gone += if keep { 0 } else { engine.crashes };
            keep
        });
        let failed = |entry: &Entry| {
            entry.engine.is_refused()
                && !entry.engine.has_failures()
                && active.as_deref() != Some(entry.engine.id())
        };
        while self.entries.iter().filter(|entry| failed(entry)).count() > REMEMBERED_FAILURES {
            let oldest = self
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| failed(entry))
                .min_by_key(|(_, entry)| entry.last_used)
                .map(|(n, _)| n);
            let Some(oldest) = oldest else { break };
            gone += self.entries.remove(oldest).engine.crashes;
        }
        self.crashes = self.crashes.saturating_add(gone);
    }

    /// Starting the program takes time that a swap need not wait for: one without a model stands
    /// by (it holds a few megabytes).
    fn start_spare(&mut self) {
        if !std::mem::take(&mut self.want_spare) || self.spare.is_some() {
            return;
        }
        if let Some(Ok(link)) = self.runner.as_deref().map(runner::spawn) {
            self.spare = Some(Spare { link, devices: None });
        }
    }
}
