//! The text that `POST /api/show` describes a model with.

use agent_api::models::ModelDetails;
use serde_json::{Map, Value};

/// Width of the names' column, as the daemon's.
const NAMES: usize = 30;

/// One option a line; a list is one line per entry.
pub(super) fn parameters(options: &Map<String, Value>) -> String {
    let lines: Vec<String> =
        entries(options).map(|(name, value)| format!("{name:<NAMES$} {value}")).collect();
    lines.join("\n")
}

/// A Modelfile that says where the model comes from and what comes with it.
pub(super) fn text(name: &str, details: &ModelDetails) -> String {
    let mut text = format!("# To build a new model from this one:\n# FROM {name}\n\n");
    let path = &details.model.path;
    let from = if path.is_empty() { name } else { path };
    text.push_str(&format!("FROM {from}\n"));
    if let Some(template) = &details.template {
        text.push_str(&block("TEMPLATE", template));
    }
    if let Some(system) = &details.system {
        text.push_str(&block("SYSTEM", system));
    }
    for (name, value) in entries(&details.parameters) {
        text.push_str(&format!("PARAMETER {name} {value}\n"));
    }
    if let Some(license) = &details.license_text {
        text.push_str(&block("LICENSE", license));
    }
    text
}

fn block(word: &str, text: &str) -> String {
    format!("{word} \"\"\"{text}\"\"\"\n")
}

fn entries(options: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    options.iter().flat_map(|(name, value)| {
        let values = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        values.iter().map(move |value| (name.as_str(), value))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_of_stops_is_one_line_each() {
        let options = json!({"stop": ["<|a|>", "b"], "temperature": 0.5});
        let text = parameters(options.as_object().expect("an object"));
        assert_eq!(
            text,
            "stop                           \"<|a|>\"\nstop                           \"b\"\ntemperature                    0.5"
        );
    }
}
