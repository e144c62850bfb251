//! Whether models will run here: the machine, what its owner keeps, the catalogue.

use std::{path::Path, sync::PoisonError};

use agent_api::{
    Settings,
    catalogue::{Catalogue, CatalogueQuery, UpdateCatalogue},
    fit::Fit,
    hardware::{Hardware, TierReport},
    models::FitQuery,
};

use super::{Node, NodeError, library::blocking};
use crate::{
    machine::{self, Overrides},
    models::{
        catalogue::{Catalogue as KnownModels, Entry, Variant, read_catalogue},
        fit::{self, Capacity},
        gguf::{GgufInfo, read_gguf},
    },
};

/// The machine as it was read last: in the background after the start, and whenever somebody looks.
#[derive(Debug, Default)]
pub(super) struct Measured {
    hardware: Hardware,
    /// Bytes per second that the GPU reads, where it is known.
    gpu_bandwidth: Option<f64>,
}

impl Measured {
    pub(super) fn tier(&self) -> &TierReport {
        &self.hardware.tier
    }
}

impl Node {
    /// What models may take: the machine minus what its owner keeps.
    pub(super) fn capacity(&self, settings: &Settings) -> Capacity {
        let mut measured = self.inner.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let Measured { hardware, gpu_bandwidth } = &mut *measured;
        if hardware.memory_bytes == 0 {
            // Not read yet. A memory that cannot be read at all is no reason to call everything
            // too large.
            hardware.memory_bytes = machine::total_memory().unwrap_or(u64::MAX >> 1);
        }
        Capacity::of(
            hardware,
            settings.ram_reserve_bytes,
            settings.gpu_reserve_bytes,
            *gpu_bandwidth,
        )
    }

    pub(super) fn fit_of(
        &self,
        info: &GgufInfo,
        context: u32,
        parallel: u32,
        gpu_layers: Option<u32>,
        settings: &Settings,
    ) -> Fit {
        fit::fit(info, context, parallel, gpu_layers, &self.capacity(settings))
    }

    /// The fit of an installed model, of a name in the catalogue, or of a GGUF file's path.
    pub async fn model_fit(&self, query: FitQuery) -> Result<Fit, NodeError> {
        let settings = self.settings();
        let name = query.model.trim();
        if name.starts_with('/') {
            let path = Path::new(name).to_path_buf();
            let info = blocking(move || {
                read_gguf(&path).map_err(|e| {
                    NodeError::BadRequest(format!("{} is not a model: {e}", path.display()))
                })
            })
            .await?;
            let context = query.context.unwrap_or(settings.context_length);
            let parallel = query.parallel.unwrap_or(settings.parallel);
            return Ok(self.fit_of(&info, context, parallel, query.gpu_layers, &settings));
        }
        let options = |id: &str| {
            let options = settings.models.get(id).cloned().unwrap_or_default();
            let context = query.context.or(options.context).unwrap_or(settings.context_length);
            let parallel = query.parallel.or(options.parallel).unwrap_or(settings.parallel);
            (context, parallel, query.gpu_layers.or(options.gpu_layers))
        };
        match self.find_file(name).await {
            Some(file) => {
                let (context, parallel, layers) = options(&file.id);
                let info = file.head.as_ref().map_err(|e| {
                    NodeError::BadRequest(format!("{} cannot be loaded: {e}", file.id))
                })?;
                Ok(self.fit_of(info, context, parallel, layers, &settings))
            }
            None => {
                let (context, parallel, _) = options(name);
                let catalogue = self.known_catalogue();
                let (entry, variant) = catalogue
                    .by_pull_name(name)
                    .ok_or_else(|| NodeError::NoSuchModel(name.to_owned()))?;
                Ok(fit_of_variant(entry, variant, context, parallel, &self.capacity(&settings)))
            }
        }
    }

    /// Models worth pulling, each with its fit here.
    pub async fn catalogue(&self, query: CatalogueQuery) -> Result<Catalogue, NodeError> {
        let settings = self.settings();
        let capacity = self.capacity(&settings);
        let installed: std::collections::HashSet<String> =
            self.model_files().await.into_iter().map(|file| file.id).collect();
        let fit = |entry: &Entry, variant: &Variant| {
            let (context, parallel) = (settings.context_length, settings.parallel);
            fit_of_variant(entry, variant, context, parallel, &capacity)
        };
        let q = query.q.unwrap_or_default();
        Ok(self.known_catalogue().describe(&q, fit, |name| installed.contains(name)))
    }

    fn known_catalogue(&self) -> KnownModels {
        self.inner.catalogue.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the catalogue by a newer file, if that is whole and newer.
    pub async fn update_catalogue(&self, update: UpdateCatalogue) -> Result<Catalogue, NodeError> {
        let known = self.known_catalogue();
        let data_dir = self.inner.config.paths.data_dir.clone();
        let newer = blocking(move || {
            let bytes = read_catalogue(Path::new(&update.path))?;
            Ok(known.install_update(&data_dir, &bytes)?)
        })
        .await?;
        *self.inner.catalogue.write().unwrap_or_else(PoisonError::into_inner) = newer;
        self.catalogue(CatalogueQuery::default()).await
    }

    /// What the computer is made of. The first call takes a moment: bandwidth is measured.
    pub async fn hardware(&self) -> Hardware {
        let settings = self.settings();
        let folder = self.inner.library.folder().to_path_buf();
        let devices = self.inner.inference.state().borrow().devices.clone();
        let overrides = Overrides { tier: settings.tier, class: settings.worker_class };
        let read = move || {
            let hardware = machine::read_hardware(&folder, &devices, overrides);
            (hardware, machine::gpu_bandwidth())
        };
        let (hardware, gpu_bandwidth) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let measured = Measured { hardware: hardware.clone(), gpu_bandwidth };
        let old = {
            let mut known = self.inner.measured.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, measured)
        };
        if old.hardware.tier != hardware.tier {
            self.inner.announce.notify_one();
        }
        hardware
    }
}

fn fit_of_variant(
    entry: &Entry,
    variant: &Variant,
    context: u32,
    parallel: u32,
    capacity: &Capacity,
) -> Fit {
    let context = entry.context.map_or(context, |trained| context.min(trained));
    let shape = entry.shape.as_ref();
    fit::fit_shape(entry.parameters, variant.size_bytes, shape, context, parallel, capacity)
}
