//! The nodes that work may be placed on, as they are known at this moment: from what they announced,
//! what this node measured and remembers, and for itself from its models and their load.
//!
//! Made for each request, so only what the request asks for is copied: of thousands of peers their
//! names, and of their models the one that is wanted.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent_api::{
    NodeId, Settings,
    mesh::{AnnouncedModel, AnnouncedServing, Hash, PeerState},
    models::{LoadedModel, ModelState},
    tasks::{TaskKind, TaskPath},
};

use super::{
    placement::{ModelView, Name, NodeView, Wanted},
    reputations::Reputations,
};
use crate::{
    inference::InferenceState,
    mesh::{Mesh, NodeKey, PeerLook},
    models::{ModelFile, manifest::LayerKind},
    storage::ModelUse,
};

/// This node's own facts.
#[derive(Clone, Copy, Debug)]
pub struct HereFacts<'a> {
    pub key: NodeKey,
    pub settings: &'a Settings,
    /// As announced.
    pub region: Option<&'a str>,
    pub inference: &'a InferenceState,
    pub files: &'a [ModelFile],
    pub uses: &'a HashMap<String, ModelUse>,
    /// Kinds of tasks that this computer can do.
    pub able: &'a [TaskKind],
}

/// This node and every peer, for [`super::placement::place`]. This node comes first.
pub fn nodes(
    here: &HereFacts<'_>,
    mesh: &Mesh,
    wanted: &Wanted,
    (reputations, in_flight): (&Reputations, &InFlight),
    now_ms: i64,
) -> Vec<NodeView> {
    let mut nodes = vec![own(here, wanted, in_flight.count(&here.key))];
    let name = wanted.model.as_deref().map(Name::read);
    mesh.look_at_peers(|peer| {
        let mut view = peer_view(&peer, wanted, name.as_ref(), now_ms);
        view.reputation = reputations.score(&peer.key, now_ms);
        view.in_flight = unseen(wanted, &view, in_flight.count(&peer.key));
        nodes.push(view);
    });
    nodes
}

/// This node itself.
pub fn own(here: &HereFacts<'_>, wanted: &Wanted, in_flight: u32) -> NodeView {
    let HereFacts { inference, settings, .. } = *here;
    let slots = match (inference.slots(), &inference.active) {
        (0, Some(active)) => active.target.options.slots,
        (slots, _) => slots,
    };
    let mut view = NodeView {
        id: here.key.to_id(),
        name: settings.node_name.clone(),
        here: true,
        mine: true,
        trusted: true,
        problem: None,
        path: Some(TaskPath::Local),
        rtt_ms: None,
        region: here.region.map(ToOwned::to_owned),
        serving: AnnouncedServing::Ready,
        accepts: here.able.to_vec(),
        models: own_models(here, wanted),
        slots,
        slots_free: slots.saturating_sub(inference.running),
        queue: inference.queued,
        in_flight: 0,
        price: None,
        reputation: 1.0,
    };
    view.in_flight = unseen(wanted, &view, in_flight);
    view
}

/// Those that fit the name; for an empty one the active model.
fn own_models(here: &HereFacts<'_>, wanted: &Wanted) -> Vec<ModelView> {
    let Some(name) = wanted.model.as_deref().map(Name::read) else { return Vec::new() };
    let active = here.inference.active.as_ref().map(|active| active.residency.id.as_str());
    let fits = |file: &&ModelFile| match name.is_empty() {
        true => active == Some(file.id.as_str()),
        false => name.means(&file.id, digest_of(file).as_ref()),
    };
    let usable = here.files.iter().filter(|file| file.head.is_ok());
    usable.filter(fits).map(|file| own_model(here, file)).collect()
}

