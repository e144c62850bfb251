//! What requests for text share, whichever API they came through: options by Ollama's names, and
//! what a model brings along for requests that leave things out.

use std::sync::Arc;

use agent_api::openai::{CommonParameters, StringOrList};
use serde_json::{Map, Value, json};

use super::openai::parameters::Common;
use crate::node::{ModelDefaults, Node};

/// How an answer is to be generated: Ollama's `options` of a request, or the `PARAMETER`s of a
/// model. What is `None` was not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Options {
    /// Those that OpenAI's requests have too, by the same names.
    pub(super) common: CommonParameters,
    /// Tokens to generate at most; zero or less: until the model stops or the context is full.
    pub(super) num_predict: Option<i64>,
    /// Tokens of prompt and answer together.
    pub(super) num_ctx: Option<u32>,
}

/// An option whose value is of the wrong kind.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("The option {name:?} is {expected}, not {given}.")]
pub(super) struct WrongOption {
    name: String,
    expected: &'static str,
    given: Value,
}

impl Options {
    /// Reads the options that this node knows. Others (`num_gpu`, `mirostat`, ...) and nulls are
    /// ignored, as Ollama's daemon does.
    pub(super) fn read(given: &Map<String, Value>) -> Result<Self, WrongOption> {
        let mut options = Self::default();
        for (name, value) in given {
            options.set(name, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), WrongOption> {
        if value.is_null() {
            return Ok(());
        }
        let option = Given { name, value };
        let common = &mut self.common;
        match name {
            "temperature" => common.temperature = Some(option.number()?),
            "top_p" => common.top_p = Some(option.number()?),
            "min_p" => common.min_p = Some(option.number()?),
            "repeat_penalty" => common.repeat_penalty = Some(option.number()?),
            "frequency_penalty" => common.frequency_penalty = Some(option.number()?),
            "presence_penalty" => common.presence_penalty = Some(option.number()?),
            // llama.cpp: zero and less mean all tokens.
            "top_k" => common.top_k = Some(option.integer()?.max(0)),
            // Ollama: -1, its default, means another one each time.
            "seed" => common.seed = Some(option.integer()?).filter(|seed| *seed != -1),
            "stop" => common.stop = option.texts()?,
            "num_predict" => self.num_predict = Some(option.integer()?),
            "num_ctx" => self.num_ctx = Some(option.context()?),
            _ => {}
        }
        Ok(())
    }

    /// What a model brings along. A value that no request could have is left out: the model works
    /// without it, and who asks cannot correct it.
    pub(super) fn of_model(defaults: &ModelDefaults) -> Self {
        let mut options = Self::default();
        for (name, value) in &defaults.parameters {
            let mut one = Self::default();
            let read = one.set(name, value).map_err(|e| e.to_string());
            let checked = read.and_then(|()| {
                Common::read(&one.common).map(|_| ()).map_err(|e| e.message().to_owned())
            });
            match checked {
                Ok(()) => options.fill_from(&one),
                Err(e) => tracing::debug!("a parameter of the model is left out: {e}"),
            }
        }
        options
    }

    /// Takes what was not said from others. Not the context: how much of it a model gets is
    /// decided when it is loaded, and a request only asks for more.
    pub(super) fn fill_from(&mut self, other: &Self) {
        fill_common(&mut self.common, &other.common);
        self.num_predict = self.num_predict.or(other.num_predict);
    }
}

/// Only what Ollama's options can say; the rest is each request's own.
fn fill_common(common: &mut CommonParameters, other: &CommonParameters) {
    common.temperature = common.temperature.or(other.temperature);
    common.top_p = common.top_p.or(other.top_p);
    common.top_k = common.top_k.or(other.top_k);
    common.min_p = common.min_p.or(other.min_p);
    common.repeat_penalty = common.repeat_penalty.or(other.repeat_penalty);
    common.frequency_penalty = common.frequency_penalty.or(other.frequency_penalty);
    common.presence_penalty = common.presence_penalty.or(other.presence_penalty);
    common.seed = common.seed.or(other.seed);
    if common.stop.is_none() {
        common.stop.clone_from(&other.stop);
    }
}

struct Given<'a> {
    name: &'a str,
    value: &'a Value,
}

impl Given<'_> {
    fn wrong(&self, expected: &'static str) -> WrongOption {
        WrongOption { name: self.name.to_owned(), expected, given: self.value.clone() }
    }

    fn number(&self) -> Result<f64, WrongOption> {
        self.value.as_f64().ok_or_else(|| self.wrong("a number"))
    }

    /// JavaScript writes whole numbers as it likes: 4096.0 is one.
    fn integer(&self) -> Result<i64, WrongOption> {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and cut to the range of i64")]
        let whole = |number: f64| (number.fract() == 0.0).then_some(number as i64);
        let integer = self.value.as_i64().or_else(|| self.value.as_f64().and_then(whole));
        integer.ok_or_else(|| self.wrong("a whole number"))
    }

    fn context(&self) -> Result<u32, WrongOption> {
        let wrong = || self.wrong("a number of tokens, 1 or more");
        u32::try_from(self.integer()?).ok().filter(|&tokens| tokens > 0).ok_or_else(wrong)
    }

