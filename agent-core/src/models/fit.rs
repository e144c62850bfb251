//! Whether a model will run on this computer, and how: arithmetic on what its file says.
//!
//! `memory` knows what the runner takes, calibrated against the real one by `tests/it/fit.rs`;
//! here it is weighed against what there is.

mod memory;
mod shape;
mod words;

use agent_api::{
    fit::{Fit, Verdict},
    hardware::Hardware,
};

pub use memory::{Need, need};
pub use shape::{Shape, fit_shape};

use super::gguf::GgufInfo;
use memory::Placement;

/// Smallest context that is worth recommending, in tokens.
const MIN_CONTEXT: u32 = 512;
/// Contexts are recommended in steps of this many tokens.
const CONTEXT_STEP: u32 = 1024;

/// What models may take of this computer, and how fast its memories are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Capacity {
    /// RAM, minus the owner's reserve, in bytes.
    pub ram_limit: u64,
    /// Memory of the GPU, minus the owner's reserve, in bytes.
    pub gpu_limit: u64,
    /// The runner can put layers on the GPU.
    pub gpu_usable: bool,
    /// CPU and GPU share one memory, so that both limits are of the same bytes.
    pub unified: bool,
    /// Bytes per second that can be read; `None`: not measured.
    pub ram_bandwidth: Option<f64>,
    pub gpu_bandwidth: Option<f64>,
}

impl Capacity {
    /// Of this computer. `ram_reserve` and `gpu_reserve` are the bytes that its owner keeps, the
    /// latter of each GPU; `gpu_bandwidth` in bytes per second, where it is known.
    pub fn of(
        hardware: &Hardware,
        ram_reserve: u64,
        gpu_reserve: u64,
        gpu_bandwidth: Option<f64>,
    ) -> Self {
        let usable = hardware.gpus.iter().filter(|gpu| gpu.usable);
        // llama.cpp shares a model out among all GPUs.
        let gpus = usable.filter_map(|gpu| gpu.memory_bytes);
        let gpu_limit = gpus.map(|bytes| bytes.saturating_sub(gpu_reserve)).sum();
        let unified = hardware.unified_memory;
        Self {
            ram_limit: hardware.memory_bytes.saturating_sub(ram_reserve),
            gpu_limit,
            gpu_usable: gpu_limit > 0,
            unified,
            ram_bandwidth: hardware.memory_bandwidth,
            gpu_bandwidth: if unified { hardware.memory_bandwidth } else { gpu_bandwidth },
        }
    }
}

/// Where and how well a model runs with `parallel` requests of `context` tokens each.
///
/// `gpu_layers` is the owner's wish; `None` puts as many layers on the GPU as fit.
pub fn fit(
    info: &GgufInfo,
    context: u32,
    parallel: u32,
    gpu_layers: Option<u32>,
    capacity: &Capacity,
) -> Fit {
    let model = memory::Model::new(info);
    let load = model.load(context, parallel);
    let placement = place(&load, gpu_layers, capacity);
    let verdict = match placement {
        None => Verdict::WontFit,
        Some(Placement { gpu_layers: 0, .. }) => Verdict::FitsRam,
        Some(placement) if placement.gpu_layers > info.layers => Verdict::FitsGpu,
        Some(_) => Verdict::Splits,
    };
    // What does not fit is described as its owner asked for it, in RAM if nothing was asked.
    let shown = placement.unwrap_or_else(|| load.placed(wished(&load, gpu_layers, capacity)));
    let need = shown.need;
    let tokens_per_s = placement.and_then(|placement| speed(&load, &placement, capacity));
    let mut fit = Fit {
        verdict,
        reason: String::new(),
        context: load.context,
        parallel: load.slots,
        weights_bytes: need.weights,
        cache_bytes: need.cache,
        overhead_bytes: need.overhead,
        total_bytes: need.total(),
        gpu_bytes: shown.gpu_bytes,
        gpu_layers: shown.gpu_layers,
        gpu_limit_bytes: if capacity.gpu_usable { capacity.gpu_limit } else { 0 },
        ram_limit_bytes: capacity.ram_limit,
        tokens_per_s,
        exact: info.cache_is_exact(),
    };
    fit.reason = match verdict {
        Verdict::WontFit => {
            let context = largest_context(&load, gpu_layers, capacity);
            words::refusal(&fit, capacity, context)
        }
        _ => words::promise(&fit, info.layers),
    };
    fit
}

