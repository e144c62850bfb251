//! What `chat` and `generate` do alike: checking the request, taking what the model brings along,
//! loading and unloading.

use std::{sync::Arc, time::Instant};

use agent_api::{
    models::{Backend, Capability, InstalledModel, ModelSource, ModelState, ModelStatus},
    runner::{Constraint, Generate, Prompt},
};
use axum::{
    Json,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    answer::{Line, Shape, Telling, respond},
    body::{Ask, find, keep_alive},
    error::OllamaError,
    reader::{Begins, Reader},
};
use crate::{
    api::{generation, openai::parameters::Common, routed},
    inference::{
        KeepAlive, SubmitOptions, Work, left_out::LeftOut, options::Options, tools::ToolFormat,
    },
    node::{ModelDefaults, Node},
    storage::RequestKind,
};

/// Alternatives per token that may be asked for, as in OpenAI's API.
const TOP_LOGPROBS: i64 = 20;

/// A checked request.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) asked: Instant,
    /// The name as the request wrote it.
    pub(super) name: String,
    /// `None`: other nodes have it.
    model: Option<InstalledModel>,
    pub(super) defaults: Arc<ModelDefaults>,
    common: Common,
    max_tokens: Option<u32>,
    constraint: Option<Constraint>,
    logprobs: Option<u32>,
    thinking: bool,
    stream: bool,
    submit: SubmitOptions,
}

impl Prepared {
    pub(super) async fn new(
        node: &Node,
        headers: &HeaderMap,
        ask: &Ask,
        asked: Instant,
    ) -> Result<Self, OllamaError> {
        let name = ask.model()?.to_owned();
        refuse(ask)?;
        let routing = routed::options(headers)?;
        let keep_alive = keep_alive(ask.keep_alive.as_ref())?;
        let mut options = Options::read(ask.options.as_ref().unwrap_or(&Default::default()))?;
        Common::read(&options.common)?;
        let constraint = constraint(ask.format.as_ref())?;
        let logprobs = logprobs(ask)?;
        let model = match find(node, &name).await {
            Err(_) if node.is_elsewhere(&name) => None,
            found => Some(found?),
        };
        let thinking = thinking(ask.think.as_ref(), &name, model.as_ref())?;
        let id = model.as_ref().map_or(name.as_str(), |model| model.id.as_str());
        let defaults = generation::defaults(node, id).await;
        options.fill_from(&Options::of_model(&defaults));
        Ok(Self {
            asked,
            name,
            model,
            defaults,
            common: Common::read(&options.common)?,
            max_tokens: max_tokens(options.num_predict),
            constraint,
            logprobs,
            thinking,
            stream: ask.stream.unwrap_or(true),
            submit: SubmitOptions {
                keep_alive,
                context: options.num_ctx,
                left_out: match ask.system {
                    Some(_) => LeftOut::of(&options.common, options.num_predict).with_system(),
                    None => LeftOut::of(&options.common, options.num_predict),
                },
                ..routing
            },
        })
    }

    /// How the model writes tool calls.
    pub(super) async fn tool_format(&self, node: &Node) -> Result<ToolFormat, OllamaError> {
        // Another program lays out the prompt and tells only once the model is loaded.
        let format = match self.runs_elsewhere() {
            true => node.tool_format(self.id(), self.submit).await?,
            false => self.template(node).await?.as_deref().and_then(ToolFormat::of),
        };
        // In the daemon's words, which clients look for before they ask again without tools.
        let none = || OllamaError::invalid(format!("{} does not support tools", self.name));
        format.ok_or_else(none)
    }

    /// Whether a prompt can be laid out as a chat.
    pub(super) async fn has_template(&self, node: &Node) -> Result<bool, OllamaError> {
        Ok(self.runs_elsewhere() || self.template(node).await?.is_some())
    }

    /// Another program, or another node, runs it and lays out its prompts.
    fn runs_elsewhere(&self) -> bool {
        self.model.as_ref().is_none_or(|model| {
            model.source == ModelSource::OllamaDaemon
                || model.options.backend == Some(Backend::Ollama)
        })
    }

