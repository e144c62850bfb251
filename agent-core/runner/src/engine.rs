//! The engine thread: which model is in memory.
//!
//! It waits for a model, serves it with a [`Session`], and starts over when the model is replaced
//! or freed. All of llama.cpp's state belongs to this one thread.

use std::{io, sync::mpsc::Receiver, time::Instant};

use agent_api::runner::{Command, Device, LoadModel, Reply};
use llama_cpp_2::{
    LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices,
    llama_backend::LlamaBackend,
};

use crate::{
    failure::no_model,
    llama_log::LlamaErrors,
    model::{Model, milliseconds},
    serve::Arrived,
    session::{Next, Session},
    wire::Wire,
};

/// Instructions that llama.cpp is compiled to use without asking the processor.
#[cfg(target_arch = "x86_64")]
fn missing_instructions() -> Vec<&'static str> {
    let present = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("F16C", is_x86_feature_detected!("f16c")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
    ];
    present.into_iter().filter(|(_, present)| !present).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn missing_instructions() -> Vec<&'static str> {
    Vec::new()
}

/// The GPUs that this build can put layers on; empty for a build for processors only.
///
/// Like llama.cpp itself: one that is part of the processor counts only where there is no other.
pub(crate) fn devices() -> Vec<Device> {
    if !missing_instructions().is_empty() {
        // Asking llama.cpp would end the process; the load says why nothing runs here.
        return Vec::new();
    }
    offload_targets(list_llama_ggml_backend_devices())
}

fn offload_targets(all: Vec<LlamaBackendDevice>) -> Vec<Device> {
    let (mut cards, mut integrated) = (Vec::new(), Vec::new());
    for device in all {
        let list = match device.device_type {
            LlamaBackendDeviceType::Gpu => &mut cards,
            LlamaBackendDeviceType::IntegratedGpu => &mut integrated,
            LlamaBackendDeviceType::Cpu
            | LlamaBackendDeviceType::Accelerator
            | LlamaBackendDeviceType::Unknown => continue,
        };
        list.push(Device {
            name: device.name,
            description: device.description,
            memory_bytes: device.memory_total as u64,
            free_bytes: device.memory_free as u64,
        });
    }
    if cards.is_empty() { integrated } else { cards }
}

/// Serves until the commands end, or until a reply cannot be written.
pub(crate) fn run(
    inbox: &Receiver<Arrived>,
    wire: &mut Wire,
    errors: &LlamaErrors,
) -> io::Result<()> {
    let backend = start_backend();
    let mut next = None;
    loop {
        let request = match next.take() {
            Some(request) => request,
            None => match wait_for_model(inbox, wire)? {
                Some(request) => request,
                None => return Ok(()),
            },
        };
        let served = match &backend {
            Ok(backend) => serve_model(backend, &request, inbox, wire, errors)?,
            Err(message) => Err(message.clone()),
        };
        match served {
            Ok(Next::Load(other)) => next = Some(other),
            Ok(Next::Unload) => wire.send(&Reply::Unloaded),
            Ok(Next::Closed) => return Ok(()),
            Err(message) => wire.send(&Reply::LoadFailed { message }),
        }
        wire.flush()?;
    }
}

/// llama.cpp, unless this machine would stop it with an illegal instruction.
fn start_backend() -> Result<LlamaBackend, String> {
    let missing = missing_instructions();
    if !missing.is_empty() {
        return Err(format!(
            "This computer's processor lacks {}, which the inference engine needs. Use a computer \
             with a processor made after 2013, or connect this one to a node that has one.",
            missing.join(", ")
        ));
    }
    LlamaBackend::init().map_err(|error| format!("llama.cpp cannot start: {error}."))
}

/// Answers everything else with "no model" until a model is asked for; `None` when the input ends.
fn wait_for_model(inbox: &Receiver<Arrived>, wire: &mut Wire) -> io::Result<Option<LoadModel>> {
    while let Ok(arrived) = inbox.recv() {
        match arrived.command {
            Command::Load(request) => return Ok(Some(request)),
            Command::Unload => wire.send(&Reply::Unloaded),
            Command::Generate { id, .. } | Command::Embed { id, .. } => {
                let error = no_model("No model is loaded. Choose a model first.");
                wire.send(&Reply::Failed { id, error });
            }
            Command::Cancel { .. } => {}
        }
        wire.flush()?;
    }
    Ok(None)
}

/// Loads a model and serves it. The inner error is a sentence for the node.
fn serve_model(
    backend: &LlamaBackend,
    request: &LoadModel,
    inbox: &Receiver<Arrived>,
    wire: &mut Wire,
    errors: &LlamaErrors,
) -> io::Result<Result<Next, String>> {
    let model = match Model::load(backend, request, errors) {
        Ok(model) => model,
        Err(message) => return Ok(Err(message)),
    };
    let started = Instant::now();
    let mut session = match Session::new(&model, backend, errors) {
        Ok(session) => session,
        Err(message) => return Ok(Err(message)),
    };
    wire.send(&Reply::Loaded(model.describe_loaded(milliseconds(started))));
    wire.flush()?;
    session.run(inbox, wire).map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, device_type: LlamaBackendDeviceType) -> LlamaBackendDevice {
        LlamaBackendDevice {
            index: 0,
            name: name.into(),
            description: format!("a {name}"),
            backend: "Vulkan".into(),
            memory_total: 8 << 30,
            memory_free: 7 << 30,
            device_type,
        }
    }

    #[test]
    fn a_processor_is_no_place_for_layers() {
        assert!(offload_targets(vec![device("CPU", LlamaBackendDeviceType::Cpu)]).is_empty());
    }

    #[test]
    fn a_gpu_of_the_processor_counts_only_where_there_is_no_card() {
        let integrated = device("Vulkan0", LlamaBackendDeviceType::IntegratedGpu);
        let card = device("Vulkan1", LlamaBackendDeviceType::Gpu);
        let alone = offload_targets(vec![integrated.clone()]);
        assert_eq!((alone.len(), alone[0].memory_bytes), (1, 8 << 30));
        let both = offload_targets(vec![integrated, card]);
        assert_eq!((both.len(), both[0].name.as_str()), (1, "Vulkan1"));
    }
}
