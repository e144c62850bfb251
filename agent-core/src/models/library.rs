//! Everything installed, each model once: the model that ships, the owner's GGUF files, the models
//! of this node's store, and those of an Ollama folder, which are read in place.
//!
//! A listing looks at every file once and reads only what changed: manifests are kept in memory,
//! heads of GGUF files also in the database. Every call touches the disk: keep them off the async
//! threads.

mod defaults;
#[cfg(test)]
pub(in crate::models) mod fixtures;
mod heads;
mod ollama;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use agent_api::models::{ModelSource, Removed, Verified};
pub use defaults::{ConfigFacts, Defaults};
use heads::Heads;
use ollama::OllamaFolder;
pub use ollama::is_of_ollama;

use super::{
    Head, ModelFile,
    gguf::{GgufError, GgufInfo},
    name::{LOCAL, ModelRef, OLLAMA_REGISTRY},
    store::{Imported, Known, Progress, Store, StoreError, Usage, import_name, verify_layers},
};
use crate::{config::limits, storage::Storage};

/// File name of the model that ships.
pub const DEMO_FILE: &str = "edgecoder-demo-4m-q8_0.gguf";

/// Lists models. Clones share what they have read.
#[derive(Clone, Debug)]
pub struct Library {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    assets: Option<PathBuf>,
    folder: PathBuf,
    store: Option<Store>,
    ollama: Mutex<Vec<Arc<OllamaFolder>>>,
    heads: Heads,
}

impl Library {
    /// The model that ships and the owner's files in the folder.
    pub fn new(assets: Option<PathBuf>, folder: PathBuf) -> Self {
        let heads = Heads::default();
        let inner = Inner { assets, folder, store: None, ollama: Mutex::default(), heads };
        Self { inner: Arc::new(inner) }
    }

    /// Also the models of the store, an Ollama folder (as in `Settings::ollama_dir`), and the heads
    /// that were kept in the database.
    pub async fn open(
        assets: Option<PathBuf>,
        store: Store,
        ollama_dir: Option<&str>,
        storage: Storage,
    ) -> Self {
        let heads = Heads::kept_in(storage).await;
        Self::with_store(assets, store, ollama_dir, heads)
    }

    fn with_store(
        assets: Option<PathBuf>,
        store: Store,
        ollama_dir: Option<&str>,
        heads: Heads,
    ) -> Self {
        let folder = store.root().to_path_buf();
        let inner = Inner { assets, folder, store: Some(store), ollama: Mutex::default(), heads };
        let library = Self { inner: Arc::new(inner) };
        library.set_ollama_dir(ollama_dir);
        library
    }

