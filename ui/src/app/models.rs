//! What the owner can do with models, and what the page knows about them.

use std::{pin::Pin, time::Duration};

use agent_api::{
    endpoint::{
        GetHardware, ListModels, Nothing, PatchSettings, PostModelLoad, PostModelOptions,
        PostModelPull, PostModelRemove, PostModelSwap, PostModelUnload, PostModelVerify,
        PostPullCancel, PostPullPause, PostPullResume,
    },
    hardware::Hardware,
    models::{InstalledModel, ModelList, ModelOptions, SetModelOptions, SwapModel, Verified},
    pull::{ModelName, Pull, PullId, PullRequest},
    settings::SettingsPatch,
};
use leptos::{prelude::*, task::spawn_local};

use super::{App, Toast};
use crate::{
    backend,
    derived::{Derived, derived},
    format,
};

/// Boxed, so that what goes around it is compiled once.
type Action<T> = Pin<Box<dyn Future<Output = Result<T, backend::CallError>>>>;

/// Several changes at once, as a swap makes them, cause one question.
const SETTLE: Duration = Duration::from_millis(200);

/// Installed models, and the dialogs about models: each is open while its signal holds something.
#[derive(Clone, Copy)]
pub struct Library {
    /// The last answer of `/model/list`, or why there is none.
    pub list: RwSignal<Option<Result<ModelList, String>>>,
    pub hardware: RwSignal<Option<Result<Hardware, String>>>,
    /// Ids of models that something was asked for and has not ended.
    pub busy: RwSignal<Vec<String>>,
    /// Id of the model that a swap is asked about.
    pub swap: RwSignal<Option<String>>,
    pub remove: RwSignal<Option<InstalledModel>>,
    pub options: RwSignal<Option<InstalledModel>>,
    pub details: RwSignal<Option<String>>,
    /// The name that the pull dialog begins with.
    pub pull: RwSignal<Option<String>>,
    pub cancel: RwSignal<Option<Pull>>,
    pub import: RwSignal<bool>,
    /// A question for the list is on its way.
    asking: StoredValue<bool>,
}

impl Default for Library {
    fn default() -> Self {
        Self {
            list: RwSignal::new(None),
            hardware: RwSignal::new(None),
            busy: RwSignal::new(Vec::new()),
            swap: RwSignal::new(None),
            remove: RwSignal::new(None),
            options: RwSignal::new(None),
            details: RwSignal::new(None),
            pull: RwSignal::new(None),
            cancel: RwSignal::new(None),
            import: RwSignal::new(false),
            asking: StoredValue::new(false),
        }
    }
}

impl Library {
    /// The installed models, as far as known.
    pub fn models(self) -> Vec<InstalledModel> {
        self.list
            .with(|l| l.as_ref().and_then(|l| l.as_ref().ok()).map(|l| l.models.clone()))
            .unwrap_or_default()
    }

    /// Reads a part of the list that changes only when its value does.
    pub fn part<T: PartialEq + Send + Sync + 'static>(
        self,
        read: impl Fn(&ModelList) -> T + Send + Sync + 'static,
    ) -> Derived<Option<T>> {
        derived(move || self.list.with(|l| l.as_ref()?.as_ref().ok().map(&read)))
    }

    pub fn model(self, id: &str) -> Option<InstalledModel> {
        self.list.with(|l| l.as_ref()?.as_ref().ok()?.models.iter().find(|m| m.id == id).cloned())
    }

    pub fn is_busy(self, id: &str) -> bool {
        self.busy.with(|b| b.iter().any(|busy| busy == id))
    }
}

impl App {
    pub fn load_models(self) {
        spawn_local(async move {
            let list = backend::call(ListModels, &Nothing {}).await.map_err(|e| e.to_string());
            self.library.list.set(Some(list));
        });
    }

    pub(super) fn load_models_soon(self) {
        let asking = self.library.asking;
        if asking.get_value() {
            return;
        }
        asking.set_value(true);
        set_timeout(
            move || {
                asking.set_value(false);
                self.load_models();
            },
            SETTLE,
        );
    }

    pub fn load_hardware(self) {
        spawn_local(async move {
            let facts = backend::call(GetHardware, &Nothing {}).await.map_err(|e| e.to_string());
            self.library.hardware.set(Some(facts));
        });
    }

    pub(super) fn announce(self, pulls: &[Pull]) {
        let Some(pull) = pulls.last() else { return };
        let swaps = pull.swap_when_done;
        let text = if swaps {
            format!("{} is ready and becomes the active model", pull.model)
        } else {
            format!("{} is ready", pull.model)
        };
        let swap_to = (!swaps).then(|| pull.model.clone());
        self.toast.set(Some(Toast { failed: false, text, swap_to }));
        self.load_models_soon();
    }

    /// Asks before the swap: what it evicts and what memory it takes.
    pub fn ask_to_swap(self, id: String) {
        self.library.swap.set(Some(id));
    }

