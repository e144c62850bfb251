//! `POST /v1/chat/completions`.

use agent_api::{
    openai::{
        AssistantMessage, CalledFunction, ChatChoice, ChatLogprobs, ChatRequest, ChatResponse,
        ChatTokenLogprob, ChatTopLogprob, Timings, Tool, ToolCall, Usage,
    },
    runner::{self, Constraint, Generate, Prompt, TokenLogprob},
};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::future::try_join_all;
use serde_json::Value;

use super::{
    add_usage, chat_stream,
    error::{OpenAiError, parse},
    finish_text, new_id, now_s,
    parameters::{Common, constraint, max_tokens},
    stream::Asking,
    timings_of,
};
use crate::{
    api::{generation, routed},
    config::limits,
    inference::{
        Piece, SubmitOptions, Work,
        left_out::{LeftOut, add_system},
        tools::{Part, ToolFormat, ToolReader},
    },
    node::Node,
    storage::RequestKind,
};

pub(super) async fn chat(
    State(node): State<Node>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OpenAiError> {
    let mut options = routed::options(&headers)?;
    let value: Value = parse(body)?;
    refuse_what_would_change_the_answer(&value)?;
    let request: ChatRequest = serde_path_to_error::deserialize(value).map_err(|e| {
        OpenAiError::invalid(&e.path().to_string(), format!("The body is not valid: {e}."))
    })?;
    let request = with_defaults(&node, request).await;
    let common = Common::read(&request.common)?;
    let most = request.max_completion_tokens.or(request.max_tokens);
    options.left_out = LeftOut::of(&request.common, most);
    let plan = Plan::make(&node, &request, &common, options).await?;

    let ask = |choice| -> Asking {
        let mut generate = plan.generate.clone();
        generate.sampling = common.sampling_of(choice);
        let (node, model) = (node.clone(), request.model.clone());
        let work = Work::Generate(Box::new(generate));
        Box::pin(async move { node.submit_with(RequestKind::Chat, &model, work, options).await })
    };
    let first = ask(0).await?;
    let head = Head {
        id: new_id("chatcmpl"),
        created: now_s(),
        model: first.model().to_owned(),
        tools: plan.tools,
    };
    let route = first.shared_route();
    let first: Asking = Box::pin(std::future::ready(Ok(first)));
    let answers = std::iter::once(first).chain((1..common.choices).map(ask)).collect();
    let response = match common.stream {
        true => chat_stream::respond(head, answers, common.include_usage).await?,
        false => whole(head, answers).await?,
    };
    Ok(routed::tell(response, Some(&route)))
}

/// What the request leaves out is taken from what the model brings along.
async fn with_defaults(node: &Node, mut request: ChatRequest) -> ChatRequest {
    let defaults = generation::defaults(node, &request.model).await;
    let given = request.max_completion_tokens.or(request.max_tokens);
    let filled = generation::fill_openai(&mut request.common, given, &defaults);
    if given.is_none() {
        request.max_tokens = filled;
    }
    // No messages at all is refused later.
    if !request.messages.is_empty() {
        add_system(&mut request.messages, &defaults);
    }
    request
}

/// What every part of one response repeats.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    /// Set when the answer may contain tool calls.
    pub(super) tools: Option<ToolFormat>,
}

/// The request as the runner takes it.
struct Plan {
    generate: Generate,
    tools: Option<ToolFormat>,
}

impl Plan {
    async fn make(
        node: &Node,
        request: &ChatRequest,
        common: &Common,
        options: SubmitOptions,
    ) -> Result<Self, OpenAiError> {
        let messages = messages(&request.messages)?;
        let given = request.tools.clone().unwrap_or_default();
        let choice = tool_choice(request.tool_choice.as_ref(), &given)?;
        let mut constraint = constraint(request.response_format.as_ref(), common.grammar.clone())?;
        let mut tools = None;
        if !given.is_empty() && choice != ToolChoice::None {
            if constraint.is_some() {
                let message = "tools cannot be used together with response_format or grammar; set tool_choice to \"none\".";
                return Err(OpenAiError::invalid("tools", message));
            }
            let format = tool_format(node, &request.model, options).await?;
            constraint = force(format, &choice, &given);
            tools = Some(format);
        }
        let offered = if tools.is_some() { given } else { Vec::new() };
        let generate = Generate {
            prompt: Prompt::Chat {
                messages,
                tools: offered
                    .iter()
                    .map(|tool| serde_json::to_value(tool).unwrap_or_default())
                    .collect(),
            },
            max_tokens: match request.max_completion_tokens {
                Some(n) => max_tokens("max_completion_tokens", Some(n))?,
                None => max_tokens("max_tokens", request.max_tokens)?,
            },
            sampling: common.sampling.clone(),
            stop: common.stop.clone(),
            constraint,
            logprobs: logprobs(request, tools.is_some())?,
            continue_from: String::new(),
        };
        Ok(Self { generate, tools })
    }
}

