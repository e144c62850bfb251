//! Finding and reading manifests, and counting what they refer to.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{Store, StoreError, StoreGuard};
use crate::models::{
    manifest::{Digest, Layer, MAX_MANIFEST_BYTES, Manifest},
    name::{LOCAL, ModelRef},
};

/// Manifests that are looked at in one folder: four times what is listed, because those that are not
/// listed still need their layers.
const MAX_MANIFESTS: usize = 4 * crate::config::limits::LISTED_MODELS;
/// Folders that are looked into for them: one per model, and some for hosts and namespaces.
const MAX_FOLDERS: usize = 2 * MAX_MANIFESTS;
/// A folder that changed this shortly before it was read may have changed again without another time
/// of change; file systems count in up to two seconds (FAT).
const UNSETTLED: Duration = Duration::from_secs(2);
/// `<host>/<namespace>/<model>/<tag>` is 4; deeper than this nothing of ours lies.
const MAX_DEPTH: usize = 8;

/// A manifest file as it was when it was last read.
#[derive(Debug)]
pub(in crate::models) struct Known {
    pub name: ModelRef,
    pub modified: SystemTime,
    /// Shown when it cannot be used.
    pub path: PathBuf,
    /// The text says why it cannot be used.
    pub manifest: Result<Manifest, String>,
    /// The manifest's, to be shared by all listings.
    pub layers: Arc<[Layer]>,
    /// All it refers to, also if it cannot be used otherwise.
    pub(super) digests: Vec<Digest>,
    stamp: Stamp,
}

/// A file with the same stamp has the same content: manifests are replaced by renaming, which gives
/// them another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: SystemTime,
    inode: u64,
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(meta);
        #[cfg(not(unix))]
        let inode = 0;
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Self { length: meta.len(), modified, inode }
    }
}

/// Manifests that were read, by path, and what their folders have in them; as many as there are.
#[derive(Debug, Default)]
pub(in crate::models) struct ManifestCache {
    read: Mutex<HashMap<PathBuf, Arc<Known>>>,
    folders: Mutex<HashMap<PathBuf, ReadFolder>>,
}

/// A folder's entries; the same until its time of change is another.
#[derive(Clone, Debug)]
struct ReadFolder {
    modified: SystemTime,
    entries: Arc<[PathBuf]>,
}

/// All manifests of a folder at one moment.
#[derive(Debug, Default)]
pub(in crate::models) struct Inventory {
    /// By name, imported ones last.
    pub models: Vec<Arc<Known>>,
    uses: HashMap<Digest, u32>,
}

impl Inventory {
    /// Bytes that removing the model would free: its layers that nothing else needs.
    pub(in crate::models) fn removable_bytes(&self, known: &Known) -> u64 {
        let Ok(manifest) = &known.manifest else { return 0 };
        let mut seen = HashSet::new();
        let only_its = manifest
            .layers
            .iter()
            .filter(|layer| seen.insert(layer.digest))
            .filter(|layer| self.uses.get(&layer.digest).is_none_or(|uses| *uses <= 1));
        only_its.map(|layer| layer.size).fold(0, u64::saturating_add)
    }
}

impl ManifestCache {
    pub(in crate::models) fn inventory(&self, root: &Path) -> Inventory {
        let mut inventory = Inventory::default();
        for path in self.find(&root.join("manifests")) {
            inventory.models.extend(self.known(&path, || name_of(&path)));
        }
        // Imported models last: where one has the short name of a pulled one, that name means the
        // pulled one.
        let rank = |known: &Known| known.name.host == LOCAL;
        inventory.models.sort_by(|a, b| (rank(a), &a.name).cmp(&(rank(b), &b.name)));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() > inventory.models.len() {
            let here: HashSet<&Path> =
                inventory.models.iter().map(|known| known.path.as_path()).collect();
            read.retain(|path, _| here.contains(path.as_path()));
        }
        drop(read);
        let reserved = reserved(&root.join("pulls"));
        let needed = inventory.models.iter().flat_map(|known| &known.digests).chain(&reserved);
        for digest in needed {
            *inventory.uses.entry(*digest).or_default() += 1;
        }
        inventory
    }

    /// The manifest at the path; `None` if there is none.
    pub(in crate::models) fn get(&self, path: &Path, name: &ModelRef) -> Option<Arc<Known>> {
        self.known(path, || Some(name.clone()))
    }

