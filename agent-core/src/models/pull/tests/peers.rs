//! Pulls whose bytes come from peers: the mesh is made up, the pull is real.

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use agent_api::{
    pull::{Pull, PullSourceKind, PullState},
    settings::Settings,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use tokio::sync::watch;

use super::{
    Bench, MIB,
    mock::{Act, Mock},
    model_bytes, tuning,
};
use crate::models::{
    manifest::{Digest, Manifest},
    name::ModelRef,
    pull::{Chunks, Holder, OtherPlaces, PeerManifest, PlaceError, Tuning, Wanted, record::Record},
    registry::{RegistryClient, credentials::Credentials},
};

const PIECE: usize = 256 << 10;

/// What a made-up peer does when it is asked for a range.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Serve,
    /// Sends other bytes than the model's, in accordance with its own hash.
    ServeOther,
    /// Its bytes do not fit its own hash.
    Lie,
    /// Breaks off after so many bytes of a part.
    Break(usize),
    /// Sends nothing more once it has sent so many bytes altogether.
    StopAfter(usize),
    Busy,
}

#[derive(Debug)]
struct Place {
    name: &'static str,
    is_near: bool,
    does: Does,
    blobs: Vec<Bytes>,
    asked: Mutex<Vec<Range<u64>>>,
    sent: Arc<Mutex<usize>>,
}

