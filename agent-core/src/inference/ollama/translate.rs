//! Between the runner's frames and the daemon's JSON. Pure.

use agent_api::runner::{Constraint, FinishReason, Generate, Prompt, TextInput, Timings, Usage};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::{InferenceError, Piece};

/// A request to the daemon.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) path: &'static str,
    pub(super) body: Value,
    /// Text that a constraint wants before and after the answer.
    pub(super) around: Option<(String, String)>,
}

fn cannot(what: &str) -> InferenceError {
    InferenceError::BadRequest(format!(
        "{what} cannot be used with a model that Ollama runs. Leave it out, or use a model of this node."
    ))
}

/// The daemon's form of a request. What it cannot do is refused, not ignored.
pub(super) fn question(
    model: &str,
    request: Generate,
    context: u32,
) -> Result<Question, InferenceError> {
    if !request.continue_from.is_empty() {
        let message = "A model that Ollama runs cannot go on with an answer that was begun.";
        return Err(InferenceError::Unavailable(message.into()));
    }
    if request.logprobs.is_some() {
        return Err(cannot("logprobs"));
    }
    if !request.sampling.logit_bias.is_empty() {
        return Err(cannot("logit_bias"));
    }
    let options = options(&request, context);
    // Without these a prompt that is too long loses its beginning silently.
    let mut body = json!({
        "model": model, "stream": true, "truncate": false, "shift": false, "options": options,
    });
    let mut around = None;
    match request.constraint {
        None => {}
        Some(Constraint::JsonObject) => body["format"] = "json".into(),
        Some(Constraint::JsonSchema { schema, before, after }) => {
            body["format"] = schema;
            around = Some((before, after));
        }
        Some(Constraint::Grammar { .. }) => return Err(cannot("A grammar")),
    }
    let path = match request.prompt {
        Prompt::Chat { messages, tools } => {
            body["messages"] = chat_messages(&messages)?.into();
            if !tools.is_empty() {
                body["tools"] = tools.into();
            }
            "/api/chat"
        }
        Prompt::Text(TextInput::Text { text }) => {
            body["prompt"] = text.into();
            body["raw"] = true.into();
            "/api/generate"
        }
        Prompt::Text(TextInput::Tokens { .. }) => return Err(cannot("A prompt of token ids")),
        Prompt::Infill { prefix, suffix } => {
            body["prompt"] = prefix.into();
            body["suffix"] = suffix.into();
            "/api/generate"
        }
    };
    Ok(Question { path, body, around })
}

fn options(request: &Generate, context: u32) -> Value {
    let sampling = &request.sampling;
    let mut options = json!({
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "num_ctx": context,
        // The daemon goes on past a full context; this node's own runner does not.
        "num_predict": request.max_tokens.unwrap_or(context),
    });
    if let Some(seed) = sampling.seed {
        options["seed"] = seed.into();
    }
    if !request.stop.is_empty() {
        options["stop"] = request.stop.clone().into();
    }
    options
}

/// OpenAI's messages as Ollama's: content is one text, images lie beside it, arguments of calls
/// are objects, and an answer of a tool names the tool.
fn chat_messages(messages: &[Value]) -> Result<Vec<Value>, InferenceError> {
    let mut called = Map::new();
    messages.iter().map(|message| chat_message(message, &mut called)).collect()
}

fn chat_message(message: &Value, called: &mut Map<String, Value>) -> Result<Value, InferenceError> {
    let mut text = String::new();
    let mut images = Vec::new();
    match message.get("content") {
        Some(Value::String(content)) => text.push_str(content),
        Some(Value::Array(parts)) => {
            for part in parts {
                if let Some(more) = part.get("text").and_then(Value::as_str) {
                    text.push_str(more);
                } else {
                    images.push(image(part)?);
                }
            }
        }
        _ => {}
    }
    let mut out = json!({"role": message["role"], "content": text});
    if !images.is_empty() {
        out["images"] = images.into();
    }
    if let Some(calls) = message.get("tool_calls").and_then(Value::as_array) {
        let mut list = Vec::new();
        for call in calls {
            let function = call.get("function").unwrap_or(call);
            let name = function.get("name").cloned().unwrap_or_default();
            if let Some(id) = call.get("id").and_then(Value::as_str) {
                called.insert(id.to_owned(), name.clone());
            }
            let arguments = match function.get("arguments") {
                Some(Value::String(text)) => serde_json::from_str(text).unwrap_or(json!({})),
                Some(value) => value.clone(),
                None => json!({}),
            };
            list.push(json!({"function": {"name": name, "arguments": arguments}}));
        }
        out["tool_calls"] = list.into();
    }
    let id = message.get("tool_call_id").and_then(Value::as_str);
    if let Some(name) = id.and_then(|id| called.get(id)).or_else(|| message.get("name")) {
        out["tool_name"] = name.clone();
    }
    Ok(out)
}

/// The base64 text of an image that is in the message itself.
fn image(part: &Value) -> Result<Value, InferenceError> {
    let url = part.pointer("/image_url/url").and_then(Value::as_str).unwrap_or_default();
    match url.split_once(";base64,") {
        Some((kind, data)) if kind.starts_with("data:") => Ok(data.into()),
        _ => Err(InferenceError::BadRequest(
            "messages may hold text and images as data: URLs with base64; nothing else can be given to this model."
                .into(),
        )),
    }
}

