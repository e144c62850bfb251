//! What requests for text share, whichever API they came through: what a model of this node brings
//! along for requests that leave things out.

use std::sync::Arc;

use agent_api::openai::CommonParameters;

use crate::{
    inference::options::{Options, fill_common},
    node::{ModelDefaults, Node},
};

/// What the model of a request brings along; an empty name means the active one. Nothing if there
/// is no such model: the request then fails where it is submitted, with a better reason.
pub(super) async fn defaults(node: &Node, model: &str) -> Arc<ModelDefaults> {
    let active = if model.is_empty() { node.active_model() } else { None };
    let model = active.as_deref().unwrap_or(model);
    node.model_defaults(model).await.unwrap_or_default()
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
    use serde_json::{Value, json};

    use super::*;

    fn model(parameters: Value) -> ModelDefaults {
        let parameters = parameters.as_object().expect("an object").clone();
        ModelDefaults { parameters, ..ModelDefaults::default() }
    }

    #[test]
    fn openai_requests_get_what_they_left_out() {
        let defaults = model(json!({"temperature": 0.1, "num_predict": 9}));
        let mut common = CommonParameters::default();
        assert_eq!(fill_openai(&mut common, None, &defaults), Some(9));
        assert_eq!(common.temperature, Some(0.1));
        assert_eq!(fill_openai(&mut common, Some(3), &defaults), Some(3));
    }
}
