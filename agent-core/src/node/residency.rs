//! Which model answers, and which are in memory: from settings and names to the pool.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent_api::{
    Settings,
    models::{Backend, ModelSource, ModelState, ModelStatus, SwapPreview},
};
use tokio::time::timeout;

use super::{Answer, InferenceError, Node, NodeError, SubmitOptions, ToolFormat, Work};
use crate::{
    inference::{KeepAlive, LoadOptions, Policy, Ready, Target},
    models::ModelFile,
    storage::RequestKind,
    tasks::{
        placement::{same_model, split_model},
        route::ModelElsewhere,
    },
};

/// Tools need the model's template, which only a loaded model tells. Loading reads the file once;
/// a client that asked for an answer waits no longer than this before it hears why not.
const TEMPLATE_WAIT: Duration = Duration::from_secs(300);

/// Settings that hold for all models.
pub(super) fn policy(settings: &Settings) -> Policy {
    Policy {
        keep_alive: KeepAlive::from_seconds(settings.keep_alive_s),
        max_loaded: usize::try_from(settings.max_loaded_models).unwrap_or(usize::MAX),
        ram_reserve: settings.ram_reserve_bytes,
        gpu_reserve: settings.gpu_reserve_bytes,
    }
}

fn load_options(settings: &Settings, id: &str) -> LoadOptions {
    let own = settings.models.get(id).cloned().unwrap_or_default();
    LoadOptions {
        context: own.context.unwrap_or(settings.context_length),
        slots: own.parallel.unwrap_or(settings.parallel),
        threads: settings.threads,
        gpu_layers: own.gpu_layers,
    }
}

impl Node {
    /// A file as it is to be held under these settings.
    fn target(&self, model: ModelFile, settings: &Settings) -> Target {
        let own = settings.models.get(&model.id).cloned().unwrap_or_default();
        let by_daemon = match model.source {
            ModelSource::OllamaDaemon => true,
            _ => own.backend == Some(Backend::Ollama) && !settings.ollama_url.is_empty(),
        };
        let endpoint =
            by_daemon.then(|| self.inner.ollama.endpoint(&settings.ollama_url, &model.id));
        Target {
            options: load_options(settings, &model.id),
            keep_alive: own.keep_alive_s.map(KeepAlive::from_seconds),
            pinned: own.pinned,
            preload: own.preload,
            ollama: endpoint,
            model,
        }
    }

    fn read_settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&self.inner.settings.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Chooses the active model and loads those that the owner wants from the start.
    pub(super) async fn begin_serving(&self) {
        let settings = self.settings();
        self.choose_model(&settings).await;
        if self.is_paused() {
            // Chosen but not loaded, so that the panels can name it.
            self.inner.inference.unload(None).await;
            return;
        }
        let active = self.active_model();
        for file in self.model_files().await {
            let preload = settings.models.get(&file.id).is_some_and(|own| own.preload);
            if !preload || active.as_ref() == Some(&file.id) {
                continue;
            }
            let target = Arc::new(self.target(file, &settings));
            let inference = self.inner.inference.clone();
            self.inner.tasks.spawn(async move {
                if let Err(e) = inference.load(Some(Arc::clone(&target)), None).await {
                    tracing::warn!("{} was not loaded at the start: {e}", target.model.id);
                }
            });
        }
    }

    pub(super) async fn choose_model(&self, settings: &Settings) {
        let file = self.find_active(settings.active_model.as_deref()).await;
        let target = file.map(|file| self.target(file, settings));
        self.inner.inference.choose(target).await;
    }

    /// Tells the pool what changed settings mean for models in memory.
    pub(super) async fn put_models_in_force(&self, old: &Settings, new: &Settings) {
        let mut targets = Vec::new();
        for known in self.held_files() {
            // A file that was replaced since is loaded as it is now. Without one the model answers
            // from memory for as long as it stays; a daemon that is silent has lost nothing.
            let found = self.find_file(&known.id).await;
            let by_daemon = known.source == ModelSource::OllamaDaemon;
            if let Some(file) = found.or(by_daemon.then_some(known)) {
                targets.push(self.target(file, new));
            }
        }
        self.inner.inference.configure(policy(new), targets).await;
        if old.active_model != new.active_model {
            self.choose_model(new).await;
        }
        if old.models != new.models {
            self.models_changed();
        }
    }

    /// Files of the models in memory and of the active one, as the pool knows them.
    fn held_files(&self) -> Vec<ModelFile> {
        let state = self.inner.inference.state();
        let state = state.borrow();
        let active = state.active.iter();
        let only_active = active
            .filter(|active| state.residents.iter().all(|r| r.residency.id != active.residency.id));
        let held = state.residents.iter().chain(only_active);
        held.map(|known| known.target.model.clone()).collect()
    }

