//! One attempt at one pull: manifest, reservation, small layers, weights, installation.
//!
//! The manifest is pinned once it is known: a model that changes at its registry meanwhile is
//! finished as it was begun.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent_api::{pull::PullState, settings::Settings};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    claims::Claims,
    disk::{Room, WriteProblem},
    peers::{OtherPlaces, Wanted},
    plan::Plan,
    progress::{Counters, Progress},
    record::Record,
    resolve::{resolve, wanted},
    transfer::{Ended, Transfer},
    writer::{Begin, Finished, Writer},
};
use crate::{
    limit::Limiter,
    models::{
        gguf::read_gguf,
        manifest::{Digest, Layer, LayerKind, MAX_TEXT_LAYER_BYTES, Manifest},
        registry::{FileHead, RegistryClient, RegistryError, RemoteBlob, Source},
        store::{BlobLock, Store, free_bytes, remove_if_there},
    },
    text::{sentence, size},
};

/// Layers up to here are fetched in one request and held in memory.
const SMALL_BYTES: u64 = 1 << 20;
/// No model file of today is near; the same as for layers.
const MAX_FILE_BYTES: u64 = 8 << 40;
/// A blob whose bytes are wrong is fetched once more from the start, not for ever.
const ROUNDS: u32 = 2;

/// Bytes that models and parts of pulls take, for the owner's budget.
pub type Usage = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Times and sizes that tests set differently.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// A connection without bytes for so long is dropped.
    pub stall: Duration,
    /// A connection that is slow for so long is raced by a second one, if one is free.
    pub race_after: Duration,
    /// Peers on this network that are slow for so long are joined by the registry.
    pub slow_after: Duration,
    /// A registry that has not answered for so long gets company: peers are asked beside it.
    pub quiet_after: Duration,
    /// Between two looks at a layer that somebody else fetches.
    pub lock_poll: Duration,
    /// First and longest wait before a pull that lost its connection goes on.
    pub retry: (Duration, Duration),
    /// What pulls leave free on the disk.
    pub headroom: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(20),
            race_after: super::plan::RACE_AFTER,
            slow_after: super::peers::SLOW_AFTER,
            quiet_after: super::resolve::QUIET_AFTER,
            lock_poll: Duration::from_millis(500),
            retry: (Duration::from_secs(1), Duration::from_secs(120)),
            headroom: super::disk::HEADROOM_BYTES,
        }
    }
}

/// What all attempts share.
pub(super) struct Context {
    pub store: Store,
    pub client: RegistryClient,
    pub limiter: Limiter,
    pub counters: Arc<Counters>,
    pub settings: watch::Receiver<Settings>,
    pub usage: Usage,
    pub tuning: Tuning,
    pub owner: String,
    /// Peers; they are asked as far as the settings allow.
    pub places: Option<Arc<dyn OtherPlaces>>,
    pub claims: Claims,
}

impl Context {
    /// What a pull's reservation is called in the store.
    pub(super) fn reservation(&self, id: &str) -> String {
        format!("{}-{id}", self.owner)
    }
}

/// News from an attempt while it runs.
#[derive(Debug)]
pub(super) enum Report {
    Resolved { id: String, manifest: Arc<Manifest> },
    State { id: String, state: PullState },
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    Stopped,
    Retry { reason: String, wait: Option<Duration> },
    Paused(String),
    Failed(String),
}

pub(super) struct Attempt {
    pub id: String,
    pub source: Source,
    pub pinned: Option<Arc<Manifest>>,
    pub context: Arc<Context>,
    pub progress: Arc<Progress>,
    pub stop: CancellationToken,
    pub reports: mpsc::Sender<Report>,
}

enum Fetched {
    Good(Digest),
    WrongBytes,
}

impl From<RegistryError> for Outcome {
    fn from(error: RegistryError) -> Self {
        let reason = sentence(&error.to_string());
        if error.is_transient() {
            Self::Retry { reason, wait: error.retry_after() }
        } else {
            Self::Failed(reason)
        }
    }
}

impl From<WriteProblem> for Outcome {
    fn from(problem: WriteProblem) -> Self {
        match problem {
            WriteProblem::Full(reason) => Self::Paused(reason),
            WriteProblem::Broken(reason) => Self::Failed(reason),
            WriteProblem::NotGguf => Self::Failed(NOT_GGUF.to_owned()),
        }
    }
}

