//! What a model takes, decided before the runner touches the file.

use agent_api::{
    fit::Fit,
    runner::{Device, LoadModel, reads_weights},
};

use super::LoadOptions;
use crate::{
    models::{
        ModelFile,
        fit::{Capacity, fit},
        gguf::GgufInfo,
    },
    text::size,
};

/// A load that may begin once there is room for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Admission {
    pub(super) load: LoadModel,
    /// Bytes of RAM.
    pub(super) needs: u64,
    /// Bytes of them that are mapped from the file: the system calls them available, because it
    /// could read them again.
    pub(super) mapped: u64,
    weights: u64,
    /// Bytes of GPU memory.
    pub(super) gpu_bytes: u64,
    cache: u64,
}

/// GPUs that layers may go to, and what models there take already.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gpus {
    pub(super) devices: Vec<Device>,
    /// Bytes that other programs held when the devices were last looked at.
    pub(super) foreign: u64,
    pub(super) taken: u64,
    pub(super) reserve: u64,
}

impl Gpus {
    /// Takes note of devices as a runner saw them while models of this node held `ours` bytes: at
    /// least the first, at most the second, because one that comes or goes holds a part. What was
    /// free then says little later, when those have gone; what others held is the better guess.
    pub(super) fn seen(&mut self, devices: &[Device], ours: (u64, u64)) {
        self.devices = devices.to_vec();
        let held =
            devices.iter().map(|device| device.memory_bytes.saturating_sub(device.free_bytes));
        let held: u64 = held.sum();
        let (least, most) = ours;
        let range = (held.saturating_sub(most), held.saturating_sub(least));
        self.foreign = self.foreign.max(range.0).min(range.1);
    }

    /// Bytes that one more model may take.
    fn room(&self) -> u64 {
        let total: u64 = self.devices.iter().map(|device| device.memory_bytes).sum();
        total.saturating_sub(self.foreign).saturating_sub(self.taken).saturating_sub(self.reserve)
    }
}

/// The load command and what it takes, or the reason why the file is refused.
pub(super) fn plan(
    file: &ModelFile,
    options: LoadOptions,
    gpus: &Gpus,
) -> Result<Admission, String> {
    let info = match &file.head {
        Ok(info) => info,
        Err(e) => return Err(format!("{} cannot be loaded: {e}.", file.path.display())),
    };
    let estimate = estimate(info, options, capped(info, options.context), gpus);
    // Weights are spread evenly over the layers and the output, which counts as one more.
    let layers = u128::from(info.layers) + 1;
    let left = layers.saturating_sub(u128::from(estimate.gpu_layers));
    let in_ram = u128::from(estimate.weights_bytes) * left / layers;
    Ok(Admission {
        load: LoadModel {
            path: file.path.display().to_string(),
            context: estimate.context,
            slots: options.slots,
            threads: options.threads,
            gpu_layers: estimate.gpu_layers,
        },
        needs: estimate.total_bytes.saturating_sub(estimate.gpu_bytes),
        mapped: match reads_weights(info.file_type) {
            true => 0,
            false => u64::try_from(in_ram).unwrap_or(u64::MAX),
        },
        gpu_bytes: estimate.gpu_bytes,
        weights: estimate.weights_bytes,
        cache: estimate.cache_bytes,
    })
}

/// What the file cannot use is not reserved.
fn capped(info: &GgufInfo, context: u32) -> u32 {
    match info.context_train {
        0 => context,
        trained => context.min(trained),
    }
}

/// The estimate that the panel shows, with the GPU's memory as it is now and RAM without limit:
/// whether there is enough of that is the pool's to say.
fn estimate(info: &GgufInfo, options: LoadOptions, context: u32, gpus: &Gpus) -> Fit {
    let capacity = Capacity {
        ram_limit: u64::MAX,
        gpu_limit: gpus.room(),
        gpu_usable: !gpus.devices.is_empty(),
        ..Capacity::default()
    };
    fit(info, context, options.slots, options.gpu_layers, &capacity)
}

/// The largest context from `at_least` to `wanted` tokens with which the model takes no more than
/// `room` bytes; `None` if not even `at_least` does, or nothing larger can be had.
pub(super) fn largest_context(
    file: &ModelFile,
    options: LoadOptions,
    gpus: &Gpus,
    (at_least, wanted): (u32, u32),
    room: i128,
) -> Option<u32> {
    let info = file.head.as_ref().ok()?;
    let fits = |context| {
        let plan = plan(file, LoadOptions { context, ..options }, gpus);
        plan.is_ok_and(|plan| i128::from(plan.needs) <= room)
    };
    let (mut low, mut high) = (at_least, capped(info, wanted));
    if high <= low || !fits(low) {
        return None;
    }
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    (low > at_least).then_some(low)
}

impl Admission {
    /// Another program finds the memory.
    pub(super) fn elsewhere(self) -> Self {
        Self { needs: 0, mapped: 0, weights: 0, gpu_bytes: 0, cache: 0, ..self }
    }

