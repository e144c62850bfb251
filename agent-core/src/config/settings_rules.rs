//! What settings may be, and how a change is applied to them.

use std::{net::SocketAddr, path::Path};

use agent_api::{
    models::ModelOptions,
    settings::{Registry, Settings, SettingsPatch},
};

use super::{
    limits,
    mesh_rules::{apply_mesh_patch, validate_mesh},
    settings_file::SettingsError,
    task_rules::{apply_task_patch, validate_tasks},
};
use crate::text::size;

/// The settings after a patch, if the result is valid.
pub fn apply_patch(old: &Settings, patch: &SettingsPatch) -> Result<Settings, SettingsError> {
    let mut new = old.clone();
    let SettingsPatch {
        node_name,
        listen,
        api_key,
        allowed_hosts,
        allowed_origins,
        context_length,
        parallel,
        threads,
        close_to_tray,
        models_dir,
        ollama_dir,
        ollama_url,
        disk_budget_bytes,
        download_limit,
        default_registry,
        registries,
        ram_reserve_bytes,
        gpu_reserve_bytes,
        load_on_request,
        keep_alive_s,
        max_loaded_models,
        tier,
        worker_class,
        mesh,
        tasks,
    } = patch.clone();
    if let Some(name) = node_name {
        new.node_name = name.trim().to_owned();
    }
    if let Some(listen) = listen {
        new.listen = listen;
    }
    if let Some(key) = api_key {
        new.api_key = (!key.is_empty()).then_some(key);
    }
    if let Some(hosts) = allowed_hosts {
        new.allowed_hosts = hosts;
    }
    if let Some(origins) = allowed_origins {
        new.allowed_origins = origins;
    }
    if let Some(context) = context_length {
        new.context_length = context;
    }
    if let Some(parallel) = parallel {
        new.parallel = parallel;
    }
    if let Some(threads) = threads {
        new.threads = (threads > 0).then_some(threads);
    }
    if let Some(close) = close_to_tray {
        new.close_to_tray = close;
    }
    if let Some(dir) = models_dir {
        new.models_dir = (!dir.is_empty()).then_some(dir);
    }
    if let Some(dir) = ollama_dir {
        new.ollama_dir = (dir != "auto").then_some(dir);
    }
    if let Some(url) = ollama_url {
        new.ollama_url = url.trim_end_matches('/').to_owned();
    }
    if let Some(bytes) = disk_budget_bytes {
        new.disk_budget_bytes = (bytes > 0).then_some(bytes);
    }
    if let Some(rate) = download_limit {
        new.download_limit = (rate > 0).then_some(rate);
    }
    if let Some(host) = default_registry {
        new.default_registry = host.trim().to_lowercase();
    }
    if let Some(list) = registries {
        new.registries = list;
    }
    if let Some(bytes) = ram_reserve_bytes {
        new.ram_reserve_bytes = bytes;
    }
    if let Some(bytes) = gpu_reserve_bytes {
        new.gpu_reserve_bytes = bytes;
    }
    if let Some(load) = load_on_request {
        new.load_on_request = load;
    }
    if let Some(seconds) = keep_alive_s {
        new.keep_alive_s = seconds;
    }
    if let Some(count) = max_loaded_models {
        new.max_loaded_models = count;
    }
    if let Some(tier) = tier {
        new.tier = tier.chosen();
    }
    if let Some(class) = worker_class {
        new.worker_class = class.chosen();
    }
    if let Some(mesh) = mesh {
        apply_mesh_patch(&mut new.mesh, mesh).map_err(SettingsError::Refused)?;
    }
    if let Some(tasks) = tasks {
        apply_task_patch(&mut new.tasks, tasks);
    }
    validate(&new)?;
    Ok(new)
}

