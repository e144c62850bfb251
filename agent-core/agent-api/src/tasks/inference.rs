//! Inputs and outputs of `chat`, `completion` and `embedding`. `version` is 1; a higher one is
//! refused by nodes that do not know it.

use super::{Deserialize, Serialize, Value};
use crate::runner::FinishReason;

/// The version of the inputs in this file.
pub const INFERENCE_VERSION: u32 = 1;

/// How text is generated. What is absent is the model's own choice, else the runner's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct GenerateOptions {
    /// 1 or more; absent: until the model stops or the context is full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// 0 to 2; 0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// At most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// The answer is JSON that this JSON schema accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<Value>,
}

/// Input of `chat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChatInput {
    #[serde(default = "one")]
    pub version: u32,
    /// `model` or `model@node`; empty: the active model of this node.
    #[serde(default)]
    pub model: String,
    /// OpenAI-shaped: `{"role", "content"}`.
    pub messages: Vec<Value>,
    #[serde(flatten)]
    pub options: GenerateOptions,
}

/// Input of `completion`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CompletionInput {
    #[serde(default = "one")]
    pub version: u32,
    #[serde(default)]
    pub model: String,
    pub prompt: String,
    #[serde(flatten)]
    pub options: GenerateOptions,
}

/// Output of `chat` and `completion`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TextOutput {
    pub text: String,
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub finish: FinishReason,
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
}

/// Input of `embedding`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EmbeddingInput {
    #[serde(default = "one")]
    pub version: u32,
    #[serde(default)]
    pub model: String,
    /// 1 to 2,048 texts.
    pub input: Vec<String>,
}

/// Output of `embedding`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EmbeddingOutput {
    /// One per text, in their order.
    pub vectors: Vec<Vec<f32>>,
    pub prompt_tokens: u32,
}

pub(super) fn one() -> u32 {
    1
}
