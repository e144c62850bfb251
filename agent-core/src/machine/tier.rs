//! The size class of a computer, and the kind of work it is good for.
//!
//! | Tier | from (any line) |
//! |---|---|
//! | studio-premium | 60 GB of memory that CPU and GPU share |
//! | | 120 GB of memory and 16 cores |
//! | | a GPU with 23 GB |
//! | mini-standard | 15 GB of memory and 6 cores |
//! | | a GPU with 8 GB |
//! | mini-economy | everything else |
//!
//! | Class | from |
//! |---|---|
//! | gpu | a GPU that models can use, with 6 GB |
//! | cpu | 8 GB of memory and 4 cores |
//! | storage | 500 GB free on one disk |
//! | edge | everything else |
//!
//! Cores are physical ones, gigabytes 10^9 bytes. Computers sold with 16, 64 or 128 GB and cards
//! sold with 24 GB report somewhat less, because firmware keeps a part; the thresholds allow for
//! that.

use agent_api::hardware::{Hardware, Tier, TierReport, WorkerClass};

const GB: u64 = 1_000_000_000;

const STUDIO_UNIFIED: u64 = 60 * GB;
const STUDIO_MEMORY: u64 = 120 * GB;
const STUDIO_CORES: u32 = 16;
const STUDIO_GPU: u64 = 23 * GB;
const STANDARD_MEMORY: u64 = 15 * GB;
const STANDARD_CORES: u32 = 6;
const STANDARD_GPU: u64 = 8 * GB;
const GPU_CLASS: u64 = 6 * GB;
const CPU_MEMORY: u64 = 8 * GB;
const CPU_CORES: u32 = 4;
const STORAGE_FREE: u64 = 500 * GB;

/// What the owner chose instead of the computed tier and class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub tier: Option<Tier>,
    pub class: Option<WorkerClass>,
}

/// Tier and class of this hardware, with the numbers that decided.
pub fn tier_report(hardware: &Hardware, overrides: Overrides) -> TierReport {
    let (computed, tier_reason) = tier(hardware);
    let (computed_class, class_reason) = class(hardware);
    let chosen = |is: bool, reason: String| match is {
        true => format!("You chose it. Computed: {reason}"),
        false => reason,
    };
    TierReport {
        tier: overrides.tier.unwrap_or(computed),
        computed,
        tier_reason: chosen(overrides.tier.is_some_and(|tier| tier != computed), tier_reason),
        class: overrides.class.unwrap_or(computed_class),
        computed_class,
        class_reason: chosen(
            overrides.class.is_some_and(|class| class != computed_class),
            class_reason,
        ),
    }
}

fn tier(hardware: &Hardware) -> (Tier, String) {
    let memory = hardware.memory_bytes;
    let cores = cores(hardware);
    // A GPU that shares the memory adds none.
    let gpu = if hardware.unified_memory { None } else { largest_gpu(hardware, |_| true) };
    if hardware.unified_memory && memory >= STUDIO_UNIFIED {
        let reason = format!("{} of memory that CPU and GPU share", gigabytes(memory));
        return (Tier::StudioPremium, reason);
    }
    if let Some((name, bytes)) = gpu.filter(|(_, bytes)| *bytes >= STUDIO_GPU) {
        return (Tier::StudioPremium, format!("{name} with {}", gigabytes(bytes)));
    }
    let of_memory = format!("{} of memory and {}", gigabytes(memory), counted(cores));
    if memory >= STUDIO_MEMORY && cores >= STUDIO_CORES {
        return (Tier::StudioPremium, of_memory);
    }
    if let Some((name, bytes)) = gpu.filter(|(_, bytes)| *bytes >= STANDARD_GPU) {
        return (Tier::MiniStandard, format!("{name} with {}", gigabytes(bytes)));
    }
    if memory >= STANDARD_MEMORY && cores >= STANDARD_CORES {
        return (Tier::MiniStandard, of_memory);
    }
    let needs = format!(
        "{of_memory}; mini-standard needs {} and {STANDARD_CORES} cores, or a GPU with {}",
        gigabytes(STANDARD_MEMORY),
        gigabytes(STANDARD_GPU),
    );
    (Tier::MiniEconomy, needs)
}

fn class(hardware: &Hardware) -> (WorkerClass, String) {
    let usable = largest_gpu(hardware, |usable| usable);
    if let Some((name, bytes)) = usable.filter(|(_, bytes)| *bytes >= GPU_CLASS) {
        return (WorkerClass::Gpu, format!("models can use {name} with {}", gigabytes(bytes)));
    }
    let cores = cores(hardware);
    let compute = format!("{} of memory and {}", gigabytes(hardware.memory_bytes), counted(cores));
    if hardware.memory_bytes >= CPU_MEMORY && cores >= CPU_CORES {
        return (WorkerClass::Cpu, format!("{compute}, no GPU that models can use"));
    }
    let free = hardware.disks.iter().map(|disk| disk.free_bytes).max().unwrap_or(0);
    if free >= STORAGE_FREE {
        return (WorkerClass::Storage, format!("{} free on disk; {compute}", gigabytes(free)));
    }
    let needs = format!(
        "{compute}; computing needs {} and {CPU_CORES} cores, storage {} free on one disk",
        gigabytes(CPU_MEMORY),
        gigabytes(STORAGE_FREE),
    );
    (WorkerClass::Edge, needs)
}

/// Half of the logical cores where the physical ones are not known.
fn cores(hardware: &Hardware) -> u32 {
    hardware.cores_physical.unwrap_or(hardware.cores_logical.div_ceil(2))
}