fn own_model(here: &HereFacts<'_>, file: &ModelFile) -> ModelView {
    let loaded = loaded(here.inference, &file.id);
    #[expect(clippy::cast_possible_truncation, reason = "a speed")]
    let speed = here.uses.get(&file.id).and_then(ModelUse::tokens_per_s).map(|s| s as f32);
    ModelView {
        id: file.id.clone(),
        digest: digest_of(file),
        resident: loaded.is_some(),
        context: loaded.map_or_else(|| context(file, here.settings), |loaded| loaded.context),
        size_bytes: file.size_bytes,
        tokens_per_s: speed,
    }
}

/// A peer without what this node remembers of it.
fn peer_view(
    peer: &PeerLook<'_>,
    wanted: &Wanted,
    name: Option<&Name<'_>>,
    now_ms: i64,
) -> NodeView {
    let said = peer.announcement;
    NodeView {
        id: peer.key.to_id(),
        name: peer.name.to_owned(),
        here: false,
        mine: peer.own,
        trusted: peer.trusted,
        problem: problem(peer, now_ms),
        path: peer.path.map(TaskPath::from),
        rtt_ms: peer.rtt_ms,
        region: said.and_then(|said| said.region.clone()),
        serving: said.map_or(AnnouncedServing::Unable, |said| said.serving),
        accepts: said.map(|said| said.accepts.clone()).unwrap_or_default(),
        models: match (said, name) {
            (Some(said), Some(name)) => peer_models(&said.models, name, wanted),
            _ => Vec::new(),
        },
        slots: said.map_or(0, |said| said.slots.into()),
        slots_free: said.map_or(0, |said| said.slots_free.into()),
        queue: said.map_or(0, |said| said.queue.into()),
        in_flight: 0,
        price: said.and_then(|said| said.price),
        reputation: 0.0,
    }
}

/// Those that fit the name. For an empty one the first that it announces, those in memory being
/// announced first, where a node is named: nobody else's active model is meant otherwise.
fn peer_models(said: &[AnnouncedModel], name: &Name<'_>, wanted: &Wanted) -> Vec<ModelView> {
    if name.is_empty() {
        let first = said.first().filter(|_| wanted.node.is_some());
        return first.map(announced).into_iter().collect();
    }
    let fits = said.iter().filter(|model| name.means(&model.id, model.digest.as_ref()));
    fits.map(announced).collect()
}

fn announced(model: &AnnouncedModel) -> ModelView {
    ModelView {
        id: model.id.clone(),
        digest: model.digest,
        resident: model.resident,
        context: model.context,
        size_bytes: model.size_bytes,
        tokens_per_s: model.tokens_per_s,
    }
}

/// Why a peer cannot be asked now: a clause.
fn problem(peer: &PeerLook<'_>, now_ms: i64) -> Option<String> {
    match peer.state {
        PeerState::Unreachable => Some(match peer.problem {
            Some(problem) => format!("it cannot be reached: {problem}"),
            None => "it cannot be reached".to_owned(),
        }),
        PeerState::Stale => {
            let minutes = peer.last_seen_ms.map(|seen| now_ms.saturating_sub(seen) / 60_000);
            Some(match minutes {
                Some(minutes @ 1..) => format!("nothing was heard of it for {minutes} min"),
                _ => "its announcement is overdue".to_owned(),
            })
        }
        PeerState::Connected | PeerState::Known if peer.announcement.is_none() => {
            Some("it has not said yet what it can do".to_owned())
        }
        PeerState::Connected | PeerState::Known => None,
    }
}

/// Jobs that were placed on a node and that its word on its load cannot contain yet. What it says
/// is busy is taken for this node's jobs first; the worker has the last word.
fn unseen(wanted: &Wanted, node: &NodeView, placed: u32) -> u32 {
    if wanted.kind == Some(TaskKind::Wasm) {
        // Modules take no slot of a model, so nobody announces them.
        return placed;
    }
    let told = node.slots.saturating_sub(node.slots_free).saturating_add(node.queue);
    placed.saturating_sub(told)
}

/// How many jobs this node has on each node, itself included. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    jobs: Arc<Mutex<HashMap<NodeKey, u32>>>,
}

/// One job; it counts until this is dropped.
#[derive(Debug)]
pub struct Underway {
    node: NodeKey,
    all: InFlight,
}

