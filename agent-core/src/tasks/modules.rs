//! WebAssembly modules by their SHA-256: the owner's in `tasks/modules` of the data directory, those
//! that other nodes sent in `tasks/modules-of-others`, so that no stranger's takes the place of one
//! of the owner's.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

/// Largest module, as the contract of `wasm` says.
pub const MAX_MODULE_BYTES: usize = 5 << 20;

/// All of them together: fifty of the largest, hundreds of usual ones.
const MAX_TOTAL_BYTES: u64 = 256 << 20;

/// Files in the folder, whatever their size.
const MAX_FILES: usize = 4_096;

/// A use is noted on disk at most this often.
const NOTED_EVERY: Duration = Duration::from_secs(60);

/// What all WebAssembly begins with.
const MAGIC: &[u8] = b"\0asm";

/// How files are named that are not complete yet.
const UNFINISHED: &str = ".new-";

/// A folder of modules, least recently used first out.
#[derive(Clone, Debug)]
pub struct Modules {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    max_total_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("the module is {0} bytes long; 5 MiB is the most")]
    TooLarge(usize),
    #[error("this is no WebAssembly: {0}")]
    NotWasm(String),
    #[error("cannot keep the module: {0}")]
    Io(#[from] std::io::Error),
}

impl Modules {
    /// Makes the folder if need be, and removes what a crash left unfinished in it.
    pub fn open(dir: PathBuf) -> std::io::Result<Self> {
        Self::bounded(dir, MAX_TOTAL_BYTES)
    }

    fn bounded(dir: PathBuf, max_total_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder: Arc::new(Folder { dir, max_total_bytes }) })
    }

    /// Keeps a module; returns its SHA-256 in hexadecimal. On disk when it returns.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<String, ModuleError> {
        self.put_if(bytes, |_| true).await
    }

    /// Keeps a module that another node sent, if it is the one that was asked for; returns the
    /// SHA-256 that it has.
    pub async fn put_sent(&self, bytes: Vec<u8>, asked: &str) -> Result<String, ModuleError> {
        let asked = asked.to_owned();
        self.put_if(bytes, move |found| found == asked).await
    }

    async fn put_if(
        &self,
        bytes: Vec<u8>,
        wanted: impl FnOnce(&str) -> bool + Send + 'static,
    ) -> Result<String, ModuleError> {
        if bytes.len() > MAX_MODULE_BYTES {
            return Err(ModuleError::TooLarge(bytes.len()));
        }
        if !bytes.starts_with(MAGIC) {
            let why = "it does not begin with the bytes 00 61 73 6d";
            return Err(ModuleError::NotWasm(why.to_owned()));
        }
        let folder = Arc::clone(&self.folder);
        let put = tokio::task::spawn_blocking(move || {
            let sha256 = hex::encode(Sha256::digest(&bytes));
            if wanted(&sha256) {
                folder.put(&sha256, &bytes)?;
            }
            Ok::<_, ModuleError>(sha256)
        });
        put.await.map_err(io::Error::other)?
    }

    /// Its bytes, if it is here.
    pub async fn get(&self, sha256: &str) -> Option<Vec<u8>> {
        let digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if sha256.len() != 64 || !sha256.chars().all(digit) {
            return None;
        }
        let (folder, sha256) = (Arc::clone(&self.folder), sha256.to_owned());
        tokio::task::spawn_blocking(move || folder.get(&sha256)).await.ok()?
    }
}

impl Folder {
    fn put(&self, sha256: &str, bytes: &[u8]) -> io::Result<()> {
        if self.get(sha256).is_some() {
            return Ok(());
        }
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(self.path(sha256)).map_err(|error| error.error)?;
        sync_dir(&self.dir)?;
        self.make_room(sha256)
    }

