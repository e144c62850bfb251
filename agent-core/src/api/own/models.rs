//! The product's paths about models, pulls, the catalogue and the machine.

use agent_api::{
    catalogue::{Catalogue, CatalogueQuery, UpdateCatalogue},
    endpoint::Nothing,
    fit::Fit,
    hardware::Hardware,
    models::{
        CopyModel, FitQuery, ImportModel, InstalledModel, ModelDetails, ModelList, ModelStatus,
        Removed, SetModelOptions, ShowModel, SwapModel, SwapPreview, Verified,
    },
    pull::{ModelName, Pull, PullId, PullList, PullPreview, PullRequest},
    settings::{RegistryLogin, SettingsView},
};

use super::Answer;
use crate::node::Node;

pub(in crate::api) async fn list(node: Node, _: Nothing) -> Answer<ModelList> {
    Ok(node.list_models().await)
}

pub(in crate::api) async fn status(node: Node, _: Nothing) -> Answer<ModelStatus> {
    Ok(node.model_status())
}

pub(in crate::api) async fn swap(node: Node, swap: SwapModel) -> Answer<ModelStatus> {
    Ok(node.swap_model(swap.model).await?)
}

pub(in crate::api) async fn swap_preview(node: Node, swap: SwapModel) -> Answer<SwapPreview> {
    Ok(node.swap_preview(&swap.model).await?)
}

pub(in crate::api) async fn show(node: Node, show: ShowModel) -> Answer<ModelDetails> {
    Ok(node.show_model(&show.model).await?)
}

pub(in crate::api) async fn fit(node: Node, query: FitQuery) -> Answer<Fit> {
    Ok(node.model_fit(query).await?)
}

pub(in crate::api) async fn load(node: Node, named: ModelName) -> Answer<ModelStatus> {
    Ok(node.load_model(&named.model, None).await?)
}

pub(in crate::api) async fn unload(node: Node, named: ModelName) -> Answer<ModelStatus> {
    Ok(node.unload_model(&named.model).await?)
}

pub(in crate::api) async fn set_options(
    node: Node,
    set: SetModelOptions,
) -> Answer<InstalledModel> {
    Ok(node.set_model_options(set).await?)
}

pub(in crate::api) async fn remove(node: Node, named: ModelName) -> Answer<Removed> {
    Ok(node.remove_model(&named.model).await?)
}

pub(in crate::api) async fn copy(node: Node, copy: CopyModel) -> Answer<InstalledModel> {
    Ok(node.copy_model(copy).await?)
}

pub(in crate::api) async fn import(node: Node, import: ImportModel) -> Answer<InstalledModel> {
    Ok(node.import_model(import).await?)
}

pub(in crate::api) async fn verify(node: Node, named: ModelName) -> Answer<Verified> {
    Ok(node.verify_model(&named.model).await?)
}

pub(in crate::api) async fn start_pull(node: Node, pull: PullRequest) -> Answer<Pull> {
    Ok(node.start_pull(pull).await?)
}

pub(in crate::api) async fn preview_pull(node: Node, named: ModelName) -> Answer<PullPreview> {
    Ok(node.preview_pull(&named.model).await?)
}

pub(in crate::api) async fn pulls(node: Node, _: Nothing) -> Answer<PullList> {
    Ok(PullList { pulls: node.pulls().await })
}

pub(in crate::api) async fn pause_pull(node: Node, pull: PullId) -> Answer<Pull> {
    Ok(node.pause_pull(&pull.id).await?)
}

pub(in crate::api) async fn resume_pull(node: Node, pull: PullId) -> Answer<Pull> {
    Ok(node.resume_pull(&pull.id).await?)
}

pub(in crate::api) async fn cancel_pull(node: Node, pull: PullId) -> Answer<PullList> {
    node.cancel_pull(&pull.id).await?;
    Ok(PullList { pulls: node.pulls().await })
}

pub(in crate::api) async fn catalogue(node: Node, query: CatalogueQuery) -> Answer<Catalogue> {
    Ok(node.catalogue(query).await?)
}

pub(in crate::api) async fn registry_login(
    node: Node,
    login: RegistryLogin,
) -> Answer<SettingsView> {
    Ok(node.registry_login(login).await?)
}

pub(in crate::api) async fn hardware(node: Node, _: Nothing) -> Answer<Hardware> {
    Ok(node.hardware().await)
}

pub(in crate::api) async fn update_catalogue(
    node: Node,
    update: UpdateCatalogue,
) -> Answer<Catalogue> {
    Ok(node.update_catalogue(update).await?)
}
