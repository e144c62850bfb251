//! `settings.json`: read at start, written whole and atomically on every change.

use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use agent_api::settings::{SETTINGS_VERSION, Settings, SettingsPatch};

/// Why settings cannot be read, accepted or written.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "{path} was written by a newer EdgeCoder (version {found}, this one knows {SETTINGS_VERSION}). \
         Install the newer version again, or move the file away to start with default settings"
    )]
    Newer { path: PathBuf, found: u64 },
    #[error(
        "{path} is not a valid settings file: {reason}. Correct it, or move it away to start with default settings"
    )]
    Invalid { path: PathBuf, reason: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}. The old settings stay in force")]
    Write { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Refused(String),
}

/// Largest settings file that is read; ours is under a kilobyte.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the file; a missing one gives the defaults.
pub fn load_settings(path: &Path) -> Result<Settings, SettingsError> {
    let invalid = |reason: String| SettingsError::Invalid { path: path.to_path_buf(), reason };
    let read = |source| SettingsError::Read { path: path.to_path_buf(), source };
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_BYTES => return Err(invalid("it is over 1 MiB".into())),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Settings::default()),
        Err(e) => return Err(read(e)),
    }
    let text = fs::read(path).map_err(read)?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    if !value.is_object() {
        return Err(invalid("it is not a JSON object".into()));
    }
    // The version is looked at before the fields: a newer file has fields we do not know.
    let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if found > u64::from(SETTINGS_VERSION) {
        return Err(SettingsError::Newer { path: path.to_path_buf(), found });
    }
    let settings: Settings = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
    validate(&settings).map_err(|e| invalid(e.to_string()))?;
    Ok(settings)
}

/// Writes a temporary file beside the old one, syncs it and renames it into place.
pub fn save_settings(path: &Path, settings: &Settings) -> Result<(), SettingsError> {
    let write = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer_pretty(&mut file, settings)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| SettingsError::Write { path: path.to_path_buf(), source })
}

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
    validate(&new)?;
    Ok(new)
}

fn validate(settings: &Settings) -> Result<(), SettingsError> {
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
            "listen is an address and a port such as 127.0.0.1:4301, not {given:?}"
        ));
    };
    match &settings.api_key {
        Some(key) if key.len() < 16 || key.len() > 256 || !key.is_ascii() => {
            return refuse("the API key needs 16 to 256 ASCII characters".into());
        }
        None if !listen.ip().is_loopback() => {
            return refuse(format!(
                "listening on {listen} opens the API to other computers, which needs an API key: set api_key first"
            ));
        }
        _ => {}
    }
    if !(256..=1_048_576).contains(&settings.context_length) {
        return refuse("context_length is a number of tokens from 256 to 1,048,576".into());
    }
    if !(1..=64).contains(&settings.parallel) {
        return refuse("parallel is a number of requests from 1 to 64".into());
    }
    if settings.threads.is_some_and(|n| n > 1_024) {
        return refuse("threads is at most 1,024".into());
    }
    if settings.allowed_hosts.len() > 64 || settings.allowed_origins.len() > 64 {
        return refuse("at most 64 allowed hosts and 64 allowed origins".into());
    }
    if let Some(bad) = settings.allowed_origins.iter().find(|o| !o.contains("://")) {
        return refuse(format!("an allowed origin looks like https://example.org, not {bad:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("temp dir")
    }

    #[test]
    fn a_missing_file_gives_defaults_and_a_saved_one_comes_back() {
        let dir = dir();
        let path = dir.path().join("settings.json");
        let mut settings = load_settings(&path).expect("defaults");
        assert_eq!(settings, Settings::default());
        settings.node_name = "workbench".into();
        save_settings(&path, &settings).expect("saves");
        assert_eq!(load_settings(&path).expect("loads"), settings);
    }

    #[test]
    fn a_newer_file_is_refused_and_left_alone() {
        let dir = dir();
        let path = dir.path().join("settings.json");
        let text = r#"{"version": 99, "teleport": true}"#;
        fs::write(&path, text).expect("writes");
        let error = load_settings(&path).expect_err("refused").to_string();
        assert!(error.contains("newer EdgeCoder") && error.contains("99"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("reads"), text);
    }

    #[test]
    fn an_unknown_field_or_garbage_names_the_file_and_the_fault() {
        let dir = dir();
        let path = dir.path().join("settings.json");
        for text in [r#"{"version": 1, "lsiten": "x"}"#, "{", "[]"] {
            fs::write(&path, text).expect("writes");
            let error = load_settings(&path).expect_err("refused").to_string();
            assert!(error.contains("settings.json"), "{error}");
        }
    }

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
}