    /// Where the owner puts GGUF files.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    pub fn store(&self) -> Option<&Store> {
        self.inner.store.as_ref()
    }

    /// Reads this Ollama folder from now on. `None`: where Ollama keeps its models; empty: none.
    pub fn set_ollama_dir(&self, dir: Option<&str>) {
        let folders = ollama::folders(dir, &self.inner.folder);
        let mut known = self.inner.ollama.lock().unwrap_or_else(PoisonError::into_inner);
        *known = folders;
    }

    /// The Ollama folders that are read.
    pub fn ollama_dirs(&self) -> Vec<PathBuf> {
        self.ollama().iter().map(|folder| folder.root.clone()).collect()
    }

    fn ollama(&self) -> Vec<Arc<OllamaFolder>> {
        self.inner.ollama.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All models by id, the one that ships last.
    pub fn list(&self) -> Vec<ModelFile> {
        let round = self.inner.heads.begin();
        let mut listing = Listing::default();
        if let Some(store) = &self.inner.store {
            for file in self.of_store(store) {
                listing.add(file);
            }
        }
        let demo = self.demo();
        listing.ids.extend(demo.iter().map(|demo| demo.id.clone()));
        for file in self.loose() {
            listing.add(file);
        }
        for folder in self.ollama() {
            for file in self.of_ollama(&folder) {
                listing.add_unless_known(file);
            }
        }
        let mut files = listing.files;
        files.sort_by(|a, b| a.id.cmp(&b.id));
        files.extend(demo);
        self.inner.heads.end(round);
        files
    }

    /// The model that a request means by a name: the one with this id; else with `:latest` added or
    /// left out, or under its complete name; else without regard to capitals; else the only one of
    /// this name on any host.
    /// `None` if there is none, or if it could be several. A known id costs a few system calls,
    /// however many models there are.
    pub fn find(&self, name: &str) -> Option<ModelFile> {
        let name = name.trim();
        if name.is_empty() {
            return None;
        }
        if let Some(file) = self.exact(name) {
            return Some(file);
        }
        let (bare, latest) = match name.strip_suffix(":latest") {
            Some(bare) => (bare.to_owned(), name.to_owned()),
            None => (name.to_owned(), format!("{name}:latest")),
        };
        let other = if bare == name { &latest } else { &bare };
        let complete = || {
            let complete = ModelRef::parse(name, OLLAMA_REGISTRY).ok()?;
            let file = self.exact(&complete.id())?;
            (file.reference.as_ref() == Some(&complete)).then_some(file)
        };
        self.exact(other).or_else(complete).or_else(|| pick(self.list(), [&bare, &latest]))
    }

    /// The model with exactly this id.
    pub fn get(&self, id: &str) -> Option<ModelFile> {
        self.exact(id).or_else(|| self.list().into_iter().find(|file| file.id == id))
    }

    /// By looking only where a model with this id would be. Ids that were made unique are not found
    /// here.
    fn exact(&self, id: &str) -> Option<ModelFile> {
        let mut names = [OLLAMA_REGISTRY, LOCAL].map(|host| ModelRef::parse(id, host).ok());
        if names[0] == names[1] {
            names[1] = None;
        }
        let names = || names.iter().flatten().filter(|name| name.id() == id);
        let of_store = self.inner.store.as_ref().and_then(|store| {
            let known = names().find_map(|name| store.known(name))?;
            Some(self.of_manifest(&known, &store.blobs().into(), ModelSource::Store))
        });
        let demo = || self.demo().filter(|demo| demo.id == id);
        let loose = || {
            let file = format!("{id}.gguf");
            let is_plain = Path::new(&file).file_name().is_some_and(|name| name == file.as_str());
            is_plain.then(|| self.file(self.inner.folder.join(file), ModelSource::File)).flatten()
        };
        let of_ollama = || {
            self.ollama().iter().find_map(|folder| {
                let known = names().find_map(|name| folder.known(name))?;
                folder_offers(&known)
                    .then(|| self.of_manifest(&known, &folder.blobs, ModelSource::OllamaFolder))
            })
        };
        of_store.or_else(demo).or_else(loose).or_else(of_ollama)
    }

    fn of_store<'a>(&'a self, store: &Store) -> impl Iterator<Item = ModelFile> + use<'a> {
        let blobs: Arc<Path> = store.blobs().into();
        let inventory = store.inventory();
        let models = inventory.models.clone().into_iter().take(limits::LISTED_MODELS);
        models.map(move |known| {
            let mut file = self.of_manifest(&known, &blobs, ModelSource::Store);
            file.removable_bytes = Some(inventory.removable_bytes(&known));
            file
        })
    }

    fn of_ollama<'a>(&'a self, folder: &OllamaFolder) -> impl Iterator<Item = ModelFile> + use<'a> {
        let blobs = Arc::clone(&folder.blobs);
        let models = folder.inventory().models.into_iter().filter(|known| folder_offers(known));
        let models = models.take(limits::LISTED_MODELS);
        models.map(move |known| self.of_manifest(&known, &blobs, ModelSource::OllamaFolder))
    }

    fn of_manifest(&self, known: &Known, blobs: &Arc<Path>, source: ModelSource) -> ModelFile {
        let file = ModelFile {
            id: known.name.id(),
            path: known.path.clone(),
            modified: known.modified,
            installed: known.modified,
            source,
            reference: Some(known.name.clone()),
            blobs: Some(Arc::clone(blobs)),
            ..ModelFile::default()
        };
        let manifest = match &known.manifest {
            Ok(manifest) => manifest,
            Err(why) => return ModelFile { head: broken(why.clone()), ..file },
        };
        let Some(weights) = manifest.model() else {
            return ModelFile { head: broken("it has no weights".into()), ..file };
        };
        let path = blobs.join(weights.digest.file_name());
        let again = match source {
            ModelSource::OllamaFolder => "Pull it again with Ollama",
            _ => "Remove it and pull it again",
        };
        let (modified, head) = match fs::metadata(&path) {
            Ok(meta) if !meta.is_file() => (None, broken("its weights are not a file".into())),
            Ok(meta) if meta.len() != weights.size => {
                let (has, needs) = (meta.len(), weights.size);
                let why = format!("its weights have {has} bytes instead of {needs}. {again}");
                (meta.modified().ok(), broken(why))
            }
            Ok(meta) => (meta.modified().ok(), self.inner.heads.of(&path, &meta)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                (None, broken(format!("its weights are missing. {again}")))
            }
            Err(e) => (None, Err(Arc::new(GgufError::Io(e)))),
        };
        ModelFile {
            path,
            size_bytes: manifest.size(),
            modified: modified.unwrap_or(known.modified),
            digest: Some(manifest.digest.to_string()),
            layers: Arc::clone(&known.layers),
            head,
            ..file
        }
    }

    fn demo(&self) -> Option<ModelFile> {
        let path = self.inner.assets.as_ref()?.join(DEMO_FILE);
        let file = self.file(path, ModelSource::Demo)?;
        let id = demo_id(&file.id, file.head.as_ref().ok());
        Some(ModelFile { id, demo: true, ..file })
    }

    fn loose(&self) -> Vec<ModelFile> {
        let folder = &self.inner.folder;
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                tracing::warn!("cannot list {}: {e}", folder.display());
                return Vec::new();
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf")))
            .take(limits::LISTED_MODELS)
            .collect();
        // The usual ending first: that is where a file with this id is looked for.
        paths.sort_by_key(|path| (path.extension().is_none_or(|ext| ext != "gguf"), path.clone()));
        paths.into_iter().filter_map(|path| self.file(path, ModelSource::File)).collect()
    }

    fn file(&self, path: PathBuf, source: ModelSource) -> Option<ModelFile> {
        let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let head = self.inner.heads.of(&path, &meta);
        let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let modified = meta.modified().unwrap_or(std::time::UNIX_EPOCH);
        Some(ModelFile {
            id,
            path,
            size_bytes: meta.len(),
            modified,
            installed: modified,
            source,
            removable_bytes: (source == ModelSource::File).then_some(meta.len()),
            head,
            ..ModelFile::default()
        })
    }
}

