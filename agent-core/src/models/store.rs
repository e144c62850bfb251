//! The store: blobs named by their digest, and manifests that say which of them make a model.
//!
//! ```text
//! blobs/sha256-<hex>            a complete layer; never changed once it has this name
//! blobs/sha256-<hex>.partial    a layer on its way, with what is known about it in
//! blobs/sha256-<hex>.state      ... and a lock that its one writer holds in
//! blobs/sha256-<hex>.lock
//! blobs/sha256-<hex>.outboard   its hash tree, if a peer has asked for it
//! blobs/sha256-<hex>.damaged    what verifying found to have wrong bytes
//! manifests/<host>/<namespace>/<model>/<tag>
//! pulls/<id>                    the manifest of a pull under way: its layers count as used
//! store.lock                    held for moments while references are counted or changed
//! ```
//!
//! The layout of `blobs` and `manifests` is Ollama's, so that either program can read the other's.
//! Several nodes may share one store: the locks are the operating system's, and go with their
//! process. Two rules keep them from each other's files: references change only under the store's
//! lock, and a blob's files change only under that blob's lock. A blob's lock is tried, never waited
//! for, so that nobody waits for somebody who waits for him.
//!
//! Unless a comment says otherwise every call touches the disk: keep them off the async threads.

mod garbage;
mod import;
mod manifests;
mod outboard;
mod removal;
mod room;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use garbage::Collected;
pub use import::{Imported, import_name};
pub(super) use manifests::{Inventory, Known, ManifestCache};
pub use outboard::{Sharable, SharedBlob};
pub(super) use removal::remove_file;
pub use room::{Usage, free_bytes};
pub(super) use verify::verify_layers;

use super::{
    gguf::GgufError,
    manifest::{Digest, Manifest},
    name::{LOCAL, ModelRef, NameError, OLLAMA_REGISTRY},
};
use crate::text::size;

/// A model folder. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    known: Arc<ManifestCache>,
}

/// Told how many bytes of how many are done, after every megabyte; may ask to stop.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, u64) -> ControlFlow<()> + Send);

/// Why the store did not do what it was asked. Nothing is lost by any of them.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no model {0:?} in this node's store")]
    NotFound(String),
    #[error("there is a model {0} already. Remove it first, or choose another name")]
    Exists(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{path} cannot be imported: {source}", path = .path.display())]
    NotLoadable { path: PathBuf, source: GgufError },
    #[error("{0}")]
    Refused(String),
    #[error(
        "the disk has {free} free, and this needs {needs} (some is kept free for everything else). Remove a model or make room",
        free = size(*.free), needs = size(*.needs)
    )]
    NoRoom { needs: u64, free: u64 },
    #[error(
        "models may take {budget}, and this would make it {after}. Remove a model, or raise the disk budget in the settings",
        budget = size(*.budget), after = size(*.after)
    )]
    OverBudget { budget: u64, after: u64 },
    #[error("the layer {0} is being pulled right now. Wait for the pull, or cancel it")]
    Busy(String),
    #[error(
        "nothing was deleted, because it cannot be told which layers {path} needs: {why}. Move that file out of the folder and try again",
        path = .path.display()
    )]
    Unclear { path: PathBuf, why: String },
    #[error("it was stopped before it was done")]
    Stopped,
    #[error("cannot {doing} {path}: {source}", path = .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl StoreError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { doing, path, source }
    }
}

/// Holds references still while they are counted or changed.
#[derive(Debug)]
pub struct StoreGuard {
    _file: File,
}

/// The right to write one blob, over all processes. Ends when it is dropped.
#[derive(Debug)]
pub struct BlobLock {
    _file: File,
    pub digest: Digest,
}

