//! Finding GPUs, and reading their meters.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent_api::{hardware::GpuDevice, machine::Gpu, runner::Device};
use nvml_wrapper::{
    Nvml,
    enum_wrappers::device::{Clock, TemperatureSensor},
};

/// Cards that are looked at: no desktop has more.
const MAX_CARDS: usize = 16;
/// Where Linux lists graphics cards.
const DRM: &str = "/sys/class/drm";
/// PCI numbers of the makers.
const AMD: &str = "0x1002";
const INTEL: &str = "0x8086";

/// Why a GPU that was found is not used.
const PROCESSOR_BUILD: &str = "This build of EdgeCoder runs models on the processor";
const NOT_SEEN: &str = "The inference engine does not see this GPU; its driver may be missing";

/// The GPUs of this computer, found once.
#[derive(Debug)]
pub(super) struct Gpus {
    nvml: Option<Nvml>,
    /// Device folders of cards that AMD's driver reports a load for (`amdgpu`, documented in the
    /// kernel's `Documentation/gpu/amdgpu`).
    amd: Vec<PathBuf>,
}

impl Gpus {
    pub(super) fn find() -> Self {
        let cards = cards(Path::new(DRM));
        let amd = cards.into_iter().filter(|card| card.join("gpu_busy_percent").exists());
        Self { nvml: Nvml::init().ok(), amd: amd.collect() }
    }

    pub(super) fn readings(&self) -> Vec<Gpu> {
        let nvidia = nvidia(self.nvml.as_ref()).map(|device| {
            let memory = device.memory_info().ok();
            Gpu {
                name: device.name().unwrap_or_else(|_| "NVIDIA GPU".into()),
                busy_percent: device.utilization_rates().ok().map(|u| f64::from(u.gpu)),
                memory_used_bytes: memory.as_ref().map(|m| m.used),
                memory_total_bytes: memory.as_ref().map(|m| m.total),
                temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
            }
        });
        nvidia.chain(self.amd.iter().map(|card| read_amd(card))).collect()
    }
}

fn nvidia(nvml: Option<&Nvml>) -> impl Iterator<Item = nvml_wrapper::Device<'_>> {
    nvml.into_iter().flat_map(|nvml| {
        let count = nvml.device_count().unwrap_or(0).min(MAX_CARDS as u32);
        (0..count).filter_map(|n| nvml.device_by_index(n).ok())
    })
}

/// Device folders of the graphics cards.
fn cards(drm: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(drm) else { return Vec::new() };
    let mut cards: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("device")))
        .filter(|device| device.join("vendor").exists() || device.join("gpu_busy_percent").exists())
        .take(MAX_CARDS * 4)
        .collect();
    cards.sort();
    // `card0`, its connectors and `renderD128` lead to the same device.
    cards.dedup_by_key(|card| card.canonicalize().unwrap_or_else(|_| card.clone()));
    cards.truncate(MAX_CARDS);
    cards
}

