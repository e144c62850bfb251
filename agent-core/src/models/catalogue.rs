//! The catalogue: models worth pulling, as data that ships and can be replaced.
//!
//! A newer `catalogue.json` in the data directory takes the place of what ships. It is checked
//! whole before it is believed, and a bad one changes nothing.

mod check;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use agent_api::{
    catalogue::{CatalogueEntry, CatalogueVariant},
    fit::Fit,
    models::Capability,
};
use serde::{Deserialize, Serialize};

use super::{
    name::{ModelRef, OLLAMA_REGISTRY},
    store::write_whole,
};

const BUILT_IN: &str = include_str!("../../catalogue/models.json");
/// Its name in the data directory.
pub const CATALOGUE_FILE: &str = "catalogue.json";
/// The one that ships is 100 kB.
pub const MAX_CATALOGUE_BYTES: u64 = 4 << 20;
/// The form that this program reads.
const VERSION: u32 = 1;

/// Why a catalogue is not used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("the catalogue is larger than {} MiB", MAX_CATALOGUE_BYTES >> 20)]
    TooLarge,
    #[error("the catalogue cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "the catalogue is of version {0}, and this EdgeCoder reads version {VERSION}. Update EdgeCoder first"
    )]
    Version(u32),
    #[error("the catalogue is not used, because {0}")]
    Invalid(String),
    #[error("the catalogue is of {new}, and the one in use of {current}. It was not replaced")]
    NotNewer { new: String, current: String },
    #[error("cannot {doing} {path}: {source}", path = .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

/// The file. Fields that a later program adds are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Data {
    version: u32,
    /// `YYYY-MM-DD`.
    updated: String,
    /// Recommended first.
    entries: Vec<Entry>,
}

/// A model in all its sizes of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub id: String,
    pub title: String,
    pub summary: String,
    pub uses: Vec<String>,
    /// Architecture, as GGUF files name it.
    pub family: String,
    /// Number of weights.
    pub parameters: u64,
    pub license: Option<String>,
    /// Tokens it was trained to look back on.
    pub context: Option<u32>,
    pub shape: Option<Shape>,
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// Recommended first.
    pub variants: Vec<Variant>,
    /// Where these facts were read.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// What the memory a model needs is computed from.
pub use super::fit::Shape;

/// One size of weights, as it can be pulled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    pub quantization: String,
    pub pull: String,
    pub size_bytes: u64,
    /// False when the size is as published, rounded.
    pub size_exact: bool,
    /// SHA-256 in hexadecimal digits, with or without `sha256:` before them.
    pub digest: Option<String>,
}

/// A catalogue that was checked. Clones share it.
#[derive(Clone, Debug)]
pub struct Catalogue {
    data: Arc<Data>,
    origin: String,
}

impl Catalogue {
    /// The one that ships.
    pub fn built_in() -> Self {
        let data = check::read(BUILT_IN.as_bytes()).unwrap_or_else(|e| {
            // A test reads it, so that this never happens.
            tracing::error!("the catalogue that ships is unusable: {e}");
            Data { version: VERSION, updated: "1970-01-01".to_owned(), entries: Vec::new() }
        });
        Self { data: Arc::new(data), origin: "built in".to_owned() }
    }

    /// The one in the data directory if it is good and newer, else the one that ships.
    pub fn load(data_dir: &Path) -> Self {
        let built_in = Self::built_in();
        let path = data_dir.join(CATALOGUE_FILE);
        match read_file(&path) {
            Ok(Some(data)) if data.updated > built_in.data.updated => {
                Self { data: Arc::new(data), origin: path.display().to_string() }
            }
            Ok(_) => built_in,
            Err(e) => {
                tracing::warn!("{} is left aside: {e}", path.display());
                built_in
            }
        }
    }

    /// Checks a newer catalogue and writes it to the data directory; gives the one to use from now
    /// on. On an error the one in use stays.
    pub fn install_update(&self, data_dir: &Path, bytes: &[u8]) -> Result<Self, CatalogueError> {
        let data = check::read(bytes)?;
        if data.updated <= self.data.updated {
            let current = self.data.updated.clone();
            return Err(CatalogueError::NotNewer { new: data.updated, current });
        }
        let path = data_dir.join(CATALOGUE_FILE);
        write_whole(&path, bytes).map_err(|source| CatalogueError::Io {
            doing: "write",
            path: path.clone(),
            source,
        })?;
        Ok(Self { data: Arc::new(data), origin: path.display().to_string() })
    }

