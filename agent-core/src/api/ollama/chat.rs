//! `POST /api/chat`.

use std::time::Instant;

use agent_api::{openai::Tool, runner::Prompt};
use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    answer::Shape,
    body::{Ask, parse},
    error::OllamaError,
    prepare::{NO_IMAGES, Prepared},
};
use crate::{config::limits, inference::left_out::add_system, node::Node};

pub(super) async fn chat(
    State(node): State<Node>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OllamaError> {
    let asked = Instant::now();
    let ask: Ask = parse(body)?;
    let mut messages = messages(ask.messages.as_deref().unwrap_or_default())?;
    let tools = tools(ask.tools.as_deref().unwrap_or_default())?;
    let prepared = Prepared::new(&node, &headers, &ask, asked).await?;
    if messages.is_empty() {
        return prepared.load_or_unload(&node, Shape::Chat).await;
    }
    add_system(&mut messages, &prepared.defaults);
    let format = if tools.is_empty() { None } else { Some(prepared.tool_format(&node).await?) };
    prepared.run(&node, Shape::Chat, Prompt::Chat { messages, tools }, format).await
}

/// Tools as chat templates take them.
fn tools(given: &[Tool]) -> Result<Vec<Value>, OllamaError> {
    if let Some(tool) = given.iter().find(|tool| tool.kind != "function") {
        let message = format!("tools are of type \"function\", not {:?}.", tool.kind);
        return Err(OllamaError::invalid(message));
    }
    if given.len() > limits::CHAT_TOOLS {
        let message = format!("tools has at most {} entries.", limits::CHAT_TOOLS);
        return Err(OllamaError::invalid(message));
    }
    Ok(given.iter().map(|tool| serde_json::to_value(tool).unwrap_or_default()).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    role: String,
    content: Option<String>,
    thinking: Option<String>,
    images: Option<Vec<Value>>,
    tool_calls: Option<Vec<ToolCall>>,
    /// Whose result a `tool` message is.
    tool_name: Option<String>,
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ToolCall {
    #[serde(default)]
    id: Option<String>,
    function: Called,
}

#[derive(Debug, Deserialize)]
struct Called {
    name: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// Messages in OpenAI's shape, which chat templates take.
fn messages(given: &[Value]) -> Result<Vec<Value>, OllamaError> {
    if given.len() > limits::CHAT_MESSAGES {
        let message = format!("messages has at most {} entries.", limits::CHAT_MESSAGES);
        return Err(OllamaError::invalid(message));
    }
    given.iter().enumerate().map(|(n, message)| one_message(n, message)).collect()
}

fn one_message(n: usize, message: &Value) -> Result<Value, OllamaError> {
    let invalid = |what: String| OllamaError::invalid(format!("messages[{n}]{what}"));
    let message: Message = serde_path_to_error::deserialize(message).map_err(|e| {
        let path = e.path().to_string();
        let field = if path == "." { String::new() } else { format!(".{path}") };
        invalid(format!("{field}: {}.", e.into_inner()))
    })?;
    let role = message.role.as_str();
    if !matches!(role, "system" | "user" | "assistant" | "tool") {
        return Err(invalid(format!(
            " has the role {role:?}; roles are system, user, assistant and tool."
        )));
    }
    if message.images.is_some_and(|images| !images.is_empty()) {
        return Err(OllamaError::invalid(NO_IMAGES));
    }
    let mut openai = json!({"role": role, "content": message.content.unwrap_or_default()});
    for (name, text) in [
        ("reasoning_content", message.thinking),
        ("name", message.tool_name),
        ("tool_call_id", message.tool_call_id),
    ] {
        if let Some(text) = text {
            openai[name] = text.into();
        }
    }
    let calls = message.tool_calls.unwrap_or_default();
    if !calls.is_empty() {
        let calls = calls.into_iter().map(|call| {
            let function =
                json!({"name": call.function.name, "arguments": call.function.arguments});
            let mut openai = json!({"type": "function", "function": function});
            if let Some(id) = call.id {
                openai["id"] = id.into();
            }
            openai
        });
        openai["tool_calls"] = calls.collect();
    }
    Ok(openai)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_what_templates_take() {
        let given = [
            json!({"role": "user", "content": "hi"}),
            json!({"role": "assistant", "thinking": "hm", "tool_calls": [
                {"function": {"name": "ls", "arguments": {"path": "/"}}}
            ]}),
            json!({"role": "tool", "content": "etc", "tool_name": "ls"}),
        ];
        let made = messages(&given).expect("valid");
        assert_eq!(made[0], given[0]);
        assert_eq!(made[1]["content"], "");
        assert_eq!(made[1]["reasoning_content"], "hm");
        assert_eq!(made[1]["tool_calls"][0]["type"], "function");
        assert_eq!(made[1]["tool_calls"][0]["function"]["arguments"]["path"], "/");
        assert_eq!(made[2]["name"], "ls");
    }

    #[test]
    fn a_wrong_message_is_named() {
        for (message, word) in [
            (json!({"role": "wizard", "content": "x"}), "wizard"),
            (json!({"content": "x"}), "role"),
            (json!({"role": "user", "content": 5}), "content"),
            (json!({"role": "user", "images": ["aGk="]}), "images"),
            (json!("hi"), "messages[0]"),
            (json!({"role": "assistant", "tool_calls": [{}]}), "tool_calls"),
        ] {
            let error = messages(&[message]).expect_err(word).to_json();
            assert!(error["error"].as_str().is_some_and(|e| e.contains(word)), "{word}: {error}");
        }
    }
}