impl InFlight {
    /// Before the node is asked, so that others who choose meanwhile know of it.
    pub fn begin(&self, node: NodeKey) -> Underway {
        *self.lock().entry(node).or_default() += 1;
        Underway { node, all: self.clone() }
    }

    /// The same by its id; a text that is no id counts as one node.
    pub fn begin_for(&self, id: &NodeId) -> Underway {
        self.begin(key_of(id))
    }

    pub fn count(&self, node: &NodeKey) -> u32 {
        self.lock().get(node).copied().unwrap_or(0)
    }

    pub fn count_for(&self, id: &NodeId) -> u32 {
        self.count(&key_of(id))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeKey, u32>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of(id: &NodeId) -> NodeKey {
    NodeKey::from_id(id).unwrap_or(NodeKey([0; 32]))
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut jobs = self.all.lock();
        let Entry::Occupied(mut jobs) = jobs.entry(self.node) else { return };
        *jobs.get_mut() = jobs.get().saturating_sub(1);
        if *jobs.get() == 0 {
            jobs.remove();
        }
    }
}

/// A model's context as it would be loaded.
pub(crate) fn context(file: &ModelFile, settings: &Settings) -> u32 {
    let own = settings.models.get(&file.id).and_then(|options| options.context);
    let wanted = own.unwrap_or(settings.context_length);
    let trained = file.head.as_ref().map_or(0, |head| head.context_train);
    if trained == 0 { wanted } else { wanted.min(trained) }
}

/// A model as it is in memory, ready to answer and meant to stay.
pub(crate) fn loaded<'a>(inference: &'a InferenceState, id: &str) -> Option<&'a LoadedModel> {
    let known = inference.residents.iter().find(|state| state.residency.id == id)?;
    let residency = &known.residency;
    residency.loaded.as_ref().filter(|_| residency.state == ModelState::Ready && !residency.leaving)
}

/// Of a model's weights, where the registry said it.
pub(crate) fn digest_of(file: &ModelFile) -> Option<Hash> {
    let digest = file.layer(LayerKind::Model)?.digest.to_string();
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest.strip_prefix("sha256:")?, &mut bytes).ok()?;
    Some(Hash(bytes))
}

#[cfg(test)]
mod tests {
    use agent_api::mesh::{Announcement, PathKind};

    use super::*;
    use crate::{models::gguf::GgufInfo, tasks::placement::place};

    const ME: NodeKey = NodeKey([1; 32]);

    fn file(id: &str) -> ModelFile {
        let info = GgufInfo { context_train: 2_048, ..GgufInfo::default() };
        ModelFile { id: id.to_owned(), size_bytes: 7, head: Ok(info), ..ModelFile::default() }
    }

    fn wanted(model: &str) -> Wanted {
        Wanted { kind: Some(TaskKind::Chat), model: Some(model.to_owned()), ..Wanted::default() }
    }

    fn said() -> Announcement {
        let model = |id: &str| AnnouncedModel {
            id: id.to_owned(),
            digest: Some(Hash([9; 32])),
            size_bytes: 7,
            context: 4_096,
            resident: true,
            tokens_per_s: None,
            shared: false,
        };
        Announcement {
            name: "kanal".to_owned(),
            version: String::new(),
            protocol: (1, 1),
            region: None,
            tier: agent_api::hardware::Tier::MiniStandard,
            worker_class: agent_api::hardware::WorkerClass::Cpu,
            seed: false,
            serving: AnnouncedServing::Ready,
            models: vec![model("a:1b"), model("b:2b")],
            slots: 4,
            slots_free: 3,
            queue: 0,
            tokens_per_s: None,
            price: None,
            ledger_head: None,
            links: Vec::new(),
            relay: None,
            dht_port: None,
            at_ms: 0,
            every_s: 60,
            accepts: TaskKind::ALL.to_vec(),
            power: None,
        }
    }

