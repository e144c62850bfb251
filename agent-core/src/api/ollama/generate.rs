//! `POST /api/generate`.

use std::time::Instant;

use agent_api::runner::{Prompt, TextInput};
use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use serde_json::{Value, json};

use super::{
    answer::Shape,
    body::{Ask, parse},
    error::OllamaError,
    prepare::Prepared,
};
use crate::node::Node;

pub(super) async fn generate(
    State(node): State<Node>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OllamaError> {
    let asked = Instant::now();
    let ask: Ask = parse(body)?;
    let text = ask.prompt.clone().unwrap_or_default();
    let suffix = ask.suffix.clone().filter(|suffix| !suffix.is_empty());
    let raw = ask.raw.unwrap_or(false);
    if raw && ask.system.as_ref().is_some_and(|system| !system.is_empty()) {
        return Err(OllamaError::invalid("raw mode does not support template, system, or context"));
    }
    let prepared = Prepared::new(&node, &headers, &ask, asked).await?;
    let prompt = match suffix {
        None if text.is_empty() => return prepared.load_or_unload(&node, Shape::Generate).await,
        Some(suffix) => Prompt::Infill { prefix: text, suffix },
        None if raw => Prompt::Text(TextInput::Text { text }),
        None => {
            let system = ask.system.or_else(|| prepared.defaults.system.clone());
            let has_template = prepared.has_template(&node).await?;
            laid_out(system.as_deref().unwrap_or_default(), text, has_template)
        }
    };
    prepared.run(&node, Shape::Generate, prompt, None).await
}

/// The prompt as one message of a chat; for a model without a chat template, as it is.
fn laid_out(system: &str, text: String, has_template: bool) -> Prompt {
    if !has_template {
        let text = if system.is_empty() { text } else { format!("{system}\n\n{text}") };
        return Prompt::Text(TextInput::Text { text });
    }
    let mut messages: Vec<Value> = Vec::new();
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": text}));
    Prompt::Chat { messages, tools: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_a_message_where_the_model_has_a_template() {
        let Prompt::Chat { messages, .. } = laid_out("Be brief.", "hi".into(), true) else {
            panic!("a chat");
        };
        assert_eq!(messages[0]["role"], "system");
        assert_eq!(messages[1]["content"], "hi");
        let plain = Prompt::Text(TextInput::Text { text: "hi".into() });
        assert_eq!(laid_out("", "hi".into(), false), plain);
    }
}