const NOT_GGUF: &str = "It is not a GGUF file, so it cannot be loaded. Pull a GGUF of this model.";

impl Attempt {
    pub(super) async fn run(self) -> Outcome {
        let ended = self.steps().await;
        self.context.claims.release(&self.id);
        match ended {
            Ok(()) => Outcome::Done,
            Err(outcome) => outcome,
        }
    }

    async fn steps(&self) -> Result<(), Outcome> {
        self.progress.set_note("");
        let (manifest, file) = self.manifest().await?;
        check_layers(&manifest)?;
        self.reserve(&manifest).await?;
        self.report_manifest(&manifest).await;
        self.report_state(PullState::Downloading).await;
        let mut layers: Vec<&Layer> = manifest.layers.iter().collect();
        layers.sort_by_key(|layer| (is_gguf(layer.kind), layer.size));
        let mut digest = None;
        for layer in layers {
            digest = Some(self.layer(&manifest, layer, file.as_ref()).await?);
        }
        let mut manifest = manifest;
        if let (Some(file), Some(digest)) = (file, digest) {
            // Now that its digest is known, it is a model like any other.
            manifest = Arc::new(Manifest::of_gguf(digest, file.size));
            self.progress.layer(digest).store(file.size, Ordering::Relaxed);
            self.report_manifest(&manifest).await;
        }
        self.install(manifest).await
    }

    /// Runs until done or stopped.
    async fn or_stop<T>(&self, act: impl Future<Output = T>) -> Result<T, Outcome> {
        self.stop.run_until_cancelled(act).await.ok_or(Outcome::Stopped)
    }

    async fn manifest(&self) -> Result<(Arc<Manifest>, Option<FileHead>), Outcome> {
        match &self.source {
            Source::Registry(name) => {
                if let Some(pinned) = &self.pinned {
                    return Ok((Arc::clone(pinned), None));
                }
                let resolved = self.or_stop(resolve(&self.context, name)).await??;
                if let Some(note) = resolved.note {
                    self.progress.set_note(note);
                }
                Ok((Arc::new(resolved.manifest), None))
            }
            Source::File(file) => {
                let head = self.or_stop(self.context.client.file(&file.url).head()).await??;
                if head.size == 0 || head.size > MAX_FILE_BYTES {
                    return Err(Outcome::Failed(format!(
                        "{} says that the file has {}, which cannot be.",
                        self.source.host(),
                        size(head.size)
                    )));
                }
                let manifest = Manifest::of_gguf(file_key(&self.source), head.size);
                Ok((Arc::new(manifest), Some(head)))
            }
        }
    }

    async fn report_manifest(&self, manifest: &Arc<Manifest>) {
        let report = Report::Resolved { id: self.id.clone(), manifest: Arc::clone(manifest) };
        let _ = self.reports.send(report).await;
    }

    async fn report_state(&self, state: PullState) {
        let _ = self.reports.send(Report::State { id: self.id.clone(), state }).await;
    }

