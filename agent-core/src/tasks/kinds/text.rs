//! `chat`, `completion` and `embedding`.

use agent_api::{
    openai::{CommonParameters, StringOrList},
    runner::{Constraint, Generate, Prompt, Sampling, TextInput},
};
use serde_json::Value;

use super::{Checked, Fields, name_of};
use crate::{
    config::limits,
    inference::left_out::LeftOut,
    tasks::{
        job::{GenerateJob, Job},
        placement::split_model,
    },
};

/// Longest name of a model, with its node.
pub(super) const MODEL_BYTES: usize = 512;
/// As the OpenAI endpoint's.
pub(super) const STOP_BYTES: usize = 1_024;
pub(super) const TOP_K: u32 = 1_000_000;

pub(super) fn chat(fields: &mut Fields<'_, '_>) -> Option<Checked> {
    let model = model(fields);
    let messages = messages(fields);
    let (generate, left_out) =
        options(fields, Prompt::Chat { messages: messages?, tools: Vec::new() });
    let (model, node) = model?;
    let job = GenerateJob { model, generate: Box::new(generate), context: None, left_out };
    Some(Checked { job: Job::Chat(job), node, module: None })
}

pub(super) fn completion(fields: &mut Fields<'_, '_>) -> Option<Checked> {
    let model = model(fields);
    let prompt = fields.need_text("prompt", 1..=limits::BODY_BYTES).unwrap_or_default();
    let text = TextInput::Text { text: prompt.to_owned() };
    let (generate, left_out) = options(fields, Prompt::Text(text));
    let (model, node) = model?;
    let job = GenerateJob { model, generate: Box::new(generate), context: None, left_out };
    Some(Checked { job: Job::Completion(job), node, module: None })
}

pub(super) fn embedding(fields: &mut Fields<'_, '_>) -> Option<Checked> {
    let model = model(fields);
    fields.need("input")?;
    let inputs = fields.texts("input", 1..=limits::EMBEDDING_INPUTS, 0..=limits::BODY_BYTES)?;
    let inputs = inputs.into_iter().map(|text| TextInput::Text { text }).collect();
    let (model, node) = model?;
    Some(Checked { job: Job::Embedding { model, inputs }, node, module: None })
}

/// The model and the node that its name may end with. Absent or empty: the active model.
pub(super) fn model(fields: &mut Fields<'_, '_>) -> Option<(String, Option<String>)> {
    let Some(value) = fields.get("model") else { return Some((String::new(), None)) };
    let text = fields.text("model", 0..=MODEL_BYTES)?;
    if value.as_str().is_some_and(|text| text.chars().any(char::is_control)) {
        fields.wrong("model", "a name is one line of text");
        return None;
    }
    let (model, node) = split_model(text);
    Some((model.to_owned(), node.map(ToOwned::to_owned)))
}

/// What is absent is the model's own choice, else the runner's default.
fn options(fields: &mut Fields<'_, '_>, prompt: Prompt) -> (Generate, LeftOut) {
    let max_tokens = fields.small("max_tokens", 1..=u32::MAX);
    let temperature = fields.number("temperature", 0.0, 2.0);
    let top_p = fields.number("top_p", 0.0, 1.0);
    let top_k = fields.small("top_k", 0..=TOP_K);
    let seed = fields.small("seed", 0..=u32::MAX);
    let stop = fields.texts("stop", 0..=limits::STOP_STRINGS, 1..=STOP_BYTES);
    let said = CommonParameters {
        temperature: temperature.map(f64::from),
        top_p: top_p.map(f64::from),
        top_k: top_k.map(i64::from),
        seed: seed.map(i64::from),
        stop: stop.clone().map(StringOrList::Many),
        ..CommonParameters::default()
    };
    let default = Sampling::default();
    let sampling = Sampling {
        temperature: temperature.unwrap_or(default.temperature),
        top_p: top_p.unwrap_or(default.top_p),
        top_k: top_k.and_then(|k| i32::try_from(k).ok()).unwrap_or(default.top_k),
        seed,
        ..default
    };
    let constraint = match fields.get("json_schema") {
        None => None,
        Some(schema @ Value::Object(_)) => Some(Constraint::JsonSchema {
            schema: schema.clone(),
            before: String::new(),
            after: String::new(),
        }),
        Some(other) => {
            let what = name_of(other);
            fields.wrong("json_schema", format_args!("a JSON schema is an object, not {what}"));
            None
        }
    };
    let generate = Generate {
        prompt,
        max_tokens,
        sampling,
        stop: stop.unwrap_or_default(),
        constraint,
        logprobs: None,
        continue_from: String::new(),
    };
    (generate, LeftOut::of(&said, max_tokens.map(i64::from)))
}

/// Also where one of them is wrong the others are looked at.
fn messages(fields: &mut Fields<'_, '_>) -> Option<Vec<Value>> {
    let value = fields.need("messages");
    // So that the other fields are known and checked when this one is missing.
    let Some(value) = value else { return Some(Vec::new()) };
    let Some(list) = value.as_array() else {
        fields.wrong("messages", format_args!("a list is expected, not {}", name_of(value)));
        return Some(Vec::new());
    };
    if list.is_empty() || list.len() > limits::CHAT_MESSAGES {
        let most = limits::CHAT_MESSAGES;
        fields.wrong("messages", format_args!("it has 1 to {most} entries, not {}", list.len()));
        return Some(Vec::new());
    }
    let mut messages = Vec::with_capacity(list.len());
    for (n, message) in list.iter().enumerate() {
        match one_message(message) {
            Ok(message) => messages.push(message),
            Err(what) => fields.wrong(format_args!("messages[{n}]"), what),
        }
    }
    Some(messages)
}

fn one_message(message: &Value) -> Result<Value, String> {
    if !message.is_object() {
        return Err(format!("an object is expected, not {}", name_of(message)));
    }
    let role = message.get("role").and_then(Value::as_str).ok_or("it has no role")?;
    if !matches!(role, "system" | "developer" | "user" | "assistant" | "tool") {
        return Err("its role is none of system, developer, user, assistant and tool".to_owned());
    }
    match message.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => {
            let is_part = |part: &Value| part.get("type").is_some_and(Value::is_string);
            if !parts.iter().all(is_part) {
                return Err("each part of its content has a type".to_owned());
            }
        }
        None | Some(Value::Null) if message.get("tool_calls").is_some() => {}
        _ => return Err("it needs content: a text or a list of parts".to_owned()),
    }
    let mut message = message.clone();
    if role == "developer" {
        // OpenAI's newer word for system; templates know the older one.
        message["role"] = "system".into();
    }
    Ok(message)
}
