//! What the owner does with models: finding, pulling, swapping, removing.

use std::sync::Arc;

use agent_api::{
    catalogue::{Catalogue, CatalogueQuery},
    fit::Fit,
    hardware::Hardware,
    models::{
        CopyModel, FitQuery, ImportModel, InstalledModel, ModelDetails, ModelStatus, Removed,
        SetModelOptions, SwapPreview, Verified,
    },
    pull::{Pull, PullPreview, PullRequest},
    settings::{RegistryLogin, SettingsView},
};
use futures_util::Stream;

use super::{Node, NodeError};
use crate::inference::KeepAlive;

/// What a model brings along for requests that say nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelDefaults {
    pub system: Option<String>,
    /// Ollama's `PARAMETER`s: `temperature`, `top_k`, `stop`, `num_ctx`...
    pub parameters: serde_json::Map<String, serde_json::Value>,
}

const NOT_YET: &str = "not built yet";

impl Node {
    /// The installed model that a request means by a name: its id, or its id without `:latest`.
    pub async fn find_installed(&self, name: &str) -> Result<InstalledModel, NodeError> {
        let list = self.list_models().await;
        let found = list.models.into_iter().find(|model| model.id == name);
        found.ok_or_else(|| NodeError::NoSuchModel(name.to_owned()))
    }

    pub async fn model_defaults(&self, _name: &str) -> Result<Arc<ModelDefaults>, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn show_model(&self, _name: &str) -> Result<ModelDetails, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn remove_model(&self, _name: &str) -> Result<Removed, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn copy_model(&self, _copy: CopyModel) -> Result<InstalledModel, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn import_model(&self, _import: ImportModel) -> Result<InstalledModel, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn verify_model(&self, _name: &str) -> Result<Verified, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn model_fit(&self, _query: FitQuery) -> Result<Fit, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    /// What a swap would do: what leaves, what finishes first, the memory before and after.
    pub async fn swap_preview(&self, name: &str) -> Result<SwapPreview, NodeError> {
        let (model, preview) = self.preview_swap(name).await?;
        Ok(SwapPreview {
            load_ms: model.residency.as_ref().and_then(|r| r.loaded.as_ref()).map(|l| l.load_ms),
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
        self.load_beside(name, keep).await?;
        Ok(self.model_status())
    }

    /// Frees a model's memory after its requests in flight.
    pub async fn unload_model(&self, name: &str) -> Result<ModelStatus, NodeError> {
        self.free(name).await?;
        Ok(self.model_status())
    }

    pub async fn set_model_options(
        &self,
        _set: SetModelOptions,
    ) -> Result<InstalledModel, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    /// Begins a pull, or gives the one that is under way for this model.
    pub async fn start_pull(&self, _request: PullRequest) -> Result<Pull, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn preview_pull(&self, _model: &str) -> Result<PullPreview, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub fn pulls(&self) -> Vec<Pull> {
        Vec::new()
    }

    /// A pull now and after every change, until it is settled (then the stream ends).
    pub fn watch_pull(&self, _id: &str) -> Option<impl Stream<Item = Pull> + Send + use<>> {
        None::<futures_util::stream::Empty<Pull>>
    }

    pub async fn pause_pull(&self, _id: &str) -> Result<Pull, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn resume_pull(&self, _id: &str) -> Result<Pull, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn cancel_pull(&self, _id: &str) -> Result<(), NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn catalogue(&self, _query: CatalogueQuery) -> Result<Catalogue, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn registry_login(&self, _login: RegistryLogin) -> Result<SettingsView, NodeError> {
        Err(NodeError::BadRequest(NOT_YET.into()))
    }

    pub async fn hardware(&self) -> Hardware {
        Hardware::default()
    }
}