fn force(format: ToolFormat, choice: &ToolChoice, tools: &[Tool]) -> Option<Constraint> {
    match choice {
        ToolChoice::Auto | ToolChoice::None => None,
        ToolChoice::Required => Some(format.force(&tools.iter().collect::<Vec<_>>())),
        ToolChoice::Named(name) => {
            let named: Vec<&Tool> = tools.iter().filter(|t| t.function.name == *name).collect();
            Some(format.force(&named))
        }
    }
}

/// How the model writes tool calls. It is loaded first if it has to be.
async fn tool_format(
    node: &Node,
    wanted: &str,
    options: SubmitOptions,
) -> Result<ToolFormat, OpenAiError> {
    node.tool_format(wanted, options).await?.ok_or_else(|| {
        let model = if wanted.is_empty() { node.active_model() } else { Some(wanted.to_owned()) };
        let model = model.unwrap_or_default();
        let message = format!(
            "The chat template of {model} has no tools, so it cannot call any. Choose a model that is made for tools."
        );
        OpenAiError::invalid("tools", message)
    })
}

/// Older or richer features that would be ignored silently otherwise.
fn refuse_what_would_change_the_answer(body: &Value) -> Result<(), OpenAiError> {
    for (name, instead) in [
        ("functions", "Use tools instead."),
        ("function_call", "Use tool_choice instead."),
        ("audio", "This node answers with text only."),
        ("web_search_options", "This node does not search the web."),
    ] {
        if body.get(name).is_some_and(|value| !value.is_null()) {
            return Err(OpenAiError::invalid(name, format!("{name} is not supported. {instead}")));
        }
    }
    match body.get("modalities").and_then(Value::as_array) {
        Some(kinds) if kinds.iter().any(|kind| kind != "text") => {
            Err(OpenAiError::invalid("modalities", "This node answers with text only."))
        }
        _ => Ok(()),
    }
}

fn messages(given: &[Value]) -> Result<Vec<Value>, OpenAiError> {
    if given.is_empty() || given.len() > limits::CHAT_MESSAGES {
        let message = format!("messages has 1 to {} entries.", limits::CHAT_MESSAGES);
        return Err(OpenAiError::invalid("messages", message));
    }
    given.iter().enumerate().map(|(n, message)| one_message(n, message)).collect()
}

fn one_message(n: usize, message: &Value) -> Result<Value, OpenAiError> {
    let invalid = |what: &str| OpenAiError::invalid("messages", format!("messages[{n}] {what}"));
    let role = message.get("role").and_then(Value::as_str);
    let role = role.ok_or_else(|| invalid("has no role."))?;
    if !matches!(role, "system" | "developer" | "user" | "assistant" | "tool") {
        return Err(invalid(&format!(
            "has the role {role:?}; roles are system, developer, user, assistant and tool."
        )));
    }
    match message.get("content") {
        Some(Value::String(_) | Value::Array(_)) => {}
        None | Some(Value::Null) if message.get("tool_calls").is_some() => {}
        _ => return Err(invalid("needs content: a text or a list of parts.")),
    }
    let mut message = message.clone();
    if role == "developer" {
        // OpenAI's newer word for system; templates know the older one.
        message["role"] = "system".into();
    }
    Ok(message)
}

#[derive(Clone, Debug, PartialEq)]
enum ToolChoice {
    None,
    Auto,
    Required,
    Named(String),
}

fn tool_choice(given: Option<&Value>, tools: &[Tool]) -> Result<ToolChoice, OpenAiError> {
    let invalid = |message: String| OpenAiError::invalid("tool_choice", message);
    if let Some(tool) = tools.iter().find(|tool| tool.kind != "function") {
        let message = format!("tools are of type \"function\", not {:?}.", tool.kind);
        return Err(OpenAiError::invalid("tools", message));
    }
    if tools.len() > limits::CHAT_TOOLS {
        let message = format!("tools has at most {} entries.", limits::CHAT_TOOLS);
        return Err(OpenAiError::invalid("tools", message));
    }
    let named = given.and_then(|choice| choice.pointer("/function/name")).and_then(Value::as_str);
    let choice = match (given.and_then(Value::as_str), named) {
        _ if given.is_none_or(Value::is_null) => ToolChoice::Auto,
        (Some("auto"), _) => ToolChoice::Auto,
        (Some("none"), _) => ToolChoice::None,
        (Some("required"), _) => ToolChoice::Required,
        (None, Some(name)) => ToolChoice::Named(name.to_owned()),
        _ => {
            let words = "tool_choice is \"none\", \"auto\", \"required\" or {\"type\": \"function\", \"function\": {\"name\": ...}}.";
            return Err(invalid(words.into()));
        }
    };
    match &choice {
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool.function.name == *name) => {
            Err(invalid(format!("tool_choice names {name:?}, which is not in tools.")))
        }
        ToolChoice::Required if tools.is_empty() => {
            Err(invalid("tool_choice is \"required\" but there are no tools.".into()))
        }
        _ => Ok(choice),
    }
}

