//! Models: what is installed, where it came from, and what is worth installing.

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
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use agent_api::models::{InstalledModel, ModelLayer, ModelOptions, ModelSource};
use gguf::{GgufError, GgufInfo};
pub use library::{DEMO_FILE, Library};
use manifest::{Layer, LayerKind};
use name::ModelRef;

/// What a model file's head says, or why it cannot be loaded.
pub(crate) type Head = Result<GgufInfo, Arc<GgufError>>;

/// An installed model: the file with its weights, and what else belongs to it.
#[derive(Clone, Debug)]
pub struct ModelFile {
    pub id: String,
    /// The GGUF file with the weights.
    pub path: PathBuf,
    /// All layers together.
    pub size_bytes: u64,
    /// When the weights were last written: another time means other weights.
    pub modified: SystemTime,
    /// When it was installed under this name.
    pub installed: SystemTime,
    pub demo: bool,
    pub source: ModelSource,
    /// Its complete name, if it has a manifest.
    pub reference: Option<ModelRef>,
    /// Digest of the manifest, `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
    /// All layers of the manifest, the config first; empty for plain files.
    pub layers: Arc<[Layer]>,
    /// The folder that the layers lie in.
    pub blobs: Option<Arc<Path>>,
    /// Bytes that removing it would free; `None`: it is not ours to remove. Only
    /// [`Library::list`] counts it for models of the store.
    pub removable_bytes: Option<u64>,
    pub head: Head,
}

impl Default for ModelFile {
    fn default() -> Self {
        Self {
            id: String::new(),
            path: PathBuf::new(),
            size_bytes: 0,
            modified: UNIX_EPOCH,
            installed: UNIX_EPOCH,
            demo: false,
            source: ModelSource::File,
            reference: None,
            digest: None,
            layers: Arc::default(),
            blobs: None,
            removable_bytes: None,
            head: Ok(GgufInfo::default()),
        }
    }
}

/// What the model that ships is called; its file's own name is that of a test fixture.
const DEMO_NAME: &str = "EdgeCoder Demo";

impl ModelFile {
    /// The name for people: from the file, else its id.
    pub fn name(&self) -> String {
        if self.demo {
            return DEMO_NAME.to_owned();
        }
        // What was pulled or imported goes by the name it was given: the one in the file is often
        // the same for several.
        if self.reference.is_some() {
            return self.id.clone();
        }
        let named = self.head.as_ref().ok().and_then(|info| info.name.clone());
        named.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| self.id.clone())
    }

    /// The first layer of this kind.
    pub fn layer(&self, kind: LayerKind) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.kind == kind)
    }

    /// Where a layer lies.
    pub fn layer_path(&self, layer: &Layer) -> Option<PathBuf> {
        Some(self.blobs.as_ref()?.join(layer.digest.file_name()))
    }

    /// The layers for the API.
    pub fn describe_layers(&self) -> Vec<ModelLayer> {
        let layers = self.layers.iter().map(|layer| ModelLayer {
            digest: layer.digest.to_string(),
            kind: layer.kind.as_str().to_owned(),
            size_bytes: layer.size,
        });
        layers.collect()
    }

    /// For the API. `active` is the caller's knowledge.
    pub fn describe(&self, active: bool) -> InstalledModel {
        let info = self.head.as_ref().cloned().unwrap_or_default();
        let installed = self.installed.duration_since(UNIX_EPOCH).unwrap_or_default();
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
            problem: self.head.as_ref().err().map(|e| self.problem(e)),
            source: self.source,
            digest: self.digest.clone(),
            modified_at_ms: i64::try_from(installed.as_millis()).ok(),
            capabilities: Vec::new(),
            options: ModelOptions::default(),
            residency: None,
            fit: None,
            tokens_per_s: None,
            last_used_ms: None,
            removable_bytes: self.removable_bytes,
        }
    }

    /// Names the model if it has a name of its own, else the file.
    fn problem(&self, error: &GgufError) -> String {
        match &self.reference {
            Some(_) => format!("{} cannot be loaded: {error}.", self.id),
            None => format!("{} cannot be loaded: {error}.", self.path.display()),
        }
    }
}
