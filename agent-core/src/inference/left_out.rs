//! What whoever asks left open: there the model's own choice counts, wherever it runs.

use agent_api::{
    openai::CommonParameters,
    runner::{Generate, Prompt},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options::{Options, sampling, stop};
use crate::models::library::Defaults as ModelDefaults;

/// Longest system prompt of a model that a node adds to what others send it, in bytes, of which a
/// token has one at least: the others count what they sent, and believe so many tokens more.
pub const OWN_SYSTEM_TOKENS: u32 = 4 << 10;

/// Parameters that were not said, a bit for each. Nodes tell each other: the numbers stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeftOut(u16);

impl LeftOut {
    const TEMPERATURE: u16 = 1;
    const TOP_P: u16 = 1 << 1;
    const TOP_K: u16 = 1 << 2;
    const MIN_P: u16 = 1 << 3;
    const REPEAT_PENALTY: u16 = 1 << 4;
    const FREQUENCY_PENALTY: u16 = 1 << 5;
    const PRESENCE_PENALTY: u16 = 1 << 6;
    const SEED: u16 = 1 << 7;
    const STOP: u16 = 1 << 8;
    const MAX_TOKENS: u16 = 1 << 9;
    const SYSTEM: u16 = 1 << 10;

    pub fn of(said: &CommonParameters, max_tokens: Option<i64>) -> Self {
        let parts = [
            (Self::TEMPERATURE, said.temperature.is_none()),
            (Self::TOP_P, said.top_p.is_none()),
            (Self::TOP_K, said.top_k.is_none()),
            (Self::MIN_P, said.min_p.is_none()),
            (Self::REPEAT_PENALTY, said.repeat_penalty.is_none()),
            (Self::FREQUENCY_PENALTY, said.frequency_penalty.is_none()),
            (Self::PRESENCE_PENALTY, said.presence_penalty.is_none()),
            (Self::SEED, said.seed.is_none()),
            (Self::STOP, said.stop.is_none()),
            (Self::MAX_TOKENS, max_tokens.is_none()),
            // Messages say it by themselves.
            (Self::SYSTEM, true),
        ];
        let bits = parts.into_iter().filter(|(_, left_out)| *left_out).map(|(bit, _)| bit);
        Self(bits.sum())
    }

    /// A system prompt was said, or that there is to be none.
    pub fn with_system(self) -> Self {
        Self(self.0 & !Self::SYSTEM)
    }

    /// Puts the model's own choice where nothing was said; its system prompt too, up to
    /// [`OWN_SYSTEM_TOKENS`].
    pub fn fill(self, generate: &mut Generate, defaults: &ModelDefaults) {
        let own = Options::of_model(defaults);
        let has = |bit: u16| self.0 & bit != 0;
        // Checked when the model's parameters were read.
        if let Ok(theirs) = sampling(&own.common) {
            let (ours, own) = (&mut generate.sampling, &own.common);
            if has(Self::TEMPERATURE) && own.temperature.is_some() {
                ours.temperature = theirs.temperature;
            }
            if has(Self::TOP_P) && own.top_p.is_some() {
                ours.top_p = theirs.top_p;
            }
            if has(Self::TOP_K) && own.top_k.is_some() {
                ours.top_k = theirs.top_k;
            }
            if has(Self::MIN_P) && own.min_p.is_some() {
                ours.min_p = theirs.min_p;
            }
            if has(Self::REPEAT_PENALTY) && own.repeat_penalty.is_some() {
                ours.repeat_penalty = theirs.repeat_penalty;
            }
            if has(Self::FREQUENCY_PENALTY) && own.frequency_penalty.is_some() {
                ours.frequency_penalty = theirs.frequency_penalty;
            }
            if has(Self::PRESENCE_PENALTY) && own.presence_penalty.is_some() {
                ours.presence_penalty = theirs.presence_penalty;
            }
            if has(Self::SEED) && own.seed.is_some() {
                ours.seed = theirs.seed;
            }
        }
        if has(Self::STOP)
            && own.common.stop.is_some()
            && let Ok(stop) = stop(own.common.stop.as_ref())
        {
            generate.stop = stop;
        }
        if has(Self::MAX_TOKENS) {
            let most = own.num_predict.filter(|&tokens| tokens > 0);
            let most = most.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
            generate.max_tokens = generate.max_tokens.or(most);
        }
        let most = OWN_SYSTEM_TOKENS as usize;
        let short = defaults.system.as_ref().is_some_and(|text| text.len() <= most);
        if has(Self::SYSTEM)
            && short
            && let Prompt::Chat { messages, .. } = &mut generate.prompt
        {
            add_system(messages, defaults);
        }
    }
}

/// Puts the model's own system prompt before messages that do not begin with one.
pub fn add_system(messages: &mut Vec<Value>, defaults: &ModelDefaults) {
    let Some(system) = defaults.system.as_deref().filter(|text| !text.is_empty()) else { return };
    let first = messages.first().and_then(|message| message.get("role")).and_then(Value::as_str);
    if !matches!(first, Some("system" | "developer")) {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
}

#[cfg(test)]
mod tests {
    use agent_api::runner::Sampling;

    use super::*;

    fn question() -> Generate {
        Generate {
            prompt: Prompt::Chat {
                messages: vec![json!({"role": "user", "content": "hi"})],
                tools: Vec::new(),
            },
            max_tokens: None,
            sampling: Sampling::default(),
            stop: Vec::new(),
            constraint: None,
            logprobs: None,
            continue_from: String::new(),
        }
    }

    fn model() -> ModelDefaults {
        let parameters = json!({
            "temperature": 0.25, "top_k": 7, "stop": ["<end>"], "num_predict": 50, "top_p": 9,
        });
        ModelDefaults {
            system: Some("Be brief.".to_owned()),
            parameters: parameters.as_object().expect("an object").clone(),
            ..ModelDefaults::default()
        }
    }

    #[test]
    fn what_was_not_said_is_the_models_choice() {
        let mut generate = question();
        LeftOut::of(&CommonParameters::default(), None).fill(&mut generate, &model());
        let Generate { sampling, stop, max_tokens, prompt, .. } = &generate;
        assert_eq!((sampling.temperature, sampling.top_k), (0.25, 7));
        assert_eq!(sampling.top_p, Sampling::default().top_p, "9 is none that a request may have");
        assert_eq!((stop.as_slice(), *max_tokens), (&["<end>".to_owned()][..], Some(50)));
        let Prompt::Chat { messages, .. } = prompt else { panic!("a chat") };
        assert_eq!(messages[0]["content"], "Be brief.");
        let mut none = question();
        LeftOut::of(&CommonParameters::default(), None).with_system().fill(&mut none, &model());
        let Prompt::Chat { messages, .. } = none.prompt else { panic!("a chat") };
        assert_eq!(messages.len(), 1, "no system prompt was asked for");
        let before = generate.clone();
        LeftOut::of(&CommonParameters::default(), None).fill(&mut generate, &model());
        assert_eq!(generate, before, "the system prompt is there once");
    }

    #[test]
    fn what_was_said_counts_even_if_it_is_the_usual_value() {
        let usual = Sampling::default().temperature;
        let said = CommonParameters { temperature: Some(usual.into()), ..Default::default() };
        let mut generate = question();
        generate.max_tokens = Some(3);
        LeftOut::of(&said, Some(3)).fill(&mut generate, &model());
        assert_eq!((generate.sampling.temperature, generate.max_tokens), (usual, Some(3)));
        assert_eq!(generate.sampling.top_k, 7);
    }
}