/// What the owner does with single models.
impl Library {
    /// Removes a model of the store or a GGUF file of the owner's; refuses what is not ours.
    pub fn remove(&self, file: &ModelFile) -> Result<Removed, StoreError> {
        match (file.source, &file.reference) {
            (ModelSource::Store, Some(name)) => {
                let removed = self.own_store()?.remove(name)?;
                Ok(Removed { model: file.id.clone(), ..removed })
            }
            (ModelSource::File, _) => {
                let freed_bytes = super::store::remove_file(&file.path)?;
                Ok(Removed { model: file.id.clone(), freed_bytes })
            }
            _ => Err(StoreError::Refused(not_ours(file))),
        }
    }

    /// Gives a model of the store a second name.
    pub fn copy(&self, file: &ModelFile, to: &ModelRef) -> Result<(), StoreError> {
        let (ModelSource::Store, Some(name)) = (file.source, &file.reference) else {
            return Err(StoreError::Refused(format!(
                "{} is not in this node's store, so it cannot be given a second name. Import {} under the new name instead",
                file.id,
                file.path.display()
            )));
        };
        self.refuse_taken(to)?;
        self.own_store()?.copy(name, to)
    }

    /// Takes a GGUF file into the store; see [`Store::import`].
    pub fn import(
        &self,
        source: &Path,
        name: Option<&str>,
        budget_bytes: Option<u64>,
        progress: Progress<'_>,
    ) -> Result<Imported, StoreError> {
        let name = import_name(source, name)?;
        self.refuse_taken(&name)?;
        self.own_store()?.import(source, &name, budget_bytes, progress)
    }

