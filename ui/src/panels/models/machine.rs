//! What the computer is made of, and its tier with the numbers that decided it.

use agent_api::hardware::Hardware;
use leptos::prelude::*;

use crate::{app::use_app, format, words::model as words};

#[component]
pub(super) fn Machine() -> impl IntoView {
    let app = use_app();
    move || match app.library.hardware.get()? {
        Ok(hardware) => Some(card(&hardware)),
        Err(why) => Some(
            view! { <section class="card card-body"><p class="hint hint--bad">{why}</p></section> }
                .into_any(),
        ),
    }
}

fn card(hardware: &Hardware) -> AnyView {
    let tier = &hardware.tier;
    let chosen = tier.tier != tier.computed;
    let cores = match hardware.cores_physical {
        Some(physical) => format::counted(u64::from(physical), "core", "cores"),
        None => format::counted(u64::from(hardware.cores_logical), "thread", "threads"),
    };
    let gpus = hardware
        .gpus
        .iter()
        .map(|gpu| {
            let memory = gpu.memory_bytes.map(|b| format!(", {}", format::file_size(b))).unwrap_or_default();
            let why = (!gpu.usable)
                .then(|| gpu.reason.clone().unwrap_or_else(|| "Not used by this build.".into()));
            view! {
                <div><dt>"GPU"</dt><dd>{gpu.name.clone()}{memory}{why.map(|why| view! { <small>{why}</small> })}</dd></div>
            }
        })
        .collect_view();
    let bandwidth = hardware.memory_bandwidth.map(|b| {
        view! { <div><dt>"Memory speed"</dt><dd>{format!("{}/s", format::file_size(b as u64))}</dd></div> }
    });
    let note = chosen.then(|| {
        let computed = words::tier(tier.computed);
        view! { <p class="hint">{format!("You chose this tier; computed is {computed}.")}</p> }
    });
    view! {
        <section class="card" aria-labelledby="machine-facts-title" id="hardware">
            <div class="card-head">
                <h2 id="machine-facts-title">"This computer"</h2>
                <span class="push badge badge--tier" id="tier">{words::tier(tier.tier)}</span>
            </div>
            <div class="card-body">
                <p class="hint">{tier.tier_reason.clone()}</p>
                {note}
                <dl class="kv kv--tight kv--facts">
                    <div><dt>"CPU"</dt><dd>{hardware.cpu_name.clone()}<small>{cores}</small></dd></div>
                    <div><dt>"RAM"</dt><dd class="num">{format::file_size(hardware.memory_bytes)}</dd></div>
                    {bandwidth}
                    {gpus}
                    <div><dt>"Good for"</dt><dd title=tier.class_reason.clone()>{words::class(tier.class)}</dd></div>
                </dl>
            </div>
        </section>
    }
    .into_any()
}