/// How many layers are on the GPU in the description of something that does not fit.
fn wished(load: &memory::Load<'_>, gpu_layers: Option<u32>, capacity: &Capacity) -> u32 {
    let wish = if capacity.gpu_usable { gpu_layers.unwrap_or(0) } else { 0 };
    wish.min(load.all_layers())
}

/// The most layers on the GPU with which both memories suffice.
fn place(
    load: &memory::Load<'_>,
    gpu_layers: Option<u32>,
    capacity: &Capacity,
) -> Option<Placement> {
    let all = load.all_layers();
    let at = |layers| load.placed(layers);
    if !capacity.gpu_usable {
        return Some(at(0)).filter(|placement| suffices(placement, capacity));
    }
    if let Some(wish) = gpu_layers {
        return Some(at(wish.min(all))).filter(|placement| suffices(placement, capacity));
    }
    // Every layer more takes more of the GPU and less of RAM.
    let (mut most, mut too_many) = (0, all + 1);
    while too_many - most > 1 {
        let middle = most + (too_many - most) / 2;
        if at(middle).gpu_bytes <= capacity.gpu_limit {
            most = middle;
        } else {
            too_many = middle;
        }
    }
    // A GPU that little goes to costs more buffers than it saves.
    [most, 0].into_iter().map(at).find(|placement| suffices(placement, capacity))
}

fn suffices(placement: &Placement, capacity: &Capacity) -> bool {
    let in_ram = placement.need.total() - placement.gpu_bytes;
    let in_ram = if capacity.unified { placement.need.total() } else { in_ram };
    in_ram <= capacity.ram_limit
        && (placement.gpu_layers == 0 || placement.gpu_bytes <= capacity.gpu_limit)
}

/// The largest context below the load's with which the model fits.
fn largest_context(
    load: &memory::Load<'_>,
    gpu_layers: Option<u32>,
    capacity: &Capacity,
) -> Option<u32> {
    let context = load.context;
    let fits = |context| place(&load.with_context(context), gpu_layers, capacity).is_some();
    if context <= MIN_CONTEXT || !fits(MIN_CONTEXT) {
        return None;
    }
    // `low` steps fit, `high` steps do not.
    let (mut low, mut high) = (0, context.div_ceil(CONTEXT_STEP));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle * CONTEXT_STEP) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some((low * CONTEXT_STEP).max(MIN_CONTEXT))
}

/// Tokens per second of one answer, to two digits.
///
/// Every token needs all weights that compute it and the keys and values before it once, and
/// fetching them takes longer than the arithmetic. Taken in the middle of the context. Real
/// runners reach most of it, never more.
fn speed(load: &memory::Load<'_>, placement: &Placement, capacity: &Capacity) -> Option<f64> {
    let (ram, gpu) = load.bytes_per_token(placement.gpu_layers);
    let seconds = |bytes: u64, bandwidth: Option<f64>| match bytes {
        0 => Some(0.0),
        _ => bandwidth.filter(|b| *b > 0.0).map(|b| bytes as f64 / b),
    };
    let total = seconds(ram, capacity.ram_bandwidth)? + seconds(gpu, capacity.gpu_bandwidth)?;
    (total > 0.0).then(|| two_digits(1.0 / total))
}

fn two_digits(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return value;
    }
    let unit = 10_f64.powi(value.log10().floor() as i32 - 1);
    let rounded = (value / unit).round() * unit;
    // Away with what binary fractions add to 0.1.
    (rounded * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests;
