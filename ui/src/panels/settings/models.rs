//! Models and downloads: where models come from, what they may take, what stays for the owner.

use agent_api::{
    Settings,
    hardware::{Hardware, Tier, WorkerClass},
    settings::{Computed, Override, SettingsPatch},
};
use leptos::prelude::*;

use super::{
    View,
    registries::Registries,
    row::{NumberRow, SelectRow, SizeRow, SwitchRow, TextRow},
};
use crate::{
    app::{App, use_app},
    derived::derived,
    words::{memory::usable_gpu, model as words},
};

const MB: u64 = 1_000_000;
const GB: u64 = 1_000_000_000;
const NO_OLLAMA: &str = "none";
const COMPUTED: &str = "computed";
const TIERS: [Tier; 3] = [Tier::StudioPremium, Tier::MiniStandard, Tier::MiniEconomy];
const CLASSES: [WorkerClass; 4] =
    [WorkerClass::Gpu, WorkerClass::Cpu, WorkerClass::Storage, WorkerClass::Edge];

#[component]
pub(super) fn Models(view: View) -> impl IntoView {
    let app = use_app();
    let live = app.live();
    Effect::new(move |_| {
        if live.get() {
            app.load_hardware();
        }
    });
    view! {
        {disk(view)}
        {memory(app, view)}
        <Registries view/>
        {ollama(view)}
        {tier(app, view)}
    }
}

fn disk(view: View) -> impl IntoView {
    view! {
        <section class="card">
            <div class="card-head card-head--line"><h3 class="h-card">"Disk and network"</h3></div>
            <div class="sets">
                <TextRow
                    view
                    field="models_dir"
                    label="Models folder"
                    hint="Models that are in the old one are not moved."
                    empty="in the data folder"
                    read=|s| s.models_dir.clone().unwrap_or_default()
                    patch=|v| SettingsPatch { models_dir: Some(v), ..SettingsPatch::default() }
                />
                <SizeRow
                    view
                    field="disk_budget_bytes"
                    label="Disk for models"
                    hint="Pulls that would go over it stop and ask. Nothing is removed by itself."
                    unit="GB"
                    scale=GB
                    empty="no limit"
                    read=|s| s.disk_budget_bytes
                    patch=|v| SettingsPatch { disk_budget_bytes: Some(v), ..SettingsPatch::default() }
                />
                <SizeRow
                    view
                    field="download_limit"
                    label="Download"
                    hint="For all pulls together."
                    unit="MB/s"
                    scale=MB
                    empty="no limit"
                    read=|s| s.download_limit
                    patch=|v| SettingsPatch { download_limit: Some(v), ..SettingsPatch::default() }
                />
            </div>
        </section>
    }
}

fn memory(app: App, view: View) -> impl IntoView {
    let keep =
        words::KEEP_ALIVE.iter().map(|(s, name)| (s.to_string(), (*name).to_owned())).collect();
    let gpu = derived(move || hardware(app, |h| usable_gpu(h).map(|g| g.name.clone())).flatten());
    view! {
        <section class="card">
            <div class="card-head card-head--line"><h3 class="h-card">"Memory"</h3></div>
            <div class="sets">
                <SwitchRow
                    view
                    field="load_on_request"
                    label="Load on request"
                    hint="A request that names another installed model loads it. Off: only the active model answers."
                    read=|s| s.load_on_request
                    patch=|v| SettingsPatch { load_on_request: Some(v), ..SettingsPatch::default() }
                />
                <SelectRow
                    view
                    field="keep_alive_s"
                    label="Unload them after"
                    hint="Models loaded on request. The active model stays."
                    options=keep
                    read=|s| s.keep_alive_s.to_string()
                    patch=|v| Some(SettingsPatch { keep_alive_s: Some(v.parse().ok()?), ..SettingsPatch::default() })
                />
                <NumberRow
                    view
                    field="max_loaded_models"
                    label="Models at once"
                    hint="In memory at the same time, the active one included."
                    unit=""
                    min=1
                    read=|s| Some(s.max_loaded_models)
                    patch=|v| SettingsPatch { max_loaded_models: Some(v), ..SettingsPatch::default() }
                />
                <SizeRow
                    view
                    field="ram_reserve_bytes"
                    label="RAM kept for you"
                    hint="Models leave this much to your own programs."
                    unit="GB"
                    scale=GB
                    empty="none"
                    read=|s| Some(s.ram_reserve_bytes)
                    patch=|v| SettingsPatch { ram_reserve_bytes: Some(v), ..SettingsPatch::default() }
                />
                {move || gpu.get().map(|name| view! {
                    <SizeRow
                        view
                        field="gpu_reserve_bytes"
                        label="GPU memory kept for you"
                        hint=name
                        unit="GB"
                        scale=GB
                        empty="none"
                        read=|s| Some(s.gpu_reserve_bytes)
                        patch=|v| SettingsPatch { gpu_reserve_bytes: Some(v), ..SettingsPatch::default() }
                    />
                })}
            </div>
        </section>
    }
}

