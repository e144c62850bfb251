//! Bodies of requests.

use std::time::Duration;

use agent_api::{models::InstalledModel, openai::Tool};
use axum::{body::Bytes, extract::rejection::BytesRejection};
use jiff::SignedDuration;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::error::OllamaError;
use crate::{
    api::openai,
    inference::KeepAlive,
    node::{Node, NodeError},
};

/// Parses a body; errors name the field.
pub(super) fn parse<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, OllamaError> {
    if body.as_ref().is_ok_and(Bytes::is_empty) {
        return Err(OllamaError::invalid("missing request body"));
    }
    Ok(openai::error::parse(body)?)
}

/// The body of `chat` and `generate`. What it does not name is ignored, as the daemon does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ask {
    model: Option<String>,
    /// The older word for `model`.
    name: Option<String>,
    pub(super) messages: Option<Vec<Value>>,
    pub(super) tools: Option<Vec<Tool>>,
    pub(super) prompt: Option<String>,
    pub(super) suffix: Option<String>,
    pub(super) system: Option<String>,
    pub(super) template: Option<String>,
    pub(super) raw: Option<bool>,
    pub(super) context: Option<Vec<Value>>,
    pub(super) images: Option<Vec<Value>>,
    pub(super) format: Option<Value>,
    pub(super) options: Option<Map<String, Value>>,
    pub(super) keep_alive: Option<Value>,
    pub(super) stream: Option<bool>,
    pub(super) think: Option<Value>,
    pub(super) logprobs: Option<bool>,
    pub(super) top_logprobs: Option<i64>,
}

impl Ask {
    pub(super) fn model(&self) -> Result<&str, OllamaError> {
        required(self.model.as_deref(), self.name.as_deref())
    }
}

/// The body of `show`, `pull` and `delete`. `insecure` and `verbose` are not read: which registries
/// are spoken to without TLS is a setting, and there is only one level of detail.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    model: Option<String>,
    name: Option<String>,
    pub(super) stream: Option<bool>,
}

impl Named {
    pub(super) fn model(&self) -> Result<&str, OllamaError> {
        required(self.model.as_deref(), self.name.as_deref())
    }
}

fn required<'a>(model: Option<&'a str>, name: Option<&'a str>) -> Result<&'a str, OllamaError> {
    let given = [model, name].into_iter().flatten().find(|text| !text.is_empty());
    given.ok_or_else(|| OllamaError::invalid("model is required"))
}

/// The installed model that a request means.
pub(super) async fn find(node: &Node, name: &str) -> Result<InstalledModel, OllamaError> {
    match node.find_installed(name).await {
        Ok(model) => Ok(model),
        // In the words of the request, whatever the node looked for.
        Err(NodeError::NoSuchModel(_)) => Err(OllamaError::no_such_model(name)),
        Err(other) => Err(other.into()),
    }
}

/// How long the model is to stay in memory after the request: a number of seconds or a text such
/// as `5m`, `1h30m`, `-1m`. Less than nothing means for ever.
pub(super) fn keep_alive(given: Option<&Value>) -> Result<Option<KeepAlive>, OllamaError> {
    let wrong = || {
        let message = "keep_alive is a duration such as \"5m\", a number of seconds, 0 to unload at once, or -1 to stay loaded.";
        OllamaError::invalid(message)
    };
    let seconds = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().ok_or_else(wrong)?,
        Some(Value::String(text)) => match text.parse::<f64>() {
            Ok(seconds) => seconds,
            Err(_) => text.parse::<SignedDuration>().map_err(|_| wrong())?.as_secs_f64(),
        },
        Some(_) => return Err(wrong()),
    };
    if seconds.is_nan() {
        return Err(wrong());
    }
    if seconds < 0.0 {
        return Ok(Some(KeepAlive::Forever));
    }
    // More than the clock can count is for ever too.
    let duration = Duration::try_from_secs_f64(seconds);
    Ok(Some(duration.map_or(KeepAlive::Forever, KeepAlive::at_most)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keep_alive_comes_in_many_spellings() {
        let seconds = |n| Some(KeepAlive::For(Duration::from_secs(n)));
        for (given, expected) in [
            (json!(null), None),
            (json!("5m"), seconds(300)),
            (json!("1h30m"), seconds(5400)),
            (json!("90s"), seconds(90)),
            (json!("1.5h"), seconds(5400)),
            (json!("300"), seconds(300)),
            (json!(300), seconds(300)),
            (json!(0), seconds(0)),
            (json!("0"), seconds(0)),
            (json!("0s"), seconds(0)),
            (json!(0.5), Some(KeepAlive::For(Duration::from_millis(500)))),
            (json!("250ms"), Some(KeepAlive::For(Duration::from_millis(250)))),
            (json!(-1), Some(KeepAlive::Forever)),
            (json!("-1"), Some(KeepAlive::Forever)),
            (json!("-1m"), Some(KeepAlive::Forever)),
            (json!(1e300), Some(KeepAlive::Forever)),
            (json!(1e19), Some(KeepAlive::Forever)),
            (json!("9000000000s"), Some(KeepAlive::Forever)),
        ] {
            assert_eq!(keep_alive(Some(&given)), Ok(expected), "{given}");
        }
        assert_eq!(keep_alive(None), Ok(None));
        for bad in [json!("soon"), json!(""), json!("NaN"), json!([1]), json!(true), json!("5 x")] {
            let error = keep_alive(Some(&bad)).expect_err("refused").to_json();
            assert!(error["error"].as_str().is_some_and(|e| e.contains("keep_alive")), "{bad}");
        }
    }

    #[test]
    fn a_model_is_named_by_either_word() {
        let read = |body: Value| -> Named { serde_json::from_value(body).expect("valid") };
        assert_eq!(read(json!({"model": "a", "verbose": true})).model(), Ok("a"));
        assert_eq!(read(json!({"model": "", "name": "b"})).model(), Ok("b"));
        assert!(read(json!({"model": null})).model().is_err());
    }
}
