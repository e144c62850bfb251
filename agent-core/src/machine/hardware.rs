//! What the computer is made of.

use std::path::Path;

use agent_api::{
    hardware::{Battery, Disk, Hardware, Temperature},
    runner::Device,
};
use starship_battery::State;
use sysinfo::{Components, CpuRefreshKind, Disks, RefreshKind, System};

use super::{bandwidth::memory_bandwidth, gpu, tier};

/// Disks and sensors that are listed.
const MAX_DISKS: usize = 32;
const MAX_SENSORS: usize = 64;

/// Looks at the computer. `models_dir` marks the disk of the models, `offered` is what the runner
/// said in its greeting (nothing, if there was none yet).
///
/// Takes up to 150 ms the first time, because memory is measured, and some milliseconds later:
/// call it off the async threads.
pub fn read_hardware(
    models_dir: &Path,
    offered: &[Device],
    overrides: tier::Overrides,
) -> Hardware {
    let gpus = gpu::devices(offered);
    let system =
        System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing())).ok();
    let cpu = system.as_ref().and_then(|system| system.cpus().first());
    let mut hardware = Hardware {
        cpu_name: cpu.map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
        cpu_architecture: std::env::consts::ARCH.into(),
        cores_physical: System::physical_core_count().ok().and_then(|n| u32::try_from(n).ok()),
        cores_logical: std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        cpu_features: cpu_features(),
        memory_bytes: super::total_memory().unwrap_or(0),
        memory_bandwidth: memory_bandwidth(),
        unified_memory: cfg!(all(target_os = "macos", target_arch = "aarch64")),
        gpus,
        disks: disks(models_dir),
        battery: battery(),
        temperatures: temperatures(),
        ..Hardware::default()
    };
    hardware.tier = tier::tier_report(&hardware, overrides);
    hardware
}

/// Instruction sets that make inference faster, of those the processor has.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let present = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ];
    present.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<String> {
    use std::arch::is_aarch64_feature_detected as detected;
    let present = [
        ("neon", detected!("neon")),
        ("dotprod", detected!("dotprod")),
        ("fp16", detected!("fp16")),
        ("bf16", detected!("bf16")),
        ("i8mm", detected!("i8mm")),
        ("sve", detected!("sve")),
        ("sve2", detected!("sve2")),
    ];
    present.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

/// The file systems with space of their own.
fn disks(models_dir: &Path) -> Vec<Disk> {
    let Ok(disks) = Disks::new_with_refreshed_list() else { return Vec::new() };
    // Containers have single files mounted.
    let real = || {
        let listed = disks.iter().filter(|disk| disk.total_space() > 0);
        listed.filter(|disk| disk.mount_point().is_dir()).take(MAX_DISKS)
    };
    let holding = real()
        .map(sysinfo::Disk::mount_point)
        .filter(|mount| models_dir.starts_with(mount))
        .max_by_key(|mount| mount.as_os_str().len());
    real()
        .map(|disk| Disk {
            mount: disk.mount_point().display().to_string(),
            kind: disk.kind().to_string(),
            total_bytes: disk.total_space(),
            free_bytes: disk.available_space(),
            models: Some(disk.mount_point()) == holding,
        })
        .collect()
}

/// The first battery; laptops with two drain them together.
pub fn battery() -> Option<Battery> {
    let batteries = starship_battery::Manager::new().ok()?.batteries().ok()?;
    let battery = batteries.filter_map(Result::ok).next()?;
    Some(Battery {
        percent: Some(f64::from(battery.state_of_charge().value) * 100.0),
        on_mains: match battery.state() {
            State::Charging | State::Full | State::Paused => Some(true),
            State::Discharging | State::Empty => Some(false),
            State::Unknown => None,
        },
    })
}

fn temperatures() -> Vec<Temperature> {
    let Ok(sensors) = Components::new_with_refreshed_list() else { return Vec::new() };
    sensors
        .iter()
        .filter_map(|sensor| {
            let celsius = f64::from(sensor.temperature()?);
            Some(Temperature {
                label: sensor.label().to_owned(),
                celsius,
                critical_celsius: sensor.critical().map(f64::from),
            })
        })
        // Sensors that are not there read absolute zero or worse.
        .filter(|sensor| sensor.celsius.is_finite() && sensor.celsius > -100.0)
        .take(MAX_SENSORS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_computer_is_described() {
        let hardware = read_hardware(&std::env::temp_dir(), &[], tier::Overrides::default());
        assert!(hardware.cores_logical >= 1 && hardware.memory_bytes > 0);
        assert_eq!(hardware.cpu_architecture, std::env::consts::ARCH);
        assert!(hardware.disks.iter().filter(|disk| disk.models).count() <= 1);
        assert!(hardware.disks.iter().all(|disk| disk.free_bytes <= disk.total_bytes));
        assert!(hardware.gpus.iter().all(|gpu| !gpu.usable && gpu.reason.is_some()));
        assert!(!hardware.tier.tier_reason.is_empty() && !hardware.tier.class_reason.is_empty());
    }
}
