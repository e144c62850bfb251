//! `settings.json`: read at start, written whole and atomically on every change.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use agent_api::settings::{SETTINGS_VERSION, Settings};

use super::settings_rules::validate;

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
    fn a_file_from_before_the_mesh_gets_its_defaults() {
        let dir = dir();
        let path = dir.path().join("settings.json");
        fs::write(&path, r#"{"version": 1, "node_name": "workbench"}"#).expect("writes");
        let settings = load_settings(&path).expect("loads");
        assert_eq!(settings.mesh, agent_api::mesh::MeshSettings::default());
        fs::write(&path, r#"{"mesh": {"seeds": ["nonsense"]}}"#).expect("writes");
        let error = load_settings(&path).expect_err("refused").to_string();
        assert!(error.contains("mesh.seeds") && error.contains("nonsense"), "{error}");
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
}