    fn peer(said: &Announcement) -> PeerLook<'_> {
        PeerLook {
            key: NodeKey([2; 32]),
            name: "kanal",
            state: PeerState::Connected,
            path: Some(PathKind::Lan),
            rtt_ms: Some(1.0),
            trusted: true,
            own: false,
            problem: None,
            last_seen_ms: Some(0),
            announcement: Some(said),
        }
    }

    fn view(peer: &PeerLook<'_>, wanted: &Wanted) -> NodeView {
        let name = wanted.model.as_deref().map(Name::read);
        peer_view(peer, wanted, name.as_ref(), 600_000)
    }

    #[test]
    fn of_a_peers_models_only_those_that_are_asked_for_are_copied() {
        let said = said();
        let peer = peer(&said);
        let models = |wanted: &Wanted| -> Vec<String> {
            view(&peer, wanted).models.into_iter().map(|model| model.id).collect()
        };
        assert_eq!(models(&wanted("b:2b")), ["b:2b"]);
        assert_eq!(models(&wanted("c")), [""; 0]);
        assert_eq!(models(&wanted("")), [""; 0], "its active model was not asked for");
        assert_eq!(models(&Wanted { node: Some("kanal".into()), ..wanted("") }), ["a:1b"]);
        assert_eq!(models(&Wanted { model: None, ..wanted("") }), [""; 0]);
        let by_digest = format!("b:2b@sha256:{}", "09".repeat(32));
        assert_eq!(models(&wanted(&by_digest)), ["b:2b"]);
    }

    #[test]
    fn a_peer_that_is_silent_lost_or_new_is_not_asked_and_says_why() {
        let said = said();
        let good = peer(&said);
        assert_eq!(view(&good, &wanted("b:2b")).problem, None);
        let why = |peer: PeerLook<'_>| view(&peer, &wanted("b:2b")).problem.unwrap_or_default();
        assert_eq!(
            why(PeerLook { state: PeerState::Stale, ..good }),
            "nothing was heard of it for 10 min"
        );
        let problem = Some("timed out");
        let lost = PeerLook { state: PeerState::Unreachable, problem, ..good };
        assert_eq!(why(lost), "it cannot be reached: timed out");
        assert!(why(PeerLook { announcement: None, ..good }).contains("not said yet"));
    }

    #[test]
    fn this_node_has_its_models_and_its_marks() {
        let (settings, uses) = (Settings::default(), HashMap::new());
        let inference = InferenceState::default();
        let files = [file("a:1b"), file("b:2b")];
        let facts = HereFacts {
            key: ME,
            settings: &settings,
            region: None,
            inference: &inference,
            files: &files,
            uses: &uses,
            able: &[TaskKind::Chat],
        };
        let mine = own(&facts, &wanted("a:1b"), 0);
        assert!(mine.here && mine.mine && mine.trusted && !mine.models[0].resident);
        assert_eq!((mine.models.len(), mine.models[0].context), (1, 2_048));
        let said = said();
        let nodes = [mine, view(&peer(&said), &wanted("a:1b"))];
        assert_eq!(place(&wanted("a:1b"), &nodes, 0).ranked.len(), 2);
        assert!(own(&facts, &wanted(""), 0).models.is_empty(), "no model is active");
    }

    #[test]
    fn jobs_count_until_they_end_and_only_while_the_node_has_not_told_of_them() {
        let in_flight = InFlight::default();
        let jobs: Vec<_> = (0..3).map(|_| in_flight.begin(ME)).collect();
        assert_eq!((in_flight.count(&ME), in_flight.count(&NodeKey([9; 32]))), (3, 0));
        let said = said();
        let node = view(&peer(&said), &wanted("a:1b"));
        assert_eq!(unseen(&wanted("a:1b"), &node, 3), 2, "it says that one slot is busy");
        let module = Wanted { kind: Some(TaskKind::Wasm), ..Wanted::default() };
        assert_eq!(unseen(&module, &node, 3), 3);
        drop(jobs);
        assert_eq!(in_flight.count(&ME), 0);
        assert!(in_flight.lock().is_empty());
    }
}
