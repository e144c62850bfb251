//! Installed models: listing, describing, removing, copying, importing, verifying, their options.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use agent_api::{
    ActivityKind, Settings,
    models::{
        Backend, Capability, CopyModel, DiskUse, ImportModel, InstalledModel, ModelDetails,
        ModelList, ModelOptions, ModelSource, Removed, SetModelOptions, Verified,
    },
};

use super::{Node, NodeError};
use crate::{
    inference::InferenceState,
    models::{
        ModelFile,
        gguf::read_details,
        library::Defaults,
        manifest::LayerKind,
        name::ModelRef,
        store::{StoreError, free_bytes},
    },
    storage::{ModelUse, model_use},
};

/// Models whose defaults are kept in memory; a node rarely serves more at a time.
const KEPT_DEFAULTS: usize = 64;

/// Texts that come with models, by the digest of the manifest.
#[derive(Debug, Default)]
pub(super) struct DefaultsCache(Mutex<HashMap<String, Arc<Defaults>>>);

impl DefaultsCache {
    fn get(&self, digest: &str) -> Option<Arc<Defaults>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn keep(&self, digest: String, defaults: Arc<Defaults>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_DEFAULTS {
            kept.clear();
        }
        kept.insert(digest, defaults);
    }
}

/// What describing a model needs besides its file; gathered once per listing.
struct Surroundings {
    settings: Settings,
    inference: InferenceState,
    uses: HashMap<String, ModelUse>,
    active: Option<String>,
}

impl Node {
    pub async fn list_models(&self) -> ModelList {
        let files = self.model_files().await;
        let around = self.surroundings().await;
        let models = files.iter().map(|file| self.describe_model(file, &around)).collect();
        ModelList {
            models,
            folder: self.inner.library.folder().display().to_string(),
            disk: self.disk_use().await,
        }
    }

    /// Models that answer when a request names them, the active one first.
    pub async fn answering_models(&self) -> Vec<ModelFile> {
        let active = self.active_model();
        let load_on_request = self.settings().load_on_request;
        let mut files = self.model_files().await;
        files.retain(|file| {
            let is_active = active.as_ref() == Some(&file.id);
            is_active || load_on_request && file.head.is_ok()
        });
        files.sort_by_key(|file| active.as_ref() != Some(&file.id));
        files
    }

    async fn surroundings(&self) -> Surroundings {
        let uses = model_use(self.inner.storage.readers()).await.unwrap_or_default();
        let inference = self.inner.inference.state().borrow().clone();
        Surroundings { settings: self.settings(), active: self.active_model(), inference, uses }
    }

