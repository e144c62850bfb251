//! What this node says of itself to the mesh. Pure: the node gathers, this writes it down.

use std::collections::HashMap;

use agent_api::{
    Settings,
    hardware::{Battery, Tier, WorkerClass},
    mesh::{AnnouncedModel, AnnouncedServing, Announcement, Power},
    models::ModelSource,
    node::ServingState,
    tasks::TaskKind,
};

use crate::{
    inference::InferenceState,
    mesh::membership::PROTOCOL,
    models::ModelFile,
    storage::ModelUse,
    tasks::known::{context, digest_of, loaded},
};

/// Longest name, as [`Announcement::name`] says.
const NAME_BYTES: usize = 64;
/// Models in one announcement, as [`Announcement::models`] says.
const MODELS: usize = 32;
/// What these models may take of a record, which has 3 KiB for everything: addresses and relays
/// have up to 0.6 KiB, the rest of the announcement up to 0.4 KiB.
const MODELS_BYTES: usize = 1_900;
/// Of a model besides its id, at most: digest (33), numbers (10 + 5 + 5), flags (2), the id's
/// length (2).
const MODEL_BYTES: usize = 57;

/// Everything that an announcement is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// Those in force.
    pub(super) settings: &'a Settings,
    /// This computer's time zone, where it has one.
    pub(super) zone: Option<&'a str>,
    /// As computed from the hardware.
    pub(super) tier: Tier,
    pub(super) class: WorkerClass,
    pub(super) power: Option<Power>,
    pub(super) seed: bool,
    pub(super) serving: ServingState,
    pub(super) inference: &'a InferenceState,
    pub(super) files: &'a [ModelFile],
    pub(super) uses: &'a HashMap<String, ModelUse>,
    /// Kinds of tasks that this computer can do: `wasm` and `code` need a sandbox.
    pub(super) able: &'a [TaskKind],
}

/// The announcement. What only the mesh knows stays empty: time, interval, links, and what of a
/// seed's relay and DHT node really listens.
pub(super) fn announcement(facts: &Facts<'_>) -> Announcement {
    let Facts { settings, inference, .. } = *facts;
    let slots = slots(facts);
    Announcement {
        name: shortened(&settings.node_name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        region: region(settings.mesh.region.as_deref(), facts.zone),
        tier: settings.tier.unwrap_or(facts.tier),
        worker_class: settings.worker_class.unwrap_or(facts.class),
        seed: facts.seed,
        serving: serving(facts, slots),
        models: models(facts),
        slots: narrow(slots),
        slots_free: narrow(slots.saturating_sub(inference.running)),
        queue: narrow(inference.queued),
        tokens_per_s: inference.active.as_ref().and_then(|active| {
            facts.uses.get(&active.residency.id).and_then(ModelUse::tokens_per_s).map(rounded)
        }),
        price: None,
        ledger_head: None,
        links: Vec::new(),
        relay: None,
        dht_port: None,
        at_ms: 0,
        every_s: 0,
        accepts: accepts(facts),
        power: facts.power,
    }
}

/// What a computer with this battery runs on, or with none; `None` where it does not say.
pub(super) fn power(battery: Option<&Battery>) -> Option<Power> {
    let Some(battery) = battery else { return Some(Power::Mains) };
    if battery.on_mains? {
        return Some(Power::Mains);
    }
    let tens = (battery.percent? / 10.0).round().clamp(0.0, 10.0);
    // Between 0 and 10.
    Some(Power::Battery { percent: tens as u8 * 10 })
}

/// Kinds of tasks that others may send, as its owner wants and this computer can. A pause is told
/// by what it says of serving.
fn accepts(facts: &Facts<'_>) -> Vec<TaskKind> {
    let wanted = &facts.settings.tasks;
    let taken = |kind: &TaskKind| wanted.kinds.contains(kind) && facts.able.contains(kind);
    TaskKind::ALL.into_iter().filter(taken).filter(|_| wanted.accept).collect()
}

fn shortened(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_BYTES)].to_owned()
}

/// The owner's word; without one, this computer's time zone. An empty word shows none.
fn region(chosen: Option<&str>, zone: Option<&str>) -> Option<String> {
    chosen.or(zone).filter(|name| !name.is_empty()).map(ToOwned::to_owned)
}

/// Of what is in memory; of the active model as it will be loaded, while nothing is; at least one of
/// whatever will be loaded for a request.
fn slots(facts: &Facts<'_>) -> u32 {
    match (facts.inference.slots(), &facts.inference.active) {
        (0, Some(active)) => active.target.options.slots,
        (0, None) => u32::from(loads_on_request(facts)),
        (slots, _) => slots,
    }
}

