//! An Ollama model folder, read in place. Nothing is ever written to it, not even a lock: what is
//! being pulled there has no manifest yet, and what is removed meanwhile is listed as missing.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::models::{
    name::ModelRef,
    store::{Inventory, Known, ManifestCache},
};

#[derive(Debug)]
pub(super) struct OllamaFolder {
    pub root: PathBuf,
    pub blobs: Arc<Path>,
    known: ManifestCache,
}

impl OllamaFolder {
    fn new(root: PathBuf) -> Self {
        let blobs = root.join("blobs").into();
        Self { root, blobs, known: ManifestCache::default() }
    }

    pub(super) fn inventory(&self) -> Inventory {
        self.known.inventory(&self.root)
    }

    pub(super) fn known(&self, name: &ModelRef) -> Option<Arc<Known>> {
        let ModelRef { host, namespace, model, tag } = name;
        let path = self.root.join("manifests").join(host).join(namespace).join(model).join(tag);
        self.known.get(&path, name)
    }
}

/// The folders that a setting means, without our own. A folder that is not there yet is kept, so
/// that its models show up once it is.
pub(super) fn folders(setting: Option<&str>, own: &Path) -> Vec<Arc<OllamaFolder>> {
    let places = match setting {
        Some("") => Vec::new(),
        Some(path) => vec![PathBuf::from(path)],
        None => usual_places(env::var_os("OLLAMA_MODELS").map(PathBuf::from), home()),
    };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mut seen = vec![real(own)];
    let mut folders = Vec::new();
    for place in places {
        let real = real(&place);
        if !seen.contains(&real) {
            seen.push(real);
            folders.push(Arc::new(OllamaFolder::new(place)));
        }
    }
    folders
}

/// Whether a folder is one that Ollama uses: the one in the settings or a usual place. A store there
/// would take what Ollama is just fetching for left-overs.
pub fn is_of_ollama(folder: &Path, setting: Option<&str>) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let named = setting.filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = usual_places(env::var_os("OLLAMA_MODELS").map(PathBuf::from), home());
    named.into_iter().chain(usual).any(|place| real(&place) == real(folder))
}

/// Where Ollama keeps models: what its variable says, the user's folder, the Linux service's folder.
fn usual_places(variable: Option<PathBuf>, home: Option<PathBuf>) -> Vec<PathBuf> {
    let named = variable.filter(|path| !path.as_os_str().is_empty());
    let users = home.map(|home| home.join(".ollama").join("models"));
    let services = PathBuf::from("/usr/share/ollama/.ollama/models");
    named.into_iter().chain(users).chain([services]).collect()
}

fn home() -> Option<PathBuf> {
    directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_comes_before_the_users_folder_and_an_empty_setting_means_none() {
        let places = usual_places(Some("/big/models".into()), Some("/home/me".into()));
        assert_eq!(places[0], Path::new("/big/models"));
        assert_eq!(places[1], Path::new("/home/me/.ollama/models"));
        assert_eq!(places.len(), 3);
        assert!(folders(Some(""), Path::new("/data")).is_empty());
        assert_eq!(folders(Some("/x"), Path::new("/data"))[0].root, Path::new("/x"));
    }

    #[test]
    fn our_own_folder_is_not_listed_twice() {
        let dir = tempfile::tempdir().expect("temp dir");
        let around = dir.path().join("sub").join("..");
        std::fs::create_dir(dir.path().join("sub")).expect("makes");
        assert!(folders(around.to_str(), dir.path()).is_empty());
    }
}
