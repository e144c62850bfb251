//! From OpenAI's parameters to the runner's, with every range checked.

use agent_api::{
    openai::{CommonParameters, ResponseFormat},
    runner::{Constraint, Sampling, TextInput},
};
use serde_json::Value;

use super::error::OpenAiError;
use crate::{
    config::limits,
    inference::options::{self, Unfit},
};

impl From<Unfit> for OpenAiError {
    fn from(error: Unfit) -> Self {
        Self::invalid(&error.name, error.message)
    }
}

type Checked<T> = Result<T, OpenAiError>;

/// What every kind of generation has.
#[derive(Clone, Debug)]
pub(in crate::api) struct Common {
    pub(in crate::api) stream: bool,
    pub(in crate::api) include_usage: bool,
    pub(in crate::api) choices: u32,
    pub(in crate::api) sampling: Sampling,
    pub(in crate::api) stop: Vec<String>,
    pub(in crate::api) grammar: Option<String>,
}

impl Common {
    pub(in crate::api) fn read(given: &CommonParameters) -> Checked<Self> {
        let choices = given.n.unwrap_or(1);
        if !(1..=limits::CHOICES).contains(&choices) {
            return Err(OpenAiError::invalid(
                "n",
                format!("n is 1 to {}, not {choices}.", limits::CHOICES),
            ));
        }
        Ok(Self {
            stream: given.stream.unwrap_or(false),
            include_usage: given.stream_options.as_ref().is_some_and(|o| o.include_usage),
            choices: u32::try_from(choices).unwrap_or(1),
            sampling: options::sampling(given)?,
            stop: options::stop(given.stop.as_ref())?,
            grammar: given.grammar.clone(),
        })
    }

    /// The parameters of one of several choices: a given seed is counted up, so that the choices
    /// differ and can be repeated.
    pub(in crate::api) fn sampling_of(&self, choice: u32) -> Sampling {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice));
        sampling
    }
}

/// A positive number of tokens, if given.
pub(in crate::api) fn max_tokens(name: &str, value: Option<i64>) -> Checked<Option<u32>> {
    match value {
        None => Ok(None),
        Some(n) if n >= 1 => Ok(Some(u32::try_from(n).unwrap_or(u32::MAX))),
        Some(n) => Err(OpenAiError::invalid(name, format!("{name} is at least 1, not {n}."))),
    }
}

/// The constraint that a response format or a grammar asks for.
pub(in crate::api) fn constraint(
    format: Option<&ResponseFormat>,
    grammar: Option<String>,
) -> Checked<Option<Constraint>> {
    let from_format = match format {
        None | Some(ResponseFormat::Text) => None,
        Some(ResponseFormat::JsonObject) => Some(Constraint::JsonObject),
        Some(ResponseFormat::JsonSchema { json_schema }) => match &json_schema.schema {
            Some(schema @ Value::Object(_)) => Some(Constraint::JsonSchema {
                schema: schema.clone(),
                before: String::new(),
                after: String::new(),
            }),
            _ => {
                let message = "response_format.json_schema.schema is a JSON schema (an object).";
                return Err(OpenAiError::invalid("response_format", message));
            }
        },
    };
    match (from_format, grammar) {
        (Some(_), Some(_)) => {
            Err(OpenAiError::invalid("grammar", "Use grammar or response_format, not both."))
        }
        (Some(constraint), None) => Ok(Some(constraint)),
        (None, Some(gbnf)) => Ok(Some(Constraint::Grammar { gbnf })),
        (None, None) => Ok(None),
    }
}

/// A prompt or an input: a string, a list of strings, token ids, or a list of those.
pub(in crate::api) fn inputs(name: &str, value: &Value, max: usize) -> Checked<Vec<TextInput>> {
    let wrong = || {
        let message = format!(
            "{name} is a text, a list of texts, a list of token ids, or a list of such lists."
        );
        OpenAiError::invalid(name, message)
    };
    let inputs = match value {
        Value::String(text) => vec![TextInput::Text { text: text.clone() }],
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            vec![TextInput::Tokens { tokens: tokens(items).ok_or_else(wrong)? }]
        }
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(TextInput::Text { text: text.clone() }),
                Value::Array(ids) => {
                    Ok(TextInput::Tokens { tokens: tokens(ids).ok_or_else(wrong)? })
                }
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong()),
    };
    if inputs.is_empty() || inputs.len() > max {
        return Err(OpenAiError::invalid(
            name,
            format!("{name} has 1 to {max} entries, not {}.", inputs.len()),
        ));
    }
    Ok(inputs)
}

fn tokens(items: &[Value]) -> Option<Vec<i32>> {
    items.iter().map(|id| id.as_i64().and_then(|id| i32::try_from(id).ok())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Checked<Common> {
        Common::read(&serde_json::from_value(body).expect("the shape is right"))
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        for body in [
            json!({"temperature": -1}),
            json!({"temperature": 1e300}),
            json!({"top_p": 1.5}),
            json!({"n": 0}),
            json!({"n": 1000}),
            json!({"top_k": -4}),
            json!({"frequency_penalty": 3}),
            json!({"logit_bias": {"x": 1}}),
            json!({"logit_bias": {"1": 500}}),
            json!({"stop": vec!["x"; 17]}),
            json!({"stop": ""}),
        ] {
            let name = body.as_object().and_then(|o| o.keys().next()).expect("one").clone();
            let error = read(body.clone()).expect_err("refused").to_json();
            assert!(error.contains(&name), "{body}: {error}");
        }
        assert!(max_tokens("max_tokens", Some(0)).is_err());
        assert!(max_tokens("max_tokens", Some(i64::MIN)).is_err());
        assert_eq!(max_tokens("max_tokens", Some(i64::MAX)).expect("clamped"), Some(u32::MAX));
    }

    #[test]
    fn choices_with_a_seed_differ_and_repeat() {
        let common = read(json!({"seed": 7, "n": 2})).expect("valid");
        assert_eq!(common.sampling_of(0).seed, Some(7));
        assert_eq!(common.sampling_of(1).seed, Some(8));
    }

    #[test]
    fn prompts_come_in_four_shapes() {
        let count = |value| inputs("prompt", &value, 10).map(|inputs| inputs.len()).ok();
        assert_eq!(count(json!("a")), Some(1));
        assert_eq!(count(json!(["a", "b"])), Some(2));
        assert_eq!(count(json!([1, 2, 3])), Some(1));
        assert_eq!(count(json!([[1, 2], [3]])), Some(2));
        for bad in
            [json!(null), json!([]), json!({"a": 1}), json!([1, "a"]), json!([1.5]), json!([true])]
        {
            assert_eq!(count(bad.clone()), None, "{bad}");
        }
        assert_eq!(count(json!(vec!["x"; 11])), None);
    }
}
