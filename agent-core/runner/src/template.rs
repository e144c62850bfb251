//! Renders a conversation with the chat template of a model file.
//!
//! Templates are written for Hugging Face's Python code, so the environment here behaves like
//! that one: block trimming, Python methods on strings and dictionaries, `tojson` without HTML
//! escapes, `raise_exception`, `strftime_now`. A template comes from a downloaded file: its work
//! is bounded, and whatever goes wrong with it is an error of one request.

use minijinja::{
    Environment, Error, ErrorKind, context,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, Value as Jinja},
};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::{Map, Value, json, ser::Formatter};

/// Instructions one rendering may take. A long conversation takes some hundred per message.
const FUEL: u64 = 5_000_000;
const NAME: &str = "chat";

/// A model's chat template, ready to render.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    /// The template wants each content as a list of parts, not as a string.
    wants_parts: bool,
    bos: String,
    eos: String,
}

impl Template {
    /// The error is the reason, for a sentence.
    pub(crate) fn compile(source: &str, bos: &str, eos: &str) -> Result<Self, String> {
        let mut environment = environment();
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| reason(&error))?;
        let (bos, eos) = (bos.to_owned(), eos.to_owned());
        let mut template = Self { environment, wants_parts: false, bos, eos };
        template.wants_parts = template.loses_strings();
        Ok(template)
    }

    /// The prompt for an answer to these messages. The error is the reason, for a sentence.
    pub(crate) fn render(&self, messages: &[Value], tools: &[Value]) -> Result<String, String> {
        let messages: Vec<Value> =
            messages.iter().map(|m| message(m, self.wants_parts)).collect::<Result<_, _>>()?;
        self.render_as_is(&messages, tools)
    }

    fn render_as_is(&self, messages: &[Value], tools: &[Value]) -> Result<String, String> {
        // Templates ask whether tools are defined, or whether there are any.
        let tools = if tools.is_empty() { Jinja::UNDEFINED } else { Jinja::from(Serde(tools)) };
        let variables = context! {
            messages => Jinja::from(Serde(messages)),
            tools => tools,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            add_generation_prompt => true,
        };
        let template = self.environment.get_template(NAME).map_err(|error| reason(&error))?;
        template.render(variables).map_err(|error| reason(&error))
    }

    /// Whether string contents get lost where lists of parts would not.
    fn loses_strings(&self) -> bool {
        let needle = "7f3a needle";
        let shows = |content: Value| {
            let messages = [json!({ "role": "user", "content": content })];
            self.render_as_is(&messages, &[]).is_ok_and(|text| text.contains(needle))
        };
        !shows(json!(needle)) && shows(json!([{ "type": "text", "text": needle }]))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
        jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
            .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
    });
    environment
}

/// What an error says: of the innermost one, which is the template's own for `raise_exception`.
fn reason(error: &Error) -> String {
    if error.kind() == ErrorKind::OutOfFuel {
        return "it did not finish".into();
    }
    let mut reason = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason = inner.downcast_ref::<Error>().map_or_else(
            || inner.to_string(),
            |e| e.detail().map_or_else(|| e.kind().to_string(), ToOwned::to_owned),
        );
        source = inner.source();
    }
    reason
}

/// Training-only tags around what the model says; they mean nothing here.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|at| start + at + 2) else { break };
        let (before, tag) = (&rest[..start], &rest[start..end]);
        out.push_str(before);
        match tag[2..tag.len() - 2].trim_matches(['-', '+', ' ']) {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[end..];
    }
    out + rest
}

/// A message in the form templates expect: text as one string (or as parts), and the arguments of
/// tool calls as objects.
fn message(message: &Value, wants_parts: bool) -> Result<Value, String> {
    let Value::Object(fields) = message else { return Err("a message is not an object".into()) };
    let mut fields = fields.clone();
    // OpenAI's newer name for the same role; templates know the older one.
    if fields.get("role").is_some_and(|role| role == "developer") {
        fields.insert("role".into(), json!("system"));
    }
    let text = content(fields.get("content").unwrap_or(&Value::Null))?;
    let content = if wants_parts { json!([{ "type": "text", "text": text }]) } else { json!(text) };
    fields.insert("content".into(), content);
    if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
        calls.iter_mut().filter_map(Value::as_object_mut).for_each(parse_arguments);
    }
    Ok(Value::Object(fields))
}

/// The text of a content, which may be a list of parts.
fn content(content: &Value) -> Result<String, String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().map(part_text).collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
        _ => Err("a message's content is neither text nor a list of parts".into()),
    }
}

fn part_text(part: &Value) -> Result<&str, String> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    match part.get("text").and_then(Value::as_str) {
        Some(text) if kind == "text" => Ok(text),
        _ => Err(format!("a content part is of type {kind:?}, and this model reads only text")),
    }
}

/// The API carries arguments as a string of JSON; templates write objects as JSON themselves.
fn parse_arguments(call: &mut Map<String, Value>) {
    let function = match call.get_mut("function") {
        Some(Value::Object(function)) => function,
        _ => call,
    };
    let parsed = function.get("arguments").and_then(Value::as_str).map(serde_json::from_str);
    if let Some(Ok(arguments @ Value::Object(_))) = parsed {
        function.insert("arguments".into(), arguments);
    }
}

/// `tojson` as Hugging Face defines it: Python's separators, nothing escaped for HTML.
fn tojson(value: &Jinja, indent: Option<usize>, options: Kwargs) -> Result<Jinja, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonJson)),
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Jinja::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// One line, with a space after each comma and colon.
struct PythonJson;

impl Formatter for PythonJson {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