    /// As the node is asked for it.
    fn id(&self) -> &str {
        self.model.as_ref().map_or(&self.name, |model| &model.id)
    }

    /// The model's chat template. The active model is asked for it, and loaded for that if it has
    /// to be; of others it is read from the file.
    async fn template(&self, node: &Node) -> Result<Option<Arc<str>>, OllamaError> {
        if node.active_model().as_deref() == Some(self.id()) {
            return Ok(node.chat_template(self.id()).await?);
        }
        Ok(node.show_model(self.id()).await?.template.map(Arc::from))
    }

    /// Generates an answer and sends it.
    pub(super) async fn run(
        self,
        node: &Node,
        shape: Shape,
        prompt: Prompt,
        tools: Option<ToolFormat>,
    ) -> Result<Response, OllamaError> {
        // Text that is not laid out as a chat is given back as it comes.
        let thinking = if self.thinking && matches!(prompt, Prompt::Chat { .. }) {
            // What another program runs has its thoughts marked at both ends.
            Some(if self.runs_elsewhere() {
                Begins::Outside
            } else {
                self.template(node).await?.as_deref().map_or(Begins::Outside, Begins::of)
            })
        } else {
            None
        };
        let generate = Generate {
            prompt,
            max_tokens: self.max_tokens,
            sampling: self.common.sampling_of(0),
            stop: self.common.stop,
            constraint: self.constraint,
            logprobs: self.logprobs,
            continue_from: String::new(),
        };
        let kind = match shape {
            Shape::Chat => RequestKind::Chat,
            Shape::Generate => RequestKind::Completion,
        };
        let work = Work::Generate(Box::new(generate));
        let id = self.model.as_ref().map_or(&self.name, |model| &model.id);
        let answer = node.submit_with(kind, id, work, self.submit).await?;
        let route = answer.shared_route();
        let telling = Telling::new(self.name, shape, Reader::new(thinking, tools), self.asked);
        let response = respond(telling, answer, self.stream).await?;
        Ok(routed::tell(response, Some(&route)))
    }

    /// A request without words: it loads the model, or unloads it where it is to stay for no time.
    pub(super) async fn load_or_unload(
        self,
        node: &Node,
        shape: Shape,
    ) -> Result<Response, OllamaError> {
        let Some(InstalledModel { id, .. }) = &self.model else {
            // Its own node decides what it keeps in memory.
            return Ok(Json(Line::without_text(&self.name, shape, "load")).into_response());
        };
        let reason = if self.submit.keep_alive == Some(KeepAlive::For(std::time::Duration::ZERO)) {
            node.unload_model(id).await?;
            "unload"
        } else {
            loaded(id, &node.load_model(id, self.submit.keep_alive).await?)?;
            "load"
        };
        Ok(Json(Line::without_text(&self.name, shape, reason)).into_response())
    }
}

/// A load that failed is an error here, with the reason.
fn loaded(id: &str, status: &ModelStatus) -> Result<(), OllamaError> {
    let failed = |state| state == ModelState::Failed;
    let resident = status.resident.iter().find(|resident| resident.id == id);
    match resident {
        Some(resident) if failed(resident.state) => {
            Err(OllamaError::new(500, resident.reason.clone()))
        }
        None if failed(status.state) && status.active.as_ref().is_some_and(|m| m.id == id) => {
            Err(OllamaError::new(500, status.reason.clone()))
        }
        _ => Ok(()),
    }
}

/// What would change the answer if it were ignored.
fn refuse(ask: &Ask) -> Result<(), OllamaError> {
    let refused = |message: &str| Err(OllamaError::invalid(message));
    if ask.template.as_ref().is_some_and(|text| !text.is_empty()) {
        return refused(
            "template is not supported: the model's own chat template is used. Send raw: true with a prompt that is already laid out.",
        );
    }
    if ask.images.as_ref().is_some_and(|images| !images.is_empty()) {
        return refused(NO_IMAGES);
    }
    if ask.context.as_ref().is_some_and(|tokens| !tokens.is_empty()) {
        return refused(
            "context is not supported. Send the earlier messages to /api/chat; what the model has read already is kept.",
        );
    }
    Ok(())
}

