//! The catalogue: models that are worth pulling, with what is known about them.

use serde::{Deserialize, Serialize};

use crate::fit::Fit;

/// Query of `GET /model/catalog`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CatalogueQuery {
    /// Words that all have to occur in the name, the summary, the uses or the licence.
    #[serde(default)]
    pub q: Option<String>,
}

/// Body of `POST /model/catalog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateCatalogue {
    /// A newer catalogue file on this computer.
    pub path: String,
}

/// Answer of `GET` and `POST /model/catalog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Catalogue {
    /// Date of the data.
    pub updated: String,
    /// `built in`, or the file it was read from.
    pub origin: String,
    /// Best match first.
    pub entries: Vec<CatalogueEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CatalogueEntry {
    pub id: String,
    pub title: String,
    pub summary: String,
    /// `general`, `code`, `thinking`, `vision`, `embedding`, `tools`, `multilingual`, `small`.
    pub uses: Vec<String>,
    pub parameters: u64,
    pub license: Option<String>,
    /// Tokens the model was trained to look back on.
    pub context: Option<u32>,
    /// The recommended one first.
    pub variants: Vec<CatalogueVariant>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CatalogueVariant {
    pub quantization: String,
    /// What to pull.
    pub pull: String,
    pub size_bytes: u64,
    /// False when the size is as published, rounded.
    pub size_exact: bool,
    pub digest: Option<String>,
    pub fit: Fit,
    /// Installed under this name already.
    pub installed: bool,
}