    /// Runs one action on a model, with its row marked busy. Ends in a toast where it fails.
    fn act_on(self, id: String, failed: &'static str, action: Action<Option<String>>) {
        let busy = self.library.busy;
        if busy.with_untracked(|b| b.contains(&id)) {
            return;
        }
        busy.update(|b| b.push(id.clone()));
        spawn_local(async move {
            match action.await {
                Ok(Some(done)) => self.done(done),
                Ok(None) => {}
                Err(error) => self.failed(format!("{failed} {error}")),
            }
            busy.update(|b| b.retain(|other| *other != id));
            self.load_models();
        });
    }

    pub fn swap(self, model: InstalledModel) {
        self.act_on(
            model.id.clone(),
            "Not swapped.",
            Box::pin(async move {
                backend::call(PostModelSwap, &SwapModel { model: model.id }).await?;
                Ok(Some(format!("{} is the active model", model.name)))
            }),
        );
    }

    pub fn load(self, model: InstalledModel) {
        self.act_on(
            model.id.clone(),
            "Not loaded.",
            Box::pin(async move {
                backend::call(PostModelLoad, &ModelName { model: model.id }).await?;
                Ok(Some(format!("{} is in memory", model.name)))
            }),
        );
    }

    pub fn unload(self, model: InstalledModel) {
        self.act_on(
            model.id.clone(),
            "Not unloaded.",
            Box::pin(async move {
                backend::call(PostModelUnload, &ModelName { model: model.id }).await?;
                Ok(None)
            }),
        );
    }

    pub fn remove(self, model: InstalledModel) {
        self.act_on(
            model.id.clone(),
            "Not removed.",
            Box::pin(async move {
                let removed =
                    backend::call(PostModelRemove, &ModelName { model: model.id }).await?;
                let freed = format::file_size(removed.freed_bytes);
                Ok(Some(format!("{} is removed, {freed} are free again", model.name)))
            }),
        );
    }

    /// Hashes the model's layers again; minutes for a large one.
    pub fn verify(self, model: InstalledModel) {
        self.act_on(
            model.id.clone(),
            "Not verified.",
            Box::pin(async move {
                let checked =
                    backend::call(PostModelVerify, &ModelName { model: model.id }).await?;
                if checked.damaged.is_empty() {
                    let bytes = format::file_size(checked.bytes);
                    return Ok(Some(format!("{} is intact: {bytes} hashed", model.name)));
                }
                self.failed(damaged(&model.name, &checked));
                Ok(None)
            }),
        );
    }

    pub fn set_options(self, id: String, options: ModelOptions) {
        self.act_on(
            id.clone(),
            "Options not saved.",
            Box::pin(async move {
                backend::call(PostModelOptions, &SetModelOptions { model: id, options }).await?;
                Ok(None)
            }),
        );
    }

    /// Starts a pull and says so, for buttons that are far from the list of downloads.
    pub fn start_pull(self, request: PullRequest, size: String) {
        spawn_local(async move {
            match backend::call(PostModelPull, &request).await {
                Ok(pull) => self.done(format!("Pulling {}, {size}", pull.model)),
                Err(error) => self.failed(format!("Not pulled. {error}")),
            }
        });
    }

    pub fn pause_pull(self, id: String) {
        self.pull_call(
            "Not paused.",
            Box::pin(async move { backend::call(PostPullPause, &PullId { id }).await.map(|_| ()) }),
        );
    }

    pub fn resume_pull(self, id: String) {
        self.pull_call(
            "Not resumed.",
            Box::pin(
                async move { backend::call(PostPullResume, &PullId { id }).await.map(|_| ()) },
            ),
        );
    }

    pub fn cancel_pull(self, id: String) {
        self.pull_call(
            "Not cancelled.",
            Box::pin(async move {
                let left = backend::call(PostPullCancel, &PullId { id }).await?;
                self.state.update(|s| s.pulls = left.pulls);
                Ok(())
            }),
        );
    }

    fn pull_call(self, failed: &'static str, action: Action<()>) {
        spawn_local(async move {
            // What changed comes with the next event.
            if let Err(error) = action.await {
                self.failed(format!("{failed} {error}"));
            }
        });
    }

    /// A setting that is changed outside of the Settings panel.
    pub fn patch_settings(self, patch: SettingsPatch) {
        spawn_local(async move {
            match backend::call(PatchSettings, &patch).await {
                Ok(view) => {
                    self.state.update(|s| s.settings = Some(view.settings));
                    // The list carries the disk budget.
                    self.load_models();
                }
                Err(error) => {
                    self.failed(format!("Not saved. {error}"));
                    // Fields show the old value again.
                    self.state.update(|_| {});
                }
            }
        });
    }
}

fn damaged(name: &str, checked: &Verified) -> String {
    let layers = format::counted(checked.damaged.len() as u64, "layer is", "layers are");
    format!("{name} is damaged: {layers} not what the digest says. Pull it again to repair it.")
}