impl Place {
    fn new(name: &'static str, is_near: bool, does: Does, blobs: &[&Bytes]) -> Arc<Self> {
        Arc::new(Self {
            name,
            is_near,
            does,
            blobs: blobs.iter().map(|blob| (*blob).clone()).collect(),
            asked: Mutex::default(),
            sent: Arc::default(),
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("no test panics with it").len()
    }
}

#[derive(Debug)]
struct Blob {
    place: Arc<Place>,
    bytes: Bytes,
}

impl Holder for Blob {
    fn id(&self) -> &str {
        self.place.name
    }
    fn name(&self) -> &str {
        self.place.name
    }
    fn is_near(&self) -> bool {
        self.place.is_near
    }
    fn root(&self) -> [u8; 32] {
        let mut root = *Digest::of(&self.bytes).to_string().as_bytes().first_chunk().expect("long");
        root[0] = u8::from(self.place.does == Does::ServeOther);
        root
    }

    fn open(&self, range: Range<u64>) -> Chunks {
        self.place.asked.lock().expect("no test panics with it").push(range.clone());
        let mut bytes = self.bytes.slice(range.start as usize..range.end as usize);
        let gone = Err(PlaceError::Gone("the connection broke".to_owned()));
        let end = match self.place.does {
            Does::Serve | Does::StopAfter(_) => None,
            Does::ServeOther => {
                let mut other = bytes.to_vec();
                // Its beginning stays that of a GGUF.
                other.iter_mut().skip(100_000).for_each(|byte| *byte ^= 1);
                bytes = other.into();
                None
            }
            Does::Lie => {
                bytes.clear();
                Some(Err(PlaceError::Lied("they do not fit their hash".to_owned())))
            }
            Does::Break(at) => {
                bytes.truncate(at);
                Some(gone)
            }
            Does::Busy => {
                bytes.clear();
                Some(Err(PlaceError::Busy))
            }
        };
        let starts = (0..bytes.len()).step_by(PIECE);
        let pieces = starts.map(|at| bytes.slice(at..bytes.len().min(at + PIECE)));
        let pieces: Vec<_> = pieces.map(Ok).chain(end).collect();
        let (does, sent) = (self.place.does, Arc::clone(&self.place.sent));
        let pieces = stream::iter(pieces).then(move |piece: Result<Bytes, PlaceError>| {
            let sent = Arc::clone(&sent);
            async move {
                let all = {
                    let mut sent = sent.lock().expect("no test panics with it");
                    *sent += piece.as_ref().map_or(0, Bytes::len);
                    *sent
                };
                if matches!(does, Does::StopAfter(most) if all > most) {
                    std::future::pending::<()>().await;
                }
                piece
            }
        });
        pieces.boxed()
    }
}

#[derive(Debug, Default)]
struct Mesh {
    places: Vec<Arc<Place>>,
    manifests: Vec<(&'static str, Manifest)>,
}

impl OtherPlaces for Mesh {
    fn holders(&self, wanted: Wanted) -> BoxFuture<'_, Vec<Arc<dyn Holder>>> {
        let found = self.places.iter().filter_map(|place| {
            let bytes = place.blobs.iter().find(|blob| Digest::of(blob) == wanted.blob)?.clone();
            Some(Arc::new(Blob { place: Arc::clone(place), bytes }) as Arc<dyn Holder>)
        });
        let found = found.collect();
        Box::pin(async move { found })
    }

    fn manifests<'a>(&'a self, _name: &'a ModelRef) -> BoxFuture<'a, Vec<PeerManifest>> {
        let found = self.manifests.iter().map(|(peer, manifest)| PeerManifest {
            peer: (*peer).to_owned(),
            bytes: manifest.bytes.clone(),
        });
        let found = found.collect();
        Box::pin(async move { found })
    }
}

async fn bench(dir: &Path, places: &[&Arc<Place>]) -> Bench {
    let places = places.iter().map(|place| Arc::clone(place)).collect();
    with_mesh(dir, Mesh { places, manifests: Vec::new() }).await
}

async fn with_mesh(dir: &Path, mesh: Mesh) -> Bench {
    with_mesh_and(dir, mesh, tuning()).await
}

async fn with_mesh_and(dir: &Path, mesh: Mesh, tuning: Tuning) -> Bench {
    let mesh: Arc<dyn OtherPlaces> = Arc::new(mesh);
    let models = dir.join("models");
    Bench::open_all(dir, models, tuning, Settings::default(), None, Some(mesh)).await
}

/// A registry that has the model but does not give its weights.
async fn registry(weights: &Bytes) -> (Mock, String) {
    let mock = Mock::start().await;
    mock.add("demo", &[("model", weights)]);
    mock.script(|seen| {
        if seen.path.contains("/blobs/") { Act::Status(503, Vec::new()) } else { Act::Serve }
    });
    let name = mock.name("demo");
    (mock, name)
}

fn from(pull: &Pull) -> Vec<(PullSourceKind, &str, bool, u64)> {
    pull.sources.iter().map(|s| (s.kind, s.name.as_str(), s.lan, s.bytes)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_of_a_peer_on_this_network_does_not_use_the_internet() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(40 * MIB);
    let (mock, name) = registry(&weights).await;
    let place = Place::new("attic-mini", true, Does::Serve, &[&weights]);
    let bench = bench(dir.path(), &[&place]).await;
    let done = bench.pull(&name).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert!(bench.blob(&weights) == weights);
    let total = weights.len() as u64;
    assert_eq!(from(&done), [(PullSourceKind::Peer, "attic-mini", true, total)]);
    assert_eq!(mock.take_seen().len(), 0, "no layer is asked for at the registry");
    assert_eq!(bench.received(), total, "no byte came twice");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_peers_bring_parts_and_one_that_breaks_off_is_not_missed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(60 * MIB);
    let (_mock, name) = registry(&weights).await;
    let good = Place::new("good", true, Does::Serve, &[&weights]);
    let other = Place::new("other", true, Does::Serve, &[&weights]);
    let broken = Place::new("broken", true, Does::Break(3 * MIB + 17), &[&weights]);
    let bench = bench(dir.path(), &[&good, &other, &broken]).await;
    let done = bench.pull(&name).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert!(bench.blob(&weights) == weights);
    assert!(good.asked() > 0 && other.asked() > 0 && broken.asked() > 0);
    assert_eq!(bench.received(), weights.len() as u64, "what it sent before counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_and_a_busy_peer_leave_the_pull_to_the_registry() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(20 * MIB);
    let mock = Mock::start().await;
    mock.add("demo", &[("model", &weights)]);
    let liar = Place::new("liar", true, Does::Lie, &[&weights]);
    let busy = Place::new("busy", false, Does::Busy, &[&weights]);
    let bench = bench(dir.path(), &[&liar, &busy]).await;
    let done = bench.pull(&mock.name("demo")).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert!(liar.asked() <= 2, "what it was asked for before it was caught");
    let total = weights.len() as u64;
    let host = mock.address.to_string();
    assert_eq!(from(&done), [(PullSourceKind::Registry, host.as_str(), false, total)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_agree_on_a_wrong_file_install_nothing_wrong() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(20 * MIB);
    let mock = Mock::start().await;
    mock.add("demo", &[("model", &weights)]);
    let one = Place::new("one", true, Does::ServeOther, &[&weights]);
    let two = Place::new("two", true, Does::ServeOther, &[&weights]);
    let honest = Place::new("honest", true, Does::Serve, &[&weights]);
    let bench = bench(dir.path(), &[&one, &two, &honest]).await;
    let done = bench.pull(&mock.name("demo")).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert!(bench.blob(&weights) == weights);
    assert!(one.asked() > 0 && two.asked() > 0);
    assert_eq!(honest.asked(), 0, "it was in the minority");
    let counted = bench.pulls.counters().hashed.load(Ordering::Relaxed);
    assert_eq!(counted, 2 * weights.len() as u64, "the registry's copy was hashed too");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    let host = mock.address.to_string();
    let total = weights.len() as u64;
    let kept = [(PullSourceKind::Registry, host.as_str(), false, total)];
    assert_eq!(from(&done), kept, "what was thrown away is not counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_from_peers_goes_on_where_it_was_after_a_restart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(60 * MIB);
    let (_mock, name) = registry(&weights).await;
    let stops = Place::new("attic-mini", true, Does::StopAfter(30 * MIB), &[&weights]);
    let first = bench(dir.path(), &[&stops]).await;
    let pull = first.add(&name).await;
    first.until(&pull.id, |pull| pull.done_bytes >= 20 << 20).await;
    first.pulls.shutdown().await;
    first.storage.close().await;
    let total = weights.len() as u64;
    let record = Record::load(&first.store, Digest::of(&weights), total).expect("a record");
    let here = record.extent.done();
    assert!(here >= 20 << 20);
    let serves = Place::new("attic-mini", true, Does::Serve, &[&weights]);
    let again = bench(dir.path(), &[&serves]).await;
    let done = again.end(&pull.id).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert_eq!(again.received(), total - here, "nothing that is here came again");
    let hashed = again.pulls.counters().hashed.load(Ordering::Relaxed);
    assert_eq!(hashed, total - record.extent.hashed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_had_from_a_peer_while_its_registry_is_down() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(20 * MIB);
    let licence = Bytes::from("MIT License");
    let mock = Mock::start().await;
    let manifest = mock.add("demo", &[("model", &weights), ("license", &licence)]);
    mock.script(|_| Act::Status(503, Vec::new()));
    let place = Place::new("attic-mini", true, Does::Serve, &[&weights, &licence]);
    let mesh = Mesh { places: vec![place], manifests: vec![("attic-mini", manifest.clone())] };
    let bench = with_mesh(dir.path(), mesh).await;
    let name = mock.name("demo");
    let preview = bench.pulls.preview(&name).await.expect("a preview");
    assert_eq!(preview.size_bytes, manifest.size());
    let done = bench.pull(&name).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert_eq!(bench.installed(&name), Some(manifest.clone()));
    assert!(bench.blob(&weights) == weights && bench.blob(&licence) == licence);
    let total = manifest.size();
    assert_eq!(from(&done), [(PullSourceKind::Peer, "attic-mini", true, total)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_had_from_a_peer_while_its_registry_swallows_what_it_is_sent() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (weights, licence) = (model_bytes(20 * MIB), Bytes::from("MIT License"));
    let mock = Mock::start().await;
    let manifest = mock.add("demo", &[("model", &weights), ("license", &licence)]);
    mock.script(|_| Act::Stall(0));
    let place = Place::new("attic-mini", true, Does::Serve, &[&weights, &licence]);
    let mesh = Mesh { places: vec![place], manifests: vec![("attic-mini", manifest.clone())] };
    let tuning = Tuning { quiet_after: Duration::from_millis(20), ..tuning() };
    let bench = with_mesh_and(dir.path(), mesh, tuning).await;
    let name = mock.name("demo");
    let done = bench.pull(&name).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert_eq!(bench.installed(&name), Some(manifest.clone()));
    assert_eq!(from(&done), [(PullSourceKind::Peer, "attic-mini", true, manifest.size())]);
}

#[tokio::test]
async fn a_registry_is_heard_with_the_head_of_an_answer_and_with_each_part() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(MIB);
    let mock = Mock::start().await;
    mock.add("demo", &[("model", &weights)]);
    let credentials = Credentials::new(dir.path().join("credentials.json"));
    let (_settings, settings) = watch::channel(Settings::default());
    let (heard, mut hears) = watch::channel(tokio::time::Instant::now());
    let client = RegistryClient::new(settings, credentials).heard_by(heard);
    let name = ModelRef::parse(&mock.name("demo"), "registry.example").expect("a name");
    client.manifest(&name).await.expect("a manifest");
    assert!(hears.has_changed().expect("open"));
    hears.mark_unchanged();
    let mut answer = client.layer(&name, Digest::of(&weights)).open(None).await.expect("a layer");
    assert!(hears.has_changed().expect("open"), "the head");
    hears.mark_unchanged();
    answer.chunk().await.expect("comes").expect("bytes");
    assert!(hears.has_changed().expect("open"), "a part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_wants_no_peers_gets_none() {
    let dir = tempfile::tempdir().expect("temp dir");
    let weights = model_bytes(20 * MIB);
    let mock = Mock::start().await;
    mock.add("demo", &[("model", &weights)]);
    let place = Place::new("attic-mini", true, Does::Serve, &[&weights]);
    let bench = bench(dir.path(), &[&place]).await;
    bench.settings.send_modify(|settings| settings.mesh.fetch_from_peers = false);
    let done = bench.pull(&mock.name("demo")).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    assert_eq!(place.asked(), 0);
}
