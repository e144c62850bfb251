//! Whether models will run here: the machine, what its owner keeps, the catalogue.

use std::{path::Path, sync::PoisonError};

use agent_api::{
    Settings,
    catalogue::{Catalogue, CatalogueQuery},
    fit::Fit,
    hardware::Hardware,
    models::FitQuery,
};

use super::{Node, NodeError, library::blocking};
use crate::{
    machine::{self, Overrides},
    models::{
        catalogue::{Entry, Variant},
        fit::{self, Capacity},
        gguf::{GgufInfo, read_gguf},
    },
};

/// What the fit of a model depends on, read in the background after the start and again whenever
/// somebody looks at the hardware.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    memory_bytes: u64,
    bandwidth: Option<f64>,
    /// Of the largest GPU that this build can use.
    gpu_memory: Option<u64>,
    gpu_bandwidth: Option<f64>,
    unified: bool,
}

impl Node {
    /// What models may take: the machine minus what its owner keeps.
    pub(super) fn capacity(&self, settings: &Settings) -> Capacity {
        let measured = *self.inner.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = measured.unwrap_or_else(|| Measured {
            memory_bytes: machine::total_memory().unwrap_or(0),
            ..Measured::default()
        });
        // A memory that cannot be read is not a reason to call everything too large.
        let total = match measured.memory_bytes {
            0 => u64::MAX >> 1,
            bytes => bytes,
        };
        let gpu = measured.gpu_memory.unwrap_or(0);
        Capacity {
            ram_limit: total.saturating_sub(settings.ram_reserve_bytes),
            gpu_limit: gpu.saturating_sub(settings.gpu_reserve_bytes),
            gpu_usable: measured.gpu_memory.is_some(),
            unified: measured.unified,
            ram_bandwidth: measured.bandwidth,
            gpu_bandwidth: measured.gpu_bandwidth,
        }
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
                let known = self.inner.catalogue.by_pull_name(name);
                let (entry, variant) =
                    known.ok_or_else(|| NodeError::NoSuchModel(name.to_owned()))?;
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
        Ok(self.inner.catalogue.describe(&q, fit, |name| installed.contains(name)))
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
        let usable = hardware.gpus.iter().filter(|gpu| gpu.usable);
        let gpu_memory = usable.filter_map(|gpu| gpu.memory_bytes).max();
        let measured = Measured {
            memory_bytes: hardware.memory_bytes,
            bandwidth: hardware.memory_bandwidth,
            gpu_memory,
            gpu_bandwidth,
            unified: hardware.unified_memory,
        };
        *self.inner.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
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