fn ollama(view: View) -> impl IntoView {
    view! {
        <section class="card">
            <div class="card-head card-head--line"><h3 class="h-card">"Ollama"</h3></div>
            <div class="sets">
                <TextRow
                    view
                    field="ollama_dir"
                    label="Model folder"
                    hint="Read in place, never changed. “none”: not read."
                    empty="where Ollama keeps it"
                    read=ollama_folder
                    patch=|v| SettingsPatch { ollama_dir: Some(ollama_patch(v)), ..SettingsPatch::default() }
                />
                <TextRow
                    view
                    field="ollama_url"
                    label="Address of the program"
                    hint="A running Ollama, whose models are offered here."
                    empty="not used"
                    read=|s| s.ollama_url.clone()
                    patch=|v| SettingsPatch { ollama_url: Some(v), ..SettingsPatch::default() }
                />
            </div>
        </section>
    }
}

/// Absent is the usual place, shown empty; empty is none, shown as the word.
fn ollama_folder(settings: &Settings) -> String {
    match settings.ollama_dir.as_deref() {
        None => String::new(),
        Some("") => NO_OLLAMA.into(),
        Some(path) => path.into(),
    }
}

fn ollama_patch(typed: String) -> String {
    match typed.as_str() {
        "" => "auto".into(),
        NO_OLLAMA => String::new(),
        _ => typed,
    }
}

fn hardware<T>(app: App, read: impl Fn(&Hardware) -> T) -> Option<T> {
    app.library.hardware.with(|h| h.as_ref()?.as_ref().ok().map(read))
}

fn tier(app: App, view: View) -> impl IntoView {
    let named = |value: &'static str| (value.to_owned(), value.to_owned());
    let computed = (COMPUTED.to_owned(), "As computed".to_owned());
    let mut tiers = vec![computed.clone()];
    tiers.extend(TIERS.map(words::tier).map(named));
    let mut classes = vec![computed];
    classes.extend(CLASSES.map(words::class).map(named));
    let why_tier = move || {
        hardware(app, |h| {
            format!("Computed: {}. {}", words::tier(h.tier.computed), h.tier.tier_reason)
        })
        .unwrap_or_default()
    };
    let why_class = move || {
        hardware(app, |h| {
            format!("Computed: {}. {}", words::class(h.tier.computed_class), h.tier.class_reason)
        })
        .unwrap_or_default()
    };
    view! {
        <section class="card">
            <div class="card-head card-head--line"><h3 class="h-card">"What this computer is good for"</h3></div>
            <div class="sets">
                <SelectRow
                    view
                    field="tier"
                    label="Tier"
                    hint=Signal::derive(why_tier)
                    options=tiers
                    read=|s| s.tier.map_or(COMPUTED.into(), |t| words::tier(t).into())
                    patch=|v| Some(SettingsPatch { tier: Some(chosen(v, &TIERS, words::tier)?), ..SettingsPatch::default() })
                />
                <SelectRow
                    view
                    field="worker_class"
                    label="Kind of work"
                    hint=Signal::derive(why_class)
                    options=classes
                    read=|s| s.worker_class.map_or(COMPUTED.into(), |c| words::class(c).into())
                    patch=|v| Some(SettingsPatch { worker_class: Some(chosen(v, &CLASSES, words::class)?), ..SettingsPatch::default() })
                />
            </div>
        </section>
    }
}

/// The value whose word this is, or the way back to what is computed.
fn chosen<T: Copy>(typed: &str, all: &[T], word: fn(T) -> &'static str) -> Option<Override<T>> {
    if typed == COMPUTED {
        return Some(Override::Computed(Computed::Computed));
    }
    all.iter().copied().find(|value| word(*value) == typed).map(Override::Chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offered_value_is_understood() {
        let computed = Override::Computed(Computed::Computed);
        assert_eq!(chosen(COMPUTED, &TIERS, words::tier), Some(computed));
        for tier in TIERS {
            assert_eq!(
                chosen(words::tier(tier), &TIERS, words::tier),
                Some(Override::Chosen(tier))
            );
        }
        for class in CLASSES {
            let word = words::class(class);
            assert_eq!(chosen(word, &CLASSES, words::class), Some(Override::Chosen(class)));
        }
        assert_eq!(chosen("huge", &TIERS, words::tier), None);
    }

    #[test]
    fn the_three_kinds_of_ollama_folder_are_told_apart() {
        let shown = |dir: Option<&str>| {
            ollama_folder(&Settings { ollama_dir: dir.map(str::to_owned), ..Settings::default() })
        };
        assert_eq!((shown(None).as_str(), ollama_patch(shown(None)).as_str()), ("", "auto"));
        assert_eq!(
            (shown(Some("")).as_str(), ollama_patch(shown(Some(""))).as_str()),
            ("none", "")
        );
        assert_eq!(ollama_patch(shown(Some("/srv/ollama"))), "/srv/ollama");
    }
}