pub(super) fn embedding(
    model: &str,
    inputs: Vec<TextInput>,
    context: u32,
) -> Result<Value, InferenceError> {
    let texts = inputs.into_iter().map(|input| match input {
        TextInput::Text { text } => Ok(Value::String(text)),
        TextInput::Tokens { .. } => Err(cannot("Input of token ids")),
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let options = json!({"num_ctx": context});
    Ok(json!({"model": model, "input": texts, "truncate": false, "options": options}))
}

pub(super) fn embedded(answer: Value) -> Result<Piece, String> {
    #[derive(Deserialize)]
    struct Embedded {
        embeddings: Vec<Vec<f32>>,
        #[serde(default)]
        prompt_eval_count: u32,
    }
    let Embedded { embeddings, prompt_eval_count } =
        serde_json::from_value(answer).map_err(|e| e.to_string())?;
    Ok(Piece::Embedded { vectors: embeddings, prompt_tokens: prompt_eval_count })
}

/// One line of `/api/chat` or `/api/generate`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Line {
    pub(super) error: Option<String>,
    message: Message,
    response: String,
    thinking: String,
    pub(super) done: bool,
    done_reason: Option<String>,
    prompt_eval_count: u32,
    eval_count: u32,
    load_duration: u64,
    prompt_eval_duration: u64,
    eval_duration: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    content: String,
    thinking: String,
    tool_calls: Vec<Value>,
}

impl Line {
    /// The piece that the last line amounts to.
    pub(super) fn last(&self) -> Piece {
        let usage = Usage {
            prompt_tokens: self.prompt_eval_count,
            cached_tokens: 0,
            completion_tokens: self.eval_count,
        };
        let finish = match self.done_reason.as_deref() {
            Some("length") => FinishReason::Length,
            _ => FinishReason::Stop,
        };
        let timings = Timings {
            queue_ms: milliseconds(self.load_duration),
            prompt_ms: milliseconds(self.prompt_eval_duration),
            generate_ms: milliseconds(self.eval_duration),
        };
        Piece::Done { finish, usage, timings }
    }
}

#[expect(clippy::cast_precision_loss, reason = "durations of requests are far below 2^53 ns")]
fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// Writes an answer as one text, the way this node's own runner gives it: thoughts between
/// `<think>` marks, calls in Hermes' spelling.
#[derive(Debug)]
pub(super) struct Writer {
    around: Option<(String, String)>,
    thinking: bool,
    begun: bool,
    called: bool,
}

impl Writer {
    pub(super) fn new(around: Option<(String, String)>) -> Self {
        Self { around, thinking: false, begun: false, called: false }
    }

    pub(super) fn write(&mut self, line: &Line) -> String {
        let mut text = String::new();
        let thought = format!("{}{}", line.message.thinking, line.thinking);
        if !thought.is_empty() {
            if !std::mem::replace(&mut self.thinking, true) {
                text.push_str("<think>");
            }
            text.push_str(&thought);
        }
        let content = format!("{}{}", line.message.content, line.response);
        let ends = !content.is_empty() || !line.message.tool_calls.is_empty() || line.done;
        if ends && std::mem::take(&mut self.thinking) {
            text.push_str("</think>\n");
        }
        if !content.is_empty() {
            if !std::mem::replace(&mut self.begun, true)
                && let Some((before, _)) = &self.around
            {
                text.push_str(before);
            }
            text.push_str(&content);
        }
        for call in &line.message.tool_calls {
            let function = call.get("function").unwrap_or(call);
            self.called = true;
            text.push_str(&format!("<tool_call>\n{function}\n</tool_call>\n"));
        }
        if line.done
            && self.begun
            && !self.called
            && let Some((_, after)) = &self.around
        {
            text.push_str(after);
        }
        text
    }
}

/// What `/api/show` says about a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shown {
    pub(super) architecture: String,
    pub(super) parameters: u64,
    pub(super) context: u32,
    pub(super) completion: bool,
    pub(super) tools: bool,
    pub(super) thinking: bool,
    pub(super) insert: bool,
}

impl Shown {
    pub(super) fn read(show: &Value) -> Self {
        let info = &show["model_info"];
        let architecture = info["general.architecture"].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| info.get(key).and_then(Value::as_u64).unwrap_or(0);
        let context = number(&format!("{architecture}.context_length"));
        let capabilities = show["capabilities"].as_array();
        let can = |word: &str| {
            capabilities.map(|list| list.iter().any(|entry| entry.as_str() == Some(word)))
        };
        // Older daemons name no capabilities; the template then tells.
        let template = show["template"].as_str().unwrap_or_default();
        Self {
            parameters: number("general.parameter_count"),
            context: u32::try_from(context).unwrap_or(u32::MAX),
            completion: can("completion").unwrap_or(true),
            tools: can("tools").unwrap_or_else(|| template.contains(".Tools")),
            thinking: can("thinking").unwrap_or(false),
            insert: can("insert").unwrap_or_else(|| template.contains(".Suffix")),
            architecture,
        }
    }
}