impl Store {
    /// Makes the folders. Fails where the disk cannot be written.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        for folder in ["blobs", "manifests", "pulls"] {
            fs::create_dir_all(root.join(folder))?;
        }
        Ok(Self { root, known: Arc::default() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(digest.file_name())
    }

    pub fn partial_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(format!("{}.partial", digest.file_name()))
    }

    pub fn state_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(format!("{}.state", digest.file_name()))
    }

    fn lock_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(format!("{}.lock", digest.file_name()))
    }

    fn damaged_path(&self, digest: Digest) -> PathBuf {
        self.blobs().join(format!("{}.damaged", digest.file_name()))
    }

    /// Size of a complete blob; `None` if it is not here.
    pub fn blob_size(&self, digest: Digest) -> Option<u64> {
        let meta = fs::symlink_metadata(self.blob_path(digest)).ok()?;
        (meta.is_file() || meta.is_symlink())
            .then(|| fs::metadata(self.blob_path(digest)).map_or(0, |meta| meta.len()))
    }

    /// Waits for other processes that count or change references; they take milliseconds.
    pub fn lock(&self) -> io::Result<StoreGuard> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.root.join("store.lock"))?;
        file.lock()?;
        Ok(StoreGuard { _file: file })
    }

    /// The right to write a blob; `None` while another pull, here or in another process, has it.
    pub fn lock_blob(&self, digest: Digest) -> io::Result<Option<BlobLock>> {
        let path = self.lock_path(digest);
        for _ in 0..LOCK_TRIES {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) if is_named(&file, &path) => {
                    return Ok(Some(BlobLock { _file: file, digest }));
                }
                // Its last holder removed it after we opened it: a lock on it says nothing.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Gives a complete, verified part file its final name. The caller has synced it.
    pub fn commit_blob(&self, lock: BlobLock) -> io::Result<()> {
        let digest = lock.digest;
        self.commit_blob_as(lock, digest)
    }

    /// The same for a file that had no digest to be called by while it was fetched.
    pub fn commit_blob_as(&self, lock: BlobLock, name: Digest) -> io::Result<()> {
        let digest = lock.digest;
        fs::rename(self.partial_path(digest), self.blob_path(name))?;
        sync_dir(&self.blobs())?;
        remove_if_there(&self.state_path(digest))?;
        self.unlock(lock)
    }

    /// Deletes the parts of a blob that will not be completed.
    pub fn discard_partial(&self, lock: BlobLock) -> io::Result<()> {
        let digest = lock.digest;
        remove_if_there(&self.partial_path(digest))?;
        remove_if_there(&self.state_path(digest))?;
        self.unlock(lock)
    }

    /// Removes the lock's file while it is still held, so that nobody can hold a lock on a file
    /// that is about to go.
    fn unlock(&self, lock: BlobLock) -> io::Result<()> {
        let removed = remove_if_there(&self.lock_path(lock.digest));
        drop(lock);
        removed
    }

    /// Writes down that a pull needs these layers, so that nothing removes them meanwhile.
    pub fn reserve(&self, _guard: &StoreGuard, pull: &str, manifest: &Manifest) -> io::Result<()> {
        write_whole(&self.root.join("pulls").join(pull), &manifest.bytes)
    }

    pub fn release(&self, _guard: &StoreGuard, pull: &str) -> io::Result<()> {
        remove_if_there(&self.root.join("pulls").join(pull))
    }

    /// Releases those reservations whose name begins so, except what `keep` wants of the rest of the
    /// name. For what a killed process left.
    pub fn release_others(
        &self,
        guard: &StoreGuard,
        prefix: &str,
        keep: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("pulls"))? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.strip_prefix(prefix).is_some_and(|id| !keep(id)) {
                self.release(guard, name)?;
            }
        }
        Ok(())
    }

    /// Manifests of all pulls under way, in this and other processes.
    pub fn reserved(&self, _guard: &StoreGuard) -> io::Result<Vec<Manifest>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("pulls"))? {
            if let Ok(Some(manifest)) = manifests::read_manifest(&entry?.path()) {
                found.push(manifest);
            }
        }
        Ok(found)
    }

    /// Makes a model of blobs that are all here.
    pub fn install(
        &self,
        _guard: &StoreGuard,
        name: &ModelRef,
        manifest: &Manifest,
    ) -> io::Result<()> {
        for layer in &manifest.layers {
            if self.blob_size(layer.digest) != Some(layer.size) {
                let why = format!("the layer {} is not here", layer.digest.short());
                return Err(io::Error::new(io::ErrorKind::NotFound, why));
            }
        }
        let path = self.manifest_path(name);
        let folder = path.parent().unwrap_or(&self.root);
        let is_new = !folder.exists();
        fs::create_dir_all(folder)?;
        write_whole(&path, &manifest.bytes)?;
        // New folders have to survive a power cut as well as the file in them.
        let above = folder.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root));
        if is_new { above.take(3).try_for_each(sync_dir) } else { Ok(()) }
    }

    /// The installed model that already has this id, if any: plain names of models from Ollama's
    /// registry and of imported ones look the same.
    pub fn taken(&self, name: &ModelRef) -> Option<ModelRef> {
        let twin = match name.host.as_str() {
            LOCAL => Some(OLLAMA_REGISTRY),
            OLLAMA_REGISTRY => Some(LOCAL),
            _ => None,
        };
        let twin = twin.map(|host| ModelRef { host: host.to_owned(), ..name.clone() });
        let mut names = std::iter::once(name.clone()).chain(twin);
        names.find(|name| self.manifest_path(name).exists())
    }

    pub fn manifest_path(&self, name: &ModelRef) -> PathBuf {
        let ModelRef { host, namespace, model, tag } = name;
        self.root.join("manifests").join(host).join(namespace).join(model).join(tag)
    }

    /// The manifest of an installed model; `None` if there is none.
    pub fn manifest(&self, name: &ModelRef) -> io::Result<Option<Manifest>> {
        manifests::read_manifest(&self.manifest_path(name))
    }

    /// Every manifest with its name. What cannot be read is left out and logged.
    pub fn manifests(&self) -> BTreeMap<ModelRef, Manifest> {
        let inventory = self.inventory();
        let readable = inventory.models.into_iter().filter_map(|known| {
            let manifest = known.manifest.as_ref().ok()?;
            Some((known.name.clone(), manifest.clone()))
        });
        readable.collect()
    }

    /// Every manifest, read again only where its file changed, and how often layers are needed.
    pub(super) fn inventory(&self) -> Inventory {
        self.known.inventory(&self.root)
    }

    /// One manifest, read again only if its file changed.
    pub(super) fn known(&self, name: &ModelRef) -> Option<Arc<Known>> {
        self.known.get(&self.manifest_path(name), name)
    }
}

/// Each try means that somebody else finished with the blob in between.
const LOCK_TRIES: usize = 16;

/// Whether the open file is still the one that the path names.
fn is_named(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let (Ok(open), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
        open.ino() == named.ino() && open.dev() == named.dev()
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Writes a file whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_dir(folder)
}

/// Makes a rename in the folder survive a power cut.
pub(super) fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
