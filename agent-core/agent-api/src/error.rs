//! The one error shape of the product's own API. The OpenAI paths have their own (see `openai`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, in a form that a program can branch on and a person can act on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ApiError {
    pub code: ErrorCode,
    /// A sentence: what happened, why, and what to do.
    pub message: String,
    /// More for the curious; shown behind a disclosure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// A variant exists only where a consumer branches on it or where HTTP has a status for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request cannot be understood or breaks a limit.
    BadRequest,
    /// 401: the token is missing or wrong.
    Unauthorized,
    /// 403: the `Host` or `Origin` of the request is not ours.
    Forbidden,
    /// 404: no such path, model or thing.
    NotFound,
    /// 409: it clashes with what is there.
    Conflict,
    /// 413: the body is larger than the limit.
    TooLarge,
    /// 429: the queue is full; try again later.
    Busy,
    /// 500: a defect of ours.
    Internal,
    /// 503: the model, the runner or the node is not available now; the message says when.
    Unavailable,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Busy => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}