fn text(device: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(device.join(name)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number(device: &Path, name: &str) -> Option<u64> {
    text(device, name)?.parse().ok()
}

fn amd_name(device: &Path) -> String {
    text(device, "product_name").unwrap_or_else(|| "AMD GPU".into())
}

fn read_amd(device: &Path) -> Gpu {
    Gpu {
        name: amd_name(device),
        busy_percent: text(device, "gpu_busy_percent").and_then(|text| text.parse().ok()),
        memory_used_bytes: number(device, "mem_info_vram_used"),
        memory_total_bytes: number(device, "mem_info_vram_total"),
        temperature_celsius: None,
    }
}

/// All GPUs, with whether the runner can put layers on them. `offered` is what the runner said in
/// its greeting.
pub(super) fn devices(offered: &[Device]) -> Vec<GpuDevice> {
    let nvml = Nvml::init().ok();
    let driver = nvml.as_ref().and_then(|nvml| nvml.sys_driver_version().ok());
    let mut found: Vec<GpuDevice> = nvidia(nvml.as_ref())
        .map(|device| {
            let name = device.name().unwrap_or_else(|_| "NVIDIA GPU".into());
            let memory = device.memory_info().ok().map(|memory| memory.total);
            found_gpu(name, memory, driver.clone(), "nvml")
        })
        .collect();
    found.extend(cards(Path::new(DRM)).iter().filter_map(|card| sysfs_device(card)));
    found.extend(metal_device());
    offer(found, offered)
}

fn found_gpu(
    name: String,
    memory_bytes: Option<u64>,
    driver: Option<String>,
    source: &str,
) -> GpuDevice {
    GpuDevice { name, memory_bytes, driver, source: source.into(), usable: false, reason: None }
}

/// A card of AMD or Intel. NVIDIA's are known from its library.
fn sysfs_device(device: &Path) -> Option<GpuDevice> {
    let driver = fs::read_link(device.join("driver")).ok();
    let driver = driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    let (name, memory) = match text(device, "vendor")?.as_str() {
        AMD => (amd_name(device), number(device, "mem_info_vram_total")),
        INTEL => {
            let id = text(device, "device").map(|id| format!(" ({id})")).unwrap_or_default();
            // Only cards with memory of their own have the file.
            let memory = card_folder(device).and_then(|card| number(&card, "lmem_total_bytes"));
            (format!("Intel GPU{id}"), memory)
        }
        _ => return None,
    };
    Some(found_gpu(name, memory, driver, "sysfs"))
}

/// `card0` of `card0/device`.
fn card_folder(device: &Path) -> Option<PathBuf> {
    device.parent().map(Path::to_path_buf)
}

/// Apple silicon's own GPU, which uses the computer's memory. Not tested on such a computer.
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
fn metal_device() -> Option<GpuDevice> {
    Some(found_gpu("Apple GPU".into(), super::total_memory(), None, "metal"))
}

#[cfg(not(all(target_os = "macos", target_arch = "aarch64")))]
fn metal_device() -> Option<GpuDevice> {
    None
}

/// Joins what was found with what the runner offers.
fn offer(mut found: Vec<GpuDevice>, offered: &[Device]) -> Vec<GpuDevice> {
    let reason = if offered.is_empty() { PROCESSOR_BUILD } else { NOT_SEEN };
    for gpu in &mut found {
        gpu.reason = Some(reason.into());
    }
    for device in offered.iter().take(MAX_CARDS) {
        let same = found.iter_mut().find(|gpu| !gpu.usable && is_same(gpu, device));
        match same {
            Some(gpu) => {
                (gpu.usable, gpu.reason) = (true, None);
                gpu.memory_bytes = gpu.memory_bytes.or(Some(device.memory_bytes));
            }
            None => {
                // `Vulkan0` is a device of Vulkan.
                let backend = device.name.trim_end_matches(|c: char| c.is_ascii_digit());
                let source = backend.to_lowercase();
                let name = device.description.clone();
                let memory = Some(device.memory_bytes);
                let gpu = found_gpu(name, memory, None, &source);
                found.push(GpuDevice { usable: true, ..gpu });
            }
        }
    }
    found
}

/// Makers write their products' names differently; the memory is the same to about 5 %.
fn is_same(gpu: &GpuDevice, device: &Device) -> bool {
    let (name, description) = (gpu.name.to_lowercase(), device.description.to_lowercase());
    if name.contains(&description) || description.contains(&name) {
        return true;
    }
    let maker = ["nvidia", "amd", "intel", "apple"].iter().find(|maker| name.contains(**maker));
    let same_maker = maker.is_some_and(|maker| description.contains(maker));
    let near = |bytes: u64| bytes.abs_diff(device.memory_bytes) < device.memory_bytes / 20;
    same_maker && gpu.memory_bytes.is_none_or(near)
}

/// Bytes per second that the first NVIDIA GPU reads from its memory: clock times width, twice per
/// cycle. `None` where no such GPU is; other makers' drivers do not tell.
pub fn gpu_bandwidth() -> Option<f64> {
    let nvml = Nvml::init().ok()?;
    let device = nvidia(Some(&nvml)).next()?;
    let megahertz = f64::from(device.max_clock_info(Clock::Memory).ok()?);
    let bits = f64::from(device.memory_bus_width().ok()?);
    Some(megahertz * 1e6 * 2.0 * bits / 8.0).filter(|bandwidth| *bandwidth > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder like `/sys/class/drm`.
    fn drm(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temp dir");
        let device = dir.path().join("card0").join("device");
        fs::create_dir_all(&device).expect("creates");
        for (name, text) in files {
            fs::write(device.join(name), text).expect("writes");
        }
        (dir, device)
    }

    fn offered(description: &str, memory_bytes: u64) -> Device {
        let (name, description) = ("Vulkan0".to_owned(), description.to_owned());
        Device { name, description, memory_bytes, free_bytes: memory_bytes }
    }

    #[test]
    fn an_amd_card_is_read_from_sysfs() {
        let (dir, _) = drm(&[
            ("vendor", "0x1002\n"),
            ("gpu_busy_percent", "37\n"),
            ("mem_info_vram_used", "1048576\n"),
            ("mem_info_vram_total", "17163091968\n"),
        ]);
        let cards = cards(dir.path());
        let gpu = read_amd(&cards[0]);
        assert_eq!(gpu.busy_percent, Some(37.0));
        assert_eq!(gpu.memory_total_bytes, Some(17_163_091_968));
        let device = sysfs_device(&cards[0]).expect("a GPU");
        assert_eq!((device.name.as_str(), device.memory_bytes), ("AMD GPU", Some(17_163_091_968)));
    }

    #[test]
    fn an_intel_gpu_without_memory_of_its_own_has_none() {
        let (dir, device) = drm(&[("vendor", "0x8086\n"), ("device", "0x56a0\n")]);
        let found = sysfs_device(&cards(dir.path())[0]).expect("a GPU");
        assert_eq!((found.name.as_str(), found.memory_bytes), ("Intel GPU (0x56a0)", None));
        let card = device.parent().expect("card0");
        fs::write(card.join("lmem_total_bytes"), "17095983104\n").expect("writes");
        let found = sysfs_device(&device).expect("a GPU");
        assert_eq!(found.memory_bytes, Some(17_095_983_104));
    }

    #[test]
    fn a_display_controller_of_another_maker_is_no_gpu_for_models() {
        let (dir, _) = drm(&[("vendor", "0x1234\n")]);
        assert!(sysfs_device(&cards(dir.path())[0]).is_none());
    }

    #[test]
    fn a_gpu_is_usable_only_if_the_runner_offers_it() {
        let card = || found_gpu("NVIDIA GeForce RTX 4090".into(), Some(25 << 30), None, "nvml");
        let alone = offer(vec![card()], &[]);
        assert_eq!((alone[0].usable, alone[0].reason.as_deref()), (false, Some(PROCESSOR_BUILD)));
        let same = offer(vec![card()], &[offered("NVIDIA GeForce RTX 4090", 25 << 30)]);
        assert_eq!((same.len(), same[0].usable, same[0].reason.is_none()), (1, true, true));
        let other = offer(vec![card()], &[offered("AMD Radeon RX 7900 XT", 20 << 30)]);
        assert_eq!((other.len(), other[0].usable, other[1].usable), (2, false, true));
        assert_eq!(other[1].source, "vulkan");
    }

    #[test]
    fn two_cards_of_one_kind_are_two() {
        let card = || found_gpu("NVIDIA H200".into(), Some(140 << 30), None, "nvml");
        let one = offered("NVIDIA H200", 140 << 30);
        let both = offer(vec![card(), card()], &[one.clone(), one]);
        assert_eq!(both.iter().filter(|gpu| gpu.usable).count(), 2);
    }
}