    /// A model was installed (again) under this id: if it is in memory or active, and its file is
    /// another now, it is loaded again after its requests in flight.
    pub(super) async fn refresh_models(&self, id: &str) {
        let Some(known) = self.held_files().into_iter().find(|file| file.id == id) else { return };
        let Some(file) = self.find_file(id).await else { return };
        if (&file.path, file.modified, &file.digest) == (&known.path, known.modified, &known.digest)
        {
            return;
        }
        let settings = self.settings();
        let target = self.target(file, &settings);
        self.inner.inference.configure(policy(&settings), vec![target]).await;
    }

    /// The chosen model; without a choice the first that can be loaded.
    async fn find_active(&self, wanted: Option<&str>) -> Option<ModelFile> {
        let files = self.model_files().await;
        let chosen = wanted.and_then(|id| files.iter().find(|file| file.id == id));
        chosen.or_else(|| files.iter().find(|file| file.head.is_ok())).cloned()
    }

    /// Everything that can be loaded: files first, then what only a running daemon has.
    pub(super) async fn model_files(&self) -> Vec<ModelFile> {
        let library = self.inner.library.clone();
        let listed = tokio::task::spawn_blocking(move || library.list());
        let (files, daemon) = tokio::join!(listed, self.daemon_models());
        let mut files = files.unwrap_or_default();
        let ids: BTreeSet<String> = files.iter().map(|file| file.id.clone()).collect();
        files.extend(daemon.iter().filter(|model| !ids.contains(&model.id)).cloned());
        files
    }

    /// What a running Ollama daemon has.
    pub(super) async fn daemon_models(&self) -> Arc<[ModelFile]> {
        let url = self.read_settings(|settings| settings.ollama_url.clone());
        // This node speaks the same protocol: asking itself would list its models twice.
        let url = if url == self.url() { "" } else { url.as_str() };
        self.inner.ollama.models(url).await
    }

    pub fn active_model_file(&self) -> Option<ModelFile> {
        let state = self.inner.inference.state();
        let state = state.borrow();
        state.active.as_ref().map(|active| active.target.model.clone())
    }

    /// Id of the active model.
    pub fn active_model(&self) -> Option<String> {
        let state = self.inner.inference.state();
        let state = state.borrow();
        state.active.as_ref().map(|active| active.residency.id.clone())
    }

    /// The model that a request means by a name: an id, or an id without `:latest`. `None` is the
    /// active model, which an empty name means.
    async fn named(&self, name: &str) -> Result<Option<Arc<Target>>, InferenceError> {
        if name.is_empty() {
            return Ok(None);
        }
        let load_on_request = self.read_settings(|settings| settings.load_on_request);
        let (known, active) = {
            let state = self.inner.inference.state();
            let state = state.borrow();
            let known = state.find(name).or_else(|| state.find(&format!("{name}:latest")));
            let active = state.active.as_ref().map(|active| active.residency.id.clone());
            (known.cloned(), active)
        };
        let is_active =
            known.as_ref().is_some_and(|known| active == Some(known.residency.id.clone()));
        match active {
            _ if load_on_request || is_active => {}
            None => return Err(InferenceError::NoModel),
            Some(active) => {
                return Err(InferenceError::NotActive { wanted: name.to_owned(), active });
            }
        }
        if let Some(known) = &known
            && matches!(known.residency.state, ModelState::Ready | ModelState::Loading)
        {
            return Ok(Some(Arc::clone(&known.target)));
        }
        // What is not in memory is looked for again: its file may have been replaced since.
        match self.find_file(name).await {
            Some(file) => Ok(Some(Arc::new(self.target(file, &self.settings())))),
            None => Err(InferenceError::NoSuchModel(name.to_owned())),
        }
    }

    async fn installed_target(&self, name: &str) -> Result<Target, NodeError> {
        let file = self.require_file(name).await?;
        if let Some(problem) = file.describe(false).problem {
            return Err(NodeError::BadRequest(problem));
        }
        Ok(self.target(file, &self.settings()))
    }

    /// The chat template of a model (the active one for an empty name), which only a loaded model
    /// tells: loads it if needed. `None`: it has none, or another program renders it.
    pub async fn chat_template(&self, model: &str) -> Result<Option<Arc<str>>, InferenceError> {
        Ok(self.loaded(model).await?.chat_template)
    }

    /// How a model (the active one for an empty name) writes tool calls; `None` if it cannot. Loads
    /// it if needed. `model@node` and models that only other nodes have are asked for there, as far
    /// as the request may leave.
    pub async fn tool_format(
        &self,
        model: &str,
        options: SubmitOptions,
    ) -> Result<Option<ToolFormat>, InferenceError> {
        self.tasks().router().tool_format(model, options).await
    }

    /// [`Node::tool_format`] of a model of this node.
    pub async fn tool_format_here(
        &self,
        model: &str,
    ) -> Result<Option<ToolFormat>, InferenceError> {
        Ok(self.loaded(model).await?.tools)
    }

    async fn loaded(&self, name: &str) -> Result<Ready, InferenceError> {
        let target = self.named(name).await?;
        let load = self.inner.inference.load(target, None);
        timeout(TEMPLATE_WAIT, load).await.map_err(|_| {
            InferenceError::Unavailable(
                "The model is still being loaded. Try again in a moment.".into(),
            )
        })?
    }

