//! The computer the node runs on: what it is made of, and what its meters say.
//!
//! Nothing runs in the background: the node takes a reading when somebody looks. What cannot be
//! read is `None`. GPUs are found through NVIDIA's NVML where its library is installed, and in
//! sysfs for AMD's and Intel's drivers; Apple's have no public meter.

mod bandwidth;
mod gpu;
mod hardware;
mod meters;
mod tier;

use sysinfo::{MemoryRefreshKind, System};

pub use bandwidth::memory_bandwidth;
pub use gpu::gpu_bandwidth;
pub use hardware::{battery, read_hardware};
pub use meters::Meters;
pub use tier::{Overrides, tier_report};

/// Memory that a new model may take: what is free or can be freed, in bytes. `None` where that
/// cannot be read; a load is then tried, and the runner takes the risk.
pub fn available_memory() -> Option<u64> {
    let system = memory_read()?;
    let available = system.available_memory();
    // Inside a container the group's limit is the truth.
    Some(match system.cgroup_limits() {
        Some(limits) => available.min(limits.free_memory),
        None => available,
    })
}

/// RAM of this computer, in bytes; inside a container its limit. `None` where it cannot be read.
pub fn total_memory() -> Option<u64> {
    let system = memory_read()?;
    let total = system.total_memory();
    let total = system.cgroup_limits().map_or(total, |limits| total.min(limits.total_memory));
    Some(total).filter(|&bytes| bytes > 0)
}

fn memory_read() -> Option<System> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    Some(system)
}

/// The computer's name, cut to what settings allow; `EdgeCoder node` where there is none.
pub fn host_name() -> String {
    let name = System::host_name().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { "EdgeCoder node".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_a_part_of_all_memory() {
        let total = total_memory().expect("readable here");
        let available = available_memory().expect("readable here");
        assert!(available > 0 && available <= total, "{available} of {total}");
    }
}
