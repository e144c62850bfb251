//! The meters: processors, memory, disk and GPUs, as they are now.

use std::path::PathBuf;

use agent_api::machine::Machine;
use sysinfo::{
    CpuRefreshKind, Disks, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate,
    RefreshKind, System,
};

use super::gpu::Gpus;

/// Holds what has to be kept between two readings.
#[derive(Debug)]
pub struct Meters {
    /// `None` on a platform whose meters cannot be read at all.
    system: Option<System>,
    disks: Option<Disks>,
    data_dir: PathBuf,
    gpus: Gpus,
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
            gpus: Gpus::find(),
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
        machine.gpus = self.gpus.readings();
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
}