/// No model is active, and whoever names one of those that are here gets it all the same.
fn loads_on_request(facts: &Facts<'_>) -> bool {
    facts.inference.active.is_none()
        && facts.settings.load_on_request
        && facts.files.iter().any(|file| file.head.is_ok())
}

fn serving(facts: &Facts<'_>, slots: u32) -> AnnouncedServing {
    let inference = facts.inference;
    match facts.serving {
        ServingState::Paused => AnnouncedServing::Paused,
        ServingState::Degraded if loads_on_request(facts) => {
            let busy = inference.running >= slots || inference.queued > 0;
            if busy { AnnouncedServing::Busy } else { AnnouncedServing::Ready }
        }
        ServingState::Degraded | ServingState::Stopping => AnnouncedServing::Unable,
        // It takes requests; they wait until the model is there.
        ServingState::Starting => AnnouncedServing::Busy,
        ServingState::Idle => AnnouncedServing::Ready,
        ServingState::Serving if inference.running >= slots || inference.queued > 0 => {
            AnnouncedServing::Busy
        }
        ServingState::Serving => AnnouncedServing::Ready,
    }
}

/// Those in memory first, then the active one, then those that were used last.
fn models(facts: &Facts<'_>) -> Vec<AnnouncedModel> {
    let Facts { inference, uses, .. } = *facts;
    let active = inference.active.as_ref().map(|active| active.residency.id.as_str());
    let mut files: Vec<&ModelFile> = facts.files.iter().filter(|f| f.head.is_ok()).collect();
    files.sort_by_cached_key(|file| {
        let used = uses.get(&file.id).and_then(|used| used.last_used_ms).unwrap_or(0);
        let resident = loaded(inference, &file.id).is_some();
        (!resident, active != Some(&file.id), std::cmp::Reverse(used), file.id.clone())
    });
    let mut room = MODELS_BYTES;
    let fitting = files.into_iter().filter(|file| {
        let takes = MODEL_BYTES + file.id.len();
        let fits = takes <= room;
        room -= if fits { takes } else { 0 };
        fits
    });
    fitting.take(MODELS).map(|file| model(file, facts)).collect()
}

fn model(file: &ModelFile, facts: &Facts<'_>) -> AnnouncedModel {
    let settings = facts.settings;
    let loaded = loaded(facts.inference, &file.id);
    let digest = digest_of(file);
    AnnouncedModel {
        id: file.id.clone(),
        digest,
        size_bytes: file.size_bytes,
        context: loaded.map_or_else(|| context(file, settings), |loaded| loaded.context),
        resident: loaded.is_some(),
        tokens_per_s: facts.uses.get(&file.id).and_then(ModelUse::tokens_per_s).map(rounded),
        // Only the store's files are sure to stay what their digest says.
        shared: settings.mesh.share_models && digest.is_some() && file.source == ModelSource::Store,
    }
}

/// To a tenth: more would be another announcement after every request.
#[expect(clippy::cast_possible_truncation, reason = "a speed, rounded to a tenth")]
fn rounded(speed: f64) -> f32 {
    ((speed * 10.0).round() / 10.0) as f32
}

