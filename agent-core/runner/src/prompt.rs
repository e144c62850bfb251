//! Turns what a request asks into the tokens the model reads.

use agent_api::runner::{Prompt, RunnerError, TextInput};
use llama_cpp_2::token::LlamaToken;

use crate::{
    failure::{bad_request, overflow},
    model::Model,
};

/// The tokens of a prompt, which fit the context with at least one to spare.
pub(crate) fn tokens(model: &Model, prompt: &Prompt) -> Result<Vec<LlamaToken>, RunnerError> {
    let tokens = match prompt {
        Prompt::Chat { messages, tools } => {
            let text = chat_text(model, messages, tools)?;
            with_beginning(model, text_tokens(model, &text, true))
        }
        Prompt::Text(TextInput::Text { text }) => {
            with_beginning(model, text_tokens(model, text, true))
        }
        Prompt::Text(TextInput::Tokens { tokens }) => given_tokens(model, tokens)?,
        Prompt::Infill { prefix, suffix } => infill_tokens(model, prefix, suffix)?,
    };
    if tokens.is_empty() {
        return Err(bad_request("The prompt is empty."));
    }
    if tokens.len() >= model.context as usize {
        return Err(overflow(tokens.len(), model.context));
    }
    Ok(tokens)
}

/// Puts the text of an answer that was begun elsewhere after its prompt; returns how many tokens it
/// has. `constrained`: control tokens are part of the text.
pub(crate) fn append_begun(
    model: &Model,
    prompt: &Prompt,
    tokens: &mut Vec<LlamaToken>,
    begun: &str,
    constrained: bool,
) -> Result<usize, RunnerError> {
    if begun.is_empty() {
        return Ok(0);
    }
    let before = tokens.len();
    let tail = text_tokens(model, begun, constrained);
    if spelled(model, &tail, constrained) == begun.as_bytes() {
        tokens.extend(tail);
    } else if let (Some(text), false) = (whole_text(model, prompt)?, constrained) {
        // Some vocabularies put a blank before every text: then both are one.
        *tokens = with_beginning(model, text_tokens(model, &(text + begun), true));
    } else {
        return Err(bad_request("This model cannot go on with the answer that was begun."));
    }
    if tokens.len() >= model.context as usize {
        return Err(overflow(tokens.len(), model.context));
    }
    Ok(tokens.len().saturating_sub(before))
}

fn spelled(model: &Model, tokens: &[LlamaToken], control: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &token in tokens {
        model.append_piece(token, control, &mut bytes);
    }
    bytes
}

/// A prompt as text, where it is one.
fn whole_text(model: &Model, prompt: &Prompt) -> Result<Option<String>, RunnerError> {
    match prompt {
        Prompt::Chat { messages, tools } => chat_text(model, messages, tools).map(Some),
        Prompt::Text(TextInput::Text { text }) => Ok(Some(text.clone())),
        Prompt::Text(TextInput::Tokens { .. }) | Prompt::Infill { .. } => Ok(None),
    }
}

/// The tokens of a text to be embedded, with the beginning and end the model was trained with.
pub(crate) fn embedding_tokens(
    model: &Model,
    input: &TextInput,
) -> Result<Vec<LlamaToken>, RunnerError> {
    let tokens = match input {
        TextInput::Text { text } => model.llama.vocab().tokenize(text.as_bytes(), true, false),
        TextInput::Tokens { tokens } => given_tokens(model, tokens)?,
    };
    if tokens.is_empty() {
        return Err(bad_request("An input to be embedded is empty."));
    }
    if tokens.len() > model.context as usize {
        return Err(overflow(tokens.len(), model.context));
    }
    Ok(tokens)
}

fn chat_text(
    model: &Model,
    messages: &[serde_json::Value],
    tools: &[serde_json::Value],
) -> Result<String, RunnerError> {
    let Some(template) = &model.template else {
        return Err(bad_request(
            "This model has no chat template, so it cannot chat. Use /v1/completions with the \
             whole prompt instead.",
        ));
    };
    let template = template.as_ref().map_err(|why| {
        bad_request(format!(
            "The chat template of this model cannot be read: {why}. Use /v1/completions with the \
             whole prompt instead."
        ))
    })?;
    template.render(messages, tools).map_err(|why| {
        bad_request(format!("The chat template of this model refused the messages: {why}."))
    })
}

fn text_tokens(model: &Model, text: &str, control: bool) -> Vec<LlamaToken> {
    model.llama.vocab().tokenize(text.as_bytes(), false, control)
}

/// Puts the token for the beginning in front, if the model wants one and the text (a template
/// often writes it) does not begin with it already.
fn with_beginning(model: &Model, mut tokens: Vec<LlamaToken>) -> Vec<LlamaToken> {
    let vocab = model.llama.vocab();
    let beginning = vocab.bos();
    let wanted = vocab.should_add_bos() && !model.bos.is_empty();
    if wanted && tokens.first() != Some(&beginning) {
        tokens.insert(0, beginning);
    }
    tokens
}

fn given_tokens(model: &Model, ids: &[i32]) -> Result<Vec<LlamaToken>, RunnerError> {
    let size = model.llama.n_vocab();
    if let Some(unknown) = ids.iter().find(|&&id| !(0..size).contains(&id)) {
        let last = size - 1;
        return Err(bad_request(format!(
            "The prompt has token {unknown}, but this model's tokens are 0 to {last}."
        )));
    }
    Ok(ids.iter().map(|&id| LlamaToken(id)).collect())
}

/// Prefix, suffix, then the place to fill in: the order code models are trained with.
fn infill_tokens(
    model: &Model,
    prefix: &str,
    suffix: &str,
) -> Result<Vec<LlamaToken>, RunnerError> {
    let vocab = model.llama.vocab();
    let marks = [vocab.fim_pre(), vocab.fim_suf(), vocab.fim_mid()];
    let [before, after, middle] = marks;
    if marks.iter().any(|mark| mark.0 < 0) {
        return Err(bad_request(
            "This model was not made to fill in the middle of a text: it has no tokens for that. \
             Leave out the suffix, or choose a code model.",
        ));
    }
    let mut tokens = vec![before];
    tokens.extend(text_tokens(model, prefix, false));
    tokens.push(after);
    tokens.extend(text_tokens(model, suffix, false));
    tokens.push(middle);
    Ok(with_beginning(model, tokens))
}
