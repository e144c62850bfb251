//! `POST /v1/completions`: text in, text on. With `suffix` it fills in the middle.

use agent_api::{
    openai::{CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse, Usage},
    runner::{self, Generate, Prompt, TextInput, TokenLogprob},
};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, future::try_join_all};

use super::{
    add_usage,
    error::{OpenAiError, parse},
    finish_text, new_id, now_s,
    parameters::{Common, constraint, inputs, max_tokens},
    stream::{self, Asking},
    timings_of,
};
use crate::{
    api::{generation, routed},
    config::limits,
    inference::{InferenceError, Piece, Work, left_out::LeftOut},
    node::Node,
    storage::RequestKind,
};

/// As OpenAI's API: an answer without `max_tokens` is short.
const DEFAULT_MAX_TOKENS: u32 = 16;

pub(super) async fn completions(
    State(node): State<Node>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, OpenAiError> {
    let mut options = routed::options(&headers)?;
    let mut request: CompletionRequest = parse(body)?;
    let defaults = generation::defaults(&node, &request.model).await;
    request.max_tokens =
        generation::fill_openai(&mut request.common, request.max_tokens, &defaults);
    let common = Common::read(&request.common)?;
    options.left_out = LeftOut::of(&request.common, request.max_tokens);
    let prompts = inputs("prompt", &request.prompt, limits::PROMPTS)?;
    refuse(&request, &prompts, &common)?;
    let mut answers: Vec<Asking> = Vec::new();
    let mut texts = Vec::new();
    for prompt in &prompts {
        for choice in 0..common.choices {
            let generate = generate(&request, &common, prompt, choice)?;
            let (node, model) = (node.clone(), request.model.clone());
            let (kind, work) = (RequestKind::Completion, Work::Generate(Box::new(generate)));
            answers
                .push(Box::pin(async move { node.submit_with(kind, &model, work, options).await }));
            // With `echo` each answer begins with its prompt.
            texts.push(match (request.echo, prompt) {
                (Some(true), TextInput::Text { text }) => text.clone(),
                _ => String::new(),
            });
        }
    }
    let mut route = None;
    let mut model = request.model;
    if let Some(asking) = answers.first_mut() {
        let first = asking.as_mut().await?;
        first.model().clone_into(&mut model);
        route = Some(first.shared_route());
        *asking = Box::pin(std::future::ready(Ok(first)));
    }
    let choices_per_prompt = common.choices;
    let head = Head { id: new_id("cmpl"), created: now_s(), model, choices_per_prompt };
    let response = match common.stream {
        true => respond(head, answers, texts, common.include_usage).await?,
        false => whole(head, answers, texts).await?,
    };
    Ok(routed::tell(response, route.as_ref()))
}

struct Head {
    id: String,
    created: i64,
    model: String,
    choices_per_prompt: u32,
}

impl Head {
    fn response(&self, choices: Vec<CompletionChoice>) -> CompletionResponse {
        CompletionResponse {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: None,
            timings: None,
        }
    }

    /// Whether this choice is the first of its prompt, which counts the prompt's tokens.
    fn is_first(&self, index: u32) -> bool {
        index.is_multiple_of(self.choices_per_prompt)
    }
}

fn refuse(
    request: &CompletionRequest,
    prompts: &[TextInput],
    common: &Common,
) -> Result<(), OpenAiError> {
    if request.best_of.is_some_and(|best| best != i64::from(common.choices)) {
        return Err(OpenAiError::invalid("best_of", "best_of is not supported; use n."));
    }
    if prompts.len() * common.choices as usize > limits::WAITING_REQUESTS {
        let message = format!("prompts times n is at most {}.", limits::WAITING_REQUESTS);
        return Err(OpenAiError::invalid("n", message));
    }
    let by_tokens = prompts.iter().any(|prompt| matches!(prompt, TextInput::Tokens { .. }));
    if by_tokens && (request.echo == Some(true) || request.suffix.is_some()) {
        let message = "echo and suffix need a prompt of text, not of token ids.";
        return Err(OpenAiError::invalid("prompt", message));
    }
    if request.logprobs.is_some_and(|n| !(0..=20).contains(&n)) {
        return Err(OpenAiError::invalid("logprobs", "logprobs is 0 to 20."));
    }
    Ok(())
}

fn generate(
    request: &CompletionRequest,
    common: &Common,
    prompt: &TextInput,
    choice: u32,
) -> Result<Generate, OpenAiError> {
    let prompt = match (&request.suffix, prompt) {
        (Some(suffix), TextInput::Text { text }) if !suffix.is_empty() => {
            Prompt::Infill { prefix: text.clone(), suffix: suffix.clone() }
        }
        (_, prompt) => Prompt::Text(prompt.clone()),
    };
    Ok(Generate {
        prompt,
        max_tokens: max_tokens("max_tokens", request.max_tokens)?.or(Some(DEFAULT_MAX_TOKENS)),
        sampling: common.sampling_of(choice),
        stop: common.stop.clone(),
        constraint: constraint(None, common.grammar.clone())?,
        logprobs: request.logprobs.and_then(|n| u32::try_from(n).ok()),
        continue_from: String::new(),
    })
}

async fn whole(
    head: Head,
    answers: Vec<Asking>,
    texts: Vec<String>,
) -> Result<Response, OpenAiError> {
    let mut response = head.response(Vec::new());
    let mut total = Usage::default();
    let asked = (0..).zip(answers).zip(texts);
    let asked = asked.map(|((index, asking), text)| one_choice(index, asking, text));
    for (choice, usage, timings) in try_join_all(asked).await? {
        add_usage(&mut total, &usage, head.is_first(choice.index));
        response.timings = Some(timings_of(&usage, &timings));
        response.choices.push(choice);
    }
    response.usage = Some(total);
    Ok(Json(response).into_response())
}

async fn one_choice(
    index: u32,
    asking: Asking,
    mut text: String,
) -> Result<(CompletionChoice, runner::Usage, runner::Timings), OpenAiError> {
    let mut answer = asking.await?;
    let mut logprobs = Logprobs::after(&text);
    loop {
        match answer.next().await {
            Some(Piece::Text { text: more, logprobs: tokens }) => {
                logprobs.add(tokens);
                text.push_str(&more);
            }
            Some(Piece::Done { finish, usage, timings }) => {
                let finish_reason = Some(finish_text(finish).into());
                let logprobs = logprobs.take();
                let choice = CompletionChoice { index, text, finish_reason, logprobs };
                return Ok((choice, usage, timings));
            }
            Some(Piece::Failed(error)) => return Err(error.into()),
            Some(_) => {}
            None => return Err(InferenceError::RunnerLost.into()),
        }
    }
}

async fn respond(
    head: Head,
    answers: Vec<Asking>,
    texts: Vec<String>,
    include_usage: bool,
) -> Result<Response, OpenAiError> {
    let mut logprobs: Vec<Logprobs> = texts.iter().map(|text| Logprobs::after(text)).collect();
    let mut open = answers.len();
    let mut pieces = stream::merge(answers).await?;
    let choice = |index, text, finish_reason, logprobs| CompletionChoice {
        index,
        text,
        finish_reason,
        logprobs,
    };
    let frames = async_stream::stream! {
        let mut total = Usage::default();
        for (index, text) in (0..).zip(texts) {
            if !text.is_empty() {
                yield stream::data(&head.response(vec![choice(index, text, None, None)]));
            }
        }
        while let Some((index, piece)) = pieces.next().await {
            match piece {
                Piece::Text { text, logprobs: tokens } => {
                    let tokens = logprobs.get_mut(index as usize).and_then(|known| {
                        known.add(tokens);
                        known.take()
                    });
                    yield stream::data(&head.response(vec![choice(index, text, None, tokens)]));
                }
                Piece::Done { finish, usage, timings } => {
                    add_usage(&mut total, &usage, head.is_first(index));
                    let finish = Some(finish_text(finish).to_owned());
                    let mut last = head.response(vec![choice(index, String::new(), finish, None)]);
                    last.timings = Some(timings_of(&usage, &timings));
                    yield stream::data(&last);
                    open -= 1;
                    if open == 0 {
                        break;
                    }
                }
                Piece::Failed(error) => {
                    yield stream::failed(&error.into());
                    return;
                }
                Piece::Started { .. } | Piece::Embedded { .. } => {}
            }
        }
        if include_usage {
            let mut last = head.response(Vec::new());
            last.usage = Some(total);
            yield stream::data(&last);
        }
        yield stream::done();
    };
    Ok(stream::response(frames))
}

/// Collects logprobs in the older API's columns.
struct Logprobs {
    /// Characters before the next token.
    offset: u32,
    columns: CompletionLogprobs,
}

impl Logprobs {
    fn after(text: &str) -> Self {
        Self { offset: count_chars(text), columns: CompletionLogprobs::default() }
    }

    fn add(&mut self, tokens: Vec<TokenLogprob>) {
        for token in tokens {
            self.columns.text_offset.push(self.offset);
            self.offset += count_chars(&token.token);
            self.columns.tokens.push(token.token);
            self.columns.token_logprobs.push(token.logprob.into());
            let top = token.top.into_iter().map(|top| (top.token, f64::from(top.logprob)));
            self.columns.top_logprobs.push(top.collect());
        }
    }

    fn take(&mut self) -> Option<CompletionLogprobs> {
        let columns = std::mem::take(&mut self.columns);
        (!columns.tokens.is_empty()).then_some(columns)
    }
}

fn count_chars(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}
