//! What the models in memory take, against what there is.

use agent_api::{
    Settings,
    hardware::{GpuDevice, Hardware},
    models::{Backend, InstalledModel},
};

use crate::format;

/// The largest context the slider offers; longer ones are set in the model's options.
const MOST_CONTEXT: u32 = 262_144;
const LEAST_CONTEXT: u32 = 2_048;

/// A piece of the bar and its line in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The swatch's class.
    pub class: &'static str,
    pub name: String,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    pub title: &'static str,
    pub device: String,
    /// By models.
    pub used_bytes: u64,
    pub total_bytes: u64,
    pub parts: Vec<Part>,
    /// RAM that models take beside the GPU memory that the bar is about.
    pub also_ram_bytes: u64,
    /// Some model is held by a program whose memory is not known here.
    pub uncounted: bool,
}

/// The GPU that layers can be put on, if there is one with memory of its own.
pub fn usable_gpu(hardware: &Hardware) -> Option<&GpuDevice> {
    hardware.gpus.iter().find(|g| g.usable && g.memory_bytes.is_some())
}

/// GPU memory where a GPU is used, else RAM.
pub fn memory_use(
    hardware: &Hardware,
    settings: &Settings,
    models: &[InstalledModel],
) -> MemoryUse {
    let gpu = usable_gpu(hardware);
    let total_bytes = gpu.and_then(|g| g.memory_bytes).unwrap_or(hardware.memory_bytes);
    let kept = if gpu.is_some() { settings.gpu_reserve_bytes } else { settings.ram_reserve_bytes };
    let resident: Vec<_> = models.iter().filter(|m| m.residency.is_some()).collect();
    let mut sums = Sums::default();
    for fit in resident.iter().filter_map(|m| m.fit.as_ref()) {
        let here = if gpu.is_some() { fit.gpu_bytes } else { fit.total_bytes };
        sums.ram += fit.total_bytes.saturating_sub(here);
        if here >= fit.total_bytes {
            sums.weights += fit.weights_bytes;
            sums.cache += fit.cache_bytes;
            sums.buffers += fit.overhead_bytes;
        } else {
            sums.split += here;
        }
    }
    let used_bytes = sums.weights + sums.cache + sums.buffers + sums.split;
    let kept = kept.min(total_bytes.saturating_sub(used_bytes));
    let parts = [
        ("c1", "Weights".to_owned(), sums.weights),
        ("c2", cache_name(&resident), sums.cache),
        ("c3", "Buffers".to_owned(), sums.buffers),
        ("c4", "Models split with RAM".to_owned(), sums.split),
        ("c0", "Left for models".to_owned(), total_bytes.saturating_sub(used_bytes + kept)),
        ("hatch-idle", "Kept for you".to_owned(), kept),
    ];
    MemoryUse {
        title: if gpu.is_some() { "GPU memory" } else { "Memory" },
        device: gpu.map(|g| g.name.clone()).unwrap_or_default(),
        used_bytes,
        total_bytes,
        parts: parts
            .into_iter()
            .filter(|(_, _, bytes)| *bytes > 0)
            .map(|(class, name, bytes)| Part { class, name, bytes })
            .collect(),
        also_ram_bytes: if gpu.is_some() { sums.ram } else { 0 },
        uncounted: resident
            .iter()
            .any(|m| m.residency.as_ref().is_some_and(|r| r.backend == Backend::Ollama)),
    }
}

#[derive(Default)]
struct Sums {
    weights: u64,
    cache: u64,
    buffers: u64,
    split: u64,
    ram: u64,
}

/// `Cache, 32k × 3` where one model holds all of it.
fn cache_name(resident: &[&InstalledModel]) -> String {
    match resident {
        [only] => only.fit.as_ref().map_or("Cache".into(), |fit| {
            format!("Cache, {} × {}", format::context(fit.context), fit.parallel)
        }),
        _ => "Cache".into(),
    }
}

/// The bar in words, for those who do not see it.
pub fn spoken(parts: &[Part]) -> String {
    let parts: Vec<_> =
        parts.iter().map(|p| format!("{} {}", p.name, format::file_size(p.bytes))).collect();
    parts.join(", ")
}

/// The stops of a context slider: powers of two up to what the model was trained for, and the
/// value in force.
pub fn context_stops(trained: u32, current: u32) -> Vec<u32> {
    let most = match trained {
        0 => LEAST_CONTEXT,
        trained => trained.min(MOST_CONTEXT),
    };
    // Small models have small stops.
    let least = LEAST_CONTEXT.min((most / 4).max(256));
    let mut stops: Vec<u32> = std::iter::successors(Some(least), |c| c.checked_mul(2))
        .take_while(|c| *c <= most)
        .collect();
    for extra in [current.min(most), most] {
        if extra > 0 && !stops.contains(&extra) {
            stops.push(extra);
        }
    }
    stops.sort_unstable();
    stops
}

#[cfg(test)]
mod tests {
    use agent_api::fit::Verdict;

    use super::*;
    use crate::words::{fit::tests::fit, model::tests::model};

    const GB: u64 = 1_000_000_000;

    fn names(memory: &MemoryUse) -> Vec<&str> {
        memory.parts.iter().map(|p| p.name.as_str()).collect()
    }

    #[test]
    fn the_parts_add_up_to_the_whole() {
        let hardware = Hardware { memory_bytes: 16 * GB, ..Hardware::default() };
        let settings = Settings { ram_reserve_bytes: 2 * GB, ..Settings::default() };
        let mut loaded = model("a");
        loaded.fit = Some(fit(Verdict::FitsRam));
        loaded.residency = Some(crate::words::model::tests::residency("a"));
        let memory = memory_use(&hardware, &settings, &[loaded, model("b")]);
        assert_eq!(memory.title, "Memory");
        assert_eq!(memory.used_bytes, 4_900_000_000);
        assert_eq!(memory.parts.iter().map(|p| p.bytes).sum::<u64>(), 16 * GB);
        assert_eq!(
            names(&memory),
            ["Weights", "Cache, 8k × 4", "Buffers", "Left for models", "Kept for you"]
        );
    }

    #[test]
    fn a_split_model_is_one_piece_and_says_what_else_it_takes() {
        let gpu = GpuDevice {
            name: "GPU".into(),
            memory_bytes: Some(8 * GB),
            driver: None,
            source: "nvml".into(),
            usable: true,
            reason: None,
        };
        let hardware = Hardware { memory_bytes: 32 * GB, gpus: vec![gpu], ..Hardware::default() };
        let mut split = model("a");
        split.fit = Some(agent_api::fit::Fit { gpu_bytes: 3 * GB, ..fit(Verdict::Splits) });
        split.residency = Some(crate::words::model::tests::residency("a"));
        let memory = memory_use(&hardware, &Settings::default(), &[split]);
        assert_eq!((memory.title, memory.used_bytes), ("GPU memory", 3 * GB));
        assert_eq!(memory.also_ram_bytes, 1_900_000_000);
        assert_eq!(names(&memory)[0], "Models split with RAM");
    }

    #[test]
    fn the_slider_stops_where_the_training_did() {
        assert_eq!(context_stops(8_192, 4_096), [2_048, 4_096, 8_192]);
        assert_eq!(
            context_stops(40_960, 3_000),
            [2_048, 3_000, 4_096, 8_192, 16_384, 32_768, 40_960]
        );
        assert_eq!(context_stops(10_000_000, 4_096).last(), Some(&262_144));
        assert_eq!(context_stops(1_024, 1_024), [256, 512, 1_024]);
        assert_eq!(context_stops(0, 0).last(), Some(&2_048));
    }
}