    /// Runs something that touches the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Outcome> {
        let store = self.context.store.clone();
        let folder = store.root().to_path_buf();
        match tokio::task::spawn_blocking(move || act(&store)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(WriteProblem::of(&e, &folder).into()),
            Err(_) => Err(Outcome::Failed("The pull broke down; resume it.".to_owned())),
        }
    }

    /// Makes the layers count as used, and looks which bytes are here.
    async fn reserve(&self, manifest: &Arc<Manifest>) -> Result<(), Outcome> {
        let (id, manifest) = (self.context.reservation(&self.id), Arc::clone(manifest));
        let progress = Arc::clone(&self.progress);
        let source = self.source.clone();
        let taken = self.blocking(move |store| {
            let guard = store.lock()?;
            // Its digest is not known yet; another length is another file.
            let same = |known: &Manifest| known.size() == manifest.size();
            if let Some(problem) = name_problem(store, &source, same) {
                return Ok(Some(problem));
            }
            store.reserve(&guard, &id, &manifest)?;
            survey(store, &manifest, &progress);
            Ok(None)
        });
        taken.await?.map_or(Ok(()), |problem| Err(Outcome::Failed(problem)))
    }

    async fn layer(
        &self,
        manifest: &Arc<Manifest>,
        layer: &Layer,
        file: Option<&FileHead>,
    ) -> Result<Digest, Outcome> {
        let mut rounds = 0;
        let mut with_peers = true;
        while rounds < ROUNDS {
            let Some(lock) = self.lock(layer).await? else {
                self.already_here(layer).await?;
                return Ok(layer.digest);
            };
            self.check_room(manifest)?;
            let small = layer.size <= SMALL_BYTES && !is_gguf(layer.kind);
            let fetched = if small {
                self.small(manifest, layer, lock).await?
            } else {
                let wanted = with_peers.then(|| wanted(manifest, layer)).flatten();
                self.large(layer, lock, file, wanted).await?
            };
            match fetched {
                Fetched::Good(digest) => {
                    self.progress.layer(layer.digest).store(layer.size, Ordering::Relaxed);
                    return Ok(digest);
                }
                Fetched::WrongBytes => {
                    self.progress.layer(layer.digest).store(0, Ordering::Relaxed);
                    if self.blames_peers(layer) {
                        with_peers = false;
                        continue;
                    }
                    rounds += 1;
                    self.progress.set_note(format!(
                        "{} sent wrong bytes; this layer is fetched once more.",
                        self.source.host()
                    ));
                }
            }
        }
        Err(Outcome::Failed(format!(
            "{} sent wrong bytes for the layer {}, twice. They were thrown away. Try another registry, or ask whoever runs this one.",
            self.source.host(),
            layer.digest.short()
        )))
    }

    /// Waits for the right to write the layer; `None`: it is complete.
    async fn lock(&self, layer: &Layer) -> Result<Option<BlobLock>, Outcome> {
        let (digest, bytes) = (layer.digest, layer.size);
        let mut waited = false;
        loop {
            let found = self.blocking(move |store| {
                if store.blob_size(digest) == Some(bytes) {
                    return Ok(Some(None));
                }
                let lock = store.lock_blob(digest)?;
                // It may have been completed just before we got the lock.
                let complete = store.blob_size(digest) == Some(bytes);
                Ok(lock.map(|lock| if complete { None } else { Some(lock) }))
            });
            if let Some(found) = found.await? {
                if waited {
                    self.progress.set_note("");
                }
                return Ok(found);
            }
            waited = true;
            self.progress.set_note("Waits for another pull that fetches the same layer.");
            self.or_stop(tokio::time::sleep(self.context.tuning.lock_poll)).await?;
        }
    }

    async fn already_here(&self, layer: &Layer) -> Result<(), Outcome> {
        self.progress.layer(layer.digest).store(layer.size, Ordering::Relaxed);
        if layer.kind == LayerKind::Model {
            let (digest, head) = (layer.digest, Arc::clone(&self.progress.head));
            self.blocking(move |store| {
                if let Ok(info) = read_gguf(&store.blob_path(digest)) {
                    head.set(info);
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    fn check_room(&self, manifest: &Arc<Manifest>) -> Result<(), Outcome> {
        let context = &self.context;
        let budget = context.settings.borrow().disk_budget_bytes;
        let room = |others| Room {
            needs: manifest.size().saturating_sub(self.progress.total_done(manifest)),
            others,
            free: free_bytes(context.store.root()),
            headroom: context.tuning.headroom,
            budget: budget.map(|budget| (budget, (context.usage)())),
        };
        let claims = &context.claims;
        let problem =
            claims.claim(&self.id, manifest, &self.progress, |others| room(others).problem());
        problem.map_or(Ok(()), |problem| Err(Outcome::Paused(problem)))
    }

    pub(super) fn remote(&self, layer: &Layer) -> RemoteBlob {
        match &self.source {
            Source::Registry(name) => self.context.client.layer(name, layer.digest),
            Source::File(file) => self.context.client.file(&file.url),
        }
    }

    async fn small(
        &self,
        manifest: &Manifest,
        layer: &Layer,
        lock: BlobLock,
    ) -> Result<Fetched, Outcome> {
        let bytes = match layer.size {
            0 => bytes::Bytes::new(),
            _ => self.or_stop(self.small_bytes(manifest, layer)).await??,
        };
        let received = bytes.len() as u64;
        self.context.counters.received.fetch_add(received, Ordering::Relaxed);
        self.progress.received.fetch_add(received, Ordering::Relaxed);
        self.or_stop(self.context.limiter.take(received)).await?;
        let digest = layer.digest;
        if Digest::of(&bytes) != digest {
            self.blocking(move |store| store.discard_partial(lock)).await?;
            return Ok(Fetched::WrongBytes);
        }
        self.blocking(move |store| {
            let mut file = std::fs::File::create(store.partial_path(digest))?;
            io::Write::write_all(&mut file, &bytes)?;
            file.sync_all()?;
            store.commit_blob(lock)
        })
        .await?;
        Ok(Fetched::Good(digest))
    }

    async fn large(
        &self,
        layer: &Layer,
        lock: BlobLock,
        file: Option<&FileHead>,
        wanted: Option<Wanted>,
    ) -> Result<Fetched, Outcome> {
        let remote = self.remote(layer);
        let version = file.and_then(|file| file.version.clone());
        remote.only_version(version.clone());
        let (pool, places) = self.or_stop(self.find_peers(wanted)).await?;
        let (writer, plan) = self.begin(layer, lock, version.clone()).await?;
        let transfer = Transfer {
            blob: &remote,
            writer: &writer,
            limiter: &self.context.limiter,
            counters: &self.context.counters,
            progress: &self.progress,
            stop: &self.stop,
            stall: self.context.tuning.stall,
            version: version.as_deref(),
            places: places.zip(wanted),
        };
        // A layer before this one may have been verified.
        self.report_state(PullState::Downloading).await;
        let ended = transfer.run(plan, pool).await;
        if matches!(ended, Ended::Complete) {
            self.report_state(PullState::Verifying).await;
        }
        let Some(finished) = writer.finish().await else {
            return Err(Outcome::Failed("Writing broke down; resume the pull.".to_owned()));
        };
        self.conclude(layer, ended, finished, file.is_some()).await
    }

    async fn begin(
        &self,
        layer: &Layer,
        lock: BlobLock,
        version: Option<String>,
    ) -> Result<(Writer, Plan), Outcome> {
        let total = layer.size;
        let head = match layer.kind {
            LayerKind::Model => Some(Arc::clone(&self.progress.head)),
            kind if is_gguf(kind) => Some(Arc::default()),
            _ => None,
        };
        let counters = Arc::clone(&self.context.counters);
        let done = self.progress.layer(layer.digest);
        let race_after = self.context.tuning.race_after;
        let low_water = self.context.tuning.headroom / 4;
        // Without a version nobody can tell whether it is still the same file.
        let resumable = matches!(self.source, Source::Registry(_)) || version.is_some();
        let begun = self.blocking(move |store| {
            let known = Record::load(store, lock.digest, total)
                .filter(|record| resumable && record.file == version);
            let record = match known {
                Some(record) => record,
                None => {
                    remove_if_there(&store.state_path(lock.digest))?;
                    remove_if_there(&store.partial_path(lock.digest))?;
                    Record::new(total, version)
                }
            };
            let plan = Plan::new(record.extent.clone()).race_after(race_after);
            let store = store.clone();
            let begin = Begin { store, lock, record, head, counters, done, low_water };
            Ok(Writer::begin(begin).map(|writer| (writer, plan)))
        });
        Ok(begun.await??)
    }

    /// Makes of how a transfer ended what that means for the pull.
    async fn conclude(
        &self,
        layer: &Layer,
        ended: Ended,
        finished: Finished,
        is_file: bool,
    ) -> Result<Fetched, Outcome> {
        let Finished { lock, digest, problem } = finished;
        match ended {
            Ended::Stopped => return Err(Outcome::Stopped),
            Ended::Transient { reason, wait } => return Err(Outcome::Retry { reason, wait }),
            Ended::Permanent(reason) => return Err(Outcome::Failed(reason)),
            Ended::Changed => {
                self.blocking(move |store| store.discard_partial(lock)).await?;
                let host = self.source.host();
                let reason = format!("The file at {host} changed; it is fetched from the start.");
                return Err(Outcome::Retry { reason, wait: None });
            }
            Ended::Disk(WriteProblem::NotGguf) => {
                self.blocking(move |store| store.discard_partial(lock)).await?;
                return Err(WriteProblem::NotGguf.into());
            }
            Ended::Disk(problem) => return Err(problem.into()),
            Ended::Complete => {}
        }
        match (problem, digest) {
            (Some(WriteProblem::NotGguf), _) => {
                self.blocking(move |store| store.discard_partial(lock)).await?;
                Err(WriteProblem::NotGguf.into())
            }
            (Some(problem), _) => Err(problem.into()),
            (None, Some(found)) if found == layer.digest || is_file => {
                let named = is_file.then(|| Manifest::of_gguf(found, layer.size));
                let id = self.context.reservation(&self.id);
                self.blocking(move |store| {
                    let guard = store.lock()?;
                    if let Some(manifest) = named {
                        // Its name was not known before; now it must not look unused.
                        store.reserve(&guard, &id, &manifest)?;
                    }
                    store.commit_blob_as(lock, found)
                })
                .await?;
                Ok(Fetched::Good(found))
            }
            (None, _) => {
                self.blocking(move |store| store.discard_partial(lock)).await?;
                Ok(Fetched::WrongBytes)
            }
        }
    }

    async fn install(&self, manifest: Arc<Manifest>) -> Result<(), Outcome> {
        let (id, source) = (self.context.reservation(&self.id), self.source.clone());
        let taken = self.blocking(move |store| {
            let guard = store.lock()?;
            // Another program may have taken the name meanwhile.
            let same = |known: &Manifest| known.digest == manifest.digest;
            if let Some(problem) = name_problem(store, &source, same) {
                return Ok(Some(problem));
            }
            store.install(&guard, source.name(), &manifest)?;
            store.release(&guard, &id)?;
            Ok(None)
        });
        taken.await?.map_or(Ok(()), |problem| Err(Outcome::Failed(problem)))
    }
}

/// A registry's model replaces the one of its name: it is a newer one. A file is called by the end of
/// its address, which says nothing about another file of that name. `same`: whether what is
/// installed is this file.
pub(super) fn name_problem(
    store: &Store,
    source: &Source,
    same: impl FnOnce(&Manifest) -> bool,
) -> Option<String> {
    let Source::File(file) = source else { return None };
    let taken = store.taken(&file.name)?;
    let known = store.manifest(&taken).ok().flatten();
    if taken == file.name && known.as_ref().is_some_and(same) {
        return None;
    }
    Some(format!(
        "There is another model {} already, and the file would be called the same. Remove or copy that one to another name first, then pull again.",
        taken.id()
    ))
}

/// What a file without a digest is called while it is fetched.
pub(super) fn file_key(source: &Source) -> Digest {
    Digest::of(source.to_string().as_bytes())
}

pub(super) fn is_gguf(kind: LayerKind) -> bool {
    matches!(kind, LayerKind::Model | LayerKind::Projector | LayerKind::Adapter)
}

/// Texts are read into memory when a model is used; absurd ones end here.
fn check_layers(manifest: &Manifest) -> Result<(), Outcome> {
    let is_text = |kind| !is_gguf(kind) && kind != LayerKind::Other;
    let absurd = manifest.layers.iter().find(|l| is_text(l.kind) && l.size > MAX_TEXT_LAYER_BYTES);
    absurd.map_or(Ok(()), |layer| {
        Err(Outcome::Failed(format!(
            "The manifest is refused: its {} layer has {}, and {} is the most there can be.",
            layer.kind.as_str(),
            size(layer.size),
            size(MAX_TEXT_LAYER_BYTES)
        )))
    })
}

/// Writes down how many bytes of each layer are here.
pub(super) fn survey(store: &Store, manifest: &Manifest, progress: &Progress) {
    for layer in &manifest.layers {
        let here = if store.blob_size(layer.digest) == Some(layer.size) {
            layer.size
        } else {
            Record::load(store, layer.digest, layer.size).map_or(0, |r| r.extent.done())
        };
        progress.layer(layer.digest).store(here, Ordering::Relaxed);
    }
}