    /// A text or a list of them; an empty list is none.
    fn texts(&self) -> Result<Option<StringOrList>, WrongOption> {
        let wrong = || self.wrong("a text or a list of texts");
        match self.value {
            Value::String(one) => Ok(Some(StringOrList::One(one.clone()))),
            Value::Array(many) => {
                let many = many.iter().map(|text| text.as_str().map(str::to_owned));
                let many: Vec<String> = many.collect::<Option<_>>().ok_or_else(wrong)?;
                Ok((!many.is_empty()).then_some(StringOrList::Many(many)))
            }
            _ => Err(wrong()),
        }
    }
}

/// What the model of a request brings along; an empty name means the active one. Nothing if there
/// is no such model: the request then fails where it is submitted, with a better reason.
pub(super) async fn defaults(node: &Node, model: &str) -> Arc<ModelDefaults> {
    let active = if model.is_empty() { node.active_model() } else { None };
    let model = active.as_deref().unwrap_or(model);
    node.model_defaults(model).await.unwrap_or_default()
}

/// Puts the model's own system prompt before messages that do not begin with one.
pub(super) fn add_system(messages: &mut Vec<Value>, defaults: &ModelDefaults) {
    let Some(system) = defaults.system.as_deref().filter(|text| !text.is_empty()) else { return };
    let first = messages.first().and_then(|message| message.get("role")).and_then(Value::as_str);
    if !matches!(first, Some("system" | "developer")) {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
}

/// Fills what an OpenAI request left out: the sampling options, the system prompt and (returned)
/// the number of tokens.
pub(super) fn fill_openai(
    common: &mut CommonParameters,
    max_tokens: Option<i64>,
    defaults: &ModelDefaults,
) -> Option<i64> {
    let options = Options::of_model(defaults);
    fill_common(common, &options.common);
    max_tokens.or(options.num_predict.filter(|&tokens| tokens > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: Value) -> Result<Options, WrongOption> {
        Options::read(options.as_object().expect("an object"))
    }

    fn model(system: Option<&str>, parameters: Value) -> ModelDefaults {
        let parameters = parameters.as_object().expect("an object").clone();
        ModelDefaults { system: system.map(str::to_owned), parameters, ..ModelDefaults::default() }
    }

    #[test]
    fn options_are_read_by_ollamas_names() {
        let options = read(json!({
            "temperature": 0, "top_k": -1, "top_p": 0.5, "min_p": 0.1, "seed": 7,
            "num_predict": -2, "num_ctx": 4096.0, "stop": ["a", "b"], "repeat_penalty": 1.1,
            "frequency_penalty": 0.2, "presence_penalty": null, "mirostat": 2, "num_gpu": "x",
        }))
        .expect("valid");
        assert_eq!(options.common.temperature, Some(0.0));
        assert_eq!(options.common.top_k, Some(0), "off");
        assert_eq!(options.common.seed, Some(7));
        assert_eq!(options.common.presence_penalty, None, "null says nothing");
        assert_eq!((options.num_predict, options.num_ctx), (Some(-2), Some(4096)));
        let stop = StringOrList::Many(vec!["a".into(), "b".into()]);
        assert_eq!(options.common.stop, Some(stop));
        assert_eq!(read(json!({"seed": -1})).expect("valid").common.seed, None, "random");
    }

    #[test]
    fn an_option_of_the_wrong_kind_is_named() {
        for (name, value) in [
            ("temperature", json!("warm")),
            ("top_k", json!(1.5)),
            ("num_ctx", json!(0)),
            ("num_ctx", json!(1e12)),
            ("num_predict", json!([1])),
            ("stop", json!([1])),
            ("seed", json!({})),
        ] {
            let error = read(json!({ name: value })).expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_request_wins_over_what_the_model_brings() {
        let model = Options::of_model(&model(
            None,
            json!({"temperature": 0.1, "stop": ["<end>"], "num_predict": 50, "top_p": 7}),
        ));
        assert_eq!(model.common.top_p, None, "no request could say 7");
        let mut request = read(json!({"temperature": 1})).expect("valid");
        request.fill_from(&model);
        assert_eq!(request.common.temperature, Some(1.0));
        assert_eq!(request.common.stop, Some(StringOrList::Many(vec!["<end>".into()])));
        assert_eq!(request.num_predict, Some(50));
    }

    #[test]
    fn openai_requests_get_what_they_left_out() {
        let defaults = model(Some("Be brief."), json!({"temperature": 0.1, "num_predict": 9}));
        let mut common = CommonParameters::default();
        assert_eq!(fill_openai(&mut common, None, &defaults), Some(9));
        assert_eq!(common.temperature, Some(0.1));
        assert_eq!(fill_openai(&mut common, Some(3), &defaults), Some(3));
        let mut messages = vec![json!({"role": "user", "content": "hi"})];
        add_system(&mut messages, &defaults);
        add_system(&mut messages, &defaults);
        assert_eq!(messages.len(), 2, "once");
        assert_eq!(messages[0]["content"], "Be brief.");
    }
}