/// Every bound of every setting.
pub fn validate(settings: &Settings) -> Result<(), SettingsError> {
    let refuse = |why: String| Err(SettingsError::Refused(why));
    if settings.node_name.chars().count() > 64 {
        return refuse("the node's name may have 64 characters at most".into());
    }
    if settings.node_name.chars().any(char::is_control) {
        return refuse("the node's name may not contain control characters".into());
    }
    let Ok(listen) = settings.listen.parse::<SocketAddr>() else {
        let given = &settings.listen;
        return refuse(format!(
            "“Listen on” (listen) is an address and a port such as 127.0.0.1:4301, not {given:?}"
        ));
    };
    match &settings.api_key {
        Some(key) if key.len() < 16 || key.len() > 256 || !key.is_ascii() => {
            return refuse("the API key needs 16 to 256 ASCII characters".into());
        }
        None if !listen.ip().is_loopback() => {
            return refuse(format!(
                "listening on {listen} opens the API to other computers, which needs an API key: set “Key for other computers” (api_key) first"
            ));
        }
        _ => {}
    }
    if !(256..=1_048_576).contains(&settings.context_length) {
        return refuse(
            "“Context length” (context_length) is a number of tokens from 256 to 1,048,576".into(),
        );
    }
    if !(1..=64).contains(&settings.parallel) {
        return refuse("“Requests at a time” (parallel) is a number from 1 to 64".into());
    }
    if settings.threads.is_some_and(|n| n > 1_024) {
        return refuse("“Threads” (threads) is at most 1,024".into());
    }
    if settings.allowed_hosts.len() > 64 || settings.allowed_origins.len() > 64 {
        return refuse("at most 64 allowed hosts and 64 allowed origins".into());
    }
    if let Some(bad) = settings.allowed_origins.iter().find(|o| !o.contains("://")) {
        return refuse(format!("an allowed origin looks like https://example.org, not {bad:?}"));
    }
    validate_models(settings)
        .and_then(|()| validate_mesh(&settings.mesh))
        .and_then(|()| validate_tasks(&settings.tasks))
        .map_err(SettingsError::Refused)
}

/// A number of bytes that no disk or memory of today exceeds, and JavaScript can count.
const MAX_BYTES: u64 = 1 << 50;

fn validate_models(settings: &Settings) -> Result<(), String> {
    for (name, dir) in [
        ("“Models folder” (models_dir)", &settings.models_dir),
        ("Ollama's “Model folder” (ollama_dir)", &settings.ollama_dir),
    ] {
        if dir.as_ref().is_some_and(|dir| !dir.is_empty() && !Path::new(dir).is_absolute()) {
            return Err(format!("{name} is a folder's full path, beginning with /"));
        }
    }
    let url = &settings.ollama_url;
    if !url.is_empty() && !is_http(url) {
        return Err(format!(
            "Ollama's “Address of the program” (ollama_url) looks like http://127.0.0.1:11434, not {url:?}"
        ));
    }
    if !is_host(&settings.default_registry) {
        return Err(
            "the default registry (default_registry) is a host such as registry.ollama.ai".into()
        );
    }
    for (name, bytes) in [
        ("“Disk for models” (disk_budget_bytes)", settings.disk_budget_bytes),
        ("“Download” (download_limit)", settings.download_limit),
        ("“RAM kept for you” (ram_reserve_bytes)", Some(settings.ram_reserve_bytes)),
        ("“GPU memory kept for you” (gpu_reserve_bytes)", Some(settings.gpu_reserve_bytes)),
    ] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes > MAX_BYTES) {
            return Err(format!("{name} is {}, more than any computer has", size(bytes)));
        }
    }
    if settings.download_limit.is_some_and(|rate| rate < 10_000) {
        return Err("“Download” (download_limit) is at least 10 kB/s, or 0 for no limit".into());
    }
    if settings.disk_budget_bytes.is_some_and(|bytes| bytes < 1_000_000) {
        return Err(
            "“Disk for models” (disk_budget_bytes) is at least 1 MB, or 0 for no limit".into()
        );
    }
    if settings.keep_alive_s < -1 || settings.keep_alive_s > 365 * 86_400 {
        return Err("“Unload them after” (keep_alive_s) is a number of seconds up to a year, or -1 for never".into());
    }
    if !(1..=16).contains(&settings.max_loaded_models) {
        return Err("“Models at once” (max_loaded_models) is a number from 1 to 16".into());
    }
    if settings.registries.len() > 64 {
        return Err("at most 64 registries".into());
    }
    settings.registries.iter().try_for_each(validate_registry)?;
    if settings.models.len() > limits::LISTED_MODELS {
        return Err("options are kept for 1,000 models at most".into());
    }
    settings.models.iter().try_for_each(|(id, options)| validate_options(id, options))
}

fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty())
}

/// A name or an address, with or without a port. Model names are checked more closely.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let letters = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let named = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.len() <= 255 && name.chars().all(letters),
    };
    named && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn validate_registry(registry: &Registry) -> Result<(), String> {
    let host = &registry.host;
    if !is_host(host) {
        return Err(format!("a registry's host looks like registry.example:5000, not {host:?}"));
    }
    if registry.mirror.as_ref().is_some_and(|mirror| !is_http(mirror)) {
        return Err(format!("the mirror of {host} looks like https://mirror.example"));
    }
    if registry.ca_file.as_ref().is_some_and(|file| !Path::new(file).is_absolute()) {
        return Err(format!(
            "the certificate file (ca_file) of {host} is a file's full path, beginning with /"
        ));
    }
    Ok(())
}

fn validate_options(id: &str, options: &ModelOptions) -> Result<(), String> {
    if options.context.is_some_and(|n| !(256..=1_048_576).contains(&n)) {
        return Err(format!(
            "“Context” (context) of {id} is a number of tokens from 256 to 1,048,576"
        ));
    }
    if options.parallel.is_some_and(|n| !(1..=64).contains(&n)) {
        return Err(format!("“Requests at a time” (parallel) of {id} is a number from 1 to 64"));
    }
    if options.keep_alive_s.is_some_and(|s| !(-1..=365 * 86_400).contains(&s)) {
        return Err(format!(
            "“Keep in memory” (keep_alive_s) of {id} is a number of seconds up to a year, or -1 for always"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposing_the_api_needs_a_key() {
        let old = Settings::default();
        let listen = SettingsPatch { listen: Some("0.0.0.0:4301".into()), ..Default::default() };
        let error = apply_patch(&old, &listen).expect_err("refused").to_string();
        assert!(error.contains("api_key"), "{error}");
        let both = SettingsPatch { api_key: Some("0123456789abcdef".into()), ..listen };
        assert_eq!(apply_patch(&old, &both).expect("accepted").listen, "0.0.0.0:4301");
    }

    #[test]
    fn absurd_numbers_are_refused() {
        let old = Settings::default();
        for patch in [
            SettingsPatch { parallel: Some(0), ..Default::default() },
            SettingsPatch { context_length: Some(u32::MAX), ..Default::default() },
            SettingsPatch { listen: Some("nowhere".into()), ..Default::default() },
            SettingsPatch { node_name: Some("x".repeat(65)), ..Default::default() },
        ] {
            assert!(apply_patch(&old, &patch).is_err(), "{patch:?}");
        }
    }

    #[test]
    fn what_is_refused_is_named_as_the_page_and_as_the_file_name_it() {
        let refused =
            |patch| apply_patch(&Settings::default(), &patch).expect_err("refused").to_string();
        let relative = SettingsPatch { models_dir: Some("models".into()), ..Default::default() };
        let why = refused(relative);
        assert!(why.contains("“Models folder” (models_dir)"), "{why}");
        let huge = SettingsPatch { ram_reserve_bytes: Some(1 << 60), ..Default::default() };
        let why = refused(huge);
        let named = "“RAM kept for you” (ram_reserve_bytes) is 1152922 TB, more than any";
        assert!(why.contains(named), "{why}");
    }
}