    fn get(&self, sha256: &str) -> Option<Vec<u8>> {
        let path = self.path(sha256);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        (&mut file).take(MAX_MODULE_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
        if hex::encode(Sha256::digest(&bytes)) != sha256 {
            tracing::warn!(sha256, "a module on disk is damaged; it is removed");
            let _ = fs::remove_file(&path);
            return None;
        }
        let used = file.metadata().and_then(|meta| meta.modified()).ok();
        let long_ago =
            used.and_then(|used| used.elapsed().ok()).is_none_or(|ago| ago > NOTED_EVERY);
        if long_ago {
            note_use(&path);
        }
        Some(bytes)
    }

    /// Removes what was used least recently, but not the newest.
    fn make_room(&self, newest: &str) -> io::Result<()> {
        let newest = self.path(newest);
        let mut modules: Vec<(SystemTime, u64, PathBuf)> = fs::read_dir(&self.dir)?
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .filter(|(_, _, path)| path.extension().is_some_and(|kind| kind == "wasm"))
            .collect();
        modules.sort();
        let mut total: u64 = modules.iter().map(|(_, size, _)| size).sum();
        let mut count = modules.len();
        for (_, size, path) in modules {
            if total <= self.max_total_bytes && count <= MAX_FILES {
                break;
            }
            if path != newest {
                fs::remove_file(path)?;
                total -= size;
                count -= 1;
            }
        }
        Ok(())
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.dir.join(sha256).with_extension("wasm")
    }
}

/// The time of a file's change is the time of the module's use; losing it costs little.
fn note_use(path: &Path) {
    let noted = File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = noted {
        tracing::debug!(%error, "the use of a module could not be noted");
    }
}

/// So that the name is on disk too.
fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(filler: u8, length: usize) -> Vec<u8> {
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        bytes.resize(length, filler);
        bytes
    }

    #[tokio::test]
    async fn a_module_is_found_again_by_its_hash_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let modules = Modules::open(dir.path().join("modules")).expect("opens");
        let bytes = module(7, 1_000);
        let sha256 = modules.put(bytes.clone()).await.expect("is kept");
        assert_eq!(modules.put(bytes.clone()).await.expect("again"), sha256);
        fs::write(dir.path().join("modules").join(".new-abc"), "half").expect("a leftover");
        let modules = Modules::open(dir.path().join("modules")).expect("opens");
        assert_eq!(modules.get(&sha256).await, Some(bytes));
        assert_eq!(fs::read_dir(dir.path().join("modules")).expect("lists").count(), 1);
    }

    #[tokio::test]
    async fn what_is_no_module_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let modules = Modules::open(dir.path().to_owned()).expect("opens");
        let text = modules.put(b"hello".to_vec()).await.expect_err("is no module").to_string();
        assert!(text.contains("no WebAssembly"), "{text}");
        let large = modules.put(module(0, MAX_MODULE_BYTES + 1)).await.expect_err("is too large");
        assert!(matches!(large, ModuleError::TooLarge(5_242_881)));
        assert_eq!(modules.get("../../etc/passwd").await, None);
        assert_eq!(modules.get(&"0".repeat(64)).await, None);
    }

    #[tokio::test]
    async fn a_module_that_nobody_asked_for_is_not_written() {
        let dir = tempfile::tempdir().expect("a folder");
        let modules = Modules::open(dir.path().to_owned()).expect("opens");
        let bytes = module(3, 100);
        let found = modules.put_sent(bytes.clone(), &"0".repeat(64)).await.expect("is told");
        assert_eq!(modules.get(&found).await, None);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
        assert_eq!(modules.put_sent(bytes.clone(), &found).await.expect("is kept"), found);
        assert_eq!(modules.get(&found).await, Some(bytes));
    }

    #[tokio::test]
    async fn a_damaged_module_is_not_handed_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let modules = Modules::open(dir.path().to_owned()).expect("opens");
        let sha256 = modules.put(module(1, 100)).await.expect("is kept");
        fs::write(dir.path().join(&sha256).with_extension("wasm"), module(2, 100)).expect("damage");
        assert_eq!(modules.get(&sha256).await, None);
        assert_eq!(modules.put(module(1, 100)).await.expect("is kept again"), sha256);
        assert!(modules.get(&sha256).await.is_some());
    }

    #[tokio::test]
    async fn when_there_is_no_room_the_least_recently_used_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let modules = Modules::bounded(dir.path().to_owned(), 2_500).expect("opens");
        let old = modules.put(module(1, 1_000)).await.expect("is kept");
        let used = modules.put(module(2, 1_000)).await.expect("is kept");
        for (sha256, hours) in [(&old, 3), (&used, 5)] {
            let file = File::options()
                .append(true)
                .open(dir.path().join(sha256).with_extension("wasm"))
                .expect("is there");
            let then = SystemTime::now() - Duration::from_secs(hours * 3_600);
            file.set_modified(then).expect("changes");
        }
        assert!(modules.get(&used).await.is_some(), "is used again");
        let newest = modules.put(module(3, 1_000)).await.expect("is kept");
        assert_eq!(modules.get(&old).await, None);
        assert!(modules.get(&used).await.is_some());
        assert!(modules.get(&newest).await.is_some());
    }
}