    /// Why a model that needs more than there is stays out, with both numbers.
    pub(super) fn no_room(&self, id: &str, has: u64) -> String {
        format!(
            "{id} needs about {} of memory ({} weights, {} cache for {} requests of {} tokens) \
             and {} is free. Close other programs, choose a smaller model, or lower “Context length” \
             or “Requests at a time” in the settings.",
            size(self.needs),
            size(self.weights),
            size(self.cache),
            self.load.slots,
            self.load.context,
            size(has),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::models::gguf::{GgufError, GgufInfo};

    fn file(head: Result<GgufInfo, Arc<GgufError>>) -> ModelFile {
        ModelFile { id: "m".into(), path: "/models/m.gguf".into(), head, ..ModelFile::default() }
    }

    fn seven_billion() -> GgufInfo {
        GgufInfo {
            layers: 32,
            embedding: 4096,
            heads: 32,
            heads_kv: 8,
            context_train: 8192,
            weight_bytes: 4_000_000_000,
            ..GgufInfo::default()
        }
    }

    const OPTIONS: LoadOptions =
        LoadOptions { context: 16_384, slots: 2, threads: None, gpu_layers: None };

    fn gpu(gigabytes: u64) -> Gpus {
        let bytes = gigabytes * 1_000_000_000;
        let device = Device {
            name: "GPU0".into(),
            description: "test".into(),
            memory_bytes: bytes,
            free_bytes: bytes,
        };
        Gpus { devices: vec![device], foreign: 0, taken: 0, reserve: 500_000_000 }
    }

    #[test]
    fn a_gpu_that_was_full_of_our_own_models_is_free_once_they_have_gone() {
        let mut gpus = gpu(24);
        let full = Device { free_bytes: 1_000_000_000, ..gpus.devices[0].clone() };
        gpus.seen(std::slice::from_ref(&full), (21_000_000_000, 21_000_000_000));
        assert_eq!((gpus.foreign, gpus.room()), (2_000_000_000, 21_500_000_000));
        gpus.seen(std::slice::from_ref(&full), (0, 23_000_000_000));
        assert_eq!(gpus.foreign, 2_000_000_000, "one that comes or goes teaches nothing new");
        gpus.seen(&[full], (0, 0));
        assert_eq!(gpus.room(), 500_000_000, "other programs hold it");
    }

    #[test]
    fn a_model_gets_the_context_it_was_trained_for_and_no_more() {
        let plan = plan(&file(Ok(seven_billion())), OPTIONS, &Gpus::default()).expect("a plan");
        assert_eq!(plan.load.context, 8192);
        assert_eq!(plan.load.gpu_layers, 0, "there is no GPU");
        // 32 layers x 8 heads x 256 x 2 bytes x 8192 tokens x 2 slots = 2.1 GB
        assert!(plan.needs > 6_000_000_000 && plan.needs < 6_500_000_000, "{}", plan.needs);
    }

    #[test]
    fn a_model_too_large_is_refused_with_both_numbers_and_what_to_do() {
        let plan = plan(&file(Ok(seven_billion())), OPTIONS, &Gpus::default()).expect("a plan");
        let why = plan.no_room("m", 3_000_000_000);
        assert!(why.contains("6.2 GB") && why.contains("3.0 GB is free"), "{why}");
        assert!(why.contains("smaller model"), "{why}");
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let head = Err(Arc::new(GgufError::Truncated { has: 5, needs: 10 }));
        let why = plan(&file(head), OPTIONS, &Gpus::default()).expect_err("refused");
        assert!(why.contains("/models/m.gguf") && why.contains("cut off"), "{why}");
    }

    #[test]
    fn layers_go_to_the_gpu_as_far_as_they_fit_or_as_the_owner_says() {
        let file = file(Ok(seven_billion()));
        let all = plan(&file, OPTIONS, &gpu(24)).expect("a plan");
        assert_eq!(all.load.gpu_layers, 33);
        assert!(all.needs < 200_000_000 && all.mapped == 0, "{all:?}");
        let half = plan(&file, OPTIONS, &gpu(4)).expect("a plan");
        assert!((10..25).contains(&half.load.gpu_layers), "{half:?}");
        let taken = Gpus { taken: 23_000_000_000, ..gpu(24) };
        assert_eq!(plan(&file, OPTIONS, &taken).expect("a plan").load.gpu_layers, 0);
        let set = LoadOptions { gpu_layers: Some(7), ..OPTIONS };
        assert_eq!(plan(&file, set, &gpu(24)).expect("a plan").load.gpu_layers, 7);
    }

    #[test]
    fn a_larger_context_is_what_memory_and_training_allow() {
        let file = file(Ok(seven_billion()));
        let none = Gpus::default();
        let grow = |wanted, room| largest_context(&file, OPTIONS, &none, (2048, wanted), room);
        assert_eq!(grow(4096, i128::MAX), Some(4096));
        assert_eq!(grow(100_000, i128::MAX), Some(8192), "what it was trained for");
        assert_eq!(grow(1024, i128::MAX), None, "never smaller");
        let context = grow(8192, 5_500_000_000).expect("something between");
        assert!(context > 2048 && context < 8192, "{context}");
        assert_eq!(grow(8192, 1_000_000_000), None, "no room at all");
    }
}
