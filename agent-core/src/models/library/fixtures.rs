//! What tests of the store and the library are made of.

use std::{fs, ops::ControlFlow, path::PathBuf};

use crate::models::{
    manifest::{Digest, Manifest},
    name::{ModelRef, OLLAMA_REGISTRY},
    store::Store,
};

/// A store in a folder of its own.
pub(in crate::models) struct Folder {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Folder {
    pub(in crate::models) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let store = Store::open(dir.path().join("models")).expect("opens");
        Self { dir, store }
    }

    /// A file beside the store.
    pub(in crate::models) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).expect("writes");
        path
    }

    pub(in crate::models) fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        fs::write(self.store.blob_path(digest), bytes).expect("writes");
        digest
    }

    /// Installs a model as a pull does; the first layer is its weights, the others are licences.
    pub(in crate::models) fn install(&self, name: &str, layers: &[Vec<u8>]) -> ModelRef {
        let name = ModelRef::local(name).expect("a name");
        let kinds = ["model", "license", "license", "license"];
        let layers: Vec<(&str, Vec<u8>)> = kinds.into_iter().zip(layers.iter().cloned()).collect();
        let manifest = manifest(&layers);
        let guard = self.store.lock().expect("locks");
        for (_, bytes) in &layers {
            self.blob(bytes);
        }
        self.store.install(&guard, &name, &manifest).expect("installs");
        name
    }

    /// What lies in the folder of blobs.
    pub(in crate::models) fn disk_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.store.blobs()).expect("a folder");
        entries.map(|entry| entry.expect("an entry").metadata().expect("there").len()).sum()
    }
}

/// A manifest with layers of these kinds.
pub(in crate::models) fn manifest(layers: &[(&str, Vec<u8>)]) -> Manifest {
    let layers: Vec<String> = layers
        .iter()
        .map(|(kind, bytes)| {
            let (digest, size) = (Digest::of(bytes), bytes.len());
            format!(
                r#"{{"mediaType":"application/vnd.ollama.image.{kind}","digest":"{digest}","size":{size}}}"#
            )
        })
        .collect();
    let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
    Manifest::parse(text.into_bytes()).expect("valid")
}

/// Writes a model into a folder of Ollama's.
pub(in crate::models) fn ollama_model(
    root: &std::path::Path,
    name: &str,
    layers: &[(&str, Vec<u8>)],
) {
    let ModelRef { host, namespace, model, tag } =
        ModelRef::parse(name, OLLAMA_REGISTRY).expect("a name");
    let folder = root.join("manifests").join(host).join(namespace).join(model);
    fs::create_dir_all(&folder).expect("makes");
    fs::create_dir_all(root.join("blobs")).expect("makes");
    fs::write(folder.join(tag), manifest(layers).bytes).expect("writes");
    for (_, bytes) in layers {
        fs::write(root.join("blobs").join(Digest::of(bytes).file_name()), bytes).expect("writes");
    }
}

/// The smallest whole GGUF file: an architecture, a name and one tensor.
pub(in crate::models) fn gguf(name: &str) -> Vec<u8> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(2_u64.to_le_bytes());
    for (key, value) in [("general.architecture", "llama"), ("general.name", name)] {
        text(&mut bytes, key);
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, value);
    }
    text(&mut bytes, "t");
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(8_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend([0; 32]);
    bytes
}

/// Progress that nobody looks at.
pub(in crate::models) fn on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}
