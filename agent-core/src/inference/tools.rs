//! Tool calls: how a model's chat template writes them, reading them back out of generated text,
//! and forcing one through a grammar.
//!
//! Three spellings cover the models people run: Hermes (Qwen, Hermes, and most fine-tunes),
//! Llama 3 and Mistral. The spelling is recognised by the control words in the template.

use agent_api::{openai::Tool, runner::Constraint};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolFormat {
    /// `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of times.
    Hermes,
    /// The whole answer is `{"name": ..., "parameters": {...}}`.
    Llama3,
    /// `[TOOL_CALLS][{"name": ..., "arguments": {...}}]`.
    Mistral,
}

impl ToolFormat {
    /// The spelling a template uses; `None` if it takes no tools.
    pub fn of(template: &str) -> Option<Self> {
        if !template.contains("tools") {
            return None;
        }
        if template.contains("<tool_call>") {
            Some(Self::Hermes)
        } else if template.contains("[TOOL_CALLS]") {
            Some(Self::Mistral)
        } else if template.contains("<|python_tag|>") || template.contains("\"parameters\"") {
            Some(Self::Llama3)
        } else {
            None
        }
    }

    /// A constraint under which the model can only call one of `tools`.
    pub fn force(self, tools: &[&Tool]) -> Constraint {
        let key = if self == Self::Llama3 { "parameters" } else { "arguments" };
        let calls: Vec<Value> = tools
            .iter()
            .map(|tool| {
                let parameters = tool.function.parameters.clone();
                let parameters =
                    parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
                json!({
                    "type": "object",
                    "properties": {"name": {"const": tool.function.name}, key: parameters},
                    "required": ["name", key],
                    "additionalProperties": false,
                })
            })
            .collect();
        let call = match <[Value; 1]>::try_from(calls) {
            Ok([only]) => only,
            Err(calls) => json!({ "anyOf": calls }),
        };
        let (schema, before, after) = match self {
            Self::Hermes => (call, "<tool_call>\n", "\n</tool_call>"),
            Self::Llama3 => (call, "", ""),
            Self::Mistral => {
                let one = json!({"type": "array", "items": call, "minItems": 1, "maxItems": 1});
                (one, "[TOOL_CALLS]", "")
            }
        };
        Constraint::JsonSchema { schema, before: before.into(), after: after.into() }
    }
}

/// A part of a generated answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Call {
        name: String,
        /// A JSON text.
        arguments: String,
    },
}

/// Splits generated text into words for the user and calls for the program, as it arrives.
#[derive(Debug)]
pub struct ToolReader {
    format: ToolFormat,
    /// Not yet decided, or inside a call.
    held: String,
    in_call: bool,
    /// White space between calls is dropped.
    after_call: bool,
    /// Llama 3: the answer began as something else than a call.
    plain: bool,
}

impl ToolReader {
    pub fn new(format: ToolFormat) -> Self {
        Self { format, held: String::new(), in_call: false, after_call: false, plain: false }
    }

    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        match self.format {
            ToolFormat::Hermes => self.hermes(),
            ToolFormat::Mistral => self.mistral(),
            ToolFormat::Llama3 => self.llama3(),
        }
    }

    /// What is left when the answer is over.
    pub fn finish(mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Vec::new();
        }
        let body = match self.format {
            ToolFormat::Hermes if !self.in_call => return vec![Part::Text(held)],
            ToolFormat::Llama3 => held.trim().trim_start_matches("<|python_tag|>"),
            _ => held.trim(),
        };
        let calls: Option<Vec<Part>> = match serde_json::from_str(body) {
            Ok(Value::Array(calls)) => calls.iter().map(read_call).collect(),
            Ok(call) => read_call(&call).map(|call| vec![call]),
            Err(_) => None,
        };
        match calls {
            Some(calls) if !calls.is_empty() => calls,
            // Not a call after all: the user sees what the model wrote.
            _ => {
                let opening = match self.format {
                    ToolFormat::Hermes => "<tool_call>",
                    ToolFormat::Mistral if self.in_call => "[TOOL_CALLS]",
                    _ => "",
                };
                vec![Part::Text(format!("{opening}{held}"))]
            }
        }
    }

    fn hermes(&mut self) -> Vec<Part> {
        const OPEN: &str = "<tool_call>";
        const CLOSE: &str = "</tool_call>";
        let mut parts = Vec::new();
        loop {
            if self.in_call {
                let Some(end) = self.held.find(CLOSE) else { return parts };
                let body = self.held[..end].trim().to_owned();
                self.held.drain(..end + CLOSE.len());
                self.in_call = false;
                let call = serde_json::from_str(&body).ok().as_ref().and_then(read_call);
                parts.push(call.unwrap_or_else(|| Part::Text(format!("{OPEN}{body}{CLOSE}"))));
                self.after_call = true;
                continue;
            }
            if self.after_call {
                let rest = self.held.trim_start().len();
                self.held.drain(..self.held.len() - rest);
                self.after_call = self.held.is_empty();
            }
            if !self.take_text_before(OPEN, &mut parts) {
                return parts;
            }
        }
    }

    fn mistral(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        if !self.in_call {
            self.take_text_before("[TOOL_CALLS]", &mut parts);
        }
        parts
    }

    fn llama3(&mut self) -> Vec<Part> {
        let start = self.held.trim_start();
        if !self.plain && (start.is_empty() || "<|python_tag|>{".starts_with(start)) {
            return Vec::new();
        }
        if !self.plain && (start.starts_with('{') || start.starts_with("<|python_tag|>")) {
            return Vec::new();
        }
        self.plain = true;
        vec![Part::Text(std::mem::take(&mut self.held))]
    }

    /// Moves the text before `marker` out. True if the marker was found (and removed).
    fn take_text_before(&mut self, marker: &str, parts: &mut Vec<Part>) -> bool {
        let found = self.held.find(marker);
        let keep_from = found.unwrap_or_else(|| self.held.len() - partial_end(&self.held, marker));
        let text: String = self.held.drain(..keep_from).collect();
        // White space before a call is the template's, not the answer's.
        let shown = if found.is_some() { text.trim() } else { &text };
        if !shown.is_empty() {
            parts.push(Part::Text(text));
        }
        if found.is_some() {
            self.held.drain(..marker.len());
            self.in_call = true;
        }
        found.is_some()
    }
}