    /// Hashes every layer of the model again; see [`Store::verify`].
    pub fn verify(&self, file: &ModelFile, progress: Progress<'_>) -> Result<Verified, StoreError> {
        let own = self.inner.store.as_ref();
        match (&file.blobs, own) {
            (Some(blobs), Some(own)) if !file.layers.is_empty() && **blobs == *own.blobs() => {
                own.verify_layers(&file.id, &file.layers, progress)
            }
            (Some(blobs), _) if !file.layers.is_empty() => {
                verify_layers(&file.id, blobs, &file.layers, progress)
            }
            _ => Err(StoreError::Refused(format!(
                "nobody has written down what {} should contain, so there is nothing to compare it with. Import it to have it checked from then on",
                file.path.display()
            ))),
        }
    }

    /// What models take in this node's folder.
    pub fn usage(&self) -> Usage {
        self.inner.store.as_ref().map(Store::usage).unwrap_or_default()
    }

    fn own_store(&self) -> Result<&Store, StoreError> {
        let none = || StoreError::Refused("this node has no model store".into());
        self.inner.store.as_ref().ok_or_else(none)
    }

    /// An id means one model, wherever it lies.
    fn refuse_taken(&self, name: &ModelRef) -> Result<(), StoreError> {
        let id = name.id();
        match self.exact(&id) {
            Some(taken) => Err(StoreError::Exists(taken.id)),
            None => Ok(()),
        }
    }
}

fn not_ours(file: &ModelFile) -> String {
    match file.source {
        ModelSource::Demo => {
            format!("{} comes with EdgeCoder and goes with it. It takes 4 MB", file.id)
        }
        ModelSource::OllamaFolder => format!(
            "{0} belongs to Ollama, and EdgeCoder only reads its folder. Remove it with `ollama rm {0}`, or leave that folder out in the settings",
            file.id
        ),
        _ => format!(
            "{0} is kept by another program. Remove it there (with Ollama: `ollama rm {0}`)",
            file.id
        ),
    }
}

fn broken(why: String) -> Head {
    Err(Arc::new(GgufError::Known(why)))
}

/// Ollama also keeps manifests of models that run elsewhere and have no weights; they are no models
/// here. What has weights and cannot be loaded is shown with the reason.
fn folder_offers(known: &Known) -> bool {
    let none = super::manifest::ManifestError::NoModel.to_string();
    known.manifest.as_ref().err() != Some(&none)
}

/// The id without the quantization, because there is only one demo model.
fn demo_id(stem: &str, head: Option<&GgufInfo>) -> String {
    let suffix = head.map(|info| format!("-{}", info.quantization.to_lowercase()));
    let short = suffix.and_then(|suffix| stem.strip_suffix(&suffix));
    short.unwrap_or(stem).to_owned()
}

/// Files with ids that are each there once.
#[derive(Default)]
struct Listing {
    ids: HashSet<String>,
    files: Vec<ModelFile>,
}

impl Listing {
    /// Adds a model, under a longer name if its short one is taken.
    fn add(&mut self, mut file: ModelFile) {
        if self.ids.contains(&file.id) {
            file.id = match &file.reference {
                Some(name) => String::from(name.clone()),
                None => file.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            };
        }
        self.add_unless_known(file);
    }

    fn add_unless_known(&mut self, file: ModelFile) {
        if self.ids.insert(file.id.clone()) {
            self.files.push(file);
        }
    }
}

/// The only model with one of these ids without regard to capitals; else the only one whose id is
/// that on some host.
fn pick(files: Vec<ModelFile>, ids: [&String; 2]) -> Option<ModelFile> {
    let same = |file: &ModelFile| ids.iter().any(|id| file.id.eq_ignore_ascii_case(id));
    let on_a_host = |file: &ModelFile| {
        let on = |name: &ModelRef| ModelRef { host: OLLAMA_REGISTRY.to_owned(), ..name.clone() };
        let id = file.reference.as_ref().map(|name| on(name).id());
        id.is_some_and(|id| ids.contains(&&id))
    };
    let tests: [&dyn Fn(&ModelFile) -> bool; 2] = [&same, &on_a_host];
    for test in tests {
        let mut matching = files.iter().filter(|file| test(file));
        if let Some(first) = matching.next() {
            return matching.next().is_none().then(|| first.clone());
        }
    }
    None
}
