//! The computer the node runs on, as measured.

use serde::{Deserialize, Serialize};

/// A reading of the machine's meters. `None` means that the value cannot be read here; it is
/// never reported as zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Machine {
    /// Share of all cores in use by anything, 0 to 100. `None` until two readings exist.
    pub cpu_percent: Option<f64>,
    pub cpu_cores: u32,
    pub cpu_name: String,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    /// The file system that holds the data directory.
    pub disk_used_bytes: Option<u64>,
    pub disk_total_bytes: Option<u64>,
    /// Empty where no GPU with a readable meter was found.
    pub gpus: Vec<Gpu>,
    /// Resident memory of the node process and of its runner.
    pub node_memory_bytes: u64,
    pub runner_memory_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Gpu {
    pub name: String,
    pub busy_percent: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub temperature_celsius: Option<f64>,
}
