//! Pulls against a registry that misbehaves, through the same handle that the node uses.

mod faults;
mod mock;
mod peers;
mod real_registry;
mod resume;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent_api::{
    pull::{Pull, PullRequest, PullState},
    settings::Settings,
};
use bytes::Bytes;
use mock::Mock;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    models::{
        manifest::{Digest, Manifest},
        name::{ModelRef, OLLAMA_REGISTRY},
        registry::credentials::Credentials,
        store::Store,
    },
    storage::{Storage, list_pulls},
};

/// Long enough for the slowest debug build; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const MIB: usize = 1 << 20;

/// A node's pulls in a folder.
pub(super) struct Bench {
    pub pulls: Pulls,
    pub hearing: mpsc::Receiver<PullNotable>,
    pub store: Store,
    pub storage: Storage,
    pub credentials: Credentials,
    pub settings: watch::Sender<Settings>,
}

/// Waits are short, so that tests do not take minutes; nothing depends on how short.
pub(super) fn tuning() -> Tuning {
    let retry = (Duration::from_millis(20), Duration::from_millis(200));
    Tuning {
        stall: Duration::from_secs(20),
        // On a busy machine everything is slow for a while, and a race would change what is counted.
        race_after: Duration::from_secs(3600),
        slow_after: Duration::from_secs(3600),
        quiet_after: Duration::from_secs(3600),
        lock_poll: Duration::from_millis(20),
        retry,
        headroom: 0,
    }
}

impl Bench {
    pub(super) async fn open(dir: &Path) -> Self {
        Self::open_with(dir, dir.join("models"), tuning(), Settings::default()).await
    }

    pub(super) async fn open_with(
        dir: &Path,
        models: PathBuf,
        tuning: Tuning,
        settings: Settings,
    ) -> Self {
        Self::open_held(dir, models, tuning, settings, None).await
    }

    async fn open_held(
        dir: &Path,
        models: PathBuf,
        tuning: Tuning,
        settings: Settings,
        hold: Option<String>,
    ) -> Self {
        Self::open_all(dir, models, tuning, settings, hold, None).await
    }

    async fn open_all(
        dir: &Path,
        models: PathBuf,
        tuning: Tuning,
        settings: Settings,
        hold: Option<String>,
        places: Option<Arc<dyn OtherPlaces>>,
    ) -> Self {
        let store = Store::open(models).expect("a store");
        let storage = Storage::open(&dir.join("edgecoder.db")).await.expect("a database").storage;
        let credentials = Credentials::new(dir.join("credentials.json"));
        let (settings, watching) = watch::channel(settings);
        let config = PullsConfig {
            store: store.clone(),
            storage: storage.clone(),
            credentials: credentials.clone(),
            usage: Arc::new(|| 0),
            tuning,
            owner: "node".to_owned(),
            places,
            hold,
        };
        let (pulls, hearing) = Pulls::start(config, watching);
        Self { pulls, hearing, store, storage, credentials, settings }
    }

    pub(super) async fn add(&self, model: &str) -> Pull {
        let request = PullRequest { model: model.to_owned(), swap_when_done: false };
        self.pulls.add(request).await.expect("is added")
    }

    /// The pull once it is as wanted.
    pub(super) async fn until(&self, id: &str, wanted: impl Fn(&Pull) -> bool) -> Pull {
        let mut watching = self.pulls.watch();
        let found = |list: &Arc<Vec<Pull>>| list.iter().any(|pull| pull.id == id && wanted(pull));
        let list = tokio::time::timeout(PATIENCE, watching.wait_for(found)).await;
        let list = list.unwrap_or_else(|_| panic!("never so: {:#?}", self.pulls.list()));
        let list = Arc::clone(&list.expect("the actor runs"));
        list.iter().find(|pull| pull.id == id).cloned().expect("was found")
    }

    /// Settled, however.
    pub(super) async fn end(&self, id: &str) -> Pull {
        self.until(id, |pull| pull.state.is_settled()).await
    }

