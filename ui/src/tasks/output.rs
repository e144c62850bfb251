//! Inputs and outputs of tasks as something to draw, by kind.

use agent_api::tasks::{CodeIteration, TaskKind};
use serde_json::Value;

use crate::format;

/// Texts longer than this are cut where they are only looked at; copying takes all of it.
const SHOWN: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// Markdown, and why it ended where that matters.
    Text {
        text: String,
        note: &'static str,
    },
    Vectors {
        words: String,
        json: String,
    },
    /// Bytes as text where they are text, else in base64.
    Bytes {
        text: Option<String>,
        base64: String,
        note: String,
    },
    Code {
        passed: bool,
        code: String,
        iterations: Vec<CodeIteration>,
    },
    /// Something this page does not know: as JSON.
    Other(String),
}

impl Shown {
    /// What the button "Copy output" copies.
    pub fn to_copy(&self) -> &str {
        match self {
            Self::Text { text, .. } | Self::Other(text) => text,
            Self::Vectors { json, .. } => json,
            Self::Bytes { text: Some(text), .. } => text,
            Self::Bytes { base64, .. } => base64,
            Self::Code { code, .. } => code,
        }
    }
}

fn text_of(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().map(str::to_owned)
}

fn number_of(value: &Value, field: &str) -> u64 {
    value.get(field).and_then(Value::as_u64).unwrap_or_default()
}

/// At most [`SHOWN`] bytes of a text, and whether that is not all.
pub fn cut(text: &str) -> (String, bool) {
    let end = text.floor_char_boundary(SHOWN);
    (text[..end].to_owned(), end < text.len())
}

/// What is drawn of an output.
pub fn shown(kind: TaskKind, output: &Value) -> Shown {
    let known = match kind {
        TaskKind::Chat | TaskKind::Completion => text(output),
        TaskKind::Embedding => vectors(output),
        TaskKind::Wasm => bytes(output),
        TaskKind::Code => code(output),
    };
    known.unwrap_or_else(|| Shown::Other(pretty(output)))
}

fn text(output: &Value) -> Option<Shown> {
    let cut = text_of(output, "finish").as_deref() == Some("length");
    let note = if cut { "Cut at the length limit." } else { "" };
    Some(Shown::Text { text: text_of(output, "text")?, note })
}

fn vectors(output: &Value) -> Option<Shown> {
    let vectors = output.get("vectors")?.as_array()?;
    let numbers = vectors.first().and_then(Value::as_array).map_or(0, Vec::len) as u64;
    let count = format::counted(vectors.len() as u64, "vector", "vectors");
    let words = format!("{count} of {}", format::counted(numbers, "number", "numbers"));
    Some(Shown::Vectors { words, json: Value::Array(vectors.clone()).to_string() })
}

fn bytes(output: &Value) -> Option<Shown> {
    let base64 = text_of(output, "output")?;
    let padding = base64.bytes().rev().take_while(|b| *b == b'=').count();
    let size = (base64.len() / 4 * 3).saturating_sub(padding) as u64;
    let fuel = format::compact(number_of(output, "fuel_used"));
    let mut note = format!("{}, {fuel} units of fuel", format::file_size(size));
    let (compared, agreed) = (number_of(output, "compared"), number_of(output, "agreed"));
    if compared > 1 {
        note.push_str(&format!(", {agreed} of {compared} nodes gave the same"));
    }
    Some(Shown::Bytes { text: text_of(output, "output_text"), base64, note })
}

fn code(output: &Value) -> Option<Shown> {
    let iteration = |value: &Value| CodeIteration {
        code: text_of(value, "code").unwrap_or_default(),
        status: value.get("status").and_then(Value::as_i64).and_then(|s| i32::try_from(s).ok()),
        stdout: text_of(value, "stdout").unwrap_or_default(),
        stderr: text_of(value, "stderr").unwrap_or_default(),
        problem: text_of(value, "problem"),
        run_ms: number_of(value, "run_ms"),
    };
    let iterations = output.get("iterations")?.as_array()?.iter().map(iteration).collect();
    let passed = output.get("passed")?.as_bool()?;
    Some(Shown::Code { passed, code: text_of(output, "code")?, iterations })
}