fn largest_gpu(hardware: &Hardware, wanted: impl Fn(bool) -> bool) -> Option<(&str, u64)> {
    let gpus = hardware.gpus.iter().filter(|gpu| wanted(gpu.usable));
    gpus.filter_map(|gpu| Some((gpu.name.as_str(), gpu.memory_bytes?))).max_by_key(|(_, n)| *n)
}

fn gigabytes(bytes: u64) -> String {
    format!("{} GB", (bytes + GB / 2) / GB)
}

fn counted(cores: u32) -> String {
    if cores == 1 { "1 core".into() } else { format!("{cores} cores") }
}

#[cfg(test)]
mod tests {
    use agent_api::hardware::{Disk, GpuDevice};

    use super::*;

    fn computer(memory: u64, cores: u32) -> Hardware {
        Hardware {
            memory_bytes: memory,
            cores_physical: Some(cores),
            cores_logical: cores * 2,
            ..Hardware::default()
        }
    }

    fn with_gpu(hardware: Hardware, memory: u64, usable: bool) -> Hardware {
        let gpu = GpuDevice {
            name: "A card".into(),
            memory_bytes: Some(memory),
            driver: None,
            source: "nvml".into(),
            usable,
            reason: None,
        };
        Hardware { gpus: vec![gpu], ..hardware }
    }

    fn with_disk(hardware: Hardware, free_bytes: u64) -> Hardware {
        let (mount, kind) = ("/".to_owned(), "SSD".to_owned());
        let total_bytes = free_bytes * 2;
        let disk = Disk { mount, kind, total_bytes, free_bytes, models: true };
        Hardware { disks: vec![disk], ..hardware }
    }

    #[test]
    fn tiers_begin_where_the_table_says() {
        let apple = |memory| Hardware { unified_memory: true, ..computer(memory, 12) };
        for (hardware, expected) in [
            (apple(60 * GB), Tier::StudioPremium),
            (apple(60 * GB - 1), Tier::MiniStandard),
            (with_gpu(apple(34 * GB), 34 * GB, true), Tier::MiniStandard),
            (computer(120 * GB, 16), Tier::StudioPremium),
            (computer(120 * GB - 1, 16), Tier::MiniStandard),
            (computer(120 * GB, 15), Tier::MiniStandard),
            (with_gpu(computer(8 * GB, 4), 23 * GB, false), Tier::StudioPremium),
            (with_gpu(computer(8 * GB, 4), 23 * GB - 1, false), Tier::MiniStandard),
            (with_gpu(computer(8 * GB, 4), 8 * GB, false), Tier::MiniStandard),
            (with_gpu(computer(8 * GB, 4), 8 * GB - 1, false), Tier::MiniEconomy),
            (computer(15 * GB, 6), Tier::MiniStandard),
            (computer(15 * GB - 1, 6), Tier::MiniEconomy),
            (computer(64 * GB, 5), Tier::MiniEconomy),
            (computer(0, 0), Tier::MiniEconomy),
        ] {
            let report = tier_report(&hardware, Overrides::default());
            assert_eq!(report.computed, expected, "{hardware:?}");
            assert_eq!(report.tier, expected);
        }
    }

    #[test]
    fn classes_begin_where_the_table_says() {
        for (hardware, expected) in [
            (with_gpu(computer(8 * GB, 4), 6 * GB, true), WorkerClass::Gpu),
            (with_gpu(computer(8 * GB, 4), 6 * GB - 1, true), WorkerClass::Cpu),
            (with_gpu(computer(8 * GB, 4), 24 * GB, false), WorkerClass::Cpu),
            (computer(8 * GB, 4), WorkerClass::Cpu),
            (computer(8 * GB - 1, 4), WorkerClass::Edge),
            (computer(8 * GB, 3), WorkerClass::Edge),
            (with_disk(computer(4 * GB, 2), 500 * GB), WorkerClass::Storage),
            (with_disk(computer(4 * GB, 2), 500 * GB - 1), WorkerClass::Edge),
            (with_disk(computer(16 * GB, 8), 900 * GB), WorkerClass::Cpu),
        ] {
            let report = tier_report(&hardware, Overrides::default());
            assert_eq!(report.computed_class, expected, "{hardware:?}");
        }
    }

    #[test]
    fn the_reason_has_the_numbers() {
        let report = tier_report(&computer(8 * GB, 4), Overrides::default());
        assert_eq!(
            report.tier_reason,
            "8 GB of memory and 4 cores; mini-standard needs 15 GB and 6 cores, or a GPU with 8 GB"
        );
        assert_eq!(report.class_reason, "8 GB of memory and 4 cores, no GPU that models can use");
    }

    #[test]
    fn what_is_missing_for_more_is_named() {
        let report = tier_report(&computer(25 * GB, 2), Overrides::default());
        assert_eq!(
            report.class_reason,
            "25 GB of memory and 2 cores; computing needs 8 GB and 4 cores, storage 500 GB free \
             on one disk"
        );
    }

    #[test]
    fn the_owners_choice_is_in_force_and_the_computed_one_stays_visible() {
        let overrides =
            Overrides { tier: Some(Tier::StudioPremium), class: Some(WorkerClass::Storage) };
        let report = tier_report(&computer(8 * GB, 4), overrides);
        assert_eq!((report.tier, report.computed), (Tier::StudioPremium, Tier::MiniEconomy));
        assert_eq!((report.class, report.computed_class), (WorkerClass::Storage, WorkerClass::Cpu));
        assert!(report.tier_reason.starts_with("You chose it. Computed: 8 GB"), "{report:?}");
    }

    #[test]
    fn unknown_physical_cores_are_half_of_the_logical_ones() {
        let hardware = Hardware { cores_physical: None, ..computer(16 * GB, 6) };
        assert_eq!(tier_report(&hardware, Overrides::default()).tier, Tier::MiniStandard);
    }
}