fn narrow(count: u32) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_api::{
        mesh::Hash,
        models::{Backend, LoadedModel, ModelState, Residency},
    };

    use super::*;
    use crate::{
        inference::{EngineState, LoadOptions, Target},
        models::{
            gguf::GgufInfo,
            manifest::{Digest, Layer, LayerKind},
        },
    };

    fn file(id: &str) -> ModelFile {
        let info = GgufInfo { context_train: 2_048, ..GgufInfo::default() };
        ModelFile { id: id.to_owned(), size_bytes: 7, head: Ok(info), ..ModelFile::default() }
    }

    fn pulled(id: &str) -> ModelFile {
        let layer = Layer {
            kind: LayerKind::Model,
            media_type: String::new(),
            digest: Digest::from_hash([9; 32]),
            size: 7,
        };
        ModelFile { source: ModelSource::Store, layers: Arc::from([layer]), ..file(id) }
    }

    fn engine(id: &str, state: ModelState) -> EngineState {
        let loaded = (state == ModelState::Ready).then(|| LoadedModel {
            id: id.to_owned(),
            context: 1_024,
            slots: 2,
            load_ms: 1.0,
            supports_tools: false,
            has_chat_template: true,
            gpu_layers: 0,
        });
        EngineState {
            target: Arc::new(Target {
                model: file(id),
                options: LoadOptions { context: 1_024, slots: 4, threads: None, gpu_layers: None },
                keep_alive: None,
                pinned: false,
                preload: false,
                ollama: None,
            }),
            residency: Residency {
                id: id.to_owned(),
                state,
                backend: Backend::Runner,
                reason: String::new(),
                loaded,
                needs_bytes: 0,
                pid: None,
                running: 0,
                queued: 0,
                pinned: false,
                leaving: false,
                expires_at_ms: None,
            },
            retry_at_ms: None,
        }
    }

    fn facts<'a>(
        settings: &'a Settings,
        inference: &'a InferenceState,
        files: &'a [ModelFile],
        uses: &'a HashMap<String, ModelUse>,
    ) -> Facts<'a> {
        Facts {
            settings,
            zone: Some("Europe/Berlin"),
            tier: Tier::MiniStandard,
            class: WorkerClass::Cpu,
            power: None,
            seed: false,
            serving: ServingState::Idle,
            inference,
            files,
            uses,
            able: &TaskKind::ALL,
        }
    }

    #[test]
    fn a_node_without_an_active_model_offers_those_that_it_loads_when_asked() {
        let (mut settings, uses) = (Settings::default(), HashMap::new());
        let (inference, files) = (InferenceState::default(), [file("a")]);
        let said = |settings: &Settings, files: &[ModelFile]| {
            let facts = facts(settings, &inference, files, &uses);
            let said = announcement(&Facts { serving: ServingState::Degraded, ..facts });
            (said.serving, said.slots)
        };
        assert_eq!(said(&settings, &files), (AnnouncedServing::Ready, 1));
        assert_eq!(said(&settings, &[]), (AnnouncedServing::Unable, 0));
        settings.load_on_request = false;
        assert_eq!(said(&settings, &files), (AnnouncedServing::Unable, 0));
    }

    #[test]
    fn a_battery_is_told_in_tens_and_only_while_it_is_used() {
        let battery = |percent, on_mains| Battery { percent, on_mains };
        let told = |battery: Battery| power(Some(&battery));
        assert_eq!(power(None), Some(Power::Mains), "a computer without one");
        assert_eq!(told(battery(Some(40.0), Some(true))), Some(Power::Mains));
        let on_battery = told(battery(Some(86.4), Some(false)));
        assert_eq!(on_battery, Some(Power::Battery { percent: 90 }));
        assert_eq!(told(battery(Some(104.0), Some(false))), Some(Power::Battery { percent: 100 }));
        assert_eq!(told(battery(Some(50.0), None)), None);
        assert_eq!(told(battery(None, Some(false))), None);
    }

    #[test]
    fn models_in_memory_come_first_with_what_they_really_have() {
        let ready = engine("b", ModelState::Ready);
        let inference = InferenceState {
            active: Some(ready.clone()),
            residents: vec![ready, engine("c", ModelState::Loading)],
            running: 1,
            ..InferenceState::default()
        };
        let used = ModelUse {
            last_used_ms: Some(5),
            completion_tokens: 100,
            generate_ms: 3_000.0,
            ..ModelUse::default()
        };
        let uses = HashMap::from([("b".to_owned(), used.clone()), ("d".to_owned(), used)]);
        let settings = Settings { node_name: "workbench".into(), ..Settings::default() };
        let files = [file("a"), pulled("b"), file("c"), file("d")];
        let said = announcement(&facts(&settings, &inference, &files, &uses));
        let ids: Vec<_> = said.models.iter().map(|model| model.id.as_str()).collect();
        assert_eq!(ids, ["b", "d", "a", "c"]);
        let first = &said.models[0];
        assert!(first.resident && first.shared && first.context == 1_024);
        assert_eq!(first.digest, Some(Hash([9; 32])));
        assert_eq!(first.tokens_per_s, Some(33.3));
        assert_eq!(said.tokens_per_s, Some(33.3));
        assert!(!said.models[3].resident, "still loading");
        assert_eq!((said.models[2].context, said.models[2].shared), (2_048, false));
        assert_eq!((said.slots, said.slots_free, said.queue), (2, 1, 0));
        assert_eq!(said.region.as_deref(), Some("Europe/Berlin"));
        assert_eq!((said.tier, said.worker_class), (Tier::MiniStandard, WorkerClass::Cpu));
    }

    #[test]
    fn the_owners_words_count() {
        let mut settings = Settings {
            tier: Some(Tier::StudioPremium),
            worker_class: Some(WorkerClass::Storage),
            ..Settings::default()
        };
        settings.mesh.region = Some(String::new());
        settings.mesh.share_models = false;
        settings.models.entry("b".to_owned()).or_default().context = Some(512);
        let (inference, uses) = (InferenceState::default(), HashMap::new());
        let said = announcement(&facts(&settings, &inference, &[pulled("b")], &uses));
        assert_eq!(said.region, None);
        assert_eq!((said.tier, said.worker_class), (Tier::StudioPremium, WorkerClass::Storage));
        assert_eq!((said.models[0].shared, said.models[0].context), (false, 512));
        assert_eq!((said.price, said.ledger_head), (None, None));
    }

    #[test]
    fn kinds_that_are_not_wanted_or_cannot_be_contained_are_not_taken() {
        let (inference, uses) = (InferenceState::default(), HashMap::new());
        let mut settings = Settings::default();
        let accepts = |settings: &Settings, able: &[TaskKind]| {
            announcement(&Facts { able, ..facts(settings, &inference, &[], &uses) }).accepts
        };
        assert_eq!(accepts(&settings, &TaskKind::ALL), TaskKind::ALL);
        let no_sandbox = [TaskKind::Chat, TaskKind::Completion, TaskKind::Embedding];
        assert_eq!(accepts(&settings, &no_sandbox), no_sandbox);
        settings.tasks.kinds = vec![TaskKind::Wasm, TaskKind::Chat];
        assert_eq!(accepts(&settings, &no_sandbox), [TaskKind::Chat]);
        settings.tasks.accept = false;
        assert_eq!(accepts(&settings, &TaskKind::ALL), []);
    }

    #[test]
    fn a_paused_or_full_node_says_so() {
        let (settings, uses) = (Settings::default(), HashMap::new());
        let mut inference = InferenceState {
            active: Some(engine("b", ModelState::Ready)),
            residents: vec![engine("b", ModelState::Ready)],
            running: 1,
            ..InferenceState::default()
        };
        let said = |serving, inference: &InferenceState| {
            let facts = Facts { serving, ..facts(&settings, inference, &[], &uses) };
            announcement(&facts).serving
        };
        assert_eq!(said(ServingState::Paused, &inference), AnnouncedServing::Paused);
        assert_eq!(said(ServingState::Degraded, &inference), AnnouncedServing::Unable);
        assert_eq!(said(ServingState::Starting, &inference), AnnouncedServing::Busy);
        assert_eq!(said(ServingState::Serving, &inference), AnnouncedServing::Ready);
        inference.running = 2;
        assert_eq!(said(ServingState::Serving, &inference), AnnouncedServing::Busy);
    }

    #[test]
    fn an_unloaded_model_still_has_its_slots() {
        let (settings, uses) = (Settings::default(), HashMap::new());
        let active = Some(engine("b", ModelState::Unloaded));
        let inference = InferenceState { active, ..InferenceState::default() };
        let said = announcement(&facts(&settings, &inference, &[], &uses));
        assert_eq!((said.slots, said.slots_free), (4, 4));
    }

    #[test]
    fn however_many_models_and_long_names_there_are_it_stays_small() {
        let settings = Settings { node_name: "ü".repeat(64), ..Settings::default() };
        let (inference, uses) = (InferenceState::default(), HashMap::new());
        for length in [3, 40, 200] {
            let files: Vec<_> =
                (0..100).map(|n| pulled(&format!("{n:03}{}", "m".repeat(length)))).collect();
            let said = announcement(&facts(&settings, &inference, &files, &uses));
            assert!(!said.models.is_empty() && said.models.len() <= MODELS);
            assert_eq!(said.name, "ü".repeat(32), "cut between letters");
            let bytes = postcard::to_allocvec(&said).expect("serializes").len();
            assert!(bytes <= MODELS_BYTES + 400, "{bytes} bytes");
        }
    }

    #[test]
    fn a_model_that_cannot_be_loaded_is_not_announced() {
        let (settings, uses) = (Settings::default(), HashMap::new());
        let damaged = crate::models::gguf::read_gguf(std::path::Path::new("/nowhere.gguf"));
        let head = Err(Arc::new(damaged.expect_err("nothing there")));
        let files = [ModelFile { head, ..file("a") }];
        let inference = InferenceState::default();
        assert!(announcement(&facts(&settings, &inference, &files, &uses)).models.is_empty());
    }
}
