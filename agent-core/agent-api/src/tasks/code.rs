//! Input and output of `code`.

use super::{Deserialize, Serialize, inference::one};

/// The version of [`CodeInput`].
pub const CODE_VERSION: u32 = 1;

/// What is to be written, and the tests it has to pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CodeInput {
    #[serde(default = "one")]
    pub version: u32,
    /// `model` or `model@node`; empty: the active model.
    #[serde(default)]
    pub model: String,
    pub language: Language,
    /// What the program has to do, at most 32 KiB.
    pub prompt: String,
    /// A program in the same language that imports `solution` (Python: `from solution import …`,
    /// JavaScript: `require("./solution.js")`) and ends with a non-zero status when it is wrong. At
    /// most 64 KiB.
    pub tests: String,
    /// Attempts of the model, 1 to 10; absent: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_iterations: Option<u32>,
    /// Seconds that one run of the tests may take, 1 to 120; absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_s: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Language {
    Python,
    Javascript,
}

/// Output of `code`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CodeOutput {
    /// The last program.
    pub code: String,
    /// Its tests passed.
    pub passed: bool,
    pub iterations: Vec<CodeIteration>,
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
}

/// One round: what the model wrote, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CodeIteration {
    pub code: String,
    /// Status of the tests; `None`: they were stopped.
    pub status: Option<i32>,
    /// At most the last 16 KiB each.
    pub stdout: String,
    pub stderr: String,
    /// Why they were stopped or could not be run.
    pub problem: Option<String>,
    pub run_ms: u64,
}
