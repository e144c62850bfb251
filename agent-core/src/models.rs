//! Which model files this node can load: the demo model that ships, and the owner's folder.

pub mod catalogue;
pub mod fit;
pub mod gguf;
pub mod library;
pub mod manifest;
pub mod name;
pub mod pull;
pub mod registry;
pub mod store;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use agent_api::models::{InstalledModel, ModelOptions, ModelSource};
use gguf::{GgufError, GgufInfo, read_gguf};

use crate::config::limits;

/// File name of the model that ships.
pub const DEMO_FILE: &str = "edgecoder-demo-4m-q8_0.gguf";

/// A model file and what its head says, or why it cannot be loaded.
#[derive(Clone, Debug)]
pub struct ModelFile {
    pub id: String,
    pub path: PathBuf,
    pub size_bytes: u64,
    pub modified: SystemTime,
    pub demo: bool,
    pub source: ModelSource,
    pub head: Head,
}

/// What the model that ships is called; its file's own name is that of a test fixture.
const DEMO_NAME: &str = "EdgeCoder Demo";

impl ModelFile {
    /// The name for people: from the file, else its id.
    pub fn name(&self) -> String {
        if self.demo {
            return DEMO_NAME.to_owned();
        }
        let named = self.head.as_ref().ok().and_then(|info| info.name.clone());
        named.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| self.id.clone())
    }

    /// For the API. `active` is the caller's knowledge.
    pub fn describe(&self, active: bool) -> InstalledModel {
        let info = self.head.as_ref().cloned().unwrap_or_default();
        InstalledModel {
            id: self.id.clone(),
            name: self.name(),
            path: self.path.display().to_string(),
            size_bytes: self.size_bytes,
            architecture: info.architecture,
            parameters: (info.parameters > 0).then_some(info.parameters),
            quantization: info.quantization,
            context_train: info.context_train,
            license: info.license,
            demo: self.demo,
            active,
            problem: self
                .head
                .as_ref()
                .err()
                .map(|e| format!("{} cannot be loaded: {e}.", self.path.display())),
            source: self.source,
            digest: None,
            modified_at_ms: None,
            capabilities: Vec::new(),
            options: ModelOptions::default(),
            residency: None,
            fit: None,
            tokens_per_s: None,
            last_used_ms: None,
            removable_bytes: None,
        }
    }
}

type Key = (PathBuf, u64, SystemTime);
pub(crate) type Head = Result<GgufInfo, Arc<GgufError>>;

/// Lists model files. Heads are read once per file and change of it.
#[derive(Clone, Debug)]
pub struct Library {
    assets: Option<PathBuf>,
    folder: PathBuf,
    heads: Arc<Mutex<HashMap<Key, Head>>>,
}

impl Library {
    pub fn new(assets: Option<PathBuf>, folder: PathBuf) -> Self {
        Self { assets, folder, heads: Arc::default() }
    }

    /// Where the owner puts GGUF files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All model files, the owner's first, by name. Reads the disk: call it off the async threads.
    pub fn list(&self) -> Vec<ModelFile> {
        let mut files = self.scan(&self.folder, false);
        files.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(assets) = &self.assets
            && let Some(demo) = self.file(assets.join(DEMO_FILE), true)
        {
            files.push(demo);
        }
        self.forget_changed(&files);
        files
    }

    /// The model with this id.
    pub fn get(&self, id: &str) -> Option<ModelFile> {
        self.list().into_iter().find(|file| file.id == id)
    }

    fn scan(&self, folder: &Path, demo: bool) -> Vec<ModelFile> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                tracing::warn!("cannot list {}: {e}", folder.display());
                return Vec::new();
            }
        };
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("gguf")))
            .take(limits::LISTED_MODELS)
            .filter_map(|path| self.file(path, demo))
            .collect()
    }

    fn file(&self, path: PathBuf, demo: bool) -> Option<ModelFile> {
        let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let key = (path.clone(), meta.len(), modified);
        let known = self.heads.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let head = known.unwrap_or_else(|| {
            let head = read_gguf(&path).map_err(Arc::new);
            let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
            heads.insert(key, head.clone());
            head
        });
        let id = model_id(&path, head.as_ref().ok());
        let source = if demo { ModelSource::Demo } else { ModelSource::File };
        Some(ModelFile { id, path, size_bytes: meta.len(), modified, demo, source, head })
    }

    /// Keeps the cache as large as the list.
    fn forget_changed(&self, files: &[ModelFile]) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.len() > files.len() {
            heads.retain(|(path, size, modified), _| {
                files
                    .iter()
                    .any(|f| f.path == *path && f.size_bytes == *size && f.modified == *modified)
            });
        }
    }
}

/// The file's name without its ending; the demo model also without its quantization, because
/// there is only one of it.
fn model_id(path: &Path, head: Option<&GgufInfo>) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_demo = path.file_name().is_some_and(|name| name == DEMO_FILE);
    match head {
        Some(info) if is_demo => {
            let suffix = format!("-{}", info.quantization.to_lowercase());
            stem.strip_suffix(&suffix).map(str::to_owned).unwrap_or(stem)
        }
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assets() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/assets"))
    }

    #[test]
    fn a_fresh_node_has_the_demo_model() {
        let dir = tempfile::tempdir().expect("temp dir");
        let library = Library::new(Some(assets()), dir.path().join("models"));
        let files = library.list();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].id, "edgecoder-demo-4m");
        assert!(files[0].describe(true).problem.is_none());
    }

    #[test]
    fn a_bad_file_is_listed_with_its_problem() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("broken.gguf"), b"nonsense").expect("writes");
        fs::write(dir.path().join("notes.txt"), b"not a model").expect("writes");
        let library = Library::new(None, dir.path().to_path_buf());
        let files = library.list();
        assert_eq!(files.len(), 1);
        let problem = files[0].describe(false).problem.expect("has a problem");
        assert!(problem.contains("not a GGUF file"), "{problem}");
    }

    #[test]
    fn a_replaced_file_is_read_again() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("m.gguf");
        fs::write(&path, b"nonsense").expect("writes");
        let library = Library::new(None, dir.path().to_path_buf());
        assert!(library.get("m").expect("listed").head.is_err());
        fs::copy(assets().join(DEMO_FILE), &path).expect("copies");
        assert!(library.get("m").expect("listed").head.is_ok());
    }
}
