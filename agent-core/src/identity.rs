//! Who this node is: an Ed25519 key pair, made at the first start and kept in a 0600 file.
//!
//! The secret key is 32 bytes as hexadecimal digits. A file in the owner's own directory with
//! mode 0600 is what every machine has; a desktop keychain can hold it once money depends on it.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use agent_api::NodeId;
use ed25519_dalek::SigningKey;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{path} does not hold a key. Restore it from a backup, or move it away: the node then gets a new identity"
    )]
    Damaged { path: PathBuf },
    #[error("the operating system gave no random numbers: {0}")]
    Random(String),
}

/// The node's key pair.
#[derive(Debug)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// Reads the key, or makes one if the file is not there. A damaged file is an error: a new
    /// identity is the owner's decision, not ours.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let text = load_or_create_secret(path)?;
        let bytes: Option<[u8; 32]> =
            hex::decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.ok_or_else(|| IdentityError::Damaged { path: path.to_path_buf() })?;
        Ok(Self { key: SigningKey::from_bytes(&bytes) })
    }

    /// The secret key itself: connections and announcements are made with it.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    pub fn node_id(&self) -> NodeId {
        NodeId(hex::encode(self.key.verifying_key().as_bytes()))
    }
}

/// Reads a secret of 32 random bytes in hexadecimal from a 0600 file, or makes it.
pub fn load_or_create_secret(path: &Path) -> Result<String, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => return Err(IdentityError::Damaged { path: path.to_path_buf() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(IdentityError::Read { path: path.to_path_buf(), source }),
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| IdentityError::Random(e.to_string()))?;
    let secret = hex::encode(bytes);
    write_private(path, secret.as_bytes())
        .map_err(|source| IdentityError::Write { path: path.to_path_buf(), source })?;
    Ok(secret)
}

/// Writes a file that only the owner can read, whole or not at all. `NamedTempFile` makes it 0600.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_stays_the_same_and_private() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("node.key");
        let first = Identity::load_or_create(&path).expect("creates").node_id();
        let second = Identity::load_or_create(&path).expect("loads").node_id();
        assert_eq!(first, second);
        assert_eq!(first.0.len(), 64);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_key_is_refused_not_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("node.key");
        for text in ["not a key", "", "abcd"] {
            fs::write(&path, text).expect("writes");
            let error = Identity::load_or_create(&path).expect_err("refused");
            assert!(matches!(error, IdentityError::Damaged { .. }));
            assert_eq!(fs::read_to_string(&path).expect("reads"), text);
        }
    }
}
