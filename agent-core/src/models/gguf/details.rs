//! Everything a person may want to read in a model file's head.

use std::{fs::File, io::BufReader, path::Path};

use serde_json::{Map, Value as Json, json};

use super::{
    GgufError,
    head::{Head, Value},
};

/// Longest text that is shown as it is; the licence and the template are kept whole.
const MAX_SHOWN_CHARS: usize = 500;
/// Keys that are shown: files have 30 to 60.
const MAX_SHOWN_KEYS: usize = 500;

/// What [`read_details`] finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The chat template.
    pub template: Option<String>,
    /// Name of the licence and where it can be read.
    pub license: Option<String>,
    /// Scalars and short texts; of arrays and long texts the length.
    pub metadata: Map<String, Json>,
}

/// Reads the metadata of a model file for show. At most 256 MiB of the file are read and at most
/// 500 keys are given.
pub fn read_details(path: &Path) -> Result<Details, GgufError> {
    let file = File::open(path).map_err(GgufError::Io)?;
    let size = file.metadata().map_err(GgufError::Io)?.len();
    let mut head = Head::new(BufReader::with_capacity(1 << 16, file), size, false);
    let counts = super::begin(&mut head, size)?;
    let mut details = Details::default();
    let mut license = Vec::new();
    for _ in 0..counts.metadata {
        let key = head.name()?;
        let value = head.value()?;
        match (key.as_str(), value) {
            ("tokenizer.chat_template", Value::Text(text)) => details.template = Some(text),
            (key, value) => {
                if let Value::Text(text) = &value
                    && matches!(
                        key,
                        "general.license" | "general.license.name" | "general.license.link"
                    )
                {
                    license.push(shortened(text));
                }
                if details.metadata.len() < MAX_SHOWN_KEYS {
                    details.metadata.insert(shortened(key), shown(value));
                }
            }
        }
    }
    details.license = (!license.is_empty()).then(|| license.join("\n"));
    Ok(details)
}

fn shown(value: Value) -> Json {
    match value {
        Value::Number(n) => json!(n),
        Value::Negative(n) => json!(n),
        // JSON has no infinities.
        Value::Float(x) => json!(x),
        Value::Bool(b) => json!(b),
        Value::Text(text) => Json::String(shortened(&text)),
        Value::Array(array) => json!(format!("{} values", array.length)),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text.to_owned(),
    }
}