pub(super) const NO_IMAGES: &str =
    "images are not supported: the models of this node do not see yet.";

/// `None`: until the model stops or the context is full, which is what -1 and -2 ask for.
fn max_tokens(num_predict: Option<i64>) -> Option<u32> {
    let tokens = num_predict.filter(|&tokens| tokens > 0)?;
    Some(u32::try_from(tokens).unwrap_or(u32::MAX))
}

fn constraint(format: Option<&Value>) -> Result<Option<Constraint>, OllamaError> {
    match format {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) if word.is_empty() => Ok(None),
        Some(Value::String(word)) if word == "json" => Ok(Some(Constraint::JsonObject)),
        Some(schema @ Value::Object(_)) => Ok(Some(Constraint::JsonSchema {
            schema: schema.clone(),
            before: String::new(),
            after: String::new(),
        })),
        Some(_) => Err(OllamaError::invalid("format is \"json\" or a JSON schema (an object).")),
    }
}

fn logprobs(ask: &Ask) -> Result<Option<u32>, OllamaError> {
    let top = ask.top_logprobs.unwrap_or(0);
    let count = u32::try_from(top).ok().filter(|_| top <= TOP_LOGPROBS);
    let count = count
        .ok_or_else(|| OllamaError::invalid(format!("top_logprobs is 0 to {TOP_LOGPROBS}.")))?;
    Ok(ask.logprobs.unwrap_or(false).then_some(count))
}

/// Whether thoughts are split off. As the daemon: where nothing is said, models that can think do.
fn thinking(
    given: Option<&Value>,
    name: &str,
    model: Option<&InstalledModel>,
) -> Result<bool, OllamaError> {
    // What another node's model can do is not known; thoughts that it marks are found.
    let able = model.is_none_or(|model| model.capabilities.contains(&Capability::Thinking));
    let wanted = match given {
        None | Some(Value::Null) => return Ok(able),
        Some(Value::Bool(wanted)) => *wanted,
        Some(Value::String(level)) if matches!(level.as_str(), "low" | "medium" | "high") => true,
        Some(_) => {
            let message = "think is true, false, \"low\", \"medium\" or \"high\".";
            return Err(OllamaError::invalid(message));
        }
    };
    if wanted && !able {
        return Err(OllamaError::invalid(format!("\"{name}\" does not support thinking")));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        for (field, body) in [
            ("template", json!({"template": "{{ .Prompt }}"})),
            ("images", json!({"images": ["aGk="]})),
            ("context", json!({"context": [1, 2]})),
        ] {
            let ask: Ask = serde_json::from_value(body).expect("valid");
            let error = refuse(&ask).expect_err(field).to_json();
            assert!(error["error"].as_str().is_some_and(|e| e.starts_with(field)), "{error}");
        }
        let empty = json!({"template": "", "images": [], "context": null});
        assert_eq!(refuse(&serde_json::from_value(empty).expect("valid")), Ok(()));
    }

    #[test]
    fn formats_are_json_or_a_schema() {
        assert_eq!(constraint(Some(&json!(""))), Ok(None));
        assert_eq!(constraint(Some(&json!("json"))), Ok(Some(Constraint::JsonObject)));
        let schema = json!({"type": "object"});
        let made = constraint(Some(&schema)).expect("valid");
        assert!(matches!(made, Some(Constraint::JsonSchema { schema: s, .. }) if s == schema));
        assert!(constraint(Some(&json!("yaml"))).is_err());
        assert!(constraint(Some(&json!(true))).is_err());
    }

    #[test]
    fn no_limit_has_three_spellings() {
        assert_eq!(max_tokens(None), None);
        assert_eq!(max_tokens(Some(-1)), None);
        assert_eq!(max_tokens(Some(-2)), None);
        assert_eq!(max_tokens(Some(9)), Some(9));
        assert_eq!(max_tokens(Some(i64::MAX)), Some(u32::MAX));
    }
}
