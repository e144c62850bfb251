//! Manifests: which layers make up a model (OCI image manifest, version 2; Ollama's media types).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A manifest is a few kilobytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// Ollama's largest have a dozen; split safetensors models, which are refused, have hundreds.
const MAX_LAYERS: usize = 64;
/// No model file of today is near; a larger claim is a lie or a mistake.
const MAX_LAYER_BYTES: u64 = 8 << 40;
/// Layers that are read into memory: templates, licences, parameters.
pub const MAX_TEXT_LAYER_BYTES: u64 = 4 << 20;

/// A SHA-256 digest; names a blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Its 32 bytes.
    pub fn hash(self) -> [u8; 32] {
        self.0
    }

    /// `sha256:` and 64 hexadecimal digits, nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?;
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).ok()?;
        Some(Self(hash))
    }

    /// `sha256-` and the digits: the name of the blob's file.
    pub fn file_name(&self) -> String {
        format!("sha256-{}", hex::encode(self.0))
    }

    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::parse(&format!("sha256:{}", name.strip_prefix("sha256-")?))
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a sha256 digest")
    }
}

/// What a layer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// The weights, a GGUF file.
    Model,
    /// Vision weights, a GGUF file.
    Projector,
    /// A LoRA adapter, a GGUF file.
    Adapter,
    /// A Go template; kept, not used (chat templates come from the GGUF).
    Template,
    System,
    Params,
    Messages,
    License,
    Config,
    /// Unknown; fetched and kept, so that the manifest stays whole.
    Other,
}

impl LayerKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Projector => "projector",
            Self::Adapter => "adapter",
            Self::Template => "template",
            Self::System => "system",
            Self::Params => "params",
            Self::Messages => "messages",
            Self::License => "license",
            Self::Config => "config",
            Self::Other => "other",
        }
    }

    fn of(media_type: &str) -> Self {
        let Some(kind) = media_type.strip_prefix("application/vnd.ollama.image.") else {
            return if media_type == CONFIG_TYPE { Self::Config } else { Self::Other };
        };
        match kind {
            "model" => Self::Model,
            "projector" => Self::Projector,
            "adapter" => Self::Adapter,
            "template" | "prompt" => Self::Template,
            "system" => Self::System,
            "params" => Self::Params,
            "messages" => Self::Messages,
            "license" => Self::License,
            _ => Self::Other,
        }
    }
}

pub const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub kind: LayerKind,
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

/// A manifest that was checked, with the bytes it was read from: their digest is the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub digest: Digest,
    /// The config first where there is one, then the layers in the manifest's order.
    pub layers: Vec<Layer>,
    pub bytes: Vec<u8>,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is larger than 1 MiB")]
    TooLarge,
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    #[error("the manifest is an index of several platforms, which models are not")]
    Index,
    #[error("the manifest names no model layer, so it is not a model (a container image?)")]
    NoModel,
    #[error(
        "the model is split into safetensors layers, which llama.cpp cannot load; pull a GGUF of it"
    )]
    Tensors,
    #[error("the manifest has {0:?} where a sha256 digest belongs")]
    Digest(String),
    #[error("the manifest says that a layer has {0} bytes, which cannot be")]
    Size(i128),
    #[error("the manifest gives two sizes for {0}")]
    TwoSizes(Digest),
    #[error("the manifest names more than {MAX_LAYERS} layers")]
    TooManyLayers,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    config: Option<RawLayer>,
    #[serde(default)]
    layers: Vec<RawLayer>,
    #[serde(default)]
    manifests: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawLayer {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: serde_json::Number,
}

/// What is written for models that come without a manifest.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    layers: [WrittenLayer<'a>; 1],
}