    /// Makes a model the active one, now and at the next start, without failing a request: what
    /// was accepted before finishes on the old model. Refused, with nothing changed, if it would
    /// not fit. Choosing the active model again tries a failed load once more.
    pub async fn swap_model(&self, name: String) -> Result<ModelStatus, NodeError> {
        let target = self.installed_target(&name).await?;
        let id = target.model.id.clone();
        if self.active_model().as_ref() != Some(&id) {
            let preview = self.inner.inference.preview(target.clone()).await?;
            if let Some(problem) = preview.problem {
                return Err(InferenceError::Unavailable(problem).into());
            }
        }
        // Loading begins while the choice is being written down.
        self.inner.inference.choose(Some(target)).await;
        let written = self
            .change_settings(move |old| Ok(Settings { active_model: Some(id), ..old.clone() }))
            .await;
        if let Err(e) = written {
            self.choose_model(&self.settings()).await;
            return Err(e);
        }
        Ok(self.model_status())
    }

    /// Queues work for a model; an empty name means the active one at this moment.
    pub async fn submit(
        &self,
        kind: RequestKind,
        model: &str,
        work: Work,
    ) -> Result<Answer, InferenceError> {
        self.submit_with(kind, model, work, SubmitOptions::default()).await
    }

    /// [`Node::submit`] with what the request says about the model. `model@node` and models that
    /// only other nodes have go there.
    pub async fn submit_with(
        &self,
        kind: RequestKind,
        model: &str,
        work: Work,
        options: SubmitOptions,
    ) -> Result<Answer, InferenceError> {
        self.tasks().router().route(kind, model, work, options).await
    }

    /// Models of other nodes that answer to `model@node`.
    pub fn models_elsewhere(&self) -> Vec<ModelElsewhere> {
        self.tasks().router().models_elsewhere()
    }

    /// Whether a name means a model of another node: it names the node, or one has the model.
    pub fn is_elsewhere(&self, name: &str) -> bool {
        split_model(name).1.is_some()
            || self.models_elsewhere().iter().any(|known| same_model(name, &known.model))
    }

    /// Queues work for a model of this node and never lets it leave.
    pub async fn submit_here(
        &self,
        kind: RequestKind,
        model: &str,
        work: Work,
        options: SubmitOptions,
    ) -> Result<Answer, InferenceError> {
        let to = self.named(model).await?;
        self.inner.inference.submit(kind, to, work, options).await
    }

    /// The id of the model that a name means here.
    pub(super) async fn model_id(&self, name: &str) -> Option<String> {
        let known = {
            let state = self.inner.inference.state();
            let state = state.borrow();
            let found = state.find(name).or_else(|| state.find(&format!("{name}:latest")));
            found.map(|known| known.residency.id.clone())
        };
        match known {
            Some(id) => Some(id),
            None => self.find_file(name).await.map(|file| file.id),
        }
    }

    /// What a swap would do: what leaves, what finishes first, the memory before and after.
    pub async fn swap_preview(&self, name: &str) -> Result<SwapPreview, NodeError> {
        let target = self.installed_target(name).await?;
        let model = self.find_installed(&target.model.id).await?;
        let preview = self.inner.inference.preview(target).await?;
        Ok(SwapPreview {
            load_ms: self.last_load_ms(&model.id).await,
            model,
            evicts: preview.evicts,
            running: preview.running,
            now_bytes: preview.now_bytes,
            after_bytes: preview.after_bytes,
            limit_bytes: preview.limit_bytes,
            problem: preview.problem,
        })
    }

    /// Loads a model beside the active one; returns once it is ready or has failed.
    pub async fn load_model(
        &self,
        name: &str,
        keep: Option<KeepAlive>,
    ) -> Result<ModelStatus, NodeError> {
        let target = Arc::new(self.installed_target(name).await?);
        self.inner.inference.load(Some(target), keep).await?;
        Ok(self.model_status())
    }

    /// Frees a model's memory after its requests in flight; the next request loads it again.
    pub async fn unload_model(&self, name: &str) -> Result<ModelStatus, NodeError> {
        let state = self.inner.inference.state().borrow().clone();
        let latest = format!("{name}:latest");
        let id = match state.find(name).or_else(|| state.find(&latest)) {
            Some(known) => known.residency.id.clone(),
            None if self.find_file(name).await.is_some() => return Ok(self.model_status()),
            None => return Err(NodeError::NoSuchModel(name.to_owned())),
        };
        self.inner.inference.unload(Some(id)).await;
        Ok(self.model_status())
    }

    /// Announces that what is in memory changed, until the node stops.
    pub(super) async fn announce_residency(self) {
        let mut state = self.inner.inference.state();
        let mut known = Vec::new();
        loop {
            let now: Vec<(String, ModelState, bool)> = state
                .borrow_and_update()
                .residents
                .iter()
                .map(|r| (r.residency.id.clone(), r.residency.state, r.residency.leaving))
                .collect();
            if now != known {
                known = now;
                self.models_changed();
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = self.inner.stop.cancelled() => return,
            }
        }
    }
}
