//! The errors a request can end with, as the protocol knows them.

use agent_api::runner::{RunnerError, RunnerErrorKind};

pub(crate) fn bad_request(message: impl Into<String>) -> RunnerError {
    RunnerError { kind: RunnerErrorKind::BadRequest, message: message.into() }
}

pub(crate) fn engine(message: impl Into<String>) -> RunnerError {
    RunnerError { kind: RunnerErrorKind::Engine, message: message.into() }
}

pub(crate) fn no_model(message: impl Into<String>) -> RunnerError {
    RunnerError { kind: RunnerErrorKind::NoModel, message: message.into() }
}

pub(crate) fn busy(waiting: usize) -> RunnerError {
    RunnerError {
        kind: RunnerErrorKind::Busy,
        message: format!("{waiting} requests already wait for this model. Try again in a moment."),
    }
}

pub(crate) fn overflow(tokens: usize, context: u32) -> RunnerError {
    RunnerError {
        kind: RunnerErrorKind::ContextOverflow,
        message: format!(
            "The prompt has {tokens} tokens, but the context holds {context} and the answer needs \
             at least one of them. Shorten the prompt, or load the model with a larger context."
        ),
    }
}
