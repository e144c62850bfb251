//! Logins for registries, in one file that only the owner can read.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base64::Engine as _;
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use super::RegistryError;
use crate::models::store::{remove_if_there, write_whole};

/// A few dozen logins.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// What one host wants to hear.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Empty: the secret is a token that is sent as it is.
    #[serde(default)]
    pub username: String,
    pub secret: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Login {
    /// `Basic` with a username, `Bearer` without. `None` where a header cannot hold it.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        if self.username.is_empty() { self.bearer() } else { self.basic() }
    }

    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        secret_header(format!("Bearer {}", self.secret))
    }

    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let both = format!("{}:{}", self.username, self.secret);
        let both = base64::engine::general_purpose::STANDARD.encode(both);
        secret_header(format!("Basic {both}"))
    }
}

/// A header value that no log prints.
pub(super) fn secret_header(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The logins by host. Clones share them; the file is read once.
#[derive(Clone, Debug)]
pub struct Credentials {
    path: PathBuf,
    known: Arc<Mutex<Option<BTreeMap<String, Login>>>>,
}

impl Credentials {
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: Arc::default() }
    }

    /// The login for a host as model names write it.
    pub fn get(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        self.with(|logins| logins.get(&canonical(host)).cloned())
    }

    /// Hosts that there is a login for.
    pub fn hosts(&self) -> Result<Vec<String>, RegistryError> {
        self.with(|logins| logins.keys().cloned().collect())
    }

    /// Keeps a login, or forgets it if the secret is empty. Writes the file: keep it off the async
    /// threads.
    pub fn set(&self, host: &str, login: Login) -> Result<(), RegistryError> {
        let host = canonical(host);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut logins = match known.take() {
            Some(logins) => logins,
            None => self.read()?,
        };
        if login.secret.is_empty() {
            logins.remove(&host);
        } else {
            logins.insert(host, login);
        }
        let written = self.write(&logins);
        *known = Some(logins);
        if written.is_err() {
            // What is on disk counts.
            *known = None;
        }
        written
    }

    fn with<T>(
        &self,
        look: impl FnOnce(&BTreeMap<String, Login>) -> T,
    ) -> Result<T, RegistryError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = Some(self.read()?);
        }
        Ok(look(known.get_or_insert_default()))
    }

    fn read(&self) -> Result<BTreeMap<String, Login>, RegistryError> {
        match fs::metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(self.bad(&e.to_string())),
            Ok(meta) if meta.len() > MAX_FILE_BYTES => return Err(self.bad("it is too large")),
            Ok(_) => {}
        }
        let text = fs::read(&self.path).map_err(|e| self.bad(&e.to_string()))?;
        let logins: BTreeMap<String, Login> = serde_json::from_slice(&text).map_err(|_| {
            self.bad("it is damaged. Correct or delete it, then log in to your registries again")
        })?;
        // The owner may have written it by hand.
        Ok(logins.into_iter().map(|(host, login)| (canonical(&host), login)).collect())
    }

    /// Temporary files are made with mode 0600, and keep it when they get their name.
    fn write(&self, logins: &BTreeMap<String, Login>) -> Result<(), RegistryError> {
        if logins.is_empty() {
            return remove_if_there(&self.path).map_err(|e| self.bad(&e.to_string()));
        }
        let text = serde_json::to_vec_pretty(logins).map_err(|e| self.bad(&e.to_string()))?;
        write_whole(&self.path, &text).map_err(|e| self.bad(&e.to_string()))
    }

    fn bad(&self, why: &str) -> RegistryError {
        RegistryError::File { path: display(&self.path), why: why.to_owned() }
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// Capitals and the port that https has anyway make no other host.
fn canonical(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    if host == "huggingface.co" { "hf.co".to_owned() } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(username: &str, secret: &str) -> Login {
        Login { username: username.into(), secret: secret.into() }
    }

    #[test]
    fn logins_survive_are_forgotten_and_never_printed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("credentials.json");
        let credentials = Credentials::new(path.clone());
        credentials.set("R.example:5000", login("me", "hunter2")).expect("keeps");
        credentials.set("huggingface.co", login("", "hf_token")).expect("keeps");
        let again = Credentials::new(path.clone());
        let kept = again.get("r.example:5000").expect("reads").expect("is there");
        assert_eq!(kept, login("me", "hunter2"));
        assert!(again.get("HuggingFace.co:443").expect("reads").is_some(), "the same host");
        assert_eq!(again.get("hf.co:5000").expect("reads"), None, "another one");
        assert_eq!(again.hosts().expect("reads"), ["hf.co", "r.example:5000"]);
        assert!(!format!("{kept:?} {again:?}").contains("hunter2"));
        assert!(!format!("{:?}", kept.header()).contains("Basic"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        again.set("hf.co", login("", "")).expect("forgets");
        again.set("r.example:5000", login("", "")).expect("forgets");
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("credentials.json");
        fs::write(&path, "{ not json").expect("writes");
        let credentials = Credentials::new(path.clone());
        let error = credentials.set("h", login("a", "b")).expect_err("refused").to_string();
        assert!(error.contains("damaged") && !error.contains("not json"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("kept"), "{ not json");
    }
}