/// Length of the longest end of `text` that is a beginning of `marker`.
fn partial_end(text: &str, marker: &str) -> usize {
    (1..marker.len())
        .rev()
        .find(|&n| marker.is_char_boundary(n) && text.ends_with(&marker[..n]))
        .unwrap_or(0)
}

fn read_call(call: &Value) -> Option<Part> {
    let name = call.get("name")?.as_str()?.to_owned();
    let arguments = call.get("arguments").or_else(|| call.get("parameters"));
    let arguments = match arguments {
        None => "{}".into(),
        // Some models write the arguments as a JSON text already.
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    Some(Part::Call { name, arguments })
}

#[cfg(test)]
mod tests {
    use agent_api::openai::FunctionTool;

    use super::*;

    fn read(format: ToolFormat, text: &str, step: usize) -> Vec<Part> {
        let mut reader = ToolReader::new(format);
        let mut parts = Vec::new();
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(step) {
            parts.extend(reader.push(&piece.iter().collect::<String>()));
        }
        parts.extend(reader.finish());
        // Neighbouring text is one text to the user.
        let mut joined: Vec<Part> = Vec::new();
        for part in parts {
            match (joined.last_mut(), part) {
                (Some(Part::Text(a)), Part::Text(b)) => a.push_str(&b),
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    fn call(name: &str, arguments: &str) -> Part {
        Part::Call { name: name.into(), arguments: arguments.into() }
    }

    #[test]
    fn calls_are_found_however_the_text_arrives() {
        let hermes = "Let me look.\n<tool_call>\n{\"name\": \"ls\", \"arguments\": {\"path\": \"/\"}}\n</tool_call>\n<tool_call>{\"name\":\"pwd\"}</tool_call>";
        let mistral = "[TOOL_CALLS][{\"name\": \"ls\", \"arguments\": {\"path\": \"/\"}}]";
        let llama = "<|python_tag|>{\"name\": \"ls\", \"parameters\": {\"path\": \"/\"}}";
        for step in [1, 3, 7, 1000] {
            assert_eq!(
                read(ToolFormat::Hermes, hermes, step),
                [
                    Part::Text("Let me look.\n".into()),
                    call("ls", r#"{"path":"/"}"#),
                    call("pwd", "{}")
                ],
                "step {step}"
            );
            assert_eq!(read(ToolFormat::Mistral, mistral, step), [call("ls", r#"{"path":"/"}"#)]);
            assert_eq!(read(ToolFormat::Llama3, llama, step), [call("ls", r#"{"path":"/"}"#)]);
        }
    }

    #[test]
    fn text_that_only_looks_like_a_call_reaches_the_user() {
        for (format, text) in [
            (ToolFormat::Hermes, "a <tool_box> is not a <tool"),
            (ToolFormat::Hermes, "<tool_call>{not json}</tool_call>"),
            (ToolFormat::Hermes, "<tool_call>{\"name\": \"cut o"),
            (ToolFormat::Mistral, "[1, 2] are numbers [TOOL"),
            (ToolFormat::Llama3, "{\"just\": \"an object\"}"),
            (ToolFormat::Llama3, "Hello {name}"),
        ] {
            for step in [1, 4] {
                assert_eq!(read(format, text, step), [Part::Text(text.into())], "{format:?}");
            }
        }
    }

    #[test]
    fn templates_are_recognised() {
        assert_eq!(ToolFormat::of("{% if tools %}<tool_call>"), Some(ToolFormat::Hermes));
        assert_eq!(ToolFormat::of("{% if tools %}[TOOL_CALLS]"), Some(ToolFormat::Mistral));
        assert_eq!(ToolFormat::of("{{ tools }}<|python_tag|>"), Some(ToolFormat::Llama3));
        assert_eq!(ToolFormat::of("{{ messages }}"), None);
    }

    #[test]
    fn forcing_names_the_tool_and_its_parameters() {
        let tool = Tool {
            kind: "function".into(),
            function: FunctionTool {
                name: "ls".into(),
                description: None,
                parameters: None,
                strict: None,
            },
        };
        let Constraint::JsonSchema { schema, before, .. } = ToolFormat::Hermes.force(&[&tool])
        else {
            panic!("a schema");
        };
        assert_eq!(before, "<tool_call>\n");
        assert_eq!(schema["properties"]["name"]["const"], "ls");
    }
}