fn logprobs(request: &ChatRequest, with_tools: bool) -> Result<Option<u32>, OpenAiError> {
    let wanted = request.logprobs.unwrap_or(false);
    let top = request.top_logprobs.unwrap_or(0);
    if !(0..=20).contains(&top) {
        return Err(OpenAiError::invalid("top_logprobs", "top_logprobs is 0 to 20."));
    }
    if top > 0 && !wanted {
        return Err(OpenAiError::invalid("top_logprobs", "top_logprobs needs logprobs: true."));
    }
    if wanted && with_tools {
        return Err(OpenAiError::invalid(
            "logprobs",
            "logprobs cannot be used together with tools.",
        ));
    }
    Ok(wanted.then(|| u32::try_from(top).unwrap_or(0)))
}

async fn whole(head: Head, answers: Vec<Asking>) -> Result<Response, OpenAiError> {
    let mut choices = Vec::new();
    let mut usage = Usage::default();
    let mut timings = Timings::default();
    let asked = (0..).zip(answers).map(|(index, asking)| one_choice(index, asking, head.tools));
    for (choice, used, spent) in try_join_all(asked).await? {
        add_usage(&mut usage, &used, choice.index == 0);
        timings = timings_of(&used, &spent);
        choices.push(choice);
    }
    let Head { id, created, model, .. } = head;
    let object = "chat.completion".into();
    Ok(Json(ChatResponse { id, object, created, model, choices, usage, timings }).into_response())
}

async fn one_choice(
    index: u32,
    asking: Asking,
    tools: Option<ToolFormat>,
) -> Result<(ChatChoice, runner::Usage, runner::Timings), OpenAiError> {
    let mut answer = asking.await?;
    let mut text = String::new();
    let mut tokens = Vec::new();
    while let Some(piece) = answer.next().await {
        match piece {
            Piece::Text { text: more, logprobs } => {
                text.push_str(&more);
                tokens.extend(logprobs.into_iter().map(chat_logprob));
            }
            Piece::Failed(error) => return Err(error.into()),
            Piece::Done { finish, usage, timings } => {
                let message = message(text, tools);
                let finish = match &message.tool_calls {
                    Some(_) => "tool_calls",
                    None => finish_text(finish),
                };
                let choice = ChatChoice {
                    index,
                    message,
                    finish_reason: finish.into(),
                    logprobs: (!tokens.is_empty()).then_some(ChatLogprobs { content: tokens }),
                };
                return Ok((choice, usage, timings));
            }
            Piece::Started { .. } | Piece::Embedded { .. } => {}
        }
    }
    Err(crate::inference::InferenceError::RunnerLost.into())
}

/// Splits a finished text into content and tool calls.
fn message(text: String, tools: Option<ToolFormat>) -> AssistantMessage {
    let mut content = String::new();
    let mut calls = Vec::new();
    match tools {
        None => content = text,
        Some(format) => {
            let mut reader = ToolReader::new(format);
            let mut parts = reader.push(&text);
            parts.extend(reader.finish());
            for part in parts {
                match part {
                    Part::Text(more) => content.push_str(&more),
                    Part::Call { name, arguments } => calls.push(tool_call(None, name, arguments)),
                }
            }
        }
    }
    AssistantMessage {
        role: "assistant".into(),
        content: if content.is_empty() && !calls.is_empty() { None } else { Some(content) },
        tool_calls: (!calls.is_empty()).then_some(calls),
    }
}

pub(super) fn tool_call(index: Option<u32>, name: String, arguments: String) -> ToolCall {
    ToolCall {
        index,
        id: new_id("call"),
        kind: "function".into(),
        function: CalledFunction { name, arguments },
    }
}

pub(in crate::api) fn chat_logprob(token: TokenLogprob) -> ChatTokenLogprob {
    ChatTokenLogprob {
        token: token.token,
        logprob: token.logprob.into(),
        bytes: token.bytes,
        top_logprobs: token
            .top
            .into_iter()
            .map(|top| ChatTopLogprob {
                token: top.token,
                logprob: top.logprob.into(),
                bytes: top.bytes,
            })
            .collect(),
    }
}
