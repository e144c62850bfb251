//! How an answer is to be generated, as requests and models say it: Ollama's and OpenAI's names and
//! ranges.

use agent_api::{
    openai::{CommonParameters, StringOrList},
    runner::Sampling,
};
use serde_json::{Map, Value};

use crate::{config::limits, models::library::Defaults};

/// A parameter that no request may have like this.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Unfit {
    pub name: String,
    /// For whoever asked.
    pub message: String,
}

impl Unfit {
    fn new(name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), message: message.into() }
    }
}

type Fit<T> = Result<T, Unfit>;

/// How an answer is to be generated: Ollama's `options` of a request, or the `PARAMETER`s of a
/// model. What is `None` was not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Those that OpenAI's requests have too, by the same names.
    pub common: CommonParameters,
    /// Tokens to generate at most; zero or less: until the model stops or the context is full.
    pub num_predict: Option<i64>,
    /// Tokens of prompt and answer together.
    pub num_ctx: Option<u32>,
}

/// An option whose value is of the wrong kind.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("The option {name:?} is {expected}, not {given}.")]
pub struct WrongOption {
    name: String,
    expected: &'static str,
    given: Value,
}

impl Options {
    /// Reads the options that this node knows. Others (`num_gpu`, `mirostat`, ...) and nulls are
    /// ignored, as Ollama's daemon does.
    pub fn read(given: &Map<String, Value>) -> Result<Self, WrongOption> {
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
    pub fn of_model(defaults: &Defaults) -> Self {
        let mut options = Self::default();
        for (name, value) in &defaults.parameters {
            let mut one = Self::default();
            let read = one.set(name, value).map_err(|e| e.to_string());
            let checked = read.and_then(|()| {
                let fits = sampling(&one.common).and_then(|_| stop(one.common.stop.as_ref()));
                fits.map(|_| ()).map_err(|e| e.message)
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
    pub fn fill_from(&mut self, other: &Self) {
        fill_common(&mut self.common, &other.common);
        self.num_predict = self.num_predict.or(other.num_predict);
    }
}

/// Only what Ollama's options can say; the rest is each request's own.
pub fn fill_common(common: &mut CommonParameters, other: &CommonParameters) {
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

/// What the runner takes; what was not said is its default.
pub fn sampling(given: &CommonParameters) -> Fit<Sampling> {
    let default = Sampling::default();
    Ok(Sampling {
        temperature: range("temperature", given.temperature, 0.0, 2.0)?
            .unwrap_or(default.temperature),
        top_p: range("top_p", given.top_p, 0.0, 1.0)?.unwrap_or(default.top_p),
        min_p: range("min_p", given.min_p, 0.0, 1.0)?.unwrap_or(default.min_p),
        top_k: match given.top_k {
            None => default.top_k,
            Some(k @ 0..=1_000_000) => i32::try_from(k).unwrap_or(default.top_k),
            Some(k) => {
                return Err(Unfit::new("top_k", format!("top_k is 0 to 1,000,000, not {k}.")));
            }
        },
        repeat_penalty: range("repeat_penalty", given.repeat_penalty, 0.0, 10.0)?
            .unwrap_or(default.repeat_penalty),
        frequency_penalty: range("frequency_penalty", given.frequency_penalty, -2.0, 2.0)?
            .unwrap_or(default.frequency_penalty),
        presence_penalty: range("presence_penalty", given.presence_penalty, -2.0, 2.0)?
            .unwrap_or(default.presence_penalty),
        // OpenAI's seeds are 64 bits wide, llama.cpp's 32: the low ones count.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "wanted")]
        seed: given.seed.map(|seed| seed as u32),
        logit_bias: logit_bias(given)?,
    })
}

fn range(name: &str, value: Option<f64>, low: f64, high: f64) -> Fit<Option<f32>> {
    match value {
        None => Ok(None),
        #[expect(clippy::cast_possible_truncation, reason = "the range is small")]
        Some(value) if (low..=high).contains(&value) => Ok(Some(value as f32)),
        Some(value) => Err(Unfit::new(name, format!("{name} is {low} to {high}, not {value}."))),
    }
}

fn logit_bias(given: &CommonParameters) -> Fit<Vec<(i32, f32)>> {
    let mut biases = Vec::new();
    for (token, bias) in given.logit_bias.iter().flatten() {
        let id = token
            .parse::<i32>()
            .ok()
            .filter(|id| *id >= 0)
            .ok_or_else(|| Unfit::new("logit_bias", format!("{token:?} is not a token id.")))?;
        let bias = range("logit_bias", Some(*bias), -100.0, 100.0)?.unwrap_or(0.0);
        biases.push((id, bias));
    }
    if biases.len() > 1_024 {
        return Err(Unfit::new("logit_bias", "logit_bias has at most 1,024 entries."));
    }
    Ok(biases)
}

pub fn stop(given: Option<&StringOrList>) -> Fit<Vec<String>> {
    let stop = match given {
        None => Vec::new(),
        Some(StringOrList::One(one)) => vec![one.clone()],
        Some(StringOrList::Many(many)) => many.clone(),
    };
    if stop.len() > limits::STOP_STRINGS || stop.iter().any(|s| s.is_empty() || s.len() > 1_024) {
        let message =
            format!("stop has at most {} texts of 1 to 1,024 bytes.", limits::STOP_STRINGS);
        return Err(Unfit::new("stop", message));
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(options: Value) -> Result<Options, WrongOption> {
        Options::read(options.as_object().expect("an object"))
    }

    fn model(parameters: Value) -> Defaults {
        let parameters = parameters.as_object().expect("an object").clone();
        Defaults { parameters, ..Defaults::default() }
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
            json!({"temperature": 0.1, "stop": ["<end>"], "num_predict": 50, "top_p": 7}),
        ));
        assert_eq!(model.common.top_p, None, "no request could say 7");
        let mut request = read(json!({"temperature": 1})).expect("valid");
        request.fill_from(&model);
        assert_eq!(request.common.temperature, Some(1.0));
        assert_eq!(request.common.stop, Some(StringOrList::Many(vec!["<end>".into()])));
        assert_eq!(request.num_predict, Some(50));
    }
}