    /// Date of the data.
    pub fn updated(&self) -> &str {
        &self.data.updated
    }

    /// `built in`, or the file it was read from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Entries that have every word of the query in them, without regard to capitals: first those
    /// with all of them in the title, then in the catalogue's order. An empty query gives all.
    pub fn search(&self, query: &str) -> Vec<&Entry> {
        let words: Vec<String> =
            query.split_whitespace().take(MAX_WORDS).map(str::to_lowercase).collect();
        let has_all = |text: &str| words.iter().all(|word| text.contains(word.as_str()));
        let mut found: Vec<(bool, &Entry)> = self
            .data
            .entries
            .iter()
            .filter(|entry| has_all(&entry.text()))
            .map(|entry| (!has_all(&entry.title.to_lowercase()), entry))
            .collect();
        // Stable: the recommended order stays within each half.
        found.sort_by_key(|(in_text_only, _)| *in_text_only);
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// What is known about a model by the name it is pulled by, with or without what goes without
    /// saying (`:latest`, the host).
    pub fn by_pull_name(&self, name: &str) -> Option<(&Entry, &Variant)> {
        let parse = |name: &str| ModelRef::parse(name, OLLAMA_REGISTRY).ok();
        let name = parse(name)?;
        self.data.entries.iter().find_map(|entry| {
            let is_meant = |variant: &&Variant| parse(&variant.pull).as_ref() == Some(&name);
            Some((entry, entry.variants.iter().find(is_meant)?))
        })
    }

    /// The catalogue for the API. `fit` computes whether a variant will run here; `installed` knows
    /// the names that are here already.
    pub fn describe(
        &self,
        query: &str,
        mut fit: impl FnMut(&Entry, &Variant) -> Fit,
        mut installed: impl FnMut(&str) -> bool,
    ) -> agent_api::catalogue::Catalogue {
        let found = self.search(query);
        agent_api::catalogue::Catalogue {
            updated: self.data.updated.clone(),
            origin: self.origin.clone(),
            entries: found.iter().map(|entry| entry.describe(&mut fit, &mut installed)).collect(),
        }
    }
}

/// More words than anyone types; each is looked for in every entry.
const MAX_WORDS: usize = 16;

impl Entry {
    /// All that is searched, in small letters.
    fn text(&self) -> String {
        let Self { id, title, summary, uses, license, variants, .. } = self;
        let license = license.as_deref().unwrap_or_default();
        let uses = uses.join(" ");
        let mut text = format!("{title} {id} {summary} {uses} {license}");
        for variant in variants {
            text.push(' ');
            text.push_str(&variant.pull);
        }
        text.to_lowercase()
    }

    /// For the API.
    pub fn describe(
        &self,
        mut fit: impl FnMut(&Self, &Variant) -> Fit,
        mut installed: impl FnMut(&str) -> bool,
    ) -> CatalogueEntry {
        let variants = self.variants.iter().map(|variant| CatalogueVariant {
            quantization: variant.quantization.clone(),
            pull: variant.pull.clone(),
            size_bytes: variant.size_bytes,
            size_exact: variant.size_exact,
            digest: variant.digest.as_deref().map(check::full_digest),
            fit: fit(self, variant),
            installed: installed(&variant.pull),
        });
        CatalogueEntry {
            id: self.id.clone(),
            title: self.title.clone(),
            summary: self.summary.clone(),
            uses: self.uses.clone(),
            parameters: self.parameters,
            license: self.license.clone(),
            context: self.context,
            variants: variants.collect(),
        }
    }
}

/// The bytes of a catalogue file, if it is no larger than one can be.
pub fn read_catalogue(path: &Path) -> Result<Vec<u8>, CatalogueError> {
    let failed = |source| CatalogueError::Io { doing: "read", path: path.to_path_buf(), source };
    if fs::metadata(path).map_err(failed)?.len() > MAX_CATALOGUE_BYTES {
        return Err(CatalogueError::TooLarge);
    }
    fs::read(path).map_err(failed)
}

fn read_file(path: &Path) -> Result<Option<Data>, CatalogueError> {
    match read_catalogue(path) {
        Ok(bytes) => check::read(&bytes).map(Some),
        Err(CatalogueError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