    pub(super) async fn pull(&self, model: &str) -> Pull {
        let pull = self.add(model).await;
        self.end(&pull.id).await
    }

    pub(super) fn received(&self) -> u64 {
        self.pulls.counters().received.load(Ordering::Relaxed)
    }

    pub(super) fn installed(&self, model: &str) -> Option<Manifest> {
        let name = ModelRef::parse(model, OLLAMA_REGISTRY).expect("a name");
        self.store.manifest(&name).expect("reads")
    }

    pub(super) fn blob(&self, bytes: &Bytes) -> Vec<u8> {
        std::fs::read(self.store.blob_path(Digest::of(bytes))).expect("the blob is here")
    }

    /// Files of the store that are left besides blobs and manifests.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let names = |folder: PathBuf| std::fs::read_dir(folder).expect("a folder");
        let blobs = names(self.store.blobs());
        let pulls = names(self.store.root().join("pulls"));
        let all = blobs.chain(pulls).map(|e| e.expect("an entry").file_name());
        let all = all.map(|name| name.into_string().expect("is text"));
        all.filter(|name| !name.starts_with("sha256-") || name.contains('.')).collect()
    }
}

/// The demo model, made longer: a GGUF with bytes after its tensors is still one.
pub(super) fn model_bytes(length: usize) -> Bytes {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/edgecoder-demo-4m-q8_0.gguf");
    let mut bytes = std::fs::read(path).expect("the demo model");
    let mut x = 0x2545_f491_4f6c_dd1d_u64;
    while bytes.len() < length {
        // xorshift: bytes that differ everywhere, so that a mistake in an offset shows.
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length.max(5 * MIB));
    bytes.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_previewed_pulled_and_installed_with_all_its_layers() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let weights = model_bytes(20 * MIB);
    let (license, params, empty) =
        (Bytes::from("\nMIT License\n..."), Bytes::from("{}"), Bytes::new());
    let manifest = mock.add(
        "demo",
        &[("model", &weights), ("license", &license), ("params", &params), ("system", &empty)],
    );

    let preview = bench.pulls.preview(&mock.name("demo")).await.expect("a preview");
    assert_eq!(preview.size_bytes, manifest.size());
    assert_eq!((preview.download_bytes, preview.files), (manifest.size(), 4));
    assert_eq!(preview.license.as_deref(), Some("MIT License"));
    assert!(preview.info.expect("the head").parameters > 0);
    assert!(!preview.already_installed && preview.problem.is_none());
    assert_eq!(bench.received(), 0, "a preview keeps nothing");

    let request = PullRequest { model: mock.name("demo"), swap_when_done: true };
    let pull = bench.pulls.add(request).await.expect("is added");
    let twice = bench.add(&mock.name("demo")).await;
    assert_eq!(twice.id, pull.id, "one model, one pull");
    let done = bench.end(&pull.id).await;
    assert_eq!((done.state, done.reason.as_str()), (PullState::Done, ""));
    assert_eq!((done.done_bytes, done.size_bytes), (manifest.size(), Some(manifest.size())));
    assert_eq!(bench.installed(&mock.name("demo")), Some(manifest.clone()));
    assert!(bench.blob(&weights) == weights && bench.blob(&license) == license);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert_eq!(bench.received(), manifest.size(), "no byte came twice");
    assert_eq!(list_pulls(bench.storage.readers()).await.expect("reads"), []);
    let facts = bench.pulls.facts(&pull.id).await.expect("facts");
    assert!(facts.info.as_ref().expect("the head").parameters > 0);
    let first = bench.hearing.recv().await;
    assert!(matches!(first, Some(PullNotable::Started { .. })), "{first:?}");
    let second = bench.hearing.recv().await;
    let told = matches!(second, Some(PullNotable::Done { bytes, swap_when_done: true, .. })
        if bytes == manifest.size());
    assert!(told, "{second:?}");

    let preview = bench.pulls.preview(&mock.name("demo")).await.expect("a preview");
    assert!(preview.already_installed && preview.download_bytes == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_models_that_share_a_layer_fetch_it_once() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let weights = model_bytes(24 * MIB);
    let (one, two) = (Bytes::from("one"), Bytes::from("two"));
    mock.add("a", &[("model", &weights), ("system", &one)]);
    mock.add("b", &[("model", &weights), ("system", &two)]);
    let (a, b) = (bench.add(&mock.name("a")).await, bench.add(&mock.name("b")).await);
    assert_eq!(bench.end(&a.id).await.state, PullState::Done);
    assert_eq!(bench.end(&b.id).await.state, PullState::Done);
    assert_eq!(bench.received(), weights.len() as u64 + 6);
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_two_run_and_the_others_wait_in_order() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let mut ids = Vec::new();
    mock.script(|_| mock::Act::Stall(0));
    for n in 0..4 {
        let weights = model_bytes(5 * MIB + n * 1024);
        mock.add(&format!("m{n}"), &[("model", &weights)]);
        ids.push(bench.add(&mock.name(&format!("m{n}"))).await.id);
    }
    for id in &ids[..2] {
        bench.until(id, |pull| pull.state == PullState::Downloading).await;
    }
    let states: Vec<_> = bench.pulls.list().iter().map(|pull| pull.state).collect();
    assert_eq!(states[2..], [PullState::Queued, PullState::Queued]);
    // One is paused, and the next in the row takes its place.
    bench.pulls.pause(&ids[0]).await.expect("pauses");
    bench.until(&ids[2], |pull| pull.state == PullState::Downloading).await;
    mock.behave();
    for id in &ids[1..3] {
        bench.pulls.pause(id).await.expect("pauses");
    }
    assert_eq!(bench.end(&ids[3]).await.state, PullState::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_pull_leaves_nothing_and_a_paused_one_its_parts() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let weights = model_bytes(20 * MIB);
    mock.add("demo", &[("model", &weights)]);
    mock.script(|_| mock::Act::Stall(MIB));
    let pull = bench.add(&mock.name("demo")).await;
    bench.until(&pull.id, |pull| pull.done_bytes >= 3 * MIB as u64).await;
    let paused = bench.pulls.pause(&pull.id).await.expect("pauses");
    assert_eq!((paused.state, paused.reason.as_str()), (PullState::Paused, "You paused it."));
    assert_eq!((paused.bytes_per_s, paused.eta_s), (None, None));
    mock.behave();
    bench.pulls.resume(&pull.id).await.expect("resumes");
    let done = bench.end(&pull.id).await;
    assert_eq!(done.state, PullState::Done);
    assert_eq!(bench.received(), weights.len() as u64, "a pause costs no byte");

    let other = model_bytes(21 * MIB);
    mock.add("other", &[("model", &other)]);
    mock.script(|_| mock::Act::Stall(MIB));
    let pull = bench.add(&mock.name("other")).await;
    bench.until(&pull.id, |pull| pull.done_bytes >= 3 * MIB as u64).await;
    bench.pulls.cancel(&pull.id).await.expect("cancels");
    assert_eq!(bench.leftovers(), Vec::<String>::new());
    assert!(bench.pulls.cancel(&pull.id).await.is_err(), "it is gone");
    assert!(!bench.store.partial_path(Digest::of(&other)).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_budget_pauses_before_the_first_byte_of_weights() {
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = Settings { disk_budget_bytes: Some(6 * MIB as u64), ..Settings::default() };
    let models = dir.path().join("models");
    let mut bench = Bench::open_with(dir.path(), models, tuning(), settings).await;
    let mock = Mock::start().await;
    let weights = model_bytes(8 * MIB);
    mock.add("demo", &[("model", &weights)]);
    let pull = bench.pull(&mock.name("demo")).await;
    assert_eq!(pull.state, PullState::Paused);
    assert!(pull.reason.contains("6.3 MB you allow"), "{}", pull.reason);
    assert_eq!(bench.received(), 0);
    let _started = bench.hearing.recv().await;
    assert!(matches!(bench.hearing.recv().await, Some(PullNotable::Paused { .. })));
    bench.settings.send_modify(|settings| settings.disk_budget_bytes = None);
    bench.pulls.resume(&pull.id).await.expect("resumes");
    bench.until(&pull.id, |pull| pull.state == PullState::Done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_digest_is_pulled_and_a_changed_one_starts_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let (first, second) = (model_bytes(20 * MIB), model_bytes(20 * MIB + 8));
    mock.add_file("/files/My%20Model.GGUF", &first);
    mock.script(|_| mock::Act::Stall(MIB));
    // The first request only asks how large it is.
    let mut asked = false;
    mock.script(move |_| match std::mem::replace(&mut asked, true) {
        false => mock::Act::Serve,
        true => mock::Act::Stall(MIB),
    });
    let url = format!("http://{}/files/My%20Model.GGUF", mock.address);
    let pull = bench.add(&url).await;
    assert_eq!(pull.model, "my-20model:latest");
    bench.until(&pull.id, |pull| pull.done_bytes >= 3 * MIB as u64).await;
    bench.pulls.pause(&pull.id).await.expect("pauses");
    mock.add_file("/files/My%20Model.GGUF", &second);
    mock.set_etag("\"two\"");
    mock.behave();
    bench.pulls.resume(&pull.id).await.expect("resumes");
    let done = bench.until(&pull.id, |pull| pull.state == PullState::Done).await;
    assert_eq!(done.layers[0].digest, Digest::of(&second).to_string());
    assert!(bench.blob(&second) == second);
    let name = ModelRef::local("my-20model").expect("a name");
    assert!(bench.store.manifest(&name).expect("reads").is_some());
    assert_eq!(bench.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_does_not_replace_another_model_of_its_name() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let (first, second) = (model_bytes(6 * MIB), model_bytes(7 * MIB));
    mock.add_file("/one/m.gguf", &first);
    mock.add_file("/two/m.gguf", &second);
    let url = |folder: &str| format!("http://{}/{folder}/m.gguf", mock.address);
    assert_eq!(bench.pull(&url("one")).await.state, PullState::Done);
    let preview = bench.pulls.preview(&url("two")).await.expect("a preview");
    assert!(preview.problem.is_some_and(|problem| problem.contains("another model m:latest")));
    let refused = bench.pull(&url("two")).await;
    assert_eq!(refused.state, PullState::Failed);
    assert!(refused.reason.contains("another model m:latest already"), "{}", refused.reason);
    assert!(bench.blob(&first) == first, "the first is still here");
    assert_eq!(bench.received(), first.len() as u64);
    // The same once more is no other model.
    let preview = bench.pulls.preview(&url("one")).await.expect("a preview");
    assert!(preview.already_installed && preview.problem.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_version_nobody_knows_is_not_resumed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let first = model_bytes(20 * MIB);
    let mut second = first.to_vec();
    second[2 * MIB] ^= 1;
    let second = Bytes::from(second);
    mock.set_etag("");
    mock.add_file("/m.gguf", &first);
    let mut asked = false;
    mock.script(move |_| match std::mem::replace(&mut asked, true) {
        false => mock::Act::Serve,
        true => mock::Act::Stall(MIB),
    });
    let pull = bench.add(&format!("http://{}/m.gguf", mock.address)).await;
    bench.until(&pull.id, |pull| pull.done_bytes >= 3 * MIB as u64).await;
    bench.pulls.pause(&pull.id).await.expect("pauses");
    mock.add_file("/m.gguf", &second);
    mock.behave();
    bench.pulls.resume(&pull.id).await.expect("resumes");
    let done = bench.until(&pull.id, |pull| pull.state == PullState::Done).await;
    assert_eq!(done.layers[0].digest, Digest::of(&second).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_its_start_a_node_gives_up_its_own_forgotten_reservations_and_no_others() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mock = Mock::start().await;
    let weights = model_bytes(6 * MIB);
    let manifest = mock.add("demo", &[("model", &weights)]);
    mock.script(|_| mock::Act::Stall(0));
    let bench = Bench::open(dir.path()).await;
    let pull = bench.add(&mock.name("demo")).await;
    bench.until(&pull.id, |pull| pull.state == PullState::Downloading).await;
    bench.pulls.shutdown().await;
    bench.storage.close().await;
    {
        let guard = bench.store.lock().expect("locks");
        for name in ["node-gone", "other-gone"] {
            bench.store.reserve(&guard, name, &manifest).expect("reserves");
        }
    }
    let hold = Some("Its disk is missing.".to_owned());
    let models = dir.path().join("models");
    let settings = Settings::default();
    let bench = Bench::open_held(dir.path(), models, tuning(), settings, hold).await;
    let held = bench.until(&pull.id, |_| true).await;
    assert_eq!((held.state, held.reason.as_str()), (PullState::Paused, "Its disk is missing."));
    let reserved = |name: &str| bench.store.root().join("pulls").join(name).exists();
    assert!(reserved(&format!("node-{}", pull.id)) && reserved("other-gone"));
    assert!(!reserved("node-gone"));
    let row = &list_pulls(bench.storage.readers()).await.expect("reads")[0];
    assert_eq!(row.wanted, crate::storage::Wanted::Running, "it goes on once the disk is back");
    mock.behave();
    bench.pulls.resume(&pull.id).await.expect("the owner may");
    assert_eq!(bench.until(&pull.id, |pull| pull.state == PullState::Done).await.reason, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pulls_together_keep_to_the_budget() {
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = Settings { disk_budget_bytes: Some(12 * MIB as u64), ..Settings::default() };
    let models = dir.path().join("models");
    let bench = Bench::open_with(dir.path(), models, tuning(), settings).await;
    let mock = Mock::start().await;
    mock.script(|_| mock::Act::Stall(0));
    let (one, two) = (model_bytes(7 * MIB), model_bytes(8 * MIB));
    mock.add("one", &[("model", &one)]);
    mock.add("two", &[("model", &two)]);
    let first = bench.add(&mock.name("one")).await;
    bench.until(&first.id, |pull| pull.state == PullState::Downloading).await;
    // The request for its bytes is out, so it has its room.
    while mock.take_seen().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = bench.pull(&mock.name("two")).await;
    assert_eq!(second.state, PullState::Paused);
    assert!(second.reason.contains("other pulls under way 7.3 MB more"), "{}", second.reason);
    mock.behave();
    bench.pulls.pause(&first.id).await.expect("pauses");
    bench.until(&first.id, |pull| pull.state == PullState::Paused).await;
}

/// A panic in an attempt: here the budget cannot be counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_whose_task_broke_down_is_failed_and_can_be_resumed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Store::open(dir.path().join("models")).expect("a store");
    let opened = Storage::open(&dir.path().join("edgecoder.db")).await.expect("a database");
    let settings = Settings { disk_budget_bytes: Some(1 << 40), ..Settings::default() };
    let (settings, watching) = watch::channel(settings);
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let breaks = Arc::clone(&broken);
    let config = PullsConfig {
        store: store.clone(),
        storage: opened.storage.clone(),
        credentials: Credentials::new(dir.path().join("credentials.json")),
        usage: Arc::new(
            move || if breaks.load(Ordering::Relaxed) { panic!("as planned") } else { 0 },
        ),
        tuning: tuning(),
        owner: "node".to_owned(),
        places: None,
        hold: None,
    };
    let (pulls, hearing) = Pulls::start(config, watching);
    let credentials = Credentials::new(dir.path().join("credentials.json"));
    let bench = Bench { pulls, hearing, store, storage: opened.storage, credentials, settings };
    let mock = Mock::start().await;
    let weights = model_bytes(6 * MIB);
    mock.add("demo", &[("model", &weights)]);
    let failed = bench.pull(&mock.name("demo")).await;
    assert_eq!(failed.state, PullState::Failed);
    assert!(failed.reason.contains("broke down"), "{}", failed.reason);
    broken.store(false, Ordering::Relaxed);
    bench.pulls.resume(&failed.id).await.expect("resumes");
    bench.until(&failed.id, |pull| pull.state == PullState::Done).await;
}