    fn known(&self, path: &Path, name: impl FnOnce() -> Option<ModelRef>) -> Option<Arc<Known>> {
        let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        let stamp = Stamp::of(&meta);
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some(known) = known.filter(|known| known.stamp == stamp) {
            return Some(known);
        }
        let known = Arc::new(read_known(path, name()?, stamp));
        if let Err(why) = &known.manifest {
            tracing::warn!("{} is not used: {why}", path.display());
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() < MAX_MANIFESTS {
            read.insert(path.to_path_buf(), Arc::clone(&known));
        }
        Some(known)
    }

    /// Files that lie where manifests lie, four folders deep.
    fn find(&self, root: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut visited = 0;
        let mut folders = vec![(root.to_path_buf(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            visited += 1;
            if found.len() >= MAX_MANIFESTS || visited > MAX_FOLDERS {
                tracing::warn!("there is more in {} than is listed", root.display());
                break;
            }
            let entries = self.entries(&folder);
            if depth == 3 {
                found.extend(entries.iter().cloned());
            } else {
                folders.extend(entries.iter().map(|path| (path.clone(), depth + 1)));
            }
        }
        let mut known = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > visited {
            known.retain(|path, _| path.exists());
        }
        found
    }

    /// What is in the folder; nothing if it is none.
    fn entries(&self, folder: &Path) -> Arc<[PathBuf]> {
        let Ok(modified) = fs::metadata(folder).and_then(|meta| meta.modified()) else {
            return Arc::default();
        };
        let known =
            self.folders.lock().unwrap_or_else(PoisonError::into_inner).get(folder).cloned();
        if let Some(known) = known.filter(|known| known.modified == modified) {
            return known.entries;
        }
        let now = SystemTime::now();
        let Ok(entries) = fs::read_dir(folder) else { return Arc::default() };
        let entries: Arc<[PathBuf]> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .take(MAX_MANIFESTS)
            .collect::<Vec<_>>()
            .into();
        let is_settled = now.duration_since(modified).is_ok_and(|age| age > UNSETTLED);
        let mut known = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if is_settled && known.len() < MAX_FOLDERS {
            let read = ReadFolder { modified, entries: Arc::clone(&entries) };
            known.insert(folder.to_path_buf(), read);
        }
        entries
    }
}

/// The name that a manifest's path means; `None` for one that we would never write.
fn name_of(path: &Path) -> Option<ModelRef> {
    let mut parts = path.iter().rev().map(|part| part.to_str());
    let (tag, model) = (parts.next()??, parts.next()??);
    let (namespace, host) = (parts.next()??, parts.next()??);
    ModelRef::try_from(format!("{host}/{namespace}/{model}:{tag}")).ok()
}

fn read_known(path: &Path, name: ModelRef, stamp: Stamp) -> Known {
    let (manifest, digests) = match read_bounded(path) {
        Ok(bytes) => {
            let digests = digests_in(&bytes);
            (Manifest::parse(bytes).map_err(|e| e.to_string()), digests)
        }
        Err(e) => (Err(format!("the manifest cannot be read: {e}")), Vec::new()),
    };
    let layers = manifest.as_ref().map(|manifest| manifest.layers.as_slice().into());
    Known {
        name,
        modified: stamp.modified,
        path: path.to_path_buf(),
        layers: layers.unwrap_or_default(),
        manifest,
        digests,
        stamp,
    }
}

/// Reads a manifest file; `None` if it is not there.
pub(super) fn read_manifest(path: &Path) -> io::Result<Option<Manifest>> {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let manifest = Manifest::parse(bytes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    Ok(Some(manifest))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
    }
    if meta.len() > MAX_MANIFEST_BYTES as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB"));
    }
    fs::read(path)
}

/// What pulls under way need; for showing, so that an unreadable file is passed over.
fn reserved(pulls: &Path) -> Vec<Digest> {
    let entries = fs::read_dir(pulls).into_iter().flatten().filter_map(Result::ok);
    let files = entries.take(MAX_MANIFESTS).filter_map(|entry| read_bounded(&entry.path()).ok());
    files.flat_map(|bytes| digests_in(&bytes)).collect()
}

/// Every digest that stands in a text, each once. Also finds those of manifests that a newer program
/// wrote in a form unknown here.
fn digests_in(bytes: &[u8]) -> Vec<Digest> {
    const MARK: &[u8] = b"sha256";
    const DIGITS: usize = 64;
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        rest = &rest[at + MARK.len()..];
        let digits = rest.get(1..=DIGITS).and_then(|digits| std::str::from_utf8(digits).ok());
        let is_joined = rest.first().is_some_and(|joint| matches!(joint, b':' | b'-'));
        let digest = digits
            .filter(|_| is_joined)
            .and_then(|digits| Digest::parse(&format!("sha256:{digits}")));
        found.extend(digest);
    }
    found.sort_unstable();
    found.dedup();
    found
}

impl Store {
    /// Every digest that any manifest or pull refers to. Fails rather than overlook one.
    pub(super) fn references(&self, _guard: &StoreGuard) -> Result<HashSet<Digest>, StoreError> {
        let mut referred = HashSet::new();
        for folder in ["manifests", "pulls"] {
            collect_references(&self.root.join(folder), &mut referred)?;
        }
        Ok(referred)
    }
}

fn collect_references(root: &Path, referred: &mut HashSet<Digest>) -> Result<(), StoreError> {
    let unclear = |path: &Path, why: String| StoreError::Unclear { path: path.to_path_buf(), why };
    let mut folders = vec![(root.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        if depth > MAX_DEPTH {
            return Err(unclear(&folder, format!("it lies more than {MAX_DEPTH} folders deep")));
        }
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Somebody tidied up in between, or it never was.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !leads_nowhere(&folder) => continue,
            Err(e) => return Err(unclear(&folder, e.to_string())),
        };
        for entry in entries {
            let path = entry.map_err(|e| unclear(&folder, e.to_string()))?.path();
            if path.is_dir() {
                folders.push((path, depth + 1));
                continue;
            }
            match read_bounded(&path) {
                Ok(bytes) => referred.extend(digests_in(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound && !leads_nowhere(&path) => {}
                Err(e) => return Err(unclear(&path, e.to_string())),
            }
        }
    }
    Ok(())
}

/// A link whose target is not there, perhaps because its disk is not mounted.
fn leads_nowhere(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_in_any_text() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let text =
            format!("{{\"x\":[\"{a}\",\"{}\",\"{a}\"],\"sha256:12\":\"sha256\"", b.file_name());
        let mut expected = vec![a, b];
        expected.sort_unstable();
        assert_eq!(digests_in(text.as_bytes()), expected);
        assert_eq!(digests_in(b"sha256:"), []);
        assert_eq!(digests_in(&[0xff; 300]), []);
    }
}