/// One round of a code task in a few words.
pub fn iteration(round: &CodeIteration) -> String {
    match (&round.problem, round.status) {
        (Some(problem), _) => problem.clone(),
        (None, Some(0)) => "Its tests passed".into(),
        (None, Some(status)) => format!("Its tests ended with status {status}"),
        (None, None) => "Its tests were stopped".into(),
    }
}

/// An input as a few named texts, longest last; `None` for a field that says nothing.
pub fn input(kind: TaskKind, input: &Value) -> Vec<(&'static str, String)> {
    let fields: &[(&str, &str)] = match kind {
        TaskKind::Chat => &[("messages", "Messages")],
        TaskKind::Completion => &[("prompt", "Prompt")],
        TaskKind::Embedding => &[("input", "Texts")],
        TaskKind::Wasm => &[
            ("name", "Module"),
            ("module_sha256", "SHA-256"),
            ("input_text", "Input"),
            ("input", "Input, base64"),
        ],
        TaskKind::Code => &[("prompt", "Prompt"), ("tests", "Tests")],
    };
    let field = |(field, name): &(&str, &'static str)| {
        let value = input.get(*field).filter(|v| !v.is_null())?;
        Some((*name, cut(&plain(value)).0))
    };
    let mut all: Vec<_> = fields.iter().filter_map(field).collect();
    if all.is_empty() {
        all.push(("Input", cut(&pretty(input)).0));
    }
    all
}

/// Messages and lists of texts without their quotes and braces.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let lines: Vec<_> = items.iter().map(line).collect();
            lines.join("\n\n")
        }
        other => pretty(other),
    }
}

fn line(value: &Value) -> String {
    match (text_of(value, "role"), value.get("content").and_then(Value::as_str)) {
        (Some(role), Some(content)) if role == "user" => content.to_owned(),
        (Some(role), Some(content)) => format!("{role}: {content}"),
        _ => plain(value),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_vectors_bytes_and_programs_are_each_shown_as_what_they_are() {
        let text = shown(TaskKind::Chat, &json!({"text": "Hi", "finish": "length"}));
        assert_eq!(text, Shown::Text { text: "Hi".into(), note: "Cut at the length limit." });
        let two = shown(TaskKind::Embedding, &json!({"vectors": [[0.1, 0.2, 0.3], [1, 2, 3]]}));
        assert!(matches!(&two, Shown::Vectors { words, .. } if words == "2 vectors of 3 numbers"));
        assert!(two.to_copy().starts_with("[["));
        let output = json!({"output": "aGVsbG8=", "output_text": "hello", "fuel_used": 21_480, "compared": 2, "agreed": 2});
        let bytes = shown(TaskKind::Wasm, &output);
        let Shown::Bytes { note, .. } = &bytes else { panic!("{bytes:?}") };
        assert_eq!(
            note.replace('\u{202f}', " "),
            "5 B, 21.5k units of fuel, 2 of 2 nodes gave the same"
        );
        assert_eq!(bytes.to_copy(), "hello");
        let round = json!({"code": "x", "status": 1, "stdout": "", "stderr": "no", "problem": null, "run_ms": 9});
        let code =
            shown(TaskKind::Code, &json!({"code": "y", "passed": true, "iterations": [round]}));
        let Shown::Code { iterations, .. } = &code else { panic!("{code:?}") };
        assert_eq!(iteration(&iterations[0]), "Its tests ended with status 1");
        assert!(matches!(shown(TaskKind::Chat, &json!({"new": 1})), Shown::Other(_)));
    }

    #[test]
    fn an_input_is_read_without_its_wrapping() {
        let chat = json!({"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello?"}]});
        assert_eq!(
            input(TaskKind::Chat, &chat),
            [("Messages", "system: Be short.\n\nHello?".to_owned())]
        );
        let texts = json!({"input": ["one", "two"]});
        assert_eq!(input(TaskKind::Embedding, &texts), [("Texts", "one\n\ntwo".to_owned())]);
        assert_eq!(input(TaskKind::Wasm, &json!({"x": 1}))[0].0, "Input");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let (text, more) = cut(&"ü".repeat(SHOWN));
        assert!(more && text.len() <= SHOWN);
        assert_eq!(cut("short"), ("short".to_owned(), false));
    }
}
