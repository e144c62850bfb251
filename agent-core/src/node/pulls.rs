//! Pulls, as the node's owner sees them: with the fit on this machine, in the activity feed, and
//! swapped in when that was asked for.

use std::sync::Arc;

use agent_api::{
    ActivityKind, Event,
    fit::Fit,
    pull::{Pull, PullPreview, PullRequest},
    settings::{RegistryLogin, SettingsView},
};
use futures_util::Stream;
use tokio::sync::mpsc;

use super::{Node, NodeError, library::blocking};
use crate::models::{gguf::GgufInfo, pull::PullNotable, registry::credentials::Login};

impl Node {
    /// Begins a pull, or gives the one that is under way for this model.
    pub async fn start_pull(&self, request: PullRequest) -> Result<Pull, NodeError> {
        let pull = self.inner.pulls.add(request).await?;
        Ok(self.with_fit(pull).await)
    }

    /// What a pull would fetch, and whether the model will run. Fetches the manifest and the head.
    pub async fn preview_pull(&self, model: &str) -> Result<PullPreview, NodeError> {
        let facts = self.inner.pulls.preview(model).await?;
        let disk = self.disk_use().await;
        let id = facts.name.id();
        let fit = facts.info.as_ref().map(|info| self.fit_by_settings(&id, info));
        let used = disk.installed_bytes.saturating_add(disk.partial_bytes);
        Ok(PullPreview {
            model: id,
            source: facts.source,
            size_bytes: facts.size_bytes,
            download_bytes: facts.download_bytes,
            files: facts.files,
            fit,
            license: facts.license,
            disk_free_bytes: facts.disk_free_bytes,
            disk_after_bytes: used.saturating_add(facts.download_bytes),
            disk_budget_bytes: disk.budget_bytes,
            problem: facts.problem,
            already_installed: facts.already_installed,
        })
    }

    /// All pulls, oldest first.
    pub async fn pulls(&self) -> Vec<Pull> {
        let mut pulls = self.inner.pulls.list();
        for pull in &mut pulls {
            pull.fit = self.fit_of_pull(pull).await;
        }
        pulls
    }

    /// A pull now and after every change, until it is settled (then the stream ends).
    pub fn watch_pull(&self, id: &str) -> Option<impl Stream<Item = Pull> + Send + use<>> {
        let id = id.to_owned();
        let mut changes = self.inner.pulls.watch();
        changes.mark_changed();
        let known = self.inner.pulls.list().iter().any(|pull| pull.id == id);
        let node = self.clone();
        known.then(|| {
            async_stream::stream! {
                let mut last = None;
                while changes.changed().await.is_ok() {
                    let pulls = Arc::clone(&changes.borrow_and_update());
                    // A cancelled pull is not there any more.
                    let Some(pull) = pulls.iter().find(|pull| pull.id == id) else { return };
                    if last.as_ref() == Some(pull) {
                        continue;
                    }
                    last = Some(pull.clone());
                    let settled = pull.state.is_settled();
                    yield node.with_fit(pull.clone()).await;
                    if settled {
                        return;
                    }
                }
            }
        })
    }

    pub async fn pause_pull(&self, id: &str) -> Result<Pull, NodeError> {
        Ok(self.with_fit(self.inner.pulls.pause(id).await?).await)
    }

    pub async fn resume_pull(&self, id: &str) -> Result<Pull, NodeError> {
        Ok(self.with_fit(self.inner.pulls.resume(id).await?).await)
    }

    /// Ends a pull and deletes its parts.
    pub async fn cancel_pull(&self, id: &str) -> Result<(), NodeError> {
        self.inner.pulls.cancel(id).await?;
        self.collect_garbage().await;
        Ok(())
    }

    /// Keeps or forgets the name and secret for a registry.
    pub async fn registry_login(&self, login: RegistryLogin) -> Result<SettingsView, NodeError> {
        let credentials = self.inner.credentials.clone();
        let RegistryLogin { host, username, secret } = login;
        blocking(move || Ok(credentials.set(&host, Login { username, secret })?)).await?;
        Ok(self.settings_view())
    }

    pub(super) fn is_logged_in(&self, host: &str) -> bool {
        self.inner.credentials.get(host).is_ok_and(|login| login.is_some())
    }

    /// Fills in what only the node knows: whether the model will run here.
    async fn with_fit(&self, mut pull: Pull) -> Pull {
        pull.fit = self.fit_of_pull(&pull).await;
        pull
    }

    async fn fit_of_pull(&self, pull: &Pull) -> Option<Fit> {
        let facts = self.inner.pulls.facts(&pull.id).await?;
        Some(self.fit_by_settings(&pull.model, facts.info.as_deref()?))
    }

    /// With the options that the model has, or would have.
    fn fit_by_settings(&self, id: &str, info: &GgufInfo) -> Fit {
        let settings = self.settings();
        let options = settings.models.get(id).cloned().unwrap_or_default();
        let context = options.context.unwrap_or(settings.context_length);
        let parallel = options.parallel.unwrap_or(settings.parallel);
        self.fit_of(info, context, parallel, options.gpu_layers, &settings)
    }

    /// Announces progress to whoever listens.
    pub(super) async fn announce_pulls(self) {
        let mut changes = self.inner.pulls.watch();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.inner.stop.cancelled() => return,
            }
            changes.mark_unchanged();
            if self.inner.bus.listeners() > 0 {
                self.inner.bus.send(Event::Pulls { pulls: self.pulls().await });
            }
        }
    }

    /// Writes down what became of pulls, and swaps in what was asked for.
    pub(super) async fn write_pull_notables(self, mut notables: mpsc::Receiver<PullNotable>) {
        loop {
            let notable = tokio::select! {
                notable = notables.recv() => notable,
                () = self.inner.stop.cancelled() => notables.try_recv().ok(),
            };
            let Some(notable) = notable else { return };
            match notable {
                PullNotable::Started { model, .. } => {
                    self.record(ActivityKind::PullStarted, format!("Pulling {model}")).await;
                }
                PullNotable::Done { model, swap_when_done, .. } => {
                    self.record(ActivityKind::ModelInstalled, format!("{model} pulled")).await;
                    self.refresh_models(&model.id()).await;
                    // A model that was pulled again may leave layers that nothing refers to.
                    self.collect_garbage().await;
                    self.models_changed();
                    if swap_when_done && let Err(e) = self.swap_model(model.id()).await {
                        let text = format!("{model} is here but could not be swapped in: {e}");
                        self.record(ActivityKind::Warning, text).await;
                    }
                }
                PullNotable::Paused { model, reason, .. } => {
                    let text = format!("Pull of {model} paused: {reason}");
                    self.record(ActivityKind::PullPaused, text).await;
                }
                PullNotable::Failed { model, reason, .. } => {
                    let text = format!("Pull of {model} failed: {reason}");
                    self.record(ActivityKind::PullFailed, text).await;
                }
            }
        }
    }
}
