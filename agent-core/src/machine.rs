//! Reading the machine's meters: processors, memory, disk and GPUs.
//!
//! Nothing runs in the background: the node takes a reading when somebody looks. What cannot be
//! read is `None`. GPUs are read through NVIDIA's NVML where its library is installed, and from
//! sysfs for AMD's driver; Apple's GPUs have no public meter and are not listed.

use std::path::{Path, PathBuf};

use agent_api::machine::{Gpu, Machine};
use nvml_wrapper::{Nvml, enum_wrappers::device::TemperatureSensor};
use sysinfo::{
    CpuRefreshKind, Disks, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate,
    RefreshKind, System,
};

/// Holds what has to be kept between two readings.
#[derive(Debug)]
pub struct Meters {
    /// `None` on a platform whose meters cannot be read at all.
    system: Option<System>,
    disks: Option<Disks>,
    data_dir: PathBuf,
    nvml: Option<Nvml>,
    amd: Vec<PathBuf>,
    readings: u32,
}

impl Meters {
    /// Looks for GPUs once; `data_dir` chooses the file system whose space is reported.
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            system: System::new_with_specifics(
                RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()),
            )
            .ok(),
            disks: Disks::new().ok(),
            data_dir,
            nvml: Nvml::init().ok(),
            amd: amd_cards(Path::new("/sys/class/drm")),
            readings: 0,
        }
    }

    /// Takes a reading. Takes a few milliseconds: call it off the async threads.
    pub fn read(&mut self, runner_pid: Option<u32>) -> Machine {
        // Disks change slowly and cost the most.
        if self.readings.is_multiple_of(10)
            && let Some(disks) = &mut self.disks
        {
            disks.refresh(true);
        }
        self.readings = self.readings.wrapping_add(1);
        let mut machine = match &mut self.system {
            Some(system) => read_system(system, runner_pid, self.readings > 1),
            None => Machine::default(),
        };
        if let Some((used, total)) = self.disk() {
            machine.disk_used_bytes = Some(used);
            machine.disk_total_bytes = Some(total);
        }
        machine.gpus = self.gpus();
        machine
    }

    /// The file system with the longest mount point that contains the data directory.
    fn disk(&self) -> Option<(u64, u64)> {
        let disk = self
            .disks
            .as_ref()?
            .iter()
            .filter(|disk| self.data_dir.starts_with(disk.mount_point()))
            .max_by_key(|disk| disk.mount_point().as_os_str().len())?;
        let total = disk.total_space();
        Some((total.saturating_sub(disk.available_space()), total))
    }

    fn gpus(&self) -> Vec<Gpu> {
        let nvidia = self.nvml.iter().flat_map(|nvml| {
            (0..nvml.device_count().unwrap_or(0)).filter_map(|n| nvml.device_by_index(n).ok()).map(
                |device| {
                    let memory = device.memory_info().ok();
                    Gpu {
                        name: device.name().unwrap_or_else(|_| "NVIDIA GPU".into()),
                        busy_percent: device.utilization_rates().ok().map(|u| f64::from(u.gpu)),
                        memory_used_bytes: memory.as_ref().map(|m| m.used),
                        memory_total_bytes: memory.as_ref().map(|m| m.total),
                        temperature_celsius: device
                            .temperature(TemperatureSensor::Gpu)
                            .ok()
                            .map(f64::from),
                    }
                },
            )
        });
        nvidia.chain(self.amd.iter().map(|card| read_amd(card))).collect()
    }
}

fn read_system(system: &mut System, runner_pid: Option<u32>, with_cpu: bool) -> Machine {
    system.refresh_cpu_usage();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let own = std::process::id();
    let pids: Vec<Pid> = [Some(own), runner_pid].into_iter().flatten().map(Pid::from_u32).collect();
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&pids),
        true,
        ProcessRefreshKind::nothing().with_memory(),
    );
    let memory_of = |pid| system.process(Pid::from_u32(pid)).map(sysinfo::Process::memory);
    let cpus = system.cpus();
    Machine {
        cpu_percent: with_cpu.then(|| f64::from(system.global_cpu_usage())),
        cpu_cores: u32::try_from(cpus.len()).unwrap_or(u32::MAX),
        cpu_name: cpus.first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
        memory_used_bytes: system.used_memory(),
        memory_total_bytes: system.total_memory(),
        node_memory_bytes: memory_of(own).unwrap_or(0),
        runner_memory_bytes: runner_pid.and_then(memory_of),
        ..Machine::default()
    }
}

/// Cards that AMD's driver reports a load for (`amdgpu`, documented in the kernel's
/// `Documentation/gpu/amdgpu`).
fn amd_cards(drm: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(drm) else { return Vec::new() };
    let mut cards: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("device")))
        .filter(|device| device.join("gpu_busy_percent").exists())
        .take(16)
        .collect();
    cards.sort();
    // `card0` and `renderD128` lead to the same device.
    cards.dedup_by_key(|card| card.canonicalize().unwrap_or_else(|_| card.clone()));
    cards
}

fn read_amd(device: &Path) -> Gpu {
    let text = |name: &str| {
        let text = std::fs::read_to_string(device.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
    Gpu {
        name: text("product_name").unwrap_or_else(|| "AMD GPU".into()),
        busy_percent: text("gpu_busy_percent").and_then(|text| text.parse().ok()),
        memory_used_bytes: number("mem_info_vram_used"),
        memory_total_bytes: number("mem_info_vram_total"),
        temperature_celsius: None,
    }
}

/// Memory that a new model may take: what is free or can be freed, in bytes. `None` where that
/// cannot be read; a load is then tried, and the runner takes the risk.
pub fn available_memory() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let available = system.available_memory();
    // Inside a container the group's limit is the truth.
    Some(match system.cgroup_limits() {
        Some(limits) => available.min(limits.free_memory),
        None => available,
    })
}

/// All memory that programs here may take together, in bytes.
pub fn total_memory() -> Option<u64> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let total = system.total_memory();
    Some(match system.cgroup_limits() {
        Some(limits) => total.min(limits.total_memory),
        None => total,
    })
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
    fn a_reading_is_of_this_machine() {
        let mut meters = Meters::new(std::env::temp_dir());
        let first = meters.read(None);
        assert!(first.cpu_percent.is_none(), "one reading gives no share");
        assert!(first.memory_used_bytes > 0 && first.memory_used_bytes <= first.memory_total_bytes);
        assert!(first.node_memory_bytes > 0);
        assert!(first.runner_memory_bytes.is_none());
        let second = meters.read(Some(u32::MAX));
        let percent = second.cpu_percent.expect("two readings give a share");
        assert!((0.0..=100.0).contains(&percent));
        assert!(second.runner_memory_bytes.is_none(), "no such process");
    }

    #[test]
    fn an_amd_card_is_read_from_sysfs() {
        let dir = tempfile::tempdir().expect("temp dir");
        let device = dir.path().join("card0").join("device");
        std::fs::create_dir_all(&device).expect("creates");
        for (name, text) in [
            ("gpu_busy_percent", "37\n"),
            ("mem_info_vram_used", "1048576\n"),
            ("mem_info_vram_total", "17163091968\n"),
        ] {
            std::fs::write(device.join(name), text).expect("writes");
        }
        let cards = amd_cards(dir.path());
        let gpu = read_amd(&cards[0]);
        assert_eq!(gpu.busy_percent, Some(37.0));
        assert_eq!(gpu.memory_total_bytes, Some(17_163_091_968));
    }
}