    /// Space that models take here. Looks at every file of the store.
    pub(super) async fn disk_use(&self) -> DiskUse {
        let library = self.inner.library.clone();
        let budget_bytes = self.settings().disk_budget_bytes;
        let read = move || {
            let usage = library.usage();
            DiskUse {
                installed_bytes: usage.installed_bytes,
                partial_bytes: usage.partial_bytes,
                budget_bytes,
                free_bytes: free_bytes(library.folder()),
            }
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    fn describe_model(&self, file: &ModelFile, around: &Surroundings) -> InstalledModel {
        let active = around.active.as_ref() == Some(&file.id);
        let options = around.settings.models.get(&file.id).cloned().unwrap_or_default();
        let used = around.uses.get(&file.id);
        let residency = around.inference.residents.iter().find(|r| r.residency.id == file.id);
        let own = file.source != ModelSource::OllamaDaemon;
        let info = file.head.as_ref().ok().filter(|_| own);
        let fit = info.map(|info| {
            let context = options.context.unwrap_or(around.settings.context_length);
            let parallel = options.parallel.unwrap_or(around.settings.parallel);
            self.fit_of(info, context, parallel, options.gpu_layers, &around.settings)
        });
        InstalledModel {
            capabilities: capabilities(file),
            options,
            residency: residency.map(|engine| engine.residency.clone()),
            fit,
            tokens_per_s: used.and_then(ModelUse::tokens_per_s),
            last_used_ms: used.and_then(|used| used.last_used_ms),
            ..file.describe(active)
        }
    }

    /// The model file that a request means by a name, or a model of a running daemon.
    pub(super) async fn find_file(&self, name: &str) -> Option<ModelFile> {
        let (library, wanted) = (self.inner.library.clone(), name.to_owned());
        let found = tokio::task::spawn_blocking(move || library.find(&wanted)).await;
        if let Ok(Some(file)) = found {
            return Some(file);
        }
        let latest = format!("{name}:latest");
        let mut daemon = self.daemon_models().await.iter().cloned().collect::<Vec<_>>();
        let at = daemon.iter().position(|model| model.id == name || model.id == latest)?;
        Some(daemon.swap_remove(at))
    }

    pub(super) async fn require_file(&self, name: &str) -> Result<ModelFile, NodeError> {
        let found = self.find_file(name).await;
        found.ok_or_else(|| NodeError::NoSuchModel(name.to_owned()))
    }

    /// How long a model took to load the last time, in milliseconds.
    pub(super) async fn last_load_ms(&self, id: &str) -> Option<f64> {
        model_use(self.inner.storage.readers()).await.ok()?.get(id)?.load_ms
    }

    /// The installed model that a request means by a name: its id, its id without `:latest`, or
    /// either in other capitals.
    pub async fn find_installed(&self, name: &str) -> Result<InstalledModel, NodeError> {
        let file = self.require_file(name).await?;
        Ok(self.describe_model(&file, &self.surroundings().await))
    }

    /// The system prompt and the sampling options that come with a model.
    pub async fn model_defaults(&self, name: &str) -> Result<Arc<Defaults>, NodeError> {
        let name = match (name, self.active_model()) {
            ("", Some(active)) => active,
            (name, _) => name.to_owned(),
        };
        let file = self.require_file(&name).await?;
        let Some(digest) = file.digest.clone() else { return Ok(Arc::default()) };
        if let Some(known) = self.inner.defaults.get(&digest) {
            return Ok(known);
        }
        let defaults = Arc::new(blocking(move || Ok(file.defaults())).await?);
        self.inner.defaults.keep(digest, Arc::clone(&defaults));
        Ok(defaults)
    }

    pub async fn show_model(&self, name: &str) -> Result<ModelDetails, NodeError> {
        let file = self.require_file(name).await?;
        let model = self.describe_model(&file, &self.surroundings().await);
        if file.source == ModelSource::OllamaDaemon {
            return Ok(ModelDetails {
                model,
                layers: Vec::new(),
                template: None,
                system: None,
                parameters: Default::default(),
                license_text: None,
                metadata: Default::default(),
            });
        }
        blocking(move || {
            let head = read_details(&file.path).unwrap_or_default();
            let defaults = file.defaults();
            Ok(ModelDetails {
                model,
                layers: file.describe_layers(),
                template: head.template.or(defaults.template),
                system: defaults.system,
                parameters: defaults.parameters,
                license_text: defaults.licenses.into_iter().next().or(head.license),
                metadata: head.metadata,
            })
        })
        .await
    }

    /// Removes a model. Requests that it is answering end properly: its bytes stay until then.
    pub async fn remove_model(&self, name: &str) -> Result<Removed, NodeError> {
        let file = self.require_exactly(name).await?;
        let id = file.id.clone();
        let was_active = self.active_model().as_ref() == Some(&id);
        let library = self.inner.library.clone();
        let removed = blocking(move || Ok(library.remove(&file)?)).await?;
        self.inner.inference.remove(id.clone()).await;
        let forget = id.clone();
        let forgotten = self
            .change_settings(move |old| {
                let mut new = old.clone();
                new.models.remove(&forget);
                new.active_model = new.active_model.filter(|active| *active != forget);
                Ok(new)
            })
            .await;
        // The model is gone whatever the settings file says; at the next start it is not found.
        if let Err(e) = forgotten {
            tracing::warn!("{id} was removed, but the settings still name it: {e}");
        }
        if was_active {
            let settings = Settings { active_model: None, ..self.settings() };
            self.choose_model(&settings).await;
        }
        self.record(ActivityKind::ModelRemoved, format!("{id} removed")).await;
        self.models_changed();
        Ok(removed)
    }

    /// For what cannot be undone only the model's own id will do, with or without `:latest`.
    async fn require_exactly(&self, name: &str) -> Result<ModelFile, NodeError> {
        let file = self.require_file(name).await?;
        let bare = |text: &str| text.strip_suffix(":latest").unwrap_or(text).to_owned();
        let full = file.reference.clone().map(String::from);
        if bare(&file.id) == bare(name) || full.is_some_and(|full| bare(&full) == bare(name)) {
            return Ok(file);
        }
        Err(NodeError::NoSuchModel(name.to_owned()))
    }

    pub async fn copy_model(&self, copy: CopyModel) -> Result<InstalledModel, NodeError> {
        let file = self.require_file(&copy.source).await?;
        let to = ModelRef::local(&copy.destination).map_err(StoreError::Name)?;
        let (library, name) = (self.inner.library.clone(), to.clone());
        blocking(move || Ok(library.copy(&file, &name)?)).await?;
        self.models_changed();
        self.find_installed(&to.id()).await
    }

    /// Takes a GGUF file of this computer into the store; the file stays as it is.
    pub async fn import_model(&self, import: ImportModel) -> Result<InstalledModel, NodeError> {
        let path = PathBuf::from(&import.path);
        if !path.is_absolute() {
            return Err(NodeError::BadRequest(format!(
                "{:?} is not a full path. Give the file's whole path, beginning with /",
                import.path
            )));
        }
        let library = self.inner.library.clone();
        let budget = self.settings().disk_budget_bytes;
        let stop = self.inner.stop.clone();
        let imported = blocking(move || {
            let mut progress = |_, _| match stop.is_cancelled() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            Ok(library.import(&path, import.name.as_deref(), budget, &mut progress)?)
        })
        .await?;
        let id = imported.name.id();
        self.record(ActivityKind::ModelInstalled, format!("{id} imported")).await;
        self.models_changed();
        self.find_installed(&id).await
    }

    /// Hashes the model's layers again and compares them with their digests.
    pub async fn verify_model(&self, name: &str) -> Result<Verified, NodeError> {
        let file = self.require_file(name).await?;
        let library = self.inner.library.clone();
        let stop = self.inner.stop.clone();
        blocking(move || {
            let mut progress = |_, _| match stop.is_cancelled() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            Ok(library.verify(&file, &mut progress)?)
        })
        .await
    }

    /// Deletes layers and parts that no model and no pull refers to.
    pub(super) async fn collect_garbage(&self) {
        let store = self.inner.library.store().cloned();
        let collect = move || store.map(|store| store.collect_garbage());
        match tokio::task::spawn_blocking(collect).await {
            Ok(Some(Ok(collected))) if collected.removed_files > 0 => {
                let (files, bytes) = (collected.removed_files, collected.freed_bytes);
                tracing::info!("{files} left-over files of models removed, {bytes} bytes freed");
            }
            Ok(Some(Err(e))) => tracing::warn!("the model store was not tidied: {e}"),
            _ => {}
        }
    }

    /// Replaces how one model is to run. If it is in memory it is loaded again after its requests.
    pub async fn set_model_options(
        &self,
        set: SetModelOptions,
    ) -> Result<InstalledModel, NodeError> {
        let file = self.require_file(&set.model).await?;
        if set.options.backend == Some(Backend::Runner) && file.source == ModelSource::OllamaDaemon
        {
            return Err(NodeError::BadRequest(format!(
                "{} is only known to the Ollama daemon, so the built-in runner cannot load it. Pull it here first",
                file.id
            )));
        }
        let id = file.id.clone();
        self.change_settings(move |old| {
            let mut new = old.clone();
            if set.options == ModelOptions::default() {
                new.models.remove(&id);
            } else {
                new.models.insert(id, set.options);
            }
            crate::config::validate(&new)?;
            Ok(new)
        })
        .await?;
        self.models_changed();
        self.find_installed(&file.id).await
    }
}

fn capabilities(file: &ModelFile) -> Vec<Capability> {
    let mut capabilities = file.head.as_ref().map(|i| i.capabilities()).unwrap_or_default();
    // The runner does not read images yet, but the model has what it takes.
    if file.layer(LayerKind::Projector).is_some() {
        capabilities.push(Capability::Vision);
    }
    capabilities
}

/// Runs what touches the disk off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(NodeError::BadRequest(format!("it was interrupted: {e}"))))
}