#[derive(Serialize)]
struct WrittenLayer<'a> {
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    digest: Digest,
    size: u64,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let raw: Raw =
            serde_json::from_slice(&bytes).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        if raw.manifests.is_some() {
            return Err(ManifestError::Index);
        }
        if raw.layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers);
        }
        let mut layers: Vec<Layer> = Vec::new();
        for layer in raw.config.into_iter().chain(raw.layers) {
            let layer = layer.check()?;
            match layers.iter().find(|known| known.digest == layer.digest) {
                Some(known) if known.size != layer.size => {
                    return Err(ManifestError::TwoSizes(layer.digest));
                }
                _ => layers.push(layer),
            }
        }
        let count = |kind| layers.iter().filter(|layer| layer.kind == kind).count();
        if count(LayerKind::Model) == 0 {
            let tensors = layers.iter().any(|layer| layer.media_type.ends_with(".tensor"));
            return Err(if tensors { ManifestError::Tensors } else { ManifestError::NoModel });
        }
        Ok(Self { digest: Digest::of(&bytes), layers, bytes })
    }

    /// A manifest for one GGUF file that has none of its own.
    pub fn of_gguf(digest: Digest, size: u64) -> Self {
        let written = Written {
            schema_version: 2,
            media_type: MANIFEST_TYPE,
            layers: [WrittenLayer {
                media_type: "application/vnd.ollama.image.model",
                digest,
                size,
            }],
        };
        let bytes = serde_json::to_vec(&written).unwrap_or_default();
        let layers = vec![Layer {
            kind: LayerKind::Model,
            media_type: "application/vnd.ollama.image.model".into(),
            digest,
            size,
        }];
        Self { digest: Digest::of(&bytes), layers, bytes }
    }

    /// The weights.
    pub fn model(&self) -> Option<&Layer> {
        self.layer(LayerKind::Model)
    }

    pub fn layer(&self, kind: LayerKind) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.kind == kind)
    }

    /// Sum of all different layers.
    pub fn size(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        let different = self.layers.iter().filter(|layer| seen.insert(layer.digest));
        different.map(|layer| layer.size).fold(0, u64::saturating_add)
    }
}

impl RawLayer {
    fn check(self) -> Result<Layer, ManifestError> {
        let digest = Digest::parse(&self.digest)
            .ok_or_else(|| ManifestError::Digest(short(&self.digest)))?;
        let size = match (self.size.as_u64(), self.size.as_i64()) {
            (Some(size), _) if size <= MAX_LAYER_BYTES => size,
            (Some(size), _) => return Err(ManifestError::Size(size.into())),
            (None, Some(size)) => return Err(ManifestError::Size(size.into())),
            (None, None) => return Err(ManifestError::Malformed("a size is not a number".into())),
        };
        let kind = LayerKind::of(&self.media_type);
        if kind == LayerKind::Model && size == 0 {
            return Err(ManifestError::Size(0));
        }
        Ok(Layer { kind, media_type: self.media_type, digest, size })
    }
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn manifest(layers: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(format!(r#"{{"schemaVersion":2,"layers":[{layers}]}}"#).into_bytes())
    }

    fn layer(kind: &str, digest: &str, size: &str) -> String {
        format!(
            r#"{{"mediaType":"application/vnd.ollama.image.{kind}","digest":"{digest}","size":{size}}}"#
        )
    }

    #[test]
    fn a_manifest_written_for_a_file_is_read_back() {
        let written = Manifest::of_gguf(Digest::of(b"weights"), 7);
        assert_eq!(Manifest::parse(written.bytes.clone()).expect("reads"), written);
    }

    #[test]
    fn lies_and_mistakes_are_named() {
        for (layers, why) in [
            (layer("model", "sha256:xyz", "1"), "where a sha256 digest belongs"),
            (layer("model", "sha256:../../../etc/passwd", "1"), "where a sha256 digest belongs"),
            (layer("model", A, "0"), "0 bytes"),
            (layer("model", A, "-5"), "-5 bytes"),
            (layer("model", A, "109951162777600000"), "cannot be"),
            (layer("model", A, "1e300"), "not a number"),
            (layer("license", A, "5"), "no model layer"),
            (layer("tensor", A, "5"), "safetensors"),
            (layer("model", A, "5") + "," + &layer("license", A, "6"), "two sizes"),
        ] {
            let error = manifest(&layers).expect_err(&layers).to_string();
            assert!(error.contains(why), "{layers}: {error}");
        }
        let index = Manifest::parse(br#"{"manifests":[]}"#.to_vec()).expect_err("an index");
        assert_eq!(index, ManifestError::Index);
    }

    proptest! {
        #[test]
        fn noise_is_refused_without_panicking(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Manifest::parse(bytes).is_err());
        }
    }
}
