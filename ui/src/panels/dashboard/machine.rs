//! The computer's meters. What cannot be read is `–`, never 0.

use agent_api::{Status, machine::Gpu};
use leptos::prelude::*;

use crate::{
    app::use_app,
    components::{
        icon::{Icon, icon},
        meter::{Meter, Reading},
    },
    format,
};

#[component]
pub(super) fn ThisComputer() -> impl IntoView {
    let app = use_app();
    let reading = move |read: fn(&Status) -> Reading| {
        let part = app.part(read);
        Signal::derive(move || part.get().unwrap_or_else(Reading::unknown))
    };
    let cores = app.part(|s| match s.machine.cpu_cores {
        0 => String::new(),
        n => format::counted(u64::from(n), "core", "cores"),
    });
    let cpu_name = app.part(|s| s.machine.cpu_name.clone());
    let gpus = app.part(|s| s.machine.gpus.iter().map(|g| g.name.clone()).collect::<Vec<_>>());
    view! {
        <section class="card" aria-labelledby="machine-title">
            <div class="card-head">
                <h2 id="machine-title">"This computer"</h2>
                <span class="push faint small nowrap" title=move || cpu_name.get()>{move || cores.get()}</span>
            </div>
            <div class="card-body">
                <ul class="meters">
                    <Meter glyph=Icon::Cpu label="CPU" name="CPU, all cores" reading=reading(cpu)/>
                    <Meter glyph=Icon::Ram label="RAM" name="RAM" reading=reading(ram)/>
                    {move || match gpus.get() {
                        Some(names) if !names.is_empty() => {
                            names.into_iter().enumerate().map(|(i, name)| gpu_meters(i, &name)).collect_view().into_any()
                        }
                        _ => no_gpu(),
                    }}
                    <Meter glyph=Icon::Disk label="Disk" name="Disk of the data folder" reading=reading(disk)/>
                </ul>
            </div>
        </section>
    }
}

fn no_gpu() -> AnyView {
    view! {
        <li class="meter meter--none">
            {icon(Icon::Gpu)}<span class="meter-label">"GPU"</span><span class="faint meter-note">"No GPU found"</span>
        </li>
    }
    .into_any()
}

fn gpu_meters(place: usize, name: &str) -> AnyView {
    let app = use_app();
    let reading = move |read: fn(&Gpu) -> Reading| {
        let part = app.part(move |s| s.machine.gpus.get(place).map(read));
        Signal::derive(move || part.get().flatten().unwrap_or_else(Reading::unknown))
    };
    let has_temperature = app
        .part(move |s| s.machine.gpus.get(place).is_some_and(|g| g.temperature_celsius.is_some()));
    let spoken = name.to_owned();
    view! {
        <Meter glyph=Icon::Gpu label="GPU" name=name.to_owned() reading=reading(busy)/>
        <Meter glyph=Icon::Models label="VRAM" name=format!("Memory of {name}") reading=reading(vram)/>
        {move || (has_temperature.get() == Some(true)).then(|| {
            let name = format!("Temperature of {spoken}");
            view! { <Meter glyph=Icon::Temperature label="Temp" name=name reading=reading(temperature)/> }
        })}
    }
    .into_any()
}

fn amount(used: u64, total: u64, scale: fn(u64) -> String) -> Reading {
    if total == 0 {
        return Reading::unknown();
    }
    let (value, of) = format::part_of(used, total, scale);
    Reading { percent: format::share(used, total), value, of }
}

fn share(percent: Option<f64>) -> Reading {
    percent.map_or_else(Reading::unknown, |p| Reading {
        percent: Some(p.clamp(0.0, 100.0)),
        value: format::percent(p),
        of: String::new(),
    })
}

fn cpu(s: &Status) -> Reading {
    share(s.machine.cpu_percent)
}

fn ram(s: &Status) -> Reading {
    amount(s.machine.memory_used_bytes, s.machine.memory_total_bytes, format::memory)
}

fn disk(s: &Status) -> Reading {
    match (s.machine.disk_used_bytes, s.machine.disk_total_bytes) {
        (Some(used), Some(total)) => amount(used, total, format::file_size),
        _ => Reading::unknown(),
    }
}

fn busy(gpu: &Gpu) -> Reading {
    share(gpu.busy_percent)
}

fn vram(gpu: &Gpu) -> Reading {
    match (gpu.memory_used_bytes, gpu.memory_total_bytes) {
        (Some(used), Some(total)) => amount(used, total, format::memory),
        _ => Reading::unknown(),
    }
}

/// The bar is of 100 °C.
fn temperature(gpu: &Gpu) -> Reading {
    gpu.temperature_celsius.map_or_else(Reading::unknown, |t| Reading {
        percent: Some(t.clamp(0.0, 100.0)),
        value: format!("{t:.0}\u{202f}°C"),
        of: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::UNKNOWN, state::tests::status};

    #[test]
    fn what_cannot_be_read_is_not_zero() {
        let s = status(0);
        for read in [cpu, ram, disk] {
            assert_eq!((read(&s).percent, read(&s).value.as_str()), (None, UNKNOWN));
        }
        let gpu = Gpu {
            name: "G".into(),
            busy_percent: None,
            memory_used_bytes: Some(1),
            memory_total_bytes: None,
            temperature_celsius: None,
        };
        for read in [busy, vram, temperature] {
            assert_eq!(read(&gpu).value, UNKNOWN);
        }
    }

    #[test]
    fn readings_name_the_whole() {
        let mut s = status(0);
        s.machine.memory_used_bytes = 16_000_000_000;
        s.machine.memory_total_bytes = 64_000_000_000;
        s.machine.cpu_percent = Some(33.6);
        assert_eq!((ram(&s).percent, ram(&s).value.as_str()), (Some(25.0), "16.0"));
        assert_eq!(cpu(&s).value.replace('\u{202f}', " "), "34 %");
    }
}
