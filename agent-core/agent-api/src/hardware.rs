//! What the computer is made of, and the tier that follows from it.

use serde::{Deserialize, Serialize};

/// Facts that do not change while the node runs, read once. `None`: not readable here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hardware {
    pub cpu_name: String,
    /// `x86_64`, `aarch64`.
    pub cpu_architecture: String,
    pub cores_physical: Option<u32>,
    pub cores_logical: u32,
    /// Instruction sets that matter for inference, for example `avx2`, `avx512f`, `neon`, `sme`.
    pub cpu_features: Vec<String>,
    pub memory_bytes: u64,
    /// Measured by reading memory once, bytes per second; `None` where it could not be measured.
    pub memory_bandwidth: Option<f64>,
    /// True where CPU and GPU share one memory (Apple silicon).
    pub unified_memory: bool,
    pub gpus: Vec<GpuDevice>,
    pub disks: Vec<Disk>,
    pub battery: Option<Battery>,
    pub temperatures: Vec<Temperature>,
    pub tier: TierReport,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GpuDevice {
    pub name: String,
    pub memory_bytes: Option<u64>,
    pub driver: Option<String>,
    /// How it was found: `nvml`, `sysfs`, `vulkan`, `metal`.
    pub source: String,
    /// True when this build's runner can put layers on it.
    pub usable: bool,
    /// Why not, if not.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Disk {
    pub mount: String,
    pub kind: String,
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Holds the models.
    pub models: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Battery {
    pub percent: Option<f64>,
    pub on_mains: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Temperature {
    pub label: String,
    pub celsius: f64,
    /// Where the hardware says it slows down.
    pub critical_celsius: Option<f64>,
}

/// Size class of an owner's machine, largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    StudioPremium,
    MiniStandard,
    MiniEconomy,
}

/// What kind of work the machine is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WorkerClass {
    Gpu,
    Cpu,
    Storage,
    Edge,
}

/// The tier in force and how it came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TierReport {
    /// In force: the owner's choice, else the computed one.
    pub tier: Tier,
    pub computed: Tier,
    /// A sentence with the numbers that decided it.
    pub tier_reason: String,
    pub class: WorkerClass,
    pub computed_class: WorkerClass,
    pub class_reason: String,
}

impl Default for TierReport {
    fn default() -> Self {
        Self {
            tier: Tier::MiniEconomy,
            computed: Tier::MiniEconomy,
            tier_reason: String::new(),
            class: WorkerClass::Edge,
            computed_class: WorkerClass::Edge,
            class_reason: String::new(),
        }
    }
}
