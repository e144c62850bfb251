//! The store: blobs named by their digest, and manifests that say which of them make a model.
//!
//! ```text
//! blobs/sha256-<hex>            a complete layer; never changed once it has this name
//! blobs/sha256-<hex>.partial    a layer on its way, with what is known about it in
//! blobs/sha256-<hex>.state      ... and a lock that its one writer holds in
//! blobs/sha256-<hex>.lock
//! manifests/<host>/<namespace>/<model>/<tag>
//! pulls/<id>                    the manifest of a pull under way: its layers count as used
//! store.lock                    held for moments while references are counted or changed
//! ```
//!
//! The layout of `blobs` and `manifests` is Ollama's, so that either program can read the other's.
//! Several nodes may share one store: the locks are the operating system's, and go with their
//! process.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{
    manifest::{Digest, MAX_MANIFEST_BYTES, Manifest},
    name::ModelRef,
};

/// A model folder. Clones share it. All calls touch the disk: keep them off the async threads.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
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
        Ok(Self { root })
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
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            // Whoever had it before may have deleted it between our opening and locking it; then
            // it keeps nobody else out.
            Ok(()) if !is_same_file(&file, &path) => Ok(None),
            Ok(()) => Ok(Some(BlobLock { _file: file, digest })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
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
        drop(lock);
        remove_if_there(&self.lock_path(digest))
    }

    /// Deletes the parts of a blob that will not be completed.
    pub fn discard_partial(&self, lock: BlobLock) -> io::Result<()> {
        let digest = lock.digest;
        remove_if_there(&self.partial_path(digest))?;
        remove_if_there(&self.state_path(digest))?;
        drop(lock);
        remove_if_there(&self.lock_path(digest))
    }

    /// Writes down that a pull needs these layers, so that nothing removes them meanwhile.
    pub fn reserve(&self, _guard: &StoreGuard, pull: &str, manifest: &Manifest) -> io::Result<()> {
        write_whole(&self.root.join("pulls").join(pull), &manifest.bytes)
    }

    pub fn release(&self, _guard: &StoreGuard, pull: &str) -> io::Result<()> {
        remove_if_there(&self.root.join("pulls").join(pull))
    }

    /// Manifests of all pulls under way, in this and other processes.
    pub fn reserved(&self, _guard: &StoreGuard) -> io::Result<Vec<Manifest>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("pulls"))? {
            if let Ok(Some(manifest)) = read_manifest(&entry?.path()) {
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
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        write_whole(&path, &manifest.bytes)
    }

    pub fn manifest_path(&self, name: &ModelRef) -> PathBuf {
        let ModelRef { host, namespace, model, tag } = name;
        self.root.join("manifests").join(host).join(namespace).join(model).join(tag)
    }

    /// The manifest of an installed model; `None` if there is none.
    pub fn manifest(&self, name: &ModelRef) -> io::Result<Option<Manifest>> {
        read_manifest(&self.manifest_path(name))
    }

    /// Every manifest with its name. What cannot be read is left out and logged.
    pub fn manifests(&self) -> BTreeMap<ModelRef, Manifest> {
        manifests_in(&self.root.join("manifests"))
    }
}

/// Reads a manifest file; `None` if it is not there.
pub(super) fn read_manifest(path: &Path) -> io::Result<Option<Manifest>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_MANIFEST_BYTES as u64 => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 1 MiB"));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    }
    let manifest = Manifest::parse(fs::read(path)?)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    Ok(Some(manifest))
}

/// Manifests of a folder in Ollama's layout, `<host>/<namespace>/<model>/<tag>`.
pub(super) fn manifests_in(root: &Path) -> BTreeMap<ModelRef, Manifest> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_path_buf(), Vec::<String>::new())];
    while let Some((folder, parts)) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            if found.len() >= crate::config::limits::LISTED_MODELS {
                tracing::warn!("more models than are listed in {}", root.display());
                return found;
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            let mut parts = parts.clone();
            parts.push(name);
            if parts.len() < 4 {
                folders.push((entry.path(), parts));
                continue;
            }
            let name = format!("{}/{}/{}:{}", parts[0], parts[1], parts[2], parts[3]);
            let Ok(name) = ModelRef::try_from(name) else { continue };
            match read_manifest(&entry.path()) {
                Ok(Some(manifest)) => {
                    found.insert(name, manifest);
                }
                Ok(None) => {}
                Err(e) => tracing::warn!("{} is not used: {e}", entry.path().display()),
            }
        }
    }
    found
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

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let same = |a: &fs::Metadata, b: &fs::Metadata| a.dev() == b.dev() && a.ino() == b.ino();
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

/// Elsewhere a file that is open cannot be deleted.
#[cfg(not(unix))]
fn is_same_file(_file: &File, _path: &Path) -> bool {
    true
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
