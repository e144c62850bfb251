//! The texts that come with a model: system prompt, sampling options, licence, template.

use std::{
    fs::File,
    io::{self, Read as _},
};

use serde_json::{Map, Value};

use crate::models::{
    ModelFile,
    manifest::{Layer, LayerKind, MAX_TEXT_LAYER_BYTES},
};

/// What a model brings along for requests that say nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    pub system: Option<String>,
    /// Ollama's `PARAMETER`s: numbers, texts, truth values and lists of them.
    pub parameters: Map<String, Value>,
    /// Ollama's Go template; shown, never run.
    pub template: Option<String>,
    pub licenses: Vec<String>,
    /// Messages that every conversation begins with, as `{role, content}`.
    pub messages: Vec<Value>,
}

/// What Ollama's config layer says; for showing where the model's own head says nothing.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct ConfigFacts {
    pub model_family: Option<String>,
    /// Size for people: `3.2B`.
    pub model_type: Option<String>,
    /// Quantization.
    pub file_type: Option<String>,
}

impl ModelFile {
    /// Reads the texts among its layers, at most 4 MiB of each kind. What cannot be read or makes no
    /// sense is left out and logged. Touches the disk: keep it off the async threads.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            system: self.text(LayerKind::System),
            parameters: self
                .text(LayerKind::Params)
                .map(|t| self.parameters(&t))
                .unwrap_or_default(),
            template: self.text(LayerKind::Template),
            licenses: self.licenses(),
            messages: self.text(LayerKind::Messages).map(|t| self.messages(&t)).unwrap_or_default(),
        }
    }

    /// Reads the config layer.
    pub fn config_facts(&self) -> ConfigFacts {
        let text = self.text(LayerKind::Config).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn text(&self, kind: LayerKind) -> Option<String> {
        let layer = self.layer(kind)?;
        self.read_text(layer, MAX_TEXT_LAYER_BYTES).filter(|text| !text.trim().is_empty())
    }

    fn licenses(&self) -> Vec<String> {
        let mut room = MAX_TEXT_LAYER_BYTES;
        let mut licenses = Vec::new();
        for layer in self.layers.iter().filter(|layer| layer.kind == LayerKind::License) {
            if let Some(text) = self.read_text(layer, room) {
                room = room.saturating_sub(text.len() as u64);
                licenses.push(text);
            }
        }
        licenses
    }

    fn read_text(&self, layer: &Layer, limit: u64) -> Option<String> {
        let path = self.layer_path(layer)?;
        let kind = layer.kind.as_str();
        if layer.size > limit {
            tracing::warn!("the {kind} of {} is too long to be used", self.id);
            return None;
        }
        let mut bytes = Vec::new();
        // The file may be longer than the manifest says.
        let read = File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        match read {
            Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                tracing::warn!("the {kind} of {} is missing", self.id);
                None
            }
            Err(e) => {
                tracing::warn!("the {kind} of {} cannot be read: {e}", self.id);
                None
            }
        }
    }

    fn parameters(&self, text: &str) -> Map<String, Value> {
        let Ok(mut parameters) = serde_json::from_str::<Map<String, Value>>(text) else {
            tracing::warn!("the parameters of {} are not a JSON object; they are ignored", self.id);
            return Map::new();
        };
        parameters.retain(|name, value| {
            let plain =
                |value: &Value| value.is_number() || value.is_string() || value.is_boolean();
            let fine = plain(value) || value.as_array().is_some_and(|list| list.iter().all(plain));
            if !fine {
                tracing::warn!("the parameter {name:?} of {} is ignored: {value}", self.id);
            }
            fine
        });
        parameters
    }

    fn messages(&self, text: &str) -> Vec<Value> {
        let messages: Vec<Value> = serde_json::from_str(text).unwrap_or_else(|e| {
            tracing::warn!("the messages of {} are ignored: {e}", self.id);
            Vec::new()
        });
        let has = |message: &Value, field| message.get(field).is_some_and(Value::is_string);
        messages.into_iter().filter(|m| has(m, "role") && has(m, "content")).collect()
    }
}
